"""A bundle's content from any place on, without going through what lies before it.

The host packs bundles as gzip streams of stored blocks (RFC 1951 §3.2.4) of 65 535 bytes each, so where a byte of the
content lies is known, and nothing has to be inflated. An image of some hundred megabytes is read four times faster so,
or passed over in no time. Whoever reads here checks the digest of what was read: the stream's own sum is not looked at.
"""

from __future__ import annotations

import struct

from .problem import Problem

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from typing import Protocol

    class Source(Protocol):
        """A file that is read in pieces."""

        def read(self, size: int, /) -> bytes:
            """What comes next; fewer bytes only at the end."""

        def seek(self, offset: int, whence: int = 0, /) -> int:
            """Go on from another place."""


HEADER = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x00\xff"
BLOCK_BYTES = 65535
_HEAD = struct.Struct("<BHH")
_TRAILER_BYTES = 8


class Stored:
    """The content of a bundle behind a position.

    Args:
        source: the bundle; nobody else reads it from now on.
        position: in the content.
    """

    def __init__(self, source: Source, position: int) -> None:
        self._source = source
        number, skip = divmod(position, BLOCK_BYTES)
        source.seek(len(HEADER) + number * (_HEAD.size + BLOCK_BYTES))
        self._final = False
        self._left = self._begin()
        if skip > self._left:
            raise _broken()
        source.seek(skip, 1)
        self._left -= skip

    def read(self, size: int) -> bytes:
        """What comes next, at most `size` bytes; ``b""`` at the end of the content.

        Raises:
            Problem: ``corrupt-artifact``.
        """
        while not self._left:
            if self._final:
                if len(self._source.read(_TRAILER_BYTES + 1)) != _TRAILER_BYTES:
                    raise Problem("corrupt-artifact", "the bundle has data after its gzip stream, or ends within it")
                self._source.seek(-_TRAILER_BYTES, 1)
                return b""
            self._left = self._begin()
        part = self._source.read(min(size, self._left))
        if not part:
            raise _broken()
        self._left -= len(part)
        return part

    def _begin(self) -> int:
        """The size of the block that begins here."""
        head = self._source.read(_HEAD.size)
        if len(head) != _HEAD.size:
            raise _broken()
        kind, size, complement = _HEAD.unpack(head)
        if kind not in {0, 1} or size ^ complement != 0xFFFF or (kind == 0 and size != BLOCK_BYTES):
            raise _broken()
        self._final = kind == 1
        return int(size)


def is_stored(source: Source) -> bool:
    """Does a bundle look as the host packs them? Leaves it at its beginning."""
    source.seek(0)
    begin = source.read(len(HEADER) + _HEAD.size)
    source.seek(0)
    return begin == HEADER + _HEAD.pack(0, BLOCK_BYTES, 0)


def _broken() -> Problem:
    return Problem("corrupt-artifact", "the bundle ends in the middle, or its blocks are not those that the host packs")
