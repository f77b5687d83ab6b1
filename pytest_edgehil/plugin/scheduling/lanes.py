"""What waits: one lane per combo and need, each with its tests in the order of their expected durations."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable

_SORTED_ANEW = 8
"""When this part of a lane changes, sorting it is quicker than moving its tests one by one."""


class Lane:
    """Tests of one combo that ask the same of a board.

    Args:
        number: lanes with equal claims are served in this order.
        combo, need: see `Task`.
    """

    __slots__ = (
        "_blind", "_expected_s", "_order", "claimed_s", "combo", "counted", "helpers", "need", "number", "stamp",
        "work_s",
    )  # fmt: skip

    def __init__(self, *, number: int, combo: str, need: str) -> None:
        self.number = number
        self.combo = combo
        self.need = need
        self.helpers = 0
        self.work_s = 0.0
        self.claimed_s = 0.0  # what the account of its need has of it
        self.counted = (0.0, False)  # likewise: unhelped work, and whether one seat works on it alone
        self.stamp = 0  # grows when any of these change
        self._order: list[tuple[float, int]] = []  # (expected seconds, -index): of equals the first comes last
        self._expected_s: dict[int, float] = {}
        self._blind: dict[str, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, index: int) -> bool:
        return index in self._expected_s

    def put(self, index: int, expected_s: float, *, blind_as: str | None = None) -> None:
        """Add a test; `blind_as` names its family where nothing tells how long that takes."""
        insort(self._order, (expected_s, -index))
        self._expected_s[index] = expected_s
        self.work_s += expected_s
        if blind_as is not None:
            self._blind.setdefault(blind_as, deque()).append(index)

    def take(self, index: int) -> float:
        """Remove a test; returns its expected duration, seconds."""
        expected_s = self._expected_s.pop(index)
        del self._order[bisect_left(self._order, (expected_s, -index))]
        self.work_s = self.work_s - expected_s if self._order else 0.0
        return expected_s

    def expect(self, changed: Iterable[tuple[int, float]]) -> None:
        """Tests of this lane are expected to take so long now, seconds."""
        told = dict(changed)
        if len(told) < len(self._order) // _SORTED_ANEW:
            for index, expected_s in told.items():
                before_s = self._expected_s[index]
                del self._order[bisect_left(self._order, (before_s, -index))]
                insort(self._order, (expected_s, -index))
                self._expected_s[index] = expected_s
                self.work_s += expected_s - before_s
            return
        self._expected_s.update(told)
        self._order = sorted((expected_s, -index) for index, expected_s in self._expected_s.items())
        self.work_s = sum(self._expected_s.values())

    @property
    def longest(self) -> int:
        """The test that takes longest."""
        return -self._order[-1][1]

    @property
    def longest_s(self) -> float:
        """How long that one takes, seconds."""
        return self._order[-1][0]

    @property
    def tiniest(self) -> int:
        """The test that is over first."""
        return -self._order[0][1]

    @property
    def tiniest_s(self) -> float:
        """How long that one takes, seconds."""
        return self._order[0][0]

    def longest_within(self, limit_s: float) -> int | None:
        """The longest test that takes no more than so many seconds."""
        at = bisect_right(self._order, (limit_s, 0))
        return -self._order[at - 1][1] if at else None

    def scout(self, seen: set[str]) -> int | None:
        """A test of a family that none has run of yet; `seen` are the families of which one has begun."""
        while self._blind:
            family, members = next(iter(self._blind.items()))
            if family not in seen:
                for index in members:
                    if index in self._expected_s:
                        return index
            del self._blind[family]
        return None
