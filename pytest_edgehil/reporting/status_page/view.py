"""What the page shows, as values: made from the lab and its database, turned into text here and nowhere else. Pure."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_edgehil.documents.near_miss import listed
from pytest_edgehil.lab.health import LastCheck
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import AuditLine, BoardState, BoardStatus, Queued, Visit
from pytest_edgehil.model.board import Board
from pytest_edgehil.model.quantity import format_duration

VISITS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitView:
    """What came of a test on a board: when, how long ago, and the verdict of each gate."""

    at: str
    ago: str
    test: str
    combo: str
    status: str
    verdicts: tuple[tuple[str, str], ...]
    message: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardView:
    """One board.

    Args:
        board: as the lab file describes it.
        state: ``free``, ``leased``, ``maintenance`` or ``quarantined``.
        held: whether somebody holds it, whatever its state.
        holder: who, or empty.
        since: how long it has been in that state, as people say it; empty when nobody knows.
        since_at: the same as ISO 8601, for a tooltip.
        reason: why it is quarantined or in maintenance, or empty.
        expires: how long the lease lasts unless it is renewed, or empty.
        check: what the last look at the board found, with its temperature, or empty.
        visits: what came of tests on it, newest first.
        console: the end of what its serial console said in the last of them, or empty.
    """

    board: Board
    state: str
    held: bool
    holder: str
    since: str
    since_at: str
    reason: str
    expires: str
    check: str
    visits: tuple[VisitView, ...]
    console: str

    @property
    def traits(self) -> str:
        """Class, accelerator and tags on one line."""
        accelerator = (self.board.accelerator.kind,) if self.board.accelerator is not None else ()
        return " · ".join((self.board.cls, *accelerator, *sorted(self.board.tags)))


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """Somebody who waits: since how long, for what, and why."""

    holder: str
    priority: int
    since: str
    wanted: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryView:
    """One line of the audit trail."""

    at: str
    board_id: str
    event: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabView:
    """The whole page. `counts` has the number of boards by state, the most frequent state first."""

    name: str
    at: str
    counts: tuple[tuple[str, int], ...]
    boards: tuple[BoardView, ...]
    queue: tuple[QueueView, ...]
    history: tuple[HistoryView, ...]

    def board(self, board_id: str) -> BoardView | None:
        """The board with this id, if there is one."""
        return next((one for one in self.boards if one.board.id == board_id), None)


def lab_view(
    lab: Lab,
    *,
    states: Sequence[BoardState],
    queue: Sequence[Queued],
    audit: Sequence[AuditLine],
    checks: Mapping[str, LastCheck],
    visits: Sequence[Visit],
    now: float,
) -> LabView:
    """What the page shows.

    Args:
        lab: the inventory.
        states: of every board.
        queue: who waits, the first one first.
        checks: the last look at each board.
        visits: what came of tests, oldest first.
        audit: what happened, oldest first; the page shows the newest first.
        now: seconds since the epoch. By the host's clock, so an age may be off by what it differs from the database's.
    """
    counts = Counter(str(state.state) for state in states)
    return LabView(
        name=lab.name,
        at=_moment(now),
        counts=tuple(counts.most_common()),
        boards=tuple(
            _board(
                lab.board(state.board_id),
                state,
                check=checks.get(state.board_id),
                visits=[one for one in reversed(visits) if one.board_id == state.board_id],
                now=now,
            )
            for state in states
        ),
        queue=tuple(_queued(one, now=now) for one in queue),
        history=tuple(_line(line) for line in reversed(audit)),
    )


def _board(
    board: Board, state: BoardState, *, check: LastCheck | None, visits: Sequence[Visit], now: float
) -> BoardView:
    left_s = 0.0 if state.expires_at is None else state.expires_at - now
    return BoardView(
        board=board,
        state=str(state.state),
        held=state.holder is not None,
        holder=str(state.holder or ""),
        since=_ago(state.since, now=now),
        since_at="" if state.since is None else _moment(state.since),
        reason=state.reason or "",
        expires=format_duration(left_s * 1e9) if state.state is BoardStatus.LEASED and left_s > 0 else "",
        check="" if check is None else _check(check),
        visits=tuple(_visit(one, now=now) for one in visits[:VISITS]),
        console=visits[0].console if visits else "",
    )


def _check(check: LastCheck) -> str:
    """A sentence about the last look at a board."""
    found = check.checkup
    told = [] if found.temperature_c is None else [f"{found.temperature_c:.0f} °C"]
    told += [found.complaint] if found.complaint else ["healthy"]
    return f"{', '.join(told)} {format_duration(round(check.age_s) * 1e9)} ago"


def _visit(one: Visit, *, now: float) -> VisitView:
    return VisitView(
        at=_moment(one.at),
        ago=_ago(one.at, now=now),
        test=one.test,
        combo=one.combo,
        status=one.status,
        verdicts=one.verdicts,
        message=one.message,
        by=one.by,
    )


def _queued(one: Queued, *, now: float) -> QueueView:
    return QueueView(
        holder=str(one.holder),
        priority=one.priority,
        since=_ago(one.asked_at, now=now),
        wanted=" and ".join(" or ".join(ids) for ids in one.wanted),
        why="its boards are ready" if one.waiting is None else one.waiting.why,
    )


def _line(line: AuditLine) -> HistoryView:
    return HistoryView(
        at=_moment(line.at), board_id=line.board_id, event=str(line.event), by=str(line.by), reason=line.reason
    )


def _ago(since: float | None, *, now: float) -> str:
    return "" if since is None else format_duration(max(0.0, round(now - since)) * 1e9)


def _moment(seconds: float) -> str:
    """ISO 8601 in UTC, to the second.

    >>> _moment(0.9)
    '1970-01-01 00:00:00Z'
    """
    return dt.datetime.fromtimestamp(int(seconds), tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def states_in_words(view: LabView) -> str:
    """The counts as a sentence's end, such as ``3 free, 1 leased``."""
    return listed([f"{count} {state}" for state, count in view.counts])
