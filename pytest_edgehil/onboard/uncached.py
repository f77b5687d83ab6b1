"""Writing past the kernel's cache: a slow processor copies into it several times as slowly as a medium takes it.

``O_DIRECT`` wants memory that begins at a page, whole sectors, and places that are multiples of them. What does not fit
(the last sectors of a file, a file system that knows nothing of it) is written through the cache. Nothing is promised
about what has reached the medium: that takes an fsync, as ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from .durable import BLOCK_BYTES, write_all

REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""What a file system says that does not know ``O_DIRECT``, or not for this size and place."""
SECTOR_BYTES = 4096
"""No medium has longer ones."""


class Uncached:
    """Writes one file or device from its beginning.

    Args:
        descriptor: open for writing, at its beginning; stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._block = mmap.mmap(-1, BLOCK_BYTES)
        self._pending = 0
        self._direct = self._switch(direct=True)
        self.written_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; `BLOCK_BYTES` are written at once.

        Raises:
            OSError: it cannot be written.
        """
        left = memoryview(data)
        while left:
            count = min(len(left), BLOCK_BYTES - self._pending)
            self._block[self._pending : self._pending + count] = left[:count]
            self._pending += count
            left = left[count:]
            if self._pending == BLOCK_BYTES:
                self._flush()

    def finish(self) -> None:
        """Write what is left.

        Raises:
            OSError: it cannot be written.
        """
        if self._pending:
            if self._direct and self._pending % SECTOR_BYTES:
                self._direct = self._switch(direct=False)
            self._flush()

    def _flush(self) -> None:
        with memoryview(self._block) as whole, whole[: self._pending] as piece:
            try:
                write_all(self._descriptor, piece)
            except OSError as exc:
                if not self._direct or exc.errno not in REFUSED:
                    raise
                self._direct = self._switch(direct=False)
                os.lseek(self._descriptor, self.written_bytes, os.SEEK_SET)
                write_all(self._descriptor, piece)
        self.written_bytes += self._pending
        self._pending = 0

    def _switch(self, *, direct: bool) -> bool:
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
        except OSError as exc:
            if not direct or exc.errno not in REFUSED:
                raise
            return False
        return direct
