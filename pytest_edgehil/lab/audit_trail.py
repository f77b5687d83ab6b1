"""The lines of the audit trail in a database: written inside the transaction that they tell of."""

from __future__ import annotations

import sqlalchemy as sa

from pytest_edgehil.lab.lease_tables import AUDIT, audit_line
from pytest_edgehil.lab.leases import AuditEvent, AuditLine, Holder

AUDIT_LINES = 100_000  # about 15 MB; older lines are dropped

_INSERT_AUDIT = sa.insert(AUDIT).returning(AUDIT.c.id)  # made once: making a statement costs as much as running it


def note(
    connection: sa.Connection,
    at: float,
    board_id: str,
    event: AuditEvent,
    *,
    by: Holder,
    token: int | None = None,
    reason: str = "",
    waited_s: float | None = None,
) -> None:
    """Write a line into the audit trail; now and then the oldest ones are dropped."""
    line = connection.execute(
        _INSERT_AUDIT,
        {
            "at": at,
            "board_id": board_id,
            "event": event.value,
            "name": by.name,
            "host": by.host,
            "pid": by.pid,
            "user": by.user,
            "token": token,
            "reason": reason,
            "waited_s": waited_s,
        },
    ).scalar_one()
    if line % 1000 == 0:
        forget_old_lines(connection, newest=line)


def forget_old_lines(connection: sa.Connection, *, newest: int) -> None:
    """Drop the oldest lines of the audit trail."""
    connection.execute(sa.delete(AUDIT).where(AUDIT.c.id <= newest - AUDIT_LINES))


def lines(
    connection: sa.Connection, *, board_id: str | None, since: float | None, after: int, newest: int | None
) -> tuple[AuditLine, ...]:
    """See `leases.AuditTrail.audit`."""
    wanted = sa.select(AUDIT).where(AUDIT.c.id > after).order_by(AUDIT.c.id.desc()).limit(newest)
    if board_id is not None:
        wanted = wanted.where(AUDIT.c.board_id == board_id)
    if since is not None:
        wanted = wanted.where(AUDIT.c.at >= since)
    return tuple(audit_line(row) for row in reversed(connection.execute(wanted).all()))
