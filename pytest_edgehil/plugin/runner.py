"""Running one test: attempts, gates after the body, and the reports that come of it.

A test that asks for a board runs under our own protocol: when the *board* broke, the board is quarantined and the
test is put back once and runs on another one. Gates are judged after the body has passed, inside pytest's call
phase, so that a missed gate is a failure of the test. A statement about the test is signed by the board at the
beginning of the teardown, while the board is still in our hands.

What a requeued attempt did is logged as one report, ``requeued``: neither passed nor failed, so that counts, ``-x``
and JUnit see every test once. What a test makes of a broken board (an assertion, a skip, an expected failure, or
nothing at all) does not count; fixtures of its class, module and session stay set up for the second attempt.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.runner import call_and_report, runtestprotocol  # the public hook cannot run a test without logging it

from pytest_edgehil.errors import (
    BoardError,
    EdgehilError,
    GateFailure,
    Inconclusive,
    InvalidMeasurement,
    LeaseLost,
    LeaseTimeout,
    MarkerError,
    UserError,
)
from pytest_edgehil.plugin import markers
from pytest_edgehil.plugin.allure import sink_of
from pytest_edgehil.plugin.progress import PROGRESS, Telling
from pytest_edgehil.plugin.stash import ATTEMPT, BUDGET

if TYPE_CHECKING:
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.plugin.boards import Boards
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
        if not _is_ours(item):
            return None
        from pytest_edgehil.plugin.attempt import Attempt

        if nextitem is not None and self._is_stranded(item):
            self._hand_back(item, nextitem)
            return True
        book = self._workbench.book
        made = 0 if book is None else min(book.attempts(item.nodeid), ATTEMPTS - 1)
        for number in range(made + 1, ATTEMPTS + 1):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            attempt = item.stash[ATTEMPT] = Attempt(
                nodeid=item.nodeid,
                number=number,
                worker=self._workbench.worker,
                gates=markers.gates_of(
                    item.iter_markers(), self._workbench.options, alpha=item.config.stash[BUDGET].alpha
                ),
                requirement=markers.merged(markers.requirement_of(item.iter_markers()), self._workbench.options.board),
                directory=self._workbench.run.directory,
            )
            reports = self._phases(item, nextitem, attempt)
            elsewhere = attempt.requeued and nextitem is not None and self._is_for_others(attempt)
            if attempt.requeued:
                reports = [_requeued(reports)]
            if elsewhere:
                assert book is not None
                book.note_attempt(item.nodeid)
                _say_handed_back(reports[0], without=attempt.holding if attempt.blames_board else None)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            if elsewhere or not attempt.requeued:
                break
            self._workbench.reruns.note(attempt)
        self._give_back_if_unfit(nextitem)
        return True

    def _phases(self, item: pytest.Item, nextitem: pytest.Item | None, attempt: Attempt) -> list[pytest.TestReport]:
        """Set up, call and tear down as pytest does, but keep for a second attempt what is not the test's own."""
        if item.config.getoption("setupshow", False):
            return runtestprotocol(item, log=False, nextitem=nextitem)
        test: Any = item  # pytest's functions have a request that must be made anew for another attempt
        try:
            if hasattr(test, "_request") and not test._request:  # noqa: SLF001 - as pytest and rerunfailures do
                test._initrequest()  # noqa: SLF001
            reports = [call_and_report(item, "setup", log=False)]
            if reports[0].passed:
                reports.append(call_and_report(item, "call", log=False))
            self._acquit(attempt)
            after: Any = None if item.session.shouldfail or item.session.shouldstop else nextitem
            attempt.requeued = self._goes_again(attempt)
            if attempt.requeued:
                after = item.parent
            reports.append(call_and_report(item, "teardown", log=False, nextitem=after))
        finally:
            if hasattr(test, "_request"):
                test._request, test.funcargs = False, None  # noqa: SLF001
        return reports

    def _is_stranded(self, item: pytest.Item) -> bool:
        if self._workbench.book is None:
            return False
        from pytest_edgehil.plugin.agenda import asked_by

        try:
            asked = asked_by(item, self._workbench.options)
        except MarkerError:
            return False  # the test itself will say what is wrong
        if asked.board is None:
            return False
        return self._workbench.is_stranded(item.nodeid, asked.board, asked.compatible)

    def _hand_back(self, item: pytest.Item, nextitem: pytest.Item) -> None:
        """Let another worker run a test for which there is no board here: nothing of it has begun."""
        report = pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome=PROGRESS,  # type: ignore[arg-type]  # neither passed nor failed, and not shown
            longrepr=None,
            when="call",
        )
        _say_handed_back(report, without=None)
        item.ihook.pytest_runtest_logreport(report=report)
        # what the test before has left set up for this one; no hooks: other plugins expect in them an item that began
        ended: pytest.CallInfo[None] = pytest.CallInfo.from_call(
            lambda: item.session._setupstate.teardown_exact(nextitem),  # noqa: SLF001 - as pytest's own teardown does
            when="teardown",
        )
        if ended.excinfo is not None:
            item.ihook.pytest_runtest_logreport(report=pytest.TestReport.from_item_and_call(item, ended))

    def _is_for_others(self, attempt: Attempt) -> bool:
        """Should a test whose board broke go to another worker, because there is no other board for us now?

        Not if its verdict is known: that stays here, for the next attempt goes on from it.
        """
        if self._workbench.book is None or attempt.verdicts or attempt.parts:
            return False  # for several boards one waits anyway, whoever one is
        than = attempt.holding.id if attempt.holding is not None and attempt.blames_board else None
        try:
            return not self._workbench.another_board_now(attempt.requirement, attempt.combo, than=than)
        except EdgehilError:
            return False

    def _give_back_if_unfit(self, nextitem: pytest.Item | None) -> None:
        """A board that the next test has no use for must not stay in our hands while others wait for it."""
        if nextitem is None or not markers.BOARD_FIXTURES & set(getattr(nextitem, "fixturenames", ())):
            self._workbench.let_go()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is None:
            return (yield)
        # several boards are set up when the body runs, and lost together
        with contextlib.nullcontext() if attempt.held is None else attempt.held.doing("running the test"):
            return (yield from self._call(item, attempt))

    def _call(self, item: pytest.Item, attempt: Attempt) -> Generator[None, object, object]:
        try:
            result = yield
        except pytest.exit.Exception:
            raise
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as problem:
            if attempt.broken is None or isinstance(problem, BoardError):
                raise
            # whatever the test made of it: its board had broken before
            raise attempt.broken from problem
        if attempt.broken is not None:
            raise attempt.broken
        if attempt.dut is not None and attempt.gates:
            self._judge(attempt, item)
        if attempt.boards is not None and attempt.gates:
            self._judge_each(attempt, attempt.boards, item)
        if attempt.held is not None:
            attempt.held.check()
        from pytest_edgehil.plugin.attempt import failure_of

        failure = failure_of(attempt.verdicts)
        if failure is not None:
            raise failure
        return result

    def _judge_each(self, attempt: Attempt, boards: Boards, item: pytest.Item) -> None:
        """One board after the other: on each the gates get what is missing by repeating what the body has fed there."""
        from pytest_edgehil.plugin.boards import in_all

        for role, part in attempt.parts.items():
            if part.gates:
                boards.dut(role)  # a body that never asked for it has measured nothing there, and its gates will say so
                self._judge(part, item)
        attempt.verdicts = in_all(attempt.parts)

    def _judge(self, attempt: Attempt, item: pytest.Item) -> None:
        from pytest_edgehil.gates.judging import judge

        dut = attempt.dut
        assert dut is not None
        with attempt.step("judge"):
            if not attempt.role:  # of several boards nothing is kept to go on from
                self._workbench.reruns.go_on(
                    attempt,
                    own_alphas=markers.own_alphas(item.iter_markers()),
                    baselines=lambda name: self._workbench.catalog.find(name).digest,
                )
            _, attempt.verdicts = judge(
                attempt.gates,
                sample=attempt.sample,
                measure=lambda wanted: dut.measure_more(wanted).replace(earlier=attempt.earlier),
                clock=time.monotonic,
                max_seconds=self._workbench.options.measure_s + _longest_s(attempt.gates),
                on_look=Telling(item, attempt, every_s=self._workbench.options.progress_s).look,
            )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        attempt = item.stash.get(ATTEMPT, None)
        if attempt is not None and attempt.dut is not None:
            from pytest_edgehil.plugin import plots
            from pytest_edgehil.plugin.device import conclude

            try:
                conclude(attempt, self._workbench)
                if attempt.board_error is not None:
                    return (yield)
                plots.promise(attempt, self._workbench, allure=sink_of(item.config) is not None)
            except EdgehilError as problem:
                attempt.note_error(problem)
                yield  # the fixtures must be torn down all the same
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
            if report.skipped and isinstance(problem, BoardError):
                # an expected failure is expected of the model, not of the board
                report.outcome = "failed"
                del report.wasxfail
            if report.skipped:
                attempt.skipped = getattr(report, "wasxfail", "") or str(problem)
            else:
                attempt.note_error(problem)
                if isinstance(problem, EdgehilError):
                    # one line instead of a traceback: the user's mistake, the board's or the model's, not the code's
                    report.longrepr = _in_one_line(call.excinfo)
            _attach_console(report, attempt)
        elif report.failed:
            attempt.note_error(pytest.fail.Exception(str(report.longrepr)))  # it passed against xfail(strict=True)
        if report.when == "teardown":
            self._conclude_attempt(attempt)
            self._mark(report, attempt, item)
        elif report.failed:
            report.edgehil_status = attempt.status.value  # type: ignore[attr-defined]
        return report

    def _conclude_attempt(self, attempt: Attempt) -> None:
        """Decide what becomes of the board and of the test."""
        self._acquit(attempt)
        problem = attempt.board_error
        if problem is None:
            return
        if not attempt.blames_board:
            self._workbench.let_go()
        elif not attempt.parts:  # several have been quarantined as they were let go
            try:
                self._workbench.condemn(str(problem))
                attempt.quarantined = str(problem)
            except EdgehilError as trouble:
                # an exception in this hook would be an internal error that hides both
                attempt.error = type(problem)(f"{problem}; and the board could not be quarantined: {trouble}")
        # it may have broken in the teardown only
        attempt.requeued = attempt.requeued or self._goes_again(attempt)

    def _acquit(self, attempt: Attempt) -> None:
        """A board that was taken from us did not break: whoever has it now may have switched it off."""
        if attempt.held is not None and attempt.blames_board and not attempt.condemned:
            try:
                attempt.held.check_now()
            except LeaseLost as lost:
                attempt.error = lost

    def _goes_again(self, attempt: Attempt) -> bool:
        problem = attempt.board_error
        if problem is None or attempt.held is None or attempt.number >= ATTEMPTS or isinstance(problem, LeaseTimeout):
            return False
        wanted = tuple(attempt.parts.values()) or (attempt,)
        try:
            return self._workbench.other_boards(
                [(one.requirement, one.combo, tuple(one.against.values())) for one in wanted], than=attempt.blamed
            )
        except EdgehilError:
            return False  # the lab's books cannot be read: the attempt's own error says what broke first

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
        flashed = None if attempt.dut is None else attempt.dut.flashed
        if flashed is not None and flashed.activated:
            report.edgehil_flash_s = flashed.duration_s  # type: ignore[attr-defined]
        sink = sink_of(item.config)
        if sink is not None:
            sink.attach(item.nodeid, record)
        if report.failed:
            report.edgehil_status = attempt.status.value  # type: ignore[attr-defined]

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        # after an interrupt, pytest tears down the last test's fixtures in this hook: they still need their board
        try:
            return (yield)
        finally:
            self._workbench.close()


def _is_ours(item: pytest.Item) -> bool:
    return bool(markers.COMBO_FIXTURES & set(getattr(item, "fixturenames", ())))


def _requeued(reports: Sequence[pytest.TestReport]) -> pytest.TestReport:
    """One report for an attempt that does not count: the first that says what happened, with the attempt's record."""
    last = reports[-1]
    shown = next((one for one in reports if not one.passed), last)
    shown.outcome = REQUEUED  # type: ignore[assignment]
    shown.when = "call"  # a teardown would close the test's case in JUnit
    shown.edgehil_record = last.edgehil_record  # type: ignore[attr-defined]
    return shown


def _say_handed_back(report: pytest.TestReport, *, without: Holding | None) -> None:
    report.edgehil_handed_back = "" if without is None else without.id  # type: ignore[attr-defined]


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
    if not report.failed or isinstance(attempt.error, (GateFailure, Inconclusive, InvalidMeasurement, UserError)):
        return
    blamed = attempt.blamed
    parts = [part.holding for part in attempt.parts.values()]
    for holding in [attempt.holding, *(one for one in parts if one is not None and one.id in blamed)]:
        path = None if holding is None else holding.console_log
        if holding is not None and path is not None and path.is_file():
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
