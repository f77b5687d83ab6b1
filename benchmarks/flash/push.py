"""Pushing 200 MB to a board, against `scp`, all to the same private OpenSSH server on loopback, all in one run.

- Over an open connection, and from connecting to the end: ours starts the on-board program, verifies the digest on the
  board, flushes file and directory to the medium and renames; ``scp`` verifies nothing and leaves the file to the page
  cache. Its figures: cold; over an open ControlMaster; and cold, followed by what it takes to know as much: ``sync``
  and ``sha256sum`` of the file over one more ``ssh``.
- Processor time of the client, and the memory of a process that does nothing else than push.
- Flashing once more what the board is on already: nothing is sent.

The order is drawn anew in every round; the board's store is emptied before each push.

    python benchmarks/flash/push.py [--json] [--quick] [--rounds 9] [--megabytes 200]
"""

from __future__ import annotations

import functools
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from support.boards import BenchBoard, bundle
from support.env_transport import EnvTransport
from support.openssh import OpenSshServer

from pytest_edgehil.board.flash import flash, plan_flash
from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.model.artifact import Artifact, Combo

PROGRAMS = ("sshd", "ssh", "scp")
OPEN, WHOLE = "ours, open", "ours, from connecting"
COLD, SHARED, VERIFIED = "scp, cold", "scp over a ControlMaster", "scp, then sync and sha256sum"

PUSHER = """
import json, pickle, re, sys
from pathlib import Path
from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.ssh import connect
sys.path.insert(0, sys.argv[1])
from support.env_transport import EnvTransport
board, access, artifact, env, home = pickle.load(sys.stdin.buffer)
link = connect(access, board_id=board.id, timeout_s=60.0)
session = BoardSession(board, token=1, holder="bench", connect=lambda timeout_s: EnvTransport(link, env, home))
session.client
def memory(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
before = memory("VmRSS")
push(session, artifact)
print(json.dumps([before, memory("VmHWM")]))
session.close()
link.close()
"""
"""A process of its own: the peak of this one holds the making of the artifact."""


class Ours:
    """Our way to a board without a model runtime of its own: only its files matter here."""

    def __init__(self, server: OpenSshServer, bench_board: BenchBoard) -> None:
        self._server = server
        self._board = bench_board
        self._links: list[Transport] = []

    def session(self) -> BoardSession:
        """Not connected yet; connects at the first need."""
        return BoardSession(self._board.board, token=1, holder="bench", connect=self._connect)

    def close(self) -> None:
        """Close the links that sessions have opened."""
        while self._links:
            self._links.pop().close()

    def whole(self, artifact: Artifact) -> Cost:
        """Connect, start the on-board program, push, disconnect."""
        self._empty_store()

        def run() -> None:
            session = self.session()
            held = len(self._links)
            try:
                session.client  # noqa: B018 - starts the on-board program, as whoever flashes does first
                push(session, artifact)
            finally:
                session.close()
                for link in self._links[held:]:
                    link.close()
                del self._links[held:]

        return cost(run)

    def open(self, session: BoardSession, artifact: Artifact) -> Cost:
        """Push in an open session."""
        self._empty_store()
        return cost(lambda: push(session, artifact))

    def compile(self) -> None:
        """As the on-board program has it done in its first session that lasts."""
        (program,) = (self._board.edgehil / "bin").glob("onboard-*.pyz")
        subprocess.run([sys.executable, "-S", "-E", program, "compile"], check=True)

    def peak(self, artifact: Artifact) -> tuple[int, int]:
        """Resident bytes of a process that pushes: connected and about to begin, and at most."""
        import pickle

        self._empty_store()
        given = (self._board.board, self._server.access, artifact, self._board.env, self._board.home)
        done = subprocess.run(
            [sys.executable, "-c", PUSHER, str(bench.ROOT / "tests")],
            input=pickle.dumps(given),
            capture_output=True,
            check=True,
        )
        before, most = json.loads(done.stdout)
        return int(before), int(most)

    def _empty_store(self) -> None:
        for stored in (self._board.edgehil / "store/sha256").glob("*"):
            stored.unlink()

    def _connect(self, timeout_s: float) -> Transport:
        link = connect(self._server.access, board_id=self._board.board.id, timeout_s=timeout_s)
        self._links.append(link)
        return EnvTransport(link, self._board.env, self._board.home)


class Scp:
    """The `scp` program, with given options."""

    def __init__(self, host: str, options: list[str], target: Path) -> None:
        self._host = host
        self._options = options
        self._target = target

    def copy(self, path: Path) -> Cost:
        """Copy, and nothing else."""
        self._target.unlink(missing_ok=True)
        return cost(functools.partial(self._copy, path))

    def copy_and_verify(self, path: Path, digest: str) -> Cost:
        """Until as much is known as after our push."""
        self._target.unlink(missing_ok=True)

        def run() -> None:
            self._copy(path)
            where = shlex.quote(str(self._target))
            done = subprocess.run(
                ["ssh", *self._options, self._host, f"sync {where} && sha256sum {where}"],
                check=True,
                capture_output=True,
                text=True,
            )
            assert done.stdout.split()[0] == digest.removeprefix("sha256:")

        return cost(run)

    def _copy(self, path: Path) -> None:
        subprocess.run(["scp", "-q", *self._options, str(path), f"{self._host}:{self._target}"], check=True)


class Cost(float):
    """Milliseconds of wall clock, with the processor time that was used meanwhile."""

    cpu_s: float


def cost(way: Callable[[], object]) -> Cost:
    """Processor time is that of this process and of the programs that it ran."""

    def used() -> float:
        mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime

    before = used()
    took = Cost(bench.milliseconds(way))
    took.cpu_s = used() - before
    return took


def reflash(session: BoardSession, combo: Combo) -> tuple[int, float]:
    """Flash what is on the board: bytes sent and milliseconds."""
    sent = 0

    def run() -> None:
        nonlocal sent
        sent = flash(plan_flash(combo, session.client.status()), session).sent_bytes

    took = bench.milliseconds(run)
    return sent, took


def measure(
    directory: Path, server: OpenSshServer, artifact: Artifact, rounds: int
) -> tuple[dict[str, list[Cost]], list[tuple[int, float]], tuple[int, int]]:
    """What each way cost in every round; what flashing once more sent and took; memory before and at most."""
    ours = Ours(server, BenchBoard(directory / "board"))
    host = f"{server.user}@127.0.0.1"
    options = bench.ssh_options(server.port, server.client.path)
    target = directory / "copied"
    session = ours.session()
    try:
        session.client  # noqa: B018 - opens the session
        ours.compile()
        with bench.control_master(host, options, directory / "ctl") as shared:
            cold, warm = Scp(host, options, target), Scp(host, shared, target)
            ways: dict[str, Callable[[], Cost]] = {
                OPEN: functools.partial(ours.open, session, artifact),
                WHOLE: functools.partial(ours.whole, artifact),
                COLD: functools.partial(cold.copy, artifact.path),
                SHARED: functools.partial(warm.copy, artifact.path),
                VERIFIED: functools.partial(cold.copy_and_verify, artifact.path, artifact.digest),
            }
            for way in ways.values():
                way()
            found = in_random_order(ways, rounds=rounds)
        target.unlink()
        peak = ours.peak(artifact)
        combo = Combo(model=artifact)
        flash(plan_flash(combo, session.client.status()), session)
        again = [reflash(session, combo) for _ in range(rounds)]
    finally:
        session.close()
        ours.close()
    return found, again, peak


def in_random_order(ways: dict[str, Callable[[], Cost]], *, rounds: int) -> dict[str, list[Cost]]:
    """As `bench.in_random_order`, which knows nothing of processor time."""
    found: dict[str, list[Cost]] = {name: [] for name in ways}

    def noting(name: str) -> float:
        found[name].append(ways[name]())
        return found[name][-1]

    bench.in_random_order({name: functools.partial(noting, name) for name in ways}, rounds=rounds)
    return found


def speed(peer: list[Cost], ours: list[Cost]) -> bench.Interval:
    """How many times the peer's throughput ours is; by pairs of one round."""
    return bench.ratios(peer, ours)


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=200)
    arguments = parser.parse_args()
    if not bench.needs(*PROGRAMS):
        return bench.missing_status(*PROGRAMS)
    rounds, megabytes = (2, 8) if arguments.quick else (arguments.rounds, arguments.megabytes)
    with bench.workplace() as directory:
        (directory / "sshd").mkdir()
        artifact = bundle(directory, {"model.onnx": os.urandom(megabytes * 10**6)})  # weights do not compress
        with OpenSshServer(directory / "sshd") as server:
            found, again, (memory_before, memory_most) = measure(directory, server, artifact, rounds)
    medians = {way: statistics.median(costs) for way, costs in found.items()}
    cpus = {way: [one.cpu_s for one in costs] for way, costs in found.items()}
    rows = (
        (OPEN, COLD, 1.5),
        (OPEN, SHARED, 0.9),
        (WHOLE, COLD, 1.3),
        (WHOLE, VERIFIED, None),
    )
    speeds = {(own, peer): speed(found[peer], found[own]) for own, peer, _ in rows}
    cpu = bench.ratios(cpus[OPEN], cpus[COLD])
    again_ms, again_bytes = statistics.median(took for _, took in again), max(sent for sent, _ in again)
    figure = bench.Figure(
        name=f"push {megabytes} MB over an open connection, verified and flushed on the board",
        value=medians[OPEN],
        unit="ms",
        peer="scp, cold (verifies nothing)",
        peer_value=medians[COLD],
        ratio=1 / speeds[OPEN, COLD].median,
        also={
            "times_the_throughput": [
                {
                    "ours": own,
                    "ours_ms": bench.rounded(medians[own]),
                    "peer": peer,
                    "peer_ms": bench.rounded(medians[peer]),
                    "ratio_interval": speeds[own, peer].to_json(),
                    "wanted": wanted,
                }
                for own, peer, wanted in rows
            ],
            "flash_again": {"bytes_sent": again_bytes, "ms": bench.rounded(again_ms)},
            "cpu": {
                "seconds": bench.rounded(statistics.median(cpus[OPEN])),
                "peer": COLD,
                "peer_seconds": bench.rounded(statistics.median(cpus[COLD])),
                "ratio_interval": cpu.to_json(),
                "wanted": 0.7,
            },
            "peak_memory_bytes": memory_most,
            "memory_before_bytes": memory_before,
            "bytes": artifact.size_bytes,
            "rounds": rounds,
        },
    )
    head = f"{megabytes} MB, median of {rounds} rounds"
    table = [f"{head:26} {'ours':>9} {'peer':>9}   times as fast [95 % interval]"]
    table += [
        f"{own:26} {medians[own]:>6.0f} ms {medians[peer]:>6.0f} ms   "
        f"{speeds[own, peer]!s:28} {peer}{f', wanted {wanted:g}' if wanted else ''}"
        for own, peer, wanted in rows
    ]
    own_cpu, scp_cpu = statistics.median(cpus[OPEN]), statistics.median(cpus[COLD])
    table.append(
        f"{'CPU of the client':26} {own_cpu:>7.2f} s {scp_cpu:>7.2f} s   {cpu!s:28} of {COLD}, wanted 0.7 at most"
    )
    mib = f"{memory_before / 2**20:.0f} MiB before, {memory_most / 2**20:.0f} MiB at most"
    table.append(f"{'memory of a pusher':26} {mib}, wanted below 100 MB")
    table.append(f"{'flash again what is there':26} {again_ms:>6.1f} ms, {again_bytes} bytes sent")
    table.append(machine_line())
    return bench.publish(arguments, figure, table)


def machine_line() -> str:
    """On what, and how busy."""
    on = bench.machine()
    return f"{on['cpus']} CPUs, {on['cpu']}, load average {on['load_average']}"


if __name__ == "__main__":
    raise SystemExit(main())
