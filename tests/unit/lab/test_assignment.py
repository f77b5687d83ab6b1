"""Giving boards to requests: all or none, and never None when there is a way."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_edgehil.lab.assignment import assign

BOARDS = "abcdef"


def allowed(choice: tuple[str, ...], pools: dict[str, str], room: dict[str, int]) -> bool:
    if len(set(choice)) != len(choice):
        return False
    return all(sum(pools.get(board) == pool for board in choice) <= limit for pool, limit in room.items())


@settings(max_examples=500, deadline=None)
@given(
    requests=st.lists(st.lists(st.sampled_from(BOARDS), unique=True, max_size=5), max_size=5),
    available=st.sets(st.sampled_from(BOARDS)),
    pools=st.dictionaries(st.sampled_from(BOARDS), st.sampled_from(["p", "q", "unlimited"])),
    room=st.dictionaries(st.sampled_from(["p", "q"]), st.integers(min_value=-1, max_value=3)),
)
def test_a_way_is_found_exactly_when_trying_everything_finds_one(
    requests: list[list[str]], available: set[str], pools: dict[str, str], room: dict[str, int]
) -> None:
    wishes = [[board for board in request if board in available] for request in requests]
    ways = [
        choice
        for choice in itertools.product(*wishes)
        if allowed(choice, pools, {p: max(0, n) for p, n in room.items()})
    ]

    chosen = assign(requests, available=available, pools=pools, room=room)

    if chosen is None:
        assert ways == []
    else:
        assert chosen in ways


def test_the_first_wish_is_granted_when_it_can_be() -> None:
    assert assign([["b", "a"]], available={"a", "b"}, pools={}, room={}) == ("b",)


def test_any_board_moves_aside_for_a_request_that_needs_its_board() -> None:
    assert assign([["a", "b"], ["a"]], available={"a", "b"}, pools={}, room={}) == ("b", "a")


def test_a_place_in_a_full_pool_is_given_up_for_a_request_that_needs_it() -> None:
    chosen = assign([["a", "c"], ["b"]], available={"a", "b", "c"}, pools={"a": "p", "b": "p"}, room={"p": 1})

    assert chosen == ("c", "b")


def test_no_request_needs_no_board() -> None:
    assert assign([], available=set(), pools={}, room={}) == ()
