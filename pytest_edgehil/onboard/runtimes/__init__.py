"""Adapters to what runs a model: one module per runtime, imported only when a model asks for it.

A runtime is imported in the model's own process alone. `Session` is all that the measuring loop needs; the loop
itself is the runtime's, because a call in between would be measured along.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..frames import Message
from ..problem import Problem
from ..tensors import Tensor

NAMES = ("onnxruntime", "replay")


@dataclass(slots=True, kw_only=True)
class Block:
    """Some inferences in a row, on the clock of ``time.perf_counter_ns``.

    Args:
        starts_ns: when each began.
        latencies_ns: how long each took.
        outputs: one list of tensors per inference, for the first ones that were to be kept.
    """

    starts_ns: list[int]
    latencies_ns: list[int]
    outputs: list[list[Tensor]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Generated:
    """Tokens that were produced one after the other.

    Args:
        tokens: the new ones, at least one.
        start_ns: when it began.
        first_token_ns: from there to the first new token.
        total_ns: from there to the last.
    """

    tokens: list[int]
    start_ns: int
    first_token_ns: int
    total_ns: int


class Session(Protocol):
    """A loaded model."""

    inputs: list[Message]
    outputs: list[Message]
    version: str
    replayed: bool

    def stage(self, tensors: list[Tensor], *, append: bool) -> int:
        """Keep items to be fed (first axis: item); returns how many there are now."""

    def block(self, *, first: int, limit: int, until_ns: int, keep: int) -> Block:
        """Time up to `limit` inferences, cycling over the staged items from number `first`.

        Args:
            first: index of the first item, modulo their number.
            limit: at most so many, at least one.
            until_ns: begin none after this moment of `now_ns`.
            keep: keep the outputs of so many, the first ones.
        """

    def run(self, tensors: list[Tensor]) -> tuple[list[Tensor], int, int]:
        """One inference on feeds as they are: outputs, start and latency in ns."""

    def infer(self, number: int) -> tuple[int, int]:
        """Time one inference on the staged item `number`, modulo their number: start and latency in ns."""

    def generate(self, prompt: Tensor, *, most: int, stop: frozenset[int]) -> Generated:
        """Decode greedily: each new token is the likeliest after all before it.

        Args:
            prompt: int64, shape (1, 1, t): one prompt of t tokens.
            most: end after so many new tokens.
            stop: end after one of these, which counts.

        Raises:
            Problem: ``model-failed``: it is no language model.
        """

    def complaint(self, items: Path) -> str | None:
        """What is wrong with the answers to a health check's items; None: nothing.

        Args:
            items: an ``.npz`` with one array per input, first axis = item, and perhaps ``expected_class``.
        """

    def wait_until(self, moment_ns: int) -> None:
        """Return at this moment of `now_ns`, or at once when it has passed."""

    def now_ns(self) -> int:
        """The clock that this session's inferences are timed with."""

    def readings(self) -> list[Message]:
        """Sensor rows of a recording since the last call; empty when the board's real sensors count."""

    def facts(self) -> Message:
        """What a recording says instead of the board: ``load``, ``peak_rss_bytes``, ``throttled``; else empty."""


def open_session(runtime: str, entry: Path, *, threads: int) -> Session:
    """Load a model.

    Raises:
        Problem: ``runtime-missing``, ``model-failed``.
    """
    if runtime == "onnxruntime":
        from . import onnx

        return onnx.OnnxSession(entry, threads=threads)
    if runtime == "replay":
        from . import replay

        return replay.ReplaySession(entry)
    raise Problem("runtime-missing", f"this board knows no runtime {runtime!r}; it has {', '.join(NAMES)}")


def onnx_version() -> str:
    """Version of ONNX Runtime.

    Raises:
        Problem: ``runtime-missing``.
    """
    from . import onnx

    return str(onnx.module().__version__)


def warm_import(runtime: str) -> None:
    """Import what a runtime needs, so that memory before the load of a model does not count it.

    Raises:
        Problem: ``runtime-missing``.
    """
    if runtime == "onnxruntime":
        from . import onnx

        onnx.module()
