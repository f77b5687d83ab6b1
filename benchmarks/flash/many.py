"""Pushing 10 MB to 50 boards at once from one process, against as many `scp` processes at once.

All boards are behind one private OpenSSH server on loopback, with the `MaxStartups` that sshd has by default: links are
opened a few at a time. `scp` gets no such help; those that sshd turns away are counted. What is reported of our
process, which does nothing else, is its processor time and its resident memory; every bundle is verified and flushed
on its board, which `scp` does not do.

    python benchmarks/flash/many.py [--json] [--quick] [--boards 50] [--megabytes 10]
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.boards import BenchBoard, bundle
from support.openssh import OpenSshServer

from pytest_edgehil.model.artifact import Artifact

PROGRAMS = ("sshd", "ssh", "scp")


PUSHER = """
import json, pickle, re, sys, time
from pathlib import Path
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.spread import spread
from pytest_edgehil.board.ssh import connect
sys.path.insert(0, sys.argv[1])
from support.env_transport import EnvTransport
access, artifact, boards = pickle.load(sys.stdin.buffer)
links, sessions = [], {}

def connecting(board, env, home):
    def open_link(timeout_s):
        links.append(connect(access, board_id=board.id, timeout_s=timeout_s))
        return EnvTransport(links[-1], env, home)
    return open_link

def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

for board, env, home in boards:
    sessions[board.id] = BoardSession(board, token=1, holder="bench", connect=connecting(board, env, home))
before, cpu, started = memory("VmRSS"), time.process_time(), time.perf_counter()
done = spread(artifact, sessions)
took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
print(json.dumps([took_s, cpu_s, before, memory("VmHWM"), {k: str(v) for k, v in done.failed.items()}]))
for one in (*sessions.values(), *links):
    one.close()
"""
"""A process of its own: this one holds the artifact and what it was made with."""


@dataclass(frozen=True, slots=True)
class Ours:
    """What came of it: seconds from the first connection to the last verified bundle, CPU, memory, and who failed."""

    took_s: float
    cpu_s: float
    before_bytes: int
    most_bytes: int
    failed: dict[str, str]


def ours(directory: Path, server: OpenSshServer, artifact: Artifact, boards: int) -> Ours:
    """Push to all of them."""
    benches = [
        BenchBoard(directory / f"board-{number:02d}", board_id=f"board-{number:02d}") for number in range(boards)
    ]
    given = (server.access, artifact, [(one.board, one.env, one.home) for one in benches])
    argv = [sys.executable, "-c", PUSHER, str(bench.ROOT / "tests")]
    done = subprocess.run(argv, input=pickle.dumps(given), capture_output=True, check=True)
    for one in benches:
        assert (one.edgehil / "store/sha256" / artifact.digest[7:]).stat().st_size == artifact.size_bytes
    return Ours(*json.loads(done.stdout))


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
            own = ours(directory, server, artifact, boards)
            scp_s, scp_failed = theirs(directory, server, artifact, boards)
    figure = bench.Figure(
        name=f"{megabytes} MB to {boards} boards at once",
        value=own.took_s,
        unit="s",
        peer="scp processes at once (verify nothing)",
        peer_value=scp_s,
        also={
            "failed": len(own.failed),
            "peer_failed": scp_failed,
            "cpu_s": bench.rounded(own.cpu_s),
            "peak_memory_bytes": own.most_bytes,
            "memory_before_bytes": own.before_bytes,
            "megabytes_per_s": bench.rounded((boards - len(own.failed)) * artifact.size_bytes / 1e6 / own.took_s),
        },
    )
    memory = f"memory {own.before_bytes / 2**20:.0f} MiB before, {own.most_bytes / 2**20:.0f} MiB at most"
    on = bench.machine()
    table = [
        f"{megabytes} MB to {boards} boards at once",
        f"ours  {own.took_s:>6.1f} s   {len(own.failed)} failed   {own.cpu_s:.1f} s of CPU",
        f"{memory}, wanted below 100 MB",
        f"scp   {scp_s:>6.1f} s   {scp_failed} turned away by sshd",
        f"{on['cpus']} CPUs, {on['cpu']}, load average {on['load_average']}",
        *(f"{board}: {problem}" for board, problem in list(own.failed.items())[:5]),
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
