"""Replay artifacts: a recorded or hand-written trace in the place of a model.

With one, a gate's test is deterministic, and an old trace can be judged again. The on-board program plays it back
(runtime ``replay``) instead of running anything, and says so in `Conditions.replayed`; evidence made from it never
satisfies a policy that asks for hardware.

A bundle of format ``replay`` (track model, quantisation ``recorded``) whose entry is ``trace.json``:

==================  ==================================================================================
schema              1
latencies_ns        list of integers ≥ 1, at least one
gap_ns              integer ≥ 0: idle time between two inferences; default 0
period_s            number > 0: time between two sensor readings; default 1
rss_bytes           list of integers ≥ 0; empty: the sensor does not exist (likewise the next five)
temperature_c       list of numbers
throttled           list of integers: bits of ``vcgencmd get_throttled``
arm_hz              list of integers ≥ 0
npu_percent         list of numbers
power_w             list of numbers
first_token_ns      list of integers ≥ 1: from the start of a generation to its first token; empty: it generates none
token_ns            list of integers ≥ 1: every further token
token_ids           list of integers ≥ 0: what comes out, token by token; empty: 0 each time
inputs              name → {"dtype": "float32", "shape": [1, 1, 8, 8]}; empty: any feed is taken
outputs             name → nested list; its first axis is the item; every leaf is a float32
load_ns             integer ≥ 1: what a load of the model is said to take
load_rss_bytes      integer ≥ 0: RSS after the load (before the load: 0)
peak_rss_bytes      integer ≥ 0: VmHWM, whatever the readings say
crash_after_s       number ≥ 0: the model's process dies after so long; default 0: never
==================  ==================================================================================

How it is played back:

- The playback has a clock of its own that starts at 0 when the model is loaded; no real time passes. Inference *k*
  since the load (k = 0, 1, …; warm-up is not counted) takes ``latencies_ns[k mod n]``; the next one starts
  ``gap_ns`` after it ended. A demand for seconds is met on this clock, so an hour of soak takes moments.
- At a given rate the schedule says when an inference is due and ``gap_ns`` plays no part: it starts then, or when the
  one before has ended, whichever is later. The queue is a simulated one, so a trace gives the same responses each time.
- Generation *g* since the load takes ``first_token_ns[g mod n]`` to its first token; further token *t* since the load
  (counted over all generations) takes ``token_ns[t mod m]``; the token that comes out is ``token_ids[c mod k]``, with
  *c* counting every token since the load. The first of the ids to stop at ends the generation and is part of it.
- Reading *j* since the load (j = 0, 1, …) stands at ``at_s = j · period_s`` of that clock and takes
  ``list[j mod len(list)]`` of each sensor.
- Item *i* of a request (row i of its feeds) gets ``outputs[name][i mod m]`` as ``outputs[name][i : i + 1]``;
  ``run`` gets the items 0 … batch-1.
- A fresh process starts at k = 0, j = 0, clock 0.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_edgehil.artifacts.bundle import file_bytes, pack
from pytest_edgehil.artifacts.manifest import SCHEMA
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import Artifact, Budgets, Manifest, Provenance, Target, Track

TRACE_NAME = "trace.json"
RUNTIME = "replay"
QUANTISATION = "recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShape:
    """What one input of a trace takes: numpy dtype name and shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What is played back; the fields are described in this module's docstring."""

    latencies_ns: tuple[int, ...]
    load_ns: int = 1_000_000
    load_rss_bytes: int = 0
    peak_rss_bytes: int = 0
    crash_after_s: float = 0.0
    gap_ns: int = 0
    period_s: float = 1.0
    rss_bytes: tuple[int, ...] = ()
    temperature_c: tuple[float, ...] = ()
    throttled: tuple[int, ...] = ()
    arm_hz: tuple[int, ...] = ()
    npu_percent: tuple[float, ...] = ()
    power_w: tuple[float, ...] = ()
    first_token_ns: tuple[int, ...] = ()
    token_ns: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    inputs: Mapping[str, TensorShape] = field(default_factory=dict)
    outputs: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def build_replay(
    trace: Trace,
    *,
    name: str,
    version: str,
    out_dir: Path,
    target: Target | None = None,
    budgets: Budgets | None = None,
) -> Artifact:
    """Pack a trace into a bundle.

    Args:
        trace: what is played back.
        name: the artifact's name.
        version: the artifact's version.
        out_dir: where the bundle goes.
        target: default: any board class, runtime ``replay``.
        budgets: default: none.

    Raises:
        CorruptArtifact: the trace or the manifest breaks a rule.
    """
    data = trace_bytes(trace)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    manifest = Manifest(
        schema=SCHEMA,
        name=name,
        version=version,
        track=Track.MODEL,
        format="replay",
        quantisation=QUANTISATION,
        target=target or Target(name="any", board_classes=("*",), runtime=RUNTIME),
        files=(),
        entry=TRACE_NAME,
        provides={"model.name": name, "model.version": version},
        depends={},
        budgets=budgets or Budgets(),
        # a trace is its own source and its own recipe: nothing else shapes the bytes
        provenance=Provenance(source=digest, recipe=digest),
    )
    return pack(manifest, {TRACE_NAME: data}, out_dir)


def trace_bytes(trace: Trace) -> bytes:
    """Write a trace as JSON: sorted keys, no spaces; parsed again to check it.

    Raises:
        CorruptArtifact: the trace breaks a rule.
    """
    document = {
        "schema": 1,
        "latencies_ns": list(trace.latencies_ns),
        "gap_ns": trace.gap_ns,
        "period_s": trace.period_s,
        "rss_bytes": list(trace.rss_bytes),
        "temperature_c": list(trace.temperature_c),
        "throttled": list(trace.throttled),
        "arm_hz": list(trace.arm_hz),
        "npu_percent": list(trace.npu_percent),
        "power_w": list(trace.power_w),
        "first_token_ns": list(trace.first_token_ns),
        "token_ns": list(trace.token_ns),
        "token_ids": list(trace.token_ids),
        "inputs": {name: {"dtype": one.dtype, "shape": list(one.shape)} for name, one in trace.inputs.items()},
        "outputs": {name: list(values) for name, values in trace.outputs.items()},
        "load_ns": trace.load_ns,
        "load_rss_bytes": trace.load_rss_bytes,
        "peak_rss_bytes": trace.peak_rss_bytes,
    }
    if trace.crash_after_s:
        document["crash_after_s"] = trace.crash_after_s
    try:
        data = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as problem:
        raise CorruptArtifact(f"{TRACE_NAME}: cannot be written: {problem}") from problem
    parse_trace(data)
    return data


def read_trace(artifact: Artifact) -> Trace:
    """The trace in a replay artifact.

    Raises:
        CorruptArtifact: it is no replay artifact, or its trace breaks a rule.
    """
    if artifact.manifest.format != "replay" or artifact.manifest.entry is None:
        raise CorruptArtifact(f"{artifact.path}: is of format {artifact.manifest.format}, expected replay")
    return parse_trace(file_bytes(artifact, artifact.manifest.entry), where=f"{TRACE_NAME} of {artifact.path.name}")


def parse_trace(data: bytes, *, where: str = TRACE_NAME) -> Trace:
    """Read and check a trace.

    Raises:
        CorruptArtifact: one line with the first thing that is off.
    """
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise CorruptArtifact(f"{where}: is no JSON: {problem}") from problem
    if not isinstance(document, dict) or document.get("schema") != 1:
        raise CorruptArtifact(f'{where}: expected an object with "schema": 1')
    unknown = sorted(set(document) - _FIELDS - {"schema"})
    if unknown:
        raise CorruptArtifact(f"{where}: {unknown[0]!r} is an unknown field; known are {', '.join(sorted(_FIELDS))}")
    reader = _Reader(document, where)
    latencies = reader.integers("latencies_ns", at_least=1)
    if not latencies:
        raise CorruptArtifact(f"{where}: latencies_ns: is empty, expected at least one")
    period_s = reader.number("period_s", 1.0)
    if period_s <= 0:
        raise CorruptArtifact(f"{where}: period_s: {period_s}, expected a positive number")
    crash_after_s = reader.number("crash_after_s", 0.0)
    if crash_after_s < 0:
        raise CorruptArtifact(f"{where}: crash_after_s: {crash_after_s}, expected no negative number")
    return Trace(
        latencies_ns=latencies,
        crash_after_s=crash_after_s,
        gap_ns=reader.integer("gap_ns", 0, at_least=0),
        period_s=period_s,
        rss_bytes=reader.integers("rss_bytes", at_least=0),
        temperature_c=reader.numbers("temperature_c"),
        throttled=reader.integers("throttled", at_least=0),
        arm_hz=reader.integers("arm_hz", at_least=0),
        npu_percent=reader.numbers("npu_percent"),
        power_w=reader.numbers("power_w"),
        first_token_ns=reader.integers("first_token_ns", at_least=1),
        token_ns=reader.integers("token_ns", at_least=1),
        token_ids=reader.integers("token_ids", at_least=0),
        inputs=reader.inputs(),
        outputs=reader.outputs(),
        load_ns=reader.integer("load_ns", 1_000_000, at_least=1),
        load_rss_bytes=reader.integer("load_rss_bytes", 0, at_least=0),
        peak_rss_bytes=reader.integer("peak_rss_bytes", 0, at_least=0),
    )


_FIELDS = frozenset(Trace.__dataclass_fields__)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number")


class _Reader:
    """Takes checked values out of the parsed JSON."""

    def __init__(self, document: Mapping[str, Any], where: str) -> None:
        self._document = document
        self._where = where

    def _off(self, name: str, seen: object, expected: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self._where}: {name}: {seen!a:.60}, expected {expected}")

    def integer(self, name: str, default: int, *, at_least: int) -> int:
        value = self._document.get(name, default)
        if type(value) is not int or not at_least <= value < 2**63:
            raise self._off(name, value, f"an integer ≥ {at_least}")
        return value

    def number(self, name: str, default: float) -> float:
        value = self._document.get(name, default)
        if type(value) not in {int, float} or not math.isfinite(value):
            raise self._off(name, value, "a finite number")
        return float(value)

    def _list(self, name: str) -> list[Any]:
        value = self._document.get(name, [])
        if not isinstance(value, list):
            raise self._off(name, value, "a list")
        return value

    def integers(self, name: str, *, at_least: int) -> tuple[int, ...]:
        values = self._list(name)
        for at, value in enumerate(values):
            if type(value) is not int or not at_least <= value < 2**63:
                raise self._off(f"{name}[{at}]", value, f"an integer ≥ {at_least}")
        return tuple(values)

    def numbers(self, name: str) -> tuple[float, ...]:
        values = self._list(name)
        for at, value in enumerate(values):
            if type(value) not in {int, float} or not math.isfinite(value):
                raise self._off(f"{name}[{at}]", value, "a finite number")
        return tuple(float(value) for value in values)

    def inputs(self) -> dict[str, TensorShape]:
        value = self._document.get("inputs", {})
        if not isinstance(value, dict):
            raise self._off("inputs", value, "an object")
        shapes = {}
        for name, one in value.items():
            shape = one.get("shape") if isinstance(one, dict) else None
            if (
                not isinstance(one, dict)
                or set(one) != {"dtype", "shape"}
                or not isinstance(one["dtype"], str)
                or not isinstance(shape, list)
                or not all(type(side) is int and side >= 0 for side in shape)
            ):
                raise self._off(f"inputs.{name}", one, 'something like {"dtype": "float32", "shape": [1, 8]}')
            shapes[name] = TensorShape(dtype=one["dtype"], shape=tuple(shape))
        return shapes

    def outputs(self) -> dict[str, list[Any]]:
        value = self._document.get("outputs", {})
        if not isinstance(value, dict):
            raise self._off("outputs", value, "an object")
        for name, items in value.items():
            if not isinstance(items, list) or not items:
                raise self._off(f"outputs.{name}", items, "a list with at least one item")
            shapes = {_shape(item) for item in items}
            if len(shapes) != 1 or None in shapes:
                raise self._off(f"outputs.{name}", items, "items of one shape, made of finite numbers")
        return value


def _shape(value: object) -> tuple[int, ...] | None:
    """Shape of a nested list of numbers; None if it is ragged or holds something else."""
    if type(value) in {int, float}:
        return () if math.isfinite(value) else None  # type: ignore[arg-type]
    if not isinstance(value, list):
        return None
    inner = {_shape(one) for one in value}
    if len(inner) > 1 or None in inner:
        return None
    return (len(value), *(inner.pop() or ())) if inner else (0,)
