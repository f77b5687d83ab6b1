"""Writing so that a power cut at any instruction leaves the old or the new state, never a mixture.

The order is always: write beside, fsync the file, rename over, fsync the directory. A rename is atomic on ext4 and
tmpfs; on FAT (the boot partition) it is the best there is, which is why firmware is proven before it is committed.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .problem import storage

BLOCK_BYTES = 2**20


def fsync_directory(path: Path) -> None:
    """Make renames and removals in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """`os.write` until everything is written: a single call may be short."""
    view = memoryview(data)
    while view.nbytes:
        view = view[os.write(descriptor, view) :]


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a small file.

    Raises:
        Problem: ``disk-full`` or ``storage``; the old file is still there.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage(str(path)):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            beside.replace(path)
            fsync_directory(path.parent)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def switch_link(link: Path, target: str) -> None:
    """Point a symbolic link elsewhere in one step: whoever looks sees the old or the new target."""
    beside = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    with storage(str(link)):
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        try:
            beside.replace(link)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        fsync_directory(link.parent)


def sha256_of(path: Path, *, past_cache: bool = False) -> str:
    """Digest of a file as ``sha256:<hex>``.

    Args:
        path: the file.
        past_cache: drop the kernel's cached pages first, so that the medium itself is read.
    """
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        if past_cache:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        while count := os.readv(descriptor, [buffer]):
            digest.update(buffer[:count])
    finally:
        os.close(descriptor)
    return f"sha256:{digest.hexdigest()}"
