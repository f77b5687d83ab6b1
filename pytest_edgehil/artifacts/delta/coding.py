"""Writing bytes, and differences between nearly equal arrays, in few bytes that the standard library can read.

A board applies a delta with nothing but Python's standard library, so the codes are built of zlib and bz2:

======  ===================================================================================================
``raw``  the bytes themselves
``zlib`` RFC 1950
``bz2``  bzip2
======  ===================================================================================================

A *difference* of two arrays of w-byte little-endian integers is new − old modulo 2^(8w), element by element. It is
written in one of two shapes before it is compressed:

- ``planes``: all lowest bytes, then all second bytes, and so on. Of floats whose last bits moved, the high planes
  are nearly constant.
- ``trits`` (w = 1 only): −1, 0 and 1 as the digits 2, 0 and 1 of base 3, five to a byte, the first the lowest; where
  a difference is larger, its digit is 0 and the element stands in an exception list. Weights that were quantised
  again after fine-tuning differ by one step in a few percent of the elements; Huffman codes of five at once come
  within a few percent of their entropy, where bz2 of the plain bytes takes up to half more.

The shape of ``trits``, before compression: u32 number of exceptions, their positions as u32, their values as u8,
then ⌈n/5⌉ bytes of digits. All integers are little-endian.
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]

RAW, ZLIB, BZ2 = "raw", "zlib", "bz2"
PLANES, TRITS = "planes", "trits"
_WORTH = 0.97
"""Compression that saves less than this is not worth the board's time."""
_MOST_EXCEPTIONS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """Bytes as they are sent. Args: shape: ``planes``, ``trits``, or empty for plain bytes. code: how compressed."""

    shape: str
    code: str
    data: bytes


def literal(data: bytes) -> Coded:
    """Code plain bytes, compressed if that is worth it.

    >>> literal(b"abc").code, literal(bytes(5000)).code
    ('raw', 'zlib')
    """
    return _smallest("", data, codes=(ZLIB,))


def difference(old: ByteArray, new: ByteArray, *, width: int) -> Coded:
    """Code an array as its difference from another one.

    Args:
        old: shape (n,), uint8.
        new: shape (n,), uint8.
        width: bytes of one element: 1, 2, 4 or 8; n is a multiple of it.
    """
    kind = np.dtype(f"<u{width}")
    gap = np.frombuffer((new.view(kind) - old.view(kind)).astype(kind).tobytes(), dtype=np.uint8)
    best = _smallest(PLANES, np.ascontiguousarray(gap.reshape(-1, width).T).tobytes(), codes=(BZ2, ZLIB))
    if width == 1:
        packed = _trits(gap)
        if packed is not None:
            other = _smallest(TRITS, packed, codes=(BZ2, ZLIB))
            best = other if len(other.data) < len(best.data) else best
    return best


def _trits(gap: ByteArray) -> bytes | None:
    """The shape ``trits``; None where too many elements are exceptions."""
    digits = np.where(gap == 255, 2, gap).astype(np.uint8)
    exceptions = np.flatnonzero((gap > 1) & (gap < 255))
    if exceptions.shape[0] > _MOST_EXCEPTIONS * gap.shape[0]:
        return None
    digits[exceptions] = 0
    padded = np.concatenate([digits, np.zeros(-digits.shape[0] % 5, dtype=np.uint8)]).reshape(-1, 5)
    packed = (padded * np.array([1, 3, 9, 27, 81], dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    head: bytes = np.array([exceptions.shape[0], *exceptions], dtype="<u4").tobytes()
    return b"".join((head, gap[exceptions].tobytes(), packed.tobytes()))


def _smallest(shape: str, data: bytes, *, codes: tuple[str, ...]) -> Coded:
    best = Coded(shape=shape, code=RAW, data=data)
    for code in codes:
        for packed in _compressed(code, data):
            if len(packed) < _WORTH * len(data) and len(packed) < len(best.data):
                best = Coded(shape=shape, code=code, data=packed)
    return best


def _compressed(code: str, data: bytes) -> Iterator[bytes]:
    if code == BZ2:
        yield bz2.compress(data)
        return
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        yield packer.compress(data) + packer.flush()
