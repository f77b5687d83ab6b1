"""The blocks of a file for everybody who pushes it: read once, however many boards it goes to.

Whoever is foremost reads; the blocks behind are kept for a while for those who follow. Who has fallen further behind
reads again, from the kernel's cache in all likelihood. Nothing is hashed here while it is sent: no board takes a file
for whole that does not have the digest which it was told, and `Blocks.verify` says afterwards whether the file on the
host is to blame.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import Artifact

BLOCK_BYTES = 2**20
KEPT_BLOCKS = 12
AHEAD_BLOCKS = 8


class Blocks:
    """A file in blocks, safe for several threads; a context manager.

    Args:
        artifact: whose file.
        block_bytes: size of all blocks but the last.
        kept: so many blocks stay in memory.
        ahead: so many are read before they are asked for, by each of those who send them.

    Raises:
        CorruptArtifact: it cannot be read.
    """

    def __init__(
        self, artifact: Artifact, *, block_bytes: int = BLOCK_BYTES, kept: int = KEPT_BLOCKS, ahead: int = AHEAD_BLOCKS
    ) -> None:
        self.block_bytes = block_bytes
        self.ahead = ahead
        self.count = -(-artifact.size_bytes // block_bytes)
        self._artifact = artifact
        self._kept = kept
        self._blocks: dict[int, bytes] = {}
        self._next = 0
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(artifact.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as problem:
            raise CorruptArtifact(f"{artifact.path}: cannot be read: {problem.strerror}") from problem

    def block(self, number: int) -> bytes:
        """One block.

        Raises:
            CorruptArtifact: the file cannot be read, or is shorter than it was.
        """
        with self._lock:
            while self._next <= number:
                self._take_next()
            found = self._blocks.get(number)
        return self._at(number) if found is None else found

    def verify(self) -> None:
        """Is the file still what its digest says?

        Raises:
            CorruptArtifact: it is not.
        """
        artifact = self._artifact
        (found,) = self.prefixes([artifact.size_bytes])
        longer = os.pread(self._descriptor, 1, artifact.size_bytes)
        if f"sha256:{found}" != artifact.digest or longer:
            said = "is longer than it was" if longer else f"hashes to sha256:{found}, expected {artifact.digest}"
            raise CorruptArtifact(f"{artifact.path}: the file {said}; build or fetch it again")

    def prefixes(self, sizes: Sequence[int]) -> list[str]:
        """SHA-256 of the first so many bytes, hexadecimal; `sizes` ascend and do not exceed the file.

        Raises:
            CorruptArtifact: the file cannot be read.
        """
        hashing, done, found = hashlib.sha256(), 0, []
        for size in sizes:
            while done < size:
                data = self._read(min(BLOCK_BYTES, size - done), done)
                hashing.update(data)
                done += len(data)
            found.append(hashing.hexdigest())
        return found

    def sample(self, size: int) -> bytes:
        """Bytes from the middle of the file."""
        whole = self._artifact.size_bytes
        return self._read(min(size, whole), max(0, (whole - size) // 2))

    def close(self) -> None:
        """Close the file. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take_next(self) -> None:
        number = self._next
        self._blocks[number] = self._at(number)
        self._blocks.pop(number - self._kept, None)
        self._next += 1

    def _at(self, number: int) -> bytes:
        start = number * self.block_bytes
        return self._read(min(self.block_bytes, self._artifact.size_bytes - start), start)

    def _read(self, size: int, start: int) -> bytes:
        path = self._artifact.path
        try:
            data = os.pread(self._descriptor, size, start)
            while len(data) < size and (more := os.pread(self._descriptor, size - len(data), start + len(data))):
                data += more
        except OSError as problem:
            raise CorruptArtifact(f"{path}: cannot be read: {problem.strerror}") from problem
        if len(data) != size:
            raise CorruptArtifact(
                f"{path}: the file ends before its {self._artifact.size_bytes} bytes, so it no longer hashes to "
                f"{self._artifact.digest}; build or fetch it again"
            )
        return data
