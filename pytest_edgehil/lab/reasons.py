"""Why a request waits, in words: which board is held by whom, closed, or kept for somebody who asked before. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_edgehil.lab.leases import Queued, Waiting
from pytest_edgehil.lab.queueing import Books, Outcome, Rules, Waiter, hopeless, settle, used

_SHOWN = 8
_LONGEST_S = 30.0


def waiting(rules: Rules, books: Books, queue: Sequence[Waiter], outcomes: Sequence[Outcome]) -> Waiting:
    """What the last of these outcomes means for its waiter.

    Args:
        rules: of the lab.
        books: who has what.
        queue: everybody who waits, in order.
        outcomes: of the waiter, and before it of all who are ahead of it.
    """
    mine = outcomes[-1]
    return Waiting(
        place=len(outcomes),
        of=len(queue),
        why=_why(rules, books, outcomes),
        hopeless=hopeless(rules, books, mine.waiter.wanted),
        look_again_s=_look_again_s(rules, books, outcomes),
    )


def everybody(rules: Rules, books: Books) -> Iterator[Queued]:
    """The queue, each with what it waits for."""
    outcomes: list[Outcome] = []
    for outcome in settle(rules, books, books.queue):
        outcomes.append(outcome)
        waiter = outcome.waiter
        yield Queued(
            holder=waiter.holder,
            priority=waiter.priority,
            asked_at=waiter.asked_at,
            wanted=waiter.wanted,
            waiting=None if outcome.boards is not None else waiting(rules, books, books.queue, outcomes),
        )


def _why(rules: Rules, books: Books, outcomes: Sequence[Outcome]) -> str:
    mine = outcomes[-1]
    if mine.short is not None:
        has = used(rules, books, mine.short)
        return (
            f"{mine.short} has {has} of {mine.short.limit} boards; waiting for one to be returned"
            if has
            else f"older requests of {mine.short} take all of its {mine.short.limit} boards"
        )
    clauses = list(_clauses(rules, books, outcomes))
    if len(clauses) > _SHOWN:
        clauses = [*clauses[:_SHOWN], f"and {len(clauses) - _SHOWN} more"]
    return ", ".join(clauses)


def _clauses(rules: Rules, books: Books, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """One for each board that would do."""
    kept_for = {
        board: outcome.waiter.holder for outcome in outcomes[:-1] for board in (*(outcome.boards or ()), *outcome.kept)
    }
    busy = Counter(rules.pools.get(board) for board in books.leases)
    for board_id in dict.fromkeys(board for request in outcomes[-1].waiter.wanted for board in request):
        lease, pool = books.leases.get(board_id), rules.pools.get(board_id)
        if board_id in books.quarantined:
            yield f"{board_id} is quarantined ({books.quarantined[board_id]})"
        elif board_id in books.maintenance:
            yield f"{board_id} is in maintenance ({books.maintenance[board_id].reason})"
        elif lease is not None:
            yield f"{board_id} is held by {lease.holder}"
        elif board_id in kept_for:
            yield f"{board_id} is kept for {kept_for[board_id]}, who is ahead in the queue"
        elif pool is not None and pool in rules.pool_limits and busy[pool] >= rules.pool_limits[pool]:
            yield f"{board_id} is free, but {busy[pool]} of its pool {pool} are leased, which is the limit"
        else:
            yield f"{board_id} is free, which is not enough"


def _look_again_s(rules: Rules, books: Books, outcomes: Sequence[Outcome]) -> float:
    """How long until somebody's silence, or the end of a window, may change what we get."""
    wanted = {board for request in outcomes[-1].waiter.wanted for board in request}
    pools = {rules.pools[board] for board in wanted if rules.pools.get(board) in rules.pool_limits}
    counts = rules.limits.counts_boards
    ends = [
        lease.expires_at
        for board, lease in books.leases.items()
        if counts or board in wanted or rules.pools.get(board) in pools
    ]
    ends += [books.maintenance[board].until for board in wanted if board in books.maintenance]
    ends += [outcome.waiter.alive_until for outcome in outcomes[:-1]]
    return min([_LONGEST_S, *(end - books.now for end in ends)])
