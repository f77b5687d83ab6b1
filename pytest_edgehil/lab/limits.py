"""What a lab permits: how long a lease lasts, how many boards somebody has, when none is handed out, who is first.

Values and pure questions about them. Who asks is a `Holder`, and the time is handed in; nothing here looks at a clock.
"""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

from pytest_edgehil.lab.leases import Holder

LOWEST, HIGHEST = -100, 100
"""Priorities that may be asked for."""
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
BRANCH_VARIABLES = ("EDGEHIL_BRANCH", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME", "BRANCH_NAME")
"""Where the branch that is worked on is read: ours, GitHub's, GitLab's, Jenkins'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """On what somebody's boards are counted: ``user`` or ``project``, its name, and how many it may have."""

    kind: str
    name: str
    limit: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """How many boards each user, or each project, may have at a time.

    Args:
        each: for everybody who is not named; None: no limit.
        named: other limits, by name.
    """

    each: int | None = None
    named: Mapping[str, int] = field(default_factory=dict)

    def of(self, name: str) -> int | None:
        """The limit for one; None: there is none."""
        return self.named.get(name, self.each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time in which boards are not handed out. Who holds one keeps it.

    Args:
        boards: their ids.
        start: local time at which it begins; for one that recurs only its time of day counts, and its weekday if it is
            weekly.
        every: ``week``, ``day``, or None: once.
        duration_s: so long, in real time: an hour is an hour also when the clocks change in it.
        drain_s: so long before the start they are not handed out any more.
        zone: where `start` is told.
        reason: what people are told.
    """

    boards: frozenset[str]
    start: dt.datetime
    every: str | None
    duration_s: float
    drain_s: float
    zone: ZoneInfo
    reason: str

    def current(self, now: float) -> tuple[float, float] | None:
        """When the window that is open now began to drain and when it ends, in seconds since the epoch; None: none is.

        >>> at = dt.datetime(2026, 11, 22, 2, 0)
        >>> weekly = Window(boards=frozenset({"a"}), start=at, every="week", duration_s=7200, drain_s=600,
        ...                 zone=ZoneInfo("UTC"), reason="updates")
        >>> one_week_later = (at + dt.timedelta(days=7)).replace(tzinfo=dt.UTC).timestamp()
        >>> weekly.current(one_week_later - 600) == (one_week_later - 600, one_week_later + 7200)
        True
        >>> weekly.current(one_week_later - 601) is None, weekly.current(one_week_later + 7200) is None
        (True, True)
        """
        for begin in self._begins(now):
            if begin - self.drain_s <= now < begin + self.duration_s:
                return begin - self.drain_s, begin + self.duration_s
        return None

    def _begins(self, now: float) -> Iterator[float]:
        if self.every is None:
            yield self.start.replace(tzinfo=self.zone).timestamp()
            return
        here = dt.datetime.fromtimestamp(now, self.zone).date()
        reach = 2 + int((self.duration_s + self.drain_s) // 86400)
        for days in range(-reach, reach + 1):
            day = here + dt.timedelta(days=days)
            if self.every == "day" or day.weekday() == self.start.weekday():
                yield dt.datetime.combine(day, self.start.time(), tzinfo=self.zone).timestamp()


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """That a board is not handed out for now.

    Args:
        since, until: seconds since the epoch.
        reason: for people, with the end in the window's own time zone.
    """

    since: float
    until: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorityRule:
    """Work on a branch that the pattern fits has this priority."""

    branch: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Everything that a lab permits or forbids.

    Args:
        max_lease_s: a lease ends so long after it began, renewed or not; None: never while it is renewed.
        extend_while_idle: beyond that it goes on as long as nobody waits.
        users, projects: how many boards they may have at a time.
        windows: maintenance.
        priorities: the first rule whose pattern fits the branch counts.
    """

    max_lease_s: float | None = None
    extend_while_idle: bool = False
    users: Quota = field(default_factory=Quota)
    projects: Quota = field(default_factory=Quota)
    windows: tuple[Window, ...] = ()
    priorities: tuple[PriorityRule, ...] = ()

    @property
    def counts_boards(self) -> bool:
        """Is there any quota?"""
        return any(quota.each is not None or quota.named for quota in (self.users, self.projects))

    def accounts(self, holder: Holder) -> tuple[Account, ...]:
        """The accounts on which a holder's boards are counted."""
        limits = [("user", holder.user, self.users.of(holder.user))]
        if holder.project:
            limits.append(("project", holder.project, self.projects.of(holder.project)))
        return tuple(Account(kind=kind, name=name, limit=limit) for kind, name, limit in limits if limit is not None)

    def maintenance(self, now: float) -> dict[str, Maintenance]:
        """The boards that are not handed out now, by id; of several windows the one that ends last counts."""
        found: dict[str, Maintenance] = {}
        for window in self.windows:
            current = window.current(now)
            if current is None:
                continue
            since, until = current
            end = dt.datetime.fromtimestamp(until, window.zone)
            told = f"{window.reason}, until {end:%Y-%m-%d %H:%M} {window.zone.key}"
            for board_id in window.boards:
                if board_id not in found or found[board_id].until < until:
                    found[board_id] = Maintenance(since=since, until=until, reason=told)
        return found

    def lease_ends(self, *, acquired_at: float, now: float, expiry_s: float, awaited: bool) -> float:
        """When a lease that is renewed now ends, in seconds since the epoch.

        Args:
            acquired_at: when it began.
            now: when it is renewed.
            expiry_s: how long a renewal lasts.
            awaited: does anybody wait for boards?

        >>> limits = Limits(max_lease_s=100.0)
        >>> limits.lease_ends(acquired_at=0.0, now=95.0, expiry_s=15.0, awaited=False)
        100.0
        """
        end = now + expiry_s
        if self.max_lease_s is None or (self.extend_while_idle and not awaited):
            return end
        return max(now, min(end, acquired_at + self.max_lease_s))

    def priority(self, environment: Mapping[str, str]) -> int:
        """The priority of work in this environment: by its branch; 0 unless a rule says otherwise.

        >>> limits = Limits(priorities=(PriorityRule(branch="release/*", priority=10),))
        >>> limits.priority({"CI_COMMIT_REF_NAME": "release/2.1"}), limits.priority({"CI_COMMIT_REF_NAME": "main"})
        (10, 0)
        """
        branch = next((environment[name] for name in BRANCH_VARIABLES if environment.get(name)), None)
        for rule in self.priorities:
            if branch is not None and fnmatch.fnmatchcase(branch, rule.branch):
                return rule.priority
        return 0
