"""What a lease is, and what a store of leases and the state of a lab can do.

A lease is the exclusive right to one board until it expires. Whoever holds it renews it by a heartbeat; whoever stops
doing so has lost it, without anybody having to notice that it died. Rules that every store keeps:

* At no time do two unexpired leases exist for one board. A lease is over the moment it expires, whether or not
  somebody has taken the board since: it is never renewed afterwards, since the pool it counted in may be full again.
* Tokens grow with every lease of any board and never go back, so that the board itself can refuse an old holder.
* A request is granted whole or not at all. Quarantined boards are not handed out; pool limits hold.
* Quarantine does not take a lease away: who holds the board keeps it, and nobody gets it next. `force_release` does.
"""

from __future__ import annotations

import enum
import getpass
import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_edgehil.errors import LeaseLost
from pytest_edgehil.model.quantity import format_duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a board, or who changes its state.

    Args:
        name: what people recognise: a CI job, or a login.
        host: name of the host that the process runs on.
        pid: process id on that host.
        user: login on that host.
    """

    name: str
    host: str
    pid: int
    user: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid} on {self.host})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A time-bounded exclusive right to a board. Times are seconds since the epoch."""

    board_id: str
    token: int
    holder: Holder
    acquired_at: float
    expires_at: float


class BoardStatus(enum.StrEnum):
    """Whether a board can be handed out."""

    FREE = "free"
    LEASED = "leased"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardState:
    """State of one board now.

    Args:
        board_id: the board.
        state: quarantine wins over a lease; `holder` tells whether somebody still holds a quarantined board.
        holder: who holds it; None when nobody does.
        token: fencing token of the lease.
        expires_at: when the lease ends unless it is renewed, seconds since the epoch.
        reason: why it is quarantined.
        since: since when it is leased or quarantined, seconds since the epoch.
    """

    board_id: str
    state: BoardStatus
    holder: Holder | None = None
    token: int | None = None
    expires_at: float | None = None
    reason: str | None = None
    since: float | None = None


class AuditEvent(enum.StrEnum):
    """What happened to a board."""

    LEASED = "leased"
    RELEASED = "released"
    EXPIRED = "expired"
    FORCE_RELEASED = "force-released"
    QUARANTINED = "quarantined"
    RESTORED = "restored"


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
    """

    at: float
    board_id: str
    event: AuditEvent
    by: Holder
    token: int | None
    reason: str


class LeaseStore(Protocol):
    """Keeps leases; every verb is one transaction and may be called from any thread or process."""

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float
    ) -> tuple[Lease, ...] | None:
        """Lease one board for each request, all or nothing.

        Args:
            requests: for each wanted board the ids that do, best first.
            holder: who asks.
            expiry_s: the lease ends so many seconds from now unless renewed.

        Returns:
            One lease per request in the same order, on different boards; None when that is not possible right now.

        Raises:
            LeaseError: the store cannot be reached.
        """
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

    def quarantine(self, board_id: str, *, reason: str, by: Holder) -> None:
        """Stop handing a board out. The first reason is kept until the board is restored; the audit has them all."""
        ...

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        """Hand a board out again; return False when it was not quarantined."""
        ...

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        """Take a board away from its holder; return the lease that ended, or None when nobody held the board."""
        ...


class AuditTrail(Protocol):
    """What happened."""

    def audit(self) -> tuple[AuditLine, ...]:
        """The changes that are kept, oldest first."""
        ...


class LabStore(LeaseStore, LabState, AuditTrail, Protocol):
    """All of it: what `sqlite_store.open_store` gives."""


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
    )


def lost(lease: Lease, *, now: float, current: Lease | None, taken_away: AuditLine | None) -> LeaseLost:
    """The error that says how a lease was lost and who holds the board now.

    Args:
        lease: the lease that is over.
        now: seconds since the epoch.
        current: the unexpired lease on the board, if any.
        taken_away: the audit line by which it was taken away, if it was.
    """
    what = f"lease on {lease.board_id} (token {lease.token})"
    if taken_away is not None:
        why = f": {taken_away.reason}" if taken_away.reason else ""
        how = f"was taken away by {taken_away.by} {_ago(now - taken_away.at)}{why}"
    elif now >= lease.expires_at:
        how = f"expired {_ago(now - lease.expires_at)}"
    else:
        how = "is over: the store does not know it any more"
    who = f"it is held by {current.holder} now" if current is not None else "nobody holds it now"
    return LeaseLost(f"{what} {how}; {who}; run 'edgehil lab boards' to see who holds what")


def _ago(seconds: float) -> str:
    return "just now" if seconds < 0.001 else f"{format_duration(seconds * 1e9)} ago"
