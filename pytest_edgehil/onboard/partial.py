"""What a push that was cut has left: kept under the bundle's name, so that the next push goes on where it stopped.

The file is ``store/sha256/.<hex>.partial``. Whoever writes it holds a lock on it; a second pusher of the same bundle
gets a file of its own. Nothing is believed of what lies there (the power may have gone before it reached the medium):
the host is told the digests of several prefixes and says from which of them the push goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from .durable import BLOCK_BYTES

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from hashlib import _Hash

SUFFIX = ".partial"
MARK_BYTES = 8 * 2**20
MOST_MARKS = 64
KEPT_S = 24 * 3600.0
"""A partial file that nobody has written to for so long is swept."""
KEPT_BYTES = 4 * 2**30
"""Of partial files together; the oldest go first."""
PATIENCE_S = 1.0
"""A sink whose link was cut needs a moment to notice; the next push waits so long for its lock."""


class Mark:
    """A prefix of a partial file, and the state of the hash behind it."""

    # No dataclass: importing those takes a board longer than all the rest of this module.
    __slots__ = ("hashing", "size")

    def __init__(self, *, size: int, hashing: _Hash) -> None:
        self.size = size
        self.hashing = hashing


def partial_of(bundle: Path) -> Path:
    """Where a bundle lies until it is whole."""
    return bundle.with_name(f".{bundle.name}{SUFFIX}")


def open_partial(
    bundle: Path, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> tuple[Path, int]:
    """The file that a bundle is written to, and its descriptor, locked.

    A private one, which nobody will resume, when somebody else keeps the lock.
    """
    shared, until = partial_of(bundle), clock() + PATIENCE_S
    while True:
        descriptor = os.open(shared, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if clock() < until:
                sleep(0.02)
                continue
            break
        if _still_there(descriptor, shared):
            return shared, descriptor
        os.close(descriptor)  # it got its name, or was swept, between opening and locking
    private = bundle.with_name(f".{bundle.name}.{os.getpid()}.tmp")
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that it is in use: see Home.prepare
    return private, descriptor


def marks_of(descriptor: int, *, at_most: int) -> list[Mark]:
    """Prefixes of what is there, ascending; the last one is all of it, up to `at_most` bytes."""
    size = min(os.fstat(descriptor).st_size, at_most)
    step = max(MARK_BYTES, -(-size // MOST_MARKS))
    hashing, marks, done = hashlib.sha256(), [], 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while done < size:
        border = min(size, (done // step + 1) * step)
        count = os.preadv(descriptor, [buffer[: min(BLOCK_BYTES, border - done)]], done)
        if count == 0:
            break
        hashing.update(buffer[:count])
        done += count
        if done == border:
            marks.append(Mark(size=done, hashing=hashing.copy()))
    return marks


def sweep(store: Path, *, now_s: float, keep: Path | None = None, kept_bytes: int = KEPT_BYTES) -> None:
    """Remove partial files that are stale, or more than fit: the oldest first, never one that is being written.

    Args:
        store: the directory.
        now_s: wall-clock seconds; a board without a battery may have written files in what it now calls the future.
        keep: stays in any case.
        kept_bytes: so much may stay.
    """
    found = []
    for path in store.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            found.append((abs(now_s - status.st_mtime), status.st_size, path))
    total = 0
    for age_s, size, path in sorted(found):
        total += size
        if path != keep and (age_s > KEPT_S or total > kept_bytes or size == 0) and _removed(path):
            total -= size


def _removed(path: Path) -> bool:
    """Remove a file that nobody has locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
