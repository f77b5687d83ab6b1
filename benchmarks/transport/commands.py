"""How long a command on a board takes, against the `ssh` program in the same run.

Two questions, each against its peer on the same private OpenSSH server on loopback:

- a command on an open connection, against ``ssh -S`` (a ControlMaster's open connection);
- connect, one command, disconnect, against ``ssh host true``.

Ours does more per command than its peer: every command is on a leash and has a limit on the board (see
`pytest_edgehil.board.leash`). The order is drawn anew in every round, so that a busy machine slows both down alike.

    python benchmarks/transport/commands.py [--json] [--quick] [--rounds 60]
"""

from __future__ import annotations

import functools
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.openssh import OpenSshServer

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.ssh import SshTransport, connect

PROGRAMS = ("sshd", "ssh")
OPEN, WHOLE = "command on an open connection", "connect, command, disconnect"
PEERS = {OPEN: "ssh -S", WHOLE: "ssh"}
TRUE = Command(argv=("true",), timeout_s=60.0)


def visit(server: OpenSshServer) -> None:
    """Connect, one command, disconnect."""
    link = connect(server.access, board_id="bench", timeout_s=60.0)
    try:
        link.run(TRUE)
    finally:
        link.close()


def measure(
    server: OpenSshServer, link: SshTransport, shared: list[str], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Question → who → milliseconds of each round."""
    host = f"{server.user}@127.0.0.1"
    alone = ["ssh", *bench.ssh_options(server.port, server.client.path), host, "true"]
    over_shared = ["ssh", *shared, host, "true"]
    questions: dict[str, dict[str, Callable[[], object]]] = {
        OPEN: {"ours": lambda: link.run(TRUE), "peer": lambda: subprocess.run(over_shared, check=True)},
        WHOLE: {"ours": lambda: visit(server), "peer": lambda: subprocess.run(alone, check=True)},
    }
    found = {}
    for question, ways in questions.items():
        for way in ways.values():
            way()
        timed = {who: functools.partial(bench.milliseconds, way) for who, way in ways.items()}
        found[question] = bench.in_random_order(timed, rounds=rounds)
    return found


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    if not bench.needs(*PROGRAMS):
        return bench.missing_status(*PROGRAMS)
    rounds = 3 if arguments.quick else arguments.rounds
    with bench.workplace() as directory, OpenSshServer(directory) as server:
        link = connect(server.access, board_id="bench", timeout_s=60.0)
        options = bench.ssh_options(server.port, server.client.path)
        try:
            with bench.control_master(f"{server.user}@127.0.0.1", options, directory / "ctl") as shared:
                found = measure(server, link, shared, rounds)
        finally:
            link.close()
    medians = {
        question: {who: statistics.median(times) for who, times in one.items()} for question, one in found.items()
    }
    against = {question: bench.ratios(one["ours"], one["peer"]) for question, one in found.items()}
    figure = bench.Figure(
        name=OPEN,
        value=medians[OPEN]["ours"],
        unit="ms",
        peer=PEERS[OPEN],
        peer_value=medians[OPEN]["peer"],
        ratio=against[OPEN].median,
        also={
            "ratio_interval": against[OPEN].to_json(),
            "whole_connection": {
                "name": WHOLE,
                "value": bench.rounded(medians[WHOLE]["ours"]),
                "peer": PEERS[WHOLE],
                "peer_value": bench.rounded(medians[WHOLE]["peer"]),
                "ratio_interval": against[WHOLE].to_json(),
            },
            "rounds": rounds,
        },
    )
    table = [f"{'median of ' + str(rounds) + ' rounds':32} {'ours':>10} {'peer':>10}   ratio [95 % interval]"]
    table += [
        f"{question:32} {medians[question]['ours']:>7.1f} ms {medians[question]['peer']:>7.1f} ms   "
        f"{against[question]}   {PEERS[question]}"
        for question in found
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
