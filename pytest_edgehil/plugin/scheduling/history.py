"""How long tests and flashes took in earlier runs: a small file, kept from run to run.

Keyed by node id, combo and class of board, for a test may be slow on one and quick on another. Each figure is a mean
in which the latest runs weigh most, and what has not been seen for three months is forgotten. The file is advice: one
that is damaged, or written by a later version, counts as empty and is replaced. Runs that end at the same time add to
it one after the other, under a lock, and replace it whole.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
LATEST_WEIGHS = 0.3
FORGOTTEN_AFTER_S = 90 * 86_400.0
_LONGEST_S = 30 * 86_400.0
"""A longer duration is a mistake: of a clock, or of the file."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    """One observation.

    Args:
        nodeid: of the test; empty: a flash.
        combo: what was on the board; empty: nothing.
        cls: class of the board; empty: there was none.
        duration_s: seconds.
    """

    nodeid: str
    combo: str
    cls: str
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figure:
    mean_s: float
    count: int
    seen_at: float

    def with_one_more(self, duration_s: float, now: float) -> _Figure:
        count = self.count + 1
        mean_s = self.mean_s + (duration_s - self.mean_s) * max(1.0 / count, LATEST_WEIGHS)
        return _Figure(mean_s=mean_s, count=count, seen_at=now)


class History:
    """What is known; made by `read_history`."""

    def __init__(self, figures: Mapping[_Key, _Figure]) -> None:
        self._figures = dict(figures)
        self._of_test: dict[tuple[str, str], dict[str, float]] = {}
        for (nodeid, combo, cls), figure in self._figures.items():
            self._of_test.setdefault((nodeid, combo), {})[cls] = figure.mean_s

    def __len__(self) -> int:
        return len(self._figures)

    def expected_s(self, nodeid: str, combo: str, classes: Iterable[str]) -> float | None:
        """Mean duration on boards of these classes, else on any; None if the test never ran with this combo."""
        known = self._of_test.get((nodeid, combo))
        if known is None:
            return None
        told = [known[cls] for cls in sorted(set(classes)) if cls in known] or list(known.values())
        return sum(told) / len(told)

    def flash_s(self, combo: str) -> float | None:
        """Mean duration of flashing a combo; None if it never was."""
        return self.expected_s("", combo, ())

    def to_json(self) -> dict[str, Any]:
        """The content of the file."""
        return {
            "format": FORMAT,
            "took": [
                [*key, round(figure.mean_s, 6), figure.count, round(figure.seen_at)]
                for key, figure in sorted(self._figures.items())
            ],
        }

    def with_more(self, observed: Iterable[Took], *, now: float) -> History:
        """With what a run has seen, and without what is too old."""
        figures = {key: one for key, one in self._figures.items() if now - one.seen_at <= FORGOTTEN_AFTER_S}
        for one in observed:
            if not _plausible(one.duration_s):
                continue
            key = (one.nodeid, one.combo, one.cls)
            before = figures.get(key)
            figures[key] = (
                _Figure(mean_s=one.duration_s, count=1, seen_at=now)
                if before is None
                else before.with_one_more(one.duration_s, now)
            )
        return History(figures)


def read_history(path: Path) -> History:
    """What earlier runs left; nothing if there is no file, or none that can be understood."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return History({})
    if not isinstance(told, dict) or told.get("format") != FORMAT or not isinstance(told.get("took"), list):
        return History({})
    return History(dict(one for one in map(_read, told["took"]) if one is not None))


def add_to_history(path: Path, observed: Iterable[Took], *, now: float) -> None:
    """Add what a run has seen to the file.

    Args:
        path: the file; it need not be there.
        observed: durations of this run.
        now: seconds since the epoch.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = json.dumps(read_history(path).with_more(observed, now=now).to_json(), separators=(",", ":"))
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - the name says what is meant


def _read(row: object) -> tuple[_Key, _Figure] | None:
    match row:
        case [str(nodeid), str(combo), str(cls), (int() | float()) as mean_s, int(count), (int() | float()) as seen_at]:
            if _plausible(mean_s) and count > 0:
                return (nodeid, combo, cls), _Figure(mean_s=float(mean_s), count=count, seen_at=float(seen_at))
    return None


def _plausible(duration_s: float) -> bool:
    return 0.0 <= duration_s <= _LONGEST_S  # false for NaN as well
