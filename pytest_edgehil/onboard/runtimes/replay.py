"""Plays back a recording instead of running a model.

The format and the rules of playing it back are those of ``artifacts/replay.py`` on the host: a clock of its own that
starts at 0 with the load, inference k takes ``latencies_ns[k mod n]``, reading j stands at ``j · period_s``. Nothing
here waits, so an hour of soak takes moments, and the same demands always give the same sample. A recording of a model
that crashes takes this process down after so many seconds of its clock.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from pathlib import Path
from typing import Any

from ..frames import Message
from ..problem import Problem
from ..tensors import Tensor
from . import Block, Generated

VERSION = "1"
CRASHED = 70
_SENSORS = ("rss_bytes", "temperature_c", "throttled", "arm_hz", "npu_percent", "power_w")


class ReplaySession:
    """A recording that pretends to be a model."""

    version = VERSION
    replayed = True

    def __init__(self, entry: Path) -> None:
        try:
            trace = json.loads(entry.read_bytes())
            self._latencies = [int(one) for one in trace["latencies_ns"]]
            self._gap_ns = int(trace.get("gap_ns", 0))
            self._period_ns = round(float(trace.get("period_s", 1.0)) * 1e9)
            self._crash_ns = round(float(trace.get("crash_after_s", 0.0)) * 1e9)
            self._sensors = {name: list(trace.get(name, [])) for name in _SENSORS}
            self.inputs = [
                {"name": name, "dtype": one["dtype"], "shape": list(one["shape"])}
                for name, one in trace.get("inputs", {}).items()
            ]
            self._outputs = {name: _packed(items) for name, items in trace.get("outputs", {}).items()}
            self._first_token_ns = [int(one) for one in trace.get("first_token_ns", [])]
            self._token_ns = [int(one) for one in trace.get("token_ns", [])] or [1]
            self._token_ids = [int(one) for one in trace.get("token_ids", [])] or [0]
            self._load = {"load_ns": int(trace["load_ns"]), "rss_bytes": int(trace["load_rss_bytes"])}
            self._peak = int(trace["peak_rss_bytes"])
        except (OSError, ValueError, LookupError, TypeError, struct.error, RecursionError) as exc:
            raise Problem("model-failed", f"the recording {entry.name} cannot be played: {exc!r}") from exc
        if trace["schema"] != 1:
            raise Problem("model-failed", f"the recording has schema {trace['schema']!r}, expected 1")
        if not self._latencies or min(self._latencies) < 1 or self._gap_ns < 0 or self._period_ns < 1:
            raise Problem("model-failed", "the recording has no latencies, or a time in it is not positive")
        self.outputs = [
            {"name": name, "dtype": "float32", "shape": [1, *shape]} for name, (shape, _) in self._outputs.items()
        ]
        self._clock_ns = 0
        self._inferences = 0
        self._generations = self._tokens = self._later_tokens = 0
        self._read = 0
        self._told = 0
        self._items = 0

    def stage(self, tensors: list[Tensor], *, append: bool) -> int:
        """See `Session.stage`; only their number counts."""
        count = tensors[0].shape[0] if tensors else 0
        self._items = self._items + count if append else count
        return self._items

    def block(self, *, first: int, limit: int, until_ns: int, keep: int) -> Block:
        """See `Session.block`."""
        block = Block(starts_ns=[], latencies_ns=[])
        if self._crash_ns:
            self._crash_when_due()
            until_ns = min(until_ns, self._crash_ns)
        while len(block.starts_ns) < limit and (not block.starts_ns or self._clock_ns < until_ns):
            began, latency = self._step()
            if len(block.outputs) < keep:
                block.outputs.append(self._answer((first + len(block.starts_ns)) % self._items, 1))
            block.starts_ns.append(began)
            block.latencies_ns.append(latency)
        return block

    def run(self, tensors: list[Tensor]) -> tuple[list[Tensor], int, int]:
        """See `Session.run`: the items 0 … batch-1."""
        batch = tensors[0].shape[1] if tensors and len(tensors[0].shape) > 1 else 1
        began, latency = self._step()
        return self._answer(0, batch), began, latency

    def infer(self, number: int) -> tuple[int, int]:  # noqa: ARG002 - a recording's latencies belong to no item
        """See `Session.infer`. Only the closed loop idles for ``gap_ns``; here the schedule says when."""
        return self._step(gap_ns=0)

    def generate(self, prompt: Tensor, *, most: int, stop: frozenset[int]) -> Generated:  # noqa: ARG002 - as `infer`
        """See `Session.generate`."""
        if not self._first_token_ns:
            raise Problem("model-failed", "the recording generates no tokens: it has no first_token_ns")
        began, tokens = self._clock_ns, list[int]()
        first = self._first_token_ns[self._generations % len(self._first_token_ns)]
        self._generations += 1
        self._clock_ns += first
        while True:
            tokens.append(self._token_ids[self._tokens % len(self._token_ids)])
            self._tokens += 1
            if len(tokens) == most or tokens[-1] in stop:
                return Generated(tokens=tokens, start_ns=began, first_token_ns=first, total_ns=self._clock_ns - began)
            self._clock_ns += self._token_ns[self._later_tokens % len(self._token_ns)]
            self._later_tokens += 1

    def complaint(self, items: Path) -> str | None:  # noqa: ARG002 - a recording answers as it was recorded
        """See `Session.complaint`."""
        return None

    def wait_until(self, moment_ns: int) -> None:
        """See `Session.wait_until`: the recording's clock moves on by itself."""
        self._clock_ns = max(self._clock_ns, moment_ns)

    def now_ns(self) -> int:
        """See `Session.now_ns`: the recording's clock."""
        return self._clock_ns

    def readings(self) -> list[Message]:
        """See `Session.readings`."""
        rows: list[Message] = []
        while self._read * self._period_ns <= self._clock_ns:
            rows.append({"at_s": self._read * self._period_ns / 1e9, **self._row(self._read)})
            self._read += 1
        return rows

    def facts(self) -> Message:
        """See `Session.facts`."""
        before, self._told = self._told, max(0, self._read - 1)
        return {
            "load": self._load,
            "peak_rss_bytes": self._peak,
            "throttled_before": self._row(before)["throttled"],
            "throttled": self._row(self._told)["throttled"],
        }

    def _crash_when_due(self) -> None:
        # between two blocks: what was played before has left this process
        if self._clock_ns >= self._crash_ns:
            print("the recording says that the model crashes here", file=sys.stderr, flush=True)
            os._exit(CRASHED)

    def _row(self, index: int) -> dict[str, Any]:
        return {name: (values[index % len(values)] if values else None) for name, values in self._sensors.items()}

    def _step(self, *, gap_ns: int | None = None) -> tuple[int, int]:
        latency = self._latencies[self._inferences % len(self._latencies)]
        began = self._clock_ns
        self._inferences += 1
        self._clock_ns += latency + (self._gap_ns if gap_ns is None else gap_ns)
        return began, latency

    def _answer(self, first: int, count: int) -> list[Tensor]:
        answer = []
        for name, (shape, items) in self._outputs.items():
            data = b"".join(items[(first + index) % len(items)] for index in range(count))
            answer.append(Tensor(name=name, dtype="float32", shape=(count, *shape), data=memoryview(data)))
        return answer


def _packed(items: list[Any]) -> tuple[tuple[int, ...], list[bytes]]:
    """Shape of one item, and every item as float32 bytes."""
    shape: list[int] = []
    probe: Any = items[0]
    while isinstance(probe, list):
        shape.append(len(probe))
        probe = probe[0] if probe else None
    packed = []
    for item in items:
        leaves = list(_leaves(item))
        if len(leaves) != math.prod(shape):
            raise ValueError("outputs of different shapes")
        packed.append(struct.pack(f"<{len(leaves)}f", *leaves))
    return tuple(shape), packed


def _leaves(value: Any) -> list[float]:
    return [leaf for one in value for leaf in _leaves(one)] if isinstance(value, list) else [float(value)]
