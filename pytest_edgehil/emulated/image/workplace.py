"""A directory in which something big is made, to be put in its place when it is whole.

Who makes it may be killed, and would leave a gigabyte behind each time. So each such directory is locked by its maker
for as long as that one lives, and whoever makes the next one removes those that nobody holds any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def workplace(parent: Path, *, prefix: str) -> Iterator[Path]:
    """A new, empty directory; it is gone afterwards, unless it was renamed.

    Args:
        parent: where it is made; exists.
        prefix: of its name; whatever bears it there is one of ours.
    """
    with (parent / f"{prefix}lock").open("ab") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # nobody looks between its making and its locking
        for old in leftovers(parent, prefix=prefix):
            shutil.rmtree(old, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        held = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(held)


def leftovers(parent: Path, *, prefix: str) -> list[Path]:
    """What makers that were killed have left; the next `workplace` there removes it."""
    return [old for old in sorted(parent.glob(f"{prefix}*")) if old.is_dir() and not _is_held(old)]


@contextlib.contextmanager
def one_at_a_time(lock: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until nobody else makes the same; somebody who was killed makes nothing any more.

    Args:
        lock: a file that all of them name; made when it is not there.
        say: told when there is somebody to wait for.
    """
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is at it already; waiting for that")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_held(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its maker has just put it in its place, or removed it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def flush(path: Path) -> None:
    """Have a file's bytes, or the names in a directory, on this host's disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
