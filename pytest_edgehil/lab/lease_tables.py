"""The tables of a lease database as they are now, and their rows as values. `migrations` says how they came to be.

No transaction begins here; the stores do that. One row per leased board, so that two leases of one board cannot even
be written down; expired rows stay until the board is leased again. What must outlive every lease (the counters of
tokens and tickets, the clock) has tables of its own.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from pytest_edgehil.lab.leases import AuditEvent, AuditLine, BoardState, BoardStatus, Holder, Lease
from pytest_edgehil.lab.queueing import Waiter

METADATA = sa.MetaData()


def _who() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("user", sa.String, nullable=False),
    )


MIGRATION = sa.Table(
    "migration",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
COUNTER = sa.Table(
    "counter",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
CLOCK = sa.Table(
    "clock",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("offset_s", sa.Float, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("wall", sa.Float, nullable=False),
    sa.Column("steady", sa.Float, nullable=False),
    sa.Column("boot", sa.String, nullable=False),
)
LEASE = sa.Table(
    "lease",
    METADATA,
    sa.Column("board_id", sa.String, primary_key=True),
    sa.Column("token", sa.BigInteger, nullable=False, unique=True),
    *_who(),
    sa.Column("acquired_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("expiry_s", sa.Float, nullable=False),
    sa.Column("project", sa.String, nullable=False, server_default=""),
    sa.Column("claim", sa.String, nullable=False, server_default=""),
)
QUEUE = sa.Table(
    "queue",
    METADATA,
    sa.Column("ticket", sa.BigInteger, primary_key=True),
    sa.Column("priority", sa.Integer, nullable=False),
    *_who(),
    sa.Column("project", sa.String, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("alive_until", sa.Float, nullable=False),
    sa.Column("wanted", sa.String, nullable=False),
    sa.Column("bell", sa.String, nullable=False),
)
QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("board_id", sa.String, primary_key=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("next_check_at", sa.Float, nullable=True),
)
HEALTH = sa.Table(
    "health",
    METADATA,
    sa.Column("board_id", sa.String, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failed_at", sa.Float, nullable=True),
    sa.Column("checked_at", sa.Float, nullable=True),
    sa.Column("complaint", sa.String, nullable=False, server_default=""),
    sa.Column("temperature_c", sa.Float, nullable=True),
    sa.Column("disk_free_bytes", sa.BigInteger, nullable=True),
    sa.Column("clock_offset_s", sa.Float, nullable=True),
)
FLASH = sa.Table(
    "flash",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("board_id", sa.String, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("label", sa.String, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("sent_bytes", sa.BigInteger, nullable=False),
)
VISIT = sa.Table(
    "visit",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("board_id", sa.String, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("run", sa.String, nullable=False),
    sa.Column("test", sa.String, nullable=False),
    sa.Column("combo", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("verdicts", sa.String, nullable=False),  # JSON: [[gate, outcome], …]
    sa.Column("message", sa.String, nullable=False),
    sa.Column("console", sa.String, nullable=False),
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("board_id", sa.String, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    *_who(),
    sa.Column("token", sa.BigInteger, nullable=True, index=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("waited_s", sa.Float, nullable=True),
)


def holder_of(row: Any) -> Holder:
    """Who a row of `LEASE` or `QUEUE` is about."""
    return Holder(name=row.name, host=row.host, pid=row.pid, user=row.user, project=row.project)


def columns_of(holder: Holder) -> dict[str, str | int]:
    """The columns that `holder_of` reads."""
    return {
        "name": holder.name,
        "host": holder.host,
        "pid": holder.pid,
        "user": holder.user,
        "project": holder.project,
    }


def lease_of(row: Any, *, now: float) -> Lease:
    """A row of `LEASE` as a value."""
    return Lease(
        board_id=row.board_id,
        token=row.token,
        holder=holder_of(row),
        acquired_at=row.acquired_at,
        expires_at=row.expires_at,
        lasts_s=row.expires_at - now,
    )


def waiter_of(row: Any) -> Waiter:
    """A row of `QUEUE` as a value."""
    return Waiter(
        ticket=row.ticket,
        holder=holder_of(row),
        priority=row.priority,
        asked_at=row.asked_at,
        alive_until=row.alive_until,
        wanted=tuple(tuple(request) for request in json.loads(row.wanted)),
        bell=row.bell,
    )


def audit_line(row: Any) -> AuditLine:
    """A row of `AUDIT` as a value."""
    return AuditLine(
        at=row.at,
        board_id=row.board_id,
        event=AuditEvent(row.event),
        by=Holder(name=row.name, host=row.host, pid=row.pid, user=row.user),
        token=row.token,
        reason=row.reason,
        number=row.id,
        waited_s=row.waited_s,
    )


def state_of(
    board_id: str,
    lease: Lease | None,
    quarantine: Any,
    maintenance: tuple[float, str] | None = None,
    *,
    failures: int = 0,
) -> BoardState:
    """State of a board; quarantine wins over maintenance, and that over a lease.

    Args:
        board_id: the board.
        lease: its unexpired lease, if any.
        quarantine: its row of `QUARANTINE`, if any.
        maintenance: since when and why it is not handed out for a while, if so.
        failures: how often in a row it has failed.
    """
    if quarantine is not None:
        state, since, reason = BoardStatus.QUARANTINED, quarantine.since, quarantine.reason
    elif maintenance is not None:
        state, (since, reason) = BoardStatus.MAINTENANCE, maintenance
    elif lease is not None:
        state, since, reason = BoardStatus.LEASED, lease.acquired_at, None
    else:
        state, since, reason = BoardStatus.FREE, None, None
    return BoardState(
        board_id=board_id,
        state=state,
        holder=lease.holder if lease else None,
        token=lease.token if lease else None,
        expires_at=lease.expires_at if lease else None,
        reason=reason,
        since=since,
        failures=failures,
        next_check_at=None if quarantine is None else quarantine.next_check_at,
    )
