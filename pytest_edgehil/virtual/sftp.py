"""SFTP on the board's disk, and on nothing else of the host.

asyncssh confines names; here links are confined too: whatever leads out of the disk is refused. Relative names start
at the login's home, as with a real sshd.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from pytest_edgehil.virtual.ssh_library import asyncssh


class DiskServer(asyncssh.SFTPServer):
    """SFTP below a board's disk.

    Args:
        free_bytes: how large a file may become, None for as large as the host allows (fault disk-full).
    """

    def __init__(
        self, channel: asyncssh.SSHServerChannel[bytes], *, disk: Path, home: Path, free_bytes: Callable[[], int | None]
    ) -> None:
        super().__init__(channel, chroot=os.fsencode(disk))
        self._root = os.fsencode(disk.resolve())
        self._home = b"/" + os.fsencode(home.relative_to(disk))
        self._free_bytes = free_bytes

    def map_path(self, path: bytes) -> bytes:
        """Local path of a name; the directory that it is in must be below the disk, links resolved."""
        mapped = super().map_path(os.path.join(self._home, path))  # noqa: PTH118 - bytes
        self._confine(os.path.dirname(mapped) if mapped != self._root else mapped)  # noqa: PTH120
        return mapped

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        """Open a file below the disk."""
        self._confine(self.map_path(path))
        return super().open(path, pflags, attrs)

    def open56(self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs) -> Any:
        """Open a file below the disk (SFTP version 5 and 6)."""
        self._confine(self.map_path(path))
        return super().open56(path, desired_access, flags, attrs)

    def write(self, file_obj: object, offset: int, data: bytes) -> Any:
        """Write, unless the disk is full."""
        free_bytes = self._free_bytes()
        if free_bytes is not None and offset + len(data) > free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(file_obj, offset, data)

    def stat(self, path: bytes) -> Any:
        """Attributes of what a name leads to."""
        self._confine(self.map_path(path))
        return super().stat(path)

    def setstat(self, path: bytes, attrs: asyncssh.SFTPAttrs) -> Any:
        """Change attributes of what a name leads to."""
        self._confine(self.map_path(path))
        return super().setstat(path, attrs)

    def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """Entries of a directory."""
        self._confine(self.map_path(path))
        return super().scandir(path)

    def exit(self) -> Any:
        """The client is done. OpenSSH's sftp-server exits with 0 then, and scp insists on hearing of it."""
        channel = self.channel
        if not channel.is_closing():
            channel.exit(0)
        return super().exit()

    def _confine(self, local: bytes) -> None:
        real = os.path.realpath(local)
        if real != self._root and not real.startswith(self._root + b"/"):
            raise asyncssh.SFTPPermissionDenied("leads out of the board's disk")
