"""Waking a process of this host: a FIFO beside the database, one for each who waits.

Nobody looks at the file while he waits: the kernel wakes him when a byte arrives. A FIFO that nobody reads belongs to
somebody who died, which whoever rings learns at once (``ENXIO``, fifo(7)). Where a file system has no FIFOs, those who
wait look ten times a second instead.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
import uuid
from pathlib import Path

import sqlalchemy as sa

_WITHOUT_FIFO_S = 0.1


class FifoBell:
    """A `database_store.Bell`.

    Args:
        directory: where bells hang; made if it is not there, with the mode of the one above it.
    """

    connection: sa.Connection | None = None
    """None: the database is a file, and each transaction takes a connection of the pool."""

    def __init__(self, directory: Path) -> None:
        self.name = uuid.uuid4().hex
        self._path = directory / self.name
        self._reader: int | None = None
        with contextlib.suppress(OSError):
            if not directory.is_dir():
                directory.mkdir(exist_ok=True)
                directory.chmod(directory.parent.stat().st_mode & 0o7777)
            os.mkfifo(self._path)
            self._path.chmod(0o660 if directory.stat().st_mode & 0o020 else 0o600)
            # for reading and writing: then it never reads as ended when whoever rang goes away (fifo(7), Linux)
            self._reader = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)

    def wait(self, timeout_s: float) -> bool:
        """Until it rings, at most so long; return whether it did, or may have."""
        if self._reader is None:
            time.sleep(max(0.0, min(timeout_s, _WITHOUT_FIFO_S)))
            return True
        if not select.select([self._reader], [], [], max(0.0, timeout_s))[0]:
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)
        return True

    def close(self) -> None:
        """Take it down."""
        reader, self._reader = self._reader, None
        self._path.unlink(missing_ok=True)
        if reader is not None:
            os.close(reader)


def ring(directory: Path, name: str) -> bool:
    """Ring a bell; False: whoever hung it up is dead, and it was taken down."""
    path = directory / name
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # it never had one, or has gone by itself
    except OSError:
        path.unlink(missing_ok=True)
        return False
    try:
        os.write(writer, b".")
    except BlockingIOError:
        return True  # it has been rung often enough
    except BrokenPipeError:  # its reader went, or died, after we had opened it
        path.unlink(missing_ok=True)
        return False
    else:
        return True
    finally:
        os.close(writer)
