"""From nothing to the first command's answer on a virtual board, against OpenSSH's server.

A virtual board is a warden, a supervisor, an SSH server, a console, a control socket, a sysroot and a boot; the peer
is bare ``sshd`` with ready-made keys and ``ssh true``, which is the least that anything reached over SSH can take.

- one board with an empty directory (the headline): its keys and its file system are made;
- one board whose directory is there from the last time, as in every run but the first;
- four at once with empty directories, until the last of them has answered.

    python benchmarks/virtual/start.py [--json] [--quick] [--rounds 7]
"""

from __future__ import annotations

import functools
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.openssh import OpenSshServer
from support.virtual_boards import board

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.virtual.farm import RunningBoard, start

PROGRAMS = ("sshd", "ssh")
TRUE = Command(argv=("true",), timeout_s=60.0)
AT_ONCE = 4


def first_answer(directory: Path, board_id: str) -> RunningBoard:
    """Start a board and run a command on it."""
    up = start(board(board_id), directory=directory, wait_s=120.0)
    assert up.board.ssh is not None
    link = connect(up.board.ssh, board_id=board_id, timeout_s=60.0)
    try:
        assert link.run(TRUE).exit_status == 0
    finally:
        link.close()
    return up


def boards_ms(directories: list[Path]) -> float:
    """Milliseconds until every board has answered, all started at the same moment."""
    with ThreadPoolExecutor(len(directories)) as pool:
        started = time.perf_counter()
        up = list(pool.map(first_answer, directories, [f"vb-{at}" for at in range(len(directories))]))
        took = (time.perf_counter() - started) * 1e3
        list(pool.map(RunningBoard.stop, up))
    return took


def sshd_ms(server: OpenSshServer) -> float:
    """Milliseconds from starting sshd to the answer of ``ssh true``."""

    def run() -> None:
        server.__enter__()
        options = bench.ssh_options(server.port, server.client.path)
        subprocess.run(["ssh", *options, f"{server.user}@127.0.0.1", "true"], check=True)

    try:
        return bench.milliseconds(run)
    finally:
        server.stop()


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if not bench.needs(*PROGRAMS):
        return bench.missing_status(*PROGRAMS)
    rounds = 1 if arguments.quick else arguments.rounds
    with bench.workplace() as directory:
        (directory / "sshd").mkdir()
        server = OpenSshServer(directory / "sshd")
        fresh = (directory / f"b{number}" for number in itertools.count())
        ways: dict[str, Callable[[], float]] = {
            "first": lambda: boards_ms([next(fresh)]),
            "again": functools.partial(boards_ms, [directory / "kept"]),
            "four": lambda: boards_ms(list(itertools.islice(fresh, AT_ONCE))),
            "sshd": functools.partial(sshd_ms, server),
        }
        for name in ("again", "sshd"):
            ways[name]()  # bytecode and caches; the kept directory
        times = bench.in_random_order(ways, rounds=rounds)
    medians = {way: statistics.median(found) for way, found in times.items()}
    against = {way: bench.ratios(times[way], times["sshd"]) for way in ("first", "again", "four")}
    figure = bench.Figure(
        name="start a virtual board, to the first command's answer",
        value=medians["first"],
        unit="ms",
        peer="sshd, then ssh true",
        peer_value=medians["sshd"],
        ratio=against["first"].median,
        also={
            "ratio_interval": against["first"].to_json(),
            "again": {"value": bench.rounded(medians["again"]), "ratio_interval": against["again"].to_json()},
            "four_at_once": {"value": bench.rounded(medians["four"]), "ratio_interval": against["four"].to_json()},
            "rounds": rounds,
        },
    )
    labels = {"first": "one, empty directory", "again": "one, directory is there", "four": "four at once"}
    table = [f"{'median of ' + str(rounds) + ' rounds':26} {'ours':>9} {'sshd':>9}   ratio [interval]"]
    table += [
        f"{label:26} {medians[way]:>6.0f} ms {medians['sshd']:>6.0f} ms   {against[way]}"
        for way, label in labels.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
