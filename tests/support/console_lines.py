"""The far ends of serial lines: a pty, a raw TCP port, and an RFC 2217 server (pyserial's) in front of a pty.

Each has `url`, `say` and `heard`; `go_away` and `come_back` stand in for an adapter or a terminal server that vanishes.
"""

from __future__ import annotations

import contextlib
import os
import pty
import select
import socket
import threading
import tty
from pathlib import Path
from typing import Protocol

import serial
import serial.rfc2217
from support.processes import until


class Line(Protocol):
    url: str

    def say(self, data: bytes) -> None: ...
    def heard(self, count: int) -> bytes: ...
    def go_away(self) -> None: ...
    def come_back(self) -> None: ...
    def close(self) -> None: ...


class PtyLine:
    """`url` is a link, as udev makes them: the device behind it changes when it comes back."""

    def __init__(self, directory: Path) -> None:
        self._link = directory / "ttyUSB0"
        self.url = str(self._link)
        self.come_back()

    def come_back(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(os.ttyname(self._slave))

    def say(self, data: bytes) -> None:
        os.write(self._master, data)

    def heard(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            assert select.select([self._master], [], [], 30)[0]
            got += os.read(self._master, count - len(got))
        return got

    def go_away(self) -> None:
        self._link.unlink()
        os.close(self._slave)
        os.close(self._master)

    def close(self) -> None:
        if self._link.is_symlink():
            self.go_away()


def _kept_port() -> socket.socket:
    """A port that is ours also while nobody listens on it: a socket that is bound to it, and never listens itself."""
    keeper = socket.socket()
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keeper.bind(("127.0.0.1", 0))
    return keeper


class SocketLine:
    """Like ser2net in raw mode: one client at a time, what is said while there is none is lost."""

    def __init__(self) -> None:
        self._keeper = _kept_port()
        self._port = self._keeper.getsockname()[1]
        self.come_back()
        self.url = f"socket://127.0.0.1:{self._port}"

    def come_back(self) -> None:
        self._client: socket.socket | None = None
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._thread = threading.Thread(target=self._accept, args=(self._server,), daemon=True)
        self._thread.start()

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._client, _ = server.accept()

    def _connected(self) -> socket.socket:
        return until(lambda: self._client)

    def say(self, data: bytes) -> None:
        self._connected().sendall(data)

    def heard(self, count: int) -> bytes:
        got = b""
        self._connected().settimeout(30)
        while len(got) < count:
            piece = self._connected().recv(count - len(got))
            assert piece, f"the line ended after {got!r}"
            got += piece
        return got

    def go_away(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        if self._client is not None:
            self._client.close()

    def close(self) -> None:
        self.go_away()
        self._keeper.close()


class Rfc2217Line:
    """The client talks RFC 2217 to pyserial's own server, which passes bytes to and from a pty."""

    def __init__(self, directory: Path) -> None:
        self._pty = PtyLine(directory)
        self._keeper = _kept_port()
        self._port = self._keeper.getsockname()[1]
        self.come_back()
        self.url = f"rfc2217://127.0.0.1:{self._port}?timeout=60"  # of negotiations; else 3 s

    def come_back(self) -> None:
        self._ending = threading.Event()
        self._ready = threading.Event()
        self._server = socket.create_server(("127.0.0.1", self._port))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.settimeout(0.05)
        while not self._ending.is_set():
            try:
                client, _ = self._server.accept()
            except TimeoutError:
                continue
            # a client that goes while something is on its way to it resets the connection
            with client, _PtyDevice(self._pty.url, timeout=0) as device, contextlib.suppress(ConnectionError):
                self._pump(client, device)

    def _pump(self, client: socket.socket, device: serial.Serial) -> None:
        manager = serial.rfc2217.PortManager(device, _Sender(client))
        self._ready.set()
        while not self._ending.is_set():
            readable, _, _ = select.select([client, device.fileno()], [], [], 0.05)
            if client in readable:
                data = client.recv(4096)
                if not data:
                    return
                device.write(b"".join(manager.filter(data)))
            if device.fileno() in readable:
                client.sendall(b"".join(manager.escape(device.read(4096))))

    def say(self, data: bytes) -> None:
        assert self._ready.wait(30)
        self._pty.say(data)

    def heard(self, count: int) -> bytes:
        return self._pty.heard(count)

    def go_away(self) -> None:
        self._ending.set()
        self._thread.join()
        self._server.close()

    def close(self) -> None:
        self.go_away()
        self._keeper.close()
        self._pty.close()


class _PtyDevice(serial.Serial):
    """A pty has no modem lines, but RFC 2217 tells the client how they are and lets it set them."""

    cts = dsr = ri = cd = False

    def _update_dtr_state(self) -> None: ...
    def _update_rts_state(self) -> None: ...


class _Sender:
    """What PortManager answers through."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client

    def write(self, data: bytes) -> None:
        self._client.sendall(data)
