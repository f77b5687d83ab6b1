"""How the tables of a lease database came to be: numbered steps, forward only, recorded in the database itself.

Rules:

* A step is never changed once it was released; what should be otherwise is another step at the end. The tables that
  result are those of `lease_tables` (a test compares them).
* Everything that is missing is applied in one transaction under a lock, so that two who migrate at once do it once.
* Programs of the version before may still be using a SQLite file while it is migrated: a step adds columns with
  defaults and never takes away what they read.
* A database that is newer than this program is refused: it may keep rules that this program does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from pytest_edgehil.lab.lease_tables import MIGRATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step.

    Args:
        number: its place; 1 is the first.
        name: what it is for, in a word or two.
        statements: DDL; ``{serial}`` is a key that counts by itself and ``{float}`` a float of 64 bits.
        only_on: statements for one kind of database, by SQLAlchemy's name of its dialect.
    """

    number: int
    name: str
    statements: tuple[str, ...]
    only_on: tuple[tuple[str, str], ...] = ()


_WHO = 'name VARCHAR NOT NULL, host VARCHAR NOT NULL, pid INTEGER NOT NULL, "user" VARCHAR NOT NULL'
_TYPES = {
    "sqlite": {"serial": "INTEGER PRIMARY KEY AUTOINCREMENT", "float": "FLOAT"},
    "postgresql": {"serial": "BIGSERIAL PRIMARY KEY", "float": "DOUBLE PRECISION"},
}

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        number=1,
        name="leases",
        statements=(
            "CREATE TABLE counter (name VARCHAR NOT NULL PRIMARY KEY, value BIGINT NOT NULL)",
            f"""CREATE TABLE lease (board_id VARCHAR NOT NULL PRIMARY KEY, token BIGINT NOT NULL UNIQUE, {_WHO},
                acquired_at {{float}} NOT NULL, expires_at {{float}} NOT NULL, expiry_s {{float}} NOT NULL)""",
            """CREATE TABLE quarantine (board_id VARCHAR NOT NULL PRIMARY KEY, reason VARCHAR NOT NULL,
                since {float} NOT NULL)""",
            f"""CREATE TABLE audit (id {{serial}}, at {{float}} NOT NULL, board_id VARCHAR NOT NULL,
                event VARCHAR NOT NULL, {_WHO}, token BIGINT, reason VARCHAR NOT NULL)""",
            "CREATE INDEX ix_audit_token ON audit (token)",
        ),
    ),
    Migration(
        number=2,
        name="queue",
        statements=(
            "ALTER TABLE lease ADD COLUMN project VARCHAR NOT NULL DEFAULT ''",
            "ALTER TABLE lease ADD COLUMN claim VARCHAR NOT NULL DEFAULT ''",
            f"""CREATE TABLE queue (ticket BIGINT NOT NULL PRIMARY KEY, priority INTEGER NOT NULL, {_WHO},
                project VARCHAR NOT NULL, asked_at {{float}} NOT NULL, alive_until {{float}} NOT NULL,
                wanted VARCHAR NOT NULL, bell VARCHAR NOT NULL)""",
            """CREATE TABLE clock (name VARCHAR NOT NULL PRIMARY KEY, offset_s {float} NOT NULL,
                steps INTEGER NOT NULL, wall {float} NOT NULL, steady {float} NOT NULL, boot VARCHAR NOT NULL)""",
            "INSERT INTO clock VALUES ('lab', 0, 0, 0, 0, '')",
        ),
        # tokens of leases that are granted side by side, without waiting for each other
        only_on=(("postgresql", "CREATE SEQUENCE token AS BIGINT START WITH 1"),),
    ),
    Migration(
        number=3,
        name="health",
        statements=(
            "ALTER TABLE quarantine ADD COLUMN next_check_at {float}",
            """CREATE TABLE health (board_id VARCHAR NOT NULL PRIMARY KEY, failures INTEGER NOT NULL DEFAULT 0,
                failed_at {float}, checked_at {float}, complaint VARCHAR NOT NULL DEFAULT '', temperature_c {float},
                disk_free_bytes BIGINT, clock_offset_s {float})""",
            """CREATE TABLE flash (id {serial}, at {float} NOT NULL, board_id VARCHAR NOT NULL, token BIGINT NOT NULL,
                label VARCHAR NOT NULL, seconds {float} NOT NULL, sent_bytes BIGINT NOT NULL)""",
        ),
    ),
    Migration(
        number=4,
        name="visits",
        statements=(
            """CREATE TABLE visit (id {serial}, at {float} NOT NULL, board_id VARCHAR NOT NULL, token BIGINT NOT NULL,
                run VARCHAR NOT NULL, test VARCHAR NOT NULL, combo VARCHAR NOT NULL, status VARCHAR NOT NULL,
                verdicts VARCHAR NOT NULL, message VARCHAR NOT NULL, console VARCHAR NOT NULL)""",
        ),
    ),
    Migration(
        number=5,
        name="waiting",
        statements=("ALTER TABLE audit ADD COLUMN waited_s {float}",),
    ),
)
NEWEST = MIGRATIONS[-1].number


def applied(connection: sa.Connection) -> int:
    """Number of the last step that was applied; 0 where there are no tables.

    A SQLite file of the time before steps were recorded has the first one.
    """
    if _has_table(connection, MIGRATION.name):
        return connection.scalar(sa.select(sa.func.max(MIGRATION.c.number))) or 0
    return 1 if _has_table(connection, "lease") else 0


def _has_table(connection: sa.Connection, name: str) -> bool:
    """Asked for directly: SQLAlchemy's inspector remembers the schema that its first connection had."""
    question = {
        "sqlite": "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = :name)",
        "postgresql": "SELECT to_regclass(quote_ident(:name)) IS NOT NULL",
    }[connection.dialect.name]
    return bool(connection.scalar(sa.text(question), {"name": name}))


def migrate(connection: sa.Connection, *, now: Callable[[], float]) -> tuple[Migration, ...]:
    """Apply what is missing, inside the caller's transaction and under the caller's lock; return what was applied.

    Args:
        connection: in a transaction.
        now: seconds since the epoch, for the record.
    """
    dialect = connection.dialect.name
    types = _TYPES[dialect]
    before = applied(connection)
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS migration (number INTEGER NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, "
        "at {float} NOT NULL)".format(**types)
    )
    missing = tuple(step for step in MIGRATIONS if step.number > before)
    for step in MIGRATIONS:
        if step in missing:
            for statement in step.statements:
                connection.exec_driver_sql(statement.format(**types))
            for only, statement in step.only_on:
                if only == dialect:
                    connection.exec_driver_sql(statement)
        known = connection.scalar(sa.select(MIGRATION.c.number).where(MIGRATION.c.number == step.number))
        if known is None:
            connection.execute(sa.insert(MIGRATION).values(number=step.number, name=step.name, at=now()))
    return missing
