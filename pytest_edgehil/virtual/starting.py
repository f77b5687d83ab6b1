"""Who may start or join a board of this host, and on whose behalf it runs: the same for virtual and emulated boards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pytest_edgehil.errors import ConfigError, ConnectFailed

POLL_S = 0.02
_Endpoint = TypeVar("_Endpoint")


@contextlib.contextmanager
def exclusively(start_lock: Path, *, what: str, log: Path, deadline_s: float) -> Iterator[None]:
    """Be the only one who starts this board.

    Args:
        start_lock: the file to lock.
        what: the board, for people.
        log: where to look if somebody else takes too long.
        deadline_s: by `time.monotonic`.

    Raises:
        ConnectFailed: somebody else has been starting it until the deadline.
    """
    descriptor = os.open(start_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ConnectFailed(f"{what}: somebody else has been starting it for too long; see {log}") from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def if_free(lock: Path) -> Iterator[bool]:
    """Hold a lock if nobody else does, and tell whether."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_held(lock: Path) -> bool:
    """Whether somebody holds a lock; who only looks is in nobody's way who looks, too."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_endpoint(kind: type[_Endpoint], path: Path) -> _Endpoint | None:
    """How to reach a board, as whoever serves it has written it down; None when nobody does.

    Args:
        kind: a dataclass that JSON is checked against.

    Raises:
        ConfigError: the file is damaged, or another version has written it.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(
            f"{path} is damaged, or another version of pytest-edgehil has written it ({where}: "
            f"{first['msg'].lower()}): end whoever runs the board (Ctrl-C in 'edgehil farm up'), then start it again"
        ) from problem


def check_same(what: str, runs: dict[str, str], wanted: dict[str, str], *, process: int) -> None:
    """Refuse to join a board that is not what the lab file says: what it measures would be taken for what that says.

    Args:
        what: the board, for people.
        runs: what it was started as, in words, by the lab file's names.
        wanted: what the lab file says, with the same names.
        process: the one to end.

    Raises:
        ConfigError: they differ.
    """
    differing = [name for name, value in wanted.items() if runs[name] != value]
    if differing:
        here, there = (", ".join(f"{name} {words[name]}" for name in differing) for words in (runs, wanted))
        raise ConfigError(
            f"{what} runs already, with {here}; the lab file says {there}: end it where it was started (process "
            f"{process}; Ctrl-C in 'edgehil farm up'), or use the lab file that it was started with"
        )


def is_of_a_lease(leased: Path, pid: int) -> bool:
    """Was the process started by a leaseholder, who wrote it down here, and not by ``edgehil farm up``?"""
    try:
        return leased.read_text() == str(pid)
    except FileNotFoundError:
        return False
