"""The controller's account of a run: what every test came to, evidence, reports, and what did not run.

Under xdist this is the main process, which gets the records with the workers' reports; without xdist it is the
process that runs the tests. Only the controller writes run-wide files and only it holds the lab's key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import ConfigError, EdgehilError
from pytest_edgehil.plugin import allure, plots
from pytest_edgehil.plugin.progress import PROGRESS
from pytest_edgehil.plugin.rerun import NOT_THERE
from pytest_edgehil.plugin.run import Run
from pytest_edgehil.plugin.stash import BUDGET

if TYPE_CHECKING:
    from pytest_edgehil.gates.multiplicity import ErrorBudget
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.model.record import TestRecord
    from pytest_edgehil.plugin.options import Options

_NO_RESULT = frozenset({PROGRESS, "rerun"})
"""Outcomes of reports after which a test has no result yet; the second one is pytest-rerunfailures'."""


class Controller:
    """See above.

    Args:
        options: what the command line says.
        run: id, start and directory of this run.
        lab: as it was when the run began; None if none was given.
        config: pytest's.
    """

    def __init__(self, options: Options, run: Run, lab: Lab | None, *, config: pytest.Config) -> None:
        self.config = config
        self.options = options
        self.run = run
        self.lab = lab
        self.records: list[TestRecord] = []
        self.expected: dict[str, None] = {}
        self.budget: ErrorBudget | None = None
        self._seen: set[str] = set()
        self._problems: list[str] = []
        self._notes: list[str] = []
        self._early_end = ""
        self._written: list[tuple[str, Path]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        if _only_looks(session.config):
            return
        try:
            self.run.prepare()
        except ConfigError as problem:
            raise pytest.UsageError(str(problem)) from problem

    # --- collecting ----------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.expect([item.nodeid for item in session.items])
        self.budget = session.config.stash.get(BUDGET, None)

    def expect(self, nodeids: list[str]) -> None:
        """These tests must all have a result in the end."""
        self.expected.update(dict.fromkeys(nodeids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        told: dict[str, Any] | None = getattr(report, "edgehil_record", None)
        if told is not None:
            from pytest_edgehil.model.record import TestRecord

            record = TestRecord.from_json(told)
            self.records.append(record)
            if record.requeued:
                return  # that was not its result yet
        if (report.when != "setup" or not report.passed) and report.outcome not in _NO_RESULT:
            self._seen.add(report.nodeid)

    @property
    def error_rate(self) -> str:
        """What the run's verdicts are worth together, in one sentence; empty when no gate was judged."""
        if self.budget is None or not any(record.verdicts for record in self.records):
            return ""
        return self.budget.told()

    def note_problem(self, text: str) -> None:
        """Say this at the end, and do not exit with success."""
        self._problems.append(text)

    def note(self, text: str) -> None:
        """Say this at the end; it changes nothing."""
        self._notes.append(text)

    def note_early_end(self, why: str) -> None:
        """The run ends before its tests do; of several reasons the first is said."""
        self._early_end = self._early_end or why

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        # also how xdist ends a run after --maxfail, and how pytest.exit() does
        self.note_early_end(str(excinfo.value) or "interrupted")

    @property
    def not_run(self) -> tuple[str, ...]:
        """Collected, but without a result."""
        return tuple(one for one in self.expected if one not in self._seen)

    @property
    def _has_something_to_say(self) -> bool:
        return bool(self.records or self._problems or (self.not_run and self.options.lab is not None))

    @property
    def quarantined(self) -> dict[str, str]:
        """Boards that this run put into quarantine, with the reason."""
        return {
            record.board.id: record.quarantined
            for record in self.records
            if record.board is not None and record.quarantined
        }

    # --- the end -------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        # also after an interrupt in which a fixture's teardown raised, and before the terminal's summary
        try:
            return (yield)
        finally:
            self._finish(session)

    def _finish(self, session: pytest.Session) -> None:
        if _only_looks(session.config):
            return
        self._note_idle_rerun()
        if self.not_run and self.options.lab is not None:
            stopped = session.shouldfail or session.shouldstop
            why = self._early_end or (str(stopped) if stopped else "")
            self._notes += [f"not all tests were run: {why}"] if why else []
        try:
            self._write(session.config, hurried=session.exitstatus == pytest.ExitCode.INTERRUPTED)
        except (EdgehilError, OSError) as problem:
            self._problems.append(f"the results could not be written: {_said(problem)}")
        incomplete = self._problems or (self.not_run and self.options.lab is not None)
        if incomplete and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.run.close()

    def _write(self, config: pytest.Config, *, hurried: bool) -> None:
        from pytest_edgehil.reporting import results, summary

        if not self._has_something_to_say:
            return
        self._draw(config, hurried=hurried)
        allure.write_run(
            config,
            self.records,
            run_id=self.run.run_id,
            error_rate=self.error_rate,
            quarantined=self.quarantined,
        )
        text = summary.markdown(
            self.records, quarantined=self.quarantined, not_run=self.not_run, error_rate=self.error_rate
        )
        for_ci = os.environ.get("GITHUB_STEP_SUMMARY")
        if for_ci:
            with Path(for_ci).open("a", encoding="utf-8") as file:
                file.write(text)
        if self.options.report is None:
            return
        (self.options.report / "summary.md").write_text(text, encoding="utf-8")
        self._seal_evidence()
        path = results.write(
            self.options.report,
            self.records,
            run={**self.run.describe(finished_at=time.time()), **self._rates()},
            quarantined=self.quarantined,
            not_run=self.not_run,
        )
        self._written.append(("results", path))

    def _note_idle_rerun(self) -> None:
        """A run that was meant to go on from another one, and started everything again, is a mistake."""
        told = [record.continued for record in self.records if record.continued]
        if self.options.rerun is not None and told and all(one.startswith(NOT_THERE) for one in told):
            self.note_problem(f"--edgehil-rerun: no test of this run was judged in that of {self.options.rerun}")

    def _rates(self) -> dict[str, Any]:
        if self.budget is None:
            return {}
        return {
            "alpha": self.budget.alpha,
            "suite_alpha": self.budget.suite,
            "statements": self.budget.statements,
            "error_rate_at_most": self.budget.at_most,
            "error_rate": self.error_rate,
        }

    def _draw(self, config: pytest.Config, *, hurried: bool) -> None:
        """Draw the plots that the workers promised; what cannot be drawn is no failure."""
        with_allure = allure.sink_of(config) is not None
        note = plots.hint(self.options, self.records, allure=with_allure)
        if note:
            self._notes.append(note)
        try:
            drawn = plots.draw(config, self.options, self.records, run=self.run, hurried=hurried)
        except Exception as problem:  # noqa: BLE001 - nobody's results are lost for a picture
            self._notes.append(f"no plots: {type(problem).__name__}: {problem}")
            return
        self.records[:] = drawn.records
        self._notes += [f"plot not drawn: {one}" for one in drawn.problems]
        if drawn.count and self.options.report is not None:
            self._written.append((f"plots ({drawn.count})", self.options.report / "plots"))

    def _seal_evidence(self) -> None:
        if not any(record.attestations for record in self.records):
            return
        from pytest_edgehil.plugin.evidence import seal

        assert self.lab is not None
        try:
            written = seal(self.options, self.run, self.records, lab=self.lab)
        except (EdgehilError, OSError) as problem:
            # the results are still worth writing; the run does not count as a success
            self.note_problem(f"no evidence was written: {_said(problem)}")
            return
        self._written.append((f"evidence ({written.envelopes} signed statements)", written.directory))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if _only_looks(terminalreporter.config) or not self._has_something_to_say:
            return
        from pytest_edgehil.reporting import terminal

        lines = terminal.summary(
            self.records,
            quarantined=self.quarantined,
            not_run=self.not_run,
            error_rate=self.error_rate,
            width=terminalreporter._tw.fullwidth,  # noqa: SLF001 - the only way to know the width
            verbose=terminalreporter.verbosity > 0,
        )
        if not (lines or self._written or self._problems):
            return
        terminalreporter.section("edgehil")
        for line in lines:
            terminalreporter.write_line(line.text, **line.markup)
        for what, path in self._written:
            terminalreporter.write_line(f"{what}: {path}")
        for note in self._notes:
            terminalreporter.write_line(f"note: {note}")
        for problem in self._problems:
            terminalreporter.write_line(f"edgehil: {problem}", red=True)


def _only_looks(config: pytest.Config) -> bool:
    """Is this no run of tests, but a look at what there is? Then the results of the last run must stay as they are."""
    return any(
        config.getoption(name, False) for name in ("collectonly", "setuponly", "showfixtures", "show_fixtures_per_test")
    )


def _said(problem: EdgehilError | OSError) -> str:
    """An operating system's error says what, but seldom where, and never what to do next."""
    if isinstance(problem, EdgehilError):
        return str(problem)
    where = f"{problem.filename}: " if problem.filename is not None else ""
    return f"{where}{problem.strerror or problem}; name another directory with --edgehil-report"
