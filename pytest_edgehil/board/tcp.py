"""The TCP connection under an SSH link: no Nagle delay, and a far side that falls silent is noticed.

paramiko reads from its socket in slices of 0.1 s for as long as the link exists, so the socket itself is the one place
that can tell in bounded time that nothing comes any more, whoever is waiting for whatever. It also remembers why the
link was lost, which paramiko reduces to an end of file.

Silence is no proof on a slow link: the board's answer waits behind what we are sending it. So silence is borne longer
while much is on its way, unless TCP itself gets no acknowledgements any more, which is what a pulled cable looks like.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.errors import ConnectFailed

_SLOWEST_BYTES_PER_S = 16_000  # a link below this counts as dead while it carries a push
_MOST_ON_ITS_WAY_BYTES = 2 << 20  # the window that OpenSSH and asyncssh grant: more is never under way
_EARLY_BYTES = 16_384  # key exchange, login and the first command


class WatchedSocket(socket.socket):
    """A connected socket that knows when it last heard something, and why it is lost.

    Attributes:
        silence_s: without a byte for so long, the link counts as dead; the one who sets it (`watch`) sees to it that
            a healthy far side always has something to say.
        lost: why the link is lost, or empty.
        heard_bytes: how much has come in.
        sent_bytes: how much has gone out.
        answered_bytes: so much of it has reached the board for sure, since it has answered what came behind.
    """

    silence_s: float = math.inf
    lost: str = ""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected.family, connected.type, connected.proto, fileno=connected.detach())
        self.heard_bytes = 0
        self.sent_bytes = 0
        self.answered_bytes = 0
        self._hurried = False
        self._acknowledged_bytes = 0
        self._heard_at = self._acknowledged_at = time.monotonic()
        self._patience = threading.local()

    @contextlib.contextmanager
    def patience(self, deadline: Deadline) -> Iterator[None]:
        """Within it, this thread's writes give up the link if it takes nothing and `deadline` has passed."""
        self._patience.deadline = deadline
        try:
            yield
        finally:
            self._patience.deadline = None

    def watch(self, silence_s: float) -> None:
        """From now on, `silence_s` without a byte means that the link is dead."""
        self._heard_at = self._acknowledged_at = time.monotonic()
        self.silence_s = silence_s

    @contextlib.contextmanager
    def hurry(self, silence_s: float) -> Iterator[None]:
        """Within it, silence is borne for `silence_s` at most, whatever is on its way."""
        usual_s, self.silence_s, self._hurried = self.silence_s, min(self.silence_s, silence_s), True
        try:
            yield
        finally:
            self.silence_s, self._hurried = usual_s, False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        """Like `socket.recv`; raises ConnectionAbortedError when the far side has been silent for too long."""
        try:
            data = super().recv(size, flags)
        except TimeoutError:
            silent_s = self._too_silent_s(time.monotonic())
            if silent_s:
                raise self._given_up(f"nothing was heard from the board for {silent_s:.0f} s") from None
            raise
        except OSError as exc:
            self._lose(exc.strerror or str(exc))
            raise
        if data:
            self._heard_at = time.monotonic()
            self.heard_bytes += len(data)
            if self.heard_bytes < _EARLY_BYTES:
                # Until its first command sshd keeps Nagle's algorithm on: it would wait for our delayed acknowledgement
                # of one message, 40 ms, before it sends the next. The setting does not last, hence every time (tcp(7)).
                self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        else:
            self._lose("the board closed the connection")
        return data

    def send(self, data: bytes, flags: int = 0, /) -> int:  # type: ignore[override]
        """Like `socket.send`; raises ConnectionAbortedError when `patience` is at its end."""
        try:
            sent = super().send(data, flags)
        except TimeoutError:
            deadline: Deadline | None = getattr(self._patience, "deadline", None)
            if deadline is not None and deadline.passed():
                # Part of a packet may be out: nothing sensible can follow it, so the link ends here.
                raise self._given_up(f"the link took no more data within {deadline.timeout_s:g} s") from None
            raise
        except OSError as exc:
            self._lose(exc.strerror or str(exc))
            raise
        self.sent_bytes += sent
        return sent

    def _too_silent_s(self, now: float) -> float:
        """For how long the far side has been silent if that is too long, otherwise 0."""
        silent_s = now - self._heard_at
        (unacknowledged,) = struct.unpack("i", fcntl.ioctl(self.fileno(), termios.TIOCOUTQ, b"\0" * 4))
        if self.sent_bytes - unacknowledged != self._acknowledged_bytes:
            self._acknowledged_bytes = self.sent_bytes - unacknowledged
            self._acknowledged_at = now
        stuck = unacknowledged > 0 and now - self._acknowledged_at > self.silence_s
        on_its_way = min(self.sent_bytes - self.answered_bytes, _MOST_ON_ITS_WAY_BYTES)
        borne_s = self.silence_s
        if not self._hurried and not stuck:
            borne_s += on_its_way / _SLOWEST_BYTES_PER_S
        return silent_s if silent_s > borne_s else 0.0

    def _given_up(self, reason: str) -> ConnectionAbortedError:
        self._lose(reason)
        with contextlib.suppress(OSError):  # it may be gone already
            self.shutdown(socket.SHUT_RDWR)
        return ConnectionAbortedError(errno.ECONNABORTED, reason)

    def _lose(self, reason: str) -> None:
        self.lost = self.lost or reason  # the first reason is the cause; what follows are its consequences


def dial(host: str, port: int, *, board_id: str, deadline: Deadline) -> WatchedSocket:
    """Opens the TCP connection.

    Raises:
        ConnectFailed: saying whether the name is unknown, nobody listens, or nobody answers.
    """
    where = f"{board_id} at {host}:{port}"
    try:
        connected = socket.create_connection((host, port), timeout=max(deadline.left_s(), 0.001))
    except socket.gaierror as exc:
        raise ConnectFailed(
            f"{board_id}: the host name {host!r} does not resolve ({exc.strerror}); check ssh.host in the lab file"
        ) from exc
    except ConnectionRefusedError as exc:
        raise ConnectFailed(
            f"{where} refused the connection: the board is up, but nothing listens on that port; "
            "is its SSH server running, and is ssh.port right?"
        ) from exc
    except TimeoutError as exc:
        raise ConnectFailed(
            f"{where} timed out: no answer within {deadline.timeout_s:g} s; is the board powered and on the network?"
        ) from exc
    except OSError as exc:
        raise ConnectFailed(f"{where} cannot be reached: {exc.strerror or exc}") from exc
    # A request and its answer are small packets back and forth: with Nagle's algorithm each costs 40 ms.
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return WatchedSocket(connected)
