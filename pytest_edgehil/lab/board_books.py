"""What a database store keeps about boards beside their leases: quarantine, checks, flashes, and the audit trail.

A part of `database_store.DatabaseStore`, which says how a transaction begins and who is called when a board becomes
free by it. What follows from a check is decided in `health_book`.
"""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

import sqlalchemy as sa

from pytest_edgehil.lab import audit_trail, health_book
from pytest_edgehil.lab.audit_trail import note
from pytest_edgehil.lab.health import Checkup, LastCheck
from pytest_edgehil.lab.lease_tables import FLASH, QUARANTINE, VISIT
from pytest_edgehil.lab.leases import AuditEvent, AuditLine, FlashLine, Holder, Lease, Visit
from pytest_edgehil.lab.queueing import Rules

T = TypeVar("T")
Action = Callable[[sa.Connection, float, bool], T]
"""What is done in a transaction: with its connection, the time in it, and whether it was tried before."""

FLASH_LINES = 20_000
VISIT_LINES = 2_000


class BoardBooks(abc.ABC):
    """See above.

    Args:
        rules: what the lab file says about handing out.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    @abc.abstractmethod
    def _read(self, action: Action[T]) -> T:
        """Carry an action out that only reads, on one state of the database."""

    @abc.abstractmethod
    def _write_alone(self, action: Action[T]) -> T:
        """Carry an action out while nobody else decides anything."""

    @abc.abstractmethod
    def _freeing(self, action: Action[T]) -> T:
        """Carry out what may give somebody who waits a board, and call whoever can go on."""

    # --- quarantine and checks ------------------------------------------------------------------------

    def quarantine(self, board_id: str, *, reason: str, by: Holder, automatic: bool = False) -> None:
        """See `leases.LabState.quarantine`."""

        def close(connection: sa.Connection, now: float, _again: bool) -> None:
            health_book.close(
                connection,
                board_id,
                reason=reason,
                by=by,
                automatic=automatic,
                rules=self._rules.health,
                now=now,
            )

        self._write_alone(close)

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        """See `leases.LabState.restore`."""

        def open_again(connection: sa.Connection, now: float, _again: bool) -> bool:
            gone = connection.execute(sa.delete(QUARANTINE).where(QUARANTINE.c.board_id == board_id)).rowcount
            if gone:
                health_book.forget_failures(connection, board_id)
                note(connection, now, board_id, AuditEvent.RESTORED, by=by, reason=reason)
            return bool(gone)

        return self._freeing(open_again)

    def note_check(self, board_id: str, checkup: Checkup, *, by: Holder) -> bool:
        """See `leases.Health.note_check`."""

        def write(connection: sa.Connection, now: float, _again: bool) -> bool:
            return health_book.take_down(connection, board_id, checkup, by=by, rules=self._rules.health, now=now)

        return self._freeing(write)

    def checks(self) -> Mapping[str, LastCheck]:
        """See `leases.Health.checks`."""
        return self._read(lambda connection, now, _again: health_book.last_checks(connection, now=now))

    def due(self) -> tuple[str, ...]:
        """See `leases.Health.due`."""
        known = set(self._rules.board_ids)
        return self._read(
            lambda connection, now, _again: tuple(
                board_id for board_id in health_book.due(connection, now=now) if board_id in known
            )
        )

    # --- the audit trail and the flashes --------------------------------------------------------------

    def audit(
        self, *, board_id: str | None = None, since: float | None = None, after: int = 0, newest: int | None = None
    ) -> tuple[AuditLine, ...]:
        """See `leases.AuditTrail.audit`."""
        return self._read(
            lambda connection, _now, _again: audit_trail.lines(
                connection, board_id=board_id, since=since, after=after, newest=newest
            )
        )

    def note(self, board_id: str, event: AuditEvent, *, by: Holder, token: int | None, reason: str) -> None:
        """See `leases.Journal.note`."""

        def write(connection: sa.Connection, now: float, _again: bool) -> None:
            note(connection, now, board_id, event, by=by, token=token, reason=reason)

        self._write_alone(write)

    def note_flash(self, lease: Lease, *, label: str, seconds: float, sent_bytes: int) -> None:
        """See `leases.Journal.note_flash`."""

        def write(connection: sa.Connection, now: float, _again: bool) -> None:
            number = connection.execute(
                sa.insert(FLASH)
                .values(
                    at=now,
                    board_id=lease.board_id,
                    token=lease.token,
                    label=label,
                    seconds=seconds,
                    sent_bytes=sent_bytes,
                )
                .returning(FLASH.c.id)
            ).scalar_one()
            if number % 1000 == 0:
                connection.execute(sa.delete(FLASH).where(FLASH.c.id <= number - FLASH_LINES))

        self._write_alone(write)

    def note_visit(self, visit: Visit) -> None:
        """See `leases.Journal.note_visit`."""

        def write(connection: sa.Connection, now: float, _again: bool) -> None:
            connection.execute(
                sa.update(VISIT).where(VISIT.c.board_id == visit.board_id, VISIT.c.console != "").values(console="")
            )
            number = connection.execute(
                sa.insert(VISIT)
                .values(
                    at=now,
                    board_id=visit.board_id,
                    token=visit.token,
                    run=visit.by,
                    test=visit.test,
                    combo=visit.combo,
                    status=visit.status,
                    verdicts=json.dumps(visit.verdicts),
                    message=visit.message,
                    console=visit.console,
                )
                .returning(VISIT.c.id)
            ).scalar_one()
            if number % 100 == 0:
                connection.execute(sa.delete(VISIT).where(VISIT.c.id <= number - VISIT_LINES))

        self._write_alone(write)

    def visits(self) -> tuple[Visit, ...]:
        """See `leases.Journal.visits`."""
        return self._read(
            lambda connection, _now, _again: tuple(
                Visit(
                    board_id=row.board_id,
                    token=row.token,
                    by=row.run,
                    test=row.test,
                    combo=row.combo,
                    status=row.status,
                    verdicts=tuple((gate, outcome) for gate, outcome in json.loads(row.verdicts)),
                    message=row.message,
                    console=row.console,
                    at=row.at,
                )
                for row in connection.execute(sa.select(VISIT).order_by(VISIT.c.id))
            )
        )

    def flashes(self, *, after: int = 0) -> tuple[FlashLine, ...]:
        """See `leases.Journal.flashes`."""
        wanted = sa.select(FLASH).where(FLASH.c.id > after).order_by(FLASH.c.id)
        return self._read(
            lambda connection, _now, _again: tuple(
                FlashLine(
                    number=row.id,
                    at=row.at,
                    board_id=row.board_id,
                    label=row.label,
                    seconds=row.seconds,
                    sent_bytes=row.sent_bytes,
                )
                for row in connection.execute(wanted)
            )
        )
