"""The serial console: a pty whose other end a test opens like ``/dev/ttyUSB0``.

As on a UART, what is sent while nobody listens is lost. So whoever opens the console never reads the panic of
somebody before him. Input is a minimal getty: it greets whoever opens the line, it echoes, and every line that is
typed ends in a new login prompt. The pty is in packet mode (tty_ioctl(2)), which tells when whoever listens throws away
what he has not read, as pyserial does while it opens a line: on a busy host the greeting may be among it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import select
import struct
import termios
import time
import tty
from collections.abc import Callable

BACKLOG_BYTES = 256 * 1024
GREETING_DELAY_S = 0.1


class Console:
    """The board's side of the console. `poll` must be called some times a second: it reads input and writes backlog.

    The master is not registered with an event loop on purpose: it reports a hang-up for as long as nobody listens,
    which no selector can be told to ignore, and a loop would spin.
    """

    def __init__(self) -> None:
        self._master, slave = pty.openpty()
        try:
            tty.setraw(slave)
            fcntl.ioctl(self._master, termios.TIOCPKT, struct.pack("i", 1))
            self.path = os.ttyname(slave)
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        self._backlog = bytearray()
        self._line = bytearray()
        self._prompt: Callable[[], str] | None = None
        self._greeted = False
        self._seen_at_s: float | None = None

    def listened_to(self) -> bool:
        """Whether somebody has the other end open."""
        poller = select.poll()
        poller.register(self._master, 0)
        return not any(events & select.POLLHUP for _, events in poller.poll(0))

    def write(self, text: str) -> None:
        r"""Send text; ``\n`` becomes ``\r\n``. Dropped when nobody listens, or when a listener lags by 256 KiB."""
        if not self.listened_to():
            self._backlog.clear()
            return
        self._backlog += text.replace("\n", "\r\n").encode()
        del self._backlog[BACKLOG_BYTES:]
        self._flush()

    def prompt(self, text: Callable[[], str] | None) -> None:
        """Answer every line of input with this text; None answers nothing: nobody is there."""
        self._prompt = text
        self._greeted = self._greeted or (text is not None and self.listened_to())  # a boot has just said it
        self._line.clear()

    def silence(self) -> None:
        """Power is gone: nothing more comes, not even what was about to."""
        self._backlog.clear()
        self.prompt(None)

    def poll(self) -> None:
        """Read what was typed, write what is left to write, greet who has come."""
        if not self.listened_to():
            self._greeted, self._seen_at_s = False, None
            return
        typed = self._typed()
        self._greet()
        if self._backlog:
            self._flush()
        if self._prompt is None:
            return
        for byte in typed.replace(b"\r", b"\n"):
            if byte == 0x0A:
                name = self._line.decode(errors="replace").strip()
                self._line.clear()
                refusal = f"Password:\n\nLogin incorrect\n{self._prompt()}" if name else self._prompt()
                self.write("\n" + refusal)
            elif len(self._line) < 256:
                self._line.append(byte)
                self.write(chr(byte) if 0x20 <= byte < 0x7F else "")

    def _typed(self) -> bytes:
        """What was typed since the last time; who has thrown away what he had not read has not been greeted."""
        while True:
            try:
                packet = os.read(self._master, 4096)
            except BlockingIOError:
                return b""
            except OSError as problem:
                if problem.errno != errno.EIO:  # EIO: nobody listens
                    raise
                return b""
            if not packet or packet[0] == termios.TIOCPKT_DATA:
                return packet[1:]
            if packet[0] & termios.TIOCPKT_FLUSHREAD:
                self._greeted = False

    def _greet(self) -> None:
        """Greet who has opened the line, as getty does on carrier, but give him time to set the line up first."""
        now_s = time.monotonic()
        if self._seen_at_s is None:
            self._seen_at_s = now_s
        if not self._greeted and self._prompt is not None and now_s - self._seen_at_s >= GREETING_DELAY_S:
            self._greeted = True
            self.write(f"\n{self._prompt()}")

    def close(self) -> None:
        """Close the pty: listeners read end of file."""
        os.close(self._master)

    def _flush(self) -> None:
        try:
            while self._backlog:
                del self._backlog[: os.write(self._master, self._backlog)]
        except BlockingIOError:
            return  # the listener lags; `poll` goes on
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            self._backlog.clear()
