"""How far sending is: one line that is drawn anew in a terminal, plain lines at a bounded rate elsewhere.

A log that is read later needs few lines: the first after `QUIET_S`, so that a short push says nothing at all, then one
every `EVERY_S`, and the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TextIO

from pytest_edgehil.model.quantity import format_duration, format_size

_PHASES = {"write": ", writing its slot", "verify": ", reading its slot back"}

QUIET_S = 2.0
EVERY_S = 10.0
REDRAW_S = 0.1


class Sending(Protocol):
    """What is told: `board.flash.FlashProgress`."""

    @property
    def label(self) -> str:
        """Of the artifact."""

    @property
    def phase(self) -> str:
        """``send``, ``write`` (to a firmware's slot) or ``verify`` (what was written there)."""

    @property
    def sent_bytes(self) -> int:
        """So far."""

    @property
    def total_bytes(self) -> int:
        """Of all."""

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Of the link."""


def line(sending: Sending) -> str:
    """Share, bytes, rate and what is left, in one line."""
    left = sending.total_bytes - sending.sent_bytes
    told = [
        f"{sending.label}{_PHASES.get(sending.phase, '')}: {100 * sending.sent_bytes // max(1, sending.total_bytes)} %",
        f"{format_size(sending.sent_bytes)} of {format_size(sending.total_bytes)}",
    ]
    if sending.rate_bytes_per_s:
        told.append(f"{format_size(sending.rate_bytes_per_s)}/s")
        if left:
            told.append(f"{format_duration(1e9 * left / sending.rate_bytes_per_s, digits=2)} left")
    return ", ".join(told)


class Teller:
    """Tells how far sending is; call it with each `Sending`.

    Args:
        out: where to.
        terminal: may a line be drawn over?
        clock: monotonic seconds.
    """

    def __init__(self, out: TextIO, *, terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._terminal = terminal
        self._clock = clock
        self._of = ("", "")
        self._next_s = 0.0
        self._told = False
        self._width = 0

    def __call__(self, sending: Sending) -> None:
        """Tell it, if it is time to."""
        now, done = self._clock(), sending.sent_bytes >= sending.total_bytes
        if (sending.label, sending.phase) != self._of:
            self._of, self._told = (sending.label, sending.phase), False
            self._next_s = now + (REDRAW_S if self._terminal else QUIET_S)
        if done and self._told:
            self._say(line(sending), last=True)
            self._told = False
            self._next_s = float("inf")
        elif now >= self._next_s and not done:
            self._say(line(sending), last=False)
            self._told = True
            self._next_s = now + (REDRAW_S if self._terminal else EVERY_S)

    def _say(self, text: str, *, last: bool) -> None:
        if self._terminal:
            self._out.write(f"\r{text.ljust(self._width)}" + ("\n" if last else ""))
            self._width = 0 if last else len(text)
        else:
            self._out.write(f"  {text}\n")
        self._out.flush()
