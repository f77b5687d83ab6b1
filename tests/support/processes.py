"""Whether a process of this machine lives. Zombies are dead: they hold nothing and do nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def alive(pid: int) -> bool:
    return state_of(pid) not in {"", "Z", "X"}


def state_of(pid: int) -> str:
    """The letter that proc(5) has for it; empty when it is gone."""
    return _state_and_group(Path(f"/proc/{pid}/stat"))[0]


def argued_with(word: str) -> list[int]:
    """Those that live and have this among, or in, their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word.encode() in said and alive(int(path.parent.name)):
            found.append(int(path.parent.name))
    return found


def group_alive(group: int) -> bool:
    found = (_state_and_group(path) for path in Path("/proc").glob("[0-9]*/stat"))
    return any(of == str(group) and state not in {"Z", "X"} for state, of in found)


def _state_and_group(stat: Path) -> tuple[str, str]:
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # proc(5): the name before it may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return "", ""
    return fields[0], fields[2]


def until(what: Callable[[], T], *, timeout_s: float = 90.0) -> T:
    """Waits for `what` to return something true, and returns it."""
    end = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < end, f"did not come true within {timeout_s} s"
        time.sleep(0.01)
    return value
