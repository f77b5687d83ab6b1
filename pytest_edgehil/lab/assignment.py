"""Which board for which request: all of them, or none.

This is a flow from requests over boards to pools, solved by augmenting paths: a request that finds its boards given
away asks their owners to move, and one that finds a pool full asks somebody in the pool to leave it. So a request for
two boards is refused only when there is really no way, whatever the order of the wishes (a greedy choice would let
"any board" take the only one with an accelerator). Pure; the store calls it inside its transaction.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


def assign(
    requests: Sequence[Sequence[str]],
    *,
    available: Collection[str],
    pools: Mapping[str, str],
    room: Mapping[str, int],
) -> tuple[str, ...] | None:
    """Give every request one of its boards, no board twice and no pool beyond its room.

    Args:
        requests: for each wanted board the ids that do, best first.
        available: ids that can be given away now.
        pools: the pool of a board; boards that are not in here have no limit.
        room: how many more boards of a pool may be given away; pools that are not in here have no limit.

    Returns:
        One id per request, in the same order; None when there is no way.

    >>> assign([["a", "b"], ["a"]], available={"a", "b"}, pools={}, room={})
    ('b', 'a')
    >>> assign([["a"], ["b"]], available={"a", "b"}, pools={"a": "hat", "b": "hat"}, room={"hat": 1}) is None
    True
    """
    wishes = [[board for board in request if board in available] for request in requests]
    given: dict[str, int] = {}
    used = dict.fromkeys(room, 0)

    def place(request: int, seen_boards: set[str], seen_pools: set[str]) -> bool:
        for board in wishes[request]:
            if board in seen_boards:
                continue
            seen_boards.add(board)
            owner = given.get(board)
            if owner is not None:
                if place(owner, seen_boards, seen_pools):
                    given[board] = request
                    return True
                continue
            pool = pools.get(board)
            if pool is None or pool not in room:
                given[board] = request
                return True
            if used[pool] < room[pool]:
                used[pool] += 1
                given[board] = request
                return True
            if pool in seen_pools:
                continue
            seen_pools.add(pool)
            for other in [taken for taken in given if pools.get(taken) == pool]:
                if other in seen_boards:
                    continue
                seen_boards.add(other)
                mover = given[other]
                if place(mover, seen_boards, seen_pools):
                    # the mover has another board now, and its place in the pool goes to us
                    del given[other]
                    given[board] = request
                    return True
        return False

    for request in range(len(wishes)):
        if not place(request, set(), set()):
            return None
    chosen = {request: board for board, request in given.items()}
    return tuple(chosen[request] for request in range(len(wishes)))
