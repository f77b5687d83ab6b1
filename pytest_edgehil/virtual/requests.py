"""What the board's own programs ask of the world outside: a reboot, halting, a signature.

They write one line to a fifo (see `shims`); fields are separated by tabs.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pytest_edgehil.virtual.journal import Journal
from pytest_edgehil.virtual.shims import REQUEST_FIFO
from pytest_edgehil.virtual.sysroot import put


class Asked(Protocol):
    """Who is asked: the machine."""

    def reboot(self, *, tryboot: bool, asker: int) -> None:
        """Reboot, once the process that asks for it has ended."""

    def halt(self, *, reason: str, asker: int) -> None:
        """Shut down for good, once the process that asks for it has ended."""


class Requests:
    """Reads the fifo of requests while the board runs."""

    def __init__(
        self,
        disk: Path,
        loop: asyncio.AbstractEventLoop,
        asked: Asked,
        journal: Journal,
        *,
        sign: Callable[[bytes], bytes],
        public_key: bytes,
    ) -> None:
        self._disk = disk
        self._loop = loop
        self._asked = asked
        self._journal = journal
        self._sign = sign
        self._public_key = public_key
        self._fifo: int | None = None
        self._rest = b""

    def open(self) -> None:
        """Listen. Opened for writing too, so that it never reports an end of file."""
        self.close()
        self._fifo = os.open(self._disk / REQUEST_FIFO, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.add_reader(self._fifo, self._read)

    def close(self) -> None:
        """Stop listening."""
        self._rest = b""
        if self._fifo is not None:
            self._loop.remove_reader(self._fifo)
            os.close(self._fifo)
            self._fifo = None

    def _read(self) -> None:
        assert self._fifo is not None
        try:
            self._rest += os.read(self._fifo, 65536)
        except BlockingIOError:
            return
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            verb, *arguments = os.fsdecode(line).split("\t")
            self._serve(verb, arguments)

    def _serve(self, verb: str, arguments: list[str]) -> None:
        match verb, arguments:
            case "reboot", [asker, what] if asker.isdecimal():
                self._asked.reboot(tryboot=what == "tryboot", asker=int(asker))
            case "poweroff", [asker] if asker.isdecimal():
                self._asked.halt(reason="poweroff", asker=int(asker))
            case "sign" | "pubkey", [answer, source, target]:
                self._answer(Path(answer), self._crypto(verb, Path(source), Path(target)))
            case _:
                self._journal.write("request-refused", request=f"{verb} {arguments}"[:200])

    def _crypto(self, verb: str, source: Path, target: Path) -> str:
        try:
            if verb == "sign":
                message = source.read_bytes()
                put(target, self._sign(message))
                self._journal.write("attest", sha256=hashlib.sha256(message).hexdigest())
            else:
                put(target, self._public_key)
        except OSError as problem:
            return f"{problem.filename}: {problem.strerror}"
        return "ok"

    def _answer(self, fifo: Path, text: str) -> None:
        try:
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as problem:
            if problem.errno not in {errno.ENXIO, errno.ENOENT}:  # whoever asked is gone
                raise
            return
        try:
            os.write(descriptor, text.encode() + b"\n")
        finally:
            os.close(descriptor)
