"""A cable that a test can pull: forwards TCP on loopback and can stall without a word, cut, and cut after n bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time


class TcpProxy:
    """`with TcpProxy(port) as proxy:` and connect to `proxy.port`.

    Args:
        port: where the real server listens on loopback.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.socket()
        # A pulled cable acknowledges nothing. A proxy's kernel does, as long as it has room: so it gets little.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(32)
        self.port: int = self._server.getsockname()[1]
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._budget: int | None = None
        self._stalled: set[socket.socket] = set()
        self._slamming = self._swallowing = 0
        self.forwarded_bytes = 0

    def __enter__(self) -> TcpProxy:
        self._spawn(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        self._flowing.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def stall(self) -> None:
        """Nothing is forwarded any more, and nothing is closed: what a pulled cable looks like from either end."""
        self._flowing.clear()

    def stall_present(self) -> None:
        """Stalls the connections there are; new ones work, as after a switch has learnt its tables anew."""
        with self._lock:
            self._stalled = set(self._sockets)

    def slam(self, count: int) -> None:
        """Hangs up on the next connections at once, like an sshd whose MaxStartups is reached."""
        self._slamming = count

    def swallow(self, count: int) -> None:
        """Takes the next connections and passes nothing on, like a forwarder whose board still boots."""
        self._swallowing = count

    def cut(self, *, reset: bool = False) -> None:
        """Closes every connection; with `reset` they end with RST instead of FIN."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for connection in sockets:
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def cut_after(self, byte_count: int) -> None:
        """Cuts once so many more bytes have come from the server."""
        self._budget = byte_count

    def _spawn(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name="tcp-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self._slamming > 0:
                self._slamming -= 1
                near.close()
                continue
            if self._swallowing > 0:
                self._swallowing -= 1
                with self._lock:
                    self._sockets.append(near)
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._sockets += [near, far]
            self._spawn(self._pump, near, far, False)
            self._spawn(self._pump, far, near, True)

    def _pump(self, source: socket.socket, sink: socket.socket, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._flowing.wait()
                while source in self._stalled and not self._closed:
                    time.sleep(0.05)
                if from_server and self._budget is not None:
                    data = data[: self._budget]
                    self._budget -= len(data)
                sink.sendall(data)
                self.forwarded_bytes += len(data)
                if from_server and self._budget == 0:
                    self._budget = None
                    self.cut()
                    return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
