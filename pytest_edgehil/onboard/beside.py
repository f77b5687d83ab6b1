"""A second model beside the one under test: the baseline that it is compared with, block by block.

Both are loaded at once, each in a process of its own, so that blocks can take turns without a load in between. Only one
of them runs at a time: whoever is not measured is stopped. What the sampler reads (RSS, swap) is of the model under
test alone; the baseline's peak comes with its own answers.

Requests about the baseline say ``"as": "baseline"``; there are load, stage, measure and unload.
"""

from __future__ import annotations

from pathlib import Path

from .frames import Blob, Message
from .model_process import ModelProcess, Relay
from .problem import Problem

ROLE = "baseline"
LIVE_BITS = 0xF
"""Of the throttled bits: what is so now, not what has been since boot."""


class Beside:
    """The baseline's process, if there is one.

    Args:
        program: path of the zipapp.
    """

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: ModelProcess | None = None
        self.loaded: Message = {}

    @property
    def process(self) -> ModelProcess:
        """The process.

        Raises:
            Problem: ``no-model``.
        """
        if self._process is None:
            raise Problem("no-model", "no baseline is loaded; load one first")
        return self._process

    def load(self, prepared: Message) -> Message:
        """Load a baseline, instead of the one that was there."""
        self.forget()
        self._process = ModelProcess(self._program)
        try:
            answer = self._process.load(prepared)
        except Problem as problem:
            self.forget()
            raise _named(problem) from problem
        self.loaded = prepared
        return answer

    def request(self, message: Message, blob: Blob = b"", *, relay: Relay | None = None) -> tuple[Message, Blob]:
        """Ask it, as `ModelProcess.request`; a complaint says that it is the baseline's."""
        try:
            return self.process.request(message, blob, relay=relay)
        except Problem as problem:
            raise _named(problem) from problem

    def pause(self) -> None:
        """Stop it until it is asked something."""
        if self._process is not None:
            self._process.pause()

    def cancel(self, request: object) -> None:
        """End a measurement early; harmless at any time."""
        process = self._process
        if process is not None:
            process.cancel(request)

    def forget(self) -> None:
        """End it; harmless when there is none."""
        process, self._process = self._process, None
        self.loaded = {}
        if process is not None:
            process.kill()


class WithoutReadings:
    """Hands frames on, but not a recording's rows of the sampler: they would pass for those of the model under test.

    Args:
        relay: who gets the other frames.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.live = 0  # throttled bits that were set at any time

    def __call__(self, message: Message, blob: Blob) -> None:
        """One frame."""
        if message.get("type") != "readings":
            self._relay(message, blob)
            return
        for row in message["rows"]:
            self.live |= (row["throttled"] or 0) & LIVE_BITS


def _named(problem: Problem) -> Problem:
    return Problem(problem.code, f"the baseline beside the model: {problem.message}")
