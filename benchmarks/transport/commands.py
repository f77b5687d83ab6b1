"""How long a command on a board takes, against the `ssh` program in the same run.

Two questions, each against its peer on the same private OpenSSH server on loopback:

- a command on an open connection, against ``ssh -S`` (a ControlMaster's open connection);
- connect, one command, disconnect, against ``ssh host true``.

Ours does more per command than its peer: every command is on a leash and has a limit on the board (see
`pytest_edgehil.board.leash`). The rounds alternate, so that a busy machine slows both down alike.

    python benchmarks/transport/commands.py [--json] [--rounds 60]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.openssh import OpenSshServer

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.ssh import SshTransport, connect

TRUE = Command(argv=("true",), timeout_s=60.0)


def milliseconds(what: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    what()
    return (time.perf_counter() - started) * 1e3


def ssh_options(server: OpenSshServer) -> list[str]:
    """What makes the `ssh` program reach the private server without the user's own configuration."""
    return [
        "-F/dev/null",
        f"-p{server.port}",
        f"-i{server.client.path}",
        "-oIdentitiesOnly=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-oLogLevel=ERROR",
    ]


@contextlib.contextmanager
def control_master(server: OpenSshServer, socket: Path) -> Iterator[list[str]]:
    """An open connection of the `ssh` program; gives the command line that uses it."""
    host = f"{server.user}@127.0.0.1"
    subprocess.run(["ssh", "-MNf", f"-S{socket}", *ssh_options(server), host], check=True, stderr=subprocess.DEVNULL)
    try:
        yield ["ssh", "-F/dev/null", f"-S{socket}", host]
    finally:
        subprocess.run(["ssh", f"-S{socket}", "-Oexit", host], check=True, stderr=subprocess.DEVNULL)


def visit(server: OpenSshServer) -> None:
    """Connect, one command, disconnect."""
    link = connect(server.access, board_id="bench", timeout_s=60.0)
    try:
        link.run(TRUE)
    finally:
        link.close()


def measure(
    server: OpenSshServer, link: SshTransport, shared: list[str], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median milliseconds of ours and of the peer's, by question."""
    alone = ["ssh", *ssh_options(server), f"{server.user}@127.0.0.1", "true"]
    questions: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "command on an open connection": (
            lambda: link.run(TRUE),
            lambda: subprocess.run([*shared, "true"], check=True),
        ),
        "connect, command, disconnect": (lambda: visit(server), lambda: subprocess.run(alone, check=True)),
    }
    medians = {}
    for question, (ours, peers) in questions.items():
        ours()
        peers()
        pairs = [(milliseconds(ours), milliseconds(peers)) for _ in range(rounds)]
        medians[question] = (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs))
    return medians


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    for program in ("sshd", "ssh"):
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            print(f"not measured: {program} is not installed", file=sys.stderr)
            return 1 if program in os.environ.get("EDGEHIL_REQUIRE", "").split(",") else 0
    with tempfile.TemporaryDirectory() as name, OpenSshServer(Path(name)) as server:
        link = connect(server.access, board_id="bench", timeout_s=60.0)
        try:
            with control_master(server, Path(name) / "ctl") as shared:
                medians = measure(server, link, shared, arguments.rounds)
        finally:
            link.close()
    peers = {"command on an open connection": "ssh -S", "connect, command, disconnect": "ssh"}
    results = [
        {
            "name": question,
            "value": round(ours, 2),
            "unit": "ms",
            "peer": peers[question],
            "peer_value": round(peer, 2),
            "ratio": round(ours / peer, 3),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        }
        for question, (ours, peer) in medians.items()
    ]
    if arguments.json:
        print(json.dumps({**results[0], "also": results[1:]}))
    else:
        print(f"{'median of ' + str(arguments.rounds) + ' rounds':32} {'ours':>10} {'peer':>10} {'ratio':>7}   peer")
        for result in results:
            print(
                f"{result['name']:32} {result['value']:>7} ms {result['peer_value']:>7} ms {result['ratio']:>7}"
                f"   {result['peer']}"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
