"""What every store of leases in a database does inside its transactions, whichever database it is.

`sqlite_store` and `postgres_store` say how a transaction begins, what time it is in it, where tokens come from and how
those who wait are called. The decisions are `queueing`'s; the rows are `lease_tables`'.

Actions that are handed to `_read` and `_write` may be carried out again when a connection broke, so they must look
first whether they have been (`again`), and change nothing outside of the database.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import sys
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

import sqlalchemy as sa

from pytest_edgehil.errors import LeaseError
from pytest_edgehil.lab import health_book, reasons
from pytest_edgehil.lab.audit_trail import note
from pytest_edgehil.lab.board_books import Action, BoardBooks, T
from pytest_edgehil.lab.lease_tables import (
    AUDIT,
    COUNTER,
    LEASE,
    QUARANTINE,
    QUEUE,
    audit_line,
    columns_of,
    holder_of,
    lease_of,
    state_of,
    waiter_of,
)
from pytest_edgehil.lab.leases import (
    AuditEvent,
    AuditLine,
    BoardState,
    Holder,
    Lease,
    Queued,
    Waiting,
    lost,
)
from pytest_edgehil.lab.queueing import Books, Outcome, Waiter, in_order, ready, settle

_CLOCK_SLACK_S = 0.001
_BOUND = sa.bindparam

# made once, since making a statement costs as much as running it
_SELECT_LEASES = sa.select(LEASE)
_SELECT_LEASE = sa.select(LEASE).where(LEASE.c.board_id == _BOUND("board"))
_SELECT_QUARANTINE = sa.select(QUARANTINE.c.board_id, QUARANTINE.c.reason)
_SELECT_QUEUE = sa.select(QUEUE).where(QUEUE.c.alive_until > _BOUND("now"))
_SOMEBODY_WAITS = sa.select(sa.exists().where(QUEUE.c.alive_until > _BOUND("now")))
_STAY = (
    sa.update(QUEUE)
    .where(QUEUE.c.ticket == _BOUND("of"), QUEUE.c.alive_until > _BOUND("now"))
    .values(alive_until=_BOUND("until"))
)
_DELETE_LEASE = sa.delete(LEASE).where(LEASE.c.token == _BOUND("of"))
_RETURN_LEASE = (
    sa.delete(LEASE)
    .where(LEASE.c.board_id == _BOUND("board"), LEASE.c.token == _BOUND("of"), LEASE.c.expires_at > _BOUND("now"))
    .returning(LEASE.c.token)
)
_EXTEND_LEASE = (
    sa.update(LEASE).where(LEASE.c.token == _BOUND("of")).values(expires_at=_BOUND("end"), expiry_s=_BOUND("lasting"))
)
_CUT_LEASES = (
    sa.update(LEASE)
    .where(LEASE.c.expires_at > _BOUND("now") + LEASE.c.expiry_s + _CLOCK_SLACK_S)
    .values(expires_at=_BOUND("now") + LEASE.c.expiry_s)
)
_INSERT_LEASE = sa.insert(LEASE)
_BEGIN = sa.case((COUNTER.c.value < _BOUND("least"), _BOUND("least")), else_=COUNTER.c.value)
_COUNT_ON = (
    sa.update(COUNTER)
    .where(COUNTER.c.name == _BOUND("of"))
    .values(value=_BEGIN + _BOUND("count"))
    .returning(COUNTER.c.value)
)


class Bell(Protocol):
    """How one waiter is woken by others.

    Its `name` stands in the queue, where those find it who return a board. A bell may carry a connection on which its
    owner works while it waits.
    """

    name: str

    @property
    def connection(self) -> sa.Connection | None:
        """On which its owner works while it waits, if it has one of its own."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Until it rings, at most so long; return whether it rang. May say so for no reason."""
        ...

    def close(self) -> None:
        """Not to be rung any more."""
        ...


class DatabaseStore(BoardBooks):
    """A `leases.LabStore`, but for what its database does in its own way.

    Args:
        rules: what the lab file says about handing out.
    """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connections; leases stay as they are."""

    @abc.abstractmethod
    def _write(self, action: Action[T], *, bell: Bell | None = None) -> T:
        """Carry an action out while nobody else decides anything. On the bell's connection, if it has one."""

    def _write_unless(self, useless: Action[bool], action: Action[T | None]) -> T | None:
        """Carry an action out unless another one, which only reads, says that it would come to nothing.

        Those who ask in vain must not keep those who renew from writing.
        """
        return None if self._read(useless) else self._write(action)

    @abc.abstractmethod
    def _new_tokens(self, connection: sa.Connection, count: int, *, now: float) -> list[int]:
        """The next fencing tokens, in order."""

    @abc.abstractmethod
    def _new_bell(self) -> Bell:
        """A bell with a name that nobody else has."""

    @abc.abstractmethod
    def _ring(self, waiters: Sequence[Waiter]) -> None:
        """Ring the bells of those whose boards are ready. A bell that cannot be rung is no error."""

    @abc.abstractmethod
    def _back_to_the_wall_s(self, connection: sa.Connection) -> float:
        """Take the time from the wall clock as it is, since there is nothing to keep from ending; return its step."""

    def __enter__(self) -> DatabaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- leases ---------------------------------------------------------------------------------------

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> tuple[Lease, ...] | None:
        """See `leases.LeaseStore.acquire`."""
        asking = _asking(requests, holder=holder, priority=priority, ticket=sys.maxsize)
        claim = uuid.uuid4().hex

        def cannot(connection: sa.Connection, now: float, _again: bool) -> bool:
            books = self._books(connection, now=now)
            return self._outcomes(books, asking)[-1].boards is None and not books.clock_went_back

        def take(connection: sa.Connection, now: float, again: bool) -> tuple[Lease, ...] | None:
            if again:
                granted = self._granted(connection, claim, now=now)
                if granted:
                    return granted
            books = self._fresh_books(connection, now=now)
            if not books.leases and not books.expired and not books.queue:
                books = dataclasses.replace(books, now=now + self._back_to_the_wall_s(connection))
            boards = self._outcomes(books, asking)[-1].boards
            if boards is None:
                return None
            return self._grant(connection, books, boards, holder=holder, expiry_s=expiry_s, claim=claim)

        return self._write_unless(cannot, take)

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        """See `leases.LeaseStore.renew`."""
        limits = self._rules.limits

        def extend(connection: sa.Connection, now: float, _again: bool) -> Lease | None:
            row = connection.execute(_SELECT_LEASE, {"board": lease.board_id}).one_or_none()
            if row is None or row.token != lease.token or row.expires_at <= now:
                return None
            awaited = limits.extend_while_idle and bool(connection.scalar(_SOMEBODY_WAITS, {"now": now}))
            end = limits.lease_ends(acquired_at=row.acquired_at, now=now, expiry_s=expiry_s, awaited=awaited)
            connection.execute(_EXTEND_LEASE, {"of": lease.token, "end": end, "lasting": expiry_s})
            if end <= now:
                return None
            return Lease(
                board_id=lease.board_id,
                token=lease.token,
                holder=holder_of(row),
                acquired_at=row.acquired_at,
                expires_at=end,
                lasts_s=end - now,
            )

        renewed = self._write(extend)
        if renewed is None:
            raise self._read(lambda connection, now, _again: self._lost(connection, lease, now=now))
        return renewed

    def release(self, lease: Lease) -> bool:
        """See `leases.LeaseStore.release`."""

        def end(connection: sa.Connection, now: float, again: bool) -> bool:
            mine = {"board": lease.board_id, "of": lease.token, "now": now}
            if connection.scalar(_RETURN_LEASE, mine) is None:
                return again and _was_released(connection, lease)
            note(connection, now, lease.board_id, AuditEvent.RELEASED, by=lease.holder, token=lease.token)
            return True

        return self._freeing(end)

    def acquire_closed(self, board_id: str, *, holder: Holder, expiry_s: float, only_due: bool = False) -> Lease | None:
        """See `leases.Health.acquire_closed`."""
        claim = uuid.uuid4().hex

        def take(connection: sa.Connection, now: float, again: bool) -> Lease | None:
            if again and (granted := self._granted(connection, claim, now=now)):
                return granted[0]
            books = self._fresh_books(connection, now=now)
            held = board_id in books.leases
            if held or (only_due and board_id not in health_book.due(connection, now=now)):
                return None
            return self._grant(connection, books, (board_id,), holder=holder, expiry_s=expiry_s, claim=claim)[0]

        return self._write(take)

    # --- the queue ------------------------------------------------------------------------------------

    def queue_up(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> QueuePlace:
        """See `leases.LeaseStore.queue_up`."""
        return QueuePlace(self, _asking(requests, holder=holder, priority=priority, ticket=0), expiry_s=expiry_s)

    def queue(self) -> tuple[Queued, ...]:
        """See `leases.Queue.queue`."""
        return self._read(
            lambda connection, now, _again: tuple(reasons.everybody(self._rules, self._books(connection, now=now)))
        )

    def advance(
        self, asking: Waiter, *, claim: str, expiry_s: float, bell: Bell
    ) -> tuple[Lease, ...] | Waiter | Waiting:
        """One step of a `QueuePlace`: its boards; or its waiter as it has just joined the queue; or why it waits."""

        def step(
            connection: sa.Connection, now: float, again: bool
        ) -> tuple[tuple[Lease, ...] | Waiter | Waiting, tuple[Waiter, ...]]:
            if again:
                granted = self._granted(connection, claim, now=now)
                if granted:
                    return granted, ()
            alive_until = now + expiry_s
            mine = {"of": asking.ticket, "now": now, "until": alive_until}
            living = connection.execute(_STAY, mine).rowcount
            if not living:
                return self._join(connection, asking, bell, now=now, alive_until=alive_until), ()
            books = self._fresh_books(connection, now=now)
            outcomes = self._outcomes(books, next(one for one in books.queue if one.ticket == asking.ticket))
            boards = outcomes[-1].boards
            if boards is None:
                return reasons.waiting(self._rules, books, books.queue, outcomes), ()
            leases = self._grant(
                connection,
                books,
                boards,
                holder=asking.holder,
                expiry_s=expiry_s,
                claim=claim,
                waited_s=now - asking.asked_at,
            )
            connection.execute(sa.delete(QUEUE).where(QUEUE.c.ticket == asking.ticket))
            left = dataclasses.replace(
                books,
                leases={**books.leases, **{lease.board_id: lease for lease in leases}},
                queue=tuple(one for one in books.queue if one.ticket != asking.ticket),
            )
            return leases, ready(self._rules, left)

        result, called = self._write(step, bell=bell)
        self._ring(called)
        return result

    def stay(self, ticket: int, *, expiry_s: float, bell: Bell) -> bool:
        """Keep a place in the queue for another expiry; return False if it was lost."""
        return self._write(
            lambda connection, now, _again: bool(
                connection.execute(_STAY, {"of": ticket, "now": now, "until": now + expiry_s}).rowcount
            ),
            bell=bell,
        )

    def leave(self, ticket: int) -> None:
        """Leave the queue; those behind may have what was kept."""

        def forget(connection: sa.Connection, _now: float, _again: bool) -> bool:
            return bool(connection.execute(sa.delete(QUEUE).where(QUEUE.c.ticket == ticket)).rowcount)

        self._freeing(forget)

    def new_bell(self) -> Bell:
        """For a `QueuePlace`."""
        return self._new_bell()

    # --- state of the lab -----------------------------------------------------------------------------

    def boards(self) -> tuple[BoardState, ...]:
        """See `leases.LabState.boards`."""

        def look(connection: sa.Connection, now: float, _again: bool) -> tuple[BoardState, ...]:
            rows = connection.execute(_SELECT_LEASES)
            leases = {row.board_id: lease_of(row, now=now) for row in rows if row.expires_at > now}
            quarantined = {row.board_id: row for row in connection.execute(sa.select(QUARANTINE))}
            closed = {
                board_id: (one.since, one.reason) for board_id, one in self._rules.limits.maintenance(now).items()
            }
            failures = health_book.all_failures(connection, now=now)
            return tuple(
                state_of(
                    board_id,
                    leases.get(board_id),
                    quarantined.get(board_id),
                    closed.get(board_id),
                    failures=failures.get(board_id, 0),
                )
                for board_id in self._rules.board_ids
            )

        return self._read(look)

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        """See `leases.LabState.force_release`."""

        def take_away(connection: sa.Connection, now: float, _again: bool) -> Lease | None:
            current = _current(connection, board_id, now=now)
            if current is not None:
                connection.execute(_DELETE_LEASE, {"of": current.token})
                note(connection, now, board_id, AuditEvent.FORCE_RELEASED, by=by, token=current.token, reason=reason)
            return current

        return self._freeing(take_away)

    # --- inside a transaction -------------------------------------------------------------------------

    def _books(self, connection: sa.Connection, *, now: float) -> Books:
        rows = connection.execute(_SELECT_LEASES).all()
        return Books(
            now=now,
            clock_went_back=any(row.expires_at > now + row.expiry_s + _CLOCK_SLACK_S for row in rows),
            leases={row.board_id: lease_of(row, now=now) for row in rows if row.expires_at > now},
            expired={row.board_id: lease_of(row, now=now) for row in rows if row.expires_at <= now},
            quarantined={row.board_id: row.reason for row in connection.execute(_SELECT_QUARANTINE)},
            maintenance=self._rules.limits.maintenance(now),
            queue=in_order([waiter_of(row) for row in connection.execute(_SELECT_QUEUE, {"now": now})]),
        )

    def _fresh_books(self, connection: sa.Connection, *, now: float) -> Books:
        """The books, after what a clock that was set back has left in them was put right."""
        books = self._books(connection, now=now)
        if books.clock_went_back:
            connection.execute(_CUT_LEASES, {"now": now})
            books = self._books(connection, now=now)
        return books

    def _outcomes(self, books: Books, asking: Waiter) -> list[Outcome]:
        """What becomes of everybody up to the one who asks, who may or may not be in the queue."""
        queue = books.queue if asking in books.queue else in_order([*books.queue, asking])
        outcomes = []
        for outcome in settle(self._rules, books, queue):
            outcomes.append(outcome)
            if outcome.waiter.ticket == asking.ticket:
                break
        return outcomes

    def _join(self, connection: sa.Connection, asking: Waiter, bell: Bell, *, now: float, alive_until: float) -> Waiter:
        """Write a new row into the queue, and take the dead ones out."""
        connection.execute(sa.delete(QUEUE).where(QUEUE.c.alive_until <= now))
        joined = Waiter(
            ticket=next_number(connection, "ticket"),
            holder=asking.holder,
            priority=asking.priority,
            asked_at=now,
            alive_until=alive_until,
            wanted=asking.wanted,
            bell=bell.name,
        )
        connection.execute(
            sa.insert(QUEUE).values(
                ticket=joined.ticket,
                priority=joined.priority,
                asked_at=now,
                alive_until=alive_until,
                wanted=json.dumps(joined.wanted),
                bell=bell.name,
                **columns_of(joined.holder),
            )
        )
        return joined

    def _granted(self, connection: sa.Connection, claim: str, *, now: float) -> tuple[Lease, ...]:
        """The leases of a claim that was carried out although its answer was lost."""
        rows = connection.execute(sa.select(LEASE).where(LEASE.c.claim == claim).order_by(LEASE.c.token))
        return tuple(lease_of(row, now=now) for row in rows)

    def _grant(
        self,
        connection: sa.Connection,
        books: Books,
        boards: tuple[str, ...],
        *,
        holder: Holder,
        expiry_s: float,
        claim: str,
        waited_s: float | None = None,
    ) -> tuple[Lease, ...]:
        now = books.now
        end = self._rules.limits.lease_ends(acquired_at=now, now=now, expiry_s=expiry_s, awaited=True)
        leases = tuple(
            Lease(board_id=board_id, token=token, holder=holder, acquired_at=now, expires_at=end, lasts_s=end - now)
            for board_id, token in zip(boards, self._new_tokens(connection, len(boards), now=now), strict=True)
        )
        for lease in leases:
            old = books.expired.get(lease.board_id)
            if old is not None:
                connection.execute(_DELETE_LEASE, {"of": old.token})
                note(connection, old.expires_at, old.board_id, AuditEvent.EXPIRED, by=old.holder, token=old.token)
            connection.execute(
                _INSERT_LEASE,
                {
                    "board_id": lease.board_id,
                    "token": lease.token,
                    "acquired_at": now,
                    "expires_at": end,
                    "expiry_s": expiry_s,
                    "claim": claim,
                    **columns_of(holder),
                },
            )
            note(connection, now, lease.board_id, AuditEvent.LEASED, by=holder, token=lease.token, waited_s=waited_s)
        return leases

    def _lost(self, connection: sa.Connection, lease: Lease, *, now: float) -> Exception:
        return lost(
            lease,
            now=now,
            current=_current(connection, lease.board_id, now=now),
            taken_away=_taken_away(connection, lease),
            max_lease_s=self._rules.limits.max_lease_s,
        )

    def _write_alone(self, action: Action[T]) -> T:
        return self._write(action)

    def _freeing(self, action: Action[T]) -> T:
        """Carry out what may give somebody who waits a board, and call whoever can go on."""

        def act(connection: sa.Connection, now: float, again: bool) -> tuple[T, tuple[Waiter, ...]]:
            result = action(connection, now, again)
            waits = result and connection.scalar(_SOMEBODY_WAITS, {"now": now})
            return result, ready(self._rules, self._books(connection, now=now)) if waits else ()

        result, called = self._write(act)
        self._ring(called)
        return result


class QueuePlace:
    """A `leases.Place`: one row of the queue, and a bell.

    Args:
        store: whose queue it is.
        asking: who asks for what.
        expiry_s: so long the place is kept for somebody who is silent, and the leases that it ends with last.
    """

    def __init__(self, store: DatabaseStore, asking: Waiter, *, expiry_s: float) -> None:
        self._store = store
        self._waiter = asking
        self._expiry_s = expiry_s
        self._claim = uuid.uuid4().hex
        self._bell: Bell | None = None
        self._granted = False

    def advance(self) -> tuple[Lease, ...] | Waiting:
        """See `leases.Place.advance`."""
        if self._bell is None:
            self._bell = self._store.new_bell()
        while True:
            # once more after joining: a board may have been returned before the row could be seen
            step = self._store.advance(self._waiter, claim=self._claim, expiry_s=self._expiry_s, bell=self._bell)
            if not isinstance(step, Waiter):
                self._granted = not isinstance(step, Waiting)
                return step
            self._waiter = step

    def wait(self, timeout_s: float) -> bool:
        """See `leases.Place.wait`."""
        if self._bell is None:
            raise RuntimeError("advance first: there is nothing to wait for yet")
        return self._bell.wait(timeout_s)

    def stay(self) -> bool:
        """See `leases.Place.stay`."""
        if self._bell is None:
            return False
        return self._store.stay(self._waiter.ticket, expiry_s=self._expiry_s, bell=self._bell)

    def __enter__(self) -> QueuePlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        bell, self._bell = self._bell, None
        try:
            if bell is not None:
                bell.close()
        finally:
            if self._waiter.ticket and not self._granted:
                with contextlib.suppress(LeaseError):  # out by itself after an expiry
                    self._store.leave(self._waiter.ticket)


def _asking(requests: Sequence[Sequence[str]], *, holder: Holder, priority: int, ticket: int) -> Waiter:
    return Waiter(
        ticket=ticket,
        holder=holder,
        priority=priority,
        asked_at=0.0,
        alive_until=float("inf"),
        wanted=tuple(tuple(request) for request in requests),
    )


def _current(connection: sa.Connection, board_id: str, *, now: float) -> Lease | None:
    """The unexpired lease on a board, if there is one."""
    row = connection.execute(_SELECT_LEASE, {"board": board_id}).one_or_none()
    return None if row is None or row.expires_at <= now else lease_of(row, now=now)


def _taken_away(connection: sa.Connection, lease: Lease) -> AuditLine | None:
    """The line by which a lease was taken from its holder, if it was."""
    row = connection.execute(
        sa.select(AUDIT).where(AUDIT.c.token == lease.token, AUDIT.c.event == AuditEvent.FORCE_RELEASED.value)
    ).one_or_none()
    return None if row is None else audit_line(row)


def _was_released(connection: sa.Connection, lease: Lease) -> bool:
    found = sa.select(AUDIT.c.id).where(AUDIT.c.token == lease.token, AUDIT.c.event == AuditEvent.RELEASED.value)
    return connection.execute(found).first() is not None


def next_number(connection: sa.Connection, name: str, *, count: int = 1, at_least: int = 0) -> int:
    """Count on by so many, beyond `at_least`; return the last. Counters outlive what they count and never go back."""
    last = connection.scalar(_COUNT_ON, {"of": name, "least": at_least, "count": count})
    if last is None:
        last = at_least + count
        connection.execute(sa.insert(COUNTER).values(name=name, value=last))
    return int(last)
