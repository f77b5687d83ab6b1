"""The disk of an emulated board: GPT with the slots' environment, two slots, and data.

Everything is at fixed places and has fixed identifiers, so that the same contents give the same bytes. Format: UEFI
Specification 2.10, chapter 5. Zeros are holes of the file.
"""

from __future__ import annotations

import errno
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

SECTOR = 512
MIB = 2**20
_ENTRIES = 128
_ENTRY = struct.Struct("<16s16sQQQ72s")
_LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_SPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")  # of name-based identifiers, RFC 9562 appendix A


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """One partition.

    Args:
        source: file or bytes at its beginning; None: empty.
    """

    name: str
    size_bytes: int
    source: Path | bytes | None = None


def first_byte(partitions: Sequence[Partition], number: int) -> int:
    """Where a partition begins; numbers count from 1. Each begins at a whole MiB."""
    return MIB + sum(-(-one.size_bytes // MIB) * MIB for one in partitions[: number - 1])


def write_disk(path: Path, partitions: Sequence[Partition]) -> None:
    """Write a disk image."""
    total = first_byte(partitions, len(partitions) + 1) + MIB
    sectors = total // SECTOR
    entries = bytearray()
    for number, one in enumerate(partitions, start=1):
        first = first_byte(partitions, number) // SECTOR
        last = first + -(-one.size_bytes // SECTOR) - 1
        entries += _ENTRY.pack(
            _LINUX.bytes_le, _identifier(one.name).bytes_le, first, last, 0, one.name.encode("utf-16-le")
        )
    entries += bytes(_ENTRIES * _ENTRY.size - len(entries))
    with path.open("wb") as disk:
        disk.truncate(total)
        disk.write(_protective_mbr(sectors))
        for mine, other, table in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 33)):
            disk.seek(mine * SECTOR)
            disk.write(_header(mine, other, table, sectors, bytes(entries)))
            disk.seek(table * SECTOR)
            disk.write(entries)
        for number, one in enumerate(partitions, start=1):
            at = first_byte(partitions, number)
            if isinstance(one.source, bytes):
                disk.seek(at)
                disk.write(one.source)
            elif one.source is not None:
                with one.source.open("rb") as source:
                    copy_sparsely(source, disk, at)


def copy_sparsely(source: BinaryIO, target: BinaryIO, at: int, *, block_bytes: int = 65536) -> None:
    """Copy a file into another one at a place, leaving out blocks of zeros: the target is a hole there already."""
    for place, block in data_blocks(source, block_bytes):
        target.seek(at + place)
        target.write(block)


def data_blocks(file: BinaryIO, block_bytes: int) -> Iterator[tuple[int, bytes]]:
    """A file's blocks that are not all zeros, with their places; holes are not read (lseek(2), SEEK_DATA)."""
    descriptor, zeros, at = file.fileno(), bytes(block_bytes), 0
    while True:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA) // block_bytes * block_bytes
        except OSError as problem:
            if problem.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        block = os.pread(descriptor, block_bytes, at)
        if not block:
            return
        if block != zeros[: len(block)]:
            yield at, block
        at += len(block)


def _identifier(name: str) -> uuid.UUID:
    return uuid.uuid5(_SPACE, f"edgehil/{name}")


def _protective_mbr(sectors: int) -> bytes:
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def _header(mine: int, other: int, table: int, sectors: int, entries: bytes) -> bytes:
    def packed(crc: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, mine, other, 34, sectors - 34,
            _identifier("disk").bytes_le, table, _ENTRIES, _ENTRY.size, zlib.crc32(entries),
        )  # fmt: skip

    return packed(zlib.crc32(packed(0))).ljust(SECTOR, b"\0")
