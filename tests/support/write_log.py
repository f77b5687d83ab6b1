"""A disk after a power cut: what had been flushed is there, and of what came later anything may be.

QEMU keeps every write and flush of an emulated board's disk in order (`emulated.farm.start(write_log=…)`). From that
the medium can be made as it may be left by a cut before any of them: a disk with a write cache keeps what was written
before the last flush, and of each later write all, nothing, or some of its sectors, whatever their order. Where a long
write is broken off, the sector is torn, too: it has some of the new bytes, and the old ones behind or before them. A
write of one block of a file system breaks off between sectors: disks promise whole ones, and what is written alone and
in place, as U-Boot's variables and ext4's superblock are, counts on that. Format: linux/drivers/md/dm-log-writes.c.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
BLOCK = 4096
"""Bytes of a file system's block: a longer write is data or a journal, which must survive anything until a flush."""
_ENTRY = struct.Struct("<QQQQ")
_FLUSH, _DISCARD = 1, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write of the board, or a flush (then `size` is 0).

    Args:
        at: byte of the disk.
        data_at: byte of the log, where its data is.
    """

    at: int
    size: int
    data_at: int
    flush: bool


class WriteLog:
    """What was written to a disk.

    Args:
        path: the log, of a board that has ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writes: list[Write] = []
        with path.open("rb") as log:
            size, at = path.stat().st_size, SECTOR  # behind the superblock, which QEMU writes when it likes
            while at + SECTOR <= size:
                log.seek(at)
                first, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
                if flags & _DISCARD:
                    raise ValueError(f"{path}: the board discards sectors, which is not modelled here")
                write = Write(at=first * SECTOR, size=sectors * SECTOR, data_at=at + SECTOR, flush=bool(flags & _FLUSH))
                self.writes.append(write)
                at += SECTOR + write.size
        if not any(one.flush for one in self.writes):
            raise ValueError(f"{path} has no flush: it is no log of a disk that was written to")

    def at_risk(self, first: int, last: int) -> list[int]:
        """The entries of a part before which something is written and not flushed; the last is behind the part."""
        return [number for number in range(first + 1, last + 1) if self.writes[number - 1].size]

    def number_at(self, size_bytes: int) -> int:
        """How many entries the log had when it was so long."""
        return sum(one.data_at + one.size <= size_bytes for one in self.writes)


class Medium:
    """The disk's bytes, as far as they were flushed; goes forward only.

    Args:
        path: the disk, raw, as it was when the log began. It is changed.
        log: of what was written to it.
    """

    def __init__(self, path: Path, log: WriteLog) -> None:
        self.path = path
        self._log = log
        self._flushed = 0

    @contextlib.contextmanager
    def cut(self, number: int, chance: random.Random | None, *, honest: bool = True) -> Iterator[str]:
        """The disk after a cut before entry `number`, which must not be less than at the last call.

        Args:
            chance: what decides about what was not flushed; None: all of it is kept.
            honest: does the disk do what a flush asks it to? Else all that is in the log may be lost.

        Yields:
            What has become of the last writes, in words.
        """
        writes = self._log.writes[:number]
        flushed = max((at + 1 for at, one in enumerate(writes) if one.flush), default=0) if honest else self._flushed
        descriptor, log = os.open(self.path, os.O_RDWR), os.open(self._log.path, os.O_RDONLY)
        before: list[tuple[int, bytes]] = []
        try:
            for one in writes[self._flushed : flushed]:
                os.pwrite(descriptor, os.pread(log, one.size, one.data_at), one.at)
            self._flushed = max(self._flushed, flushed)
            pending = [one for one in writes[self._flushed :] if one.size]
            survive = torn = 0
            fate = "kept" if chance is None else chance.choice(("kept", "lost", "mixed", "mixed"))
            for one in pending:
                for first, size in _surviving(one.size, fate, chance):
                    at = one.at + first
                    before.append((at, os.pread(descriptor, size, at)))
                    os.pwrite(descriptor, os.pread(log, size, one.data_at + first), at)
                    survive += size
                    torn += (first % SECTOR > 0) + ((first + size) % SECTOR > 0)
            total = sum(one.size for one in pending)
            yield (
                f"{len(pending)} writes not flushed, {survive / SECTOR:.4g} of their {total // SECTOR} sectors survive"
                + (f", {torn} torn" if torn else "")
            )
        finally:
            for at, data in reversed(before):
                os.pwrite(descriptor, data, at)
            os.close(descriptor)
            os.close(log)


def _surviving(size: int, fate: str, chance: random.Random | None) -> list[tuple[int, int]]:
    """Runs of bytes of one write that have reached the medium: first and how many."""
    if chance is not None and fate == "mixed":
        fate = chance.choice(("kept", "lost", "torn"))
    if chance is None or fate != "torn":
        return [(0, size)] if fate == "kept" else []
    finest = 1 if size > BLOCK and chance.random() < 0.5 else SECTOR
    first, last = sorted(chance.randint(0, size // finest) * finest for _ in range(2))
    runs = [(first, last - first)] if chance.random() < 0.5 else [(0, first), (last, size - last)]
    return [run for run in runs if run[1]]
