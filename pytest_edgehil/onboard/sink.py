"""Receiving one bundle into the store: hash while writing, and only what is whole and right gets its name.

A disconnect looks like a clean end of file, so size and digest come first and are both checked before the rename
(`facts`: a naive sink renamed 42 of 200 MB into place).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os

from .durable import BLOCK_BYTES, fsync_directory, sha256_of, write_all
from .fence import Fence
from .frames import Message
from .home import Home, hexadecimal
from .problem import Problem, storage

RESERVE_BYTES = 2**20
_F_SETPIPE_SZ = 1031


def sink(home: Home, *, digest: str, size: int, token: int, holder: str, source: int) -> Message:
    """Receive `size` bytes from a file descriptor into the store.

    Returns:
        What to tell the host: digest, size, and whether it was there already.

    Raises:
        Problem: ``fenced``, ``disk-full``, ``truncated``, ``digest-mismatch``, ``storage``; nothing is left behind.
    """
    fence = Fence(home)
    fence.enter(token, holder)
    path = home.bundle(digest)
    if path.is_file() and path.stat().st_size == size and sha256_of(path) == digest:
        return {"ok": True, "digest": digest, "size_bytes": size, "already": True}
    _check_space(home, size)
    with contextlib.suppress(OSError):  # not a pipe, or the limit of this user is reached: only slower
        fcntl.fcntl(source, _F_SETPIPE_SZ, BLOCK_BYTES)
    beside = path.with_name(f".{hexadecimal(digest)}.{os.getpid()}.tmp")
    with storage(str(path)):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that it is in use: see Home.prepare
            _receive(source, descriptor, size=size, digest=digest)
            os.fsync(descriptor)
            fence.check(token)
            beside.replace(path)
            fsync_directory(path.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    return {"ok": True, "digest": digest, "size_bytes": size, "already": False}


def _check_space(home: Home, size: int) -> None:
    room = os.statvfs(home.root)
    free = room.f_bavail * room.f_frsize
    if free < size + RESERVE_BYTES:
        raise Problem("disk-full", f"{size} bytes are to be stored, but only {free} bytes are free on the board")


def _receive(source: int, descriptor: int, *, size: int, digest: str) -> None:
    hashing = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK_BYTES))
    left = size
    while left:
        count = os.readv(source, [buffer[: min(left, BLOCK_BYTES)]])
        if count == 0:
            raise Problem("truncated", f"the push ended {left} bytes before its {size} bytes were there")
        hashing.update(buffer[:count])
        write_all(descriptor, buffer[:count])
        left -= count
    if os.readv(source, [buffer[:1]]):
        raise Problem("truncated", f"the push goes on after the announced {size} bytes")
    if f"sha256:{hashing.hexdigest()}" != digest:
        raise Problem("digest-mismatch", f"what arrived hashes to sha256:{hashing.hexdigest()}, expected {digest}")
