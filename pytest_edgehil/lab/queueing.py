"""Who gets which board next: the queue, settled by priority, then by age. Pure; the stores call it in transactions.

A request is one row in the queue until it is fulfilled as a whole. `settle` goes through the queue from its head and
gives each request its boards in thought:

* One that can be fulfilled takes its boards, also while its owner has not come for them yet.
* One that cannot is *kept* as many of its boards as are free: the most that can be given to it at once. Nobody who is
  behind it gets those. In every limited pool it is kept one place for each board that it still lacks.
* One whose user or project has no boards left to take is kept nothing but its share of that quota.
* One that cannot be fulfilled even if nobody held anything (a board is quarantined or in maintenance) is kept nothing.

Why that starves nobody. Let the request at the head lack boards. What is kept for it is free and stays so, and whatever
is returned is offered to it first, so the number of boards that it has never falls. A board x that goes to somebody
behind it is one that it could not have used: no augmenting path leads to x, and paths do not appear later by boards
coming in, since each of those is taken at once if any path leads to it (the sets of boards that can serve a request
together are the independent sets of a transversal matroid: what is kept spans all that was free). Places in pools do
not change that, because in each pool either enough of them are kept or nobody behind it gets any. So it is served at
the latest when each lease that runs now on a board that it could use, or in a pool of one, has ended once. Then the
next one is the head.

Why nothing idles needlessly. A free board is kept back only where it brings an older request nearer to being whole; any
other one goes to the first who can use it, however young.

Why there is no deadlock. Boards are leased all at once or not at all; what is kept is no lease but is worked out afresh
from the head of one queue each time, so nobody waits for somebody who waits for him. (A process that holds boards and
asks for more is beyond this: it may wait for another that does the same, until its time is up.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_edgehil.lab.assignment import assign, assign_most
from pytest_edgehil.lab.health import HealthRules
from pytest_edgehil.lab.leases import Holder, Lease
from pytest_edgehil.lab.limits import Account, Limits, Maintenance

Wanted = tuple[tuple[str, ...], ...]
"""For each wanted board the ids that do, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a lab file says about handing out: its boards, their pools, its limits."""

    board_ids: tuple[str, ...]
    pools: Mapping[str, str]
    pool_limits: Mapping[str, int]
    limits: Limits = field(default_factory=Limits)
    health: HealthRules = field(default_factory=HealthRules)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiter:
    """Somebody in the queue.

    Args:
        ticket: grows with every request; of two with one priority the lower one is first.
        holder: who.
        priority: the higher one is first.
        asked_at: since when, in seconds since the epoch.
        alive_until: unless it says by then that it lives, it is out.
        wanted: what it waits for.
        bell: how it is woken; the store knows what that means.
    """

    ticket: int
    holder: Holder
    priority: int
    asked_at: float
    alive_until: float
    wanted: Wanted
    bell: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Everything that a decision depends on, as it was at one moment.

    Args:
        now: that moment.
        leases: those that have not expired, by board.
        quarantined: boards that are not handed out, with the reason.
        maintenance: boards that are not handed out for a while.
        expired: leases that ended without being returned, by board.
        queue: who waits, the first one first.
        clock_went_back: does a lease end later than it could if time had only ever gone on?
    """

    now: float
    leases: Mapping[str, Lease]
    quarantined: Mapping[str, str]
    maintenance: Mapping[str, Maintenance]
    queue: tuple[Waiter, ...]
    expired: Mapping[str, Lease] = field(default_factory=dict)
    clock_went_back: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one request.

    Args:
        waiter: whose.
        boards: what it can have now, one for each wanted; None: it has to wait.
        kept: free boards that are kept for it meanwhile.
        short: the account that has no boards left, if that is why.
    """

    waiter: Waiter
    boards: tuple[str, ...] | None
    kept: tuple[str, ...] = ()
    short: Account | None = None


def in_order(queue: Sequence[Waiter]) -> tuple[Waiter, ...]:
    """The queue with its head first."""
    return tuple(sorted(queue, key=lambda waiter: (-waiter.priority, waiter.ticket)))


def settle(rules: Rules, books: Books, queue: Sequence[Waiter]) -> Iterator[Outcome]:
    """Go through the queue, head first; see the module.

    Args:
        rules: of the lab.
        books: who has what.
        queue: in order; it may hold somebody who only asks and is not in the books' queue.
    """
    closed = books.quarantined.keys() | books.maintenance.keys()
    wanted = {board for waiter in queue for request in waiter.wanted for board in request}
    free = wanted - books.leases.keys() - closed
    room = dict(rules.pool_limits)
    for board in books.leases:
        pool = rules.pools.get(board)
        if pool in room:
            room[pool] -= 1
    left: dict[tuple[str, str], int] = {}
    for waiter in queue:
        count = len(waiter.wanted)
        accounts = rules.limits.accounts(waiter.holder)
        short = None
        for account in accounts:
            key = (account.kind, account.name)
            if key not in left:
                left[key] = account.limit - used(rules, books, account)
            if left[key] < count:
                short = account
            left[key] -= count  # also where it is short: who comes later must not take the share of who came first
        if short is not None:
            yield Outcome(waiter=waiter, boards=None, short=short)
            continue
        chosen = assign(waiter.wanted, available=free, pools=rules.pools, room=room) if free else None
        if chosen is None:
            yield _kept_waiting(rules, books, waiter, free, room) if free else Outcome(waiter=waiter, boards=None)
            continue
        for board in chosen:
            _take(board, free, room, rules.pools)
        yield Outcome(waiter=waiter, boards=chosen)


def _kept_waiting(rules: Rules, books: Books, waiter: Waiter, free: set[str], room: dict[str, int]) -> Outcome:
    if not possible(rules, books, waiter.wanted):
        return Outcome(waiter=waiter, boards=None)
    given = assign_most(waiter.wanted, available=free, pools=rules.pools, room=room)
    for board in given.values():
        _take(board, free, room, rules.pools)
    for request, boards in enumerate(waiter.wanted):
        if request not in given:
            for pool in {rules.pools[board] for board in boards if board in rules.pools}:
                if room.get(pool, 0) > 0:
                    room[pool] -= 1
    return Outcome(waiter=waiter, boards=None, kept=tuple(given.values()))


def possible(rules: Rules, books: Books, wanted: Wanted) -> bool:
    """Could it be fulfilled now if nobody held anything?"""
    return _fits_without(rules, wanted, books.quarantined.keys() | books.maintenance.keys())


def hopeless(rules: Rules, books: Books, wanted: Wanted) -> bool:
    """Does every way to fulfil it need a quarantined board? Maintenance ends by itself."""
    return not _fits_without(rules, wanted, books.quarantined.keys())


def _fits_without(rules: Rules, wanted: Wanted, closed: Collection[str]) -> bool:
    everything = {board for request in wanted for board in request}.difference(closed)
    return assign(wanted, available=everything, pools=rules.pools, room=rules.pool_limits) is not None


def _take(board: str, free: set[str], room: dict[str, int], pools: Mapping[str, str]) -> None:
    free.remove(board)
    pool = pools.get(board)
    if pool in room:
        room[pool] -= 1


def used(rules: Rules, books: Books, account: Account) -> int:
    """How many boards are counted on an account now."""
    return sum(
        any((one.kind, one.name) == (account.kind, account.name) for one in rules.limits.accounts(lease.holder))
        for lease in books.leases.values()
    )


def ready(rules: Rules, books: Books) -> tuple[Waiter, ...]:
    """Those in the queue who could have their boards now: whom to wake."""
    return tuple(outcome.waiter for outcome in settle(rules, books, books.queue) if outcome.boards is not None)
