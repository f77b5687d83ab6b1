"""One moment after which an operation has taken too long, however many steps it has.

Passing the moment on, instead of a duration per step, is what keeps the sum of the steps within the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """Ends `timeout_s` from now.

    >>> now = [100.0]
    >>> deadline = Deadline(2.0, clock=lambda: now[0])
    >>> now[0] = 101.5
    >>> deadline.left_s(), deadline.passed()
    (0.5, False)
    >>> now[0] = 103.0
    >>> deadline.left_s(), deadline.passed()
    (0.0, True)
    """

    __slots__ = ("_clock", "at", "timeout_s")

    def __init__(self, timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.timeout_s = timeout_s
        self.at = clock() + timeout_s

    def left_s(self) -> float:
        """Seconds until it passes, never below 0."""
        return max(0.0, self.at - self._clock())

    def passed(self) -> bool:
        """Whether it is over."""
        return self._clock() >= self.at
