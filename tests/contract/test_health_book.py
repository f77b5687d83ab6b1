"""What every store keeps about the health of boards: quarantines, checks, who is looked at again, flashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import FARM, make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, BoardState, BoardStatus, Holder, LabStore, Lease
from pytest_edgehil.lab.store import open_store

CI = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
ADA = Holder(name="ada", host="desk", pid=33, user="ada")
RULES = "health: {recheck: 1 min, longest_recheck: 3 min, give_up: 3}\n"
FIT = Checkup(temperature_c=41.5, disk_free_bytes=1 << 33, clock_offset_s=-0.2)
HOT = Checkup(complaint="it is at 91.0 °C, expected 80 °C at most", temperature_c=91.0)

STORES: dict[str, Callable[..., LabStore]] = {
    "sqlite": open_store,
    "memory": MemoryLeaseStore.of,
    "postgres": open_store,
}
KINDS = ("sqlite", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres")))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lab(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Lab:
    if kind != "postgres":
        return make_lab(tmp_path, FARM + RULES)
    path = request.getfixturevalue("postgres").new_lab(tmp_path).path
    path.write_text(path.read_text() + RULES)
    return load_lab(path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(kind: str, lab: Lab, clock: FakeClock) -> Iterator[LabStore]:
    with closing(STORES[kind](lab, clock=clock)) as opened:
        yield opened


def state(store: LabStore, board_id: str = "bare-1") -> BoardState:
    return next(one for one in store.boards() if one.board_id == board_id)


def lease(store: LabStore, board_id: str = "bare-1") -> Lease:
    leases = store.acquire([[board_id]], holder=CI, expiry_s=600)
    assert leases is not None
    return leases[0]


def test_a_board_that_broke_is_looked_at_again_after_a_while_and_then_later_and_later(store, clock):
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    start = clock.now
    assert (state(store).failures, state(store).next_check_at) == (1, start + 60)
    assert store.due() == ()
    clock.advance(60)
    assert store.due() == ("bare-1",)
    for failures, after_s in ((2, 120), (3, 180)):
        assert not store.note_check("bare-1", HOT, by=CI)
        assert (state(store).failures, state(store).next_check_at) == (failures, clock.now + after_s)
        assert store.due() == ()
        clock.advance(after_s)
        assert store.due() == ("bare-1",)
    assert not store.note_check("bare-1", HOT, by=CI)
    assert (state(store).failures, state(store).next_check_at) == (4, None)  # from here on a person has to
    clock.advance(100_000)
    assert store.due() == ()
    assert (state(store).state, state(store).reason) == (BoardStatus.QUARANTINED, "kernel panic")


def test_a_board_that_passes_is_handed_out_again_and_its_failures_are_remembered(store, clock):
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    clock.advance(60)
    assert store.note_check("bare-1", FIT, by=CI)
    assert (state(store).state, state(store).failures) == (BoardStatus.FREE, 1)
    assert store.audit()[-1].reason == "it has passed its check"
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    assert (state(store).failures, state(store).next_check_at) == (2, clock.now + 120)


def test_failures_of_yesterday_do_not_count(store, clock):
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    store.note_check("bare-1", FIT, by=CI)
    clock.advance(25 * 3600)
    assert state(store).failures == 0
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    assert state(store).failures == 1


def test_what_a_person_closes_a_person_opens(store, clock):
    store.quarantine("bare-1", reason="new fan", by=ADA)
    assert state(store).next_check_at is None
    store.quarantine("bare-2", reason="kernel panic", by=CI, automatic=True)
    store.quarantine("bare-2", reason="leave it to me", by=ADA)
    clock.advance(100_000)
    assert store.due() == ()
    for board_id in ("bare-1", "bare-2"):
        assert not store.note_check(board_id, FIT, by=CI)
        assert state(store, board_id).state is BoardStatus.QUARANTINED
        assert store.restore(board_id, by=ADA)
    assert (state(store, "bare-2").state, state(store, "bare-2").failures) == (BoardStatus.FREE, 0)


def test_a_healthy_board_that_fails_its_check_is_quarantined(store):
    assert not store.note_check("bare-1", HOT, by=CI)
    assert (state(store).state, state(store).reason) == (BoardStatus.QUARANTINED, HOT.complaint)
    assert state(store).failures == 1
    assert [line.event for line in store.audit()] == [AuditEvent.QUARANTINED]


def test_the_last_check_is_kept(store, clock):
    assert store.checks() == {}
    store.note_check("bare-1", FIT, by=CI)
    clock.advance(7)
    store.note_check("bare-2", HOT, by=CI)
    checks = store.checks()
    assert (checks["bare-1"].checkup, checks["bare-1"].age_s) == (FIT, 7)
    assert (checks["bare-2"].checkup, checks["bare-2"].at) == (HOT, clock.now)
    assert store.audit(board_id="bare-1") == ()  # a board that is as it was is no change


def test_a_closed_board_is_leased_by_whoever_looks_at_it_or_mends_it(store, clock):
    store.quarantine("bare-1", reason="kernel panic", by=CI, automatic=True)
    assert store.acquire([["bare-1"]], holder=CI, expiry_s=60) is None
    assert store.acquire_closed("bare-1", holder=CI, expiry_s=60, only_due=True) is None
    clock.advance(60)
    taken = store.acquire_closed("bare-1", holder=CI, expiry_s=60, only_due=True)
    assert taken is not None
    assert store.due() == ()  # somebody is at it
    assert store.acquire_closed("bare-1", holder=ADA, expiry_s=60) is None
    assert (state(store).state, state(store).holder) == (BoardStatus.QUARANTINED, CI)
    assert store.renew(taken, expiry_s=60).token == taken.token
    assert store.release(taken)
    assert store.acquire_closed("bare-1", holder=ADA, expiry_s=60).token > taken.token


def test_the_trail_can_be_read_by_board_by_time_and_from_where_one_was(store, clock):
    mine = lease(store)
    clock.advance(10)
    store.note("bare-1", AuditEvent.POWER, by=CI, token=mine.token, reason="cycle")
    store.quarantine("bare-2", reason="new fan", by=ADA)
    assert [line.event for line in store.audit(board_id="bare-1")] == [AuditEvent.LEASED, AuditEvent.POWER]
    assert [line.reason for line in store.audit(since=clock.now)] == ["cycle", "new fan"]
    first = store.audit()[0]
    assert [line.reason for line in store.audit(after=first.number)] == ["cycle", "new fan"]
    assert store.audit(after=store.audit()[-1].number) == ()
    assert [line.reason for line in store.audit(newest=1)] == ["new fan"]
    assert store.audit(newest=99) == store.audit()


def test_flashes_are_kept_in_order(store, clock):
    mine = lease(store)
    store.note_flash(mine, label="digits-int8", seconds=2.5, sent_bytes=1000)
    store.note_flash(mine, label="digits-fp32", seconds=0.5, sent_bytes=0)
    first, second = store.flashes()
    assert (first.board_id, first.at, first.label, first.seconds, first.sent_bytes) == (
        "bare-1",
        clock.now,
        "digits-int8",
        2.5,
        1000,
    )
    assert store.flashes(after=first.number) == (second,)


def test_the_trail_says_how_long_a_lease_was_waited_for(store, clock):
    held = lease(store)
    with store.queue_up([["bare-1"]], holder=ADA, expiry_s=600) as place:
        assert not isinstance(place.advance(), tuple)
        clock.advance(12)
        store.release(held)
        (taken,) = place.advance()
    leased = [line for line in store.audit(board_id="bare-1") if line.event is AuditEvent.LEASED]
    assert [(line.token, line.waited_s) for line in leased] == [(held.token, None), (taken.token, 12)]
