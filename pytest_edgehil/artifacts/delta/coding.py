"""Differences between nearly equal arrays, as bytes that a compressor makes few of.

A *difference* of two arrays of w-byte little-endian integers is new − old modulo 2^(8w), element by element. How it
is written depends on how many elements differ:

``planes`` (w > 1)
    To every byte but the highest 0x80 is added first, with carry, so that small differences of either sign have the
    same high bytes, 0. Then all lowest bytes, all second bytes and so on: of floats whose last bits moved, and of the
    scales of quantised tensors, the high planes are nearly constant.
``bytes`` (w = 1)
    As they are.
``steps`` (w = 1)
    Where few elements differ. A byte 2g + s, g < 126: the next g elements are equal, then one differs by +1 (s = 0)
    or −1 (s = 1). 252: the next 126 elements are equal. The gaps between random places have the geometric
    distribution, whose Huffman code is nearly as short as any code (Gallager and van Voorhis, 1975).
``trits`` (w = 1)
    Where many do: −1, 0 and 1 as the digits 2, 0 and 1 of base 3, five to a byte, the first the lowest.

In ``steps`` and ``trits`` larger differences count as 0 and follow by themselves: a byte g < 255: the next g elements
are no exception, then one is; 255: the next 255 are none. Their values are bytes of their own.

Weights that were quantised again after fine-tuning differ by one step in 3 % (noise of 0.1 % of their spread) or 35 %
(1 %) of the elements. Huffman codes of ``steps`` and of ``trits`` come within 2 % of the entropy there, which
compressors of the plain bytes miss by 15 % and more.
"""

from __future__ import annotations

import bz2
import enum
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]
    Places = npt.NDArray[np.int64]


class Stream(enum.IntEnum):
    """Bytes of one kind lie together, whatever they belong to, so that they are compressed together."""

    OPERATIONS = 0
    TEXT = 1  # short literals: names, nodes, headers
    BULK = 2  # long ones: weights that are new
    STEPS = 3
    TRITS = 4
    GAPS = 5
    VALUES = 6
    BYTES = 7
    PLANES_2 = 8  # and 9
    PLANES_4 = 10  # to 13
    PLANES_8 = 14  # to 21


PLANES = {2: Stream.PLANES_2, 4: Stream.PLANES_4, 8: Stream.PLANES_8}
"""Width → number of the stream of its lowest plane; the others follow."""
STREAMS = 22


class Shape(enum.IntEnum):
    """How a difference is written."""

    BYTES = 0
    STEPS = 1
    TRITS = 2
    PLANES = 3


class Code(enum.IntEnum):
    """How a stream is compressed: by what a board's standard library reads."""

    RAW = 0
    ZLIB = 1
    BZ2 = 2


_WORTH = 0.97
"""Compression that saves less than this is not worth the board's time."""
_RANDOM_BITS = 7.95
"""Bytes of a higher entropy do not shrink; finding that out by trying takes longest of all."""
_SKIP, _EXCEPTION_SKIP = 126, 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A difference as it is written.

    Args:
        shape: how.
        width: bytes of one element.
        parts: (number of a stream, bytes for it), ascending.
    """

    shape: Shape
    width: int
    parts: tuple[tuple[int, bytes], ...]

    def size_of(self, stream: int) -> int:
        """Bytes for one stream."""
        return sum(len(data) for number, data in self.parts if number == stream)

    def cost_bytes(self) -> float:
        """About so many bytes will be sent: the entropy of its parts."""
        return sum(len(data) * _entropy_bits(data) / 8 for _, data in self.parts)


def gap_shapes(width: int) -> tuple[Shape, ...]:
    """What may be chosen from."""
    return (Shape.PLANES,) if width > 1 else (Shape.STEPS, Shape.TRITS, Shape.BYTES)


def difference(old: ByteArray, new: ByteArray, *, width: int, shape: Shape) -> Gap:
    """Write an array as its difference from another one.

    Args:
        old: shape (n,), uint8.
        new: shape (n,), uint8.
        width: bytes of one element: 1, 2, 4 or 8; n is a multiple of it.
        shape: one of `gap_shapes`.
    """
    kind = np.dtype(f"<u{width}")
    gap = (new.view(kind) - old.view(kind)).astype(kind)
    if shape is Shape.PLANES:
        low = sum(0x80 << 8 * at for at in range(width - 1))
        planes = (gap + kind.type(low)).astype(kind).view(np.uint8).reshape(-1, width).T
        parts = [(PLANES[width] + number, plane.tobytes()) for number, plane in enumerate(planes)]
        return Gap(shape=shape, width=width, parts=tuple(parts))
    if shape is Shape.BYTES:
        return Gap(shape=shape, width=1, parts=((Stream.BYTES, gap.tobytes()),))
    exceptions = np.flatnonzero((gap > 1) & (gap < 255))
    apart = (Stream.GAPS, _gaps(exceptions)), (Stream.VALUES, gap[exceptions].tobytes())
    gap[exceptions] = 0
    if shape is Shape.STEPS:
        return Gap(shape=shape, width=1, parts=((Stream.STEPS, _steps(gap)), *apart))
    return Gap(shape=shape, width=1, parts=((Stream.TRITS, _trits(gap)), *apart))


def cheapest(old: ByteArray, new: ByteArray, *, width: int) -> tuple[Shape, float]:
    """The shape to choose for arrays like these, and about how many bytes it takes; arguments as for `difference`."""
    costs = [(difference(old, new, width=width, shape=one).cost_bytes(), one) for one in gap_shapes(width)]
    cost, shape = min(costs)
    return shape, cost


def _steps(gap: ByteArray) -> bytes:
    places = np.flatnonzero(gap)
    return _spaced(places, skip=_SKIP, scale=2, low=(gap[places] == 255).astype(np.uint8))


def _gaps(places: Places) -> bytes:
    return _spaced(places, skip=_EXCEPTION_SKIP, scale=1, low=np.zeros(places.shape, dtype=np.uint8))


def _spaced(places: Places, *, skip: int, scale: int, low: ByteArray) -> bytes:
    """What lies between places: a byte scale·g + low for each, behind bytes scale·skip for `skip` elements each."""
    between = np.diff(places, prepend=-1) - 1
    last = np.cumsum(between // skip + 1) - 1
    written = np.full(last[-1] + 1 if places.shape[0] else 0, scale * skip, dtype=np.uint8)
    written[last] = scale * (between % skip) + low
    return written.tobytes()


def _trits(gap: ByteArray) -> bytes:
    digits = np.where(gap == 255, 2, gap).astype(np.uint8)
    padded = np.concatenate([digits, np.zeros(-digits.shape[0] % 5, dtype=np.uint8)]).reshape(-1, 5)
    packed: bytes = (padded * np.array([1, 3, 9, 27, 81], dtype=np.uint8)).sum(axis=1, dtype=np.uint8).tobytes()
    return packed


# --- what it costs -----------------------------------------------------------------------------------


def cost_bytes(data: bytes) -> float:
    """About so many bytes are left of a literal: its entropy, or less where it repeats itself.

    >>> round(cost_bytes(bytes(1000))), round(cost_bytes(bytes(range(256)) * 2))
    (0, 512)
    """
    entropy = len(data) * _entropy_bits(data) / 8
    return min(entropy, float(len(zlib.compress(data, 1)))) if len(data) >= 4096 else entropy


def _entropy_bits(data: bytes) -> float:
    if not data:
        return 0.0
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8))
    shares = counts[counts > 0] / len(data)
    return float(-(shares * np.log2(shares)).sum())


def compressed(stream: int, data: bytes) -> tuple[Code, bytes]:
    """The shortest of what a board can read.

    >>> compressed(Stream.TEXT, b"abc")[0].name, compressed(Stream.TEXT, bytes(5000))[0].name
    ('RAW', 'BZ2')
    """
    best = Code.RAW, data
    for code, packed in _packed(stream, data):
        if len(packed) < _WORTH * len(data) and len(packed) < len(best[1]):
            best = code, packed
    return best


def _packed(stream: int, data: bytes) -> Iterator[tuple[Code, bytes]]:
    plain = stream in {Stream.OPERATIONS, Stream.TEXT, Stream.BULK}
    if not plain and len(data) > 4096 and _entropy_bits(data) > _RANDOM_BITS:
        return
    # one behind the other, gaps and digits have nothing in common but their frequencies
    drawn = stream in {Stream.STEPS, Stream.TRITS, Stream.GAPS}
    for strategy in (zlib.Z_HUFFMAN_ONLY,) if drawn else (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        packer = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        yield Code.ZLIB, packer.compress(data) + packer.flush()
    if not drawn and stream != Stream.BULK:
        yield Code.BZ2, bz2.compress(data)
