"""Running one test: attempts, gates after the body, and the reports that come of it.

A test that asks for a board runs under our own protocol: when the *board* broke, the board is quarantined and the
test is put back once and runs on another one. Gates are judged after the body has passed, inside pytest's call
phase, so that a missed gate is a failure of the test. A statement about the test is signed by the board at the
beginning of the teardown, while the board is still in our hands.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import runtestprotocol  # the public hook has no way to run a test without logging it

from pytest_edgehil.errors import (
    EdgehilError,
    GateFailure,
    Inconclusive,
    InvalidMeasurement,
    LeaseTimeout,
    UserError,
)
from pytest_edgehil.plugin import markers
from pytest_edgehil.plugin.allure import sink_of
from pytest_edgehil.plugin.stash import ATTEMPT

if TYPE_CHECKING:
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.workbench import Workbench

ATTEMPTS = 2
REQUEUED = "requeued"
CONSOLE_TAIL = 4000


class Runner:
    """The hooks of the process that runs the tests: the main one, or an xdist worker."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if not _needs_board(item):
            return None
        from pytest_edgehil.plugin.attempt import Attempt

        for number in range(1, ATTEMPTS + 1):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            attempt = item.stash[ATTEMPT] = Attempt(
                nodeid=item.nodeid,
                number=number,
                worker=self._workbench.worker,
                gates=markers.gates_of(item.iter_markers(), self._workbench.options),
                requirement=markers.merged(markers.requirement_of(item.iter_markers()), self._workbench.options.board),
                directory=self._workbench.run.directory,
            )
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            for report in reports:
                if attempt.requeued and report.failed:
                    report.outcome = REQUEUED  # type: ignore[assignment]
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            if not attempt.requeued:
                break
        self._give_back_if_unfit(nextitem)
        return True

    def _give_back_if_unfit(self, nextitem: pytest.Item | None) -> None:
        """A board that the next test has no use for must not stay in our hands while others wait for it."""
        if nextitem is None:
            self._workbench.let_go()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        result = yield
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is not None and attempt.dut is not None:
            from pytest_edgehil.plugin.attempt import failure_of

            self._judge(attempt)
            problem = failure_of(attempt.verdicts)
            if problem is not None:
                raise problem
        return result

    def _judge(self, attempt: Attempt) -> None:
        from pytest_edgehil.gates.judging import judge

        assert attempt.dut is not None
        if not attempt.gates:
            return
        with attempt.step("judge"):
            _, attempt.verdicts = judge(
                attempt.gates,
                sample=attempt.dut.sample,
                measure=attempt.dut.measure_more,
                clock=time.monotonic,
                max_seconds=self._workbench.options.measure_s + _longest_s(attempt.gates),
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is not None and attempt.dut is not None and attempt.board_error is None:
            from pytest_edgehil.plugin.device import conclude

            try:
                conclude(attempt, self._workbench)
            except EdgehilError as problem:
                attempt.note_error(problem)
                yield
                raise
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is None:
            return report
        if call.excinfo is not None:
            problem = call.excinfo.value
            if report.skipped:
                attempt.skipped = getattr(report, "wasxfail", "") or str(problem)
            else:
                attempt.note_error(problem)
                if isinstance(problem, EdgehilError):
                    # one line instead of a traceback: the user's mistake, the board's or the model's, not the code's
                    report.longrepr = _in_one_line(call.excinfo)
            _attach_console(report, attempt)
        if report.when == "teardown":
            self._conclude_attempt(attempt)
            self._mark(report, attempt, item)
        elif report.failed:
            report.edgehil_status = attempt.status.value  # type: ignore[attr-defined]
        return report

    def _conclude_attempt(self, attempt: Attempt) -> None:
        """Decide what becomes of the board and of the test."""
        problem = attempt.board_error
        if problem is None:
            return
        broken = attempt.holding.id if attempt.holding is not None and attempt.blames_board else None
        if broken is not None:
            attempt.quarantined = str(problem)
            self._workbench.condemn(str(problem))
        else:
            self._workbench.let_go()
        if attempt.number < ATTEMPTS and not isinstance(problem, LeaseTimeout) and attempt.holding is not None:
            attempt.requeued = self._workbench.another_board(attempt.requirement, attempt.combo, than=broken)

    def _mark(self, report: pytest.TestReport, attempt: Attempt, item: pytest.Item) -> None:
        from pytest_edgehil.reporting.junit import properties

        console = None if attempt.holding is None else attempt.holding.console_log
        if console is not None and console.is_file():
            attempt.files["console"] = str(console.relative_to(attempt.directory))
        record = attempt.record()
        report.edgehil_record = record.to_json()  # type: ignore[attr-defined]
        if not attempt.requeued:
            item.user_properties.extend(properties(record))
            report.user_properties = list(item.user_properties)
        sink = sink_of(item.config)
        if sink is not None:
            sink.attach(item.nodeid, record)
        if report.failed:
            report.edgehil_status = attempt.status.value  # type: ignore[attr-defined]

    def pytest_sessionfinish(self) -> None:
        self._workbench.close()


def _needs_board(item: pytest.Item) -> bool:
    return bool(markers.BOARD_FIXTURES & set(getattr(item, "fixturenames", ())))


def _longest_s(gates: Sequence[Gate]) -> float:
    """How long the gates must measure in any case: a soak's hour is not taken from what the others may spend."""
    return max((getattr(gate, "required_ns", 0) for gate in gates), default=0) / 1e9


def _in_one_line(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    shown = excinfo.getrepr(style="value", chain=False)
    if shown.reprcrash is not None:
        shown.reprcrash.message = f"{excinfo.type.__name__}: {excinfo.value}"  # without the module's name
    return shown


def _attach_console(report: pytest.TestReport, attempt: Attempt) -> None:
    """Show the end of the console where it may explain something: not where a healthy board missed a gate."""
    holding = attempt.holding
    path = None if holding is None else holding.console_log
    explained = isinstance(attempt.error, (GateFailure, Inconclusive, InvalidMeasurement, UserError))
    if report.failed and not explained and holding is not None and path is not None and path.is_file():
        text = path.read_bytes()[-CONSOLE_TAIL:].decode("utf-8", "replace")
        report.sections.append((f"console of {holding.id}", text))


def teststatus(report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Letters for what pytest has no letter for."""
    if report.outcome == REQUEUED:
        return REQUEUED, "R", ("REQUEUED", {"yellow": True})
    status = getattr(report, "edgehil_status", None)
    if not report.failed or status is None:
        return None
    from pytest_edgehil.model.record import Status

    if status == Status.INFRASTRUCTURE:
        return "error", "B", ("BOARD ERROR", {"red": True})
    if status == Status.INCONCLUSIVE:
        return "failed", "?", ("INCONCLUSIVE", {"yellow": True})
    if status == Status.INVALID:
        return "failed", "!", ("INVALID", {"yellow": True})
    return None
