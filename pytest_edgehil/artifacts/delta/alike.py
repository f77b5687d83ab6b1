"""Which tensor of an old bundle has become which of the new one, whatever they are called now.

Exporters rename tensors freely (``onnx::MatMul_4711``), layers are renumbered when one is added, convolutions are
flattened, embeddings get further rows and classifiers further columns. So a name is a hint that is looked at first,
the next one is what followed the last tensor's counterpart, and the values decide: the high bytes (of four or more,
two; the highest alone of a float32 is little but its exponent) at a few thousand places drawn once for each length
are compared with those of every tensor of

1. the same type and shape,
2. the same type and length,
3. the same type and the same shape of a row: the rows that both have are the pair,
4. the same type and number of rows: what both have of each row is a pair,

and the most alike is taken if it stands out from what unrelated values of this kind have in common. Where values
cannot stand out, since they are all nearly equal or there are few of them (scales, biases), a hint is followed if a
difference from it takes fewer bytes.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.delta import coding
from pytest_edgehil.artifacts.delta.document import Copy
from pytest_edgehil.artifacts.delta.tensors import Tensor, tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]
    Highs = npt.NDArray[np.int16]

LEAST_TENSOR_BYTES = 24
"""A smaller tensor costs about as much to describe as to send."""
SAMPLE_BYTES = 64 * 1024
"""What a difference costs is estimated by so much of it."""
_SAMPLED = 2048
_ALIKE = 0.05
"""Two tensors are the same one if the share of equal bytes in a sample beats that of unrelated weights by this."""
_WORTH = 0.9
"""A hint is followed where that takes fewer bytes than this share."""
_LEAST_SEARCHED_BYTES = 512
"""Smaller tensors are found by hints only: there may be thousands, and little to tell them apart by."""
_MOST_ROWED = 64
"""Tensors of other lengths are compared one by one, so not with more of them than this,"""
_LEAST_ROWED_BYTES = 4096
"""and only where much can be saved."""
_LEAST_ROW_BYTES = 64


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

    @property
    def row_bytes(self) -> int:
        """Of one row, that is, along the last dimension."""
        return self.tensor.size_bytes // max(1, math.prod(self.tensor.shape[:-1]))


def counterparts(
    stream: ByteArray, sources: Sequence[ByteArray], copies: Sequence[tuple[Copy, int]]
) -> tuple[Pair, ...]:
    """Pairs of tensors, ascending, not overlapping.

    Args:
        stream: shape (n,), uint8: the new tar stream.
        sources: the old ones, shape (m,) each.
        copies: what a source holds, and where that lies in the new stream; ascending. A tensor within it needs no
            counterpart, but has one, from which the next one's is guessed.
    """
    known = _Known(sources)
    starts = [start for _, start in copies]
    pairs: list[Pair] = []
    at = 0
    last: _Placed | None = None
    for one in sorted(_placed(stream, source=-1), key=lambda placed: placed.start):
        number = bisect.bisect_right(starts, one.start) - 1
        copied = copies[number] if number >= 0 else None
        if copied is not None and one.start + one.tensor.size_bytes <= copied[1] + copied[0].size_bytes:
            last = known.at(copied[0].source, copied[0].start + one.start - copied[1])
        elif one.start >= at:
            hints = known.hints(one, last)
            found = known.most_alike(stream, one, hints)
            if found is not None:
                pairs += _pairs(one, found)
                at = pairs[-1].end
            last = found or (hints[-1] if hints else None)  # where nothing stands out, it is where it was, most likely
    return tuple(pairs)


def contiguous(values: ByteArray) -> ByteArray:
    """Aligned for wider elements, wherever it lay."""
    return np.frombuffer(values.tobytes(), dtype=np.uint8)


def _pairs(one: _Placed, other: _Placed) -> Iterator[Pair]:
    """What two tensors have in common, in one piece or row by row."""
    mine, theirs = one.row_bytes, other.row_bytes
    size = min(one.tensor.size_bytes, other.tensor.size_bytes)
    if mine == theirs or _rowed(one) == _rowed(other) or one.tensor.size_bytes == other.tensor.size_bytes:
        steps, length = 1, size
    else:
        steps, length = one.tensor.size_bytes // mine, min(mine, theirs)
    for row in range(steps):
        start = one.start + row * mine
        yield Pair(
            start=start,
            end=start + length,
            source=other.source,
            old_start=other.start + row * theirs,
            width=one.tensor.width,
        )


class _Known:
    """The tensors of all sources, by kind, with samples of their values."""

    def __init__(self, sources: Sequence[ByteArray]) -> None:
        self._sources = sources
        self._kinds: dict[tuple[object, ...], list[_Placed]] = {}
        self._names: dict[tuple[str, int, int], _Placed] = {}
        self._at: dict[tuple[int, int], _Placed] = {}
        self._next: dict[tuple[int, int], _Placed] = {}
        self._samples: dict[tuple[object, ...], Highs] = {}
        for number, source in enumerate(sources):
            last: _Placed | None = None
            for one in sorted(_placed(source, source=number), key=lambda placed: placed.start):
                for kind in (_shaped(one), _sized(one), _rowed(one), _columned(one)):
                    self._kinds.setdefault(kind, []).append(one)
                self._names.setdefault((one.tensor.name, one.tensor.data_type, one.tensor.size_bytes), one)
                self._at[number, one.start] = one
                if last is not None:
                    self._next[number, last.start] = one
                last = one

    def at(self, source: int, start: int) -> _Placed | None:
        """The tensor whose values begin there."""
        return self._at.get((source, start))

    def hints(self, one: _Placed, last: _Placed | None) -> tuple[_Placed, ...]:
        """Tensors of the same type and length that are likely to be it: by its name, and by what `last` was."""
        named = self._names.get((one.tensor.name, one.tensor.data_type, one.tensor.size_bytes))
        following = self._next.get((last.source, last.start)) if last is not None else None
        found = [named] if named is not None else []
        if following is not None and following != named and _sized(following) == _sized(one):
            found.append(following)
        return tuple(found)

    def most_alike(self, stream: ByteArray, one: _Placed, hints: Sequence[_Placed]) -> _Placed | None:
        """The tensor that resembles one the most; None if none stands out."""
        places = _places(one.tensor.size_bytes // one.tensor.width)
        mine = _sample(stream, one, places)
        least = _share(mine, np.roll(mine, 1)) + _ALIKE
        for candidate in hints:
            share = _share(mine, _sample(self._sources[candidate.source], candidate, places))
            if share > least or (share == 1.0 and self._equals(stream, one, candidate)):
                return candidate
        if one.tensor.size_bytes >= _LEAST_SEARCHED_BYTES:
            for kind in (_shaped(one), _sized(one)):
                candidates = self._kinds.get(kind, [])
                if candidates:
                    shares = _shares(self._sampled(kind, places), mine)
                    best = int(np.argmax(shares))
                    if shares[best] > least:
                        return candidates[best]
        for candidate in hints:
            if self._saves(stream, one, candidate):
                return candidate
        return self._of_other_length(stream, one)

    def _equals(self, stream: ByteArray, one: _Placed, candidate: _Placed) -> bool:
        size, source = one.tensor.size_bytes, self._sources[candidate.source]
        return np.array_equal(stream[one.start : one.start + size], source[candidate.start : candidate.start + size])

    def _saves(self, stream: ByteArray, one: _Placed, candidate: _Placed) -> bool:
        size = min(one.tensor.size_bytes, SAMPLE_BYTES) // one.tensor.width * one.tensor.width
        new = contiguous(stream[one.start : one.start + size])
        old = contiguous(self._sources[candidate.source][candidate.start : candidate.start + size])
        return coding.cheapest(old, new, width=one.tensor.width)[1] < _WORTH * coding.cost_bytes(new.tobytes())

    def _of_other_length(self, stream: ByteArray, one: _Placed) -> _Placed | None:
        """With more or fewer rows, or longer or shorter ones."""
        size = one.tensor.size_bytes
        if size < _LEAST_ROWED_BYTES:
            return None
        best, best_share = None, 0.0
        for kind in (_rowed(one), _columned(one)):
            found = [other for other in self._kinds.get(kind, ()) if other.tensor.size_bytes != size]
            if kind == _columned(one):
                found = [other for other in found if min(one.row_bytes, other.row_bytes) >= _LEAST_ROW_BYTES]
            for candidate in sorted(found, key=lambda other: other.tensor.name != one.tensor.name)[:_MOST_ROWED]:
                width, theirs = one.tensor.width, candidate.row_bytes
                if kind == _rowed(one):
                    places = old_places = _places(min(size, candidate.tensor.size_bytes) // width)
                else:
                    common = min(one.row_bytes, theirs) // width
                    row, column = np.divmod(_places(common * (size // one.row_bytes)), common)
                    places, old_places = row * (one.row_bytes // width) + column, row * (theirs // width) + column
                mine = _sample(stream, one, places)
                share = _share(mine, _sample(self._sources[candidate.source], candidate, old_places))
                if share > max(best_share, _share(mine, np.roll(mine, 1)) + _ALIKE):
                    best, best_share = candidate, share
        return best

    def _sampled(self, kind: tuple[object, ...], places: npt.NDArray[np.int64]) -> Highs:
        """Samples of all tensors of a kind, shape (tensors, places)."""
        if kind not in self._samples:
            found = [_sample(self._sources[one.source], one, places) for one in self._kinds[kind]]
            self._samples[kind] = np.stack(found)
        return self._samples[kind]


def _shaped(one: _Placed) -> tuple[object, ...]:
    return "shape", one.tensor.data_type, one.tensor.shape, one.tensor.size_bytes


def _sized(one: _Placed) -> tuple[object, ...]:
    return "size", one.tensor.data_type, one.tensor.size_bytes


def _rowed(one: _Placed) -> tuple[object, ...]:
    shape = one.tensor.shape
    return "row", one.tensor.data_type, len(shape), shape[1:]


def _columned(one: _Placed) -> tuple[object, ...]:
    shape = one.tensor.shape
    return "column", one.tensor.data_type, len(shape), shape[:-1] if len(shape) > 1 else shape


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


def _sample(stream: ByteArray, one: _Placed, places: npt.NDArray[np.int64]) -> Highs:
    """High bytes of the elements at these places."""
    width = one.tensor.width
    last = one.start + width * places + (width - 1)
    highest = stream[last].view(np.int8).astype(np.int16)
    return highest if width < 4 else 256 * highest + stream[last - 1]


@functools.lru_cache(maxsize=64)
def _places(count: int) -> npt.NDArray[np.int64]:
    """The same ones for all tensors of a length."""
    return np.random.default_rng(count).integers(0, count, min(_SAMPLED, 4 * count))


def _share(one: Highs, other: Highs) -> float:
    """Share of elements that differ by one step at most."""
    return float(_shares(one[np.newaxis], other)[0])


def _shares(many: Highs, one: Highs) -> npt.NDArray[np.float64]:
    """The same for many at once, shape (tensors, places) and (places,)."""
    gap = many - one  # modulo 2^16: as good, for what is nearly equal
    return np.asarray(((gap >= -1) & (gap <= 1)).mean(axis=1))
