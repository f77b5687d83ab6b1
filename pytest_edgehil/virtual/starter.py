"""What a warden and whoever started it have between them: a lock, one line in, one line out.

For the wardens of virtual and of emulated boards. Only the standard library: a warden must stay small.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path


def hold_lock(path: Path, *, wait_s: float) -> bool:
    """Hold a board's lock for as long as this process, or one that inherits it, lives; False if somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        else:
            return True


def first_line() -> bytes:
    """What the starter sends; empty when it went away before it had sent it."""
    data = b""
    while not data.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            return b""
        data += piece
    return data


def report(answer: dict[str, object]) -> None:
    """Tell the starter."""
    with contextlib.suppress(BrokenPipeError):  # it no longer wants to know
        os.write(1, json.dumps(answer).encode() + b"\n")


def silence_stdout() -> None:
    """Nothing more is said to the starter."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, 1)
    os.close(null)
