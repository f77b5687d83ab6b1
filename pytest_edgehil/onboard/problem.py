"""The one exception that crosses the wire: a code that the host maps to an error type, and a message for people."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

VERSION = 1
"""Version of the protocol; the host refuses another one."""


class Problem(Exception):
    """Something that the host must hear about.

    Args:
        code: one of the codes in ``board/trouble.py`` on the host.
        message: lower case: what, where, observed, expected.
        fatal: the stream cannot be trusted any more; the program says so and exits.
    """

    def __init__(self, code: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""EFBIG: a file size limit (RLIMIT_FSIZE, FAT32's 4 GiB) stops a write like a full disk does."""


@contextlib.contextmanager
def storage(what: str) -> Iterator[None]:
    """Translate what a file system may answer while `what` is written."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise Problem("disk-full", f"no space left on the board while writing {what}: {exc.strerror}") from exc
        raise Problem("storage", f"cannot write {what}: {exc.strerror or exc} ({exc.filename})") from exc
