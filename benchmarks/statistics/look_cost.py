"""What it costs the host to decide: CPU time of every look of a session of up to 1000 inferences, and of a long sample.

A session is what the plugin does: evaluate, ask what is needed, measure, evaluate … The model is at its budget, so that
it goes on to the last look; correlated, so that V is not 1. Peers, on the same 1000 latencies: a bootstrap interval of
the p95 with 1000 resamples, and an exact binomial test, which knows neither correlation nor looks.

    python benchmarks/statistics/look_cost.py [--json] [--quick]
"""

from __future__ import annotations

import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
from scipy import stats
from support.samples import TRUE_P95_MS, latencies_ms, to_ns

from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.model import Sample

BUDGET_NS, N = round(TRUE_P95_MS * 1e6), 1000


def cpu_ms(call: Callable[[], object]) -> float:
    """CPU time of one call: other processes of the machine do not count."""
    started = time.process_time()
    call()
    return (time.process_time() - started) * 1e3


def sample(rng: np.random.Generator, n: int) -> Sample:
    """Correlated latencies."""
    latencies = to_ns(latencies_ms(rng, n, rho=0.5))
    starts = np.cumsum(latencies) - latencies
    return Sample(latencies_ns=latencies, starts_ns=starts, duration_s=float(latencies.sum()) / 1e9)


def first(whole: Sample, n: int) -> Sample:
    """The first n inferences."""
    return whole.replace(
        latencies_ns=whole.latencies_ns[:n],
        starts_ns=whole.starts_ns[:n],
        duration_s=float(whole.latencies_ns[:n].sum()) / 1e9,
    )


def session(gate: LatencyQuantile, whole: Sample) -> list[float]:
    """CPU milliseconds of each look, evaluating and asking together."""
    spent: list[float] = []
    n = 30
    while True:
        part = first(whole, n)
        started = time.process_time()
        gate.evaluate(part)
        wanted = gate.demand(part)
        spent.append((time.process_time() - started) * 1e3)
        if wanted is None or n >= whole.n:
            return spent
        n = min(whole.n, n + wanted.inferences)


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 50
    gate = LatencyQuantile(budget_ns=BUDGET_NS, alpha=0.05)
    rng = np.random.default_rng(0)
    session(gate, sample(rng, N))  # imports, and the constants that are computed once
    sessions = [session(gate, sample(rng, N)) for _ in range(rounds)]
    looks = [one for spent in sessions for one in spent[:-1]]
    last = [spent[-1] for spent in sessions]
    values = sample(rng, N).latencies_ns
    exceeded = int((values > BUDGET_NS).sum())
    peers = {
        "bootstrap of the p95, 1000 resamples": [
            cpu_ms(
                lambda: stats.bootstrap(
                    (values,),
                    lambda x, axis: np.quantile(x, 0.95, axis=axis),
                    n_resamples=1000,
                    method="percentile",
                    rng=np.random.default_rng(1),
                )
            )
            for _ in range(max(3, rounds // 5))
        ],
        "exact binomial test": [cpu_ms(lambda: stats.binomtest(exceeded, N, 0.05)) for _ in range(rounds)],
    }
    long = sample(rng, 20_000 if arguments.quick else 360_000)
    tracemalloc.start()
    whole_ms = cpu_ms(lambda: gate.evaluate(long))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    figure = bench.Figure(
        name="CPU time of a look of the p95 gate, up to 1000 inferences",
        value=statistics.median(looks),
        unit="ms",
        peer="bootstrap interval, 1000 resamples",
        peer_value=statistics.median(peers["bootstrap of the p95, 1000 resamples"]),
        also={
            "last_look_ms": bench.rounded(statistics.median(last)),
            "session_ms": bench.rounded(statistics.median([sum(one) for one in sessions])),
            "long_sample": {"inferences": long.n, "ms": bench.rounded(whole_ms), "peak_bytes": peak},
        },
    )
    table = [f"CPU milliseconds, median and longest of {rounds} sessions\n"]
    table += [
        f"{name:44}{statistics.median(found):>9.3f}{max(found):>9.3f}"
        for name, found in (
            ("a look, evaluating and asking for more", looks),
            ("the last look, with what would change it", last),
            ("all looks of a session up to 1000", [sum(one) for one in sessions]),
            *peers.items(),
        )
    ]
    table.append(f"\n{long.n} inferences at once: {whole_ms:.1f} ms, {peak / 2**20:.1f} MiB at most")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
