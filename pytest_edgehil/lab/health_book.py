"""What a store of leases keeps about the health of boards: the last look at each, and who is looked at again, and when.

A part of `database_store.DatabaseStore`. The rules are `health`'s; time is the store's. Quarantines and checks are
counted here, in one row per board that outlives quarantines, since a board that comes back again and again is worse
than one that broke once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pytest_edgehil.lab.audit_trail import note
from pytest_edgehil.lab.health import FORGOTTEN_S, Checkup, HealthRules, LastCheck
from pytest_edgehil.lab.lease_tables import HEALTH, LEASE, QUARANTINE
from pytest_edgehil.lab.leases import AuditEvent, Holder


def all_failures(connection: sa.Connection, *, now: float) -> Mapping[str, int]:
    """How often in a row boards have failed; those that have not, or long ago, are left out."""
    recent = sa.select(HEALTH.c.board_id, HEALTH.c.failures).where(HEALTH.c.failed_at > now - FORGOTTEN_S)
    return {row.board_id: row.failures for row in connection.execute(recent)}


def count_failure(connection: sa.Connection, board_id: str, *, now: float) -> int:
    """One more; those of yesterday are forgotten. Returns how many in a row that makes."""
    row = connection.execute(sa.select(HEALTH).where(HEALTH.c.board_id == board_id)).one_or_none()
    before = 0
    if row is not None and row.failed_at is not None and now - row.failed_at < FORGOTTEN_S:
        before = row.failures
    _put(connection, board_id, failures=before + 1, failed_at=now)
    return before + 1


def forget_failures(connection: sa.Connection, board_id: str) -> None:
    """A person has restored the board: it begins anew."""
    connection.execute(sa.update(HEALTH).where(HEALTH.c.board_id == board_id).values(failures=0, failed_at=sa.null()))


def close(
    connection: sa.Connection,
    board_id: str,
    *,
    reason: str,
    by: Holder,
    automatic: bool,
    rules: HealthRules,
    now: float,
) -> None:
    """Quarantine a board. The first reason stays; a person's word ends the automatic checks."""
    known = connection.execute(sa.select(QUARANTINE).where(QUARANTINE.c.board_id == board_id)).one_or_none()
    if known is None:
        after_s = rules.recheck_after_s(count_failure(connection, board_id, now=now)) if automatic else None
        connection.execute(
            sa.insert(QUARANTINE).values(
                board_id=board_id,
                reason=reason,
                since=now,
                next_check_at=None if after_s is None else now + after_s,
            )
        )
    elif not automatic:
        connection.execute(
            sa.update(QUARANTINE).where(QUARANTINE.c.board_id == board_id).values(next_check_at=sa.null())
        )
    note(connection, now, board_id, AuditEvent.QUARANTINED, by=by, reason=reason)


def take_down(
    connection: sa.Connection,
    board_id: str,
    checkup: Checkup,
    *,
    by: Holder,
    rules: HealthRules,
    now: float,
) -> bool:
    """Write down what came of a look at a board, and what follows from it; was it restored by that?"""
    _put(
        connection,
        board_id,
        checked_at=now,
        complaint=checkup.complaint,
        temperature_c=checkup.temperature_c,
        disk_free_bytes=checkup.disk_free_bytes,
        clock_offset_s=checkup.clock_offset_s,
    )
    row = connection.execute(sa.select(QUARANTINE).where(QUARANTINE.c.board_id == board_id)).one_or_none()
    if checkup.passed:
        if row is None or row.next_check_at is None:
            return False
        connection.execute(sa.delete(QUARANTINE).where(QUARANTINE.c.board_id == board_id))
        note(connection, now, board_id, AuditEvent.RESTORED, by=by, reason="it has passed its check")
        return True
    if row is None:
        close(
            connection,
            board_id,
            reason=checkup.complaint,
            by=by,
            automatic=True,
            rules=rules,
            now=now,
        )
        return False
    if row.next_check_at is not None:
        after_s = rules.recheck_after_s(count_failure(connection, board_id, now=now))
        connection.execute(
            sa.update(QUARANTINE)
            .where(QUARANTINE.c.board_id == board_id)
            .values(next_check_at=None if after_s is None else now + after_s)
        )
    note(connection, now, board_id, AuditEvent.CHECK_FAILED, by=by, reason=checkup.complaint)
    return False


def due(connection: sa.Connection, *, now: float) -> tuple[str, ...]:
    """Boards that nobody holds and that are to be looked at again, the longest due first."""
    held = sa.select(LEASE.c.board_id).where(LEASE.c.expires_at > now)
    return tuple(
        connection.scalars(
            sa.select(QUARANTINE.c.board_id)
            .where(QUARANTINE.c.next_check_at <= now, QUARANTINE.c.board_id.not_in(held))
            .order_by(QUARANTINE.c.next_check_at)
        )
    )


def last_checks(connection: sa.Connection, *, now: float) -> Mapping[str, LastCheck]:
    """The newest look at each board that was ever looked at."""
    return {
        row.board_id: last_check_of(row, now=now)
        for row in connection.execute(sa.select(HEALTH).where(HEALTH.c.checked_at.is_not(None)))
    }


def last_check_of(row: Any, *, now: float) -> LastCheck:
    """A row of `HEALTH` as a value."""
    return LastCheck(
        checkup=Checkup(
            complaint=row.complaint,
            temperature_c=row.temperature_c,
            disk_free_bytes=row.disk_free_bytes,
            clock_offset_s=row.clock_offset_s,
        ),
        at=row.checked_at,
        age_s=max(0.0, now - row.checked_at),
    )


def _put(connection: sa.Connection, board_id: str, **values: Any) -> None:
    """Write columns of a board's row; whoever calls is the only one who writes."""
    done = connection.execute(sa.update(HEALTH).where(HEALTH.c.board_id == board_id).values(**values)).rowcount
    if not done:
        connection.execute(sa.insert(HEALTH).values(board_id=board_id, **values))
