"""Waiting for boards: who is served when, by every store. Time stands still; a place advances when the test says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import LeaseTimeout
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Holder, LabStore, Lease, Place, Waiting
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement

KINDS = ("sqlite", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres")))
BOARDS = ("a", "b", "c")
FARM = "lab: queue\nlease_expiry: 10 s\nboards:\n" + "".join(
    f"  {board}: {{class: pi5, environment: virtual}}\n" for board in BOARDS
)
EXPIRY_S = 10.0
DEADLINE_S = 60.0

Join = Callable[..., Place]


def who(name: str) -> Holder:
    return Holder(name=name, host="runner", pid=1, user="ci")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lab(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Lab:
    if kind == "postgres":
        return request.getfixturevalue("postgres").new_lab(tmp_path, FARM)
    return make_lab(tmp_path, FARM)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(kind: str, lab: Lab, clock: FakeClock) -> Iterator[LabStore]:
    opened = MemoryLeaseStore.of(lab, clock=clock) if kind == "memory" else open_store(lab, clock=clock)
    with closing(opened):
        yield opened


@pytest.fixture
def join(store: LabStore) -> Iterator[Join]:
    """Join the queue under a name, for so many boards out of these; leaves at the end."""
    with ExitStack() as leaving:

        def join_one(name: str, *requests: Sequence[str], priority: int = 0) -> Place:
            place = leaving.enter_context(
                store.queue_up(requests, holder=who(name), expiry_s=EXPIRY_S, priority=priority)
            )
            place.advance()
            return place

        yield join_one


def hold(store: LabStore, *boards: str, name: str = "holder", expiry_s: float = 1000.0) -> list[Lease]:
    leases = store.acquire([[board] for board in boards], holder=who(name), expiry_s=expiry_s)
    assert leases is not None
    return list(leases)


def got(step: tuple[Lease, ...] | Waiting) -> list[str]:
    return [] if isinstance(step, Waiting) else [lease.board_id for lease in step]


def test_of_two_who_wait_the_older_one_is_served_first(store: LabStore, join: Join) -> None:
    (lease,) = hold(store, "a")
    first, second = join("first", ["a"]), join("second", ["a"])
    store.release(lease)

    assert got(second.advance()) == []
    assert got(first.advance()) == ["a"]


def test_a_higher_priority_goes_first_and_age_decides_among_equals(store: LabStore, join: Join) -> None:
    (lease,) = hold(store, "a")
    names = {"old": 0, "release": 10, "younger release": 10}
    places = {name: join(name, ["a"], priority=priority) for name, priority in names.items()}

    served = []
    for _ in names:
        store.release(lease)
        for name, place in list(places.items()):
            step = place.advance()
            if not isinstance(step, Waiting):
                served.append(name)
                (lease,) = step
                del places[name]
                break

    assert served == ["release", "younger release", "old"]


def test_who_does_not_queue_gets_nothing_that_is_kept_for_those_who_do(store: LabStore, join: Join) -> None:
    (lease,) = hold(store, "a")
    place = join("waiting", ["a"])
    store.release(lease)

    assert store.acquire([["a"]], holder=who("pushy"), expiry_s=EXPIRY_S) is None
    assert store.acquire([["a", "b"]], holder=who("modest"), expiry_s=EXPIRY_S)[0].board_id == "b"
    assert store.acquire([["a"]], holder=who("urgent"), expiry_s=EXPIRY_S, priority=1)[0].board_id == "a"
    assert got(place.advance()) == []


def test_a_request_for_several_boards_is_not_starved_by_requests_for_one(store: LabStore, join: Join) -> None:
    leases = {lease.board_id: lease for lease in hold(store, *BOARDS)}
    wide = join("wide", BOARDS, BOARDS, BOARDS)
    narrow = [join(f"narrow {number}", BOARDS) for number in range(3)]

    for board in BOARDS:
        assert [got(place.advance()) for place in narrow] == [[], [], []]
        assert got(wide.advance()) == []
        store.release(leases[board])

    assert sorted(got(wide.advance())) == sorted(BOARDS)


def test_what_brings_an_older_request_no_nearer_is_given_to_younger_ones(store: LabStore, join: Join) -> None:
    held = {lease.board_id: lease for lease in hold(store, *BOARDS)}
    wide = join("wide", ["a"], ["b"])
    narrow = join("narrow", BOARDS)
    store.release(held["a"])
    store.release(held["c"])

    assert got(wide.advance()) == []
    assert got(narrow.advance()) == ["c"]


def test_only_as_many_boards_are_kept_as_an_older_request_needs(store: LabStore, join: Join) -> None:
    held = {lease.board_id: lease for lease in hold(store, *BOARDS)}
    join("wide", ["a", "b"], ["c"])
    narrow = join("narrow", BOARDS)
    store.release(held["a"])
    assert got(narrow.advance()) == []

    store.release(held["b"])
    assert len(got(narrow.advance())) == 1


def test_a_request_that_needs_a_quarantined_board_keeps_nothing_from_others(store: LabStore, join: Join) -> None:
    held = {lease.board_id: lease for lease in hold(store, "a", "b")}
    wide = join("wide", ["a"], ["b"])
    narrow = join("narrow", ["a"])
    store.quarantine("b", reason="dead", by=who("operator"))
    store.release(held["a"])

    step = wide.advance()
    assert isinstance(step, Waiting)
    assert step.hopeless
    assert got(narrow.advance()) == ["a"]


def test_who_is_silent_for_an_expiry_is_out_of_the_queue(store: LabStore, join: Join, clock: FakeClock) -> None:
    (lease,) = hold(store, "a")
    dead, living = join("dead", ["a"]), join("living", ["a"])
    for _ in range(3):
        clock.advance(EXPIRY_S / 3)
        living.advance()
    store.release(lease)

    assert got(living.advance()) == ["a"]
    assert got(dead.advance()) == []  # it comes back as a new one


def test_the_time_until_a_dead_one_ahead_is_out_is_told(store: LabStore, join: Join, clock: FakeClock) -> None:
    (lease,) = hold(store, "a", expiry_s=1000)
    join("dead", ["a"])
    clock.advance(4)
    living = join("living", ["a"])
    store.release(lease)

    step = living.advance()
    assert isinstance(step, Waiting)
    assert step.look_again_s == pytest.approx(EXPIRY_S - 4)
    clock.advance(step.look_again_s)
    assert got(living.advance()) == ["a"]


def test_the_time_until_a_dead_holders_lease_ends_is_told(store: LabStore, join: Join, clock: FakeClock) -> None:
    hold(store, "a", expiry_s=8)
    clock.advance(3)
    place = join("waiting", ["a"])

    step = place.advance()
    assert isinstance(step, Waiting)
    assert step.look_again_s == pytest.approx(5)
    clock.advance(step.look_again_s)
    assert got(place.advance()) == ["a"]


def test_leaving_the_queue_lets_those_behind_go_on(store: LabStore, join: Join) -> None:
    hold(store, "a")
    with store.queue_up([["a"], ["b"]], holder=who("impatient"), expiry_s=EXPIRY_S) as wide:
        wide.advance()
        narrow = join("narrow", ["b"])
        assert got(narrow.advance()) == []

    assert got(narrow.advance()) == ["b"]
    assert store.queue() == ()


def test_who_waits_is_told_the_place_and_for_whom(store: LabStore, join: Join) -> None:
    held = {lease.board_id: lease for lease in hold(store, "a", "b", name="ci-1")}
    join("ci-2", ["a"], ["b"])
    last = join("ci-3", ["a", "b"])
    store.release(held["b"])

    step = last.advance()
    assert isinstance(step, Waiting)
    assert (step.place, step.of) == (2, 2)
    assert step.why == (
        "a is held by ci-1 (pid 1 on runner), b is kept for ci-2 (pid 1 on runner), who is ahead in the queue"
    )


def test_the_queue_can_be_looked_at(store: LabStore, join: Join, clock: FakeClock) -> None:
    held = {lease.board_id: lease for lease in hold(store, "a", "b")}
    asked_at = clock.now
    join("ci-1", ["a"])
    clock.advance(1)
    join("ci-2", ["a", "b"], priority=5)
    store.release(held["b"])

    shown = store.queue()

    assert [(one.holder.name, one.priority, one.asked_at - asked_at, one.wanted) for one in shown] == [
        ("ci-2", 5, 1, (("a", "b"),)),
        ("ci-1", 0, 0, (("a",),)),
    ]
    assert shown[0].waiting is None  # it can have b and is about to take it
    assert shown[1].waiting is not None
    assert shown[1].waiting.why == "a is held by holder (pid 1 on runner)"


@pytest.mark.parametrize("how", ["released", "taken away", "restored", "expired"])
def test_whoever_waits_is_woken(kind: str, lab: Lab, how: str) -> None:
    opened = MemoryLeaseStore.of(lab) if kind == "memory" else open_store(lab)
    lasting_s = 5.0 if how == "expired" else 100.0
    with closing(opened) as store:
        held = hold(store, *(BOARDS if how != "restored" else BOARDS[1:]), expiry_s=lasting_s)
        if how == "restored":
            store.quarantine("a", reason="loose cable", by=who("operator"))
        waiting, done = threading.Event(), threading.Event()
        seen: list[float] = []

        def wait() -> None:
            # a, and b or c: neither hopeless nor possible before the end
            reservation = reserve(
                lab,
                [Requirement(board_id="a") if how != "restored" else Requirement()],
                store=store,
                holder=who("waiting"),
                wait_s=DEADLINE_S,
                expiry_s=60.0,  # ours: nobody looks by himself for 20 s
                on_wait=lambda _: waiting.set(),
            )
            seen.append(time.monotonic())
            reservation.release()
            done.set()

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        for _ in range(int(DEADLINE_S)):  # it must not end before somebody waits for it
            if waiting.wait(1.0):
                break
            if how == "expired":
                store.renew(held[0], expiry_s=lasting_s)
        assert waiting.is_set()
        if how == "released":
            store.release(held[0])
        elif how == "taken away":
            store.force_release("a", by=who("operator"), reason="needed")
        elif how == "restored":
            store.restore("a", by=who("operator"))
        assert done.wait(DEADLINE_S)
        thread.join()


def test_a_time_that_is_up_leaves_the_queue(store: LabStore, lab: Lab) -> None:
    hold(store, "a", name="ci-1")

    with pytest.raises(LeaseTimeout, match=r"within 0 ns for board a: a is held by ci-1 "):
        reserve(lab, [Requirement(board_id="a")], store=store, holder=who("ci-2"), wait_s=0)
    assert store.queue() == ()
