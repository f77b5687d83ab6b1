"""A store of leases in this process's memory: a second implementation for the contract suite, quick for other tests.

It keeps the rules of `pytest_edgehil.lab.leases` with plain dictionaries under one lock.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from pytest_edgehil.lab import reasons
from pytest_edgehil.lab.health import FORGOTTEN_S, Checkup, HealthRules, LastCheck
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import (
    AuditEvent,
    AuditLine,
    BoardState,
    BoardStatus,
    FlashLine,
    Holder,
    Lease,
    Queued,
    Visit,
    Waiting,
    lost,
)
from pytest_edgehil.lab.limits import Limits
from pytest_edgehil.lab.queueing import Books, Outcome, Rules, Waiter, in_order, settle
from pytest_edgehil.lab.store import rules_of


class MemoryLeaseStore:
    def __init__(
        self,
        *,
        board_ids: Sequence[str],
        pools: Mapping[str, str] | None = None,
        pool_limits: Mapping[str, int] | None = None,
        limits: Limits | None = None,
        health: HealthRules | None = None,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self._rules = Rules(
            board_ids=tuple(board_ids),
            pools=dict(pools or {}),
            pool_limits=dict(pool_limits or {}),
            limits=limits or Limits(),
            health=health or HealthRules(),
        )
        self._clock = clock
        self._changed = threading.Condition(threading.RLock())
        self._wait = wait
        self._leases: dict[str, tuple[Lease, float]] = {}
        self._quarantined: dict[str, tuple[str, float]] = {}
        self._next_check: dict[str, float] = {}
        self._failures: dict[str, tuple[int, float]] = {}
        self._checks: dict[str, tuple[Checkup, float]] = {}
        self._flashes: list[FlashLine] = []
        self._visits: list[Visit] = []
        self._queue: dict[int, Waiter] = {}
        self._lines: list[AuditLine] = []
        self._token = 0
        self._ticket = 0

    @classmethod
    def of(cls, lab: Lab, *, clock: Callable[[], float] | None = None) -> MemoryLeaseStore:
        rules = rules_of(lab)
        return cls(
            board_ids=rules.board_ids,
            pools=rules.pools,
            pool_limits=rules.pool_limits,
            limits=rules.limits,
            health=rules.health,
            clock=clock or time.time,
        )

    def __enter__(self) -> MemoryLeaseStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> tuple[Lease, ...] | None:
        asking = Waiter(
            ticket=2**62,
            holder=holder,
            priority=priority,
            asked_at=0,
            alive_until=float("inf"),
            wanted=tuple(map(tuple, requests)),
        )
        with self._changed:
            boards = self._outcomes(asking)[-1].boards
            return None if boards is None else self._grant(boards, holder, expiry_s)

    def queue_up(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float, priority: int = 0
    ) -> MemoryPlace:
        return MemoryPlace(self, tuple(map(tuple, requests)), holder, expiry_s, priority)

    def queue(self) -> tuple[Queued, ...]:
        with self._changed:
            return tuple(reasons.everybody(self._rules, self._books()))

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        with self._changed:
            now = self._clock()
            current = self._current(lease.board_id, now)
            end = now
            if current is not None and current.token == lease.token:
                awaited = any(waiter.alive_until > now for waiter in self._queue.values())
                end = self._rules.limits.lease_ends(
                    acquired_at=current.acquired_at, now=now, expiry_s=expiry_s, awaited=awaited
                )
            if current is None or end <= now:
                if current is not None and current.token == lease.token:
                    self._leases[lease.board_id] = (dataclasses.replace(current, expires_at=now), expiry_s)
                away = [
                    line
                    for line in self._lines
                    if line.token == lease.token and line.event is AuditEvent.FORCE_RELEASED
                ]
                raise lost(
                    lease,
                    now=now,
                    current=self._current(lease.board_id, now),
                    taken_away=away[0] if away else None,
                    max_lease_s=self._rules.limits.max_lease_s,
                )
            renewed = dataclasses.replace(current, expires_at=end, lasts_s=end - now)
            self._leases[lease.board_id] = (renewed, expiry_s)
            return renewed

    def release(self, lease: Lease) -> bool:
        with self._changed:
            now = self._clock()
            current = self._current(lease.board_id, now)
            if current is None or current.token != lease.token:
                return False
            del self._leases[lease.board_id]
            self._note(AuditEvent.RELEASED, lease.board_id, by=lease.holder, token=lease.token, at=now)
            self._changed.notify_all()
            return True

    def boards(self) -> tuple[BoardState, ...]:
        with self._changed:
            now = self._clock()
            return tuple(self._state(board_id, self._current(board_id, now)) for board_id in self._rules.board_ids)

    def quarantine(self, board_id: str, *, reason: str, by: Holder, automatic: bool = False) -> None:
        with self._changed:
            if board_id not in self._quarantined:
                self._quarantined[board_id] = (reason, self._clock())
                if automatic:
                    self._fail(board_id)
            elif not automatic:
                self._next_check.pop(board_id, None)
            self._note(AuditEvent.QUARANTINED, board_id, by=by, reason=reason)

    def _fail(self, board_id: str) -> None:
        now = self._clock()
        count = self._failed(board_id) + 1
        self._failures[board_id] = (count, now)
        after_s = self._rules.health.recheck_after_s(count)
        self._next_check.pop(board_id, None)
        if after_s is not None:
            self._next_check[board_id] = now + after_s

    def _failed(self, board_id: str) -> int:
        count, at = self._failures.get(board_id, (0, 0.0))
        return count if self._clock() - at < FORGOTTEN_S else 0

    def note_check(self, board_id: str, checkup: Checkup, *, by: Holder) -> bool:
        with self._changed:
            self._checks[board_id] = (checkup, self._clock())
            automatic = board_id in self._next_check
            if checkup.passed:
                if automatic:
                    del self._quarantined[board_id], self._next_check[board_id]
                    self._note(AuditEvent.RESTORED, board_id, by=by, reason="it has passed its check")
                    self._changed.notify_all()
                return automatic
            if board_id not in self._quarantined:
                self.quarantine(board_id, reason=checkup.complaint, by=by, automatic=True)
                return False
            if automatic:
                self._fail(board_id)
            self._note(AuditEvent.CHECK_FAILED, board_id, by=by, reason=checkup.complaint)
            return False

    def checks(self) -> dict[str, LastCheck]:
        with self._changed:
            now = self._clock()
            return {
                board_id: LastCheck(checkup=checkup, at=at, age_s=now - at)
                for board_id, (checkup, at) in self._checks.items()
            }

    def due(self) -> tuple[str, ...]:
        with self._changed:
            now = self._clock()
            waiting = sorted((at, board_id) for board_id, at in self._next_check.items() if at <= now)
            return tuple(board_id for _, board_id in waiting if self._current(board_id, now) is None)

    def acquire_closed(self, board_id: str, *, holder: Holder, expiry_s: float, only_due: bool = False) -> Lease | None:
        with self._changed:
            if self._current(board_id, self._clock()) is not None or (only_due and board_id not in self.due()):
                return None
            return self._grant((board_id,), holder, expiry_s)[0]

    def note(self, board_id: str, event: AuditEvent, *, by: Holder, token: int | None, reason: str) -> None:
        with self._changed:
            self._note(event, board_id, by=by, token=token, reason=reason)

    def note_flash(self, lease: Lease, *, label: str, seconds: float, sent_bytes: int) -> None:
        with self._changed:
            self._flashes.append(
                FlashLine(
                    number=len(self._flashes) + 1,
                    at=self._clock(),
                    board_id=lease.board_id,
                    label=label,
                    seconds=seconds,
                    sent_bytes=sent_bytes,
                )
            )

    def note_visit(self, visit: Visit) -> None:
        with self._changed:
            before = [
                dataclasses.replace(one, console="") if one.board_id == visit.board_id else one for one in self._visits
            ]
            self._visits = [*before, dataclasses.replace(visit, at=self._clock())]

    def visits(self) -> tuple[Visit, ...]:
        with self._changed:
            return tuple(self._visits)

    def flashes(self, *, after: int = 0) -> tuple[FlashLine, ...]:
        with self._changed:
            return tuple(one for one in self._flashes if one.number > after)

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        with self._changed:
            if self._quarantined.pop(board_id, None) is None:
                return False
            self._next_check.pop(board_id, None)
            self._failures.pop(board_id, None)
            self._note(AuditEvent.RESTORED, board_id, by=by, reason=reason)
            self._changed.notify_all()
            return True

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        with self._changed:
            current = self._current(board_id, self._clock())
            if current is not None:
                del self._leases[board_id]
                self._note(AuditEvent.FORCE_RELEASED, board_id, by=by, token=current.token, reason=reason)
                self._changed.notify_all()
            return current

    def audit(
        self, *, board_id: str | None = None, since: float | None = None, after: int = 0, newest: int | None = None
    ) -> tuple[AuditLine, ...]:
        with self._changed:
            found = tuple(
                line
                for line in self._lines
                if board_id in {None, line.board_id} and (since is None or line.at >= since) and line.number > after
            )
        return found if newest is None else found[len(found) - min(newest, len(found)) :]

    # --- under the lock -------------------------------------------------------------------------------

    def advance(self, place: MemoryPlace) -> tuple[Lease, ...] | Waiting:
        with self._changed:
            now = self._clock()
            self._queue = {ticket: one for ticket, one in self._queue.items() if one.alive_until > now}
            mine = self._queue.get(place.ticket)
            if mine is None:
                self._ticket += 1
                place.ticket = self._ticket
                mine = Waiter(
                    ticket=place.ticket,
                    holder=place.holder,
                    priority=place.priority,
                    asked_at=now,
                    alive_until=now,
                    wanted=place.wanted,
                )
            mine = self._queue[mine.ticket] = dataclasses.replace(mine, alive_until=now + place.expiry_s)
            outcomes = self._outcomes(mine)
            boards = outcomes[-1].boards
            if boards is None:
                books = self._books()
                return reasons.waiting(self._rules, books, books.queue, outcomes)
            del self._queue[mine.ticket]
            self._changed.notify_all()
            return self._grant(boards, place.holder, place.expiry_s, waited_s=now - mine.asked_at)

    def stay(self, ticket: int, expiry_s: float) -> bool:
        with self._changed:
            now, mine = self._clock(), self._queue.get(ticket)
            if mine is None or mine.alive_until <= now:
                return False
            self._queue[ticket] = dataclasses.replace(mine, alive_until=now + expiry_s)
            return True

    def leave(self, ticket: int) -> None:
        with self._changed:
            self._queue.pop(ticket, None)
            self._changed.notify_all()

    def sleep(self, timeout_s: float) -> bool:
        if self._wait is not None:
            self._wait(timeout_s)
            return True
        with self._changed:
            self._changed.wait(min(timeout_s, 0.05))
        return True

    def _books(self) -> Books:
        now = self._clock()
        for board_id, (lease, lasting_s) in self._leases.items():
            cut = dataclasses.replace(lease, expires_at=min(lease.expires_at, now + lasting_s))
            self._leases[board_id] = (cut, lasting_s)
        return Books(
            now=now,
            leases={board: lease for board, (lease, _) in self._leases.items() if lease.expires_at > now},
            quarantined={board: reason for board, (reason, _) in self._quarantined.items()},
            maintenance=self._rules.limits.maintenance(now),
            queue=in_order([waiter for waiter in self._queue.values() if waiter.alive_until > now]),
        )

    def _outcomes(self, asking: Waiter) -> list[Outcome]:
        books = self._books()
        others = [waiter for waiter in books.queue if waiter.ticket != asking.ticket]
        outcomes = []
        for outcome in settle(self._rules, books, in_order([*others, asking])):
            outcomes.append(outcome)
            if outcome.waiter.ticket == asking.ticket:
                break
        return outcomes

    def _grant(
        self, boards: Sequence[str], holder: Holder, expiry_s: float, *, waited_s: float | None = None
    ) -> tuple[Lease, ...]:
        now = self._clock()
        end = self._rules.limits.lease_ends(acquired_at=now, now=now, expiry_s=expiry_s, awaited=True)
        leases = []
        for board_id in boards:
            if board_id in self._leases:
                old = self._leases.pop(board_id)[0]
                self._note(AuditEvent.EXPIRED, old.board_id, by=old.holder, token=old.token, at=old.expires_at)
            self._token = max(self._token, int(now * 1000)) + 1
            lease = Lease(
                board_id=board_id,
                token=self._token,
                holder=holder,
                acquired_at=now,
                expires_at=end,
                lasts_s=end - now,
            )
            self._leases[board_id] = (lease, expiry_s)
            self._note(AuditEvent.LEASED, board_id, by=holder, token=lease.token, at=now, waited_s=waited_s)
            leases.append(lease)
        return tuple(leases)

    def _current(self, board_id: str, now: float) -> Lease | None:
        lease = self._leases[board_id][0] if board_id in self._leases else None
        return lease if lease is not None and lease.expires_at > now else None

    def _note(
        self,
        event: AuditEvent,
        board_id: str,
        *,
        by: Holder,
        token: int | None = None,
        reason: str = "",
        at: float | None = None,
        waited_s: float | None = None,
    ) -> None:
        stamp = self._clock() if at is None else at
        by = dataclasses.replace(by, project="")
        line = AuditLine(
            at=stamp,
            board_id=board_id,
            event=event,
            by=by,
            token=token,
            reason=reason,
            number=len(self._lines) + 1,
            waited_s=waited_s,
        )
        self._lines.append(line)

    def _state(self, board_id: str, lease: Lease | None) -> BoardState:
        quarantined = self._quarantined.get(board_id)
        closed = self._rules.limits.maintenance(self._clock()).get(board_id)
        reason = None
        if quarantined is not None:
            status, (reason, since) = BoardStatus.QUARANTINED, quarantined
        elif closed is not None:
            status, since, reason = BoardStatus.MAINTENANCE, closed.since, closed.reason
        elif lease is not None:
            status, since = BoardStatus.LEASED, lease.acquired_at
        else:
            status, since = BoardStatus.FREE, None
        return BoardState(
            board_id=board_id,
            state=status,
            holder=lease.holder if lease else None,
            token=lease.token if lease else None,
            expires_at=lease.expires_at if lease else None,
            reason=reason,
            since=since,
            failures=self._failed(board_id),
            next_check_at=self._next_check.get(board_id),
        )


class MemoryPlace:
    def __init__(
        self,
        store: MemoryLeaseStore,
        wanted: tuple[tuple[str, ...], ...],
        holder: Holder,
        expiry_s: float,
        priority: int,
    ) -> None:
        self._store = store
        self.wanted = wanted
        self.holder = holder
        self.expiry_s = expiry_s
        self.priority = priority
        self.ticket = 0

    def advance(self) -> tuple[Lease, ...] | Waiting:
        return self._store.advance(self)

    def wait(self, timeout_s: float) -> bool:
        return self._store.sleep(timeout_s)

    def stay(self) -> bool:
        return self._store.stay(self.ticket, self.expiry_s)

    def __enter__(self) -> MemoryPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.leave(self.ticket)
