"""One command on the board: its process, and the channel that it talks through.

A command runs as ``/bin/sh -c COMMAND`` in a session (setsid) of its own, with pipes for stdin, stdout and stderr.
As with OpenSSH the channel ends when the command has exited *and* nobody holds its output open any more. A signal
request goes to the command's process group. Unlike OpenSSH, which leaves a command without a terminal alone, the
process group of a command whose channel goes before it has exited gets SIGHUP, and SIGKILL some seconds later; one that
called setsid() itself lives on until the power goes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pytest_edgehil.virtual.processes import signal_group
from pytest_edgehil.virtual.ssh_library import asyncssh
from pytest_edgehil.virtual.table import ProcessTable

PIPE_BYTES = 1 << 20
READ_BYTES = 1 << 18
HANG_UP_GRACE_S = 5.0  # for cleaning up, also on a host that is busy
SIGNALS = frozenset(
    {"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}
)


class Host(Protocol):
    """What a command asks of the board that it runs on."""

    @property
    def table(self) -> ProcessTable:
        """Where commands are started."""

    def environment(self) -> dict[str, str]:
        """Environment of a command."""

    def free_bytes(self) -> int | None:
        """How large a file may become; None for no limit."""


class Execution:
    """A command that has been asked for over a channel."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], host: Host, *, home: Path) -> None:
        self._channel = channel
        self._host = host
        self._home = home
        self._loop = asyncio.get_running_loop()
        self._pid: int | None = None
        self._status: int | None = None
        self._stdin: int | None = None
        self._outputs: dict[int, bool] = {}  # descriptor → whether it is stderr
        self._input: deque[bytes] = deque()
        self._input_ended = False
        self._closed = False
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def exit_status(self) -> int | None:
        """Exit status, negative for a signal; None when it has not exited."""
        return None if self._status is None else os.waitstatus_to_exitcode(self._status)

    def start(self, argv: list[str], variables: Mapping[str, str]) -> None:
        """Start the command, with these variables on top of the board's environment."""
        stdin, self._stdin = os.pipe2(os.O_CLOEXEC)
        pairs = [os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)]
        for descriptor in (self._stdin, pairs[0][0]):
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                break  # the user's share of pipe memory is spent: smaller pipes are slower, not wrong
        try:
            self._pid = self._host.table.spawn(
                argv,
                cwd=self._home,
                environment=self._host.environment() | dict(variables),
                stdin=stdin,
                stdout=pairs[0][1],
                stderr=pairs[1][1],
                on_exit=self._exited,
            )
        except OSError as problem:  # for example: the board has just lost its power
            self._status = 255 << 8
            self._channel.write_stderr(f"{argv[0]}: {problem.strerror}\n".encode())
        finally:
            os.close(stdin)
            os.close(pairs[0][1])
            os.close(pairs[1][1])
        os.set_blocking(self._stdin, False)
        for is_error, (reader, _) in enumerate(pairs):
            os.set_blocking(reader, False)
            self._outputs[reader] = bool(is_error)
            self._loop.add_reader(reader, self._read_output, reader)

    # --- input

    def feed(self, data: bytes) -> None:
        """Bytes for the command's stdin."""
        self.bytes_in += len(data)
        if self._stdin is None:
            return  # the command has closed its input: as with sshd, the rest is for nobody
        if self._input:
            self._input.append(data)
            return
        written = self._write_input(data)
        if self._stdin is not None and written < len(data):
            self._input.append(data[written:])
            self._channel.pause_reading()
            self._loop.add_writer(self._stdin, self._drain_input)

    def end_input(self) -> None:
        """No more input; output may still come."""
        self._input_ended = True
        if not self._input:
            self._close_input()

    def _write_input(self, data: bytes) -> int:
        assert self._stdin is not None
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self._close_input()
            return len(data)

    def _drain_input(self) -> None:
        while self._input and self._stdin is not None:
            data = self._input.popleft()
            written = self._write_input(data)
            if self._stdin is not None and written < len(data):
                self._input.appendleft(data[written:])
                return
        if self._stdin is not None:
            self._loop.remove_writer(self._stdin)
            if self._input_ended:
                self._close_input()
        if not self._closed:
            self._channel.resume_reading()

    def _close_input(self) -> None:
        self._input.clear()
        if self._stdin is not None:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = None
            if not self._closed:
                self._channel.resume_reading()

    # --- output

    def _read_output(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._close_output(descriptor)
            self._end_if_done()
            return
        self.bytes_out += len(data)
        if self._closed:
            return
        if self._outputs[descriptor]:
            self._channel.write_stderr(data)
        else:
            self._channel.write(data)

    def _close_output(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        del self._outputs[descriptor]

    def pause_writing(self) -> None:
        """The client lags."""
        for descriptor in self._outputs:
            self._loop.remove_reader(descriptor)

    def resume_writing(self) -> None:
        """The client has caught up."""
        for descriptor in self._outputs:
            self._loop.add_reader(descriptor, self._read_output, descriptor)

    # --- the end

    def pass_signal(self, name: str) -> None:
        """A signal for the command."""
        if self._pid is not None and self._status is None and name in SIGNALS:
            signal_group(self._pid, getattr(signal, f"SIG{name}"))

    def _exited(self, status: int) -> None:
        self._status = status
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._status is None or self._outputs or self._closed:
            return
        self._close_input()
        if os.WIFSIGNALED(self._status):
            number = os.WTERMSIG(self._status)
            self._channel.exit_with_signal(signal.Signals(number).name.removeprefix("SIG"), os.WCOREDUMP(self._status))
        else:
            self._channel.exit(os.WEXITSTATUS(self._status))

    def hang_up(self) -> None:
        """The channel is closed, by whichever side."""
        self._closed = True
        self._close_input()
        if self._pid is None or self._status is not None:
            self._close_outputs()
            return
        # a command that cleans up must not die of a broken pipe meanwhile: its output is read, for nobody
        self.resume_writing()
        signal_group(self._pid, signal.SIGHUP)
        self._loop.call_later(HANG_UP_GRACE_S, self._make_an_end)

    def _make_an_end(self) -> None:
        if self._pid is not None:
            signal_group(self._pid, signal.SIGKILL)
        self._close_outputs()

    def _close_outputs(self) -> None:
        for descriptor in tuple(self._outputs):
            self._close_output(descriptor)
