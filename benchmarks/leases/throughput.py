"""How fast leases come and go, against bare SQLite, and how soon a released board is in the next hands.

- Acquire and release on one SQLite file from one process (the headline), beside the least that any lease in SQLite
  costs: two transactions of the `sqlite3` module that insert and delete one row, with the same journal mode and the
  same ``synchronous``. Ours also checks expiry, pools and quarantine, numbers the lease and writes the audit.
- From the beginning of the release to another process's hands while two wait, beside ``flock``, from which the
  kernel wakes the next one. Ours waits by asking every 20 to 100 ms.

Blocks of ours and of the peer's alternate in random order.

    python benchmarks/leases/throughput.py [--json] [--quick] [--rounds 30]
"""

from __future__ import annotations

import functools
import random
import select
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import LabStore, default_holder
from pytest_edgehil.lab.store import open_store

LAB = "lab: bench\nboards:\n  vb-1: {class: pi5-8gb, environment: virtual}\n"
BLOCK = 50
PATIENCE_S = 60.0


def ours_per_s(store: LabStore) -> float:
    """Acquire and release, so many per second."""
    holder = default_holder()
    started = time.perf_counter()
    for _ in range(BLOCK):
        leases = store.acquire([["vb-1"]], holder=holder, expiry_s=15.0)
        assert leases is not None
        store.release(leases[0])
    return BLOCK / (time.perf_counter() - started)


def bare_per_s(connection: sqlite3.Connection) -> float:
    """Insert and delete, so many per second."""
    started = time.perf_counter()
    for number in range(BLOCK):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO lease VALUES ('vb-1', ?, ?)", (number, time.time() + 15.0))
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM lease WHERE board = 'vb-1' AND token = ?", (number,))
        connection.execute("COMMIT")
    return BLOCK / (time.perf_counter() - started)


def bare_database(path: Path) -> sqlite3.Connection:
    """With the settings of ours."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("CREATE TABLE lease (board TEXT PRIMARY KEY, token INTEGER, expires_at REAL)")
    return connection


class Waiter:
    """A process of `waiter.py`."""

    def __init__(self, kind: str, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("waiter.py")), kind, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def fileno(self) -> int:
        """For select."""
        return self._out.fileno()

    def go(self) -> None:
        """Want it; or give it back."""
        self._in.write(b"go\n")

    def line(self) -> str:
        """What it says next."""
        if not select.select([self], [], [], PATIENCE_S)[0]:
            raise SystemExit("a waiter did not answer")
        text = bytearray()
        while not text.endswith(b"\n"):
            byte = self._out.read(1)
            if not byte:
                raise SystemExit("a waiter died")
            text += byte
        return text.decode().strip()

    def close(self) -> None:
        """End it."""
        self._in.close()
        self._process.wait()
        self._out.close()


def hand_over_ms(waiters: list[Waiter], draw: random.Random) -> float:
    """One process holds, two wait, it lets go: milliseconds until the first of them holds."""
    first, *others = waiters
    first.go()
    _next_holder([first])  # whoever was last says so before it lets go: there may be somebody to wait for
    for other in others:
        other.go()
        told = other.line()
        assert told == "waiting", told
    time.sleep(draw.uniform(0.1, 0.4))  # so that the release falls anywhere between two looks of those who wait
    first.go()
    began = float(first.line())
    won_at = None
    while others:
        winner, got_at = _next_holder(others)
        won_at = got_at if won_at is None else won_at
        others.remove(winner)
        winner.go()
        winner.line()
    assert won_at is not None
    return (won_at - began) * 1e3


def _next_holder(waiters: list[Waiter]) -> tuple[Waiter, float]:
    """Who gets it, and when; those who do not say "waiting" again, since they wait for somebody else now."""
    while True:
        ready = select.select(waiters, [], [], PATIENCE_S)[0]
        if not ready:
            raise SystemExit("nobody got what was released")
        for one in ready:
            said = one.line()
            if said != "waiting":
                return one, float(said)


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    rounds = 2 if arguments.quick else arguments.rounds
    draw = random.Random(0)
    with bench.workplace() as directory:
        (directory / "lab.yaml").write_text(LAB)
        bare = bare_database(directory / "bare.db")
        with open_store(load_lab(directory / "lab.yaml")) as store:
            calls = {"ours": functools.partial(ours_per_s, store), "bare": functools.partial(bare_per_s, bare)}
            for call in calls.values():
                call()
            rates = bench.in_random_order(calls, rounds=rounds)
        bare.close()
        waiters = {
            "ours": [Waiter("lease", directory / "lab.yaml") for _ in range(3)],
            "flock": [Waiter("lock", directory / "lock") for _ in range(3)],
        }
        try:
            hand_overs = bench.in_random_order(
                {who: functools.partial(hand_over_ms, some, draw) for who, some in waiters.items()}, rounds=rounds
            )
        finally:
            for some in waiters.values():
                for one in some:
                    one.close()
    pairs = bench.ratios(rates["ours"], rates["bare"])
    medians = {who: statistics.median(values) for who, values in rates.items()}
    waits = {who: bench.interval(values) for who, values in hand_overs.items()}
    longest = {who: max(values) for who, values in hand_overs.items()}
    figure = bench.Figure(
        name="acquire and release a lease, SQLite, one process",
        value=medians["ours"],
        unit="1/s",
        peer="bare SQLite: insert, delete",
        peer_value=medians["bare"],
        ratio=pairs.median,
        also={
            "ratio_interval": pairs.to_json(),
            "hand_over": {
                "ms": waits["ours"].to_json(),
                "longest_ms": bench.rounded(longest["ours"]),
                "peer": "flock",
                "peer_ms": waits["flock"].to_json(),
                "waiting": 2,
            },
            "rounds": rounds,
            "per_round": BLOCK,
        },
    )
    table = [
        f"{'median of ' + str(rounds) + ' rounds':34} {'ours':>12} {'peer':>12}   ratio [95 % interval]",
        (
            f"{'acquire and release':34} {medians['ours']:>8.0f} 1/s {medians['bare']:>8.0f} 1/s   {pairs}"
            "   bare SQLite: insert, delete"
        ),
        (
            f"{'released → next hands, 2 waiting':34} {waits['ours'].median:>9.1f} ms {waits['flock'].median:>9.2f} ms"
            f"   longest {longest['ours']:.0f} ms   flock"
        ),
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
