"""Leases in one SQLite file: for every process of one host, without any set-up.

Rules:

* Every verb is one transaction that takes the write lock first (``BEGIN IMMEDIATE``) and reads the clock after that,
  so what it decides on cannot change under it. A request that cannot be granted is refused by a reading transaction
  before, so that those who wait do not keep the holders from renewing.
* The file is in WAL mode with ``synchronous=NORMAL``: after a loss of power the last transactions may be missing. That
  is safe: the holders died with the host, and tokens still grow, because a token is at least the wall clock in ms.
  For the same reason boards accept the tokens of a database that was deleted and made anew.
* Time is the wall clock of the host. If it is set back, a dead holder's lease would seem to last for longer than its
  expiry; whoever acquires next cuts such a lease to one expiry from now, which a living holder renews in time.
* A file that was deleted or replaced while in use is noticed before every transaction.
* A connection never crosses a fork (https://sqlite.org/howtocorrupt.html §2.6).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert

from pytest_edgehil.errors import ConfigError, LeaseError
from pytest_edgehil.lab.assignment import assign
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.lease_tables import (
    AUDIT,
    COUNTER,
    LEASE,
    METADATA,
    QUARANTINE,
    audit_line,
    current_lease,
    holder_of,
    note,
    state_of,
    taken_away,
    unexpired,
)
from pytest_edgehil.lab.leases import AuditEvent, AuditLine, BoardState, Holder, Lease, lost

SCHEMA_VERSION = 1
_CLOCK_SLACK_S = 0.001


def open_store(lab: Lab, *, clock: Callable[[], float] = time.time) -> SqliteLeaseStore:
    """Open the lease database of a lab, and create it if it is not there.

    Raises:
        ConfigError: the file cannot be opened or created, or is no lease database of this version.
    """
    return SqliteLeaseStore(
        lab.lease_url,
        board_ids=tuple(board.id for board in lab.boards),
        pools={board.id: board.pool for board in lab.boards if board.pool is not None},
        pool_limits=lab.pool_limits,
        clock=clock,
    )


class SqliteLeaseStore:
    """A `leases.LabStore` in a SQLite file; safe to use from any thread, and after a fork.

    Args:
        url: ``sqlite:////absolute/path.db``.
        board_ids: the boards of the lab, in its order.
        pools: the pool of a board, if it is in one.
        pool_limits: at most so many boards of a pool are leased at once.
        clock: seconds since the epoch.
        busy_s: how long to wait for another process that is writing.
    """

    def __init__(
        self,
        url: str,
        *,
        board_ids: tuple[str, ...],
        pools: Mapping[str, str],
        pool_limits: Mapping[str, int],
        clock: Callable[[], float] = time.time,
        busy_s: float = 5.0,
    ) -> None:
        self._path = Path(sa.make_url(url).database or "")
        self._board_ids = board_ids
        self._pools = pools
        self._pool_limits = pool_limits
        self._clock = clock
        self._busy_s = busy_s
        self._engine = self._new_engine()
        self._pid = os.getpid()
        self._of_parents: list[sa.Engine] = []
        self._open()

    def __enter__(self) -> SqliteLeaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; leases stay as they are."""
        if os.getpid() == self._pid:
            self._engine.dispose()

    # --- leases ---------------------------------------------------------------------------------------

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float
    ) -> tuple[Lease, ...] | None:
        """See `leases.LeaseStore.acquire`."""
        with self._transaction("DEFERRED") as connection:
            if self._choose(connection, requests, now=self._clock()) is None:
                return None
        with self._transaction("IMMEDIATE") as connection:
            now = self._clock()
            longest = now + LEASE.c.expiry_s
            connection.execute(
                sa.update(LEASE).where(LEASE.c.expires_at > longest + _CLOCK_SLACK_S).values(expires_at=longest)
            )
            chosen = self._choose(connection, requests, now=now)
            if chosen is None:
                return None
            last = self._next_tokens(connection, len(chosen), now=now)
            return tuple(
                self._grant(connection, board_id, token=token, holder=holder, now=now, expiry_s=expiry_s)
                for board_id, token in zip(chosen, range(last - len(chosen) + 1, last + 1), strict=True)
            )

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        """See `leases.LeaseStore.renew`."""
        with self._transaction("IMMEDIATE") as connection:
            now = self._clock()
            current = current_lease(connection, lease.board_id, now=now)
            if current is None or current.token != lease.token:
                raise lost(lease, now=now, current=current, taken_away=taken_away(connection, lease))
            connection.execute(
                sa.update(LEASE)
                .where(LEASE.c.token == lease.token)
                .values(expires_at=now + expiry_s, expiry_s=expiry_s)
            )
            return Lease(
                board_id=lease.board_id,
                token=lease.token,
                holder=current.holder,
                acquired_at=current.acquired_at,
                expires_at=now + expiry_s,
            )

    def release(self, lease: Lease) -> bool:
        """See `leases.LeaseStore.release`."""
        with self._transaction("IMMEDIATE") as connection:
            now = self._clock()
            current = current_lease(connection, lease.board_id, now=now)
            if current is None or current.token != lease.token:
                return False
            connection.execute(sa.delete(LEASE).where(LEASE.c.token == lease.token))
            note(connection, now, lease.board_id, AuditEvent.RELEASED, by=lease.holder, token=lease.token)
            return True

    # --- state of the lab -----------------------------------------------------------------------------

    def boards(self) -> tuple[BoardState, ...]:
        """See `leases.LabState.boards`."""
        with self._transaction("DEFERRED") as connection:
            now = self._clock()
            leases = {lease.board_id: lease for lease in unexpired(connection, now=now)}
            quarantined = {row.board_id: row for row in connection.execute(sa.select(QUARANTINE))}
        return tuple(
            state_of(board_id, leases.get(board_id), quarantined.get(board_id)) for board_id in self._board_ids
        )

    def quarantine(self, board_id: str, *, reason: str, by: Holder) -> None:
        """See `leases.LabState.quarantine`."""
        with self._transaction("IMMEDIATE") as connection:
            now = self._clock()
            first = upsert(QUARANTINE).values(board_id=board_id, reason=reason, since=now)
            connection.execute(first.on_conflict_do_nothing())
            note(connection, now, board_id, AuditEvent.QUARANTINED, by=by, reason=reason)

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        """See `leases.LabState.restore`."""
        with self._transaction("IMMEDIATE") as connection:
            gone = connection.execute(
                sa.delete(QUARANTINE).where(QUARANTINE.c.board_id == board_id).returning(QUARANTINE.c.board_id)
            ).all()
            if gone:
                note(connection, self._clock(), board_id, AuditEvent.RESTORED, by=by, reason=reason)
            return bool(gone)

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        """See `leases.LabState.force_release`."""
        with self._transaction("IMMEDIATE") as connection:
            now = self._clock()
            current = current_lease(connection, board_id, now=now)
            if current is not None:
                connection.execute(sa.delete(LEASE).where(LEASE.c.token == current.token))
                note(connection, now, board_id, AuditEvent.FORCE_RELEASED, by=by, token=current.token, reason=reason)
            return current

    def audit(self) -> tuple[AuditLine, ...]:
        """See `leases.AuditTrail.audit`."""
        with self._transaction("DEFERRED") as connection:
            return tuple(audit_line(row) for row in connection.execute(sa.select(AUDIT).order_by(AUDIT.c.id)))

    # --- inside a transaction -------------------------------------------------------------------------

    def _choose(
        self, connection: sa.Connection, requests: Sequence[Sequence[str]], *, now: float
    ) -> tuple[str, ...] | None:
        held = {lease.board_id for lease in unexpired(connection, now=now)}
        closed = set(connection.scalars(sa.select(QUARANTINE.c.board_id)))
        room = dict(self._pool_limits)
        for board_id in held:
            pool = self._pools.get(board_id)
            if pool in room:
                room[pool] -= 1
        wanted = {board_id for request in requests for board_id in request}
        return assign(requests, available=wanted - held - closed, pools=self._pools, room=room)

    def _next_tokens(self, connection: sa.Connection, count: int, *, now: float) -> int:
        """Take `count` tokens; return the last one. The counter outlives the leases, so tokens never go back."""
        seen = connection.scalar(sa.select(COUNTER.c.value).where(COUNTER.c.name == "token")) or 0
        last = max(seen, int(now * 1000)) + count
        row = upsert(COUNTER).values(name="token", value=last)
        connection.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": last}))
        return last

    def _grant(
        self, connection: sa.Connection, board_id: str, *, token: int, holder: Holder, now: float, expiry_s: float
    ) -> Lease:
        old = connection.execute(sa.select(LEASE).where(LEASE.c.board_id == board_id)).one_or_none()
        if old is not None:
            connection.execute(sa.delete(LEASE).where(LEASE.c.board_id == board_id))
            note(connection, old.expires_at, board_id, AuditEvent.EXPIRED, by=holder_of(old), token=old.token)
        lease = Lease(board_id=board_id, token=token, holder=holder, acquired_at=now, expires_at=now + expiry_s)
        connection.execute(
            sa.insert(LEASE).values(
                board_id=board_id,
                token=token,
                name=holder.name,
                host=holder.host,
                pid=holder.pid,
                user=holder.user,
                acquired_at=now,
                expires_at=lease.expires_at,
                expiry_s=expiry_s,
            )
        )
        note(connection, now, board_id, AuditEvent.LEASED, by=holder, token=token)
        return lease

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
            connection.exec_driver_sql(f"BEGIN {connection.get_execution_options()['begin']}")

        return engine

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
        except sa.exc.SQLAlchemyError as wrong:
            raise LeaseError(
                f"the lease database {self._path} cannot be used: {_reason(wrong)}; no board can be leased without it"
            ) from wrong

    def _open(self) -> None:
        """Create the file and its tables unless they are there; opening what is there takes no write lock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists() or self._version() == 0:
                # one process at a time, since changing to WAL ignores the busy timeout
                with self._path.with_name(f"{self._path.name}.lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    self._create()
            self._require_version(self._version())
            self._inode = _inode(self._path)
        except (OSError, sa.exc.SQLAlchemyError) as wrong:
            self._engine.dispose()
            raise ConfigError(f"cannot open the lease database {self._path}: {_reason(wrong)}") from wrong
        except ConfigError:
            self._engine.dispose()
            raise

    def _create(self) -> None:
        if self._path.parent.stat().st_mode & stat.S_IWGRP and not self._path.exists():
            # a directory for a group: without this only the first login could lease; WAL files take the same mode
            self._path.touch()
            self._path.chmod(0o664)
        with self._engine.connect().execution_options(begin="IMMEDIATE") as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            raw.execute("PRAGMA journal_mode=WAL")
            with connection.begin():
                METADATA.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _version(self) -> int:
        """Version of the tables; 0 in a new file."""
        with self._engine.connect().execution_options(begin="DEFERRED") as connection, connection.begin():
            return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())

    def _require_version(self, found: int) -> None:
        if found != SCHEMA_VERSION:
            raise ConfigError(
                f"the lease database {self._path} has version {found}, this edgehil knows {SCHEMA_VERSION}: "
                "use the newer edgehil everywhere, or another state directory"
            )


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _reason(wrong: Exception) -> str:
    original = getattr(wrong, "orig", None) or wrong
    return getattr(original, "strerror", None) or str(original) or type(original).__name__
