"""How soon is a returned board in the next hands? From a release to the next holder's first board command.

Fifty processes wait for one board. Whoever has it sends it a command, keeps it for a moment, returns it and joins the
queue again. Measured is the time from the call that releases to the answer of the board to the next holder's first
command. The board is a stand-in that takes commands over a socket and checks the token: what connecting to a real one
costs is in `transport/commands.py`.

The peer is ``flock``, from which the kernel wakes the next one, in the same run.

    python benchmarks/leases/handover.py [--json] [--quick] [--waiters 50] [--rounds 200]
"""

from __future__ import annotations

import fcntl
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
from exclusivity import FORK, Link, boards, labs, postgres_is_here

from pytest_edgehil.errors import LeaseError
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement

KEPT_S = 0.05
PATIENCE_S = 600.0


def queue_up(lab: Lab, path: Path, journal: Path, rounds: int) -> None:
    """Wait, take, return, again; through our leases."""
    link, file = Link(path), os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with open_store(lab) as store:
        while journal.stat().st_size < rounds * _LINE:
            try:
                held = reserve(lab, [Requirement()], store=store, holder=default_holder(), wait_s=PATIENCE_S)
            except LeaseError:
                continue
            token = held.leases[0].token
            taken = link.send("vb-0", token, str(token))
            at = time.monotonic()
            assert taken
            time.sleep(KEPT_S)
            _write(file, at, time.monotonic())
            held.release()


def lock_up(path: Path, journal: Path, rounds: int) -> None:
    """The same through a lock of the kernel."""
    link, file = Link(path), os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with journal.with_suffix(".lock").open("ab") as lock:
        while journal.stat().st_size < rounds * _LINE:
            fcntl.flock(lock, fcntl.LOCK_EX)
            link.send("vb-0", 10**15, "lock")
            at = time.monotonic()
            time.sleep(KEPT_S)
            _write(file, at, time.monotonic())
            fcntl.flock(lock, fcntl.LOCK_UN)


_LINE = len(f"{0.0:20.6f} {0.0:20.6f}\n")


def _write(file: int, got: float, gave: float) -> None:
    os.write(file, f"{got:20.6f} {gave:20.6f}\n".encode())


def measured(name: str, lab: Lab | None, directory: Path, *, waiters: int, rounds: int) -> list[float]:
    """Milliseconds of each hand-over, but for the first ones, in which not all wait yet."""
    path, journal = directory / f"board-{name}", directory / f"journal-{name}"
    journal.touch()
    result: Any = FORK.Queue()
    served = FORK.Process(target=boards, args=(path, ["vb-0"], result), daemon=True)
    served.start()
    while not path.with_suffix(".up").exists():
        time.sleep(0.01)
    total = rounds + waiters
    crowd = [
        FORK.Process(
            target=lock_up if lab is None else queue_up,
            args=(path, journal, total) if lab is None else (lab, path, journal, total),
            daemon=True,
        )
        for _ in range(waiters + 1)
    ]
    for one in crowd:
        one.start()
    end = time.monotonic() + PATIENCE_S
    while journal.stat().st_size < total * _LINE:
        if time.monotonic() > end:
            raise SystemExit(f"{name}: hand-overs have stopped")
        time.sleep(0.1)
    for one in crowd:
        one.kill()
        one.join()
    path.with_suffix(".end").touch()
    served.join()
    visits = [tuple(map(float, line.split())) for line in journal.read_text().splitlines()[waiters:total]]
    return [(after[0] - before[1]) * 1e3 for before, after in itertools.pairwise(visits)]


def p95(values: list[float]) -> float:
    """The 95th percentile, nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-95 * len(ordered) // 100) - 1)]


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--waiters", type=int)
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    waiters = arguments.waiters or (5 if arguments.quick else 50)
    rounds = arguments.rounds or (10 if arguments.quick else 200)
    which = ["sqlite", *(["postgres"] if postgres_is_here() else [])]
    found: dict[str, list[float]] = {}
    with bench.workplace() as directory, labs(which, directory, 1, expiry_s=15.0) as prepared:
        for name, lab in prepared.items():
            found[name] = measured(name, lab, directory, waiters=waiters, rounds=rounds)
        found["flock"] = measured("flock", None, directory, waiters=waiters, rounds=rounds)
    worst = max(which, key=lambda name: p95(found[name]))
    figure = bench.Figure(
        name=f"release to first command of the next, p95, {waiters} waiting, {worst}",
        value=p95(found[worst]),
        unit="ms",
        peer="flock",
        peer_value=p95(found["flock"]),
        also={
            name: {
                "p50_ms": bench.rounded(statistics.median(values)),
                "p95_ms": bench.rounded(p95(values)),
                "longest_ms": bench.rounded(max(values)),
                "n": len(values),
            }
            for name, values in found.items()
        },
    )
    where = bench.machine()
    table = [f"{waiters} waiting; {where['cpu']}, {where['cpus']} CPUs, load average {where['load_average']}"]
    table += [
        f"{name:10} p50 {statistics.median(values):8.2f} ms   p95 {p95(values):8.2f} ms   longest {max(values):8.1f} ms"
        for name, values in found.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
