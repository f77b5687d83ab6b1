"""One thread that ends what takes too long."""

from __future__ import annotations

import threading

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.overdue import Overdue


def test_what_takes_too_long_is_ended_once_and_what_ends_in_time_is_not():
    overdue, late, calls = Overdue("watch"), threading.Event(), []
    with overdue.watching(Deadline(3600.0), lambda: calls.append("patient")):
        with overdue.watching(Deadline(0.001), late.set):  # earlier than what the thread is waiting for
            assert late.wait(60)
        with overdue.watching(Deadline(3600.0), lambda: calls.append("quick")):
            pass
    overdue.close()
    assert calls == []
    assert all(thread.name != "watch" for thread in threading.enumerate())


def test_it_may_be_closed_by_what_it_calls_and_unused():
    overdue, closed = Overdue("watch"), threading.Event()

    def end() -> None:
        overdue.close()
        closed.set()

    with overdue.watching(Deadline(0.001), end):
        assert closed.wait(60)
    overdue.close()
    Overdue("never").close()
