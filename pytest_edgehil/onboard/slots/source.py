"""The slot that runs as a source: an update differs little from it, so most of it need not be sent.

The host is told a short digest of every block of its device and looks the new image's blocks up among them, wherever
they lie. Copies may go wrong without harm (a device may change meanwhile, short digests may agree by chance): what is
made of them must have the bundle's digest before it gets a name. Only a root that is mounted read-only is offered.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ..durable import BLOCK_BYTES
from ..frames import Message
from ..problem import Problem, storage
from ..uncached import UncachedReader
from . import Slots
from .images import ROOT, device_number, mounted_root

KNOWN_BYTES = 4096
"""A block: file systems of images put files at multiples of it."""
DIGEST_BYTES = 8
"""Of a block's SHA-256: enough to find it, and not enough to trust it."""
_ZEROS = bytes(KNOWN_BYTES)
_EMPTY = hashlib.sha256(_ZEROS).digest()[:DIGEST_BYTES]


def blocks(slots: Slots, *, size_bytes: int) -> tuple[Message, bytes]:
    """Digests of the running root's blocks.

    Args:
        slots: of this board.
        size_bytes: of its device, look at so many from the beginning, or at all of it if it is smaller.

    Returns:
        ``partition``, ``block_bytes``, ``digest_bytes``, and the digests one behind the other.

    Raises:
        Problem: ``wrong-target``: there is no such root, or it may change. ``storage``.
    """
    partition = slots.chooser.state().running
    device = device_of(slots, partition)
    found = bytearray()
    with Device(device) as source:
        size = min(size_bytes, source.size_bytes) // KNOWN_BYTES * KNOWN_BYTES
        for piece in source.pieces(0, size):
            with memoryview(piece) as view:
                for at in range(0, len(view), KNOWN_BYTES):
                    empty = piece.startswith(_ZEROS, at)  # a seventh of an image or more, and seen at once
                    found += _EMPTY if empty else hashlib.sha256(view[at : at + KNOWN_BYTES]).digest()[:DIGEST_BYTES]
    return {"partition": partition, "block_bytes": KNOWN_BYTES, "digest_bytes": DIGEST_BYTES}, bytes(found)


def device_of(slots: Slots, partition: int | None) -> Path:
    """The device of the root that runs.

    Raises:
        Problem: ``wrong-target``.
    """
    root = mounted_root()
    if partition is None or root is None or ROOT not in slots.devices:
        raise Problem("wrong-target", "the board's root is on no device of its slots")
    device = slots.device(ROOT, partition)
    number, read_only = root
    if device_number(device) != number:
        raise Problem("wrong-target", f"the board's root is device {number}, and partition {partition} is another one")
    if not read_only:
        raise Problem("wrong-target", "the board's root is mounted for writing, so nothing is copied from it")
    return device


class Device:
    """A device read at any place, past the kernel's cache where that is possible; a context manager.

    Args:
        path: of the device.

    Raises:
        Problem: ``storage``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage(str(path)):
            self._reader = UncachedReader(path)
            self.size_bytes = self._reader.seek(0, os.SEEK_END)

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """A range of it.

        Raises:
            Problem: ``corrupt-artifact``: it is not within the device. ``storage``.
        """
        if start < 0 or start + size > self.size_bytes:
            raise Problem("corrupt-artifact", f"bytes {start} to {start + size} are not within {self._path}")
        with storage(str(self._path)):
            while size:
                self._reader.seek(start)
                piece = self._reader.read(min(size, BLOCK_BYTES))
                if not piece:
                    raise Problem("corrupt-artifact", f"{self._path} ends before its end")
                yield piece
                start += len(piece)
                size -= len(piece)

    def close(self) -> None:
        """Close the device."""
        self._reader.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
