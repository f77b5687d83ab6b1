"""Leases in one SQLite file: for every process of one host, without any set-up.

Rules:

* Every verb is one transaction that takes the write lock first (``BEGIN IMMEDIATE``) and reads the clock after that,
  so what it decides on cannot change under it. A request that cannot be granted is refused by a reading transaction
  before, so that those who ask in vain do not keep the holders from renewing.
* The file is in WAL mode with ``synchronous=NORMAL``: after a loss of power the last transactions may be missing. That
  is safe: the holders died with the host, and tokens still grow, because a token is at least the wall clock in ms.
  For the same reason boards accept the tokens of a database that was deleted and made anew.
* Time is what SQLite says it is (``julianday``), made steady by `store_clock` with a reading that the file keeps.
* Who waits is woken through a FIFO beside the file (`fifo_bell`).
* A file of an older version is migrated when it is opened; one of a newer version is refused.
* A file that was deleted or replaced while in use is noticed before every transaction.
* A connection never crosses a fork (https://sqlite.org/howtocorrupt.html §2.6).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pytest_edgehil.errors import ConfigError, LeaseError
from pytest_edgehil.lab.board_books import Action, T
from pytest_edgehil.lab.database_store import Bell, DatabaseStore, next_number
from pytest_edgehil.lab.fifo_bell import FifoBell, ring
from pytest_edgehil.lab.lease_tables import CLOCK
from pytest_edgehil.lab.migrations import NEWEST, Migration, migrate
from pytest_edgehil.lab.queueing import Rules, Waiter
from pytest_edgehil.lab.store_clock import Reading, boot_id, steady_s, step_s

_WALL = "(julianday('now') - 2440587.5) * 86400.0"  # 2440587.5 is the Julian day of 1970-01-01
_CLOCK = sa.text(f"SELECT offset_s, steps, wall, steady, boot, {_WALL} FROM clock WHERE name = 'lab'")  # noqa: S608
_AT_ONCE = "IMMEDIATE or not at all"
_FIRST_PAUSE_S = 0.0005
_SHORT_PAUSE_S = 0.003
_LONGEST_PAUSE_S = 0.05
_CROWDED_S = 0.1  # who has waited for so long is one of many, who must leave some time to whoever has the lock


class _BusyError(Exception):
    """Somebody else is writing."""


class SqliteLeaseStore(DatabaseStore):
    """A `leases.LabStore` in a SQLite file; safe to use from any thread, and after a fork.

    Args:
        url: ``sqlite:////absolute/path.db``.
        rules: what the lab file says about handing out.
        clock: seconds since the epoch, instead of the database's own steady time: for tests.
        wall: what SQLite's wall clock says, in seconds since the epoch, instead of SQLite: for tests.
        steady: the clock that cannot be set, in seconds.
        busy_s: how long to wait for another process that is writing.
    """

    def __init__(
        self,
        url: str,
        *,
        rules: Rules,
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] | None = None,
        steady: Callable[[], float] = steady_s,
        busy_s: float = 5.0,
    ) -> None:
        super().__init__(rules)
        self._path = Path(sa.make_url(url).database or "")
        self._bells = self._path.with_name(f"{self._path.name}.bells")
        self._clock = clock
        self._wall = wall
        self._steady = steady
        self._boot = boot_id()
        self._offset_s = 0.0
        self._busy_s = busy_s
        self._engine = self._new_engine()
        self._pid = os.getpid()
        self._of_parents: list[sa.Engine] = []
        self.migrated: tuple[Migration, ...] = ()
        """What opening the file did to its tables."""
        self._open()

    def __enter__(self) -> SqliteLeaseStore:
        return self

    def close(self) -> None:
        """Close the connections; leases stay as they are."""
        if os.getpid() == self._pid:
            self._engine.dispose()

    # --- what `DatabaseStore` asks for ----------------------------------------------------------------

    def _read(self, action: Action[T]) -> T:
        with self._transaction("DEFERRED") as connection:
            return action(connection, self._now(connection, keep=False), False)

    def _write(self, action: Action[T], *, bell: Bell | None = None) -> T:  # noqa: ARG002 -- bells have no connection
        with self._transaction("IMMEDIATE") as connection:
            return action(connection, self._now(connection, keep=True), False)

    def _write_unless(self, useless: Action[bool], action: Action[T | None]) -> T | None:
        try:  # where nobody is writing, nobody is kept from it
            with self._transaction(_AT_ONCE) as connection:
                return action(connection, self._now(connection, keep=True), False)
        except _BusyError:
            return super()._write_unless(useless, action)

    def _new_tokens(self, connection: sa.Connection, count: int, *, now: float) -> list[int]:
        last = next_number(connection, "token", count=count, at_least=int(now * 1000))
        return list(range(last - count + 1, last + 1))

    def _new_bell(self) -> Bell:
        return FifoBell(self._bells)

    def _ring(self, waiters: Sequence[Waiter]) -> None:
        for waiter in waiters:
            if not ring(self._bells, waiter.bell):
                self.leave(waiter.ticket)  # which calls the next one

    def _back_to_the_wall_s(self, connection: sa.Connection) -> float:
        step_s = -self._offset_s
        if step_s:
            connection.execute(sa.update(CLOCK).where(CLOCK.c.name == "lab").values(offset_s=0.0))
        return step_s

    # --- time -----------------------------------------------------------------------------------------

    def _now(self, connection: sa.Connection, *, keep: bool) -> float:
        """The time; `keep` records a reading of the clocks where that is due."""
        if self._clock is not None:
            return self._clock()
        before = self._steady()
        offset_s, steps, wall, steady, boot, at = connection.execute(_CLOCK).one()
        if self._wall is not None:
            at = self._wall()
        reading = Reading(wall=at, before=before, after=self._steady(), boot=self._boot)
        if boot != self._boot:
            # of another boot: its holders are dead, and its leases end by the wall clock or earlier
            step, offset_s = 0.0, 0.0
        else:
            step = step_s(Reading(wall=wall, before=steady, after=steady, boot=boot), reading)
        if keep and (step or boot != self._boot):
            connection.execute(
                sa.update(CLOCK)
                .where(CLOCK.c.name == "lab")
                .values(
                    offset_s=offset_s - step,
                    steps=steps + 1,
                    wall=reading.wall,
                    steady=(reading.before + reading.after) / 2,
                    boot=self._boot,
                )
            )
        self._offset_s = offset_s - step
        return float(at + self._offset_s)

    # --- the file -------------------------------------------------------------------------------------

    def _new_engine(self) -> sa.Engine:
        # isolation_level None: sqlite3 begins nothing by itself; the listener below does, with the right lock
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self._path)),
            connect_args={"timeout": self._busy_s, "isolation_level": None},
        )

        @sa.event.listens_for(engine, "connect")
        def _connected(raw: Any, _record: object) -> None:
            try:
                raw.execute("PRAGMA synchronous=NORMAL")
            except sqlite3.Error:
                raw.close()  # the pool has not taken it yet
                raise

        @sa.event.listens_for(engine, "begin")
        def _begun(connection: sa.Connection) -> None:
            raw = connection.connection.driver_connection
            assert raw is not None
            begin = connection.get_execution_options()["begin"]
            if begin == "DEFERRED":
                raw.execute("BEGIN DEFERRED")
            else:
                self._begin_writing(raw, wait_s=0.0 if begin == _AT_ONCE else self._busy_s)

        return engine

    def _begin_writing(self, raw: Any, *, wait_s: float) -> None:
        """Take the write lock. SQLite itself would look for it at ever longer intervals, up to 100 ms."""
        end = time.monotonic() + wait_s
        pause_s = _FIRST_PAUSE_S
        raw.execute("PRAGMA busy_timeout=0")
        try:
            while True:
                try:
                    raw.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError as busy:
                    if busy.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                        raise
                    if wait_s == 0:
                        raise _BusyError from busy
                    if time.monotonic() >= end:
                        raise
                time.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 -- so that two do not always meet
                crowded = time.monotonic() > end - wait_s + _CROWDED_S
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S if crowded else _SHORT_PAUSE_S)
        finally:
            raw.execute(f"PRAGMA busy_timeout={int(self._busy_s * 1000)}")

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sa.Connection]:
        if os.getpid() != self._pid:
            # a fork: the parent's connections are kept untouched, since even closing them here would do harm
            self._of_parents.append(self._engine)
            self._engine = self._new_engine()
            self._pid = os.getpid()
        try:
            in_use = _inode(self._path) == self._inode
        except OSError:
            in_use = False
        if not in_use:
            # SQLite would go on in the deleted file, and others would make a new one: two holders of one board
            raise LeaseError(f"the lease database {self._path} was deleted or replaced while it was in use")
        try:
            with self._engine.connect().execution_options(begin=begin) as connection, connection.begin():
                yield connection
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as wrong:
            raise LeaseError(
                f"the lease database {self._path} cannot be used: {_reason(wrong)}; no board can be leased without it"
            ) from wrong

    def _open(self) -> None:
        """Create or migrate the tables if need be; opening a file of this version takes no write lock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists() or self._version() < NEWEST:
                self.migrated = self._migrate()
            self._require_version(self._version())
            self._inode = _inode(self._path)
        except (OSError, sa.exc.SQLAlchemyError, sqlite3.Error) as wrong:
            self._engine.dispose()
            raise ConfigError(f"cannot open the lease database {self._path}: {_reason(wrong)}") from wrong
        except ConfigError:
            self._engine.dispose()
            raise

    def _migrate(self) -> tuple[Migration, ...]:
        # one process at a time, since changing to WAL ignores the busy timeout
        with self._path.with_name(f"{self._path.name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._path.parent.stat().st_mode & stat.S_IWGRP and not self._path.exists():
                # a directory for a group: without this only the first login could lease; WAL files take the same mode
                self._path.touch()
                self._path.chmod(0o664)
            with self._engine.connect().execution_options(begin="IMMEDIATE") as connection:
                raw = connection.connection.driver_connection
                assert raw is not None
                raw.execute("PRAGMA journal_mode=WAL")
                with connection.begin():
                    done = migrate(connection, now=self._clock or time.time)
                    connection.exec_driver_sql(f"PRAGMA user_version={NEWEST}")
        return done

    def _version(self) -> int:
        """Version of the tables; 0 in a new file."""
        with self._engine.connect().execution_options(begin="DEFERRED") as connection, connection.begin():
            return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    def _require_version(self, found: int) -> None:
        if found != NEWEST:
            raise ConfigError(
                f"the lease database {self._path} has version {found}, this edgehil knows {NEWEST}: "
                "use the newer edgehil everywhere, or another state directory"
            )


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _reason(wrong: Exception) -> str:
    original = getattr(wrong, "orig", None) or wrong
    return getattr(original, "strerror", None) or str(original) or type(original).__name__
