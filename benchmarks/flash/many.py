"""Pushing 10 MB to 50 boards at once from one process, against as many `scp` processes at once.

All boards are behind one private OpenSSH server on loopback, with the `MaxStartups` that sshd has by default: links are
opened a few at a time. `scp` gets no such help; those that sshd turns away are counted. What is reported of our
process is its own processor time and the growth of its resident memory over the push; every bundle is verified and
flushed on its board, which `scp` does not do.

    python benchmarks/flash/many.py [--json] [--quick] [--boards 50] [--megabytes 10]
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.boards import BenchBoard, bundle
from support.openssh import OpenSshServer
from support.sshd_board import EnvTransport

from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.spread import Spread, spread
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.model.artifact import Artifact

PROGRAMS = ("sshd", "ssh", "scp")


def memory_bytes(field: str) -> int:
    """VmRSS or VmHWM of this process."""
    found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def ours(directory: Path, server: OpenSshServer, artifact: Artifact, boards: int) -> tuple[float, Spread]:
    """Seconds from the first connection to the last verified bundle, and what came of it."""
    links: list[Transport] = []
    sessions: dict[str, BoardSession] = {}

    def session(board: BenchBoard) -> BoardSession:
        def open_link(timeout_s: float) -> Transport:
            link = connect(server.access, board_id=board.board.id, timeout_s=timeout_s)
            links.append(link)
            return EnvTransport(link, board.env, board.home)

        return BoardSession(board.board, token=1, holder="bench", connect=open_link)

    for number in range(boards):
        sessions[f"board-{number:02d}"] = session(BenchBoard(directory / f"board-{number:02d}"))
    started = time.perf_counter()
    done = spread(artifact, sessions)
    took_s = time.perf_counter() - started
    for one in sessions.values():
        one.close()
    for link in links:
        link.close()
    return took_s, done


def theirs(directory: Path, server: OpenSshServer, artifact: Artifact, boards: int) -> tuple[float, int]:
    """Seconds, and how many were turned away."""
    options = bench.ssh_options(server.port, server.client.path)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        copies = [
            stack.enter_context(
                subprocess.Popen(
                    ["scp", "-q", *options, str(artifact.path), f"{server.user}@127.0.0.1:{directory}/copy-{number}"],
                    stderr=subprocess.DEVNULL,
                )
            )
            for number in range(boards)
        ]
        failed = sum(copy.wait() != 0 for copy in copies)
    return time.perf_counter() - started, failed


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--boards", type=int, default=50)
    parser.add_argument("--megabytes", type=int, default=10)
    arguments = parser.parse_args()
    if not bench.needs(*PROGRAMS):
        return bench.missing_status(*PROGRAMS)
    boards, megabytes = (5, 2) if arguments.quick else (arguments.boards, arguments.megabytes)
    with bench.workplace() as directory:
        (directory / "sshd").mkdir()
        artifact = bundle(directory, {"model.onnx": os.urandom(megabytes * 10**6)})
        with OpenSshServer(directory / "sshd") as server:
            before, cpu = memory_bytes("VmRSS"), time.process_time()
            took_s, done = ours(directory, server, artifact, boards)
            cpu_s, grown = time.process_time() - cpu, max(0, memory_bytes("VmHWM") - before)
            scp_s, scp_failed = theirs(directory, server, artifact, boards)
    figure = bench.Figure(
        name=f"{megabytes} MB to {boards} boards at once",
        value=took_s,
        unit="s",
        peer="scp processes at once (verify nothing)",
        peer_value=scp_s,
        also={
            "failed": len(done.failed),
            "peer_failed": scp_failed,
            "cpu_s": bench.rounded(cpu_s),
            "memory_growth_bytes": grown,
            "memory_before_bytes": before,
            "megabytes_per_s": bench.rounded(len(done.delivered) * artifact.size_bytes / 1e6 / took_s),
        },
    )
    memory = f"memory {before / 2**20:.0f} + {grown / 2**20:.0f} MiB"
    table = [
        f"{megabytes} MB to {boards} boards at once",
        f"ours  {took_s:>6.1f} s   {len(done.failed)} failed   {cpu_s:.1f} s of CPU   {memory}",
        f"scp   {scp_s:>6.1f} s   {scp_failed} turned away by sshd",
        *(f"{board}: {problem}" for board, problem in list(done.failed.items())[:5]),
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
