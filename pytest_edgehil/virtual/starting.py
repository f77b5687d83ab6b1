"""Who may start a board of this host, and on whose behalf it runs: the same for virtual and emulated boards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_edgehil.errors import ConnectFailed

POLL_S = 0.02


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


def is_of_a_lease(leased: Path, pid: int) -> bool:
    """Was the process started by a leaseholder, who wrote it down here, and not by ``edgehil farm up``?"""
    try:
        return leased.read_text() == str(pid)
    except FileNotFoundError:
        return False
