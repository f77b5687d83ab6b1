"""Who sits where: every worker on a board that is there, nobody on another's."""

from __future__ import annotations

import pytest

from pytest_edgehil.plugin.seats import Seat, SeatBook, Seats


class Lab:
    """Boards that come and go."""

    def __init__(self, *free: str) -> None:
        self.free = list(free)
        self.asked = 0
        self.now = 0.0

    def __call__(self) -> tuple[str, ...]:
        self.asked += 1
        return tuple(self.free)


@pytest.fixture
def book(tmp_path) -> SeatBook:
    return SeatBook(tmp_path)


def seats(book: SeatBook, lab: Lab) -> Seats:
    return Seats(book, free=lab, clock=lambda: lab.now)


def test_every_worker_gets_a_board_of_its_own_and_reads_which(book):
    made = seats(book, Lab("b1", "b2", "b3"))
    made.open(["gw0", "gw1"], {frozenset({"b1", "b2", "b3"}): 10.0})
    assert (made.board("gw0"), made.board("gw1")) == ("b1", "b2")
    assert book.read("gw1") == Seat(board="b2")
    assert book.taken(but="gw0") == {"b2"}
    assert book.read("gw9") == Seat()


def test_fewer_workers_than_boards_sit_where_the_work_is(book):
    lab = Lab("a1", "a2", "a3", "b1", "b2")
    made = seats(book, lab)
    made.open(["gw0", "gw1", "gw2"], {frozenset({"a1", "a2", "a3"}): 100.0, frozenset({"b1", "b2"}): 90.0})
    assert [made.board(f"gw{at}") for at in range(3)] == ["a1", "b1", "a2"]


def test_more_workers_than_free_boards_leave_some_without(book):
    made = seats(book, Lab("b1"))
    made.open(["gw0", "gw1"], {frozenset({"b1"}): 1.0})
    assert (made.board("gw0"), made.board("gw1")) == ("b1", None)


def test_a_worker_that_replaces_another_gets_a_board_that_is_there(book):
    lab = Lab("b1", "b2")
    made = seats(book, lab)
    made.open(["gw0", "gw1"], {frozenset({"b1", "b2"}): 1.0})
    made.leave("gw0")
    assert book.read("gw0") == Seat()
    assert made.board("gw2") == "b1"
    lab.free = []
    made.leave("gw2")
    assert made.board("gw3") is None


def test_a_worker_moves_to_a_free_board_that_is_wanted_and_nobody_s_seat(book):
    lab = Lab("b1", "b2", "b3")
    made = seats(book, lab)
    made.open(["gw0", "gw1"], {frozenset({"b1", "b2"}): 1.0})
    assert made.move("gw0", [frozenset({"b2"}), frozenset({"b3"})]) == "b3"
    assert book.read("gw0").board == "b3"
    assert made.move("gw1", [frozenset({"b9"})]) is None


def test_the_lab_is_not_asked_more_than_once_a_second(book):
    lab = Lab()
    made = seats(book, lab)
    made.open(["gw0"], {})
    for _ in range(50):
        assert made.move("gw0", [frozenset({"b1"})]) is None
    assert lab.asked == 1
    lab.free, lab.now = ["b1"], 1.5
    assert made.move("gw0", [frozenset({"b1"})]) == "b1"


def test_a_worker_is_told_which_tests_it_must_not_hand_back(book):
    made = seats(book, Lab("b1"))
    made.open(["gw0"], {})
    made.insist("gw0", "t::a")
    made.insist("gw0", "t::b")
    assert book.read("gw0") == Seat(board="b1", insisted=frozenset({"t::a", "t::b"}))
    made.use("gw0", None)
    assert book.read("gw0").board is None


def test_attempts_are_counted_whoever_made_them(book, tmp_path):
    assert book.attempts("t::a[ä/1]") == 0
    book.note_attempt("t::a[ä/1]")
    SeatBook(tmp_path).note_attempt("t::a[ä/1]")
    assert (book.attempts("t::a[ä/1]"), book.attempts("t::b")) == (2, 0)
