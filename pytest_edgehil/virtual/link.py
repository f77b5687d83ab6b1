"""The board's network link: the listener, every connection through it, and what can go wrong with them.

It stands between the TCP sockets and the SSH server as a protocol inside a protocol, in the place where a relay would
stand, and costs a count and a call while no fault is active. A fault acts on bytes as they pass: a connection can be
reset after an exact number of them, fall silent, or run at a rate.

On loopback nothing can be lost on the way, so two things differ from a real network: a board without power refuses
connections (a real one does not answer), and the kernel still acknowledges what a stalled connection does not read,
as far as its buffers go.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

HOST = "127.0.0.1"
HIGH_WATER_BYTES = 128 * 1024
SLICE_S = 0.02


@dataclass(slots=True, eq=False)
class Tripwire:
    """Something that happens once so many more bytes have come in.

    Args:
        remaining_bytes: the byte with this number is the last to arrive before `fire`.
    """

    remaining_bytes: int
    fire: Callable[[], None]


class Link:
    """The link of one board. The SSH server takes it as the tunnel to listen on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, port: int) -> None:
        self._loop = loop
        # Bound, never listening: it keeps the port ours while the link is down, and connections are refused.
        self._placeholder = _bound(port)
        self.port: int = self._placeholder.getsockname()[1]
        self._factory: Callable[[], asyncio.Protocol] | None = None
        self._server: asyncio.Server | None = None
        self.wires: set[Wire] = set()
        self.tripwires: list[Tripwire] = []
        self.bytes_in = 0
        self.bytes_out = 0
        self.rate_bytes_per_s: float | None = None
        self.on_connections: Callable[[], None] = lambda: None
        self._busy_until = {"in": 0.0, "out": 0.0}

    async def create_server(self, factory: Callable[[str, int], Any], _host: str, _port: int) -> Link:
        """What asyncssh asks of a tunnel: make the server protocol of every connection with `factory`."""
        self._factory = lambda: cast("asyncio.Protocol", factory("", 0))
        return self

    def set_tunnel(self, _tunnel: object) -> None:
        """What asyncssh asks of a listener over a tunnel it opened itself; this one it did not."""

    async def open(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = await self._loop.create_server(self._accept, sock=_bound(self.port), backlog=128)

    def refuse(self) -> None:
        """Refuse new connections; those that exist live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    @property
    def accepting(self) -> bool:
        """Whether new connections are accepted."""
        return self._server is not None

    def reset(self) -> None:
        """Reset every connection (TCP RST): what was under way either way is lost."""
        for wire in tuple(self.wires):
            wire.reset()

    def stall(self, wires: Iterable[Wire] | None = None) -> tuple[Wire, ...]:
        """Let connections fall silent; returns those it hit."""
        hit = tuple(self.wires if wires is None else wires)
        for wire in hit:
            wire.stalled = True
        return hit

    def resume(self, wires: Iterable[Wire]) -> None:
        """Let stalled connections go on, with everything that was kept back."""
        for wire in wires:
            wire.resume()

    def set_rate(self, rate_bytes_per_s: float | None) -> None:
        """Run at a rate, in either direction, or at full speed."""
        self.rate_bytes_per_s = rate_bytes_per_s
        for wire in tuple(self.wires):
            wire.pump()

    def slot(self, direction: str, size_bytes: int, rate: float) -> float:
        """Loop time at which so many bytes have passed; connections share the rate."""
        start = max(self._loop.time(), self._busy_until[direction])
        self._busy_until[direction] = start + size_bytes / rate
        return self._busy_until[direction]

    def close(self) -> None:
        """Reset everything and give the port up."""
        self.refuse()
        self.reset()
        self._placeholder.close()

    async def wait_closed(self) -> None:
        """What asyncssh asks of a listener."""

    def get_port(self) -> int:
        """What asyncssh asks of a listener."""
        return self.port

    def _accept(self) -> Wire:
        if self._factory is None:  # pragma: no cover - the SSH server is up before the link is opened
            raise RuntimeError("the link was opened before a server listened on it")
        return Wire(self, self._factory(), self._loop)


class Wire(asyncio.Protocol):
    """One connection: the socket on one side, the SSH server's protocol on the other."""

    def __init__(self, link: Link, inner: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self.link = link
        self.loop = loop
        self.stalled = False
        self.gone = False
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._inward = _Direction(self, "in", self._arrive, self._hold_reading)
        self._outward = _Direction(self, "out", self._depart, self._hold_writing)

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self.link.wires.add(self)
        self.link.on_connections()
        self._inner.connection_made(Tap(self, self._transport))

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._inward.put(data)

    def eof_received(self) -> bool | None:
        """The client is done sending."""
        return None if self.stalled else self._inner.eof_received()

    def connection_lost(self, problem: Exception | None) -> None:
        """The connection is gone."""
        self.gone = True
        self.link.wires.discard(self)
        self.link.on_connections()
        self._inner.connection_lost(problem)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._inner.resume_writing()

    # --- called by the SSH server, through `Tap`

    def send(self, data: bytes) -> None:
        """Bytes for the client."""
        if not (self.gone or self._closing):
            self._outward.put(data)

    def finish(self) -> None:
        """Close once everything has been sent; a stalled connection stays open, silently."""
        self._closing = True
        if self._transport is not None and not self.stalled and self._outward.empty:
            self._transport.close()

    def drop(self) -> None:
        """Close at once; a stalled connection stays open, silently: nothing comes through, not even the end."""
        self._closing = True
        if self._transport is not None and not self.stalled:
            self._transport.abort()

    # --- faults

    def reset(self) -> None:
        """Reset the connection."""
        if self._transport is not None and not self.gone:
            self.gone = True
            self._inward.clear()
            self._outward.clear()
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                # lingering for 0 s makes close() discard what is unsent and send a RST (socket(7))
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def resume(self) -> None:
        """Go on after a stall."""
        self.stalled = False
        self.pump()
        if self._closing and not self.gone:
            self.finish()

    def pump(self) -> None:
        """Pass on what waits, as far as rate and stall allow."""
        self._inward.pump()
        self._outward.pump()

    def _arrive(self, data: bytes) -> None:
        link = self.link
        while not self.gone:
            trip = min(link.tripwires, key=lambda wire: wire.remaining_bytes, default=None)
            if trip is None or trip.remaining_bytes > len(data):
                self._pass_in(data)
                return
            # one fires within this piece: exactly its bytes arrive before
            head, data = data[: trip.remaining_bytes], data[trip.remaining_bytes :]
            link.tripwires.remove(trip)
            if head:
                self._pass_in(head)
            trip.fire()
            if self.stalled:
                self._inward.put_back(data)
                return
            if not data:
                return

    def _pass_in(self, data: bytes) -> None:
        self.link.bytes_in += len(data)
        for trip in self.link.tripwires:
            trip.remaining_bytes -= len(data)
        self._inner.data_received(data)

    def _depart(self, data: bytes) -> None:
        if self._transport is not None and not self.gone:
            self.link.bytes_out += len(data)
            self._transport.write(data)
            if self._closing and self._outward.empty:
                self._transport.close()

    def _hold_reading(self, hold: bool) -> None:
        if self._transport is not None and not self.gone:
            (self._transport.pause_reading if hold else self._transport.resume_reading)()

    def _hold_writing(self, hold: bool) -> None:
        if not self.gone:
            (self._inner.pause_writing if hold else self._inner.resume_writing)()


class _Direction:
    """One direction of a wire: a queue that is empty and skipped unless the link is slow or silent."""

    def __init__(self, wire: Wire, name: str, deliver: Callable[[bytes], None], hold: Callable[[bool], None]) -> None:
        self._wire, self._name, self._deliver, self._hold = wire, name, deliver, hold
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._held = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def empty(self) -> bool:
        return not self._queue

    def put(self, data: bytes) -> None:
        if not self._queue and not self._wire.stalled and self._wire.link.rate_bytes_per_s is None:
            self._deliver(data)
            return
        self._queue.append(bytes(data))
        self._grow(len(data))
        self.pump()

    def put_back(self, data: bytes) -> None:
        if data:
            self._queue.appendleft(data)
            self._grow(len(data))

    def clear(self) -> None:
        self._queue.clear()
        self._size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pump(self) -> None:
        wire = self._wire
        while self._queue and not wire.stalled and not wire.gone:
            rate = wire.link.rate_bytes_per_s
            if rate is None:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                self._deliver(self._take(len(self._queue[0])))
            else:
                if self._timer is None:
                    size = min(len(self._queue[0]), max(1, int(rate * SLICE_S)))
                    self._timer = wire.loop.call_at(wire.link.slot(self._name, size, rate), self._due, size)
                return

    def _due(self, size: int) -> None:
        self._timer = None
        if self._queue and not self._wire.stalled and not self._wire.gone:
            self._deliver(self._take(min(size, len(self._queue[0]))))
            self.pump()

    def _take(self, size: int) -> bytes:
        head = self._queue.popleft()
        if size < len(head):
            self._queue.appendleft(head[size:])
            head = head[:size]
        self._size -= len(head)
        if self._held and self._size < HIGH_WATER_BYTES // 2:
            self._held = False
            self._hold(False)
        return head

    def _grow(self, size: int) -> None:
        self._size += size
        if not self._held and self._size > HIGH_WATER_BYTES:
            self._held = True
            self._hold(True)


class Tap(asyncio.Transport):
    """What the SSH server sees as its transport."""

    def __init__(self, wire: Wire, transport: asyncio.Transport) -> None:
        super().__init__()
        self._wire = wire
        self._beneath = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Of the socket beneath."""
        return self._beneath.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        self._wire.send(cast("bytes", data))

    def is_closing(self) -> bool:
        """Whether the connection is being closed."""
        return self._wire.gone or self._beneath.is_closing()

    def close(self) -> None:
        """Close after sending what waits."""
        self._wire.finish()

    def abort(self) -> None:
        """Close at once."""
        self._wire.drop()


def _bound(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((HOST, port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock
