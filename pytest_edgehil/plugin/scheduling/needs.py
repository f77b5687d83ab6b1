"""What tests ask of boards, who can give it, and how long that will keep those busy.

The pressure on a need is a lower bound on the time until it is met: the work that only its seats can do, shared among
them. "Only its seats" includes the work of every narrower need: what asks for a cooled board of a class is work for
the boards of that class too.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

from pytest_edgehil.plugin.scheduling.lanes import Lane

_Entry = tuple[float, int, int, Lane]


class _Best:
    """Lanes by a claim that changes: the best one first, out-of-date entries dropped when they are met."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[_Entry] = []

    def push(self, claim_s: float, lane: Lane) -> None:
        heappush(self._heap, (-claim_s, lane.number, lane.stamp, lane))

    def top(self) -> tuple[float, Lane] | None:
        """The best lane and its claim."""
        heap = self._heap
        while heap and heap[0][2] != heap[0][3].stamp:
            heappop(heap)
        return (-heap[0][0], heap[0][3]) if heap else None


class Need:
    """See above.

    Args:
        key: as in `Task.need`.
        fits: ids of the boards that meet it; None: every worker does, with or without a board.
    """

    __slots__ = (
        "big", "ends_s", "fits", "helped", "key", "lanes", "pending", "seats", "sole", "unhelped", "unhelped_s",
        "wider", "work_s", "work_within_s",
    )  # fmt: skip

    def __init__(self, *, key: str, fits: frozenset[str] | None) -> None:
        self.key = key
        self.fits = fits
        self.seats = 0
        self.ends_s = 0.0  # sum over its seats of the times at which they have done what they were given
        self.lanes: list[Lane] = []
        self.pending = 0
        self.sole = 0  # lanes on which one seat works alone
        self.unhelped_s = 0.0  # work of lanes that no seat works on
        self.work_s = 0.0
        self.work_within_s = 0.0  # with that of narrower needs
        self.wider: list[Need] = [self]
        self.unhelped, self.helped, self.big = _Best(), _Best(), _Best()

    def is_met_by(self, board: str | None) -> bool:
        """Does this board do? None is a worker without one."""
        return self.fits is None or (board is not None and board in self.fits)

    def is_within(self, other: Need) -> bool:
        """Do all boards that do for this one do for the other too?"""
        return other.fits is None or (self.fits is not None and self.fits <= other.fits)

    def pressure_s(self, now: float) -> float:
        """How long its seats are busy from now on, if they share evenly what only they can do."""
        return self.work_within_s / self.seats + max(0.0, self.ends_s / self.seats - now)


class Needs:
    """All of them, and the work that each is wanted for."""

    def __init__(self) -> None:
        self._by_key: dict[str, Need] = {}

    def __getitem__(self, key: str) -> Need:
        return self._by_key[key]

    def __contains__(self, key: str) -> bool:
        return key in self._by_key

    def __iter__(self) -> Iterator[Need]:
        return iter(self._by_key.values())

    def add(self, key: str, fits: frozenset[str] | None) -> Need:
        """A new one; nobody is seated for it yet."""
        need = Need(key=key, fits=fits)
        for other in self._by_key.values():
            if need.is_within(other):
                need.wider.append(other)
            if other.is_within(need):
                other.wider.append(need)
                if other.seats:
                    need.work_within_s += other.work_s
        self._by_key[key] = need
        return need

    @staticmethod
    def load(need: Need, more_s: float) -> None:
        """So much more work waits for it (or less)."""
        need.work_s += more_s
        if need.seats:  # work that nobody can do is no reason to hurry
            for one in need.wider:
                one.work_within_s += more_s

    @staticmethod
    def seat(need: Need, more: int, end_s: float) -> None:
        """A seat came (1) that is busy until then, or went (-1)."""
        before = need.seats
        need.seats += more
        need.ends_s = need.ends_s + more * end_s if need.seats else 0.0
        if not before or not need.seats:
            change_s = need.work_s if need.seats else -need.work_s
            for one in need.wider:
                one.work_within_s += change_s
