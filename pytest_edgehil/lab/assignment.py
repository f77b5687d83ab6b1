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
    given = assign_most(requests, available=available, pools=pools, room=room)
    return tuple(given[request] for request in range(len(requests))) if len(given) == len(requests) else None


def assign_most(
    requests: Sequence[Sequence[str]],
    *,
    available: Collection[str],
    pools: Mapping[str, str],
    room: Mapping[str, int],
) -> dict[int, str]:
    """Give as many requests as possible one of their boards; the arguments are those of `assign`.

    Returns:
        The board of each request that got one, by the request's index.

    >>> assign_most([["a"], ["a"], ["b"]], available={"a", "b"}, pools={}, room={})
    {0: 'a', 2: 'b'}
    """
    wishes = [[board for board in request if board in available] for request in requests]
    given: dict[str, int] = {}
    used = dict.fromkeys(room, 0)

    def fits(board: str) -> bool:
        pool = pools.get(board)
        return pool is None or pool not in room or used[pool] < room[pool]

    def place(request: int, seen_boards: set[str], seen_pools: set[str]) -> bool:
        # first what is simply free, so that earlier requests keep their better wishes; then what others can give up
        for board in wishes[request]:
            if board not in given and board not in seen_boards and fits(board):
                given[board] = request
                pool = pools.get(board)
                if pool is not None and pool in used:
                    used[pool] += 1
                return True
        return any(take(board, request, seen_boards, seen_pools) for board in wishes[request])

    def take(board: str, request: int, seen_boards: set[str], seen_pools: set[str]) -> bool:
        if board in seen_boards:
            return False
        seen_boards.add(board)
        owner = given.get(board)
        if owner is not None:
            if not place(owner, seen_boards, seen_pools):
                return False
            given[board] = request
            return True
        pool = pools[board]  # it is free and does not fit, so it has a pool, and that is full
        if pool in seen_pools:
            return False
        seen_pools.add(pool)
        for other in [taken for taken in given if pools.get(taken) == pool]:
            if other in seen_boards:
                continue
            seen_boards.add(other)
            if place(given[other], seen_boards, seen_pools):
                # its owner has another board now, and its place in the pool goes to us
                del given[other]
                given[board] = request
                return True
        return False

    for request in range(len(wishes)):
        place(request, set(), set())
    return {request: board for board, request in sorted(given.items(), key=lambda item: item[1])}
