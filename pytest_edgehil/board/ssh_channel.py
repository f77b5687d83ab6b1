"""One program on a board, over one SSH channel.

paramiko closes its channels in the same way whether the program ended or the cable was pulled. The difference is made
here, in `SshChannel._end`: an output has ended only if the far side said so, and a program has ended only if its exit
status came or the link still answers.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, NoReturn

import paramiko

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.redact import tail
from pytest_edgehil.board.transport import SEND_TIMEOUT_S, SIGNALLED, SLICE_BYTES
from pytest_edgehil.errors import DeadlineExceeded, LinkLost

if TYPE_CHECKING:
    from pytest_edgehil.board.ssh import SshTransport

_TAIL_BYTES = 8192
_BLOCKED_SLICE_S = 0.2  # how often a sender that waits for the program to read looks at its deadline and at stderr

_log = logging.getLogger("edgehil.board.ssh")


class _Bell:
    """Wakes whoever waits when paramiko puts something into a buffer or closes it.

    It stands in for a `threading.Event` in `BufferedPipe.set_event`. One event for two buffers would lose wake-ups:
    emptying one buffer clears it although the other has just been filled. A count cannot be cleared.
    """

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self.count = 0

    def set(self) -> None:
        with self._rung:
            self.count += 1
            self._rung.notify_all()

    def clear(self) -> None:
        """Called by paramiko when a buffer is empty; a count has nothing to clear."""

    def wait(self, seen: int, timeout_s: float) -> bool:
        """Waits until the count is no longer `seen`; whether that happened in time."""
        with self._rung:
            return self._rung.wait_for(lambda: self.count != seen, timeout_s)


class SshChannel:
    """Implements `transport.Channel`. Made by `SshTransport` only."""

    def __init__(
        self,
        link: SshTransport,
        channel: paramiko.Channel,
        *,
        name: str,
        what: str,
        secrets: tuple[str, ...] = (),
        keep_stderr: bool = False,
    ) -> None:
        self._link = link
        self._channel = channel
        self._name = name
        self._what = what
        self._secrets = secrets
        self._keep_stderr = keep_stderr
        self._stderr = bytearray()
        self._draining = threading.Lock()
        self._closing = threading.Lock()
        self._closed = ""
        self._status: int | None = None
        self._bell = _Bell()
        channel.settimeout(_BLOCKED_SLICE_S)
        channel.in_buffer.set_event(self._bell)  # type: ignore[arg-type]
        channel.in_stderr_buffer.set_event(self._bell)  # type: ignore[arg-type]

    # --- Channel -------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """See `transport.Channel.send`."""
        deadline = Deadline(timeout_s)
        if not self.feed(memoryview(data).cast("B"), deadline):
            self._expire(deadline)

    def receive(self, max_bytes: int, timeout_s: float) -> bytes:
        """See `transport.Channel.receive`."""
        return self.next(max_bytes, Deadline(timeout_s))

    def close_input(self) -> None:
        """See `transport.Channel.close_input`."""
        self._check_open()
        with self._link.translated(f"ending the input of {self._what}"):
            if not self._channel.closed:  # the program may have ended on its own
                self._channel.shutdown_write()

    def wait(self, timeout_s: float) -> int:
        """See `transport.Channel.wait`."""
        deadline = Deadline(timeout_s)
        while self.next(1 << 20, deadline):
            pass
        assert self._status is not None
        return self._status

    def close(self) -> None:
        """See `transport.Channel.close`."""
        if self._name and not self._closed and self._status is None and not self._channel.exit_status_ready():
            fate = self._link.kill(self._name)
            _log.debug("%s was closed while it ran; %s", self._what, fate)
        self._shut("the channel was closed")

    @property
    def stderr_tail(self) -> str:
        """See `transport.Channel.stderr_tail`."""
        self._drain_stderr()
        return bytes(self._stderr[-_TAIL_BYTES:]).decode("utf-8", "replace")

    # --- for SshTransport ----------------------------------------------------------------------------

    @property
    def stderr(self) -> bytes:
        """Everything from standard error if it is kept, otherwise its end."""
        return bytes(self._stderr)

    def feed(self, view: memoryview, deadline: Deadline) -> bool:
        """Sends all of `view`, at most `SLICE_BYTES` in one packet; False if `deadline` passed before that."""
        with self._link.sock.patience(deadline):
            while view:
                self._check_open()
                self._drain_stderr()
                if self._status is not None:  # it has ended, and the server may not have closed the channel yet
                    raise self._unread()
                try:
                    sent = self._channel.send(view[:SLICE_BYTES])  # type: ignore[arg-type]
                except TimeoutError:
                    if deadline.passed():
                        return False
                    continue
                except (OSError, EOFError, paramiko.SSHException) as exc:
                    if deadline.passed():
                        return False
                    raise self._unread() from exc
                if not sent:  # paramiko's way of saying that the channel is closed
                    raise self._unread()
                view = view[sent:]
        return True

    def next(self, max_bytes: int, deadline: Deadline) -> bytes:
        """The next output before `deadline`, ``b""`` at its proven end."""
        while True:
            self._check_open()
            if self._status is not None:
                return b""
            seen = self._bell.count
            ended = self._channel.eof_received or self._channel.closed  # looked at before the buffer, never after
            self._drain_stderr()
            if self._channel.recv_ready():
                # paramiko tells the board here that there is room again: that may be where a lost link shows first
                with self._link.translated(f"reading what {self._what} says"):
                    return self._channel.recv(max_bytes)
            if ended:
                self._status = self._end(deadline)
                return b""
            if not self._bell.wait(seen, deadline.left_s()):
                self._expire(deadline)

    # --- inside --------------------------------------------------------------------------------------

    def _end(self, deadline: Deadline) -> int:
        """The exit status of a program whose output has ended, or LinkLost if only the link has."""
        if not self._channel.status_event.wait(deadline.left_s()):
            self._expire(deadline)
        status = self._channel.exit_status
        # A status may overtake output that is still on its way, so it proves nothing alone. A server that closes the
        # channel without an end of file, or without a status, is asked whether it is still there.
        if (status < 0 or not self._channel.eof_received) and not self._link.answers():
            raise LinkLost(
                f"the link to {self._link.board_id} broke off before {self._briefly} had ended: {self._link.sock.lost}"
            )
        self._drain_stderr()
        _log.debug("%s ended with exit status %d", self._what, status)
        return status if status >= 0 else SIGNALLED

    @property
    def _briefly(self) -> str:
        """What runs here, for a message that names the board anyway."""
        return self._what.removesuffix(f" on {self._link.board_id}")

    def _drain_stderr(self) -> None:
        # Unread stderr uses up the channel's window, and in the end the program would block on it.
        if not self._channel.recv_stderr_ready() or not self._draining.acquire(blocking=False):
            return
        try:
            # a lost link is told by whoever receives or sends, who knows more
            with self._link.translated(f"reading the errors of {self._what}", harmless=True):
                while self._channel.recv_stderr_ready():
                    self._stderr += self._channel.recv_stderr(1 << 16)
                    if not self._keep_stderr:
                        del self._stderr[:-_TAIL_BYTES]
        finally:
            self._draining.release()

    def _unread(self) -> LinkLost:
        if self._link.sock.lost:
            return LinkLost(
                f"the link to {self._link.board_id} broke off while {self._briefly} was being fed: "
                f"{self._link.sock.lost}"
            )
        said = tail(self.stderr_tail.encode(), self._secrets) or "nothing"
        return LinkLost(f"{self._what} ended before it had read its input; it said: {said}")

    def _expire(self, deadline: Deadline) -> NoReturn:
        fate = self._link.kill(self._name) if self._name else "it was given up"
        said = tail(self.stderr_tail.encode(), self._secrets)
        self._shut("its deadline passed")
        raise DeadlineExceeded(
            f"{self._what} took longer than {deadline.timeout_s:g} s; {fate}"
            + (f"; it had said: {said}" if said else "")
        )

    def _check_open(self) -> None:
        if self._closed:
            raise LinkLost(f"{self._what} cannot be used any more: {self._closed}")

    def _shut(self, reason: str) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = reason
        self._bell.set()
        with self._link.translated(f"closing the channel of {self._what}", harmless=True):
            self._channel.close()
        self._link.forget(self)
