"""What lab.yaml says about limits, priorities and maintenance, as the frozen values of `limits`."""

from __future__ import annotations

import datetime as dt
import fnmatch
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

from pytest_edgehil.documents.near_miss import did_you_mean, listed, suggest
from pytest_edgehil.documents.reading import Document, KeyPath, Problem
from pytest_edgehil.lab.limits import DAYS, Limits, PriorityRule, Quota, Window
from pytest_edgehil.lab.schema import LabSection, MaintenanceSection
from pytest_edgehil.model.board import Board
from pytest_edgehil.model.quantity import format_duration

_START = re.compile(r"(?:(?P<day>[A-Za-z]+) |(?P<date>\d{4}-\d{2}-\d{2}) )?(?P<time>\d{2}:\d{2})")
_MONDAY = dt.date(2024, 1, 1)


def limits_of(section: LabSection, boards: Sequence[Board], document: Document, problems: list[Problem]) -> Limits:
    """The limits of a lab file; what is wrong with them is added to `problems`."""
    told = section.limits
    if told.max_lease is not None and told.max_lease < section.lease_expiry:
        least = format_duration(section.lease_expiry * 1e9)
        problems.append(
            document.problem(
                ("limits", "max_lease"),
                f"{format_duration(told.max_lease * 1e9)} is less than lease_expiry: expected {least} or more",
            )
        )
    windows = []
    for number, window in enumerate(section.maintenance):
        where: KeyPath = ("maintenance", number)
        found = [document.problem((*where, key), what) for key, what in _wrong(window, boards)]
        problems.extend(found)
        if not found:
            windows.append(_window(window, boards))
    return Limits(
        max_lease_s=told.max_lease,
        extend_while_idle=told.extend == "while-idle",
        users=Quota(each=told.per_user, named=told.users),
        projects=Quota(each=told.per_project, named=told.projects),
        windows=tuple(windows),
        priorities=tuple(PriorityRule(branch=one.branch, priority=one.priority) for one in section.priorities),
    )


def _wrong(window: MaintenanceSection, boards: Sequence[Board]) -> Iterator[tuple[str, str]]:
    ids, classes = [board.id for board in boards], sorted({board.cls for board in boards})
    for board_id in window.boards:
        if board_id not in ids:
            yield "boards", f"there is no board {board_id!r}{suggest(board_id, ids, f'its boards are {listed(ids)}')}"
    for pattern in window.classes:
        if not fnmatch.filter(classes, pattern):
            known = suggest(pattern, classes, f"its classes are {listed(classes)}")
            yield "classes", f"no board has the class {pattern!r}{known}"
    try:
        _start(window.start)
    except ValueError as problem:
        yield "start", str(problem)
    try:
        ZoneInfo(window.zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        near = did_you_mean(window.zone, sorted(zoneinfo.available_timezones()))
        known = near or "; expected a name such as Europe/Berlin, and on this host the package tzdata"
        yield "zone", f"there is no time zone {window.zone!r}{known}"


def _window(window: MaintenanceSection, boards: Sequence[Board]) -> Window:
    start, every = _start(window.start)
    everywhere = not window.boards and not window.classes
    return Window(
        boards=frozenset(
            board.id
            for board in boards
            if everywhere
            or board.id in window.boards
            or any(fnmatch.fnmatchcase(board.cls, pattern) for pattern in window.classes)
        ),
        start=start,
        every=every,
        duration_s=window.lasts,
        drain_s=window.drain,
        zone=ZoneInfo(window.zone),
        reason=window.reason,
    )


def _start(text: str) -> tuple[dt.datetime, str | None]:
    """When a window begins, and how often.

    >>> _start("Sun 02:30")[0].strftime("%A %H:%M"), _start("02:30")[1], _start("2026-11-22 02:30")[1]
    ('Sunday 02:30', 'day', None)
    """
    shape = "expected 'Sun 02:00' each week, '02:00' each day or '2026-11-22 02:00' once"
    found = _START.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time: {shape}")
    try:
        at = dt.time.fromisoformat(found["time"])
        if found["date"]:
            return dt.datetime.combine(dt.date.fromisoformat(found["date"]), at), None
    except ValueError as wrong:
        raise ValueError(f"{text!r} is no time: {wrong}") from wrong
    if not found["day"]:
        return dt.datetime.combine(_MONDAY, at), "day"
    day = found["day"].lower()
    for number, name in enumerate(DAYS):
        if day == name or (len(day) >= 3 and name.startswith(day)):
            return dt.datetime.combine(_MONDAY + dt.timedelta(days=number), at), "week"
    raise ValueError(f"there is no day {found['day']!r}{did_you_mean(day, DAYS)}: {shape}")
