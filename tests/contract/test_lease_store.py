"""What every store of leases keeps to, whichever it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import LeaseLost
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, Holder, LabStore, Lease, Visit
from pytest_edgehil.lab.store import open_store

CI = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
OPERATOR = Holder(name="ada", host="desk", pid=33, user="ada")
STORES: dict[str, Callable[..., LabStore]] = {
    "sqlite": open_store,
    "memory": MemoryLeaseStore.of,
    "postgres": open_store,
}
KINDS = ("sqlite", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres")))
DEADLINE_S = 60.0


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lab(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Lab:
    if kind == "postgres":
        return request.getfixturevalue("postgres").new_lab(tmp_path)
    return make_lab(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(kind: str, lab: Lab, clock: FakeClock) -> Iterator[LabStore]:
    with closing(STORES[kind](lab, clock=clock)) as opened:
        yield opened


def take(store: LabStore, *boards: str, holder: Holder = CI, expiry_s: float = 10.0) -> Lease | None:
    """Lease one of these boards, the first one best."""
    leases = store.acquire([boards], holder=holder, expiry_s=expiry_s)
    return None if leases is None else leases[0]


def state_of(store: LabStore, board_id: str) -> BoardStatus:
    return next(state.state for state in store.boards() if state.board_id == board_id)


def test_a_lease_names_board_holder_and_expiry(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)

    assert lease is not None
    assert (lease.board_id, lease.holder) == ("bare-1", CI)
    assert (lease.acquired_at, lease.expires_at) == (clock.now, clock.now + 10)


def test_the_best_free_board_is_chosen(store: LabStore) -> None:
    assert [take(store, "bare-2", "bare-1").board_id for _ in range(2)] == ["bare-2", "bare-1"]


def test_a_leased_board_is_refused_until_it_is_released(store: LabStore) -> None:
    lease = take(store, "bare-1")

    assert take(store, "bare-1", holder=OTHER) is None
    assert store.release(lease)
    assert take(store, "bare-1", holder=OTHER) is not None


def test_the_same_holder_does_not_get_a_board_twice(store: LabStore) -> None:
    take(store, "bare-1")

    assert take(store, "bare-1") is None


def test_an_expired_lease_is_free_at_once(store: LabStore, clock: FakeClock) -> None:
    take(store, "bare-1", expiry_s=10)

    clock.advance(9.999)
    assert take(store, "bare-1", holder=OTHER) is None
    clock.advance(0.001)
    assert take(store, "bare-1", holder=OTHER) is not None


def test_renewing_extends_a_lease_from_now(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    clock.advance(9)

    renewed = store.renew(lease, expiry_s=10)

    assert (renewed.token, renewed.acquired_at, renewed.expires_at) == (lease.token, lease.acquired_at, clock.now + 10)
    clock.advance(9)
    assert take(store, "bare-1", holder=OTHER) is None
    store.renew(renewed, expiry_s=10)


def test_an_expired_lease_cannot_be_renewed_even_if_nobody_took_the_board(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    clock.advance(22)

    with pytest.raises(LeaseLost, match=r"lease on bare-1 \(token \d+\) expired 12 s ago; nobody holds it now"):
        store.renew(lease, expiry_s=10)
    assert take(store, "bare-1", holder=OTHER) is not None


def test_renewing_an_expired_lease_names_who_holds_the_board_now(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    clock.advance(10)
    theirs = take(store, "bare-1", holder=OTHER)
    clock.advance(2)

    with pytest.raises(LeaseLost, match=r"expired 2 s ago; it is held by ci-841 \(pid 22 on runner-2\) now"):
        store.renew(lease, expiry_s=10)
    assert store.renew(theirs, expiry_s=10).holder == OTHER


def test_releasing_a_lost_lease_leaves_the_new_one_alone(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    clock.advance(10)
    take(store, "bare-1", holder=OTHER)

    assert not store.release(lease)
    assert take(store, "bare-1") is None


def test_releasing_twice_says_so(store: LabStore) -> None:
    lease = take(store, "bare-1")

    assert [store.release(lease), store.release(lease)] == [True, False]


def test_tokens_grow_over_boards_releases_expiries_and_a_clock_set_back(store: LabStore, clock: FakeClock) -> None:
    tokens = []
    for step_s in (0.0, 11.0, 0.0, -500_000.0, 3.0, 0.0, -1.0):
        clock.advance(step_s)
        first, second = store.acquire([["bare-1", "bare-2"], ["bare-2", "bare-1"]], holder=CI, expiry_s=2)
        tokens += [first.token, second.token]
        store.release(second)
        store.force_release("bare-1", by=OPERATOR, reason="next")

    assert tokens == sorted(set(tokens))


def test_a_request_for_several_boards_is_granted_whole_or_not_at_all(store: LabStore) -> None:
    take(store, "bare-1", holder=OTHER)

    assert store.acquire([["bare-1"], ["bare-2"]], holder=CI, expiry_s=10) is None
    assert state_of(store, "bare-2") is BoardStatus.FREE
    assert [line.event for line in store.audit()] == [AuditEvent.LEASED]


def test_several_boards_come_in_the_order_of_the_requests(store: LabStore) -> None:
    leases = store.acquire([["bare-1", "bare-2"], ["bare-1"], ["hat-2"]], holder=CI, expiry_s=10)

    assert [lease.board_id for lease in leases] == ["bare-2", "bare-1", "hat-2"]
    assert len({lease.token for lease in leases}) == 3


def test_a_pool_gives_out_no_more_boards_than_its_limit(store: LabStore, clock: FakeClock) -> None:
    assert store.acquire([["hat-1"], ["hat-2"]], holder=CI, expiry_s=10) is None
    lease = take(store, "hat-1", expiry_s=10)
    assert take(store, "hat-2", holder=OTHER) is None

    store.release(lease)
    assert take(store, "hat-2", holder=OTHER, expiry_s=10) is not None
    clock.advance(10)
    assert take(store, "hat-1") is not None


def test_a_full_pool_does_not_keep_its_boards_from_being_passed_over(store: LabStore) -> None:
    take(store, "hat-1", holder=OTHER)

    assert take(store, "hat-2", "bare-1").board_id == "bare-1"


def test_a_quarantined_board_is_not_handed_out_until_it_is_restored(store: LabStore) -> None:
    store.quarantine("bare-1", reason="link cut while flashing", by=CI)
    assert take(store, "bare-1", "bare-2").board_id == "bare-2"
    assert take(store, "bare-1") is None

    assert store.restore("bare-1", by=OPERATOR, reason="new cable")
    assert take(store, "bare-1") is not None


def test_restoring_a_board_that_is_not_quarantined_says_so(store: LabStore) -> None:
    assert not store.restore("bare-1", by=OPERATOR)
    assert store.audit() == ()


def test_quarantine_keeps_the_holder_until_it_lets_go(store: LabStore) -> None:
    lease = take(store, "bare-1")
    store.quarantine("bare-1", reason="kernel panic", by=CI)

    store.renew(lease, expiry_s=10)
    state = next(state for state in store.boards() if state.board_id == "bare-1")
    assert (state.state, state.holder, state.token) == (BoardStatus.QUARANTINED, CI, lease.token)
    store.release(lease)
    assert take(store, "bare-1", holder=OTHER) is None


def test_the_first_reason_of_a_quarantine_is_kept_and_the_audit_has_all(store: LabStore, clock: FakeClock) -> None:
    store.quarantine("bare-1", reason="kernel panic", by=CI)
    since = clock.now
    clock.advance(5)
    store.quarantine("bare-1", reason="no answer", by=OTHER)

    state = next(state for state in store.boards() if state.board_id == "bare-1")
    assert (state.reason, state.since) == ("kernel panic", since)
    assert [(line.by.name, line.reason) for line in store.audit()] == [
        ("ci-840", "kernel panic"),
        ("ci-841", "no answer"),
    ]


def test_force_release_frees_the_board_and_tells_the_old_holder_who_and_why(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    ended = store.force_release("bare-1", by=OPERATOR, reason="job was cancelled")
    assert ended.token == lease.token
    clock.advance(3)
    take(store, "bare-1", holder=OTHER)

    with pytest.raises(
        LeaseLost,
        match=r"was taken away by ada \(pid 33 on desk\) 3 s ago: job was cancelled; it is held by ci-841 ",
    ):
        store.renew(lease, expiry_s=10)


def test_force_release_of_a_board_that_nobody_holds_changes_nothing(store: LabStore, clock: FakeClock) -> None:
    take(store, "bare-1", expiry_s=10)
    clock.advance(10)

    assert store.force_release("bare-1", by=OPERATOR, reason="stuck") is None
    assert store.force_release("bare-2", by=OPERATOR, reason="stuck") is None
    assert [line.event for line in store.audit()] == [AuditEvent.LEASED]


def test_the_audit_has_every_change_with_who_when_and_why(store: LabStore, clock: FakeClock) -> None:
    start = clock.now
    first = take(store, "bare-1", expiry_s=10)
    clock.advance(12)
    second = take(store, "bare-1", holder=OTHER, expiry_s=10)
    store.release(second)
    third = take(store, "bare-1", expiry_s=10)
    store.force_release("bare-1", by=OPERATOR, reason="maintenance")
    store.quarantine("bare-1", reason="fan is dead", by=OPERATOR)
    store.restore("bare-1", by=OPERATOR, reason="new fan")

    assert [(line.at - start, line.event.value, line.by.name, line.token, line.reason) for line in store.audit()] == [
        (0, "leased", "ci-840", first.token, ""),
        (10, "expired", "ci-840", first.token, ""),
        (12, "leased", "ci-841", second.token, ""),
        (12, "released", "ci-841", second.token, ""),
        (12, "leased", "ci-840", third.token, ""),
        (12, "force-released", "ada", third.token, "maintenance"),
        (12, "quarantined", "ada", None, "fan is dead"),
        (12, "restored", "ada", None, "new fan"),
    ]


def test_a_clock_set_back_does_not_keep_a_dead_holders_board_for_longer_than_its_expiry(
    store: LabStore, clock: FakeClock
) -> None:
    take(store, "bare-1", expiry_s=10)
    clock.advance(-3600)

    assert take(store, "bare-1", holder=OTHER) is None  # whoever asks for it notices
    clock.advance(10)

    assert take(store, "bare-1", holder=OTHER) is not None


def test_a_clock_set_back_does_not_take_a_board_from_a_living_holder(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-1", expiry_s=10)
    clock.advance(-3600)
    take(store, "bare-2", holder=OTHER)

    clock.advance(9)
    renewed = store.renew(lease, expiry_s=10)
    clock.advance(9)
    assert take(store, "bare-1", holder=OTHER) is None
    store.renew(renewed, expiry_s=10)


def test_states_come_in_the_order_of_the_lab(store: LabStore, clock: FakeClock) -> None:
    lease = take(store, "bare-2", expiry_s=10)
    store.quarantine("hat-2", reason="hot", by=CI)

    assert [(state.board_id, state.state.value, state.holder, state.since) for state in store.boards()] == [
        ("hat-1", "free", None, None),
        ("hat-2", "quarantined", None, clock.now),
        ("bare-1", "free", None, None),
        ("bare-2", "leased", CI, lease.acquired_at),
    ]
    clock.advance(10)
    assert state_of(store, "bare-2") is BoardStatus.FREE


def test_threads_of_one_process_never_hold_one_board_together(store: LabStore, clock: FakeClock) -> None:
    inside: dict[str, int] = {"bare-1": 0, "bare-2": 0}
    overlaps: list[str] = []
    granted: list[int] = []

    def contend() -> None:
        while len(granted) < 100:
            lease = take(store, "bare-1", "bare-2")
            if lease is None:
                continue
            inside[lease.board_id] += 1
            if inside[lease.board_id] != 1:
                overlaps.append(lease.board_id)
            granted.append(lease.token)
            inside[lease.board_id] -= 1
            store.release(lease)

    threads = [threading.Thread(target=contend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)

    assert not any(thread.is_alive() for thread in threads)
    assert overlaps == []
    assert len(set(granted)) == len(granted) >= 100


def test_what_came_of_tests_on_a_board_is_kept_with_the_last_words_of_its_console(
    store: LabStore, clock: FakeClock
) -> None:
    first = Visit(
        board_id="hat-1",
        token=7,
        by="ci-841",
        test="suites/test_digits.py::test_digits[a]",
        combo="digits-int8 1.0.0",
        status="failed",
        verdicts=(("p95_latency", "FAIL"), ("peak_rss", "PASS")),
        message="p95 13 ms, \"quoted\"; 'too'",
        console="login: \u00b5",
    )
    second = replace(first, status="passed", verdicts=(), console="Linux version 6.12")
    store.note_visit(first)
    store.note_visit(replace(first, board_id="hat-2"))
    clock.advance(5)
    store.note_visit(second)
    kept = store.visits()
    assert [one.at - kept[0].at for one in kept] == pytest.approx([0, 0, 5])
    assert [replace(one, at=0.0) for one in kept] == [
        replace(first, console=""),
        replace(first, board_id="hat-2"),
        second,
    ]
