"""A delta of a firmware from the blocks of a device: what the board runs is nearly what it is to run.

The board tells a short digest of each block of its running root. The image's blocks are looked up among them, wherever
they lie on the device; what is not found is sent. No predecessor needs to be here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.delta.create import Delta, joined
from pytest_edgehil.artifacts.delta.document import Copy, Head, Literal, Operation, blocks, header
from pytest_edgehil.model.artifact import Artifact

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.delta.create import ByteArray

MOST_SENT = 0.5
"""A larger share that is not on the device is pushed as any bundle is: packing it well would take longer."""
_LITERAL_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBlocks:
    """What a device holds.

    Args:
        partition: of the slot.
        block_bytes: of a block.
        digest_bytes: of what is told of each: the beginning of its SHA-256.
        digests: one behind the other.
    """

    partition: int
    block_bytes: int
    digest_bytes: int
    digests: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """A digest, as a delta calls its source."""
        return f"sha256:{hashlib.sha256(self.digests).hexdigest()}"


def from_blocks(new: Artifact, stream: ByteArray | None, image: str, known: KnownBlocks) -> Delta | None:
    """Describe a bundle by what a device holds.

    Args:
        new: what is wanted.
        stream: of that, from `create.read_stream`.
        image: path of the image within it that is looked for on the device.
        known: from the board.

    Returns:
        None when it was not packed by us, has no such image, or has too little in common with the device.
    """
    if stream is None:
        return None
    content = memoryview(stream.data)
    place = next(((start, size) for path, start, size in ustar.layout(content) if path == image), None)
    if place is None:
        return None
    operations = tuple(joined(_operations(content, place, known)))
    if sum(one.size_bytes for one in operations if isinstance(one, Literal)) > MOST_SENT * len(content):
        return None
    with new.path.open("rb") as packed:
        packed.seek(-8, 2)
        (crc32, _) = struct.unpack("<II", packed.read(8))
    head = Head(
        digest=new.digest, size_bytes=new.size_bytes, stream_bytes=len(content), sources=(known.name,), crc32=crc32
    )
    told = tuple(blocks(operations))
    size_bytes = len(header(head)) + sum(len(one.data) for one in told)
    return Delta(new=new, head=head, operations=operations, blocks=told, size_bytes=size_bytes)


def _operations(content: memoryview, place: tuple[int, int], known: KnownBlocks) -> Iterator[Operation]:
    step, width = known.block_bytes, known.digest_bytes
    where: dict[bytes, int] = {}
    for number in range(len(known.digests) // width):
        where.setdefault(known.digests[number * width : (number + 1) * width], number)
    start, size = place
    sent = 0  # up to here, everything is in an operation
    behind = -1  # where on the device the last copy ended
    for at in range(start, start + size - step + 1, step):
        told = hashlib.sha256(content[at : at + step]).digest()[:width]
        same = (at - start) // step
        # what lies where it lay is copied from there, even if the device holds it elsewhere, too
        here = known.digests[same * width : (same + 1) * width] == told
        number = same if here else where.get(told, -1)
        if number < 0:
            continue
        if behind >= 0 and known.digests[behind * width : (behind + 1) * width] == told:
            number = behind
        yield from _literals(content, sent, at)
        yield Copy(source=0, start=number * step, size_bytes=step)
        sent, behind = at + step, number + 1
    yield from _literals(content, sent, len(content))


def _literals(content: memoryview, start: int, end: int) -> Iterator[Literal]:
    for at in range(start, end, _LITERAL_BYTES):
        yield Literal(data=bytes(content[at : min(end, at + _LITERAL_BYTES)]))
