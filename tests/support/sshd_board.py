"""A `BenchBoard` behind OpenSSH's sshd; sshd gives programs its own environment, so each is started below `env`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from support.boards import BenchBoard
from support.env_transport import EnvTransport
from support.openssh import OpenSshServer
from support.tcp_proxy import TcpProxy

from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport


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
