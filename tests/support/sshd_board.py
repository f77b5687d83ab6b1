"""A `BenchBoard` behind OpenSSH's sshd; sshd gives programs its own environment, so each is started below `env`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from support.boards import BenchBoard
from support.openssh import OpenSshServer
from support.tcp_proxy import TcpProxy

from pytest_edgehil.board.command import Command, Outcome
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Channel, Transport


class EnvTransport:
    """Another transport whose programs get more environment and a working directory."""

    def __init__(self, transport: Transport, env: dict[str, str], home: Path) -> None:
        self._transport = transport
        self._prefix = ("env", "-C", str(home), *(f"{name}={value}" for name, value in env.items()))

    def run(self, command: Command) -> Outcome:
        return self._transport.run(dataclasses.replace(command, argv=(*self._prefix, *command.argv)))

    def open(self, argv: tuple[str, ...], timeout_s: float) -> Channel:
        return self._transport.open((*self._prefix, *argv), timeout_s)

    def close(self) -> None:
        self._transport.close()


@contextlib.contextmanager
def serve_over_ssh(
    bench: BenchBoard, directory: Path
) -> Iterator[tuple[Callable[[float], Transport], Callable[[], None]]]:
    """Runs a server; yields what `BoardSession` takes as `connect`, and how to cut the link."""
    opened: list[Transport] = []
    (directory / "sshd").mkdir()
    with OpenSshServer(directory / "sshd") as server, TcpProxy(server.port) as proxy:

        def open_link(timeout_s: float) -> Transport:
            link = connect(server.access_at(proxy.port), board_id=bench.board.id, timeout_s=timeout_s)
            opened.append(link)
            return EnvTransport(link, bench.env, bench.home)

        try:
            yield open_link, proxy.cut
        finally:
            for link in opened:
                link.close()
