"""The right to some boards that a test run holds: waited for, renewed by a heartbeat, given back.

How waiting ends, in this order:

* `BoardUnavailable` (the request is wrong): the lab can never fulfil it, even with every board free. At once.
* `LeaseTimeout` at once (the lab is broken): every way to fulfil it needs a quarantined board. Waiting would not bring
  one back; a person has to. The message says which boards and why.
* `LeaseTimeout` after `wait_s`: the boards are held by others, or kept for those ahead in the queue. The message names
  them.
* `LeaseError` after `wait_s`: the store has not answered since.

A board that belongs to another lab as well (`claims`) is taken there once it is ours here: whoever holds the lease is
the only one of us who asks. Is it taken there, the lease is given back, and we try again with other boards first.

A reservation is lost as a whole and for good as soon as one of its leases is: expired, taken away, or renewed too
late because the process was paused. It belongs to the process that made it: a fork can neither use nor release it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from pytest_edgehil.errors import BoardUnavailable, LeaseError, LeaseLost, LeaseTimeout, PlaceTaken
from pytest_edgehil.lab.assignment import assign
from pytest_edgehil.lab.claims import Claim, Claims, claims_of
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import (
    BoardStatus,
    Holder,
    LabState,
    LabStore,
    Lease,
    Place,
    Waiting,
    default_holder,
)
from pytest_edgehil.lab.matching import candidates, describe_all
from pytest_edgehil.lab.store_clock import steady_s
from pytest_edgehil.model.board import Board, Requirement
from pytest_edgehil.model.quantity import format_duration

__all__ = ["Reservation", "Share", "default_holder", "free_boards", "reserve", "shares_of"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_JUST_AFTER_S = 0.002  # when it has happened, and not a moment before


def reserve(
    lab: Lab,
    requirements: Sequence[Requirement],
    *,
    store: LabStore,
    holder: Holder,
    wait_s: float,
    expiry_s: float | None = None,
    priority: int = 0,
    on_wait: Callable[[str], None] | None = None,
    tied_to_parent: bool = False,
    claims: Claims | None = None,
    monotonic: Callable[[], float] = steady_s,
    sleep: Callable[[float], None] = time.sleep,
) -> Reservation:
    """Lease one board for each requirement, all or nothing, and keep them by a heartbeat.

    Args:
        lab: the inventory.
        requirements: one for each wanted board.
        store: where leases are kept.
        holder: under which name.
        wait_s: how long to wait for boards that others hold; 0 asks once.
        expiry_s: the lab's `lease_expiry_s` if None.
        priority: of those who wait the one with the highest is served first, and of equals the oldest.
        on_wait: called with one line whenever what we wait for changes.
        tied_to_parent: stop renewing when the parent of this process is gone, as for a worker whose controller was
            killed; off by default, since a run under nohup outlives its shell.
        claims: takes boards in other labs that they belong to as well; None does as the lab file says.
        monotonic: seconds that are never set back, and go on while the machine sleeps.
        sleep: waits so many seconds, before a store that did not answer or another lab is tried again.

    Returns:
        The reservation; `Reservation.boards` are in the order of `requirements`.

    Raises:
        BoardUnavailable: the lab can never fulfil the requirements.
        LeaseTimeout: no board became free in time, or every way needs a quarantined board.
        LeaseError: the store cannot be reached.
    """
    requests = _requests(lab, requirements, holder=holder)
    end = monotonic() + wait_s
    while True:
        reservation = _lease(
            lab,
            requests,
            wanted=describe_all(requirements),
            store=store,
            holder=holder,
            end=end,
            wait_s=wait_s,
            expiry=lab.lease_expiry_s if expiry_s is None else expiry_s,
            priority=priority,
            on_wait=on_wait,
            tied_to_parent=tied_to_parent,
            monotonic=monotonic,
            sleep=sleep,
        )
        try:
            reservation.claim(claims or claims_of(lab))
        except PlaceTaken as taken:
            reservation.release()
            left_s = end - monotonic()
            if left_s <= 0:
                raise LeaseTimeout(f"no board became free within {format_duration(wait_s * 1e9)}: {taken}") from taken
            if on_wait is not None:
                on_wait(f"waiting for a board: {taken}")
            tried = {board.id for board in reservation.boards}
            requests = tuple(tuple(sorted(wishes, key=tried.__contains__)) for wishes in requests)
            sleep(min(_LONGEST_PAUSE_S, left_s))
        except BaseException:
            reservation.release()
            raise
        else:
            return reservation


def _lease(
    lab: Lab,
    requests: tuple[tuple[str, ...], ...],
    *,
    wanted: str,
    store: LabStore,
    holder: Holder,
    end: float,
    wait_s: float,
    expiry: float,
    priority: int,
    on_wait: Callable[[str], None] | None,
    tied_to_parent: bool,
    monotonic: Callable[[], float],
    sleep: Callable[[float], None],
) -> Reservation:
    """Lease boards in our own store, waiting until `end`."""
    said: tuple[int, str] | None = None
    pause_s = _FIRST_PAUSE_S

    def ours(leases: tuple[Lease, ...], asked: float) -> Reservation:
        return Reservation(
            boards=tuple(lab.board(lease.board_id) for lease in leases),
            leases=leases,
            store=store,
            expiry_s=expiry,
            asked=asked,
            tied_to_parent=tied_to_parent,
            monotonic=monotonic,
        )

    with contextlib.ExitStack() as leaving:
        place: Place | None = None
        look_at: float | None = None
        while True:
            asked = monotonic()
            try:
                if place is not None and look_at is not None:
                    _until_called(place, look_at, every_s=expiry / 3, monotonic=monotonic)
                elif place is None:
                    leases = store.acquire(requests, holder=holder, expiry_s=expiry, priority=priority)
                    if leases is not None:
                        return ours(leases, asked)
                    place = leaving.enter_context(
                        store.queue_up(requests, holder=holder, expiry_s=expiry, priority=priority)
                    )
                asked = monotonic()
                step = place.advance()
            except LeaseError as trouble:
                look_at = None
                left_s = end - monotonic()
                if left_s <= 0:
                    raise
                if on_wait is not None and said != (0, str(trouble)):
                    said = (0, str(trouble))
                    on_wait(f"waiting for {wanted}: {trouble}; trying again")
                sleep(min(pause_s, left_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            if not isinstance(step, Waiting):
                return ours(step, asked)
            where = f" (place {step.place} of {step.of} in the queue)" if step.of > 1 else ""
            if step.hopeless:
                raise LeaseTimeout(
                    f"no healthy board is left in {lab.path} for {wanted}: {step.why}; "
                    "mend what is broken and run 'edgehil lab restore BOARD'"
                )
            left_s = end - monotonic()
            if left_s <= 0:
                raise LeaseTimeout(
                    f"no board became free within {format_duration(wait_s * 1e9)} for {wanted}{where}: {step.why}; "
                    "run 'edgehil lab boards' to see who holds what"
                )
            if on_wait is not None and said != (step.place, step.why):
                said = (step.place, step.why)
                on_wait(f"waiting for {wanted}{where}: {step.why}")
            look_at = monotonic() + min(left_s, step.look_again_s + _JUST_AFTER_S)


def _until_called(place: Place, look_at: float, *, every_s: float, monotonic: Callable[[], float]) -> None:
    """Wait until we are called, or it is time to look; say every now and then that we live."""
    while True:
        left_s = look_at - monotonic()
        if left_s <= 0 or place.wait(min(left_s, every_s)):
            return
        if monotonic() < look_at and not place.stay():
            return


def free_boards(lab: Lab, requirement: Requirement, store: LabState) -> tuple[Board, ...]:
    """The matching boards that could be leased now, all at once, best first: how many workers ``-n auto`` starts.

    Raises:
        BoardUnavailable: no board of the lab can ever fulfil the requirement.
        LeaseError: the store cannot be reached.
    """
    fitting = candidates(lab, requirement)
    states = {state.board_id: state for state in store.boards()}
    room = dict(lab.pool_limits)
    for board in lab.boards:
        if board.pool is not None and board.pool in room and states[board.id].holder is not None:
            room[board.pool] -= 1
    free = []
    for board in fitting:
        if states[board.id].state is not BoardStatus.FREE:
            continue
        if board.pool is not None and board.pool in room:
            if room[board.pool] <= 0:
                continue
            room[board.pool] -= 1
        free.append(board)
    return tuple(free)


def _requests(lab: Lab, requirements: Sequence[Requirement], *, holder: Holder) -> tuple[tuple[str, ...], ...]:
    if not requirements:
        raise ValueError("a reservation needs at least one requirement")
    requests = tuple(tuple(board.id for board in candidates(lab, requirement)) for requirement in requirements)
    wanted = describe_all(requirements)
    for account in lab.limits.accounts(holder):
        if account.limit < len(requests):
            raise BoardUnavailable(
                f"{lab.path} can never fulfil {wanted} at once: {account} may have {account.limit} "
                f"board{'s' if account.limit != 1 else ''} at a time, and this asks for {len(requests)}"
            )
    if not _possible(lab, requests):
        matching = sorted({board_id for request in requests for board_id in request})
        limits = ", ".join(f"{pool} {limit}" for pool, limit in sorted(lab.pool_limits.items()))
        raise BoardUnavailable(
            f"{lab.path} can never fulfil {wanted} at once: {len(matching)} board{'s' if len(matching) != 1 else ''} "
            f"({', '.join(matching)}) for {len(requests)} requirements"
            + (f", with the pool limits {limits}" if limits else "")
        )
    return requests


def _possible(lab: Lab, requests: Sequence[Sequence[str]]) -> bool:
    """Whether the requests could be fulfilled if nobody held anything."""
    return (
        assign(
            requests,
            available={board.id for board in lab.boards},
            pools={board.id: board.pool for board in lab.boards if board.pool is not None},
            room=lab.pool_limits,
        )
        is not None
    )


class Reservation:
    """Boards that are ours until `release`, or until `check` says otherwise. Made by `reserve`.

    Leaving the ``with`` block checks once more before it releases: what was done with a lost board must not count.

    Args:
        boards: the boards, in the order of the requirements.
        leases: their leases, just acquired.
        store: where to renew them.
        expiry_s: how long a renewal lasts.
        asked: `monotonic` before the leases were asked for.
        tied_to_parent: see `reserve`.
        monotonic: seconds that are never set back.
    """

    def __init__(
        self,
        *,
        boards: tuple[Board, ...],
        leases: tuple[Lease, ...],
        store: LabStore,
        expiry_s: float,
        asked: float,
        tied_to_parent: bool,
        monotonic: Callable[[], float],
    ) -> None:
        self.boards = boards
        self.store = store
        self._expiry_s = expiry_s
        self._monotonic = monotonic
        self._pid = os.getpid()
        self._parent = os.getppid() if tied_to_parent else None
        self._lock = threading.Lock()
        self._leases = {lease.board_id: lease for lease in leases}
        # by the clock that is never set back, counted from before we asked: never later than the store's expiry
        self._deadlines = {lease.board_id: asked + lease.lasts_s for lease in leases}
        self._claim: Claim | None = None
        self._lost: str | None = None
        self._trouble: LeaseError | None = None
        self._released = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="edgehil-lease-heartbeat", daemon=True)
        self._thread.start()

    @property
    def leases(self) -> tuple[Lease, ...]:
        """The leases as last renewed, in the order of `boards`."""
        # without the lock: a fork may have been made while the heartbeat held it, and would wait for ever
        return tuple(self._leases[board.id] for board in self.boards)

    def claim(self, claims: Claims) -> None:
        """Take the boards in the other labs that they belong to; they are given back with the reservation.

        Raises:
            PlaceTaken: somebody holds one of them there.
            LeaseError: the other lab cannot be asked.
        """
        self._claim = claims(self.boards, self.leases)

    def check(self) -> None:
        """Return if every board is still ours.

        Raises:
            LeaseLost: a lease expired or was taken away, the reservation was released, or this process is a fork of
                the one that made it.
        """
        if os.getpid() != self._pid:
            raise LeaseLost(
                f"the reservation of {self._names()} belongs to process {self._pid}, and process {os.getpid()} is only "
                "a fork of it: reserve boards in the process that uses them"
            )
        with self._lock:
            if self._lost is None and not self._released:
                self._find_expired()
                self._lost = self._lost or (self._claim.lost() if self._claim is not None else None)
            said, trouble = self._lost, self._trouble
        if said is not None:
            raise LeaseLost(said) from trouble
        if self._released:
            raise LeaseLost(f"the reservation of {self._names()} has been released")

    def left_s(self) -> float:
        """Seconds until the first of the leases ends unless it is renewed; negative when it is over."""
        with self._lock:
            return min(self._deadlines.values()) - self._monotonic()

    def release(self) -> None:
        """Stop the heartbeat and give the boards back; nothing happens the second time, or in a fork.

        Raises:
            LeaseError: the store cannot be reached; the leases end by their expiry.
        """
        if os.getpid() != self._pid:
            return
        with self._lock:
            if self._released:
                return
            self._released = True
        self._stop.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=self._expiry_s)
        trouble: LeaseError | None = None
        if self._claim is not None:  # before the lease: who gets it next must find the board free there
            self._claim.release()
        for lease in self.leases:
            try:
                self.store.release(lease)
            except LeaseError as wrong:  # the others must be given back all the same
                trouble = wrong
        if trouble is not None:
            raise trouble

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            return
        try:
            if kind is None and not self._released:
                self.check()
        finally:
            self.release()

    def _names(self) -> str:
        return ", ".join(board.id for board in self.boards)

    # --- the heartbeat's thread -----------------------------------------------------------------------

    def _heartbeat(self) -> None:
        pause_s = self._expiry_s / 3
        while not self._stop.wait(pause_s):
            try:
                pause_s = self.beat()
            except Exception as bug:  # noqa: BLE001 -- a dead heartbeat must not look like a living one
                with self._lock:
                    self._lost = self._lost or f"the heartbeat of {self._names()} died: {type(bug).__name__}: {bug}"
                return

    def beat(self) -> float:
        """Renew every lease once; return the seconds until that is due again. The heartbeat's thread calls this."""
        if self._parent is not None and os.getppid() != self._parent:
            with self._lock:
                self._lost = self._lost or (
                    f"the process {self._parent} that started this one is gone: {self._names()} "
                    "is not renewed any more and becomes free by its expiry"
                )
            self._stop.set()
            return self._expiry_s
        pause_s = self._expiry_s / 3
        for lease in self.leases:
            asked = self._monotonic()
            try:
                renewed = self.store.renew(lease, expiry_s=self._expiry_s)
            except LeaseLost as gone:
                with self._lock:
                    self._lost = self._lost or str(gone)
            except LeaseError as unreachable:  # tried again sooner; lost for good once the expiry has passed
                pause_s = self._expiry_s / 10
                with self._lock:
                    self._trouble = unreachable
                    self._find_expired()
            else:
                with self._lock:
                    self._find_expired()
                    self._leases[lease.board_id] = renewed
                    self._deadlines[lease.board_id] = asked + renewed.lasts_s
                    self._trouble = None
        return pause_s

    def _find_expired(self) -> None:
        """Notice, under the lock, that a lease has run out unrenewed."""
        if self._lost is not None:
            return
        for board_id, lease in self._leases.items():
            late_s = self._monotonic() - self._deadlines[board_id]
            if late_s >= 0:
                self._lost = (
                    f"lease on {board_id} (token {lease.token}) expired {format_duration(late_s * 1e9)} ago because it "
                    f"was not renewed{self._because()}; {self._held_now(board_id)}; "
                    "run 'edgehil lab boards' to see who holds what"
                )
                return

    def _because(self) -> str:
        return f": {self._trouble}" if self._trouble is not None else ": this process was paused or starved"

    def _held_now(self, board_id: str) -> str:
        try:
            states = {state.board_id: state for state in self.store.boards()}
        except LeaseError:
            return "who holds it now is unknown"
        holder = states[board_id].holder
        return f"it is held by {holder} now" if holder is not None else "nobody holds it now"


class Share:
    """One board of a reservation of several, with what a holder of one board needs. Made by `shares_of`.

    They are kept and lost together; they are given back when the last share is.

    Args:
        whole: the reservation.
        index: which of its boards.
        open_shares: the indices that are not given back, shared by all.
    """

    def __init__(self, whole: Reservation, index: int, open_shares: set[int]) -> None:
        self._whole = whole
        self._index = index
        self._open = open_shares

    @property
    def boards(self) -> tuple[Board, ...]:
        """Its board."""
        return (self._whole.boards[self._index],)

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Its lease."""
        return (self._whole.leases[self._index],)

    @property
    def store(self) -> LabStore:
        """Where it is kept."""
        return self._whole.store

    def check(self) -> None:
        """See `Reservation.check`."""
        self._whole.check()

    def beat(self) -> float:
        """See `Reservation.beat`."""
        return self._whole.beat()

    def left_s(self) -> float:
        """See `Reservation.left_s`."""
        return self._whole.left_s()

    def release(self) -> None:
        """Give this one back; see `Reservation.release`."""
        self._open.discard(self._index)
        if not self._open:
            self._whole.release()


def shares_of(reservation: Reservation) -> tuple[Share, ...]:
    """A share for each board of a reservation."""
    still_open = set(range(len(reservation.boards)))
    return tuple(Share(reservation, index, still_open) for index in range(len(reservation.boards)))
