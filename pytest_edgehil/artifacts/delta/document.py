r"""The delta file: how one bundle is made of others and of what is sent.

::

    "EHDELTA1"
    u32   length of the header
    JSON  {"result": {"digest": "sha256:…", "size_bytes": n}, "stream_bytes": m, "sources": ["sha256:…", …]}
    then operations until the end of the file, each
      u8   what: 0 literal, 1 copy, 2 difference
      u8   code: 0 raw, 1 zlib, 2 bz2
      u8   shape: 0 plain, 1 planes, 2 trits
      u8   width of an element in bytes
      u32  number of the source (copy, difference)
      u64  where in the source (copy, difference)
      u32  bytes of output
      u32  bytes of code that follow (literal, difference)

All integers are little-endian. Positions count in the *tar stream* of a bundle, that is, without the headers of the
gzip's stored blocks, which an insertion would move about. The output of all operations, one after the other, is the
tar stream of the result; packed as `artifacts.ustar.StoredGzip` does, it must have the result's digest. No operation
but a copy makes more than `MAX_OUTPUT_BYTES`, which bounds the memory of whoever applies it. See `delta.coding` for
codes and shapes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pytest_edgehil.artifacts.delta.coding import BZ2, PLANES, RAW, TRITS, ZLIB, Coded

MAGIC = b"EHDELTA1"
MAX_OUTPUT_BYTES = 2**20
SUFFIX = ".ehdelta"
_OPERATION = struct.Struct("<BBBBIQII")
_CODES = (RAW, ZLIB, BZ2)
_SHAPES = ("", PLANES, TRITS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Literal:
    """Bytes that are sent."""

    size_bytes: int
    coded: Coded


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
    width: int
    coded: Coded


Operation = Literal | Copy | Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a delta makes, and of what."""

    digest: str
    size_bytes: int
    stream_bytes: int
    sources: tuple[str, ...]


def write(head: Head, operations: Iterable[Operation]) -> Iterator[bytes]:
    """The bytes of a delta, piece by piece."""
    text = json.dumps(
        {
            "result": {"digest": head.digest, "size_bytes": head.size_bytes},
            "sources": list(head.sources),
            "stream_bytes": head.stream_bytes,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    yield MAGIC + struct.pack("<I", len(text)) + text
    for one in operations:
        match one:
            case Copy():
                yield _OPERATION.pack(1, 0, 0, 0, one.source, one.start, one.size_bytes, 0)
            case Literal(coded=coded):
                code = _CODES.index(coded.code)
                yield _OPERATION.pack(0, code, 0, 1, 0, 0, one.size_bytes, len(coded.data)) + coded.data
            case Difference(coded=coded):
                code, shape = _CODES.index(coded.code), _SHAPES.index(coded.shape)
                yield (
                    _OPERATION.pack(2, code, shape, one.width, one.source, one.start, one.size_bytes, len(coded.data))
                    + coded.data
                )
