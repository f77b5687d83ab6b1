"""Reading and writing past the kernel's cache: a slow processor copies through it more slowly than a medium goes.

``O_DIRECT`` wants memory that begins at a page, whole sectors, and places that are multiples of them. What does not fit
(the last sectors of a file, a file system that knows nothing of it) is written through the cache. Nothing is promised
about what has reached the medium: that takes an fsync, as ever.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

from .durable import BLOCK_BYTES, write_all

REFUSED = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}
"""What a file system says that does not know ``O_DIRECT``, or not for this size and place."""
SECTOR_BYTES = 4096
"""No medium has longer ones."""


class UncachedReader:
    """Reads one file or device, as a binary file does.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._direct = _switched(self._descriptor, direct=True)
        self._block = mmap.mmap(-1, BLOCK_BYTES)
        self._start = self._count = 0  # what of the file is in the block
        self._at = 0

    def read(self, size: int) -> bytes:
        """What comes next; fewer bytes only at the end.

        Raises:
            OSError: it cannot be read.
        """
        parts = []
        while size:
            skip = self._at - self._start
            if not 0 <= skip < self._count:
                skip = self._fill()
            part = self._block[skip : min(skip + size, self._count)]
            if not part:
                break
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fill(self) -> int:
        """Have the block hold what comes next; tells where in it."""
        self._start = self._at - self._at % SECTOR_BYTES
        try:
            self._count = os.preadv(self._descriptor, [self._block], self._start)
        except OSError as exc:
            if not self._direct or exc.errno not in REFUSED:
                raise
            self._direct = _switched(self._descriptor, direct=False)
            self._count = os.preadv(self._descriptor, [self._block], self._start)
        return self._at - self._start

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go on from another place: counted from the beginning, from where it is, or from the end."""
        if whence == os.SEEK_END:
            offset += os.lseek(self._descriptor, 0, os.SEEK_END)
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def __enter__(self) -> UncachedReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Uncached:
    """Writes one file or device from its beginning.

    Args:
        descriptor: open for writing, at its beginning; stays open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._block = mmap.mmap(-1, BLOCK_BYTES)
        self._pending = 0
        self._direct = _switched(descriptor, direct=True)
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
                self._direct = _switched(self._descriptor, direct=False)
            self._flush()

    def _flush(self) -> None:
        with memoryview(self._block) as whole, whole[: self._pending] as piece:
            try:
                write_all(self._descriptor, piece)
            except OSError as exc:
                if not self._direct or exc.errno not in REFUSED:
                    raise
                self._direct = _switched(self._descriptor, direct=False)
                os.lseek(self._descriptor, self.written_bytes, os.SEEK_SET)
                write_all(self._descriptor, piece)
        self.written_bytes += self._pending
        self._pending = 0


def _switched(descriptor: int, *, direct: bool) -> bool:
    """Past the cache or not; tells which of the two it is now."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError as exc:
        if not direct or exc.errno not in REFUSED:
            raise
        return False
    return direct
