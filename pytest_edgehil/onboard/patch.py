"""Making a bundle out of others that the board has, by a delta.

The format is described in the host's ``artifacts/delta/document.py`` and ``coding.py``; only the standard library is
used, and memory is bounded by `MAX_BLOCK_BYTES` a block and `MAX_OUTPUT_BYTES` an operation. Nothing in a delta is
trusted: sources are named by digest and must be in the store, positions and sizes are checked against them, and what
comes out must have the announced size and digest before it gets a name.
"""

from __future__ import annotations

import bz2
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import gaps
from .gaps import bad
from .home import Home, hexadecimal
from .manifest import unique_keys
from .problem import Problem, storage

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from .slots.source import Device

MAGIC = b"EHDELTA2"
MAX_HEADER_BYTES = 2**16
MAX_OUTPUT_BYTES = 2**20
MAX_SOURCES = 256
MAX_BLOCK_BYTES = 12 * 2**20
STREAMS = 22
_STREAM = struct.Struct("<BBII")
_OPERATIONS_STREAM, _STEPS_STREAM, _GAPS_STREAM, _VALUES_STREAM, _BYTES_STREAM = 0, 3, 5, 6, 7
_TEXT, _BULK, _COPY, _PLANES_8 = 0, 1, 2, 8
_RAW, _ZLIB, _BZ2 = 0, 1, 2
_GZIP_HEADER = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x00\xff"
_STORED_BYTES = 65535

Read = Callable[[int], bytes]
"""Reads exactly so many bytes of the delta; fewer only at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a delta says of itself."""

    digest: str
    size_bytes: int
    stream_bytes: int
    sources: tuple[str, ...]
    crc32: int | None = None


def read_head(read: Read) -> Head:
    """The header of a delta.

    Raises:
        Problem: ``corrupt-artifact``, ``bad-request`` (a digest that is none).
    """
    lead = _exactly(read, len(MAGIC) + 4)
    (size,) = struct.unpack("<I", lead[len(MAGIC) :])
    if lead[: len(MAGIC)] != MAGIC or size > MAX_HEADER_BYTES:
        raise bad("has no header of a version that this board understands")
    try:
        value = json.loads(_exactly(read, size), object_pairs_hook=unique_keys)
        result, sources = value["result"], value["sources"]
        head = Head(
            digest=result["digest"],
            size_bytes=result["size_bytes"],
            stream_bytes=value["stream_bytes"],
            sources=tuple(sources),
            crc32=value.get("crc32"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise bad(f"has a header that cannot be read: {exc}") from exc
    for digest in (head.digest, *head.sources):
        hexadecimal(digest)
    sizes = (head.size_bytes, head.stream_bytes)
    if head.crc32 is not None and (type(head.crc32) is not int or not 0 <= head.crc32 < 2**32):
        raise bad("announces a sum of its stream that is none")
    if any(type(one) is not int or not 0 < one < 2**40 for one in sizes) or len(head.sources) > MAX_SOURCES:
        raise bad("announces sizes or sources beyond any bundle")
    return head


def patched(
    home: Home, head: Head, read: Read, devices: Mapping[str, Path] | None = None
) -> Iterator[bytes | memoryview]:
    """The result, piece by piece, as `sink` stores it: the caller checks size and digest.

    Args:
        home: whose store has the sources.
        head: from `read_head`.
        read: the rest of the delta.
        devices: sources that are no bundles, by the digests that the delta calls them.

    Raises:
        Problem: ``corrupt-artifact``, ``not-in-store``.
    """
    sources: list[_Source | Device] = []
    try:
        for digest in head.sources:  # those opened before one is missing must be closed
            device = (devices or {}).get(digest)
            sources.append(_Source(home, digest) if device is None else _device(device))
        yield from _gzipped(_operations(sources, head, read), size_bytes=head.stream_bytes, crc32=head.crc32)
    finally:
        for one in sources:
            one.close()


def _device(path: Path) -> Device:
    from .slots.source import Device

    return Device(path)


def _operations(sources: list[_Source | Device], head: Head, read: Read) -> Iterator[bytes]:
    left = head.stream_bytes
    behind = [0] * len(sources)
    while left:
        block = _Block(read)
        while block.goes_on():
            what, size = block.next_byte(), block.next_number()
            if not 0 < size <= left or (what != _COPY and size > MAX_OUTPUT_BYTES):
                raise bad(f"asks for {size} bytes where {left} are left")
            left -= size
            if what in {_TEXT, _BULK}:
                yield block.take(1 + what, size)
                continue
            number, from_last = block.next_number(), block.next_number()
            if not _COPY <= what <= _PLANES_8 or number >= len(sources):
                raise bad(f"has an operation {what} on source {number} of {len(sources)}")
            start = behind[number] + (-(from_last + 1) // 2 if from_last & 1 else from_last // 2)
            behind[number] = start + size
            pieces = sources[number].pieces(start, size)
            if what == _COPY:
                yield from pieces
            else:
                yield _changed(what - _COPY - 1, b"".join(pieces), block)
        block.end()
    if read(1):
        raise bad("goes on after its last operation")


def _changed(shape: int, old: bytes, block: _Block) -> bytes:
    """What a difference makes of old bytes."""
    size = len(old)
    if shape == gaps.BYTES:
        return gaps.added(old, block.take(_BYTES_STREAM, size), width=1)
    if shape in {gaps.STEPS, gaps.TRITS}:
        count = block.next_number() if shape == gaps.STEPS else -(-size // 5)
        between = block.next_number()
        first, places = block.take(_STEPS_STREAM + shape - gaps.STEPS, count), block.take(_GAPS_STREAM, between)
        values = block.take(_VALUES_STREAM, gaps.count_of(places))
        unpacked = gaps.from_steps if shape == gaps.STEPS else gaps.from_trits
        return gaps.added(old, unpacked(first, places, values, size), width=1)
    stream, width = {3: (8, 2), 4: (10, 4), 5: (14, 8)}[shape]
    if size % width:
        raise bad(f"has elements of {width} bytes in {size} bytes")
    return gaps.added_planes(old, [block.take(stream + at, size // width) for at in range(width)])


class _Block:
    """The streams of one block, and how far each has been used."""

    def __init__(self, read: Read) -> None:
        self._streams: dict[int, tuple[bytes, int]] = {}
        room, last = MAX_BLOCK_BYTES, -1
        for _ in range(_exactly(read, 1)[0]):
            number, code, size, sent = _STREAM.unpack(_exactly(read, _STREAM.size))
            if not last < number < STREAMS or not 0 < size <= room or not 0 < sent <= size:
                raise bad(f"has a stream {number} of {size} bytes, sent as {sent}, behind stream {last}")
            self._streams[number] = _decompressed(code, _exactly(read, sent), size), 0
            room, last = room - size, number
        if not self.goes_on():
            raise bad("has a block that does nothing")

    def goes_on(self) -> bool:
        """Is there another operation?"""
        return _OPERATIONS_STREAM in self._streams

    def take(self, number: int, size: int) -> bytes:
        """What comes next in a stream."""
        if not size:
            return b""
        data, at = self._streams.pop(number, (b"", 0))
        if at + size > len(data):
            raise bad(f"takes {size} bytes of stream {number}, which has {len(data) - at} left")
        if at + size < len(data):
            self._streams[number] = data, at + size
        return data[at : at + size]

    def next_byte(self) -> int:
        return self.take(_OPERATIONS_STREAM, 1)[0]

    def next_number(self) -> int:
        """Up to nine bytes of LEB128, so below 2^63."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.next_byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise bad("has a number that does not end")

    def end(self) -> None:
        """All of it must have been used."""
        if self._streams:
            raise bad(f"has bytes of stream {min(self._streams)} that nothing takes")


def _decompressed(code: int, data: bytes, size: int) -> bytes:
    """Exactly `size` bytes."""
    try:
        if code == _RAW:
            plain, whole = data, True
        elif code == _ZLIB:
            inflate = zlib.decompressobj()
            plain = inflate.decompress(data, size + 1)
            whole = inflate.eof and not inflate.unused_data
        elif code == _BZ2:
            expand = bz2.BZ2Decompressor()
            plain = expand.decompress(data, size + 1)
            whole = expand.eof and not expand.unused_data
        else:
            raise bad(f"is compressed in an unknown way ({code})")
    except (zlib.error, OSError, ValueError, EOFError) as exc:
        raise bad(f"cannot be decompressed: {exc}") from exc
    if not whole or len(plain) != size:
        raise bad(f"holds {len(plain)} bytes or more where {size} belong")
    return plain


def _gzipped(content: Iterator[bytes], *, size_bytes: int, crc32: int | None) -> Iterator[bytes | memoryview]:
    """A gzip stream of stored blocks, byte by byte as the host packs bundles."""
    yield _GZIP_HEADER
    crc, left, room = 0, size_bytes, 0  # of the content, and of the block that has begun
    for piece in content:
        crc = zlib.crc32(piece, crc) if crc32 is None else crc32
        view = memoryview(piece)
        while view:
            if not room:
                room = min(_STORED_BYTES, left)
                yield struct.pack("<BHH", int(room == left), room, room ^ 0xFFFF)
            part = view[:room]
            yield part
            view, room, left = view[len(part) :], room - len(part), left - len(part)
    yield struct.pack("<II", crc, size_bytes & 0xFFFFFFFF)


class _Source:
    """The tar stream of a bundle in the store, read at any place."""

    def __init__(self, home: Home, digest: str) -> None:
        path = home.bundle(digest)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as exc:
            raise Problem("not-in-store", f"the delta is made from {digest}, which the board does not have") from exc
        self._digest = digest
        # a bundle of ours: blocks of 65535 bytes with 5 bytes before each
        body = os.fstat(self._descriptor).st_size - len(_GZIP_HEADER) - 8
        self._size = body - 5 * -(-body // (_STORED_BYTES + 5))

    def close(self) -> None:
        os.close(self._descriptor)

    def pieces(self, start: int, size: int) -> Iterator[bytes]:
        """A range of the stream.

        Raises:
            Problem: ``corrupt-artifact``: it is not within the source.
        """
        if start < 0 or start + size > self._size:
            raise bad(f"takes bytes {start} to {start + size} of {self._digest[:19]}…, which has {self._size}")
        with storage(self._digest):
            while size:
                number, at = divmod(start, _STORED_BYTES)
                place = len(_GZIP_HEADER) + number * (_STORED_BYTES + 5) + 5 + at
                piece = os.pread(self._descriptor, min(size, _STORED_BYTES - at), place)
                if not piece:
                    raise bad(f"takes bytes beyond the end of {self._digest[:19]}…")
                yield piece
                start += len(piece)
                size -= len(piece)


def _exactly(read: Read, size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise Problem("truncated", f"the delta ends {size - len(data)} bytes too early")
    return data
