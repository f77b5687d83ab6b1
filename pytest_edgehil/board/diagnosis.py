"""Why did the board break? The link only says that it is gone; the console and the power switch may say why.

A model is blamed only on a healthy board: when its process died, the board is asked whether it is still there.
Everything here ends in bounded time: `CONSOLE_S` for the console (`WATCHDOG_S` of a board that went silent, for its
watchdog may be about to say why), `STILL_THERE_S` for the board, one question to the power switch. What is told ends
with what to do next.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Protocol

from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import (
    BoardCrashed,
    BoardError,
    ConnectFailed,
    DeadlineExceeded,
    FirmwareRejected,
    LeaseError,
    LinkLost,
    ModelError,
    ModelTimeout,
    OutOfMemory,
    Overheated,
    PowerError,
    ProtocolError,
)

CONSOLE_S = 3.0
WATCHDOG_S = 8.0
"""A Pi's watchdog waits for 15 s at most (drivers/watchdog/bcm2835_wdt.c), and silence is noticed after 10."""
STILL_THERE_S = 5.0
POLL_S = 0.1

_HOT = re.compile(r"critical temperature reached|thermal.{0,40}shut", re.IGNORECASE)
_MEMORY = re.compile(r"out of memory|oom-kill|killed process", re.IGNORECASE)
_WATCHDOG = re.compile(r"softdog|watchdog", re.IGNORECASE)
_BOOTING = re.compile(r"^(?:RPi: BOOTLOADER|U-Boot|Booting Linux)")

_UNFIT = re.compile(r"health check|kernel panic|not bootable|cannot boot|does not boot", re.IGNORECASE)

_MAY_BE_A_CRASH = (LinkLost, DeadlineExceeded, ConnectFailed, ProtocolError)


class Console(Protocol):
    """The serial console: `board.console.Console`."""

    @property
    def position(self) -> int:
        """How much it has shown so far."""

    def crash_reason(self, since: int = 0) -> str | None:
        """The line since a position that says that the board crashed, if there is one."""

    def text(self, since: int = 0) -> str:
        """What it has shown since a position."""


class PowerSwitch(Protocol):
    """The part of `board.power.Power` that is asked here."""

    def is_on(self) -> bool | None:
        """Has the board power? None: it cannot tell."""


class Witnesses:
    """Whoever may know why a board broke.

    Args:
        board_id: for messages.
        console: or None.
        power: or None.
        clock: monotonic seconds.
        wait: sleeps so many seconds.
    """

    def __init__(
        self,
        board_id: str,
        *,
        console: Console | None,
        power: PowerSwitch | None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._board_id = board_id
        self._console = console
        self._power = power
        self._clock = clock
        self._wait = wait
        self._since = 0
        self.forget_past()

    def forget_past(self) -> None:
        """What the console has shown until now explains nothing that happens later."""
        if self._console is not None:
            self._since = self._console.position

    def console_text(self) -> str:
        """Everything the console has shown; empty without one."""
        return "" if self._console is None else self._console.text()

    def explain(self, problem: BoardError | ModelError, session: BoardSession) -> BoardError | ModelError:
        """The most exact error there is for a failure; the very same object when nobody knows better."""
        if isinstance(problem, ModelTimeout):
            # the board gave signs of life until then, and the session ended with it: nobody is left to be asked
            said = str(problem)
        elif isinstance(problem, (ModelError, OutOfMemory)):
            # Its process may have died because the whole board did.
            gone = self._gone(session)
            if gone is None or isinstance(gone, LeaseError):  # somebody else's board tells nothing about our model
                return gone or self._with_witness(problem)
            said = f"{problem}; and the board itself is gone: {gone}"
        elif isinstance(problem, _MAY_BE_A_CRASH):
            said = str(problem)
        else:
            return self._with_rejection(problem)
        reason = self._new_reason(WATCHDOG_S if _is_silence(problem) else CONSOLE_S)
        if reason is not None:
            return _told(said, reason)
        if self._is_off():
            return BoardCrashed(
                f"{said}; the board has no power: 'edgehil lab audit' says whether somebody switched it off, "
                f"'edgehil lab power {self._board_id} on' switches it on"
            )
        if isinstance(problem, (ModelError, OutOfMemory)) and not isinstance(problem, ModelTimeout):
            return BoardCrashed(said)
        return problem

    def explain_crash(self, code: str, message: str) -> str:
        """What to say of a model's process that died on a board which lives on, and was started again.

        What the console shows of it by then explains nothing that happens later.
        """
        reason = self._new_reason() if code == "child-killed" else None
        self.forget_past()
        return message if reason is None else f"{message}; the console shows: {reason}"

    def _with_witness(self, problem: BoardError | ModelError) -> BoardError | ModelError:
        """What the kernel says of a process that it ended."""
        reason = self._new_reason() if isinstance(problem, OutOfMemory) else None
        return problem if reason is None else _told(str(problem), reason)

    def _gone(self, session: BoardSession) -> BoardError | None:
        try:
            session.client.status(timeout_s=STILL_THERE_S)
        except BoardError as problem:
            return problem
        return None

    def _new_reason(self, wait_s: float = CONSOLE_S) -> str | None:
        """What the console says; its last lines may still be on their way."""
        if self._console is None:
            return None
        deadline = self._clock() + wait_s
        while True:
            reason = self._console.crash_reason(self._since)
            if reason is not None:
                return reason
            if self._clock() >= deadline:
                return None
            self._wait(POLL_S)

    def _with_rejection(self, problem: BoardError | ModelError) -> BoardError | ModelError:
        """The last line of the console that says why a firmware did not come up."""
        if self._console is None or not isinstance(problem, FirmwareRejected):
            return problem
        lines = [line for line in self._console.text(self._since).splitlines() if _UNFIT.search(line)]
        return FirmwareRejected(f"{problem}; the console shows: {lines[-1].strip()[:300]}") if lines else problem

    def _is_off(self) -> bool:
        if self._power is None:
            return False
        try:
            return self._power.is_on() is False
        except PowerError:
            return False  # it does not know; that is no evidence


def _is_silence(problem: BaseException) -> bool:
    """Did the board stop answering, rather than end the link?"""
    return isinstance(problem, DeadlineExceeded) or isinstance(problem.__cause__, DeadlineExceeded)


def _told(said: str, reason: str) -> BoardError:
    """What happened, the console's own words for it, and what to do next."""
    shown = f"{said}; the console shows: {reason}"
    if _HOT.search(reason):
        return Overheated(f"{shown}; the board has switched itself off: check its cooling, then switch it on again")
    if _MEMORY.search(reason):
        return OutOfMemory(
            f"{shown}; the model and what else runs need more memory than the board has: 'peak_rss' tells how much"
        )
    if _WATCHDOG.search(reason):
        return BoardCrashed(
            f"{shown}; nothing on the board ran any more, and its watchdog reset it: see its console log"
        )
    if _BOOTING.search(reason):
        return BoardCrashed(
            f"{shown}; the board has rebooted by itself and did not say why: a watchdog, or its power supply"
        )
    return BoardCrashed(f"{shown}; the board reboots by itself: see its console log for what came before")
