"""The lease database of a lab, whichever kind it is: in SQLite for one host, in PostgreSQL for several."""

from __future__ import annotations

from collections.abc import Callable

from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import LabStore
from pytest_edgehil.lab.migrations import Migration
from pytest_edgehil.lab.queueing import Rules


def rules_of(lab: Lab) -> Rules:
    """What a lab's file says about handing out."""
    return Rules(
        board_ids=tuple(board.id for board in lab.boards),
        pools={board.id: board.pool for board in lab.boards if board.pool is not None},
        pool_limits=lab.pool_limits,
        limits=lab.limits,
        health=lab.health,
    )


def migrate_store(lab: Lab) -> tuple[Migration, ...]:
    """Make the tables of a lab's lease database, or update them; return what was done.

    Raises:
        ConfigError: the database cannot be opened, or is newer than this program.
        ExtraMissing: it is in PostgreSQL, and the extra ``[postgres]`` is not installed.
        LeaseError: PostgreSQL does not answer.
    """
    if lab.lease_url.startswith("sqlite:"):
        from pytest_edgehil.lab.sqlite_store import SqliteLeaseStore

        with SqliteLeaseStore(lab.lease_url, rules=rules_of(lab)) as store:
            return store.migrated
    from pytest_edgehil.lab.postgres_store import migrate_postgres

    return migrate_postgres(lab.lease_url, lab=lab.name)


def open_store(lab: Lab, *, clock: Callable[[], float] | None = None) -> LabStore:
    """Open the lease database of a lab; one in SQLite is created or migrated if need be.

    Args:
        lab: the inventory.
        clock: seconds since the epoch, instead of the database's own time: for tests.

    Raises:
        ConfigError: the database cannot be opened, is not migrated, or is newer than this program.
        ExtraMissing: it is in PostgreSQL, and the extra ``[postgres]`` is not installed.
        LeaseError: PostgreSQL does not answer.
    """
    if lab.lease_url.startswith("sqlite:"):
        from pytest_edgehil.lab.sqlite_store import SqliteLeaseStore

        return SqliteLeaseStore(lab.lease_url, rules=rules_of(lab), clock=clock)
    from pytest_edgehil.lab.postgres_store import PostgresLeaseStore

    return PostgresLeaseStore(lab.lease_url, lab=lab.name, rules=rules_of(lab), clock=clock)
