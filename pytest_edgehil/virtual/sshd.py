"""The board's SSH server: exec and SFTP, one login, keys only. Commands: see `execution`.

There are no terminals: a request for one is refused, and the shell that then runs reads commands from its input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pytest_edgehil.virtual.execution import Execution, Host
from pytest_edgehil.virtual.journal import Journal
from pytest_edgehil.virtual.keys import BoardKeys
from pytest_edgehil.virtual.link import HOST, Link
from pytest_edgehil.virtual.sftp import DiskServer
from pytest_edgehil.virtual.ssh_library import asyncssh

ACCEPTED_VARIABLES = re.compile(r"(EDGEHIL_(HOLDER|TOKEN)|LANG|LC_[A-Z]+|TERM)\Z")  # as sshd_config's AcceptEnv
_HOLDER = re.compile(r"(?:--holder[ =]+|EDGEHIL_HOLDER=)[\"']*([^\s\"']+)")
_TOKEN = re.compile(r"(?:--token[ =]+|EDGEHIL_TOKEN=)[\"']*([0-9]+)")
LOGGED_COMMAND_CHARACTERS = 200


async def serve(
    link: Link,
    host: Host,
    *,
    keys: BoardKeys,
    user: str,
    authorized: tuple[asyncssh.SSHKey, ...],
    disk: Path,
    home: Path,
    journal: Journal,
) -> asyncssh.SSHAcceptor:
    """Serve SSH on a link, which decides by itself when it accepts connections.

    Args:
        authorized: public keys that may log in as `user`.
    """
    counter = iter(range(1, 1 << 62))

    def sftp(channel: asyncssh.SSHServerChannel[bytes]) -> DiskServer:
        return DiskServer(channel, disk=disk, home=home, free_bytes=host.free_bytes)

    class Server(asyncssh.SSHServer):
        """Decides who may log in."""

        def begin_auth(self, _username: str) -> bool:
            """Everybody must prove who he is; somebody unknown is refused without being told so."""
            return True

        def public_key_auth_supported(self) -> bool:
            """The one way in."""
            return True

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            """Whether the key may log in."""
            return username == user and key in authorized

        def session_requested(self) -> Session:
            """A channel for a command or for SFTP."""
            return Session(host, home=home, journal=journal, number=next(counter), sftp=sftp)

    return await asyncssh.listen(
        HOST,
        link.port,
        tunnel=cast("Any", link),  # of the tunnel's protocol only the half that listens is needed
        server_factory=Server,
        server_host_keys=[keys.host],
        server_version="OpenSSH_9.2p1_virtual",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        allow_pty=False,
        agent_forwarding=False,
        encoding=None,
        compression_algs=["none"],
        login_timeout=30,
    )


class Session(asyncssh.stream.SSHServerStreamSession[bytes]):
    """One channel: a command, or SFTP (which asyncssh does itself, in the class beneath)."""

    def __init__(
        self,
        host: Host,
        *,
        home: Path,
        journal: Journal,
        number: int,
        sftp: Callable[[asyncssh.SSHServerChannel[bytes]], DiskServer],
    ) -> None:
        super().__init__(None, cast("Any", sftp), 3)
        self._board = host
        self._home = home
        self._journal = journal
        self._number = number
        self._execution: Execution | None = None
        self._who: dict[str, str | None] | None = None

    def shell_requested(self) -> bool:
        """A shell that reads commands from its input."""
        return True

    def exec_requested(self, _command: str) -> bool:
        """A command."""
        return True

    def pty_requested(self, *_arguments: object) -> bool:
        """There are no terminals."""
        return False

    def session_started(self) -> None:
        """Everything is agreed on: go."""
        channel = cast("asyncssh.SSHServerChannel[bytes]", self._chan)
        if channel.get_subsystem() is not None:
            self._note_opening(f"subsystem {channel.get_subsystem()}", {})
            super().session_started()
            return
        wanted = {name: value for name, value in channel.get_environment().items() if ACCEPTED_VARIABLES.match(name)}
        command = cast("str | bytes | None", channel.get_command())
        text = command.decode(errors="surrogateescape") if isinstance(command, bytes) else command
        self._note_opening("shell" if text is None else text, wanted)
        self._execution = Execution(channel, self._board, home=self._home)
        self._execution.start(["/bin/sh"] if text is None else ["/bin/sh", "-c", text], wanted)

    def _note_opening(self, command: str, wanted: Mapping[str, str]) -> None:
        holder, token = _HOLDER.search(command), _TOKEN.search(command)
        self._who = {
            "holder": wanted.get("EDGEHIL_HOLDER") or (holder[1] if holder else None),
            "token": wanted.get("EDGEHIL_TOKEN") or (token[1] if token else None),
        }
        shown = command[:LOGGED_COMMAND_CHARACTERS]
        self._journal.write("ssh-open", session=self._number, command=shown, **self._who)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Input."""
        if self._execution is None:
            super().data_received(data, datatype)
        else:
            self._execution.feed(data)

    def eof_received(self) -> bool:
        """No more input; output may still come."""
        if self._execution is None:
            return bool(super().eof_received())
        self._execution.end_input()
        return True

    def pause_writing(self) -> None:
        """The client lags."""
        if self._execution is None:
            super().pause_writing()
        else:
            self._execution.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._execution is None:
            super().resume_writing()
        else:
            self._execution.resume_writing()

    def signal_received(self, signal: str) -> None:
        """A signal for the command."""
        if self._execution is None:
            super().signal_received(signal)
        else:
            self._execution.pass_signal(signal)

    def break_received(self, _msec: int) -> bool:
        """There is no terminal to break."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, by whichever side."""
        if self._execution is None:
            super().connection_lost(exc)
        else:
            self._execution.hang_up()
        if self._who is not None:
            done = self._execution
            self._journal.write(
                "ssh-close",
                session=self._number,
                exit_status=None if done is None else done.exit_status,
                bytes_in=None if done is None else done.bytes_in,
                bytes_out=None if done is None else done.bytes_out,
                **self._who,
            )
