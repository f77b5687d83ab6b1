"""How long a command on a board takes, against the `ssh` program in the same run.

Three questions, each against its peer on the same private OpenSSH server on loopback:

- a command on an open connection, against ``ssh -S`` (a ControlMaster's open connection): under a lease, as every test
  sends it, and on the link alone;
- connecting alone (TCP, key exchange, host key, login), against ``ssh -MNf``, which goes into the background then;
- connect, one command, disconnect, against ``ssh host true``.

Ours does more per command than its peer: every command is on a leash and has a limit on the board (see
`pytest_edgehil.board.leash`), and under a lease the board looks at the token first (`pytest_edgehil.board.fenced`). The
order is drawn anew in every round, so that a busy machine slows both down alike.

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
from pytest_edgehil.board.fenced import FencedTransport
from pytest_edgehil.board.ssh import SshTransport, connect
from pytest_edgehil.model.fencing import Bearer

PROGRAMS = ("sshd", "ssh")
OPEN, BARE = "command on an open connection", "the same without a lease"
CONNECT, WHOLE = "connect", "connect, command, disconnect"
PEERS = {OPEN: "ssh -S", BARE: "ssh -S", CONNECT: "ssh -MNf", WHOLE: "ssh"}
WANTED_MS = {OPEN: 5.0, BARE: 5.0, CONNECT: 40.0}
TRUE = Command(argv=("true",), timeout_s=60.0)


def visit(server: OpenSshServer) -> None:
    """Connect, one command, disconnect."""
    link = connect(server.access, board_id="bench", timeout_s=60.0)
    try:
        link.run(TRUE)
    finally:
        link.close()


def connecting(server: OpenSshServer) -> float:
    """Milliseconds until the link can be used."""
    links: list[SshTransport] = []
    took = bench.milliseconds(lambda: links.append(connect(server.access, board_id="bench", timeout_s=60.0)))
    for link in links:
        link.close()
    return took


def ssh_connecting(host: str, options: list[str], socket: Path) -> float:
    """Milliseconds until `ssh` has logged in and goes into the background."""
    argv = ["ssh", "-MNf", f"-S{socket}", *options, host]
    took = bench.milliseconds(lambda: subprocess.run(argv, check=True, stderr=subprocess.DEVNULL))
    subprocess.run(["ssh", f"-S{socket}", "-Oexit", host], check=True, stderr=subprocess.DEVNULL)
    return took


def measure(
    server: OpenSshServer, link: SshTransport, shared: list[str], directory: Path, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Question → who → milliseconds of each round."""
    host = f"{server.user}@127.0.0.1"
    options = bench.ssh_options(server.port, server.client.path)
    alone, over_shared = ["ssh", *options, host, "true"], ["ssh", *shared, host, "true"]
    socket = directory / "connecting"
    bearer = Bearer(token=1, holder="bench")
    leased = FencedTransport(link, bearer, home=str(directory / "edgehil"), board_id="bench")

    def timed(way: Callable[[], object]) -> Callable[[], float]:
        return functools.partial(bench.milliseconds, way)

    questions: dict[str, dict[str, Callable[[], float]]] = {
        OPEN: {
            "ours": timed(lambda: leased.run(TRUE)),
            "bare": timed(lambda: link.run(TRUE)),
            "peer": timed(lambda: subprocess.run(over_shared, check=True)),
        },
        CONNECT: {
            "ours": functools.partial(connecting, server),
            "peer": functools.partial(ssh_connecting, host, options, socket),
        },
        WHOLE: {"ours": timed(lambda: visit(server)), "peer": timed(lambda: subprocess.run(alone, check=True))},
    }
    found = {}
    for question, ways in questions.items():
        for way in ways.values():
            way()
        found[question] = bench.in_random_order(ways, rounds=rounds)
    found[BARE] = {"ours": found[OPEN].pop("bare"), "peer": found[OPEN]["peer"]}
    return {question: found[question] for question in PEERS}


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
                found = measure(server, link, shared, directory, rounds)
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
            **{
                key: {
                    "name": question,
                    "value": bench.rounded(medians[question]["ours"]),
                    "peer": PEERS[question],
                    "peer_value": bench.rounded(medians[question]["peer"]),
                    "ratio_interval": against[question].to_json(),
                }
                for key, question in (("without_lease", BARE), ("connect", CONNECT), ("whole_connection", WHOLE))
            },
            "wanted_ms": {"command": WANTED_MS[OPEN], "connect": WANTED_MS[CONNECT]},
            "rounds": rounds,
        },
    )
    table = [f"{'median of ' + str(rounds) + ' rounds':32} {'ours':>10} {'peer':>10}   ratio [95 % interval]"]
    table += [
        f"{question:32} {medians[question]['ours']:>7.1f} ms {medians[question]['peer']:>7.1f} ms   "
        f"{against[question]!s:26} {PEERS[question]}"
        f"{f', wanted below {WANTED_MS[question]:g} ms' if question in WANTED_MS else ''}"
        for question in found
    ]
    on = bench.machine()
    table.append(f"{on['cpus']} CPUs, {on['cpu']}, load average {on['load_average']}")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
