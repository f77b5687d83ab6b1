"""The tables of a lease database, and their rows as values. No transaction begins here; the store does that.

One row per leased board, so that two leases of one board cannot even be written down; expired rows stay until the
board is leased again. The token's counter has a table of its own, since it must outlive every lease.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pytest_edgehil.lab.leases import AuditEvent, AuditLine, BoardState, BoardStatus, Holder, Lease

_AUDIT_LINES = 100_000  # about 15 MB; older lines are dropped

METADATA = sa.MetaData()


def _who() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("name", sa.String, nullable=False),
        sa.Column("host", sa.String, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("user", sa.String, nullable=False),
    )


COUNTER = sa.Table(
    "counter",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
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
)
QUARANTINE = sa.Table(
    "quarantine",
    METADATA,
    sa.Column("board_id", sa.String, primary_key=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
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
    sqlite_autoincrement=True,
)


def holder_of(row: Any) -> Holder:
    """Who a row is about."""
    return Holder(name=row.name, host=row.host, pid=row.pid, user=row.user)


def lease_of(row: Any) -> Lease:
    """A row of `LEASE` as a value."""
    return Lease(
        board_id=row.board_id,
        token=row.token,
        holder=holder_of(row),
        acquired_at=row.acquired_at,
        expires_at=row.expires_at,
    )


def unexpired(connection: sa.Connection, *, now: float) -> list[Lease]:
    """Every lease that still counts."""
    return [lease_of(row) for row in connection.execute(sa.select(LEASE).where(LEASE.c.expires_at > now))]


def current_lease(connection: sa.Connection, board_id: str, *, now: float) -> Lease | None:
    """The unexpired lease on a board, if there is one."""
    row = connection.execute(
        sa.select(LEASE).where(LEASE.c.board_id == board_id, LEASE.c.expires_at > now)
    ).one_or_none()
    return None if row is None else lease_of(row)


def taken_away(connection: sa.Connection, lease: Lease) -> AuditLine | None:
    """The line by which a lease was taken from its holder, if it was."""
    row = connection.execute(
        sa.select(AUDIT).where(AUDIT.c.token == lease.token, AUDIT.c.event == AuditEvent.FORCE_RELEASED.value)
    ).one_or_none()
    return None if row is None else audit_line(row)


def audit_line(row: Any) -> AuditLine:
    """A row of `AUDIT` as a value."""
    return AuditLine(
        at=row.at,
        board_id=row.board_id,
        event=AuditEvent(row.event),
        by=holder_of(row),
        token=row.token,
        reason=row.reason,
    )


def state_of(board_id: str, lease: Lease | None, quarantine: Any) -> BoardState:
    """State of a board by its unexpired lease and its row of `QUARANTINE`, if it has them; quarantine wins."""
    if quarantine is not None:
        state, since, reason = BoardStatus.QUARANTINED, quarantine.since, quarantine.reason
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
    )


def note(
    connection: sa.Connection,
    at: float,
    board_id: str,
    event: AuditEvent,
    *,
    by: Holder,
    token: int | None = None,
    reason: str = "",
) -> None:
    """Write a line into the audit trail; now and then the oldest ones are dropped."""
    line = connection.execute(
        sa.insert(AUDIT)
        .values(
            at=at,
            board_id=board_id,
            event=event.value,
            name=by.name,
            host=by.host,
            pid=by.pid,
            user=by.user,
            token=token,
            reason=reason,
        )
        .returning(AUDIT.c.id)
    ).scalar_one()
    if line % 1000 == 0:
        connection.execute(sa.delete(AUDIT).where(AUDIT.c.id <= line - _AUDIT_LINES))
