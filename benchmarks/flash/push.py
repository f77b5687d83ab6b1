"""Pushing a 50 MB artifact to a board, against `scp`, both to the same private OpenSSH server on loopback.

- Cold, everything from connecting to the verified file (the headline), beside ``scp``, which verifies nothing and
  leaves the file to the page cache. Ours starts the on-board program, hashes on both sides, flushes file and
  directory to the medium and renames. Beside both: ``scp`` followed by what it takes to know as much, ``sha256sum``
  and ``sync`` of the file over one more ``ssh``.
- The same over connections that are open already.
- Flashing once more what the board is on already: nothing is sent.

The orders are drawn anew in every round; the board's store is emptied before each push.

    python benchmarks/flash/push.py [--json] [--quick] [--rounds 9] [--megabytes 50]
"""

from __future__ import annotations

import functools
import os
import re
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
from support.openssh import OpenSshServer
from support.sshd_board import EnvTransport

from pytest_edgehil.board.flash import flash, plan_flash
from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.model.artifact import Artifact, Combo

PROGRAMS = ("sshd", "ssh", "scp")


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

    def cold(self, artifact: Artifact) -> float:
        """Connect, start the on-board program, push, disconnect: milliseconds."""
        self._empty_store()

        def run() -> None:
            session = self.session()
            try:
                session.client  # noqa: B018 - starts the on-board program, as whoever flashes does first
                push(session, artifact)
            finally:
                session.close()
                self.close()

        return bench.milliseconds(run)

    def warm(self, session: BoardSession, artifact: Artifact) -> float:
        """Push in an open session: milliseconds."""
        self._empty_store()
        return bench.milliseconds(lambda: push(session, artifact))

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

    def copy(self, path: Path) -> float:
        """Milliseconds."""
        self._target.unlink(missing_ok=True)
        return bench.milliseconds(functools.partial(self._copy, path))

    def copy_and_verify(self, path: Path, digest: str) -> float:
        """Milliseconds until as much is known as after our push."""
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

        return bench.milliseconds(run)

    def _copy(self, path: Path) -> None:
        subprocess.run(["scp", "-q", *self._options, str(path), f"{self._host}:{self._target}"], check=True)


def reflash(session: BoardSession, combo: Combo) -> tuple[int, float]:
    """Flash what is on the board: bytes sent and milliseconds."""
    sent = 0

    def run() -> None:
        nonlocal sent
        sent = flash(plan_flash(combo, session.client.status()), session).sent_bytes

    took = bench.milliseconds(run)
    return sent, took


def cpu_s(way: Callable[[], object]) -> float:
    """Processor time of this process and of the programs that it ran while something was done."""

    def used() -> float:
        mine, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime

    before = used()
    way()
    return used() - before


def peak_bytes(way: Callable[[], object]) -> int:
    """Resident memory of this process at its highest while something was done; the benchmark's own modules included."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): forget the peak so far
    way()
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def measure(
    directory: Path, server: OpenSshServer, artifact: Artifact, rounds: int
) -> tuple[dict[str, list[float]], list[tuple[int, float]], dict[str, list[float]], int]:
    """Times in ms by way; what flashing once more sent and took; seconds of CPU; bytes of memory at most."""
    ours = Ours(server, BenchBoard(directory / "board"))
    host = f"{server.user}@127.0.0.1"
    options = bench.ssh_options(server.port, server.client.path)
    target = directory / "copied"
    session = ours.session()
    try:
        with bench.control_master(host, options, directory / "ctl") as shared:
            cold, warm = Scp(host, options, target), Scp(host, shared, target)
            cold_ways: dict[str, Callable[[], float]] = {
                "ours": functools.partial(ours.cold, artifact),
                "scp": functools.partial(cold.copy, artifact.path),
                "scp, then verify": functools.partial(cold.copy_and_verify, artifact.path, artifact.digest),
            }
            for way in cold_ways.values():
                way()
            times = bench.in_random_order(cold_ways, rounds=rounds)
            session.client  # noqa: B018 - opens the session
            open_ways: dict[str, Callable[[], float]] = {
                "ours, open": functools.partial(ours.warm, session, artifact),
                "scp, open": functools.partial(warm.copy, artifact.path),
            }
            for way in open_ways.values():
                way()
            times |= bench.in_random_order(open_ways, rounds=rounds)
            used = bench.in_random_order(
                {
                    "ours": lambda: cpu_s(functools.partial(ours.warm, session, artifact)),
                    "scp": lambda: cpu_s(functools.partial(cold.copy, artifact.path)),
                },
                rounds=rounds,
            )
            peak = peak_bytes(functools.partial(ours.warm, session, artifact))
        combo = Combo(model=artifact)
        flash(plan_flash(combo, session.client.status()), session)
        again = [reflash(session, combo) for _ in range(rounds)]
    finally:
        session.close()
        ours.close()
    return times, again, used, peak


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=50)
    arguments = parser.parse_args()
    if not bench.needs(*PROGRAMS):
        return bench.missing_status(*PROGRAMS)
    rounds, megabytes = (2, 8) if arguments.quick else (arguments.rounds, arguments.megabytes)
    with bench.workplace() as directory:
        (directory / "sshd").mkdir()
        artifact = bundle(directory, {"model.onnx": os.urandom(megabytes * 10**6)})  # weights do not compress
        with OpenSshServer(directory / "sshd") as server:
            times, again, used, peak = measure(directory, server, artifact, rounds)
    medians = {way: statistics.median(found) for way, found in times.items()}
    cold, verified = bench.ratios(times["ours"], times["scp"]), bench.ratios(times["ours"], times["scp, then verify"])
    opened = bench.ratios(times["ours, open"], times["scp, open"])
    again_ms = statistics.median(took for _, took in again)
    again_bytes = max(sent for sent, _ in again)
    figure = bench.Figure(
        name=f"push {megabytes} MB, cold, from connecting to verified",
        value=medians["ours"],
        unit="ms",
        peer="scp (verifies nothing)",
        peer_value=medians["scp"],
        ratio=cold.median,
        also={
            "ratio_interval": cold.to_json(),
            "verified": {
                "peer": "scp, then sync and sha256sum",
                "peer_value": bench.rounded(medians["scp, then verify"]),
                "ratio_interval": verified.to_json(),
            },
            "open_connection": {
                "value": bench.rounded(medians["ours, open"]),
                "peer": "scp over a ControlMaster",
                "peer_value": bench.rounded(medians["scp, open"]),
                "ratio_interval": opened.to_json(),
            },
            "flash_again": {"bytes_sent": again_bytes, "ms": bench.rounded(again_ms)},
            "cpu": {
                "seconds": bench.rounded(statistics.median(used["ours"])),
                "peer": "scp",
                "peer_seconds": bench.rounded(statistics.median(used["scp"])),
                "ratio_interval": bench.ratios(used["ours"], used["scp"]).to_json(),
            },
            "peak_memory_bytes": peak,
            "bytes": artifact.size_bytes,
            "rounds": rounds,
        },
    )
    head = f"{megabytes} MB, median of {rounds} rounds"
    lines: list[tuple[str, float, float, str]] = [
        ("cold, from connecting", medians["ours"], medians["scp"], f"{cold}   scp (verifies nothing)"),
        ("", medians["ours"], medians["scp, then verify"], f"{verified}   scp, then sync and sha256sum"),
        (
            "over an open connection",
            medians["ours, open"],
            medians["scp, open"],
            f"{opened}   scp over a ControlMaster",
        ),
    ]
    table = [f"{head:32} {'ours':>9} {'peer':>9}   ratio [95 % interval]"]
    table += [f"{label:32} {own:>6.0f} ms {peer:>6.0f} ms   {against}" for label, own, peer, against in lines]
    own_cpu, scp_cpu = statistics.median(used["ours"]), statistics.median(used["scp"])
    cpu = bench.ratios(used["ours"], used["scp"])
    table.append(f"{'CPU of the client':32} {own_cpu:>7.2f} s {scp_cpu:>7.2f} s   {cpu}   scp")
    table.append(f"{'memory of the client, at most':32} {peak / 2**20:>5.0f} MiB")
    table.append(f"{'flash again what is there':32} {again_ms:>6.1f} ms {'':9}   {again_bytes} bytes sent")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
