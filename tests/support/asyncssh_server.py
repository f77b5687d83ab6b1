"""An asyncssh server on loopback that runs commands for real: the other SSH implementation of the contract suites."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncssh
from support.keys import KeyPair, access_to, make_key

from pytest_edgehil.model.board import SshAccess

Handler = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


_MARK = "EDGEHIL_TEST_SERVER"


async def run_in_shell(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """What sshd does: the command line goes to a shell. The child stays in the server's own session, unlike sshd's."""
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-c",
        process.command or "",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, _MARK: str(process.get_extra_info("sockname")[1])},
    )
    feeding = asyncio.create_task(_feed(process.stdin, child.stdin))
    await asyncio.gather(_forward(child.stdout, process.stdout), _forward(child.stderr, process.stderr))
    status = await child.wait()
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    child.stdin.close()
    with contextlib.suppress(OSError):
        await child.stdin.wait_closed()
    if status >= 0:
        process.exit(status)
    else:
        process.exit_with_signal({9: "KILL", 15: "TERM"}.get(-status, "ABRT"))


def _power_off(port: int) -> None:
    """Kills what the commands of the server on this port have left behind: its connections did not end them."""
    mark = f"{_MARK}={port}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


async def _forward(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
    connected = True
    while data := await source.read(1 << 16):
        if not connected:
            continue  # like a real board: a program is not stopped by the end of its connection
        try:
            sink.write(data)
            await sink.drain()
        except (OSError, asyncssh.Error):
            connected = False


async def _feed(source: asyncssh.SSHReader[bytes], sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    sink.close()


class AsyncsshServer:
    """`with AsyncsshServer(directory) as server: connect(server.access, …)`; its event loop runs in a thread."""

    def __init__(self, directory: Path, *, handler: Handler = run_in_shell, host_key: str = "ssh-ed25519") -> None:
        self.user = "edge"
        self.client: KeyPair = make_key(directory / "client")
        self.host_key: KeyPair = make_key(directory / "host", host_key)
        self._handler = handler
        self._started = threading.Event()
        self._failed: list[Exception] = []
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="asyncssh-server", daemon=True)
        self.port = 0

    def __enter__(self) -> AsyncsshServer:
        self._thread.start()
        assert self._started.wait(120)
        if self._failed:
            raise self._failed[0]
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(120)
        assert not self._thread.is_alive()

    @property
    def access(self) -> SshAccess:
        return self.access_at(self.port)

    def access_at(self, port: int) -> SshAccess:
        """The same server through another port, such as that of a `TcpProxy`."""
        return access_to(port, user=self.user, client=self.client, host_key=self.host_key.public)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as exc:  # noqa: BLE001 - told by __enter__
            self._failed.append(exc)
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        connections: set[asyncssh.SSHServerConnection] = set()

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                connections.add(conn)
                self._conn = conn

            def connection_lost(self, exc: Exception | None) -> None:
                connections.discard(self._conn)

        server = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            0,
            server_host_keys=[os.fspath(self.host_key.path)],
            authorized_client_keys=asyncssh.import_authorized_keys(self.client.public),
            process_factory=self._handler,
            encoding=None,
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for connection in tuple(connections):
            connection.abort()
        while commands := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
            _power_off(self.port)
            await asyncio.wait(commands, timeout=0.1)
        await server.wait_closed()
