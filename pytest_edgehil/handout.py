"""Handing a board out: leased, looked at, and only then given to whoever asked.

A reservation says that nobody else has the board. It does not say that the board is there. So whoever gets a lease
looks at the board first (`lab.health`): is it reached, is it the right one, has it room, is it cool? If not, it is
quarantined with what was found, and the next one is taken. A test never sees it.

A board that an error has quarantined is looked at again when its time has come, by whoever wants a board like it and
cannot have one at once, also while he waits in the queue: then by a thread, for the place in the queue must not be lost
meanwhile. If it passes, it is free for whoever is first in the queue, which may be somebody else.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_edgehil.errors import BoardError, EdgehilError, LeaseError, LeaseLost, LeaseTimeout
from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.matching import candidates
from pytest_edgehil.lab.reservation import Reservation, Share, reserve, shares_of
from pytest_edgehil.lab.store_clock import steady_s
from pytest_edgehil.model.requirement import Requirement

if TYPE_CHECKING:
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import Holder, LabStore

log = logging.getLogger("edgehil.handout")

LOOK_S = 2.0
"""So often somebody who waits sees whether a broken board is due."""
MOST_LOST = 3
"""So often a lease may be lost while its board is looked at before that is told instead of tried again."""


class HandOut:
    """Hands boards of one lab out to one holder.

    Args:
        lab: the inventory.
        store: its lease store.
        holder: who gets them.
        hold: makes a holding of a reservation; it is opened here.
        tied_to_parent: see `reserve`.
        on_wait: told what we wait for.
        on_unfit: told of each board that was taken out: its id, and why.
        steady: seconds that are never set back.
        look_s: so often to see, while waiting, whether a broken board is due.
    """

    def __init__(
        self,
        lab: Lab,
        store: LabStore,
        holder: Holder,
        *,
        hold: Callable[[Reservation | Share], Holding],
        tied_to_parent: bool = False,
        on_wait: Callable[[str], None] | None = None,
        on_unfit: Callable[[str, str], None] = lambda _board_id, _why: None,
        steady: Callable[[], float] = steady_s,
        look_s: float = LOOK_S,
    ) -> None:
        self._lab = lab
        self._store = store
        self._holder = holder
        self._hold = hold
        self._tied_to_parent = tied_to_parent
        self._on_wait = on_wait
        self._on_unfit = on_unfit
        self._steady = steady
        self._look_s = look_s

    def board(
        self,
        requirement: Requirement,
        *,
        wait_s: float,
        priority: int = 0,
        on_lease: Callable[[Holding], None] | None = None,
    ) -> Holding:
        """A board that is ours, up, and fit to be used; arguments and errors are those of `boards`."""
        return self.boards((requirement,), wait_s=wait_s, priority=priority, on_lease=on_lease)[0]

    def boards(
        self,
        requirements: Sequence[Requirement],
        *,
        wait_s: float,
        priority: int = 0,
        on_lease: Callable[[Holding], None] | None = None,
    ) -> tuple[Holding, ...]:
        """A board for each requirement, all or nothing; all are ours, up, and fit to be used.

        Args:
            requirements: what they must be.
            wait_s: how long to wait for them.
            priority: see `reserve`.
            on_lease: told of each board as soon as it is leased, before it is brought up; whoever is told closes it if
                boards are not looked at and it cannot be brought up.

        Raises:
            BoardUnavailable: the lab can never fulfil the requirements.
            LeaseTimeout: they did not become free in time, or are not fit.
            LeaseError: the store cannot be reached.
            BoardError: one could not be brought up, and the lab file says that boards are not looked at.
        """
        end = self._steady() + wait_s
        left_s = wait_s
        lost = 0
        while True:
            reservation = self._reserve(requirements, wait_s=left_s, priority=priority)
            one = len(reservation.boards) == 1
            holdings = tuple(self._hold(part) for part in ((reservation,) if one else shares_of(reservation)))
            with contextlib.ExitStack() as if_unfit:
                for holding in holdings:
                    if_unfit.callback(holding.close)
                    if on_lease is not None:
                        on_lease(holding)
                left_s = max(0.0, end - self._steady())
                try:
                    complaints = {holding.id: self._complaint(holding) for holding in holdings}
                except LeaseLost:
                    lost += 1  # nothing was done with them yet: others will do
                    if lost >= MOST_LOST:
                        raise
                    continue
                except BaseException:
                    if on_lease is not None and not self._lab.health.check:
                        if_unfit.pop_all()
                    raise
                if not any(complaints.values()):
                    if_unfit.pop_all()
                    return holdings
            for board_id, complaint in complaints.items():
                if complaint:
                    self._on_unfit(board_id, complaint)

    def look_again(self, board_ids: Sequence[str]) -> tuple[str, ...]:
        """Look at those quarantined boards among these whose time has come; return those that are handed out again.

        Raises:
            LeaseError: the store cannot be reached.
        """
        restored = []
        for board_id in self._store.due():
            if board_id in board_ids:
                found = self.check(board_id, only_due=True)
                if found is not None and found.passed:
                    restored.append(board_id)
        return tuple(restored)

    def check(self, board_id: str, *, only_due: bool = False) -> Checkup | None:
        """Look at a board, whether or not it is handed out, and write down what was found.

        Returns:
            What came of it; None while somebody else holds the board, or if it is not due.

        Raises:
            LeaseError: the store cannot be reached.
            UserError: the lab file is wrong about it.
        """
        reservation = self._closed(board_id, only_due=only_due)
        if reservation is None:
            return None
        holding = self._hold(reservation)
        try:
            checkup = self._look(holding)
            self._store.note_check(board_id, checkup, by=self._holder)
        finally:
            holding.close()
        return checkup

    def closed(self, board_id: str) -> Reservation | None:
        """A board for whoever mends it, also while it is not handed out; None while somebody holds it."""
        return self._closed(board_id, only_due=False)

    # --- inside --------------------------------------------------------------------------------------

    def _reserve(self, requirements: Sequence[Requirement], *, wait_s: float, priority: int) -> Reservation:
        def asked(wait_s: float) -> Reservation:
            return reserve(
                self._lab,
                requirements,
                store=self._store,
                holder=self._holder,
                wait_s=wait_s,
                priority=priority,
                on_wait=self._on_wait,
                tied_to_parent=self._tied_to_parent,
            )

        wanted = [board.id for requirement in requirements for board in candidates(self._lab, requirement)]
        if self._store.due():
            try:
                return asked(0.0)
            except LeaseTimeout:
                self.look_again(wanted)
        if wait_s <= 0:
            return asked(wait_s)
        got = threading.Event()
        # never waited for: a look that has begun ends by itself, and a daemon thread ends with the process
        looking = threading.Thread(target=self._look_meanwhile, args=(wanted, got), name="edgehil-look", daemon=True)
        looking.start()
        try:
            return asked(wait_s)
        finally:
            got.set()

    def _look_meanwhile(self, board_ids: Sequence[str], got: threading.Event) -> None:
        while not got.wait(self._look_s):
            try:
                self.look_again(board_ids)
            except EdgehilError as problem:
                log.warning("broken boards could not be looked at while waiting: %s", problem)

    def _complaint(self, holding: Holding) -> str:
        """Why the board is not to be used; empty if it is. It is quarantined then."""
        rules = self._lab.health
        if not rules.check:
            holding.open()
            return ""
        known = self._store.checks().get(holding.id)
        if known is not None and known.checkup.passed and known.age_s < rules.fresh_s:
            checkup = self._brought_up(holding)
            if checkup.passed:
                return ""
        else:
            checkup = self._look(holding)
        self._store.note_check(holding.id, checkup, by=self._holder)
        return checkup.complaint

    def _brought_up(self, holding: Holding) -> Checkup:
        try:
            with holding.doing("bringing it up"):
                holding.open()
        except LeaseError:
            raise
        except BoardError as problem:
            return Checkup(complaint=_in_one_line(problem))
        return Checkup()

    def _look(self, holding: Holding) -> Checkup:
        checkup = self._brought_up(holding)
        if not checkup.passed:
            return checkup
        try:
            with holding.doing("looking at it"):
                return holding.check_up()
        except LeaseError:
            raise
        except BoardError as problem:
            return Checkup(complaint=_in_one_line(problem))

    def _closed(self, board_id: str, *, only_due: bool) -> Reservation | None:
        board = self._lab.board(board_id)
        asked = self._steady()
        expiry_s = self._lab.lease_expiry_s
        lease = self._store.acquire_closed(board_id, holder=self._holder, expiry_s=expiry_s, only_due=only_due)
        if lease is None:
            return None
        return Reservation(
            boards=(board,),
            leases=(lease,),
            store=self._store,
            expiry_s=expiry_s,
            asked=asked,
            tied_to_parent=self._tied_to_parent,
            monotonic=self._steady,
        )


def _in_one_line(problem: BoardError) -> str:
    return " ".join(str(problem).split())[:1000] or type(problem).__name__
