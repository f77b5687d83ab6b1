"""Which worker is to use which board.

The controller gives every worker a seat: a board of its own, so that it knows which tests a worker can run, and so that
two workers do not want the same board while another one stays free. A seat is a plan, not a right: that is the lease,
which the worker takes when it first needs the board. A worker whose board breaks takes a free one that is nobody's
seat, if there is one; if not, it hands its tests back, and the controller seats it again as soon as a board is free.

Seats travel as files in the directory of the run, for xdist has no way to tell a worker anything but "run test 7": one
file per worker, replaced whole, written by the controller only and before it sends the tests that depend on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SEATS, _ATTEMPTS = "seats", "attempts"
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What the controller tells a worker.

    Args:
        board: id of the board to use, or None: there is none for it.
        insisted: tests that nobody else can run either: for these it must wait for a board, or say that there is none.
    """

    board: str | None = None
    insisted: frozenset[str] = frozenset()


class SeatBook:
    """The files. Made alike by the controller and by every worker.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        self._seats = directory / _SEATS
        self._attempts = directory / _ATTEMPTS

    def write(self, worker: str, seat: Seat) -> None:
        """Controller: tell a worker."""
        _replace(self._seats / worker, json.dumps({"board": seat.board, "insisted": sorted(seat.insisted)}))

    def remove(self, worker: str) -> None:
        """Controller: this worker is gone."""
        (self._seats / worker).unlink(missing_ok=True)

    def read(self, worker: str) -> Seat:
        """Worker: which is mine?"""
        try:
            told = json.loads((self._seats / worker).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Seat()
        return Seat(board=told["board"], insisted=frozenset(told["insisted"]))

    def taken(self, *, but: str) -> frozenset[str]:
        """Worker: the boards that are others' seats."""
        try:
            names = [path.name for path in self._seats.iterdir() if "." not in path.name and path.name != but]
        except FileNotFoundError:
            return frozenset()
        return frozenset(board for name in names if (board := self.read(name).board) is not None)

    def note_attempt(self, nodeid: str) -> None:
        """One more attempt at this test was made, that is to be repeated elsewhere."""
        _replace(self._attempts / _word(nodeid), str(self.attempts(nodeid) + 1))

    def attempts(self, nodeid: str) -> int:
        """How many of those there were."""
        try:
            return int((self._attempts / _word(nodeid)).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105 - the name says what is meant


def _word(nodeid: str) -> str:
    return hashlib.sha256(nodeid.encode()).hexdigest()[:24]


class Seats:
    """In the controller: who sits where. This is the `Seating` of the scheduler.

    Args:
        book: what workers read.
        free: asks the lab for the ids of the boards that could be leased now, best first.
        clock: monotonic seconds; the lab is asked again once a second at most.
    """

    def __init__(
        self, book: SeatBook, *, free: Callable[[], Sequence[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._book = book
        self._ask = free
        self._clock = clock
        self._seats: dict[str, Seat] = {}
        self._looked_s = float("-inf")
        self._free: tuple[str, ...] = ()

    def open(self, workers: Sequence[str], wanted: Mapping[frozenset[str], float]) -> None:
        """Give every worker a free board, those first for which there is the most to do.

        Args:
            workers: all that are there.
            wanted: boards → work that any of them can do, seconds.
        """
        left = list(self._look(anew=True))
        seated = dict.fromkeys(wanted, 0)
        for worker in workers:
            board = None
            if left:
                board = max(left, key=lambda one: _claim(one, wanted, seated))  # of equals the first: the lab's order
                left.remove(board)
                for boards in seated:
                    seated[boards] += board in boards
            self._set(worker, Seat(board=board))

    def board(self, worker: str) -> str | None:
        """The board of a worker; one that came later gets one that is free."""
        if worker not in self._seats:
            self._set(worker, Seat(board=next(iter(self._unseated(anew=True)), None)))
        return self._seats[worker].board

    def move(self, worker: str, wanted: Iterable[frozenset[str]]) -> str | None:
        """Another seat for a worker, from the first of these sets that has a free board; None: there is none."""
        unseated = self._unseated(anew=False)
        for boards in wanted:
            board = next((one for one in unseated if one in boards), None)
            if board is not None:
                self._set(worker, Seat(board=board))
                return board
        return None

    def leave(self, worker: str) -> None:
        """A worker is gone."""
        if self._seats.pop(worker, None) is not None:
            self._book.remove(worker)
        self._looked_s = float("-inf")

    def use(self, worker: str, board: str | None) -> None:
        """A worker has this board in fact, or has lost the one it had."""
        if self._seats.get(worker, Seat()).board != board:
            self._set(worker, Seat(board=board))
            self._looked_s = float("-inf")

    def insist(self, worker: str, nodeid: str) -> None:
        """A worker must not hand this test back."""
        seat = self._seats.get(worker, Seat())
        self._set(worker, Seat(board=seat.board, insisted=seat.insisted | {nodeid}))

    def _set(self, worker: str, seat: Seat) -> None:
        self._seats[worker] = seat
        self._book.write(worker, seat)

    def _unseated(self, *, anew: bool) -> list[str]:
        taken = {seat.board for seat in self._seats.values()}
        return [board for board in self._look(anew=anew) if board not in taken]

    def _look(self, *, anew: bool) -> tuple[str, ...]:
        now = self._clock()
        if anew or now - self._looked_s >= _LOOK_EVERY_S:
            self._looked_s, self._free = now, tuple(self._ask())
        return self._free


def _claim(board: str, wanted: Mapping[frozenset[str], float], seated: Mapping[frozenset[str], int]) -> float:
    return sum(work_s / (seated[boards] + 1) for boards, work_s in wanted.items() if board in boards)
