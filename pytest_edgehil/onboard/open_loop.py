"""Inferences at a given rate: each has a moment at which it is due, whether or not the one before has ended.

There is one server and one queue: an inference whose forerunner is still running waits for it, and whoever reads the
times counts from the moment that it was due. So a stall delays everything that falls into it, as it would in
production (coordinated omission).

The moments are evenly spaced. Between two measurements at one rate the schedule stands still and then goes on where
it stood: what was waiting still waits. Otherwise every gate that looks at its sample would empty the queue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

MAX_RATE_HZ = 1e5


class Timed(Protocol):
    """The part of a runtime's session that is needed here."""

    def now_ns(self) -> int:
        """The session's clock."""

    def wait_until(self, moment_ns: int) -> None:
        """Return at this moment of the session's clock, or at once when it has passed."""

    def infer(self, number: int) -> tuple[int, int]:
        """Time one inference on the staged item `number`, modulo their number: start and latency."""


@dataclass(slots=True, kw_only=True)
class Arrivals:
    """The block's times; all on the session's clock, all of one length.

    Args:
        intended_ns: when each inference was due.
        starts_ns: when it really began.
        latencies_ns: how long it took.
        late_ns: how long it could have begun before it did: it was due, and the one before had ended. Ours to blame.
    """

    intended_ns: list[int] = field(default_factory=list)
    starts_ns: list[int] = field(default_factory=list)
    latencies_ns: list[int] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)


class Schedule:
    """When inferences at one rate are due.

    Args:
        rate_hz: how many a second.
    """

    def __init__(self, rate_hz: float) -> None:
        self._interval_ns = 1e9 / rate_hz
        self._origin_ns = 0
        self._number = 0
        self._ahead_ns = 0  # from the end of the last inference to when the next is due; negative: it waits already
        self._ended_ns = 0

    @property
    def due_ns(self) -> int:
        """When the next inference is due."""
        return self._origin_ns + round(self._number * self._interval_ns)  # never added up: no drift

    @property
    def ended_ns(self) -> int:
        """When the last inference ended."""
        return self._ended_ns

    def resume(self, now_ns: int) -> None:
        """Go on from now as if no time had passed since the last inference ended."""
        self._origin_ns, self._number, self._ended_ns = now_ns + self._ahead_ns, 0, now_ns

    def done(self, ended_ns: int) -> None:
        """The inference that was due has ended."""
        self._number += 1
        self._ended_ns = ended_ns
        self._ahead_ns = self.due_ns - ended_ns


def block(session: Timed, schedule: Schedule, *, first: int, limit: int, until_ns: int) -> Arrivals:
    """Time up to `limit` inferences as they become due, beginning none after `until_ns`.

    Ends as soon as nothing more is due before `until_ns`, so that the caller can send what there is while nothing
    waits; with nothing to send it waits until then.

    Args:
        session: what infers.
        schedule: when; it is moved on.
        first: number of the first item.
        limit: at most so many.
        until_ns: on the session's clock.
    """
    found = Arrivals()
    while len(found.starts_ns) < limit:
        due_ns, ready_ns = schedule.due_ns, schedule.ended_ns
        if found.starts_ns and max(due_ns, ready_ns) >= until_ns:
            break
        if due_ns >= until_ns:
            session.wait_until(until_ns)
            break
        session.wait_until(due_ns)
        began_ns, latency_ns = session.infer(first + len(found.starts_ns))
        found.intended_ns.append(due_ns)
        found.starts_ns.append(began_ns)
        found.latencies_ns.append(latency_ns)
        found.late_ns.append(began_ns - max(due_ns, ready_ns))
        schedule.done(began_ns + latency_ns)
    return found
