"""How tables and times look on a terminal, and times in JSON."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from pytest_edgehil.model.quantity import format_duration


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns aligned; the first row is the heading, and an empty cell is a dash."""
    filled = [[cell or "-" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(len(filled[0]))]
    for row in filled:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def iso(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC, with milliseconds.

    >>> iso(0.25)
    '1970-01-01T00:00:00.250+00:00'
    """
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).isoformat(timespec="milliseconds")


def ago(seconds: float) -> str:
    """How long ago, for people.

    >>> ago(90), ago(-0.5)
    ('1.5 min ago', '0 ns ago')
    """
    return f"{format_duration(max(0.0, seconds) * 1e9)} ago"
