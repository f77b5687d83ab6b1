"""Length-prefixed frames: ``EHF1`` | u32 BE length of JSON | u32 BE length of blob | JSON object | blob.

Rules: both lengths are checked against their limits before anything is allocated; the JSON is an object without NaN
or Infinity; end of file between two frames is a clean end, inside of one it is an error. Whoever breaks a rule is
not resynchronised with: the stream cannot be trusted any more (`Problem.fatal`).
The host has its own reader of this format (`board/wire.py`); a contract test holds the two against each other.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from .problem import Problem

MAGIC = b"EHF1"
HEADER = struct.Struct(">4sII")
MAX_JSON_BYTES = 2**20
MAX_BLOB_BYTES = 64 * 2**20

Message = dict[str, Any]
Blob = bytes | bytearray | memoryview


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def encode(message: Message, blob: Blob = b"") -> tuple[bytes, Blob]:
    """Head (header and JSON) and blob of one frame, to be written one after the other."""
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    size = memoryview(blob).nbytes
    if len(text) > MAX_JSON_BYTES or size > MAX_BLOB_BYTES:
        raise Problem("too-large", f"an answer of {len(text)} + {size} bytes does not fit into one frame")
    return HEADER.pack(MAGIC, len(text), size) + text, blob


class CutShort(Problem):
    """The stream ended in the middle of a frame: whoever wrote it is gone."""


class FrameReader:
    """Reads frames from a file descriptor.

    Args:
        descriptor: what to read from.
        on_bytes: called whenever bytes came in; any byte is a sign of life, not whole frames only.
    """

    def __init__(self, descriptor: int, *, on_bytes: Callable[[], None] | None = None) -> None:
        self._descriptor = descriptor
        self._on_bytes = on_bytes

    def read(self) -> tuple[Message, bytearray] | None:
        """The next frame; None at a clean end of the stream.

        Raises:
            Problem: ``bad-frame``, fatal.
        """
        header = self._exactly(HEADER.size, at_boundary=True)
        if header is None:
            return None
        magic, json_size, blob_size = HEADER.unpack(header)
        if magic != MAGIC:
            raise Problem("bad-frame", f"expected a frame that begins with {MAGIC!r}, got {magic!r}", fatal=True)
        if json_size > MAX_JSON_BYTES or blob_size > MAX_BLOB_BYTES:
            raise Problem(
                "bad-frame",
                f"a frame announces {json_size} + {blob_size} bytes; the limits are "
                f"{MAX_JSON_BYTES} + {MAX_BLOB_BYTES}",
                fatal=True,
            )
        text = self._exactly(json_size)
        blob = self._exactly(blob_size)
        assert text is not None
        assert blob is not None
        try:
            message = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as exc:
            raise Problem("bad-frame", f"a frame's JSON cannot be read: {exc}", fatal=True) from exc
        if not isinstance(message, dict):
            raise Problem("bad-frame", f"a frame's JSON is {type(message).__name__}, not an object", fatal=True)
        return message, blob

    def _exactly(self, size: int, *, at_boundary: bool = False) -> bytearray | None:
        buffer = bytearray(size)
        view = memoryview(buffer)
        filled = 0
        while filled < size:
            count = os.readv(self._descriptor, [view[filled:]])
            if count == 0:
                if at_boundary and filled == 0:
                    return None
                raise CutShort("bad-frame", f"the stream ended {size - filled} bytes before its frame did", fatal=True)
            if self._on_bytes is not None:
                self._on_bytes()
            filled += count
        return buffer


class FrameWriter:
    """Writes frames to a file descriptor; several threads may write."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, message: Message, blob: Blob = b"", *, wait_s: float = -1) -> bool:
        """Write one frame.

        Args:
            message: the JSON object.
            blob: raw bytes beside it.
            wait_s: give up when another thread has not finished its frame after so long (a stalled link); -1 never.

        Returns:
            False when it gave up.
        """
        head, tail = encode(message, blob)
        if not self._lock.acquire(timeout=wait_s):
            return False
        try:
            for part in (head, tail):
                view = memoryview(part).cast("B")
                while view.nbytes:
                    view = view[os.write(self._descriptor, view) :]
        finally:
            self._lock.release()
        return True


def error_message(problem: Problem, request: object = None) -> Message:
    """The error frame for a problem; `request` is the id of the request that it answers, if any."""
    return {"type": "error", "id": request, "code": problem.code, "message": problem.message[:8000]}


def claim_standard_streams() -> tuple[int, int]:
    """Take stdin and stdout for frames and point everybody else's stdout to stderr.

    Runtimes print to stdout when they feel like it; one such line inside the stream would end the session.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return incoming, outgoing
