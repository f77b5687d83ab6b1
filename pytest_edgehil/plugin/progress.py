"""Progress of a test that measures for long, from the process that runs it to the terminal.

It travels as a report with the outcome ``progress``, the way that every report of a test takes, also from an xdist
worker to its controller. Such a report is neither passed nor failed, so that counts and JUnit do not see it. A worker
sends one every few seconds at most; the controller prints one a minute on a terminal and one in five minutes elsewhere,
unless ``--edgehil-progress`` says otherwise. The record of the test keeps a few of them as steps.

How far the sending of an artifact is, and the writing of a firmware's slot, travels in the same way: nothing for what
is short, then a line that is drawn over on a terminal, and a plain line every ten seconds elsewhere.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_edgehil.board.flash import FlashProgress
    from pytest_edgehil.model.sample import Sample
    from pytest_edgehil.model.verdict import Verdict
    from pytest_edgehil.plugin.attempt import Attempt

PROGRESS = "progress"
SEND_EVERY_S = 10.0
ON_A_TERMINAL_S = 60.0
ELSEWHERE_S = 300.0
STEPS = 30
REDRAW_S = 0.5
SENDING_EVERY_S = 10.0
_OURS = "edgehil"


class Telling:
    """In the process that runs the test: tell how far it is.

    Args:
        item: the test.
        attempt: its account.
        every_s: what ``--edgehil-progress`` says, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        item: pytest.Item,
        attempt: Attempt,
        *,
        every_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._item = item
        self._attempt = attempt
        self._every_s = SEND_EVERY_S if every_s is None else min(SEND_EVERY_S, every_s)
        self._clock = clock
        self._began = self._sent = self._kept = clock()

    def look(self, sample: Sample, verdicts: tuple[Verdict, ...]) -> None:
        """Called after every look of the gates."""
        now = self._clock()
        if now - self._sent < self._every_s or all(one.decided for one in verdicts):
            return
        from pytest_edgehil.reporting.progress import line

        self._sent = now
        text = line(sample, verdicts)
        if now - self._kept >= max(ON_A_TERMINAL_S, (now - self._began) / STEPS) or self._kept == self._began:
            self._kept = now
            self._attempt.note_progress(text)
        board = "" if self._attempt.holding is None else f" on {self._attempt.holding.id}"
        report = _report(self._item, f"{self._item.name}{board}: {text}")
        self._item.ihook.pytest_runtest_logreport(report=report)


class TellingOfSending:
    """In the process that runs the test: tell how far sending is.

    Args:
        item: the test.
        attempt: its account.
        clock: monotonic seconds.
    """

    def __init__(self, item: pytest.Item, attempt: Attempt, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._item = item
        self._attempt = attempt
        self._clock = clock
        self._of = ("", "")
        self._told = False
        self._next_s = 0.0

    def look(self, sending: FlashProgress) -> None:
        """Called often."""
        from pytest_edgehil.reporting.sending import QUIET_S, line

        now, done = self._clock(), sending.sent_bytes >= sending.total_bytes
        if (sending.label, sending.phase) != self._of:
            self._of, self._told, self._next_s = (sending.label, sending.phase), False, now + QUIET_S
        if (now < self._next_s and not (done and self._told)) or (done and not self._told):
            return
        self._told, self._next_s = not done, now + REDRAW_S
        board = "" if self._attempt.holding is None else f" on {self._attempt.holding.id}"
        report = _report(self._item, f"{self._item.name}{board}: {line(sending)}")
        report.edgehil_sending = "last" if done else "more"
        self._item.ihook.pytest_runtest_logreport(report=report)


def _report(item: pytest.Item, text: str) -> Any:
    """A report that is no outcome of the test."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome=PROGRESS,  # type: ignore[arg-type]
        longrepr=None,
        when="call",
        edgehil_progress=text,
    )


class Printing:
    """In the controller: print some of it.

    Args:
        config: pytest's.
        every_s: what ``--edgehil-progress`` says, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self, config: pytest.Config, *, every_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._every_s = every_s
        self._clock = clock
        self._printed: dict[tuple[str, bool], float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        text: str | None = getattr(report, "edgehil_progress", None)
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if text is None or terminal is None:
            return
        live = sys.__stdout__ is not None and sys.__stdout__.isatty()
        sending: str | None = getattr(report, "edgehil_sending", None)
        every_s = self._every_s
        if sending is not None:
            every_s = 0.0 if live or sending == "last" else SENDING_EVERY_S
        elif every_s is None:
            every_s = ON_A_TERMINAL_S if live else ELSEWHERE_S
        what = report.nodeid, sending is not None
        now, last = self._clock(), self._printed.get(what)
        if last is not None and now - last < every_s:
            return
        self._printed[what] = now
        write = self._draw if live and sending is not None else self._write
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            write(terminal, text, last=sending == "last")
            return
        with capture.global_and_fixture_disabled():  # the test that is told of is running in this process
            write(terminal, text, last=sending == "last")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        return ("", "", "") if report.outcome == PROGRESS else None  # no letter, no count

    @staticmethod
    def _draw(terminal: Any, text: str, *, last: bool) -> None:
        # The reporter begins a new line when something else than what it remembers is to be written; so it is told
        # that it is on a line of ours, and whoever writes next, pytest or we with another subject, leaves that line.
        if terminal.currentfspath != _OURS:
            terminal.ensure_newline()
        # a line that is too wide would go on in the next one, and could not be drawn over
        terminal.rewrite(f"edgehil: {text}"[: max(20, shutil.get_terminal_size().columns - 1)], erase=True)
        terminal.currentfspath = _OURS
        if last:
            terminal.ensure_newline()
        terminal.flush()

    @staticmethod
    def _write(terminal: Any, text: str, *, last: bool) -> None:
        del last
        terminal.ensure_newline()
        terminal.write_line(f"edgehil: {text}")
        terminal.flush()
