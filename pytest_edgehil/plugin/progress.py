"""Progress of a test that measures for long, from the process that runs it to the terminal.

It travels as a report with the outcome ``progress``, the way that every report of a test takes, also from an xdist
worker to its controller. Such a report is neither passed nor failed, so that counts and JUnit do not see it. A worker
sends one every few seconds at most; the controller prints one a minute on a terminal and one in five minutes elsewhere,
unless ``--edgehil-progress`` says otherwise. The record of the test keeps a few of them as steps.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_edgehil.model.sample import Sample
    from pytest_edgehil.model.verdict import Verdict
    from pytest_edgehil.plugin.attempt import Attempt

PROGRESS = "progress"
SEND_EVERY_S = 10.0
ON_A_TERMINAL_S = 60.0
ELSEWHERE_S = 300.0
STEPS = 30


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
        report = pytest.TestReport(
            nodeid=self._item.nodeid,
            location=self._item.location,
            keywords={},
            outcome=PROGRESS,  # type: ignore[arg-type]
            longrepr=None,
            when="call",
            edgehil_progress=f"{self._item.name}{board}: {text}",
        )
        self._item.ihook.pytest_runtest_logreport(report=report)


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
        self._printed: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        text: str | None = getattr(report, "edgehil_progress", None)
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if text is None or terminal is None:
            return
        default = ON_A_TERMINAL_S if sys.__stdout__ is not None and sys.__stdout__.isatty() else ELSEWHERE_S
        now, last = self._clock(), self._printed.get(report.nodeid)
        if last is not None and now - last < (default if self._every_s is None else self._every_s):
            return
        self._printed[report.nodeid] = now
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        if capture is None:
            self._write(terminal, text)
            return
        with capture.global_and_fixture_disabled():  # the test that is told of is running in this process
            self._write(terminal, text)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        return ("", "", "") if report.outcome == PROGRESS else None  # no letter, no count

    @staticmethod
    def _write(terminal: Any, text: str) -> None:
        terminal.ensure_newline()
        terminal.write_line(f"edgehil: {text}")
        terminal.flush()
