"""A link to a board over SSH (paramiko), with the settings that were measured to be fastest.

- The socket is ours (`tcp`): TCP_NODELAY, and silence on it is noticed. The two GCM ciphers come first (no separate
  integrity code per packet) and curve25519 first in the key exchange.
- The board's pinned host key is checked before anything is sent to log in. No agent, no ``~/.ssh``, no passwords.
- Every few seconds the board is asked for a sign of life, so that on a healthy link something always arrives. A link
  that stalls without a word is therefore lost within `silence_s`, whoever is waiting for whatever.
- Programs run on a leash (see `leash`), so that a deadline really ends them.

Library errors become ours in `SshTransport.translated` and in `login`, nowhere else.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator

import paramiko

from pytest_edgehil.board import leash
from pytest_edgehil.board.command import Command, Outcome, check_argv
from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.hostkey import load_client_key, parse_host_key
from pytest_edgehil.board.login import HungUp, Silent, end_session, log_in
from pytest_edgehil.board.overdue import Overdue
from pytest_edgehil.board.redact import show_argv
from pytest_edgehil.board.ssh_channel import SshChannel
from pytest_edgehil.board.tcp import WatchedSocket
from pytest_edgehil.board.transport import Channel
from pytest_edgehil.errors import ConnectFailed, DeadlineExceeded, LinkLost
from pytest_edgehil.model.board import SshAccess

KEEPALIVE_S = 3.0
SILENCE_S = 12.0
KILL_S = 5.0
"""How long a kill may take on the link, and once more on a fresh connection if the link does not answer."""
LIMIT_GRACE_S = 15.0
"""So much after a command's deadline the board itself ends it, link or no link; longer than our own kill may take."""

_INLINE_STDIN_BYTES = 65_536  # so much is taken without the program reading any of it; more gets a thread
_BANNER_S, _MORE_PATIENCE = 2.0, 1.5  # a forwarder takes connections for a board that boots, and loses what is sent
_BURST_PAUSES_S = (0.1, 0.3, 1.0, 3.0)  # an sshd whose MaxStartups is reached hangs up at once; it is asked again

_ONBOARD = re.compile(r".*/onboard-[0-9a-f]+\.pyz")

_log = logging.getLogger("edgehil.board.ssh")
logging.getLogger("edgehil.board").addHandler(logging.NullHandler())  # without it, errors would go to stderr


def connect(
    access: SshAccess,
    *,
    board_id: str,
    timeout_s: float,
    keepalive_s: float = KEEPALIVE_S,
    silence_s: float = SILENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> SshTransport:
    """Connects to a board and logs in.

    Args:
        access: where, as whom, with which key, and which host key is expected.
        board_id: for messages.
        timeout_s: for all of it: name, TCP, key exchange, login.
        keepalive_s: how often the board is asked for a sign of life.
        silence_s: after so long without a byte from the board the link is dead; several times `keepalive_s`. Borne
            longer while a push is on its way over a link that still makes progress (see `tcp`).
        sleep: waits before a connection that was hung up on at once is tried again.

    Raises:
        ConnectFailed: refused, timed out, login refused, or no SSH server answers there; the message says which.
        HostKeyMismatch: whoever answers does not hold the pinned key.
        ConfigError: the client key or the pinned host key cannot be used.
    """
    deadline = Deadline(timeout_s)
    pinned = parse_host_key(access.host_key, board_id=board_id)
    key = load_client_key(access, board_id=board_id)
    pauses, banner_s = iter(_BURST_PAUSES_S), _BANNER_S
    while True:
        started = time.monotonic()
        try:
            session, sock = log_in(access, pinned, key, board_id=board_id, deadline=deadline, banner_s=banner_s)
            break
        except Silent as exc:
            banner_s *= _MORE_PATIENCE
            _log.debug("%s; trying again, for %g s", exc, banner_s)
        except HungUp as exc:
            pause_s = next(pauses, None)
            if pause_s is None or pause_s >= deadline.left_s():
                raise ConnectFailed(str(exc)) from exc.__cause__
            _log.debug("%s; trying again in %g s", exc, pause_s)
            sleep(pause_s)
    _log.debug("%s: connected in %.3f s", board_id, time.monotonic() - started)
    sock.watch(silence_s)
    return SshTransport(session, sock, access=access, board_id=board_id, keepalive_s=keepalive_s)


class SshTransport:
    """Implements `transport.Transport`. Made by `connect`."""

    def __init__(
        self,
        session: paramiko.Transport,
        sock: WatchedSocket,
        *,
        access: SshAccess,
        board_id: str,
        keepalive_s: float,
    ) -> None:
        self.board_id = board_id
        self.sock = sock
        self._session = session
        self._access = access
        self._keepalive_s = keepalive_s
        self._asking = threading.Lock()
        self._freed = threading.Condition()
        self._channels: set[SshChannel] = set()
        self._closing = threading.Event()
        self._overdue = Overdue(f"edgehil-overdue-{board_id}")
        self._pulse = threading.Thread(target=self._keep_alive, name=f"edgehil-keepalive-{board_id}", daemon=True)
        self._pulse.start()

    # --- Transport -----------------------------------------------------------------------------------

    def run(self, command: Command) -> Outcome:
        """See `transport.Transport.run`."""
        started = time.monotonic()
        deadline = Deadline(command.timeout_s)
        what = f"{command} on {self.board_id}"
        channel = self._start(
            command.argv,
            deadline,
            what=what,
            secrets=command.secrets,
            limit_s=command.timeout_s + LIMIT_GRACE_S,
            prelude=command.prelude,
            keep_stderr=True,
        )
        feeder: threading.Thread | None = None
        try:
            if len(command.stdin) > _INLINE_STDIN_BYTES:
                feeder = threading.Thread(
                    target=self._feed,
                    args=(channel, command.stdin, deadline),
                    name=f"edgehil-feed-{self.board_id}",
                    daemon=True,
                )
                feeder.start()
            else:
                self._feed(channel, command.stdin, deadline)
            chunks = []
            while chunk := channel.next(1 << 20, deadline):
                chunks.append(chunk)
            status = channel.wait(deadline.left_s())
        finally:
            channel.close()
            if feeder is not None:
                feeder.join()
        return Outcome(
            exit_status=status,
            stdout=b"".join(chunks),
            stderr=channel.stderr,
            duration_s=time.monotonic() - started,
        )

    def open(self, argv: tuple[str, ...], timeout_s: float, *, prelude: str = "") -> Channel:
        """See `transport.Transport.open`."""
        check_argv(argv)
        what = f"{_program(argv)} on {self.board_id}"
        return self._start(argv, Deadline(timeout_s), what=what, limit_s=None, prelude=prelude)

    def close(self) -> None:
        """See `transport.Transport.close`."""
        with self._freed:
            channels = tuple(self._channels)
        for channel in channels:
            channel.close()
        self._closing.set()
        end_session(self._session, self.sock)
        self._overdue.close()
        if self._pulse is not threading.current_thread():
            self._pulse.join()
        _log.debug("%s: disconnected", self.board_id)

    # --- for SshChannel ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def translated(self, doing: str, *, harmless: bool = False) -> Iterator[None]:
        """Turns what paramiko and the socket raise into LinkLost; a `harmless` failure is logged instead."""
        try:
            yield
        except (paramiko.SSHException, EOFError, OSError) as exc:
            message = (
                f"the link to {self.board_id} broke off while {doing}: {self.sock.lost or exc or type(exc).__name__}"
            )
            if not harmless:
                raise LinkLost(message) from exc
            _log.debug("%s", message)

    def answers(self) -> bool:
        """Asks the board for a sign of life and waits for it; False if the link is dead, after `silence_s` at most."""
        with self._asking, self.translated("asking for a sign of life", harmless=True):
            sent = self.sock.sent_bytes
            # Any answer will do, also the "no such request" that servers give.
            self._session.global_request("keepalive@openssh.com", wait=True)
        alive = self._session.is_active() and not self.sock.lost
        if alive:
            self.sock.answered_bytes = max(self.sock.answered_bytes, sent)
        return alive

    def kill(self, name: str) -> str:
        """Kills a program and everything that it started.

        Returns:
            What has become of it, for an error message.
        """
        # Who is being killed has kept us waiting: a link that does not answer now is given less time than usual.
        with self.sock.hurry(max(KILL_S, 2 * self._keepalive_s)):
            problem = self._kill_over(self, name)
        if problem:
            _log.debug("%s: the kill over the link failed (%s); trying a connection of its own", self.board_id, problem)
            try:
                other = connect(self._access, board_id=self.board_id, timeout_s=KILL_S, silence_s=KILL_S)
            except ConnectFailed as exc:
                return (
                    f"its processes could not be killed ({problem}; {exc}); "
                    "a command ends by its own limit on the board, a program when it reads the end of its input"
                )
            try:
                problem = self._kill_over(other, name)
            finally:
                other.close()
        return f"its processes could not be killed: {problem}" if problem else "its processes on the board were killed"

    def forget(self, channel: SshChannel) -> None:
        """A channel has closed; whoever waits for a free session may try again."""
        with self._freed:
            self._channels.discard(channel)
            self._freed.notify()  # one session is free: more than one waiter would only be refused again

    # --- inside --------------------------------------------------------------------------------------

    @staticmethod
    def _kill_over(link: SshTransport, name: str) -> str:
        """Runs the killer over a link; returns what went wrong, or nothing."""
        deadline = Deadline(KILL_S)
        try:
            channel = link._exec(leash.kill_line(name), deadline, name="", what=f"the killer on {link.board_id}")
        except (LinkLost, DeadlineExceeded) as exc:
            return str(exc)
        try:
            said = b""
            while chunk := channel.next(1 << 16, deadline):
                said += chunk
            return "" if channel.wait(1.0) == 0 else said.decode("utf-8", "replace").strip() or channel.stderr_tail
        except (LinkLost, DeadlineExceeded) as exc:
            return str(exc)
        finally:
            channel.close()

    def _start(
        self,
        argv: tuple[str, ...],
        deadline: Deadline,
        *,
        what: str,
        limit_s: float | None,
        prelude: str,
        secrets: tuple[str, ...] = (),
        keep_stderr: bool = False,
    ) -> SshChannel:
        name = leash.new_name()
        _log.debug("%s: started within %g s, as %s", what, deadline.timeout_s, name)
        line = leash.start_line(argv, name, limit_s=limit_s, prelude=prelude)
        return self._exec(line, deadline, name=name, what=what, secrets=secrets, keep_stderr=keep_stderr)

    def _exec(
        self,
        line: str,
        deadline: Deadline,
        *,
        name: str,
        what: str,
        secrets: tuple[str, ...] = (),
        keep_stderr: bool = False,
    ) -> SshChannel:
        with self.sock.patience(deadline):
            raw = self._session_channel(deadline, what=what)
            channel = SshChannel(self, raw, name=name, what=what, secrets=secrets, keep_stderr=keep_stderr)
            try:
                # paramiko waits for the answer without a limit; closing the channel is what ends that wait.
                with (
                    self._overdue.watching(deadline, functools.partial(self._give_up, raw, what)),
                    self.translated(f"starting {what}"),
                ):
                    raw.exec_command(line)
            except LinkLost as exc:
                self._give_up(raw, what)
                if not deadline.passed():
                    raise
                fate = self.kill(name) if name else "nothing was started"
                raise DeadlineExceeded(f"{what} was not started within {deadline.timeout_s:g} s; {fate}") from exc
        with self._freed:
            self._channels.add(channel)
        return channel

    def _give_up(self, raw: paramiko.Channel, what: str) -> None:
        # Telling the board fails on a link that has just been lost, and in a timer's thread nobody could be told.
        with self.translated(f"giving up {what}", harmless=True):
            raw.close()

    def _session_channel(self, deadline: Deadline, *, what: str) -> paramiko.Channel:
        """Opens a session; waits when the board allows no more at once (sshd's MaxSessions, 10 by default)."""
        while True:
            if not self._session.is_active():
                raise LinkLost(f"{what} was not started: {self._gone()}")
            try:
                return self._session.open_session(timeout=max(deadline.left_s(), 0.001))
            except (paramiko.SSHException, EOFError, OSError) as exc:
                if not self._session.is_active() and not deadline.passed():
                    raise LinkLost(f"{what} was not started: {self._gone()}") from exc
                # Not only ChannelException: of several threads that are refused at once, paramiko tells it to one.
                with self._freed:
                    self._freed.wait(min(0.5, deadline.left_s()))
                if deadline.passed():
                    raise DeadlineExceeded(
                        f"{what} was not started within {deadline.timeout_s:g} s ({exc}); if the board allows no more "
                        "sessions at once, close channels or raise MaxSessions in its sshd_config"
                    ) from exc

    def _gone(self) -> str:
        if self._closing.is_set():
            return f"the link to {self.board_id} was closed"
        return f"the link to {self.board_id} broke off: {self.sock.lost or 'the SSH session ended'}"

    def _feed(self, channel: SshChannel, stdin: bytes, deadline: Deadline) -> None:
        """Gives a program its input. What goes wrong here is told by the receiving side, which knows more."""
        try:
            channel.feed(memoryview(stdin), deadline)
            channel.close_input()
        except (LinkLost, DeadlineExceeded) as exc:
            # A program may well end without reading its input; and if the link is gone, receiving says so too.
            _log.debug("feeding stopped: %s", exc)

    def _keep_alive(self) -> None:
        while not self._closing.wait(self._keepalive_s):
            if not self.answers():
                return


def _program(argv: tuple[str, ...]) -> str:
    """What runs, as a person would say it: nobody is helped by the path of a file that is named after its digest."""
    ours = any(_ONBOARD.fullmatch(one) for one in argv)
    return "the on-board program" if ours else show_argv(argv)
