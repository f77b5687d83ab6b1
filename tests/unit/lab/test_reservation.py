"""Waiting for boards, keeping them, and noticing that they are lost. The store is in memory and time stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import BoardUnavailable, LeaseError, LeaseLost, LeaseTimeout, PlaceTaken
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import BoardStatus, Holder, Lease
from pytest_edgehil.lab.reservation import Reservation, default_holder, free_boards, reserve
from pytest_edgehil.model.board import Board, Requirement

ME = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
OTHER = Holder(name="ci-841", host="runner-2", pid=22, user="ci")
HAT = Requirement(accelerator="hailo10h")
BARE = Requirement(cls="pi5-4gb")
# the heartbeat's thread waits for a third of this and never beats in a test, which calls beat() itself
EXPIRY_S = 3000.0


class Breakable(MemoryLeaseStore):
    """A store that can be out of reach, and in which waiting makes the clock go on."""

    broken = False
    on_wait: Callable[[float], None]

    def sleep(self, timeout_s: float) -> bool:
        self.on_wait(timeout_s)
        return True

    def acquire(self, requests: Sequence[Sequence[str]], **options: object) -> tuple[Lease, ...] | None:
        if self.broken:
            raise LeaseError("the lease database cannot be used: disk I/O error")
        return super().acquire(requests, **options)

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        if self.broken:
            raise LeaseError("the lease database cannot be used: disk I/O error")
        return super().renew(lease, expiry_s=expiry_s)

    def release(self, lease: Lease) -> bool:
        if self.broken:
            raise LeaseError("the lease database cannot be used: disk I/O error")
        return super().release(lease)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(lab: Lab, clock: FakeClock) -> Breakable:
    return Breakable(
        board_ids=[board.id for board in lab.boards],
        pools={"hat-1": "hats", "hat-2": "hats"},
        pool_limits=lab.pool_limits,
        clock=clock,
    )


Book = Callable[..., Reservation]


@pytest.fixture
def book(lab: Lab, store: Breakable, clock: FakeClock) -> Iterator[Book]:
    made: list[Reservation] = []

    def book_one(*requirements: Requirement, wait_s: float = 0.0, **options: object) -> Reservation:
        store.on_wait = options.pop("sleep", clock.sleep)
        made.append(
            reserve(
                lab,
                requirements,
                store=store,
                holder=options.pop("holder", ME),
                wait_s=wait_s,
                expiry_s=EXPIRY_S,
                monotonic=options.pop("monotonic", clock),
                sleep=clock.sleep,
                **options,
            )
        )
        return made[-1]

    yield book_one
    store.broken = False
    for reservation in made:
        reservation.release()


def status(store: Breakable, board_id: str) -> BoardStatus:
    return next(state.state for state in store.boards() if state.board_id == board_id)


# --- getting boards ------------------------------------------------------------------------------------


def test_boards_come_in_the_order_of_the_requirements(book: Book) -> None:
    reservation = book(HAT, BARE, BARE)

    assert [board.id for board in reservation.boards] == ["hat-2", "bare-1", "bare-2"]
    assert [lease.board_id for lease in reservation.leases] == ["hat-2", "bare-1", "bare-2"]
    reservation.check()


def test_a_requirement_that_no_board_fulfils_is_refused_without_waiting(book: Book, clock: FakeClock) -> None:
    with pytest.raises(BoardUnavailable, match="nearest is hat-1: class is pi5-8gb-hat2, not pi5-16gb"):
        book(Requirement(cls="pi5-16gb"), wait_s=100)
    assert clock.slept == []


def test_more_boards_than_the_lab_has_are_refused_without_waiting(book: Book, clock: FakeClock) -> None:
    with pytest.raises(BoardUnavailable, match=r"at once: 2 boards \(bare-1, bare-2\) for 3 requirements"):
        book(BARE, BARE, BARE, wait_s=100)
    assert clock.slept == []


def test_more_boards_than_a_pool_gives_out_are_refused_without_waiting(book: Book) -> None:
    with pytest.raises(BoardUnavailable, match=r"\(hat-1, hat-2\) for 2 requirements, with the pool limits hats 1"):
        book(HAT, HAT, wait_s=100)


def test_a_reservation_of_nothing_is_a_bug(book: Book) -> None:
    with pytest.raises(ValueError, match="at least one requirement"):
        book()


# --- waiting -------------------------------------------------------------------------------------------


def test_waiting_ends_when_a_board_is_released(book: Book, clock: FakeClock) -> None:
    held = [book(BARE, holder=OTHER), book(BARE, holder=OTHER)]

    def sleep(seconds: float) -> None:
        clock.sleep(min(seconds, 1))  # woken for no reason
        if len(clock.slept) == 5:
            held[1].release()

    assert book(BARE, wait_s=100, sleep=sleep).boards[0].id == "bare-2"
    assert len(clock.slept) == 5


def test_nobody_looks_more_often_than_something_can_change_by_itself(book: Book, clock: FakeClock) -> None:
    book(BARE, BARE, holder=OTHER)
    with pytest.raises(LeaseTimeout):
        book(BARE, wait_s=50)

    assert clock.slept == pytest.approx([30, 20], abs=0.01)


def test_a_store_that_does_not_answer_is_tried_again_until_the_time_is_up(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    store.broken = True
    said: list[str] = []
    with pytest.raises(LeaseError, match="disk I/O error"):
        book(BARE, wait_s=30, on_wait=said.append)

    assert sum(clock.slept) == pytest.approx(30)
    assert said == [
        "waiting for a board of class pi5-4gb: the lease database cannot be used: disk I/O error; trying again"
    ]


def test_a_store_that_answers_again_gives_the_board(book: Book, store: Breakable, clock: FakeClock) -> None:
    store.broken = True

    def mended(seconds: float) -> None:
        FakeClock.sleep(clock, seconds)
        store.broken = len(clock.slept) < 4

    clock.sleep = mended  # type: ignore[method-assign]
    assert book(BARE, wait_s=30).boards[0].id == "bare-1"
    assert len(clock.slept) == 4


def test_waiting_takes_over_from_a_holder_that_died(book: Book, store: Breakable, clock: FakeClock) -> None:
    store.acquire([["bare-1"], ["bare-2"]], holder=OTHER, expiry_s=5)
    died_at = clock.now

    reservation = book(BARE, wait_s=60)

    assert died_at + 5 <= reservation.leases[0].acquired_at <= died_at + 5.1


def test_a_timeout_names_every_holder_and_what_to_do(book: Book) -> None:
    book(BARE, holder=OTHER)
    book(BARE, holder=ME)

    with pytest.raises(LeaseTimeout) as late:
        book(BARE, wait_s=2)

    assert str(late.value) == (
        "no board became free within 2 s for a board of class pi5-4gb: bare-1 is held by ci-841 (pid 22 on runner-2), "
        "bare-2 is held by ci-840 (pid 11 on runner-1); run 'edgehil lab boards' to see who holds what"
    )


def test_a_timeout_says_that_a_pool_is_full(book: Book) -> None:
    book(HAT, holder=OTHER)

    with pytest.raises(LeaseTimeout, match="hat-1 is free, but 1 of its pool hats are leased, which is the limit"):
        book(HAT)


def test_on_wait_is_called_once_for_each_thing_that_is_waited_for(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    first, second = book(BARE, holder=OTHER), book(BARE, holder=OTHER)
    said: list[str] = []

    def sleep(seconds: float) -> None:
        clock.sleep(min(seconds, 1))
        if len(clock.slept) == 3:
            first.release()
            store.acquire([["bare-1"]], holder=ME, expiry_s=EXPIRY_S, priority=1)  # goes before us
        if len(clock.slept) == 6:
            second.release()

    book(BARE, wait_s=100, sleep=sleep, on_wait=said.append)

    assert len(said) == 2
    assert said[0].startswith("waiting for a board of class pi5-4gb: bare-1 is held by ci-841 ")
    assert "bare-1 is held by ci-840 " in said[1]


# --- quarantine ----------------------------------------------------------------------------------------


def test_when_every_matching_board_is_quarantined_nobody_waits_and_the_reasons_are_named(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    store.quarantine("bare-1", reason="kernel panic", by=OTHER)
    store.quarantine("bare-2", reason="link lost", by=OTHER)

    with pytest.raises(LeaseTimeout) as late:
        book(BARE, wait_s=600)

    assert clock.slept == []
    assert "no healthy board is left" in str(late.value)
    assert "bare-1 is quarantined (kernel panic), bare-2 is quarantined (link lost)" in str(late.value)
    assert "edgehil lab restore BOARD" in str(late.value)


def test_boards_that_are_held_but_healthy_are_waited_for_beside_quarantined_ones(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    store.quarantine("bare-1", reason="kernel panic", by=OTHER)
    book(BARE, holder=OTHER)

    with pytest.raises(LeaseTimeout, match=r"within 3 s.*bare-1 is quarantined \(kernel panic\), bare-2 is held by"):
        book(BARE, wait_s=3)
    assert clock.slept != []


def test_a_board_that_is_quarantined_while_we_wait_for_it_ends_the_waiting(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    store.quarantine("bare-1", reason="kernel panic", by=OTHER)
    book(BARE, holder=OTHER)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        store.quarantine("bare-2", reason="overheated", by=OTHER)

    with pytest.raises(LeaseTimeout, match=r"no healthy board is left.*bare-2 is quarantined \(overheated\)"):
        book(BARE, wait_s=600, sleep=sleep)
    assert len(clock.slept) == 1


# --- keeping and losing --------------------------------------------------------------------------------


def test_a_beat_renews_every_lease(book: Book, clock: FakeClock) -> None:
    reservation = book(BARE, HAT)
    clock.advance(EXPIRY_S - 1)

    assert reservation.beat() == EXPIRY_S / 3

    assert {lease.expires_at for lease in reservation.leases} == {clock.now + EXPIRY_S}
    clock.advance(EXPIRY_S - 1)
    reservation.check()


def test_the_heartbeat_thread_beats_by_itself(lab: Lab) -> None:
    store = MemoryLeaseStore.of(lab)  # real time, for once
    with reserve(lab, [BARE], store=store, holder=ME, wait_s=0, expiry_s=9) as reservation:
        first = reservation.leases[0].expires_at
        for _ in range(600):
            if reservation.leases[0].expires_at > first:
                break
            reservation._stop.wait(0.1)
        assert reservation.leases[0].expires_at > first
    assert not reservation._thread.is_alive()


def test_a_process_that_was_paused_past_the_expiry_has_lost_its_board_although_nobody_took_it(
    book: Book, clock: FakeClock
) -> None:
    reservation = book(BARE)
    clock.advance(EXPIRY_S + 12)

    with pytest.raises(LeaseLost, match=r"lease on bare-1 \(token \d+\) expired 12 s ago .* nobody holds it now"):
        reservation.check()


def test_a_lost_board_stays_lost_even_if_the_clock_is_set_back(book: Book, clock: FakeClock) -> None:
    reservation = book(BARE)
    clock.advance(EXPIRY_S + 1)
    with pytest.raises(LeaseLost):
        reservation.check()
    clock.advance(-EXPIRY_S)

    reservation.beat()

    with pytest.raises(LeaseLost):
        reservation.check()


def test_a_pause_is_noticed_by_the_steady_clock_when_the_wall_clock_was_set_back(book: Book, clock: FakeClock) -> None:
    steady = FakeClock(5.0)
    reservation = book(BARE, monotonic=steady)
    clock.advance(-100)
    steady.advance(EXPIRY_S)

    with pytest.raises(LeaseLost, match="this process was paused or starved"):
        reservation.check()


def test_a_check_names_who_took_the_board(book: Book, store: Breakable, clock: FakeClock) -> None:
    reservation = book(BARE)
    clock.advance(EXPIRY_S)
    store.acquire([["bare-1"]], holder=OTHER, expiry_s=EXPIRY_S)

    with pytest.raises(LeaseLost, match=r"it is held by ci-841 \(pid 22 on runner-2\) now"):
        reservation.check()


def test_a_beat_notices_that_a_board_was_taken_away(book: Book, store: Breakable) -> None:
    reservation = book(BARE, HAT)
    store.force_release("bare-1", by=OTHER, reason="job was cancelled")
    reservation.check()  # not known yet: the board itself refuses us as soon as the next holder has spoken to it

    reservation.beat()

    with pytest.raises(LeaseLost, match=r"was taken away by ci-841 .*: job was cancelled"):
        reservation.check()


def test_a_store_out_of_reach_is_tried_again_until_the_expiry(book: Book, store: Breakable, clock: FakeClock) -> None:
    reservation = book(BARE)
    store.broken = True
    clock.advance(EXPIRY_S / 3)
    assert reservation.beat() == EXPIRY_S / 10
    reservation.check()

    store.broken = False
    assert reservation.beat() == EXPIRY_S / 3
    clock.advance(EXPIRY_S - 1)
    reservation.check()


def test_a_store_out_of_reach_until_the_expiry_loses_the_board_and_says_why(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    reservation = book(BARE)
    store.broken = True
    clock.advance(EXPIRY_S)
    reservation.beat()
    store.broken = False
    reservation.beat()

    with pytest.raises(LeaseLost, match="because it was not renewed: the lease database cannot be used: disk I/O"):
        reservation.check()


def test_a_heartbeat_that_dies_of_a_bug_is_not_mistaken_for_a_living_one(book: Book, store: Breakable) -> None:
    reservation = book(BARE)
    store.renew = None  # type: ignore[method-assign,assignment]

    reservation._stop.wait = lambda _timeout: False  # type: ignore[method-assign]
    reservation._heartbeat()

    with pytest.raises(LeaseLost, match="the heartbeat of bare-1 died: TypeError"):
        reservation.check()
    del reservation._stop.wait
    del store.renew


def test_a_worker_whose_parent_is_gone_renews_no_more(
    book: Book, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getppid", lambda: 4711)
    reservation = book(BARE, tied_to_parent=True)
    reservation.beat()
    reservation.check()
    before = reservation.leases

    monkeypatch.setattr("os.getppid", lambda: 1)
    clock.advance(5)
    reservation.beat()

    assert reservation.leases == before
    with pytest.raises(LeaseLost, match="the process 4711 that started this one is gone"):
        reservation.check()


# --- giving back ---------------------------------------------------------------------------------------


def test_releasing_frees_every_board_and_may_be_repeated(book: Book, store: Breakable) -> None:
    reservation = book(BARE, HAT)
    reservation.release()
    store.acquire([["bare-1"]], holder=OTHER, expiry_s=EXPIRY_S)
    reservation.release()

    assert status(store, "hat-2") is BoardStatus.FREE
    assert status(store, "bare-1") is BoardStatus.LEASED
    with pytest.raises(LeaseLost, match="the reservation of bare-1, hat-2 has been released"):
        reservation.check()


def test_leaving_the_block_releases_also_after_an_error(book: Book, store: Breakable) -> None:
    with pytest.raises(ZeroDivisionError), book(BARE):
        _ = 1 / 0
    assert status(store, "bare-1") is BoardStatus.FREE


def test_leaving_the_block_with_a_lost_board_is_an_error_since_what_was_done_must_not_count(
    book: Book, store: Breakable, clock: FakeClock
) -> None:
    reservation = book(BARE, HAT)
    clock.advance(EXPIRY_S)
    store.acquire([["bare-1"]], holder=OTHER, expiry_s=EXPIRY_S)

    with pytest.raises(LeaseLost), reservation:
        assert reservation.boards  # whatever was done

    assert status(store, "bare-1") is BoardStatus.LEASED


def test_releasing_into_a_broken_store_is_said_and_every_board_is_tried(book: Book, store: Breakable) -> None:
    reservation = book(BARE)
    store.broken = True

    with pytest.raises(LeaseError, match="disk I/O error"):
        reservation.release()


# --- the others ----------------------------------------------------------------------------------------


def test_free_boards_are_those_that_can_be_leased_all_at_once(book: Book, lab: Lab, store: Breakable) -> None:
    assert [board.id for board in free_boards(lab, Requirement(), store)] == ["bare-1", "bare-2", "hat-2"]
    store.quarantine("bare-1", reason="hot", by=ME)
    book(HAT, holder=OTHER)

    assert [board.id for board in free_boards(lab, Requirement(), store)] == ["bare-2"]
    with pytest.raises(BoardUnavailable):
        free_boards(lab, Requirement(cls="pi4"), store)


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"EDGEHIL_HOLDER": "night run 7"}, "night-run-7"),
        ({"GITHUB_RUN_ID": "12", "GITHUB_JOB": "gates"}, "github-12-gates"),
        ({"CI_JOB_ID": "34"}, "gitlab-34"),
        ({"BUILD_TAG": "jenkins-edge-5"}, "jenkins-edge-5"),
    ],
)
def test_a_holder_is_named_after_what_people_recognise(
    environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("EDGEHIL_HOLDER", "GITHUB_RUN_ID", "GITHUB_JOB", "CI_JOB_ID", "BUILD_TAG"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)

    assert default_holder().name == name


# --- boards that belong to another lab as well ------------------------------------------------------------


class OtherLab:
    """Where boards are taken as well: `held` are in others' hands."""

    def __init__(self, *held: str) -> None:
        self.held = set(held)
        self.ours: list[str] = []
        self.gone: str | None = None

    def take(self, boards: Sequence[Board], leases: Sequence[Lease]) -> OtherLab:
        assert [board.id for board in boards] == [lease.board_id for lease in leases]
        for board in boards:
            if board.id in self.held:
                raise PlaceTaken(f"colleague holds the place {board.id} in labgrid", place=board.id)
        self.ours += [board.id for board in boards]
        return self

    def lost(self) -> str | None:
        return self.gone

    def release(self) -> None:
        self.ours.clear()


def test_a_board_is_taken_in_its_other_lab_and_given_back_there_first(book: Book, store: Breakable) -> None:
    other = OtherLab()
    reservation = book(HAT, claims=other.take)
    assert other.ours == [reservation.boards[0].id]
    reservation.check()
    reservation.release()
    assert other.ours == []
    assert all(state.holder is None for state in store.boards())


def test_what_is_taken_elsewhere_is_given_back_and_another_board_is_tried(book: Book, store: Breakable) -> None:
    first = book(HAT).boards[0].id
    store.force_release(first, by=OTHER, reason="to try again")
    told: list[str] = []
    reservation = book(HAT, claims=OtherLab(first).take, wait_s=60.0, on_wait=told.append)
    assert reservation.boards[0].id != first
    assert told == [f"waiting for a board: colleague holds the place {first} in labgrid"]
    assert {state.board_id for state in store.boards() if state.holder is not None} == {reservation.boards[0].id}


def test_when_every_board_is_taken_elsewhere_the_wait_ends_and_says_by_whom(
    book: Book, lab: Lab, store: Breakable
) -> None:
    everybody = OtherLab(*(board.id for board in lab.boards))
    with pytest.raises(
        LeaseTimeout, match=r"no board became free within 5 s: colleague holds the place hat-\d in labgrid"
    ):
        book(HAT, claims=everybody.take, wait_s=5.0)
    assert all(state.holder is None for state in store.boards())


def test_a_board_that_is_lost_there_is_lost_here(book: Book) -> None:
    other = OtherLab()
    reservation = book(HAT, claims=other.take)
    other.gone = "place hat-1: colleague holds the place hat-1 in labgrid"
    with pytest.raises(LeaseLost, match="colleague holds the place hat-1"):
        reservation.check()
