r"""The delta file: how one bundle is made of others and of what is sent.

::

    "EHDELTA2"
    u32   length of the header
    JSON  {"result": {"digest": "sha256:…", "size_bytes": n}, "stream_bytes": m, "sources": ["sha256:…", …]}
          and perhaps "crc32": of the tar stream, so that a slow board need not compute it
    then blocks until the end of the file, each
      u8    number of streams, then for each, by ascending number,
        u8    number of the stream, see `delta.coding.Stream`
        u8    how it is compressed: 0 raw, 1 zlib (RFC 1950), 2 bzip2
        u32   its bytes
        u32   bytes that follow
        …     the stream

All integers are little-endian. The stream with number 0 holds the operations of the block, one behind the other until
it ends; numbers in it are LEB128 (seven bits a byte, the lowest first)::

    u8      what: 0 and 1 literal, from stream 1 or 2; 2 copy; 3 to 8 difference: bytes, steps, trits,
            planes of 2, of 4 and of 8 bytes
    number  bytes of output
    number  number of the source                                  (copy, difference)
    number  where in the source, from the end of what was last taken from it (at first 0): 2d, or −2d − 1 for d < 0
    number  bytes of stream ``steps``                             (difference in steps)
    number  bytes of stream ``gaps``                              (difference in steps and trits)

and what an operation needs is the next of its streams: `delta.coding` says what the bytes mean. Positions count in the
*tar stream* of a bundle, that is, without the headers of the gzip's stored blocks, which an insertion would move
about. The output of all operations, one after the other, is the tar stream of the result; packed as
`artifacts.ustar.StoredGzip` does, it must have the result's digest. The streams of a block have at most
`MAX_BLOCK_BYTES` together, and no difference makes more than `MAX_OUTPUT_BYTES`: this bounds the memory of whoever
applies it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pytest_edgehil.artifacts.delta.coding import STREAMS, Gap, Shape, Stream, compressed

MAGIC = b"EHDELTA2"
MAX_OUTPUT_BYTES = 2**20
MAX_BLOCK_BYTES = 12 * 2**20
_BLOCK_BYTES = 4 * 2**20
"""A block ends with the operation that takes its streams beyond this."""
_SHORT_BYTES = 4096
"""Longer literals are weights rather than text."""
_STREAM = struct.Struct("<BBII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """Bytes that are sent."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """Of the output."""
        return len(self.data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Bytes that a source holds."""

    source: int
    start: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Bytes that a source nearly holds."""

    source: int
    start: int
    size_bytes: int
    gap: Gap


Operation = Literal | Copy | Difference
SENT_BY: Mapping[type[Operation], frozenset[int]] = {
    Copy: frozenset({Stream.OPERATIONS}),
    Literal: frozenset({Stream.TEXT, Stream.BULK}),
    Difference: frozenset(range(Stream.STEPS, STREAMS)),
}
"""Which streams carry what an operation needs; how they all are to be done is told in what `Copy` has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a delta makes, and of what."""

    digest: str
    size_bytes: int
    stream_bytes: int
    sources: tuple[str, ...]
    crc32: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some operations as they are sent.

    Args:
        data: with what says how long it is.
        sent_bytes: number of a stream → what it takes of that.
    """

    data: bytes
    sent_bytes: Mapping[int, int]


def header(head: Head) -> bytes:
    """What a delta begins with."""
    text = json.dumps(
        {
            "result": {"digest": head.digest, "size_bytes": head.size_bytes},
            "sources": list(head.sources),
            "stream_bytes": head.stream_bytes,
            **({} if head.crc32 is None else {"crc32": head.crc32}),
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    return MAGIC + struct.pack("<I", len(text)) + text


def blocks(operations: Iterable[Operation]) -> Iterator[Block]:
    """What follows."""
    streams: dict[int, bytearray] = {}
    behind: dict[int, int] = {}
    for one in operations:
        for number, data in _told(one, behind):
            streams.setdefault(number, bytearray()).extend(data)
        if sum(map(len, streams.values())) >= _BLOCK_BYTES:
            yield _block(streams)
            streams = {}
    if streams:
        yield _block(streams)


def block(streams: Iterable[tuple[int, int, int, bytes]]) -> bytes:
    """A block of streams that are compressed already: (number, code, bytes of the stream, as it is sent)."""
    parts = [_STREAM.pack(number, code, size, len(data)) + data for number, code, size, data in streams]
    return bytes([len(parts)]) + b"".join(parts)


def write(head: Head, operations: Iterable[Operation]) -> Iterator[bytes]:
    """The bytes of a delta, piece by piece."""
    yield header(head)
    for one in blocks(operations):
        yield one.data


def _block(streams: Mapping[int, bytearray]) -> Block:
    parts = []
    for number, plain in sorted(streams.items()):
        if plain:
            code, data = compressed(number, bytes(plain))
            parts.append((number, code.value, len(plain), data))
    return Block(data=block(parts), sent_bytes={number: _STREAM.size + len(data) for number, _, _, data in parts})


def _told(one: Operation, behind: dict[int, int]) -> Iterator[tuple[int, bytes]]:
    """(number of a stream, bytes for it)."""
    if isinstance(one, Literal):
        short = len(one.data) <= _SHORT_BYTES
        yield Stream.OPERATIONS, bytes([0 if short else 1]) + _number(len(one.data))
        yield (Stream.TEXT if short else Stream.BULK), one.data
        return
    from_last = one.start - behind.get(one.source, 0)
    behind[one.source] = one.start + one.size_bytes
    place = (
        _number(one.size_bytes) + _number(one.source) + _number(2 * from_last if from_last >= 0 else -2 * from_last - 1)
    )
    if isinstance(one, Copy):
        yield Stream.OPERATIONS, b"\x02" + place
        return
    gap = one.gap
    what = 3 + gap.shape if gap.shape is not Shape.PLANES else {2: 6, 4: 7, 8: 8}[gap.width]
    lengths = b""
    if gap.shape is Shape.STEPS:
        lengths += _number(gap.size_of(Stream.STEPS))
    if gap.shape in {Shape.STEPS, Shape.TRITS}:
        lengths += _number(gap.size_of(Stream.GAPS))
    yield Stream.OPERATIONS, bytes([what]) + place + lengths
    yield from gap.parts


def _number(value: int) -> bytes:
    """As LEB128.

    >>> _number(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
