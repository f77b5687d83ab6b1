"""Handing a board out: leased, looked at, and only then given to whoever asked.

A reservation says that nobody else has the board. It does not say that the board is there. So whoever gets a lease
looks at the board first (`lab.health`): is it reached, is it the right one, has it room, is it cool? If not, it is
quarantined with what was found, and the next one is taken. A test never sees it.

A board that an error has quarantined is looked at again when its time has come, by whoever wants a board like it and
cannot have one at once. If it passes, it is free for whoever is first in the queue, which may be somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_edgehil.errors import BoardError, LeaseError, LeaseLost, LeaseTimeout
from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.matching import candidates
from pytest_edgehil.lab.reservation import Reservation, reserve
from pytest_edgehil.lab.store_clock import steady_s
from pytest_edgehil.model.requirement import Requirement

if TYPE_CHECKING:
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import Holder, LabStore

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
    """

    def __init__(
        self,
        lab: Lab,
        store: LabStore,
        holder: Holder,
        *,
        hold: Callable[[Reservation], Holding],
        tied_to_parent: bool = False,
        on_wait: Callable[[str], None] | None = None,
        on_unfit: Callable[[str, str], None] = lambda _board_id, _why: None,
        steady: Callable[[], float] = steady_s,
    ) -> None:
        self._lab = lab
        self._store = store
        self._holder = holder
        self._hold = hold
        self._tied_to_parent = tied_to_parent
        self._on_wait = on_wait
        self._on_unfit = on_unfit
        self._steady = steady

    def board(
        self, requirement: Requirement, *, wait_s: float, priority: int = 0, on_lease: Callable[[Holding], None] | None
    ) -> Holding:
        """A board that is ours, up, and fit to be used.

        Args:
            requirement: what it must be.
            wait_s: how long to wait for one.
            priority: see `reserve`.
            on_lease: told of each board as soon as it is leased, before it is brought up.

        Raises:
            BoardUnavailable: the lab can never fulfil the requirement.
            LeaseTimeout: none became free in time, or none is fit.
            LeaseError: the store cannot be reached.
            BoardError: it could not be brought up, and the lab file says that boards are not looked at.
        """
        end = self._steady() + wait_s
        left_s = wait_s
        lost = 0
        while True:
            reservation = self._reserve(requirement, wait_s=left_s, priority=priority)
            holding = self._hold(reservation)
            if on_lease is not None:
                on_lease(holding)
            left_s = max(0.0, end - self._steady())
            try:
                complaint = self._complaint(holding)
            except LeaseLost:
                holding.close()  # nothing was done with it yet: another one will do
                lost += 1
                if lost >= MOST_LOST:
                    raise
                continue
            except BaseException:
                if self._lab.health.check:
                    holding.close()
                raise
            if not complaint:
                return holding
            holding.close()
            self._on_unfit(holding.id, complaint)

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

    def _reserve(self, requirement: Requirement, *, wait_s: float, priority: int) -> Reservation:
        def asked(wait_s: float) -> Reservation:
            return reserve(
                self._lab,
                (requirement,),
                store=self._store,
                holder=self._holder,
                wait_s=wait_s,
                priority=priority,
                on_wait=self._on_wait,
                tied_to_parent=self._tied_to_parent,
            )

        if self._store.due():
            try:
                return asked(0.0)
            except LeaseTimeout:
                self.look_again([board.id for board in candidates(self._lab, requirement)])
        return asked(wait_s)

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
