"""Content-defined chunks: cut a stream where its own bytes say so, so that an insertion moves no later cut.

A cut lies behind byte *i* where the gear hash of the 32 bytes up to *i* has its `MASK_BITS` high bits zero (Xia et
al., FastCDC, USENIX ATC 2016, without its normalised chunking), at least `MIN_BYTES` after the last one and at most
`MAX_BYTES`. The hash h(i) = Σ gear[byte(i−k)]·2^k mod 2³², k = 0 … 31, needs no loop over bytes: sums over windows of
2, 4, 8, 16 and 32 bytes follow from one another by a shift and an addition of whole arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]

MIN_BYTES = 4 * 1024
MASK_BITS = 14
MAX_BYTES = 64 * 1024
_WINDOW = 32
_BLOCK_BYTES = 4 * 2**20
_GEAR = np.frombuffer(
    b"".join(hashlib.sha256(b"edgehil gear %d" % byte).digest()[:4] for byte in range(256)), dtype="<u4"
).astype(np.uint32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a stream: where it lies, and the first 16 bytes of its SHA-256."""

    start: int
    size_bytes: int
    digest: bytes


def chunks(stream: ByteArray) -> Iterator[Chunk]:
    """The chunks of a stream, in order, without gaps.

    Args:
        stream: shape (n,), uint8.

    >>> [one.size_bytes for one in chunks(np.zeros(70_000, dtype=np.uint8))]
    [65536, 4464]
    """
    start = 0
    for end in _ends(stream):
        piece = stream[start:end]
        yield Chunk(start=start, size_bytes=end - start, digest=hashlib.sha256(piece.data).digest()[:16])
        start = end


def _ends(stream: ByteArray) -> Iterator[int]:
    start, size = 0, stream.shape[0]
    for candidate in _candidates(stream):
        while candidate - start > MAX_BYTES:
            start += MAX_BYTES
            yield start
        if candidate - start >= MIN_BYTES:
            start = candidate
            yield start
    while size - start > MAX_BYTES:
        start += MAX_BYTES
        yield start
    if size > start:
        yield size


def _candidates(stream: ByteArray) -> Iterator[int]:
    """Positions behind which a cut may lie, ascending."""
    for begin in range(0, stream.shape[0], _BLOCK_BYTES):
        first = max(0, begin - (_WINDOW - 1))
        hashes = _GEAR[stream[first : begin + _BLOCK_BYTES]]
        width = 1
        while width < _WINDOW:
            longer = hashes.copy()
            longer[width:] += hashes[:-width] << np.uint32(width)
            hashes, width = longer, 2 * width
        found = np.flatnonzero(hashes[begin - first :] >> np.uint32(32 - MASK_BITS) == 0)
        yield from (found + (begin + 1)).tolist()
