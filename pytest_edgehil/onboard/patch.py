"""Making a bundle out of others that the board has, by a delta.

The format is described in the host's ``artifacts/delta/document.py`` and ``coding.py``; only the standard library is
used, and memory is bounded by `MAX_OUTPUT_BYTES` an operation. Nothing in a delta is trusted: sources are named by
digest and must be in the store, positions and sizes are checked against them, and what comes out must have the
announced size and digest before it gets a name.
"""

from __future__ import annotations

import bz2
import itertools
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .home import Home, hexadecimal
from .problem import Problem, storage
from .unpack import unique_keys

MAGIC = b"EHDELTA1"
MAX_HEADER_BYTES = 2**16
MAX_OUTPUT_BYTES = 2**20
MAX_SOURCES = 256
_OPERATION = struct.Struct("<BBBBIQII")
_LITERAL, _COPY, _DIFFERENCE = 0, 1, 2
_RAW, _ZLIB, _BZ2 = 0, 1, 2
_PLAIN, _PLANES, _TRITS = 0, 1, 2
_GZIP_HEADER = b"\x1f\x8b\x08\x00" + b"\x00\x00\x00\x00" + b"\x00\xff"
_STORED_BYTES = 65535
_DIGITS = tuple(
    bytes(255 if one == 2 else one for one in reversed(digits)) for digits in itertools.product(range(3), repeat=5)
)
"""Five base-3 digits in a byte → five differences, the lowest digit first; 2 stands for −1."""

Read = Callable[[int], bytes]
"""Reads exactly so many bytes of the delta; fewer only at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a delta says of itself."""

    digest: str
    size_bytes: int
    stream_bytes: int
    sources: tuple[str, ...]


def bad(message: str) -> Problem:
    """The delta is not what it should be."""
    return Problem("corrupt-artifact", f"the delta {message}")


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
        )
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise bad(f"has a header that cannot be read: {exc}") from exc
    for digest in (head.digest, *head.sources):
        hexadecimal(digest)
    sizes = (head.size_bytes, head.stream_bytes)
    if any(type(one) is not int or not 0 < one < 2**40 for one in sizes) or len(head.sources) > MAX_SOURCES:
        raise bad("announces sizes or sources beyond any bundle")
    return head


def patched(home: Home, head: Head, read: Read) -> Iterator[bytes]:
    """The result, piece by piece, as `sink` stores it: the caller checks size and digest.

    Args:
        home: whose store has the sources.
        head: from `read_head`.
        read: the rest of the delta.

    Raises:
        Problem: ``corrupt-artifact``, ``not-in-store``.
    """
    sources: list[_Source] = []
    try:
        for digest in head.sources:
            sources.append(_Source(home, digest))  # noqa: PERF401 - those opened before one is missing must be closed
        yield from _gzipped(_operations(sources, head, read), size_bytes=head.stream_bytes)
    finally:
        for one in sources:
            one.close()


def _operations(sources: list[_Source], head: Head, read: Read) -> Iterator[bytes]:
    left = head.stream_bytes
    while left:
        what, code, shape, width, number, start, size, coded = _OPERATION.unpack(_exactly(read, _OPERATION.size))
        if not 0 < size <= left or (what != _COPY and size > MAX_OUTPUT_BYTES) or coded > 2 * MAX_OUTPUT_BYTES:
            raise bad(f"asks for {size} bytes where {left} are left")
        left -= size
        if what == _LITERAL:
            yield _decompressed(code, _exactly(read, coded), size)
            continue
        if what not in {_COPY, _DIFFERENCE} or number >= len(sources):
            raise bad(f"has an operation {what} on source {number} of {len(sources)}")
        if what == _COPY:
            yield from sources[number].pieces(start, size)
            continue
        old = b"".join(sources[number].pieces(start, size))
        gap = _gap(code, shape, width, _exactly(read, coded), size)
        yield _sum(old, gap, width=width)
    if read(1):
        raise bad("goes on after its last operation")


def _gap(code: int, shape: int, width: int, data: bytes, size: int) -> bytes:
    """The difference as little-endian elements."""
    if width not in {1, 2, 4, 8} or size % width:
        raise bad(f"has elements of {width} bytes in {size} bytes")
    if shape == _PLANES:
        planes = _decompressed(code, data, size)
        count = size // width
        gap = bytearray(size)
        for at in range(width):
            gap[at::width] = planes[at * count : (at + 1) * count]
        return bytes(gap)
    if shape == _TRITS and width == 1:
        return _from_trits(code, data, size)
    raise bad(f"has a difference of unknown shape {shape}")


def _from_trits(code: int, data: bytes, size: int) -> bytes:
    packed_size = -(-size // 5)
    packed = _decompressed(code, data, None, at_most=4 + 5 * size + packed_size)
    count = int.from_bytes(packed[:4], "little")
    if len(packed) != 4 + 5 * count + packed_size:
        raise bad(f"has {count} exceptions, which do not fit")
    places = struct.unpack_from(f"<{count}I", packed, 4)
    values = packed[4 + 4 * count : 4 + 5 * count]
    try:
        gap = bytearray(b"".join(map(_DIGITS.__getitem__, packed[4 + 5 * count :])))[:size]
        for place, value in zip(places, values, strict=True):
            gap[place] = value
    except IndexError as exc:
        raise bad("has digits or exceptions out of range") from exc
    return bytes(gap)


def _sum(old: bytes, gap: bytes, *, width: int) -> bytes:
    """Element by element modulo 2^(8·width): one addition of two long integers whose lanes cannot carry over."""
    count = len(old) // width
    low = int.from_bytes((b"\xff" * (width - 1) + b"\x7f") * count, "little")
    one, other = int.from_bytes(old, "little"), int.from_bytes(gap, "little")
    total = ((one & low) + (other & low)) ^ ((one ^ other) & ~low & ((1 << 8 * len(old)) - 1))
    return total.to_bytes(len(old), "little")


def _decompressed(code: int, data: bytes, size: int | None, *, at_most: int = 0) -> bytes:
    """Exactly `size` bytes, or up to `at_most` of them."""
    limit = at_most if size is None else size
    try:
        if code == _RAW:
            plain, whole = data, True
        elif code == _ZLIB:
            inflate = zlib.decompressobj()
            plain = inflate.decompress(data, limit + 1)
            whole = inflate.eof and not inflate.unused_data
        elif code == _BZ2:
            expand = bz2.BZ2Decompressor()
            plain = expand.decompress(data, limit + 1)
            whole = expand.eof and not expand.unused_data
        else:
            raise bad(f"is compressed in an unknown way ({code})")
    except (zlib.error, OSError, ValueError, EOFError) as exc:
        raise bad(f"cannot be decompressed: {exc}") from exc
    if not whole or len(plain) > limit or (size is not None and len(plain) != size):
        raise bad(f"holds {len(plain)} bytes or more where {limit} belong")
    return plain


def _gzipped(content: Iterator[bytes], *, size_bytes: int) -> Iterator[bytes]:
    """A gzip stream of stored blocks, byte by byte as the host packs bundles."""
    yield _GZIP_HEADER
    pending, crc, left = bytearray(), 0, size_bytes
    for piece in content:
        crc = zlib.crc32(piece, crc)
        pending += piece
        out, at = bytearray(), 0
        while len(pending) - at >= _STORED_BYTES and left > _STORED_BYTES:
            out += struct.pack("<BHH", 0, _STORED_BYTES, 0)
            out += memoryview(pending)[at : at + _STORED_BYTES]
            at += _STORED_BYTES
            left -= _STORED_BYTES
        if at:
            pending = pending[at:]
            yield bytes(out)
    yield struct.pack("<BHH", 1, len(pending), len(pending) ^ 0xFFFF) + pending
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
        if start + size > self._size:
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
