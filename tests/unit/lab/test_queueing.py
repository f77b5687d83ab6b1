"""The queue's promises, on queues and labs drawn at random: nobody starves, nothing idles needlessly, no deadlock."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pytest_edgehil.lab.assignment import assign
from pytest_edgehil.lab.leases import Holder, Lease
from pytest_edgehil.lab.limits import Limits, Quota
from pytest_edgehil.lab.queueing import Books, Outcome, Rules, Waiter, in_order, ready, settle

BOARDS = ("a", "b", "c", "d", "e")


def who(name: str, *, user: str = "ci", project: str = "") -> Holder:
    return Holder(name=name, host="runner", pid=1, user=user, project=project)


def waiter(ticket: int, *wanted: str, priority: int = 0, user: str = "ci", project: str = "") -> Waiter:
    """Wanted boards as words of board names: "ab" is one board out of a and b."""
    return Waiter(
        ticket=ticket,
        holder=who(f"w{ticket}", user=user, project=project),
        priority=priority,
        asked_at=0.0,
        alive_until=100.0,
        wanted=tuple(tuple(one) for one in wanted),
    )


def rules(*, pools: dict[str, str] | None = None, room: dict[str, int] | None = None, **limits: Quota) -> Rules:
    return Rules(board_ids=BOARDS, pools=pools or {}, pool_limits=room or {}, limits=Limits(**limits))


def books(
    queue: list[Waiter], *, held: str = "", user: str = "other", project: str = "", quarantined: str = ""
) -> Books:
    leases = {
        board: Lease(
            board_id=board,
            token=1,
            holder=who("holder", user=user, project=project),
            acquired_at=0.0,
            expires_at=9.0,
            lasts_s=9.0,
        )
        for board in held
    }
    return Books(
        now=0.0,
        leases=leases,
        quarantined=dict.fromkeys(quarantined, "dead"),
        maintenance={},
        queue=in_order(queue),
    )


def settled(of: Rules, now: Books) -> dict[int, Outcome]:
    return {outcome.waiter.ticket: outcome for outcome in settle(of, now, now.queue)}


LABS = st.fixed_dictionaries(
    {
        "pools": st.dictionaries(st.sampled_from(BOARDS), st.sampled_from(("p", "q")), max_size=4),
        "room": st.fixed_dictionaries({"p": st.integers(1, 3), "q": st.integers(1, 2)}),
    }
)
WORDS = st.lists(st.sampled_from(BOARDS), min_size=1, max_size=4, unique=True).map("".join)
REQUESTS = st.lists(WORDS, min_size=1, max_size=3)
HELD = st.sets(st.sampled_from(BOARDS)).map(sorted).map("".join)


@given(LABS, st.lists(st.tuples(REQUESTS, st.integers(0, 1)), min_size=1, max_size=5), HELD)
def test_what_is_given_and_kept_is_free_and_nobody_else_s_and_within_the_pools(
    lab: dict, requests: list[tuple[list[str], int]], held: str
) -> None:
    of = rules(**lab)
    now = books(
        [waiter(number, *wanted, priority=priority) for number, (wanted, priority) in enumerate(requests)], held=held
    )

    handled = [board for outcome in settled(of, now).values() for board in (*(outcome.boards or ()), *outcome.kept)]

    assert len(handled) == len(set(handled))
    assert not set(handled) & set(held)
    for pool, limit in lab["room"].items():
        given_out = sum(lab["pools"].get(board) == pool for board in handled)
        busy = sum(lab["pools"].get(board) == pool for board in held)
        assert given_out == 0 or given_out + busy <= limit


@given(LABS, REQUESTS, st.lists(REQUESTS, max_size=4), HELD)
def test_a_free_board_is_refused_to_somebody_only_where_it_brings_an_older_request_nearer(
    lab: dict, head: list[str], others: list[list[str]], held: str
) -> None:
    lab = {**lab, "pools": {}}  # places in pools are kept as well: see the next tests
    of = rules(**lab)
    now = books([waiter(number, *wanted) for number, wanted in enumerate([head, *others])], held=held)
    outcomes = settled(of, now)
    taken = {board for one in outcomes.values() for board in (*(one.boards or ()), *one.kept)}
    idle = set(BOARDS) - set(held) - taken

    for outcome in outcomes.values():
        if outcome.boards is None:
            # with everything idle it would still lack something, and be no nearer to it
            def most(boards: set[str], one: Outcome = outcome) -> int:
                wanted = one.waiter.wanted
                return max(
                    len(some)
                    for size in range(len(wanted) + 1)
                    for some in itertools.combinations(range(len(wanted)), size)
                    if assign([wanted[index] for index in some], available=boards, pools={}, room={}) is not None
                )

            possible = assign(outcome.waiter.wanted, available=BOARDS, pools={}, room={}) is not None
            if possible:
                assert most(idle | set(outcome.kept)) == len(outcome.kept) < len(outcome.waiter.wanted)


@given(
    LABS,
    REQUESTS,
    st.lists(REQUESTS, min_size=1, max_size=6),
    st.permutations(BOARDS),
    st.lists(st.integers(0, 10**6), min_size=30, max_size=30),
)
def test_the_head_is_served_when_each_lease_that_runs_now_has_ended_once_whatever_the_others_do(
    lab: dict, head: list[str], others: list[list[str]], order: list[str], draws: list[int]
) -> None:
    """The adversary: whenever anything is free for them, others take it, and never return it."""
    of = rules(**lab)
    if assign([tuple(one) for one in head], available=BOARDS, pools=of.pools, room=of.pool_limits) is None:
        return
    # as many boards are leased at first as the pools allow
    running: list[str] = []
    for board in order:
        pool = of.pools.get(board)
        if sum(of.pools.get(one) == pool for one in running) < of.pool_limits.get(pool, 99):
            running.append(board)
    first = waiter(0, *head)
    held, tickets, draw = set(running), itertools.count(1), iter(draws)
    queue = [first, *(waiter(next(tickets), *wanted) for wanted in others)]
    for board in running:
        held.discard(board)
        while True:
            now = books(queue, held="".join(sorted(held)))
            outcomes = settled(of, now)
            if outcomes[0].boards is not None:
                return
            can = [one for one in outcomes.values() if one.boards is not None]
            if not can:
                break
            lucky = can[next(draw, 0) % len(can)]
            held |= set(lucky.boards or ())
            # somebody new with the same wish comes at once
            queue = [one for one in queue if one is not lucky.waiter]
            queue.append(Waiter(**{**_fields(lucky.waiter), "ticket": next(tickets)}))
    raise AssertionError(f"the head still waits for {head} while {sorted(held)} are held")


def _fields(one: Waiter) -> dict:
    return {name: getattr(one, name) for name in Waiter.__dataclass_fields__}


def test_places_in_a_pool_are_kept_for_who_lacks_them_and_no_more() -> None:
    pools, room = dict.fromkeys("abcd", "p"), {"p": 3}
    wide, narrow = waiter(1, "a", "b"), waiter(2, "cd")

    one_place = settled(rules(pools=pools, room=room), books([wide, narrow], held="ab"))
    assert one_place[2].boards is None  # a or b may come back, and must find a place
    two_places = settled(rules(pools=pools, room={"p": 5}), books([wide, narrow], held="ab"))
    assert two_places[2].boards == ("c",)


def test_who_has_all_of_a_quota_waits_and_others_do_not() -> None:
    of = rules(users=Quota(each=2))
    queue = [waiter(1, "abc", user="busy"), waiter(2, "abc", user="idle")]
    outcomes = settled(of, books(queue, held="de", user="busy"))

    assert outcomes[1].boards is None
    assert str(outcomes[1].short) == "user busy"
    assert outcomes[2].boards == ("a",)


def test_a_wide_request_is_not_starved_of_its_quota_by_its_own_users_small_ones() -> None:
    of = rules(users=Quota(named={"ci": 2}))
    queue = [waiter(1, "abc", "abc"), waiter(2, "abc")]

    assert settled(of, books(queue, held="d", user="ci"))[2].boards is None


def test_projects_and_users_are_counted_side_by_side() -> None:
    of = rules(users=Quota(each=5), projects=Quota(named={"vision": 1}))
    queue = [waiter(1, "a", project="vision"), waiter(2, "a", project="speech")]
    outcomes = settled(of, books(queue, held="b", user="somebody", project="vision"))

    assert str(outcomes[1].short) == "project vision"
    assert outcomes[2].boards == ("a",)


def test_only_those_are_woken_who_have_something_to_take() -> None:
    queue = [waiter(1, "a"), waiter(2, "a"), waiter(3, "b"), waiter(4, "cd", "cd")]

    assert [one.ticket for one in ready(rules(), books(queue, held="d"))] == [1, 3]
