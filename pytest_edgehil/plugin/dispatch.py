"""The controller's part in our own scheduling: it makes the scheduler, and tells it what the workers' reports say.

Registered where tests are distributed, a lab is given and the user has not chosen a ``--dist``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from pytest_edgehil.errors import EdgehilError
from pytest_edgehil.plugin.seats import SeatBook, Seats
from pytest_edgehil.plugin.stash import WORKBENCH

if TYPE_CHECKING:
    from pytest_edgehil.plugin.controller import Controller
    from pytest_edgehil.plugin.scheduler import AffineScheduler, Agenda
    from pytest_edgehil.plugin.scheduling.history import History

SEATED = "edgehil_seated"
"""In a worker's input: does the controller tell it which board to use?"""


class Dispatch:
    """See above.

    Args:
        controller: whose lab is given.
        history: how long tests took before.
    """

    def __init__(self, controller: Controller, history: History) -> None:
        self._controller = controller
        self._history = history
        self._scheduler: AffineScheduler | None = None
        self._config: pytest.Config | None = None
        self._trouble = ""

    @property
    def book(self) -> SeatBook:
        """What the workers are told."""
        return SeatBook(self._controller.run.schedule)

    # --- xdist ---------------------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput[SEATED] = True
        if self._scheduler is not None:
            self._scheduler.coming(node.gateway.id)

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> AffineScheduler:
        from pytest_edgehil.plugin.scheduler import AffineScheduler

        self._config = config
        self._scheduler = AffineScheduler(config, agenda=self._agenda, seating=Seats(self.book, free=self._free))
        return self._scheduler

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        scheduler, node = self._scheduler, getattr(report, "node", None)
        if scheduler is None or node is None:
            return
        worker: str = node.gateway.id
        without: str | None = getattr(report, "edgehil_handed_back", None)
        if without is not None:
            scheduler.given_back(report.nodeid, without=without or None)
            scheduler.has_board(worker, None)
            return
        scheduler.flashed(report.nodeid, getattr(report, "edgehil_flash_s", 0.0))
        record: dict[str, Any] | None = getattr(report, "edgehil_record", None)
        if record is not None and record["board"] is not None and record["lease_token"] is not None:
            scheduler.has_board(worker, None if record["quarantined"] else record["board"]["id"])

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        if self._trouble:
            self._controller.note_problem(f"tests were not scheduled by boards: {self._trouble}")

    # --- what the scheduler asks ---------------------------------------------------------------------

    def _agenda(self, collection: Sequence[str]) -> Agenda:
        from pytest_edgehil.plugin.agenda import FILE, boards_for, read_agenda

        assert self._config is not None
        assert self._controller.lab is not None
        return read_agenda(
            self._controller.run.schedule / FILE,
            collection,
            fits=boards_for(self._config.stash[WORKBENCH]),
            classes={board.id: board.cls for board in self._controller.lab.boards},
            history=self._history,
        )

    def _free(self) -> Sequence[str]:
        from pytest_edgehil.plugin.distributed import free_board_ids

        assert self._controller.lab is not None
        try:
            return free_board_ids(self._controller.lab, self._controller.options)
        except EdgehilError as problem:
            self._trouble = str(problem)  # xdist would make an internal error of it; each test will say it, too
            return ()
