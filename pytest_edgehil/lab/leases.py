"""What a lease is, and what a store of leases and the state of a lab can do.

A lease is the exclusive right to one board until it expires. Whoever holds it renews it by a heartbeat; whoever stops
doing so has lost it, without anybody having to notice that it died. Rules that every store keeps:

* At no time do two unexpired leases exist for one board. A lease is over the moment it expires, whether or not
  somebody has taken the board since: it is never renewed afterwards, since the pool it counted in may be full again.
* Tokens grow with every lease of any board and never go back, so that the board itself can refuse an old holder.
* A request is granted whole or not at all. Quarantined boards are not handed out; pool limits and quotas hold.
* Who waits is in a queue, by priority and then by age, and is served by it (see `queueing`).
* Time is the store's own, never the client's; its steps do not end or prolong a lease (see `store_clock`).
* Quarantine does not take a lease away: who holds the board keeps it, and nobody gets it next. `force_release` does.
"""

from __future__ import annotations

import enum
import getpass
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from pytest_edgehil.errors import LeaseLost
from pytest_edgehil.lab.health import Checkup, LastCheck
from pytest_edgehil.model.quantity import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a board, or who changes its state.

    Args:
        name: what people recognise: a CI job, or a login.
        host: name of the host that the process runs on.
        pid: process id on that host.
        user: login on that host; quotas count by it.
        project: what the work is for, as the CI names it; quotas count by it. Empty when nobody says.
    """

    name: str
    host: str
    pid: int
    user: str
    project: str = ""

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid} on {self.host})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A time-bounded exclusive right to a board.

    Args:
        board_id: the board.
        token: fencing token; grows with every lease of any board.
        holder: whose it is.
        acquired_at, expires_at: seconds since the epoch by the *store's* clock, which is nobody else's: never compare
            them with a clock of your own.
        lasts_s: so long it runs from the moment that the verb which returned it was carried out. That is what a holder
            counts down by its own steady clock, beginning before it asked.
    """

    board_id: str
    token: int
    holder: Holder
    acquired_at: float
    expires_at: float
    lasts_s: float


class BoardStatus(enum.StrEnum):
    """Whether a board can be handed out."""

    FREE = "free"
    LEASED = "leased"
    QUARANTINED = "quarantined"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardState:
    """State of one board now.

    Args:
        board_id: the board.
        state: quarantine wins over maintenance, and that over a lease; `holder` tells whether somebody holds the board
            all the same.
        holder: who holds it; None when nobody does.
        token: fencing token of the lease.
        expires_at: when the lease ends unless it is renewed, seconds since the epoch.
        reason: why it is quarantined or in maintenance.
        since: since when it is in that state, seconds since the epoch.
        failures: how often in a row it has failed: quarantines by an error, and failed checks after them.
        next_check_at: when a quarantined board is looked at again, seconds since the epoch; None: a person has to.
    """

    board_id: str
    state: BoardStatus
    holder: Holder | None = None
    token: int | None = None
    expires_at: float | None = None
    reason: str | None = None
    since: float | None = None
    failures: int = 0
    next_check_at: float | None = None


PROJECT_VARIABLES = ("EDGEHIL_PROJECT", "GITHUB_REPOSITORY", "CI_PROJECT_PATH", "JOB_NAME")
"""Where a project's name is read: ours, GitHub's, GitLab's, Jenkins'."""


class AuditEvent(enum.StrEnum):
    """What happened to a board."""

    LEASED = "leased"
    RELEASED = "released"
    EXPIRED = "expired"
    FORCE_RELEASED = "force-released"
    QUARANTINED = "quarantined"
    RESTORED = "restored"
    CHECK_FAILED = "check-failed"
    POWER = "power"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """One change: when, which board, what, by whom, from where and why.

    Args:
        at: seconds since the epoch.
        board_id: the board.
        event: what happened.
        by: who did it; for an expiry, whose lease it was.
        token: the lease that it was about, if any.
        reason: what was given as reason; empty for leases that come and go.
        number: grows with every line.
        waited_s: how long a lease was waited for in the queue; None if it was had at once, and for other lines.
    """

    at: float
    board_id: str
    event: AuditEvent
    by: Holder
    token: int | None
    reason: str
    number: int = field(default=0, compare=False)
    waited_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashLine:
    """One flash of a board.

    Args:
        number: grows with every flash.
        at: when it ended, seconds since the epoch.
        board_id: the board.
        label: what was flashed.
        seconds: how long it took.
        sent_bytes: over the link.
    """

    number: int
    at: float
    board_id: str
    label: str
    seconds: float
    sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What came of one attempt at a test on a board, for people who look at the board later.

    Args:
        board_id: the board.
        token: of the lease that it happened under.
        by: the test run.
        test: pytest's node id.
        combo: what was on the board, or empty.
        status: ``passed``, ``failed``, ``infrastructure``, …
        verdicts: gate and outcome of each gate, such as ``("p95_latency", "PASS")``.
        message: one line; empty when it passed.
        console: the end of what the serial console has said by then; kept for the last visit of a board only.
        at: when, in seconds since the epoch; set by the store.
    """

    board_id: str
    token: int
    by: str
    test: str
    combo: str
    status: str
    verdicts: tuple[tuple[str, str], ...]
    message: str
    console: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """That a request has to wait.

    Args:
        place: its place in the queue; 1 is next.
        of: so many are in the queue.
        why: for whom or what it waits, one clause for each board that matters.
        hopeless: every way to fulfil it needs a quarantined board, so waiting alone will not help.
        look_again_s: nothing changes by the passing of time alone for so many seconds.
    """

    place: int
    of: int
    why: str
    hopeless: bool
    look_again_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Somebody in the queue, for people to look at.

    Args:
        holder: who.
        priority: the higher one is first, and of equals the older one.
        asked_at: since when, in seconds since the epoch.
        wanted: for each wanted board the ids that do.
        waiting: what for; None while its boards are ready and it is about to take them.
    """

    holder: Holder
    priority: int
    asked_at: float
    wanted: tuple[tuple[str, ...], ...]
    waiting: Waiting | None


class Place(Protocol):
    """A place in the queue, for as long as its ``with`` block lasts. It belongs to one thread."""

    def advance(self) -> tuple[Lease, ...] | Waiting:
        """Take the boards if it is our turn; else say that we still wait. Who does not for an expiry is out.

        Raises:
            LeaseError: the store cannot be reached; the place is kept for an expiry.
        """
        ...

    def wait(self, timeout_s: float) -> bool:
        """Wait to be called, at most so long; return whether we were. May say so for no reason."""
        ...

    def stay(self) -> bool:
        """Say that we still live, and nothing else; return False if the place was lost: only `advance` gets a new one.

        Raises:
            LeaseError: the store cannot be reached; the place is kept for an expiry.
        """
        ...

    def __enter__(self) -> Place: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LeaseStore(Protocol):
    """Keeps leases; every verb is one transaction and may be called from any thread or process."""

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> tuple[Lease, ...] | None:
        """Lease one board for each request, all or nothing, without waiting.

        Args:
            requests: for each wanted board the ids that do, best first.
            holder: who asks.
            expiry_s: the lease ends so many seconds from now unless renewed.
            priority: boards that are kept for those in the queue who have this priority or a higher one are not given.

        Returns:
            One lease per request in the same order, on different boards; None when that is not possible right now.

        Raises:
            LeaseError: the store cannot be reached.
        """
        ...

    def queue_up(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> Place:
        """Join the queue; the arguments are those of `acquire`. Leaving the place's ``with`` block leaves the queue."""
        ...

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        """Extend a lease to `expiry_s` from now.

        Raises:
            LeaseLost: it expired or was taken away; the message names who holds the board now.
            LeaseError: the store cannot be reached.
        """
        ...

    def release(self, lease: Lease) -> bool:
        """End a lease; return False when it was over already. Never touches somebody else's lease."""
        ...


class LabState(Protocol):
    """What boards are in, and what an operator or a test run may change about it."""

    def boards(self) -> tuple[BoardState, ...]:
        """The state of every board of the lab, in the lab's order."""
        ...

    def quarantine(self, board_id: str, *, reason: str, by: Holder, automatic: bool = False) -> None:
        """Stop handing a board out. The first reason is kept until the board is restored; the audit has them all.

        Args:
            board_id: the board.
            reason: why.
            by: who says so.
            automatic: because of an error: it is looked at again after a while, unless a person says otherwise.
        """
        ...

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        """Hand a board out again; return False when it was not quarantined."""
        ...

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        """Take a board away from its holder; return the lease that ended, or None when nobody held the board."""
        ...


class Health(Protocol):
    """What is known about the health of boards, see `health`."""

    def note_check(self, board_id: str, checkup: Checkup, *, by: Holder) -> bool:
        """Write down what came of a look at a board; return whether it was restored by that.

        One that passed ends an automatic quarantine. One that failed begins one, or puts the next look further off.
        """
        ...

    def checks(self) -> Mapping[str, LastCheck]:
        """The last look at each board, by its id; boards that nobody has looked at are left out."""
        ...

    def due(self) -> tuple[str, ...]:
        """Quarantined boards that are to be looked at again now, and that nobody holds."""
        ...

    def acquire_closed(self, board_id: str, *, holder: Holder, expiry_s: float, only_due: bool = False) -> Lease | None:
        """Lease a board to look at it or to mend it, also while it is not handed out; None while somebody holds it.

        Args:
            board_id: the board.
            holder: who.
            expiry_s: the lease ends so many seconds from now unless renewed.
            only_due: None as well unless the board is to be looked at again now.
        """
        ...


class Journal(Protocol):
    """What is written down about boards beside their leases."""

    def note(self, board_id: str, event: AuditEvent, *, by: Holder, token: int | None, reason: str) -> None:
        """Write a line into the audit trail."""
        ...

    def note_flash(self, lease: Lease, *, label: str, seconds: float, sent_bytes: int) -> None:
        """Write down how long a flash took."""
        ...

    def note_visit(self, visit: Visit) -> None:
        """Write down what came of a test on a board."""
        ...

    def visits(self) -> tuple[Visit, ...]:
        """The visits that are kept, oldest first."""
        ...

    def flashes(self, *, after: int = 0) -> tuple[FlashLine, ...]:
        """The flashes that are kept with a higher number than this, oldest first."""
        ...


class Queue(Protocol):
    """Who waits."""

    def queue(self) -> tuple[Queued, ...]:
        """Everybody in the queue, the first one first."""
        ...


class AuditTrail(Protocol):
    """What happened."""

    def audit(
        self, *, board_id: str | None = None, since: float | None = None, after: int = 0, newest: int | None = None
    ) -> tuple[AuditLine, ...]:
        """The changes that are kept, oldest first.

        Args:
            board_id: only those of this board.
            since: only those from then on, in seconds since the epoch.
            after: only those with a higher number.
            newest: at most so many, the newest of them.
        """
        ...


class LabStore(LeaseStore, LabState, Health, Queue, AuditTrail, Journal, Protocol):
    """All of it: what `store.open_store` gives."""

    def close(self) -> None:
        """Close the connections; leases stay as they are."""
        ...

    def __enter__(self) -> LabStore: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def default_holder() -> Holder:
    """This process, under the name that people recognise.

    The name is ``$EDGEHIL_HOLDER``, else the CI job (GitHub, GitLab, Jenkins), else login and process id. It is one
    word, since it travels in command lines and logs.
    """
    env = os.environ
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose uid has no name
        user = f"uid{os.getuid()}"
    if env.get("EDGEHIL_HOLDER"):
        name = env["EDGEHIL_HOLDER"]
    elif env.get("GITHUB_RUN_ID"):
        name = f"github-{env['GITHUB_RUN_ID']}-{env.get('GITHUB_JOB', 'job')}"
    elif env.get("CI_JOB_ID"):
        name = f"gitlab-{env['CI_JOB_ID']}"
    elif env.get("BUILD_TAG"):
        name = env["BUILD_TAG"]
    else:
        name = f"{user}-{os.getpid()}"
    return Holder(
        name=re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip("-")[:100] or "unnamed",
        host=socket.gethostname(),
        pid=os.getpid(),
        user=user,
        project=next((env[name] for name in PROJECT_VARIABLES if env.get(name)), "")[:200],
    )


def lost(
    lease: Lease, *, now: float, current: Lease | None, taken_away: AuditLine | None, max_lease_s: float | None = None
) -> LeaseLost:
    """The error that says how a lease was lost and who holds the board now.

    Args:
        lease: the lease that is over.
        now: seconds since the epoch, by the store.
        current: the unexpired lease on the board, if any.
        taken_away: the audit line by which it was taken away, if it was.
        max_lease_s: the lab's limit for a lease, if it has one.
    """
    what = f"lease on {lease.board_id} (token {lease.token})"
    if taken_away is not None:
        why = f": {taken_away.reason}" if taken_away.reason else ""
        how = f"was taken away by {taken_away.by} {_ago(now - taken_away.at)}{why}"
    elif max_lease_s is not None and now >= lease.acquired_at + max_lease_s:
        how = f"ended after {format_duration(max_lease_s * 1e9)}, which is the lab's limit"
    elif now >= lease.expires_at:
        how = f"expired {_ago(now - lease.expires_at)}"
    else:
        how = "is over: the store does not know it any more"
    who = f"it is held by {current.holder} now" if current is not None else "nobody holds it now"
    return LeaseLost(f"{what} {how}; {who}; run 'edgehil lab boards' to see who holds what")


def _ago(seconds: float) -> str:
    return "just now" if seconds < 0.001 else f"{format_duration(seconds * 1e9)} ago"
