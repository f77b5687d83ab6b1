"""What a detached measurement has measured, kept on the board until the host has read it.

A spool is one stream of frames (see `frames`; the very frames that a measurement sends over a link), cut into files
named by the number of the byte they begin with: ``spool.0000000000000000``, ``spool.0000000004194304``, … The host
asks for bytes from a number on; what lies before it has arrived there, so files that end before it are removed. A
reader may be given a part of a frame, and goes on where it stopped.

Nothing is synced to the medium: a spool outlives a lost link, and a power cut ends the measurement anyway. How much may
wait unread is the writer's business (`detached`).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from .durable import write_all
from .frames import Blob, Message, encode
from .problem import storage

PIECE_BYTES = 4 * 2**20


class SpoolWriter:
    """The end that writes; several threads may.

    Args:
        directory: where the files are; there is none yet.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._descriptor = -1
        self._room = 0
        self._over = False
        self.written = 0

    def write(self, message: Message, blob: Blob = b"", *, last: bool = False) -> None:
        """Append one frame; after the last one there are no more.

        Raises:
            Problem: ``disk-full`` or ``storage``.
        """
        head, tail = encode(message, blob)
        with self._lock, storage(str(self._directory)):
            if self._over:
                return
            self._over = last
            if self._room <= 0:
                self._turn_over()
            for part in (head, tail):
                view = memoryview(part).cast("B")
                write_all(self._descriptor, view)
                self.written += view.nbytes
                self._room -= view.nbytes

    def _turn_over(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        path = self._directory / f"spool.{self.written:016d}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._room = PIECE_BYTES


def read(directory: Path, *, offset: int, at_most: int) -> bytes:
    """Bytes from a number on, as many as there are and fit; empty when there are none yet."""
    found = bytearray()
    for begins, path in _files(directory):
        at = offset + len(found)
        if not begins <= at < begins + path.stat().st_size or len(found) >= at_most:
            continue
        with path.open("rb") as file:
            file.seek(at - begins)
            found += file.read(at_most - len(found))
    return bytes(found)


def size(directory: Path) -> int:
    """How many bytes have been written so far."""
    files = _files(directory)
    return files[-1][0] + files[-1][1].stat().st_size if files else 0


def forget(directory: Path, *, before: int) -> None:
    """Remove what ends before a byte; the last file stays, for it is being written to."""
    for begins, path in _files(directory)[:-1]:
        if begins + path.stat().st_size <= before:
            path.unlink()


def _files(directory: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.suffix[1:]), path) for path in directory.glob("spool.*"))
