"""A `Transport` without a wire: programs are child processes of the test. Passes the contract suite of every transport.

`cut()` stands in for a cable that is pulled: every operation from then on, also one that is waiting, is `LinkLost`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from support.processes import group_alive, until

from pytest_edgehil.board.command import Command, Outcome, check_argv, preceded
from pytest_edgehil.board.redact import show_argv
from pytest_edgehil.board.transport import SEND_TIMEOUT_S, Channel
from pytest_edgehil.errors import DeadlineExceeded, LinkLost

_TAIL_BYTES = 8192


class LocalTransport:
    """Runs programs below `home` (their working directory and HOME), each in a session of its own."""

    def __init__(self, home: Path, *, board_id: str = "local", env: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._board_id = board_id
        self._env = {**os.environ, "HOME": str(home), **(env or {})}
        self._channels: set[LocalChannel] = set()
        self._lock = threading.Lock()
        self._gone = ""

    def run(self, command: Command) -> Outcome:
        started = time.monotonic()
        deadline = started + command.timeout_s
        channel = self._start(preceded(command.argv, command.prelude), str(command))
        try:
            feeder = threading.Thread(target=channel._feed, args=(command.stdin,), daemon=True)
            feeder.start()
            stdout = bytearray()
            while chunk := channel._receive(1 << 20, deadline, command.timeout_s):
                stdout += chunk
            status = channel._wait(deadline, command.timeout_s)
            feeder.join()
            stderr = bytes(channel._stderr)
        finally:
            channel.close()
        return Outcome(exit_status=status, stdout=bytes(stdout), stderr=stderr, duration_s=time.monotonic() - started)

    def open(self, argv: tuple[str, ...], timeout_s: float, *, prelude: str = "") -> Channel:
        check_argv(argv)
        return self._start(preceded(argv, prelude), show_argv(argv))

    def cut(self, reason: str = "the link was cut") -> None:
        self._end(reason)

    def close(self) -> None:
        for channel in self._end("the transport was closed"):
            channel.close()

    def _end(self, reason: str) -> tuple[LocalChannel, ...]:
        with self._lock:
            self._gone = self._gone or reason
            channels = tuple(self._channels)
        for channel in channels:
            channel._cut(reason)
        return channels

    def _start(self, argv: tuple[str, ...], shown: str) -> LocalChannel:
        with self._lock:
            if self._gone:
                raise LinkLost(f"{shown} on {self._board_id} was not started: {self._gone}")
            channel = LocalChannel(argv, shown, self)
            self._channels.add(channel)
            return channel


class LocalChannel:
    """One child process; two threads read what it writes so that it never blocks on us."""

    def __init__(self, argv: tuple[str, ...], shown: str, transport: LocalTransport) -> None:
        self._what = f"{shown} on {transport._board_id}"
        self._transport = transport
        self._changed = threading.Condition()
        self._stdout = bytearray()
        self._stderr = bytearray()
        self._open_outputs = 2
        self._lost = ""
        # A shell as leader reports a missing program (127) and signals (128 + n) as a board does.
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'env "$@"; exit $?', "edgehil", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=transport._home,
            env=transport._env,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stdout, self._stdout), daemon=True),
            threading.Thread(target=self._read, args=(self._process.stderr, self._stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def send(self, data: bytes | memoryview, timeout_s: float = SEND_TIMEOUT_S) -> None:
        self._check_link()
        done = threading.Event()
        broken: list[Exception] = []

        def write() -> None:
            try:
                self._write(data)
            except (OSError, ValueError) as exc:
                broken.append(exc)
            done.set()

        threading.Thread(target=write, daemon=True).start()
        if not done.wait(timeout_s):
            self._kill()
            raise DeadlineExceeded(f"{self._what} did not take its input within {timeout_s:g} s")
        self._check_link()
        if broken:
            raise LinkLost(f"{self._what} does not read its input any more: {self.stderr_tail}") from broken[0]

    def receive(self, max_bytes: int, timeout_s: float) -> bytes:
        return self._receive(max_bytes, time.monotonic() + timeout_s, timeout_s)

    def close_input(self) -> None:
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            self._check_link()

    def wait(self, timeout_s: float) -> int:
        return self._wait(time.monotonic() + timeout_s, timeout_s)

    def close(self) -> None:
        with self._changed:
            self._lost = self._lost or "the channel was closed"
        self._kill()
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            try:
                stream.close()
            except BrokenPipeError:
                continue
        with self._transport._lock:
            self._transport._channels.discard(self)

    @property
    def stderr_tail(self) -> str:
        with self._changed:
            return bytes(self._stderr[-_TAIL_BYTES:]).decode("utf-8", "replace")

    def _receive(self, max_bytes: int, deadline: float, timeout_s: float) -> bytes:
        self._until(lambda: bool(self._stdout) or not self._open_outputs, deadline, timeout_s)
        with self._changed:
            if self._stdout:
                chunk = bytes(self._stdout[:max_bytes])
                del self._stdout[:max_bytes]
                return chunk
        self._wait(deadline, timeout_s)
        return b""

    def _wait(self, deadline: float, timeout_s: float) -> int:
        self._until(lambda: not self._open_outputs, deadline, timeout_s)
        try:
            status = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as exc:
            self._kill()
            raise DeadlineExceeded(f"{self._what} took longer than {timeout_s:g} s") from exc
        self._check_link()
        return status if status >= 0 else 128 - status

    def _until(self, true: Callable[[], bool], deadline: float, timeout_s: float) -> None:
        with self._changed:
            reached = self._changed.wait_for(
                lambda: self._lost or true(),
                max(0.0, deadline - time.monotonic()),
            )
        self._check_link()
        if not reached:
            self._kill()
            raise DeadlineExceeded(f"{self._what} took longer than {timeout_s:g} s")

    def _check_link(self) -> None:
        if self._lost:
            raise LinkLost(f"{self._what}: {self._lost}")

    def _cut(self, reason: str) -> None:
        with self._changed:
            self._lost = self._lost or reason
            self._changed.notify_all()
        self._kill()

    def _kill(self) -> None:
        # The leader is not reaped before this, or its group might be gone and its number used again.
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            until(lambda: not group_alive(self._process.pid))  # a kill is asked for at once, but done a little later
            self._process.wait()

    def _feed(self, stdin: bytes) -> None:
        try:
            self._write(stdin)
            self._process.stdin.close()
        except (OSError, ValueError):
            return  # a program may end without reading its input

    def _write(self, data: bytes | memoryview) -> None:
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _read(self, stream: IO[bytes], into: bytearray) -> None:
        while chunk := os.read(stream.fileno(), 1 << 20):
            with self._changed:
                into += chunk
                self._changed.notify_all()
        with self._changed:
            self._open_outputs -= 1
            self._changed.notify_all()
