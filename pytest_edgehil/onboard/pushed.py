"""What a host pushes: one line that says what comes, then frames, the last of which says that it was the last.

A disconnect looks like a clean end of file, so an end of file before the last frame is an error. A frame is

    u8 code (0 raw, 1 zlib, 2 the last one) | u32 big-endian: bytes that follow | u32 big-endian: bytes they stand for

The host decides frame by frame whether compressing pays; nothing that a frame announces is trusted beyond
`MAX_FRAME_BYTES`, which bounds the memory here.
"""

from __future__ import annotations

import json
import os
import struct
import zlib

from .durable import BLOCK_BYTES
from .problem import Problem

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from .frames import Message

MAX_FRAME_BYTES = 4 * 2**20
MAX_LINE_BYTES = 4096
RAW, ZLIB, LAST = 0, 1, 2
_HEAD = struct.Struct(">BII")


class Pushed:
    """The host's half of a push, read from a file descriptor."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._left = 0  # of a raw frame
        self._inflated = memoryview(b"")
        self._ended = False

    def request(self) -> Message:
        """The first line.

        Raises:
            Problem: ``truncated``, ``bad-request``.
        """
        line = bytearray()
        while not line.endswith(b"\n"):
            one = os.read(self._source, 1)
            if not one:
                raise Problem("truncated", "the push ended before it had begun")
            line += one
            if len(line) > MAX_LINE_BYTES:
                raise Problem("bad-request", f"the push begins with more than {MAX_LINE_BYTES} bytes without a line")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as exc:
            raise Problem("bad-request", f"the push does not begin with JSON: {exc}") from exc
        if not isinstance(value, dict):
            raise Problem("bad-request", "the push does not begin with an object")
        return value

    def into(self, buffer: memoryview) -> int:
        """Fill the beginning of a buffer with what comes next.

        Returns:
            Number of bytes; 0 when the host has said that this was all.

        Raises:
            Problem: ``truncated``: the host went away first. ``bad-request``: no such frame.
        """
        if not buffer:
            raise ValueError("the buffer is empty")
        while not self._left and not self._inflated:
            if self._ended:
                return 0
            self._next()
        if self._inflated:
            count = min(len(buffer), len(self._inflated))
            buffer[:count] = self._inflated[:count]
            self._inflated = self._inflated[count:]
            return count
        count = os.readv(self._source, [buffer[: self._left]])
        if count == 0:
            raise _cut()
        self._left -= count
        return count

    def read(self, size: int) -> bytes:
        """Exactly so many bytes; fewer only at the end."""
        data = bytearray()
        buffer = memoryview(bytearray(min(size, BLOCK_BYTES) or 1))
        while len(data) < size:
            count = self.into(buffer[: size - len(data)])
            if count == 0:
                break
            data += buffer[:count]
        return bytes(data)

    def _next(self) -> None:
        code, wire, plain = _HEAD.unpack(self._exactly(_HEAD.size))
        if code == LAST and wire == plain == 0:
            self._ended = True
        elif code == RAW and 0 < wire == plain <= MAX_FRAME_BYTES:
            self._left = wire
        elif code == ZLIB and 0 < wire <= MAX_FRAME_BYTES and 0 < plain <= MAX_FRAME_BYTES:
            self._inflated = memoryview(_inflate(self._exactly(wire), plain))
        else:
            raise Problem("bad-request", f"the push has a frame of code {code} with {wire} bytes for {plain}")

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = os.read(self._source, size - len(data))
            if not piece:
                raise _cut()
            data += piece
        return bytes(data)


def _inflate(data: bytes, size: int) -> bytes:
    inflating = zlib.decompressobj()
    try:
        plain = inflating.decompress(data, size + 1)
    except zlib.error as exc:
        raise Problem("bad-request", f"the push has a frame that cannot be inflated: {exc}") from exc
    if len(plain) != size or not inflating.eof or inflating.unused_data:
        raise Problem("bad-request", f"the push has a frame that does not inflate to the {size} bytes it announces")
    return plain


def _cut() -> Problem:
    return Problem("truncated", "the push was cut before its end")
