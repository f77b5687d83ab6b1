"""Making a delta: copy what is the same, write what is nearly the same as a difference, send the rest.

First every chunk of the new bundle is looked up among the chunks of all sources. What that leaves over is cut at the
borders of the tensors; a tensor that has a counterpart in a source (see `alike`) is written as a difference wherever
that takes fewer bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.delta import coding
from pytest_edgehil.artifacts.delta.alike import LEAST_TENSOR_BYTES, Pair, counterparts
from pytest_edgehil.artifacts.delta.chunks import chunks
from pytest_edgehil.artifacts.delta.document import (
    MAX_OUTPUT_BYTES,
    Copy,
    Difference,
    Head,
    Literal,
    Operation,
    write,
)
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import Artifact

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]

LEAST_COPY_BYTES = 64
"""A shorter copy costs about as much to describe as to send."""
SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What was found.

    Args:
        new: the bundle that is made.
        head: sources and result.
        operations: in order.
        size_bytes: of the delta as a file.
    """

    new: Artifact
    head: Head
    operations: tuple[Operation, ...]
    size_bytes: int

    @property
    def share(self) -> float:
        """Bytes of the delta per byte of the bundle."""
        return self.size_bytes / self.new.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """The file, piece by piece."""
        return write(self.head, self.operations)

    def made_by(self, kind: type[Operation]) -> tuple[int, int]:
        """(bytes of output, bytes to send) of all operations of a kind."""
        chosen = [one for one in self.operations if isinstance(one, kind)]
        sent = sum(len(one.coded.data) for one in chosen if not isinstance(one, Copy))
        return sum(one.size_bytes for one in chosen), sent


def create(new: Artifact, sources: Sequence[Artifact]) -> Delta | None:
    """Describe a bundle by others.

    Args:
        new: what is wanted.
        sources: what the board has; any order.

    Returns:
        None when the bundle cannot be made from its tar stream: it was not packed by us.

    Raises:
        ArtifactNotFound, CorruptArtifact: a bundle cannot be read, or is no longer what it was.
    """
    stream = read_stream(new)
    if stream is None:
        return None
    known = [(one, found) for one in sources if (found := read_stream(one)) is not None]
    operations = tuple(_joined(_operations(stream, known)))
    used = sorted({one.source for one in operations if not isinstance(one, Literal)})
    renumbered = {old: number for number, old in enumerate(used)}
    operations = tuple(_renumbered(one, renumbered) for one in operations)
    head = Head(
        digest=new.digest,
        size_bytes=new.size_bytes,
        stream_bytes=stream.shape[0],
        sources=tuple(known[one][0].digest for one in used),
    )
    size_bytes = sum(map(len, write(head, operations)))
    return Delta(new=new, head=head, operations=operations, size_bytes=size_bytes)


def read_stream(artifact: Artifact) -> ByteArray | None:
    """The tar stream of a bundle, shape (m,), uint8; None if packing it again would not give the same bytes.

    Raises:
        ArtifactNotFound: it cannot be read.
        CorruptArtifact: it is no longer what it was.
    """
    data = np.fromfile(artifact.path, dtype=np.uint8) if artifact.path.is_file() else None
    if data is None or f"sha256:{hashlib.sha256(data.data).hexdigest()}" != artifact.digest:
        raise CorruptArtifact(f"{artifact.path}: is no longer {artifact.digest}; build or fetch it again")
    return ustar.stored_content(data)


# --- what is the same --------------------------------------------------------------------------------


def _operations(stream: ByteArray, known: Sequence[tuple[Artifact, ByteArray]]) -> Iterator[Operation]:
    copies = list(_copies(stream, known))
    pairs = counterparts(stream, [source for _, source in known], _between(copies, stream.shape[0]))
    at = 0
    for copy, start in copies:
        yield from _sent(stream, at, start, pairs, known)
        yield copy
        at = start + copy.size_bytes
    yield from _sent(stream, at, stream.shape[0], pairs, known)


def _between(copies: Sequence[tuple[Copy, int]], size: int) -> list[tuple[int, int]]:
    """What no copy makes."""
    starts = [0, *(start + copy.size_bytes for copy, start in copies)]
    ends = [*(start for _, start in copies), size]
    return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def _copies(stream: ByteArray, known: Sequence[tuple[Artifact, ByteArray]]) -> Iterator[tuple[Copy, int]]:
    """Ranges that a source holds, and where they lie in the stream; ascending, grown as far as bytes agree."""
    places: dict[bytes, tuple[int, int]] = {}
    for number, (_, source) in enumerate(known):
        for chunk in chunks(source):
            places.setdefault(chunk.digest, (number, chunk.start))
    done = 0
    for chunk in chunks(stream):
        place = places.get(chunk.digest)
        if place is None or chunk.start + chunk.size_bytes <= done:
            continue
        number, old = place
        source = known[number][1]
        skip = max(0, done - chunk.start)  # what the last copy has grown over
        start, old = chunk.start + skip, old + skip
        before = _equal_before(stream[done:start], source[:old])
        start, old = start - before, old - before
        size = _equal(stream[start:], source[old:])
        if size >= LEAST_COPY_BYTES:
            yield Copy(source=number, start=old, size_bytes=size), start
            done = start + size


def _equal(one: ByteArray, other: ByteArray) -> int:
    """How many bytes at the beginning agree."""
    size: int = min(one.shape[0], other.shape[0])
    step, at = 2**20, 0
    while at < size:
        differ = np.flatnonzero(one[at : min(at + step, size)] != other[at : min(at + step, size)])
        if differ.shape[0]:
            return at + int(differ[0])
        at += step
    return size


def _equal_before(one: ByteArray, other: ByteArray) -> int:
    """How many bytes at the end agree."""
    return _equal(one[::-1], other[::-1])


def _joined(operations: Iterator[Operation]) -> Iterator[Operation]:
    """Copies of adjacent places become one."""
    last: Copy | None = None
    for one in operations:
        if isinstance(one, Copy):
            if last is not None and (one.source, one.start) == (last.source, last.start + last.size_bytes):
                last = Copy(source=last.source, start=last.start, size_bytes=last.size_bytes + one.size_bytes)
                continue
            if last is not None:
                yield last
            last = one
            continue
        if last is not None:
            yield last
            last = None
        yield one
    if last is not None:
        yield last


def _renumbered(one: Operation, numbers: dict[int, int]) -> Operation:
    if isinstance(one, Copy):
        return Copy(source=numbers[one.source], start=one.start, size_bytes=one.size_bytes)
    if isinstance(one, Difference):
        return Difference(
            source=numbers[one.source],
            start=one.start,
            size_bytes=one.size_bytes,
            width=one.width,
            coded=one.coded,
        )
    return one


# --- what is nearly the same -------------------------------------------------------------------------


def _sent(
    stream: ByteArray, start: int, end: int, pairs: Sequence[Pair], known: Sequence[tuple[Artifact, ByteArray]]
) -> Iterator[Operation]:
    """A range of the new stream that no source holds, as differences and literals."""
    at = start
    for pair in pairs:
        if pair.end <= at or pair.start >= end:
            continue
        # whole elements only: what hangs over is sent as it is
        first = pair.start + -(-(max(at, pair.start) - pair.start) // pair.width) * pair.width
        last = pair.start + (min(end, pair.end) - pair.start) // pair.width * pair.width
        if last - first < LEAST_TENSOR_BYTES:
            continue
        yield from _literals(stream, at, first)
        yield from _differences(stream, first, last, pair, known[pair.source][1])
        at = last
    yield from _literals(stream, at, end)


def _differences(stream: ByteArray, start: int, end: int, pair: Pair, source: ByteArray) -> Iterator[Operation]:
    shift = pair.old_start - pair.start
    size = min(end - start, SAMPLE_BYTES) // pair.width * pair.width
    middle = start + (end - start - size) // 2 // pair.width * pair.width
    sample, old = stream[middle : middle + size], source[middle + shift : middle + shift + size]
    estimate = coding.difference(_contiguous(old), _contiguous(sample), width=pair.width)
    if len(estimate.data) >= len(coding.literal(sample.tobytes()).data):
        yield from _literals(stream, start, end)
        return
    step = MAX_OUTPUT_BYTES // pair.width * pair.width
    for at in range(start, end, step):
        stop = min(at + step, end)
        mine, theirs = _contiguous(stream[at:stop]), _contiguous(source[at + shift : stop + shift])
        coded = coding.difference(theirs, mine, width=pair.width)
        yield Difference(source=pair.source, start=at + shift, size_bytes=stop - at, width=pair.width, coded=coded)


def _literals(stream: ByteArray, start: int, end: int) -> Iterator[Operation]:
    for at in range(start, end, MAX_OUTPUT_BYTES):
        stop = min(at + MAX_OUTPUT_BYTES, end)
        yield Literal(size_bytes=stop - at, coded=coding.literal(stream[at:stop].tobytes()))


def _contiguous(values: ByteArray) -> ByteArray:
    return np.frombuffer(values.tobytes(), dtype=np.uint8)  # aligned for wider elements, wherever it lay
