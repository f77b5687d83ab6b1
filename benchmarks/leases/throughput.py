"""How fast leases come and go: acquire and release from eight processes, each its own board, in both databases.

The peer is the least that a lease can cost in the same database with the same durability: two transactions that insert
and delete one row, through `sqlite3` and through psycopg. Ours checks expiry, queue, pools and quarantine, numbers the
lease and writes the audit trail as well. Turns of ours and of the peer's alternate in random order.

PostgreSQL is a private server on the same machine with fsync on, and so shares the CPUs with the eight.

    python benchmarks/leases/throughput.py [--json] [--quick] [--rounds 5] [--seconds 3] [--processes 8]
"""

from __future__ import annotations

import functools
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
from exclusivity import FORK, labs, postgres_is_here

from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import default_holder
from pytest_edgehil.lab.store import open_store

Pair = Callable[[], None]
"""One acquire and one release."""
PATIENCE_S = 120.0


@contextmanager
def ours(lab: Lab, number: int) -> Iterator[Pair]:
    """Leases."""
    holder = default_holder()
    with open_store(lab) as store:

        def pair() -> None:
            leases = store.acquire([[f"vb-{number}"]], holder=holder, expiry_s=15.0)
            assert leases is not None
            store.release(leases[0])

        yield pair


@contextmanager
def bare_sqlite(path: Path, number: int) -> Iterator[Pair]:
    """With the settings of ours."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("PRAGMA synchronous=NORMAL")

        def pair() -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO lease VALUES (?, 1, ?)", (number, time.time() + 15.0))
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM lease WHERE board = ? AND token = 1", (number,))
            connection.execute("COMMIT")

        yield pair


@contextmanager
def bare_postgres(dsn: str, number: int) -> Iterator[Pair]:
    """Each statement a transaction; like ours, only the first one waits for the medium."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:

        def pair() -> None:
            connection.execute("SET synchronous_commit = on", prepare=True)
            connection.execute("INSERT INTO bare VALUES (%s, 1, 0)", (number,), prepare=True)
            connection.execute("SET synchronous_commit = off", prepare=True)
            connection.execute("DELETE FROM bare WHERE board = %s AND token = 1", (number,), prepare=True)

        yield pair


def one_of_many(make: Any, number: int, start: Any, seconds: float, result: Any) -> None:
    """A process of a turn."""
    with make(number=number) as pair:
        pair()
        start.wait()
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            pair()
            count += 1
        result.put(count / (time.perf_counter() - began))


def turn(make: Any, *, processes: int, seconds: float) -> float:
    """Pairs per second of all processes together."""
    start, result = FORK.Barrier(processes), FORK.Queue()
    crowd = [
        FORK.Process(target=one_of_many, args=(make, number, start, seconds, result), daemon=True)
        for number in range(processes)
    ]
    for one in crowd:
        one.start()
    total = sum(result.get(timeout=PATIENCE_S) for _ in crowd)
    for one in crowd:
        one.join()
    return float(total)


def prepare_bare(directory: Path, lab: Lab | None) -> dict[str, Any]:
    """The peers' tables, and what works on them."""
    path = directory / "bare.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE lease (board INTEGER PRIMARY KEY, token INTEGER, expires_at REAL)")
    found: dict[str, Any] = {"sqlite": functools.partial(bare_sqlite, path)}
    if lab is not None:
        import psycopg

        dsn = f"host={lab.lease_url.partition('host=')[2]} user=edgehil dbname=postgres"
        with psycopg.connect(dsn, autocommit=True) as server:
            server.execute("CREATE TABLE bare (board int PRIMARY KEY, token bigint, expires_at float8)")
        found["postgres"] = functools.partial(bare_postgres, dsn)
    return found


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--processes", type=int, default=8)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    seconds = arguments.seconds or (0.2 if arguments.quick else 3.0)
    processes = arguments.processes
    which = ["sqlite", *(["postgres"] if postgres_is_here() else [])]
    with bench.workplace() as directory, labs(which, directory, processes) as prepared:
        bare = prepare_bare(directory, prepared.get("postgres"))
        calls = {}
        for name, lab in prepared.items():
            for kind, make in (("ours", functools.partial(ours, lab)), ("bare", bare[name])):
                calls[f"{name} {kind}"] = functools.partial(turn, make, processes=processes, seconds=seconds)
        rates = bench.in_random_order(calls, rounds=rounds)
    ratios = {name: bench.ratios(rates[f"{name} ours"], rates[f"{name} bare"]) for name in which}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    figure = bench.Figure(
        name=f"acquire and release, {processes} processes, {which[-1]}",
        value=medians[f"{which[-1]} ours"],
        unit="1/s",
        peer="insert and delete a row",
        peer_value=medians[f"{which[-1]} bare"],
        ratio=ratios[which[-1]].median,
        also={
            **{
                name: {
                    "per_s": bench.rounded(medians[f"{name} ours"]),
                    "bare_per_s": bench.rounded(medians[f"{name} bare"]),
                    "ratio": ratios[name].to_json(),
                }
                for name in which
            },
            "rounds": rounds,
            "processes": processes,
        },
    )
    where = bench.machine()
    table = [f"{processes} processes, {where['cpus']} CPUs ({where['cpu']}), load average {where['load_average']}"]
    table += [
        f"{name:10} ours {medians[f'{name} ours']:7.0f} 1/s   bare {medians[f'{name} bare']:7.0f} 1/s   {ratios[name]}"
        for name in which
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
