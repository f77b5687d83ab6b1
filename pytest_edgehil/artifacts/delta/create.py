"""Making a delta: copy what is the same, write what is nearly the same as a difference, send the rest.

First every chunk of the new bundle is looked up among the chunks of all sources. What that leaves over is cut at the
borders of the tensors; a tensor that has a counterpart in a source (see `alike`) is written as a difference wherever
that takes fewer bytes. What lies between two tensors is mostly what lay there before: names, shapes, lengths.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.delta import coding
from pytest_edgehil.artifacts.delta.alike import LEAST_TENSOR_BYTES, SAMPLE_BYTES, Pair, contiguous, counterparts
from pytest_edgehil.artifacts.delta.chunks import chunks
from pytest_edgehil.artifacts.delta.document import (
    MAX_OUTPUT_BYTES,
    SENT_BY,
    Block,
    Copy,
    Difference,
    Head,
    Literal,
    Operation,
    blocks,
    header,
)
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import Artifact

if TYPE_CHECKING:
    import numpy.typing as npt

    ByteArray = npt.NDArray[np.uint8]

LEAST_COPY_BYTES = 32
"""A shorter copy costs about as much to describe as to send,"""
LEAST_BESIDE_BYTES = 8
"""unless it goes on where the last operation ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShare:
    """How many bytes of one file of the new bundle are copied, near to what is there, and new."""

    path: str
    size_bytes: int
    copied_bytes: int
    near_bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What was found.

    Args:
        new: the bundle that is made.
        head: sources and result.
        operations: in order.
        blocks: the operations as they are sent.
        size_bytes: of the delta as a file.
        files: what becomes of each file, in the bundle's order; empty: nobody has asked.
    """

    new: Artifact
    head: Head
    operations: tuple[Operation, ...]
    blocks: tuple[Block, ...]
    size_bytes: int
    files: tuple[FileShare, ...] = ()

    @property
    def share(self) -> float:
        """Bytes of the delta per byte of the bundle."""
        return self.size_bytes / self.new.size_bytes

    def pieces(self) -> Iterator[bytes]:
        """The file, piece by piece."""
        yield header(self.head)
        for one in self.blocks:
            yield one.data

    def made_by(self, kind: type[Operation]) -> tuple[int, int]:
        """(bytes of output, bytes to send) of all operations of a kind."""
        made = sum(one.size_bytes for one in self.operations if isinstance(one, kind))
        sent = sum(size for one in self.blocks for number, size in one.sent_bytes.items() if number in SENT_BY[kind])
        return made, sent


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
    operations = tuple(joined(_operations(stream, known)))
    used = sorted({one.source for one in operations if not isinstance(one, Literal)})
    renumbered = {old: number for number, old in enumerate(used)}
    operations = tuple(_renumbered(one, renumbered) for one in operations)
    head = Head(
        digest=new.digest,
        size_bytes=new.size_bytes,
        stream_bytes=stream.shape[0],
        sources=tuple(known[one][0].digest for one in used),
    )
    told = tuple(blocks(operations))
    size_bytes = len(header(head)) + sum(len(one.data) for one in told)
    files = tuple(_shares(stream, operations))
    return Delta(new=new, head=head, operations=operations, blocks=told, size_bytes=size_bytes, files=files)


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


def _shares(stream: ByteArray, operations: Sequence[Operation]) -> Iterator[FileShare]:
    ends = np.cumsum([0, *(one.size_bytes for one in operations)])
    for path, start, size in ustar.layout(stream.data):
        made = {Copy: 0, Difference: 0, Literal: 0}
        for number in range(int(np.searchsorted(ends, start, side="right")) - 1, len(operations)):
            if ends[number] >= start + size:
                break
            made[type(operations[number])] += int(min(ends[number + 1], start + size) - max(ends[number], start))
        yield FileShare(
            path=path,
            size_bytes=size,
            copied_bytes=made[Copy],
            near_bytes=made[Difference],
            new_bytes=made[Literal],
        )


# --- what is the same --------------------------------------------------------------------------------


def _operations(stream: ByteArray, known: Sequence[tuple[Artifact, ByteArray]]) -> Iterator[Operation]:
    copies = list(_copies(stream, known))
    sources = [source for _, source in known]
    pairs = counterparts(stream, sources, copies)
    at = 0
    for copy, start in copies:
        yield from _sent(stream, at, start, pairs, sources)
        yield copy
        at = start + copy.size_bytes
    yield from _sent(stream, at, stream.shape[0], pairs, sources)


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


def joined(operations: Iterator[Operation]) -> Iterator[Operation]:
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
            gap=one.gap,
        )
    return one


# --- what is nearly the same -------------------------------------------------------------------------


def _sent(
    stream: ByteArray, start: int, end: int, pairs: Sequence[Pair], sources: Sequence[ByteArray]
) -> Iterator[Operation]:
    """A range of the new stream that no source holds whole."""
    at, last = start, None
    for pair in pairs[bisect.bisect_right(pairs, start, key=lambda one: one.end) :]:
        if pair.start >= end:
            break
        # whole elements only: what hangs over is sent as it is
        begin = pair.start + -(-(max(at, pair.start) - pair.start) // pair.width) * pair.width
        stop = pair.start + (min(end, pair.end) - pair.start) // pair.width * pair.width
        if stop - begin < min(LEAST_TENSOR_BYTES, pair.end - pair.start):
            continue
        yield from _beside(stream, at, begin, (last, pair), sources)
        yield from _differences(stream, begin, stop, pair, sources[pair.source])
        at, last = stop, pair
    yield from _beside(stream, at, end, (last, None), sources)


def _beside(
    stream: ByteArray, start: int, end: int, pairs: tuple[Pair | None, Pair | None], sources: Sequence[ByteArray]
) -> Iterator[Operation]:
    """What lies between two tensors: copies, as far as their counterparts have it beside them too, and literals."""
    before, behind = pairs
    if before is not None:
        place = start + before.old_start - before.start
        size = _equal(stream[start:end], sources[before.source][place:])
        if size >= LEAST_BESIDE_BYTES or (size and size == end - start):
            yield Copy(source=before.source, start=place, size_bytes=size)
            start += size
    size = 0
    if behind is not None:
        place = end + behind.old_start - behind.start
        size = _equal_before(stream[start:end], sources[behind.source][:place])
        size = size if size >= LEAST_BESIDE_BYTES else 0
    yield from _literals(stream, start, end - size)
    if behind is not None and size:
        yield Copy(source=behind.source, start=end - size + behind.old_start - behind.start, size_bytes=size)


def _differences(stream: ByteArray, start: int, end: int, pair: Pair, source: ByteArray) -> Iterator[Operation]:
    shift = pair.old_start - pair.start
    size = min(end - start, SAMPLE_BYTES) // pair.width * pair.width
    middle = start + (end - start - size) // 2 // pair.width * pair.width
    sample = contiguous(stream[middle : middle + size])
    shape, cost = coding.cheapest(contiguous(source[middle + shift : middle + shift + size]), sample, width=pair.width)
    if cost >= coding.cost_bytes(sample.tobytes()):
        yield from _literals(stream, start, end)
        return
    step = MAX_OUTPUT_BYTES // pair.width * pair.width
    for at in range(start, end, step):
        stop = min(at + step, end)
        mine, theirs = contiguous(stream[at:stop]), contiguous(source[at + shift : stop + shift])
        if np.array_equal(mine, theirs):
            yield Copy(source=pair.source, start=at + shift, size_bytes=stop - at)
            continue
        gap = coding.difference(theirs, mine, width=pair.width, shape=shape)
        yield Difference(source=pair.source, start=at + shift, size_bytes=stop - at, gap=gap)


def _literals(stream: ByteArray, start: int, end: int) -> Iterator[Operation]:
    for at in range(start, end, MAX_OUTPUT_BYTES):
        yield Literal(data=stream[at : min(at + MAX_OUTPUT_BYTES, end)].tobytes())
