"""What a lab file permits, kept by every store. Time stands still."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import BoardUnavailable, LeaseLost, LeaseTimeout
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import BoardStatus, Holder, LabStore
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement

KINDS = ("sqlite", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres")))
LIMITED = """\
lab: limited
lease_expiry: 10 s
limits: {max_lease: 1 min, per_user: 2, users: {release: 9}, projects: {vision: 1}}
maintenance:
  - {start: "2026-11-22 02:00", lasts: 1 h, drain: 10 min, boards: [c], reason: new fans}
boards:
  a: {class: pi5, environment: virtual}
  b: {class: pi5, environment: virtual}
  c: {class: pi5, environment: virtual}
"""
WINDOW = dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC).timestamp()


def who(user: str, project: str = "") -> Holder:
    return Holder(name=f"job-of-{user}", host="runner", pid=1, user=user, project=project)


def opened(request: pytest.FixtureRequest, kind: str, text: str, path: Path, clock: FakeClock) -> tuple[Lab, LabStore]:
    lab = request.getfixturevalue("postgres").new_lab(path, text) if kind == "postgres" else make_lab(path, text)
    return lab, MemoryLeaseStore.of(lab, clock=clock) if kind == "memory" else open_store(lab, clock=clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(WINDOW - 86_400)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def lab_and_store(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, clock: FakeClock
) -> Iterator[tuple[Lab, LabStore]]:
    lab, store = opened(request, kind, LIMITED, tmp_path, clock)
    with closing(store):
        yield lab, store


@pytest.fixture
def store(lab_and_store: tuple[Lab, LabStore]) -> LabStore:
    return lab_and_store[1]


def test_a_lease_ends_at_the_lab_s_limit_however_often_it_is_renewed(store: LabStore, clock: FakeClock) -> None:
    (lease,) = store.acquire([["a"]], holder=who("ada"), expiry_s=10) or ()
    for _ in range(11):
        clock.advance(5)
        lease = store.renew(lease, expiry_s=10)
    assert (lease.lasts_s, lease.expires_at) == (5, lease.acquired_at + 60)

    clock.advance(5)
    with pytest.raises(LeaseLost, match="ended after 1 min, which is the lab's limit; nobody holds it now"):
        store.renew(lease, expiry_s=10)
    assert store.acquire([["a"]], holder=who("bob"), expiry_s=10) is not None


def test_an_idle_lab_lets_a_lease_go_on_until_somebody_waits(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path, clock: FakeClock
) -> None:
    (tmp_path / "idle").mkdir()
    text = LIMITED.replace("max_lease: 1 min,", "max_lease: 1 min, extend: while-idle,").replace("limited", "idle")
    _, store = opened(request, kind, text, tmp_path / "idle", clock)
    with closing(store):
        (lease,) = store.acquire([["a"]], holder=who("ada"), expiry_s=50) or ()
        clock.advance(45)
        lease = store.renew(lease, expiry_s=50)
        clock.advance(45)
        lease = store.renew(lease, expiry_s=50)
        with store.queue_up([["a"]], holder=who("bob"), expiry_s=10) as place:
            place.advance()
            with pytest.raises(LeaseLost, match="the lab's limit"):
                store.renew(lease, expiry_s=10)
            assert isinstance(place.advance(), tuple)


def test_a_user_has_no_more_boards_than_the_quota_and_is_told_so(
    lab_and_store: tuple[Lab, LabStore],
) -> None:
    lab, store = lab_and_store
    assert store.acquire([["a"], ["b"]], holder=who("ada"), expiry_s=10) is not None

    assert store.acquire([["c"]], holder=who("ada"), expiry_s=10) is None
    with pytest.raises(LeaseTimeout, match="user ada has 2 of 2 boards; waiting for one to be returned"):
        reserve(lab, [Requirement()], store=store, holder=who("ada"), wait_s=0)
    assert store.acquire([["c"]], holder=who("bob"), expiry_s=10) is not None


def test_a_request_beyond_the_quota_is_refused_at_once(lab_and_store: tuple[Lab, LabStore]) -> None:
    lab, store = lab_and_store
    with pytest.raises(BoardUnavailable, match="user ada may have 2 boards at a time, and this asks for 3"):
        reserve(lab, [Requirement()] * 3, store=store, holder=who("ada"), wait_s=600)
    with pytest.raises(BoardUnavailable, match="project vision may have 1 board at a time, and this asks for 2"):
        reserve(lab, [Requirement()] * 2, store=store, holder=who("release", "vision"), wait_s=600)


def test_a_board_in_maintenance_is_held_but_not_handed_out(store: LabStore, clock: FakeClock) -> None:
    def state() -> BoardStatus:
        return next(one.state for one in store.boards() if one.board_id == "c")

    clock.now = WINDOW - 601
    (lease,) = store.acquire([["c"]], holder=who("ada"), expiry_s=10) or ()
    clock.advance(1)
    assert state() is BoardStatus.MAINTENANCE
    store.renew(lease, expiry_s=10)
    store.release(lease)
    assert store.acquire([["c"]], holder=who("ada"), expiry_s=10) is None

    clock.now = WINDOW + 3600
    assert state() is BoardStatus.FREE
    assert store.acquire([["c"]], holder=who("ada"), expiry_s=10) is not None


def test_who_waits_for_a_board_in_maintenance_is_told_until_when(store: LabStore, clock: FakeClock) -> None:
    clock.now = WINDOW
    with store.queue_up([["c"]], holder=who("ada"), expiry_s=10) as place:
        step = place.advance()
        assert not isinstance(step, tuple)
        assert step.why == "c is in maintenance (new fans, until 2026-11-22 03:00 UTC)"
        assert not step.hopeless
