"""Reading back what was written, from the medium and not from memory.

``O_DIRECT`` reads past the kernel's page cache. Where a file system does not know it (tmpfs before Linux 6.5, some
network and overlay file systems), the cached pages are written out and dropped first, which asks the kernel instead of
making it; the answer says which of the two it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

from .durable import BLOCK_BYTES
from .uncached import REFUSED

DIRECT = "direct"
DROPPED = "cache dropped"
_BLKFLSBUF = 0x1261  # <linux/fs.h>: drop a block device's own cached pages

Told = Callable[[int], None]


def sha256_on_medium(path: Path, *, size_bytes: int | None = None, tell: Told = lambda _bytes: None) -> tuple[str, str]:
    """Digest of what the medium holds.

    Args:
        path: a file or a device.
        size_bytes: hash so many bytes from the beginning; None: all.
        tell: told how many bytes have been read, now and then.

    Returns:
        ``sha256:<hex>``, and `DIRECT` or `DROPPED`.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return _hashed(path, os.O_DIRECT, size_bytes, tell), DIRECT
    except OSError as exc:
        if exc.errno not in REFUSED:
            raise
    return _hashed(path, 0, size_bytes, tell), DROPPED


def _hashed(path: Path, flags: int, size_bytes: int | None, tell: Told) -> str:
    digest, done = hashlib.sha256(), 0
    # anonymous memory begins at a page, as O_DIRECT wants of a buffer
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            if not flags:
                _drop_cache(descriptor)
            if size_bytes is None:
                size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
                os.lseek(descriptor, 0, os.SEEK_SET)
            while done < size_bytes:
                count = min(os.readv(descriptor, [buffer]), size_bytes - done)
                if count == 0:
                    break
                digest.update(buffer[:count])
                done += count
                tell(done)
        finally:
            os.close(descriptor)
    return f"sha256:{digest.hexdigest()}"


def _drop_cache(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a device that is read-only cannot be synced, and need not be
        os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError):  # needs privileges that a login may lack
            fcntl.ioctl(descriptor, _BLKFLSBUF)
