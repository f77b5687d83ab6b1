"""Receiving one bundle into the store: hash while writing, and only what is whole and right gets its name.

A disconnect looks like a clean end of file, so size and digest come first and are both checked before the rename
(`facts`: a naive sink renamed 42 of 200 MB into place). The conversation:

1. board: what a push that was cut has left, as digests of prefixes (see `partial`); or that the bundle is there.
2. host: a line, ``{"what": "bytes", "from": n}`` or ``{"what": "delta"}``, then frames (see `pushed`).
3. board: what has become of it.

A delta is applied while it arrives (see `patch`), from bundles in the store or from the root that runs
(``"slot": {"source": "sha256:…", "partition": n}`` in the host's line), and its result is held to the same digest.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import partial
from .durable import BLOCK_BYTES, fsync_directory, sha256_of, write_all
from .fence import Fence
from .home import Home
from .partial import Mark
from .problem import Problem, storage
from .pushed import Pushed
from .uncached import Uncached

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from hashlib import _Hash

    from .frames import Message

RESERVE_BYTES = 2**20
WRITEBACK_BYTES = 8 * 2**20
_F_SETPIPE_SZ = 1031
_GOES_ON = {"truncated", "fenced"}
"""After these, what has arrived stays for the next push."""


def sink(
    home: Home,
    *,
    digest: str,
    size: int,
    token: int,
    holder: str,
    source: int,
    tell: Callable[[Message], None],
    slots: str | None = None,
) -> Message:
    """Receive a bundle from a file descriptor into the store.

    Args:
        home: where.
        digest: of the whole bundle.
        size: of the whole bundle.
        token, holder: of the lease.
        source: what the host sends is read from it.
        tell: says to the host what is there already.
        slots: JSON: the firmware slots that the lab declares; a delta may be made from the one that runs.

    Returns:
        What to tell the host: digest, size, and whether it was there already.

    Raises:
        Problem: ``fenced``, ``disk-full``, ``truncated``, ``digest-mismatch``, ``storage``, ``bad-request``, and for
            deltas ``corrupt-artifact``, ``not-in-store``; nothing has got the bundle's name.
    """
    fence = Fence(home)
    fence.enter(token, holder, sweep=False)
    path = home.bundle(digest)
    if path.is_file() and path.stat().st_size == size and sha256_of(path) == digest:
        return {"ok": True, "digest": digest, "size_bytes": size, "already": True}
    with contextlib.suppress(OSError):  # not a pipe, or the limit of this user is reached: only slower
        fcntl.fcntl(source, _F_SETPIPE_SZ, BLOCK_BYTES)
    with storage(str(path)):
        beside, descriptor = partial.open_partial(path)
        try:
            marks = partial.marks_of(descriptor, at_most=size)
            _check_space(home, size - (marks[-1].size if marks else 0), keep=beside)
            tell({"ok": True, "already": False, "marks": [[one.size, one.hashing.hexdigest()] for one in marks]})
            _receive(home, Pushed(source), descriptor, marks, size=size, digest=digest, slots=slots)
            os.fsync(descriptor)
            fence.check(token)
            beside.replace(path)
            fsync_directory(path.parent)
        except BaseException as exc:
            goes_on = isinstance(exc, Problem) and exc.code in _GOES_ON and beside == partial.partial_of(path)
            if not goes_on or os.fstat(descriptor).st_size == 0:
                beside.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
    return {"ok": True, "digest": digest, "size_bytes": size, "already": False}


def _check_space(home: Home, needed: int, *, keep: Path) -> None:
    if _free(home) < needed + RESERVE_BYTES:
        partial.sweep(home.store, now_s=time.time(), keep=keep, kept_bytes=0)
    free = _free(home)
    if free < needed + RESERVE_BYTES:
        raise Problem("disk-full", f"{needed} bytes are to be stored, but only {free} bytes are free on the board")


def _free(home: Home) -> int:
    room = os.statvfs(home.root)
    return room.f_bavail * room.f_frsize


def _receive(
    home: Home, pushed: Pushed, descriptor: int, marks: list[Mark], *, size: int, digest: str, slots: str | None
) -> None:
    asked = pushed.request()
    hashing, start, pieces = _asked(home, pushed, asked, marks, size=size, digest=digest, slots=slots)
    os.ftruncate(descriptor, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    left = size - start
    behind = start
    # What comes from a device of this board comes faster than the cache takes it.
    uncached = Uncached(descriptor) if "slot" in asked and not start else None
    for piece in pieces:
        if len(piece) > left:
            raise Problem("digest-mismatch", f"the push goes on after the announced {size} bytes")
        if uncached is None:
            write_all(descriptor, piece)
        else:
            uncached.write(piece)
        hashing.update(piece)
        left -= len(piece)
        if uncached is None and size - left - behind >= WRITEBACK_BYTES:
            # starts writing what is dirty without waiting for it, so that the fsync at the end has little left to do
            os.posix_fadvise(descriptor, behind, size - left - behind, os.POSIX_FADV_DONTNEED)
            behind = size - left
    if uncached is not None:
        uncached.finish()
    if left:
        raise Problem("truncated", f"the push ended {left} bytes before its {size} bytes were there")
    if f"sha256:{hashing.hexdigest()}" != digest:
        raise Problem("digest-mismatch", f"what arrived hashes to sha256:{hashing.hexdigest()}, expected {digest}")


def _asked(
    home: Home,
    pushed: Pushed,
    asked: Message,
    marks: list[Mark],
    *,
    size: int,
    digest: str,
    slots: str | None,
) -> tuple[_Hash, int, Iterator[bytes | memoryview]]:
    """The hash of what is kept, how much that is, and what comes behind it."""
    if asked.get("what") == "bytes":
        start = asked.get("from")
        for one in (*marks, Mark(size=0, hashing=hashlib.sha256())):
            if one.size == start:
                return one.hashing, one.size, _bytes(pushed)
        raise Problem("bad-request", f"the push goes on at {start!a:.40}, which was not offered")
    if asked.get("what") == "delta":
        from .patch import patched, read_head

        head = read_head(pushed.read)
        if (head.digest, head.size_bytes) != (digest, size):
            raise Problem("corrupt-artifact", f"the delta makes {head.digest}, expected {digest}")
        return hashlib.sha256(), 0, patched(home, head, pushed.read, _running_root(asked, slots))
    raise Problem("bad-request", f"what is pushed is {asked.get('what')!a:.40}, expected bytes or delta")


def _running_root(asked: Message, slots: str | None) -> dict[str, Path]:
    """The device that the host calls a source, by the name that it gives it."""
    slot = asked.get("slot")
    if slot is None:
        return {}
    if not isinstance(slot, dict) or not isinstance(slot.get("source"), str) or type(slot.get("partition")) is not int:
        raise Problem("bad-request", f"the push names {slot!a:.80} as the slot that it is made from")
    from .slots import chosen
    from .slots.source import device_of

    return {slot["source"]: device_of(chosen(slots), slot["partition"])}


def _bytes(pushed: Pushed) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(BLOCK_BYTES))
    while count := pushed.into(buffer):
        yield buffer[:count]
