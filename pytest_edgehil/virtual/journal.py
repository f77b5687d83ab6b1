"""What happened to a board, one JSON line each, written by the board itself.

Tests read it to prove what no log of ours could: that no board was ever in two hands, that a fault really
triggered. Lines are appended by a single write, so readers never see half of one unless the host crashed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Detail = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalLine:
    """One thing that happened.

    Args:
        at_s: seconds since the epoch.
        event: ``supervisor-start``, ``supervisor-stop``, ``power-on``, ``power-off``, ``boot``, ``boot-failed``,
            ``running``, ``reboot``, ``halt``, ``panic``, ``ssh-open``, ``ssh-close``, ``link-open``, ``link-close``,
            ``fault-armed``, ``fault-triggered``, ``fault-ended``, ``faults-cleared``, ``out-of-memory``, ``attest``.
        details: what else there is to say; `holder` and `token` on ``ssh-open`` and ``ssh-close``.
    """

    at_s: float
    event: str
    details: Mapping[str, Detail]


class Journal:
    """Appends to a journal; the file is private and survives restarts."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, event: str, **details: Detail) -> None:
        """Append one line."""
        line = json.dumps({"at_s": round(time.time(), 6), "event": event, **details}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: Path) -> tuple[JournalLine, ...]:
    """All lines of a journal, oldest first; empty when there is none yet."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    found = []
    for line in lines:
        if line.endswith(b"\n"):  # the last line may still be under way
            fields = json.loads(line)
            found.append(JournalLine(at_s=fields.pop("at_s"), event=fields.pop("event"), details=fields))
    return tuple(found)
