"""The clock of a lease store: the database's, made steady.

A lease ends by a clock, so whoever sets that clock sets every lease: forward by an hour, and each board is free
although its holder lives. Hence the time of a store is the wall clock of its database *plus an offset that the
database records*, and whenever the wall clock is found to have been set, the offset is changed by as much the other
way. How that is found: a clock that cannot be set (``CLOCK_BOOTTIME``, which also runs while the machine sleeps) is
read beside it, and between two readings both must have run for as long.

* SQLite is on one host, and so are all who use it: the earlier reading stands in the database, next to the host's boot
  id. Every transaction compares before it decides, so a step changes nothing for anybody.
* PostgreSQL has no steady clock, so each client remembers a reading of its own connection. Whoever was there before
  the step corrects it in its next transaction, at the latest by the next heartbeat of any holder, a third of an
  expiry. Only one who comes anew between the step and that can see leases end early; then the boards' tokens keep the
  old holder from doing harm.

When nobody holds or awaits anything the offset is dropped, so that the times in the books are those on the wall again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

DRIFT = 0.0005
"""So far may two hosts' clocks run apart: a clock that is kept by NTP is slewed by at most 500 ppm (adjtimex(2))."""
SLACK_S = 0.25
"""Smaller steps are slewing, or the resolution of a clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Both clocks at once, as nearly as one can tell.

    Args:
        wall: seconds since the epoch by the clock that may be set.
        before, after: the steady clock right before and right after, in seconds.
        boot: what the steady clock counts from; readings of two boots say nothing about each other.
    """

    wall: float
    before: float
    after: float
    boot: str


def step_s(first: Reading, second: Reading, *, drift: float = 0.0) -> float:
    """By how much the wall clock was set between two readings; negative: back; 0: not at all, as far as one can tell.

    Never more than it really was set, however long the readings took.

    Args:
        first, second: in the order in which they were made.
        drift: the clocks may run apart by so much of the time between the readings: none on one host, where both are
            slewed alike (clock_getres(2)).

    >>> first = Reading(wall=1000.0, before=5.0, after=5.1, boot="a")
    >>> step_s(first, Reading(wall=1060.0, before=65.0, after=65.1, boot="a"))
    0.0
    >>> round(step_s(first, Reading(wall=4660.0, before=65.0, after=65.1, boot="a")), 3)
    3599.9
    >>> round(step_s(first, Reading(wall=460.0, before=65.0, after=65.1, boot="a")), 3)
    -599.9
    """
    if first.boot != second.boot:
        return 0.0
    ran_s = second.wall - first.wall
    most_s, least_s = second.after - first.before, second.before - first.after
    forward_s, back_s = ran_s - most_s, ran_s - least_s
    slack_s = SLACK_S + drift * max(0.0, most_s)
    if forward_s > slack_s:
        return forward_s
    return back_s if back_s < -slack_s else 0.0


def steady_s() -> float:
    """Seconds since this host was booted, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """What `steady_s` counts from (proc_sys_kernel(5)); all containers of a host share it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
