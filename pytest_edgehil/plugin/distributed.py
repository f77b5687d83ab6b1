"""Under pytest-xdist: one worker per free board, and a controller that learns what its workers saw.

Registered only when xdist is there. A hook that runs in a worker must not let an exception escape: xdist would
answer with an internal error that hides it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import EdgehilError, LeaseError, UserError
from pytest_edgehil.plugin.allure import sink_of
from pytest_edgehil.plugin.error_rate import WORKEROUTPUT
from pytest_edgehil.plugin.runner import ATTEMPTS, REQUEUED

if TYPE_CHECKING:
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.plugin.controller import Controller
    from pytest_edgehil.plugin.dispatch import Dispatch
    from pytest_edgehil.plugin.options import Options

WORKERINPUT = "edgehil"


def auto_workers(options: Options) -> int | None:
    """How many workers ``-n auto`` means: one per matching board that is free now; at least one.

    None without a lab: then it is xdist's business.
    """
    if options.lab is None:
        return None
    from pytest_edgehil.lab.inventory import load_lab

    try:
        return max(1, len(free_board_ids(load_lab(options.lab), options)))
    except (UserError, LeaseError) as problem:
        raise pytest.UsageError(str(problem)) from problem


def free_board_ids(lab: Lab, options: Options) -> tuple[str, ...]:
    """The boards that this run may use and that could be leased now, best first.

    Raises:
        BoardUnavailable: the lab has no such board at all.
        LeaseError: the lease store cannot be reached.
    """
    from pytest_edgehil.lab.reservation import free_boards
    from pytest_edgehil.lab.store import open_store

    store = open_store(lab)
    try:
        return tuple(board.id for board in free_boards(lab, options.board, store))
    finally:
        store.close()


class Distributed:
    """The controller's side.

    Args:
        controller: of this run.
        dispatch: our own scheduling; None: xdist's.
    """

    def __init__(self, controller: Controller, dispatch: Dispatch | None) -> None:
        self._controller = controller
        self._dispatch = dispatch
        self._deaths = 0
        self._interrupted = False
        self._not_ended: set[str] = set()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        self._refuse_more_workers_than_boards(len(node.config.getoption("tx")))
        node.workerinput[WORKERINPUT] = self._controller.run.to_worker()
        self._not_ended.add(node.gateway.id)

    def _refuse_more_workers_than_boards(self, workers: int) -> None:
        lab = self._controller.lab
        if lab is None:
            return
        boards = len(lab.boards)
        if workers > boards:
            raise pytest.UsageError(
                f"-n {workers}: more workers than boards; {lab.path} has {boards}, and each worker owns one board. "
                "Use -n auto for one worker per free board"
            )

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self._controller.expect(list(ids))

    @pytest.hookimpl(optionalhook=True, trylast=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        from pytest_edgehil.model.record import Status, TestRecord

        worker = report.node.gateway.id
        again = report.outcome == "failed" and self._runs_again(crashitem)
        number = 1
        if self._dispatch is not None:
            number += self._dispatch.book.attempts(crashitem)
        record = TestRecord(
            nodeid=crashitem,
            status=Status.INFRASTRUCTURE if again else Status.ERROR,
            started_at=time.time(),
            duration_s=0.0,
            attempt=number,
            requeued=again,
            worker=worker,
            message=f"worker {worker} died while it ran this test",
        )
        report.edgehil_record = record.to_json()  # type: ignore[attr-defined]
        if again:
            assert self._dispatch is not None
            self._dispatch.book.note_attempt(crashitem)
            report.outcome = REQUEUED  # type: ignore[assignment]
            sched.mark_test_pending(crashitem)
        sink = sink_of(report.node.config)
        if sink is not None:
            sink.crashed(record)  # the worker did not live to report it

    def _runs_again(self, nodeid: str) -> bool:
        """Once, on another board, if our own scheduler can see to that and there will be a worker to run it."""
        if self._dispatch is None or self._interrupted or self._dispatch.book.attempts(nodeid) >= ATTEMPTS - 1:
            return False
        return self._restarts_left

    @property
    def _restarts_left(self) -> bool:
        from xdist.dsession import get_default_max_worker_restart

        most = get_default_max_worker_restart(self._controller.config)
        return most is None or self._deaths <= most

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        self._not_ended.discard(node.gateway.id)
        told = getattr(node, "workeroutput", {}).get(WORKEROUTPUT)
        if told is not None:
            from pytest_edgehil.gates.multiplicity import ErrorBudget

            self._controller.budget = ErrorBudget.from_json(told)
        if error == "keyboard-interrupt":
            self._interrupted = True
        elif error:
            self._deaths += 1
            self._free_boards_of(node.gateway.id, reason=f"worker {node.gateway.id} died")
            if not self._restarts_left:
                self._controller.note_early_end(f"{self._deaths} workers died, and no more are started")

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self) -> Generator[None, object, object]:
        # a run that ends early tells nobody of its workers' ends, and xdist kills who has not ended ten seconds later
        try:
            return (yield)
        finally:
            for worker in sorted(self._not_ended):
                self._free_boards_of(worker, reason=f"worker {worker} did not end in time")

    def _free_boards_of(self, worker: str, *, reason: str) -> None:
        """A dead worker's leases would expire by themselves; its board is wanted sooner."""
        lab = self._controller.lab
        if lab is None:
            return
        from pytest_edgehil.lab.leases import default_holder
        from pytest_edgehil.lab.store import open_store
        from pytest_edgehil.plugin.workbench import holder_suffix

        suffix = holder_suffix(self._controller.run.run_id, worker)
        try:
            store = open_store(lab)
            try:
                for state in store.boards():
                    if state.holder is not None and state.holder.name.endswith(suffix):
                        store.force_release(state.board_id, by=default_holder(), reason=reason)
            finally:
                store.close()
        except EdgehilError as problem:
            self._controller.note_problem(f"the board of worker {worker} is freed only by its expiry: {problem}")
