"""Which tensor of an old bundle has become which of the new one, whatever they are called now.

Exporters rename tensors freely (``onnx::MatMul_4711``), layers are renumbered when one is added, convolutions are
flattened, embeddings get further rows. So a name is a hint that is looked at first, and the values decide: the high
bytes (of four or more, two; the highest alone of a float32 is little but its exponent) at a few thousand places drawn
once for each length are compared with those of every tensor of

1. the same type and shape,
2. the same type and length,
3. the same type and the same shape of a row: the rows that both have are the pair,

and the most alike is taken if it stands out from what unrelated values of this kind have in common.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.delta.tensors import Tensor, tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]
    Highs = npt.NDArray[np.int16]

LEAST_TENSOR_BYTES = 1024
"""A smaller tensor costs about as much to describe as to send."""
_SAMPLED = 2048
_ALIKE = 0.05
"""Two tensors are the same one if the share of equal bytes in a sample beats that of unrelated weights by this."""
_MOST_ROWED = 64
"""Tensors of other lengths are compared one by one, so not with more of them than this,"""
_LEAST_ROWED_BYTES = 65536
"""and only where much can be saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A range of the new stream and the one in a source that it resembles; of the same length."""

    start: int
    end: int
    source: int
    old_start: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Placed:
    """A tensor, and where its values lie in a tar stream."""

    tensor: Tensor
    start: int
    source: int


def counterparts(
    stream: ByteArray, sources: Sequence[ByteArray], wanted: Sequence[tuple[int, int]]
) -> tuple[Pair, ...]:
    """Pairs of tensors, ascending, not overlapping.

    Args:
        stream: shape (n,), uint8: the new tar stream.
        sources: the old ones, shape (m,) each.
        wanted: ranges of the new stream (start, end), ascending, that lie nowhere in a source; other tensors need no
            counterpart.
    """
    known = _Known(sources)
    ends = np.array([end for _, end in wanted], dtype=np.int64)
    pairs, at = [], 0
    for one in sorted(_placed(stream, source=-1), key=lambda placed: placed.start):
        end = one.start + one.tensor.size_bytes
        first = int(np.searchsorted(ends, one.start, side="right"))
        if one.start < at or first == len(wanted) or wanted[first][0] >= end:
            continue
        found = known.most_alike(stream, one)
        if found is None:
            continue
        at = one.start + min(one.tensor.size_bytes, found.tensor.size_bytes)
        pairs.append(Pair(start=one.start, end=at, source=found.source, old_start=found.start, width=one.tensor.width))
    return tuple(pairs)


class _Known:
    """The tensors of all sources, by kind, with samples of their values."""

    def __init__(self, sources: Sequence[ByteArray]) -> None:
        self._sources = sources
        self._kinds: dict[tuple[object, ...], list[_Placed]] = {}
        self._samples: dict[tuple[object, ...], Highs] = {}
        for number, source in enumerate(sources):
            for one in _placed(source, source=number):
                for kind in (_shaped(one), _sized(one), _rowed(one)):
                    self._kinds.setdefault(kind, []).append(one)

    def most_alike(self, stream: ByteArray, one: _Placed) -> _Placed | None:
        """The tensor that resembles one the most; None if none stands out."""
        size = one.tensor.size_bytes
        mine = _sample(stream, one, size)
        least = _share(mine, np.roll(mine, 1)) + _ALIKE
        for kind in (_shaped(one), _sized(one)):
            candidates = self._kinds.get(kind, [])
            for candidate in candidates:
                if candidate.tensor.name == one.tensor.name and self._share(mine, candidate, size) > least:
                    return candidate
            if candidates:
                shares = _shares(self._sampled(kind), mine)
                best = int(np.argmax(shares))
                if shares[best] > least:
                    return candidates[best]
        return self._with_other_rows(stream, one)

    def _with_other_rows(self, stream: ByteArray, one: _Placed) -> _Placed | None:
        best, best_share = None, 0.0
        size = one.tensor.size_bytes
        candidates = sorted(
            (other for other in self._kinds.get(_rowed(one), ()) if other.tensor.size_bytes != size),
            key=lambda other: other.tensor.name != one.tensor.name,
        )
        if size < _LEAST_ROWED_BYTES:
            return None
        for candidate in candidates[:_MOST_ROWED]:
            common = min(size, candidate.tensor.size_bytes)
            mine = _sample(stream, one, common)
            share = self._share(mine, candidate, common)
            if share > max(best_share, _share(mine, np.roll(mine, 1)) + _ALIKE):
                best, best_share = candidate, share
        return best

    def _share(self, mine: Highs, candidate: _Placed, size: int) -> float:
        return _share(mine, _sample(self._sources[candidate.source], candidate, size))

    def _sampled(self, kind: tuple[object, ...]) -> Highs:
        """Samples of all tensors of a kind, shape (tensors, places)."""
        if kind not in self._samples:
            found = [_sample(self._sources[one.source], one, one.tensor.size_bytes) for one in self._kinds[kind]]
            self._samples[kind] = np.stack(found)
        return self._samples[kind]


def _shaped(one: _Placed) -> tuple[object, ...]:
    return "shape", one.tensor.data_type, one.tensor.shape, one.tensor.size_bytes


def _sized(one: _Placed) -> tuple[object, ...]:
    return "size", one.tensor.data_type, one.tensor.size_bytes


def _rowed(one: _Placed) -> tuple[object, ...]:
    shape = one.tensor.shape
    return "row", one.tensor.data_type, len(shape), shape[1:]


def _placed(stream: ByteArray, *, source: int) -> Iterator[_Placed]:
    files = {name: (start, size) for name, start, size in ustar.layout(stream.data)}
    for name, (start, size) in files.items():
        if not name.endswith(".onnx"):
            continue
        for one in tensors(stream[start : start + size].data):
            beside = name.rpartition("/")[0]
            file = name if not one.file else f"{beside}/{one.file}" if beside else one.file
            if one.size_bytes < LEAST_TENSOR_BYTES or one.size_bytes % one.width or file not in files:
                continue
            file_start, file_size = files[file]
            if one.start >= 0 and one.start + one.size_bytes <= file_size:
                yield _Placed(tensor=one, start=file_start + one.start, source=source)


def _sample(stream: ByteArray, one: _Placed, size_bytes: int) -> Highs:
    """High bytes of elements at the same places for all tensors of a length, within the first `size_bytes`."""
    width = one.tensor.width
    last = one.start + width * _places(size_bytes // width) + (width - 1)
    highest = stream[last].view(np.int8).astype(np.int16)
    return highest if width < 4 else 256 * highest + stream[last - 1]


@functools.lru_cache(maxsize=64)
def _places(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(count).integers(0, count, _SAMPLED)


def _share(one: Highs, other: Highs) -> float:
    """Share of elements that differ by one step at most."""
    return float(_shares(one[np.newaxis], other)[0])


def _shares(many: Highs, one: Highs) -> npt.NDArray[np.float64]:
    """The same for many at once, shape (tensors, places) and (places,)."""
    gap = many - one  # modulo 2^16: as good, for what is nearly equal
    return np.asarray(((gap >= -1) & (gap <= 1)).mean(axis=1))
