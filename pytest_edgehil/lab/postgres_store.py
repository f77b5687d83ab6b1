"""Leases in PostgreSQL: for a lab that several hosts share.

Rules:

* Each lab has a schema of its own in the database, ``edgehil_<lab>``; ``edgehil lab migrate`` makes and migrates it.
* What needs the whole picture (the queue, pools, quotas, several boards at once) is decided by one client at a time,
  under a lock on the row of the clock. What does not goes past it in a single statement: taking one board while nobody
  waits, renewing, returning, keeping a place in the queue. That two never get one board does not rest on the lock but
  on the key of the table.
* A lease that was granted or renewed is on the medium before its holder hears of it (``synchronous_commit``), so that a
  server that crashes loses none. A return may be lost in a crash; then the lease ends by its expiry.
* Time is the server's, made steady by `store_clock`.
* Who waits listens (``LISTEN``) on the connection that it works on, and is notified by whoever returns a board.
* A server that restarts is tried again for `patience_s`. An answer that was lost on the way is no reason to lease
  twice: each request leaves a claim by which its leases are found again.
* A client that stops in the middle of a transaction is thrown out by the server after two seconds.
* Passwords stand in ``~/.pgpass`` or ``$PGPASSWORD``, never in a lab file, and so in no message.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pytest_edgehil.errors import ConfigError, ExtraMissing, LeaseError
from pytest_edgehil.lab.audit_trail import forget_old_lines
from pytest_edgehil.lab.board_books import Action, T
from pytest_edgehil.lab.database_store import Bell, DatabaseStore
from pytest_edgehil.lab.lease_tables import CLOCK, columns_of
from pytest_edgehil.lab.leases import AuditEvent, Holder, Lease
from pytest_edgehil.lab.migrations import NEWEST, Migration, applied, migrate
from pytest_edgehil.lab.queueing import Rules, Waiter, ready
from pytest_edgehil.lab.store_clock import DRIFT, SLACK_S, Reading, steady_s, step_s

PATIENCE_S = 8.0
_SETTINGS = " ".join(
    f"-c {setting}"
    for setting in (
        "synchronous_commit=on",
        "plan_cache_mode=force_generic_plan",  # statements of one row each: planning costs more than they do
        "jit=off",
        # few rows, but thousands of dead ones between two vacuums: a plan made on empty tables would scan them all
        "enable_seqscan=off",
        "enable_hashjoin=off",
        "enable_mergejoin=off",
        "lock_timeout=4s",
        "statement_timeout=8s",
        "idle_in_transaction_session_timeout=2s",  # somebody was stopped, and all others wait for him
        "tcp_keepalives_idle=5",
        "tcp_keepalives_interval=2",
        "tcp_keepalives_count=3",
    )
)
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5
# what no waiting mends, as libpq says it
_FOR_GOOD = (
    "does not exist",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
)

_WALL = "CAST(extract(epoch FROM clock_timestamp()) AS float8)"
_LOCK = sa.text("SELECT 1 FROM clock WHERE name = 'lab' FOR UPDATE")
_CLOCK = sa.text(f"SELECT offset_s, steps, {_WALL} FROM clock WHERE name = 'lab'")  # noqa: S608
# Boards remember the highest token they have seen. A new database, or one that was restored from a backup, must begin
# above it: as in SQLite, tokens begin at the milliseconds since the epoch, and no lab grants a thousand leases a second
# for long. Never back, whoever takes one meanwhile.
_RAISE_TOKENS = sa.text(
    "SELECT setval('token', least) "
    "FROM token, (SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint AS least) AS wall "
    "WHERE last_value < least"
)
_TOKENS = sa.text("SELECT nextval('token') FROM generate_series(1, :count)")
_SOMEBODY_WAITS = "SELECT EXISTS (SELECT 1 FROM queue)"
# nothing that must outlive a crash: whoever waits looks by himself before long
_NOTIFY = sa.text("SELECT set_config('synchronous_commit', 'off', true), pg_notify(:bell, '')")
# What follows goes past SQLAlchemy, see `_row_of`. `moment` has a row only while the clock is what this client takes it
# for; otherwise the long way finds out.
_MOMENT = f"""
    reading AS MATERIALIZED (SELECT {_WALL} AS wall, offset_s, steps FROM clock WHERE name = 'lab'),
    moment AS MATERIALIZED (
        SELECT coalesce(CAST(%(at)s AS float8), wall + offset_s) AS now FROM reading
        WHERE CAST(%(at)s AS float8) IS NOT NULL
            OR (steps = %(steps)s AND wall BETWEEN CAST(%(low)s AS float8) AND CAST(%(high)s AS float8)))
"""  # noqa: S608
_TAKE_ONE = f"""
    WITH {_MOMENT},
    pick AS (
        SELECT one.board_id FROM unnest(CAST(%(boards)s AS varchar[])) WITH ORDINALITY AS one (board_id, place)
        WHERE NOT EXISTS (SELECT 1 FROM lease WHERE lease.board_id = one.board_id)
            AND NOT EXISTS (SELECT 1 FROM quarantine WHERE quarantine.board_id = one.board_id)
            AND NOT EXISTS (SELECT 1 FROM queue)
        ORDER BY one.place LIMIT 1),
    granted AS (
        INSERT INTO lease (board_id, token, name, host, pid, "user", project, claim, acquired_at, expires_at, expiry_s)
        SELECT pick.board_id, nextval('token'), %(name)s, %(host)s, %(pid)s, %(user)s, %(project)s, %(claim)s,
            moment.now, moment.now + CAST(%(lasting)s AS float8), CAST(%(expiry)s AS float8)
        FROM pick, moment
        ON CONFLICT DO NOTHING
        RETURNING board_id, token, acquired_at, expires_at),
    line AS (
        INSERT INTO audit (at, board_id, event, name, host, pid, "user", token, reason)
        SELECT acquired_at, board_id, '{AuditEvent.LEASED.value}', %(name)s, %(host)s, %(pid)s, %(user)s, token, ''
        FROM granted
        RETURNING id)
    SELECT granted.board_id, granted.token, granted.acquired_at, granted.expires_at, line.id FROM granted, line
"""  # noqa: S608
_RENEW = f"""
    WITH {_MOMENT}
    UPDATE lease SET expiry_s = CAST(%(expiry)s AS float8),
        expires_at = least(moment.now + CAST(%(expiry)s AS float8), acquired_at + CAST(%(longest)s AS float8))
    FROM moment
    WHERE board_id = %(board)s AND token = %(token)s AND expires_at > moment.now
        AND (CAST(%(longest)s AS float8) IS NULL OR acquired_at + CAST(%(longest)s AS float8) > moment.now)
    RETURNING acquired_at, expires_at, expires_at - moment.now AS lasts_s
"""  # noqa: S608
# nothing that must outlive a crash: whoever lost his place joins the queue again
_STAY = f"""
    WITH {_MOMENT},
    quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS done)
    UPDATE queue SET alive_until = moment.now + CAST(%(expiry)s AS float8)
    FROM moment, quick
    WHERE ticket = %(ticket)s AND alive_until > moment.now AND quick.done = 'off'
    RETURNING ticket
"""  # noqa: S608
_RETURN = f"""
    WITH {_MOMENT},
    quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS done),
    gone AS (
        DELETE FROM lease USING moment, quick
        WHERE board_id = %(board)s AND token = %(token)s AND expires_at > moment.now AND quick.done = 'off'
        RETURNING lease.board_id, lease.token, moment.now),
    line AS (
        INSERT INTO audit (at, board_id, event, name, host, pid, "user", token, reason)
        SELECT now, board_id, '{AuditEvent.RELEASED.value}', %(name)s, %(host)s, %(pid)s, %(user)s, token, '' FROM gone
        RETURNING id)
    SELECT id FROM line
"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """A reading of the server's clock beside our own, and how often it had been put right by then."""

    reading: Reading
    steps: int


class PostgresLeaseStore(DatabaseStore):
    """A `leases.LabStore` in PostgreSQL; safe to use from any thread, and after a fork.

    Args:
        url: ``postgresql+psycopg://user@host/database``, without a password.
        lab: name of the lab; it has a schema of its own.
        rules: what the lab file says about handing out.
        clock: seconds since the epoch, instead of the server's time: for tests.
        patience_s: so long a server that does not answer is tried again.

    Raises:
        ConfigError: there are no tables, or of another version; the database or the login does not exist.
        ExtraMissing: the extra ``[postgres]`` is not installed.
        LeaseError: the server does not answer.
    """

    def __init__(
        self,
        url: str,
        *,
        lab: str,
        rules: Rules,
        clock: Callable[[], float] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        super().__init__(rules)
        self._url = sa.make_url(url)
        self._lab = lab
        self._clock = clock
        self._patience_s = patience_s
        self._engine = _new_engine(self._url, lab)
        self._pid = os.getpid()
        self._of_parents: list[sa.Engine] = []
        self._reference: _Reference | None = None
        self._offset_s = 0.0
        try:
            self._open()
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Close the connections; leases stay as they are."""
        if os.getpid() == self._pid:
            self._engine.dispose()

    # --- verbs that need no lock ----------------------------------------------------------------------

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> tuple[Lease, ...] | None:
        """See `leases.LeaseStore.acquire`."""
        rules = self._rules
        alone = len(requests) == 1 and not rules.limits.counts_boards and not rules.limits.windows
        if alone and not any(rules.pools.get(board) in rules.pool_limits for board in requests[0]):
            lasting_s = expiry_s if rules.limits.max_lease_s is None else min(expiry_s, rules.limits.max_lease_s)
            claim = uuid.uuid4().hex

            def take(connection: sa.Connection, again: bool) -> tuple[Lease, ...] | None:
                if again:
                    granted = self._granted(connection, claim, now=self._time(connection)[0])
                    if granted:
                        return granted
                row = _row_of(
                    connection,
                    _TAKE_ONE,
                    {
                        **self._expected(),
                        **columns_of(holder),
                        "boards": list(requests[0]),
                        "claim": claim,
                        "lasting": lasting_s,
                        "expiry": expiry_s,
                    },
                )
                if row is None:
                    return None
                board_id, token, acquired_at, expires_at, line = row
                self._forget_old_lines(connection, line)
                return (
                    Lease(
                        board_id=board_id,
                        token=token,
                        holder=holder,
                        acquired_at=acquired_at,
                        expires_at=expires_at,
                        lasts_s=lasting_s,
                    ),
                )

            taken = self._at_once(take)
            if taken is not None:
                return taken
        return super().acquire(requests, holder=holder, expiry_s=expiry_s, priority=priority)

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        """See `leases.LeaseStore.renew`."""
        limits = self._rules.limits
        if limits.extend_while_idle:
            return super().renew(lease, expiry_s=expiry_s)
        row = self._at_once(
            lambda connection, _again: _row_of(
                connection,
                _RENEW,
                {
                    **self._expected(),
                    "board": lease.board_id,
                    "token": lease.token,
                    "expiry": expiry_s,
                    "longest": limits.max_lease_s,
                },
            )
        )
        if row is None:
            return super().renew(lease, expiry_s=expiry_s)
        acquired_at, expires_at, lasts_s = row
        return Lease(
            board_id=lease.board_id,
            token=lease.token,
            holder=lease.holder,
            acquired_at=acquired_at,
            expires_at=expires_at,
            lasts_s=lasts_s,
        )

    def release(self, lease: Lease) -> bool:
        """See `leases.LeaseStore.release`."""
        by = lease.holder

        def give_back(connection: sa.Connection, _again: bool) -> bool:
            line = _row_of(
                connection,
                _RETURN,
                {
                    **self._expected(),
                    "board": lease.board_id,
                    "token": lease.token,
                    "name": by.name,
                    "host": by.host,
                    "pid": by.pid,
                    "user": by.user,
                },
            )
            if line is None:
                return False
            self._forget_old_lines(connection, line[0])
            # after it can be seen that the board is free: whoever joins the queue now looks again when he has
            if _row_of(connection, _SOMEBODY_WAITS, {}) == (True,):
                books = self._books(connection, now=self._time(connection)[0])
                for waiter in ready(self._rules, books):
                    connection.execute(_NOTIFY, {"bell": waiter.bell})
            return True

        return self._at_once(give_back) or super().release(lease)

    def stay(self, ticket: int, *, expiry_s: float, bell: Bell) -> bool:
        """See `DatabaseStore.stay`. All who wait do this all the time, and must not keep others from boards."""

        def keep(connection: sa.Connection, _again: bool) -> bool:
            with connection.begin():
                asked = {**self._expected(), "ticket": ticket, "expiry": expiry_s}
                return _row_of(connection, _STAY, asked) is not None

        return self._patiently(keep, bell=bell) or super().stay(ticket, expiry_s=expiry_s, bell=bell)

    def _forget_old_lines(self, connection: sa.Connection, line: int) -> None:
        if line % 1000 == 0:
            forget_old_lines(connection, newest=line)

    # --- what `DatabaseStore` asks for ----------------------------------------------------------------

    def _read(self, action: Action[T]) -> T:
        def look(connection: sa.Connection, again: bool) -> T:
            with connection.begin():
                return action(connection, self._time(connection)[0], again)

        return self._patiently(look)

    def _write(self, action: Action[T], *, bell: Bell | None = None) -> T:
        def change(connection: sa.Connection, again: bool) -> tuple[T, _Reference | None]:
            with connection.begin():
                connection.execute(_LOCK)
                now, reference = self._time(connection, keep=True)
                return action(connection, now, again), reference

        result, reference = self._patiently(change, bell=bell)
        self._reference = reference or self._reference
        return result

    def _new_tokens(self, connection: sa.Connection, count: int, *, now: float) -> list[int]:  # noqa: ARG002
        return sorted(connection.scalars(_TOKENS, {"count": count}))

    def _new_bell(self) -> Bell:
        return ListeningBell(self._connect)

    def _ring(self, waiters: Sequence[Waiter]) -> None:
        if waiters:

            def notify(connection: sa.Connection, _again: bool) -> None:
                for waiter in waiters:
                    connection.execute(_NOTIFY, {"bell": waiter.bell})

            with contextlib.suppress(LeaseError):  # they look by themselves before long
                self._at_once(notify)

    def _back_to_the_wall_s(self, connection: sa.Connection) -> float:
        step_s = -self._offset_s
        if step_s:
            connection.execute(
                sa.update(CLOCK).where(CLOCK.c.name == "lab").values(offset_s=0.0, steps=CLOCK.c.steps + 1)
            )
        return step_s

    # --- time -----------------------------------------------------------------------------------------

    def _time(self, connection: sa.Connection, *, keep: bool = False) -> tuple[float, _Reference | None]:
        """The time, and what to compare with from now on.

        Args:
            connection: in a transaction, or by itself.
            keep: record it if the server's clock was set; under the lock only.
        """
        if self._clock is not None:
            return self._clock(), None
        before = steady_s()
        offset_s, steps, wall = connection.execute(_CLOCK).one()
        reading = Reading(wall=wall, before=before, after=steady_s(), boot="")
        known = self._reference
        step = 0.0
        if known is not None and known.steps == steps:
            step = step_s(known.reading, reading, drift=DRIFT)
        if step and keep:
            connection.execute(
                sa.update(CLOCK)
                .where(CLOCK.c.name == "lab")
                .values(offset_s=CLOCK.c.offset_s - step, steps=CLOCK.c.steps + 1)
            )
            steps += 1
        self._offset_s = offset_s - step
        return float(wall + self._offset_s), _Reference(reading=reading, steps=steps)

    def _expected(self) -> dict[str, float | int | None]:
        """Between which readings of the server's wall clock a statement that is sent now is carried out."""
        if self._clock is not None:
            return {"at": self._clock(), "low": None, "high": None, "steps": 0}
        known = self._reference
        assert known is not None
        here = steady_s()
        least_s, most_s = here - known.reading.after, here - known.reading.before
        slack_s = SLACK_S + DRIFT * most_s
        return {
            "at": None,
            "low": known.reading.wall + least_s - slack_s,
            "high": known.reading.wall + most_s + slack_s,
            "steps": known.steps,
        }

    # --- the connection -------------------------------------------------------------------------------

    def _open(self) -> None:
        def look(connection: sa.Connection, _again: bool) -> tuple[int, _Reference | None]:
            with connection.begin():
                found = applied(connection)
                if found != NEWEST:
                    return found, None
                return found, self._time(connection)[1]

        found, self._reference = self._patiently(look)
        what = f"the lease database {_shown(self._url)}"
        if found > NEWEST:
            raise ConfigError(
                f"{what} has version {found}, this edgehil knows {NEWEST}: use the newer edgehil everywhere"
            )
        if found < NEWEST:
            has = f"has version {found} of the tables" if found else "has no tables"
            raise ConfigError(
                f"{what} {has} for lab {self._lab}, expected version {NEWEST}: run 'edgehil lab migrate' once"
            )

    def _connect(self) -> sa.Connection:
        if os.getpid() != self._pid:
            # a fork: the parent's connections are kept untouched, since closing them would end its sessions
            self._of_parents.append(self._engine)
            self._engine = _new_engine(self._url, self._lab)
            self._pid = os.getpid()
        return self._engine.connect()

    def _at_once(self, action: Callable[[sa.Connection, bool], T]) -> T:
        """Carry out an action in which every statement is a transaction."""

        def act(connection: sa.Connection, again: bool) -> T:
            return action(connection.execution_options(isolation_level="AUTOCOMMIT"), again)

        return self._patiently(act)

    def _patiently(self, action: Callable[[sa.Connection, bool], T], *, bell: Bell | None = None) -> T:
        """Carry an action out, again if the connection breaks or others were quicker.

        Raises:
            ConfigError: no waiting would help.
            LeaseError: the server does not answer.
        """
        end = time.monotonic() + self._patience_s
        pause_s = _FIRST_PAUSE_S
        again = False
        while True:
            try:
                if bell is not None and bell.connection is not None:
                    return action(bell.connection, again)
                with self._connect() as connection:
                    return action(connection, again)
            except sa.exc.DBAPIError as wrong:
                said = _reason(wrong)
                if not _passes(wrong):
                    raise ConfigError(f"the lease database {_shown(self._url)} cannot be used: {said}") from wrong
                if time.monotonic() + pause_s >= end:
                    raise LeaseError(
                        f"the lease database {_shown(self._url)} does not answer: {said}; "
                        "no board can be leased without it"
                    ) from wrong
            again = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class ListeningBell:
    """A `database_store.Bell`: a connection that listens on a channel of its own.

    Args:
        connect: opens a connection.
    """

    def __init__(self, connect: Callable[[], sa.Connection]) -> None:
        self.name = f"edgehil_{uuid.uuid4().hex}"
        self._connect = connect
        self._opened: sa.Connection | None = None

    @property
    def connection(self) -> sa.Connection | None:
        """On which its owner works while it waits.

        Raises:
            sqlalchemy.exc.DBAPIError: the server does not answer.
        """
        if self._opened is None or self._opened.invalidated:
            self._drop()
            opened = self._connect()
            try:
                with opened.begin():
                    opened.exec_driver_sql(f"LISTEN {self.name}")
            except BaseException:
                opened.close()
                raise
            self._opened = opened
        return self._opened

    def wait(self, timeout_s: float) -> bool:
        """Until it rings, at most so long; return whether it did, or may have."""
        if self._opened is None or self._opened.invalidated:
            return True
        raw: Any = self._opened.connection.driver_connection
        try:
            return any(True for _ in raw.notifies(timeout=max(0.0, timeout_s), stop_after=1))
        except raw_errors() as broken:
            self._opened.invalidate(broken)
            return True

    def close(self) -> None:
        """Not to be rung any more."""
        opened = self._opened
        if opened is not None and not opened.invalidated:
            with contextlib.suppress(sa.exc.DBAPIError), opened.begin():
                opened.exec_driver_sql("UNLISTEN *")
        self._drop()

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()


def _row_of(connection: sa.Connection, statement: str, parameters: Mapping[str, object]) -> tuple[Any, ...] | None:
    """The row of a statement by psycopg itself: the work of SQLAlchemy would cost more than that of the server.

    Raises:
        sqlalchemy.exc.DBAPIError: as SQLAlchemy does.
    """
    raw: Any = connection.connection.driver_connection
    try:
        row: tuple[Any, ...] | None = raw.execute(statement, parameters, prepare=True).fetchone()
    except raw_errors() as wrong:
        if raw.closed:
            connection.invalidate(wrong)
        raise sa.exc.DBAPIError.instance(statement, None, wrong, raw_errors()) from wrong
    return row


def raw_errors() -> type[Exception]:
    """What psycopg raises when a connection breaks off."""
    import psycopg

    return psycopg.Error


def migrate_postgres(url: str, *, lab: str) -> tuple[Migration, ...]:
    """Make the schema of a lab, or migrate it; return what was done. Two who do it at once do it once.

    Raises:
        ConfigError: the database or the login does not exist, or the schema is newer than this program.
        ExtraMissing: the extra ``[postgres]`` is not installed.
        LeaseError: the server does not answer.
    """
    parsed = sa.make_url(url)
    engine = _new_engine(parsed, lab)
    try:
        with engine.begin() as connection:
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:schema, 0))"), {"schema": schema_of(lab)}
            )
            quoted = connection.dialect.identifier_preparer.quote_identifier(schema_of(lab))
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
            found = applied(connection)
            if found > NEWEST:
                raise ConfigError(
                    f"the lease database {_shown(parsed)} has version {found}, this edgehil knows {NEWEST}: "
                    "use the newer edgehil everywhere"
                )
            done = migrate(connection, now=time.time)
            connection.execute(_RAISE_TOKENS)
            return done
    except sa.exc.DBAPIError as wrong:
        kind = LeaseError if _passes(wrong) else ConfigError
        raise kind(f"the lease database {_shown(parsed)} cannot be migrated: {_reason(wrong)}") from wrong
    finally:
        engine.dispose()


def schema_of(lab: str) -> str:
    """The schema that holds a lab's tables; PostgreSQL's names have at most 63 bytes.

    >>> schema_of("rack-a")
    'edgehil_rack-a'
    """
    name = f"edgehil_{lab}"
    return name if len(name) <= 63 else f"{name[:52]}_{hashlib.sha256(lab.encode()).hexdigest()[:10]}"


def _new_engine(url: sa.URL, lab: str) -> sa.Engine:
    try:
        engine = sa.create_engine(
            url,
            pool_size=2,
            max_overflow=8,
            connect_args={"connect_timeout": 5, "application_name": "edgehil", "options": _SETTINGS},
        )
    except ModuleNotFoundError as missing:
        raise ExtraMissing(extra="postgres", feature="a lease database in PostgreSQL") from missing

    @sa.event.listens_for(engine, "connect")
    def _connected(raw: Any, _record: object) -> None:
        raw.autocommit = True
        raw.execute("SELECT set_config('search_path', quote_ident(%s), false)", (schema_of(lab),))
        raw.autocommit = False

    return engine


def _passes(wrong: sa.exc.DBAPIError) -> bool:
    """Is it worth trying again?"""
    state = getattr(wrong.orig, "sqlstate", None)
    if state is not None:
        # broken connections, a server that starts or stops, too many clients, limits of time, others were quicker
        return state[:2] in ("08", "57", "53", "55", "40", "25") or state == "23505"
    return isinstance(wrong, sa.exc.OperationalError | sa.exc.InterfaceError) and not any(
        phrase in str(wrong.orig) for phrase in _FOR_GOOD
    )


def _shown(url: sa.URL) -> str:
    return url.render_as_string(hide_password=True)


def _reason(wrong: sa.exc.DBAPIError) -> str:
    return " ".join(str(wrong.orig).split()) or type(wrong.orig).__name__
