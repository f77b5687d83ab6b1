"""How fast a link is, how fast it may be used, and whether compressing makes it faster."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Protocol

PIECE_BYTES = 2**18
"""What is given to the link at once, so that a slow link is told from a dead one by a deadline for each piece."""

UNDER_WAY_BYTES = 4 * 2**20
"""So much is taken by windows and buffers at once, whatever the link can do; it says nothing about its rate."""

MEASURED_BYTES = 2 * 2**20
MEASURED_S = 1.0
SAMPLE_BYTES = 4 * 2**20
WORTH = 0.95
"""Compression that saves less is not worth the board's time."""

COMPRESSED_BELOW_BYTES_PER_S = 125e6
"""No link above 1 Gbit/s is compressed: level 1 is slower than it (`facts`)."""


class Sampled(Protocol):
    """What a sample can be taken of."""

    def sample(self, size: int) -> bytes:
        """Bytes from its middle."""


class RateMeter:
    """Measures what a link carries while it carries it.

    The first bytes vanish into buffers, so only what follows them counts.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._from: tuple[int, float] | None = None
        self.bytes_per_s: float | None = None
        self.fresh = False
        """Has the rate become known with the last `add`?"""

    def add(self, sent_bytes: int) -> None:
        """So many bytes have been sent in all."""
        self.fresh = False
        if sent_bytes < UNDER_WAY_BYTES:
            return
        now = self._clock()
        if self._from is None:
            self._from = sent_bytes, now
            return
        sent, took_s = sent_bytes - self._from[0], now - self._from[1]
        if took_s > 0 and (sent >= MEASURED_BYTES or took_s >= MEASURED_S):
            self.fresh = self.bytes_per_s is None
            self.bytes_per_s = sent / took_s


class Pace:
    """Holds a sender to a limit.

    Args:
        limit_bytes_per_s: on the average; None: no limit.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        limit_bytes_per_s: float | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if limit_bytes_per_s is not None and not limit_bytes_per_s > 0:
            raise ValueError(f"the limit of the bandwidth is {limit_bytes_per_s} bytes per second; expected above 0")
        self._limit = limit_bytes_per_s
        self._clock = clock
        self._sleep = sleep
        self._due: float | None = None

    @property
    def piece_bytes(self) -> int:
        """What to send at once: at most a tenth of a second's worth, so that a limited link is used evenly."""
        return PIECE_BYTES if self._limit is None else max(1024, min(PIECE_BYTES, int(self._limit / 10)))

    def sent(self, count: int) -> None:
        """So many bytes more have been sent: wait until the next may be."""
        if self._limit is None:
            return
        now = self._clock()
        # a sender that was held up elsewhere does not catch up with a burst
        due = max(self._due if self._due is not None else now, now - 1.0) + count / self._limit
        self._due = due
        if due > now:
            self._sleep(due - now)


def compression_pays(
    source: Sampled, meter: RateMeter, left_bytes: int, *, clock: Callable[[], float] = time.perf_counter
) -> bool:
    """Would what is left of a file arrive sooner compressed?

    Args:
        source: the file.
        meter: of the link; its rate is known.
        left_bytes: what is left to send.
        clock: seconds.
    """
    rate = meter.bytes_per_s
    if rate is None or rate > COMPRESSED_BELOW_BYTES_PER_S or left_bytes < SAMPLE_BYTES:
        return False
    sample = source.sample(SAMPLE_BYTES)
    started = clock()
    share = sum(len(zlib.compress(sample[at : at + 2**20], 1)) for at in range(0, len(sample), 2**20)) / len(sample)
    took_s = clock() - started
    # compressing and sending overlap: the slower of the two decides
    plain_s, packed_s = len(sample) / rate, max(took_s, share * len(sample) / rate)
    return share < WORTH and packed_s < WORTH * plain_s
