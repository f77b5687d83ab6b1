"""A store of leases in this process's memory: a second implementation for the contract suite, quick for other tests.

It keeps the rules of `pytest_edgehil.lab.leases` with plain dictionaries under one lock.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from pytest_edgehil.lab.assignment import assign
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import AuditEvent, AuditLine, BoardState, BoardStatus, Holder, Lease, lost


class MemoryLeaseStore:
    def __init__(
        self,
        *,
        board_ids: Sequence[str],
        pools: Mapping[str, str] | None = None,
        pool_limits: Mapping[str, int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._board_ids = tuple(board_ids)
        self._pools = dict(pools or {})
        self._pool_limits = dict(pool_limits or {})
        self._clock = clock
        self._lock = threading.RLock()
        self._leases: dict[str, tuple[Lease, float]] = {}
        self._quarantined: dict[str, tuple[str, float]] = {}
        self._lines: list[AuditLine] = []
        self._token = 0

    @classmethod
    def of(cls, lab: Lab, *, clock: Callable[[], float] = time.time) -> MemoryLeaseStore:
        return cls(
            board_ids=[board.id for board in lab.boards],
            pools={board.id: board.pool for board in lab.boards if board.pool is not None},
            pool_limits=lab.pool_limits,
            clock=clock,
        )

    def acquire(
        self, requests: Sequence[Sequence[str]], *, holder: Holder, expiry_s: float
    ) -> tuple[Lease, ...] | None:
        with self._lock:
            now = self._clock()
            for board_id, (lease, lasting_s) in self._leases.items():
                cut = dataclasses.replace(lease, expires_at=min(lease.expires_at, now + lasting_s))
                self._leases[board_id] = (cut, lasting_s)
            held = [board_id for board_id in self._leases if self._current(board_id, now) is not None]
            room = dict(self._pool_limits)
            for board_id in held:
                if self._pools.get(board_id) in room:
                    room[self._pools[board_id]] -= 1
            wanted = {board_id for request in requests for board_id in request}
            chosen = assign(
                requests, available=wanted - set(held) - set(self._quarantined), pools=self._pools, room=room
            )
            if chosen is None:
                return None
            leases = []
            for board_id in chosen:
                if board_id in self._leases:
                    old = self._leases.pop(board_id)[0]
                    self._note(AuditEvent.EXPIRED, old.board_id, by=old.holder, token=old.token, at=old.expires_at)
                self._token = max(self._token, int(now * 1000)) + 1
                lease = Lease(
                    board_id=board_id, token=self._token, holder=holder, acquired_at=now, expires_at=now + expiry_s
                )
                self._leases[board_id] = (lease, expiry_s)
                self._note(AuditEvent.LEASED, board_id, by=holder, token=lease.token, at=now)
                leases.append(lease)
            return tuple(leases)

    def renew(self, lease: Lease, *, expiry_s: float) -> Lease:
        with self._lock:
            now = self._clock()
            current = self._current(lease.board_id, now)
            if current is None or current.token != lease.token:
                away = [
                    line
                    for line in self._lines
                    if line.token == lease.token and line.event is AuditEvent.FORCE_RELEASED
                ]
                raise lost(lease, now=now, current=current, taken_away=away[0] if away else None)
            renewed = dataclasses.replace(current, expires_at=now + expiry_s)
            self._leases[lease.board_id] = (renewed, expiry_s)
            return renewed

    def release(self, lease: Lease) -> bool:
        with self._lock:
            now = self._clock()
            current = self._current(lease.board_id, now)
            if current is None or current.token != lease.token:
                return False
            del self._leases[lease.board_id]
            self._note(AuditEvent.RELEASED, lease.board_id, by=lease.holder, token=lease.token, at=now)
            return True

    def boards(self) -> tuple[BoardState, ...]:
        with self._lock:
            now = self._clock()
            return tuple(self._state(board_id, self._current(board_id, now)) for board_id in self._board_ids)

    def quarantine(self, board_id: str, *, reason: str, by: Holder) -> None:
        with self._lock:
            self._quarantined.setdefault(board_id, (reason, self._clock()))
            self._note(AuditEvent.QUARANTINED, board_id, by=by, reason=reason)

    def restore(self, board_id: str, *, by: Holder, reason: str = "") -> bool:
        with self._lock:
            if self._quarantined.pop(board_id, None) is None:
                return False
            self._note(AuditEvent.RESTORED, board_id, by=by, reason=reason)
            return True

    def force_release(self, board_id: str, *, by: Holder, reason: str) -> Lease | None:
        with self._lock:
            current = self._current(board_id, self._clock())
            if current is not None:
                del self._leases[board_id]
                self._note(AuditEvent.FORCE_RELEASED, board_id, by=by, token=current.token, reason=reason)
            return current

    def audit(self) -> tuple[AuditLine, ...]:
        with self._lock:
            return tuple(self._lines)

    def close(self) -> None:
        """Nothing is open."""

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
    ) -> None:
        stamp = self._clock() if at is None else at
        self._lines.append(AuditLine(at=stamp, board_id=board_id, event=event, by=by, token=token, reason=reason))

    def _state(self, board_id: str, lease: Lease | None) -> BoardState:
        quarantined = self._quarantined.get(board_id)
        if quarantined is not None:
            status, since = BoardStatus.QUARANTINED, quarantined[1]
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
            reason=quarantined[0] if quarantined else None,
            since=since,
        )
