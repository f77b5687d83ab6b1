"""Is a gate on the 99.9th percentile right? As many inferences as its marker allows, at the budget and 30 % below it.

Latencies as in `p95_operating_characteristics`: 10 ms·exp(0.08·Z), Z an AR(1), 2 % of them stalls with a heavy tail, of
which the whole of this quantile is made. r is the true quantile over the budget: at r = 1 PASS and FAIL are both
errors, at r = 0.7 everything but PASS is a miss. The peer is "the observed quantile is within the budget", after as
many inferences. The board is made up and has nothing to wait for, as in the other tables.

    python benchmarks/statistics/far_tail.py [--json] [--quick] [--repetitions 200]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
from scipy import integrate, optimize, stats
from support.samples import latencies_ms

from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import parse
from pytest_edgehil.model import Outcome, Sample

QUANTILE, MS = 0.999, 1_000_000
RATIOS = (0.7, 1.0)
CORRELATIONS = (0.0, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of the outcomes, the mean inferences to the verdict, and the peer's share of PASS."""

    passed: float
    failed: float
    inferences: float
    naive: float


def true_quantile_ms() -> float:
    """Of a single latency, whatever its correlation.

    P(X > x) = 0.98·P(10·L > x) + 0.02·P(10·L·S > x), with ln L normal of spread 0.08 and S = 1.2 + Lomax(2, 0.5).
    """

    def beyond(x: float) -> float:
        def stalled(z: float) -> float:
            times = x / (10.0 * np.exp(0.08 * z))
            return float(stats.norm.pdf(z) * (1.0 if times <= 1.2 else stats.lomax.sf(times - 1.2, 2.0, scale=0.5)))

        return float(0.98 * stats.norm.sf(np.log(x / 10.0) / 0.08) + 0.02 * integrate.quad(stalled, -8.0, 8.0)[0])

    return float(optimize.brentq(lambda x: beyond(x) - (1.0 - QUANTILE), 10.0, 1000.0))


def cell(rho: float, ratio: float, truth_ms: float, repetitions: int) -> Cell:
    """One setting."""
    gate = parse(
        "quantile_latency", (), {"q": QUANTILE, "budget": f"{truth_ms / ratio:.6f} ms"}, settings=GateSettings()
    )
    assert isinstance(gate, LatencyQuantile)
    rng = np.random.default_rng([round(10 * rho), round(10 * ratio)])
    outcomes, taken, naive = [], [], 0
    for _ in range(repetitions):
        latencies = np.rint(latencies_ms(rng, gate.max_samples, rho=rho) * MS).astype(np.int64)
        verdict = gate.evaluate(Sample(latencies_ns=latencies, starts_ns=np.cumsum(latencies) - latencies))
        outcomes.append(verdict.outcome)
        taken.append(verdict.n)
        naive += bool((latencies > gate.budget_ns).mean() <= 1.0 - QUANTILE + 1e-9)
    return Cell(
        passed=outcomes.count(Outcome.PASS) / repetitions,
        failed=outcomes.count(Outcome.FAIL) / repetitions,
        inferences=float(np.mean(taken)),
        naive=naive / repetitions,
    )


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    arguments = parser.parse_args()
    repetitions = 20 if arguments.quick else arguments.repetitions
    truth_ms = true_quantile_ms()
    cells = {(rho, ratio): cell(rho, ratio, truth_ms, repetitions) for rho in CORRELATIONS for ratio in RATIOS}
    worst = max(CORRELATIONS, key=lambda rho: cells[rho, 1.0].passed)
    figure = bench.Figure(
        name=f"false PASS of a p99.9 at its budget, rho = {worst:g}",
        value=cells[worst, 1.0].passed,
        unit="share",
        peer="observed quantile within the budget",
        peer_value=cells[worst, 1.0].naive,
        also={
            "repetitions": repetitions,
            "true_p99_9_ms": truth_ms,
            "cells": [
                {"rho": rho, "r": ratio, "pass": one.passed, "fail": one.failed, "n": one.inferences}
                for (rho, ratio), one in cells.items()
            ],
        },
    )
    error = (0.05 * 0.95 / repetitions) ** 0.5
    lines = [
        f"{repetitions} runs a cell; true p99.9 {truth_ms:.2f} ms; standard error at 5 %: {error:.3f}\n",
        f"{'':14}{'PASS':>8}{'FAIL':>8}{'inferences':>12}{'observed within':>18}",
    ]
    lines += [
        f"rho {rho:g}, r = {ratio:<4}{one.passed:>8.3f}{one.failed:>8.3f}{one.inferences:>12.0f}{one.naive:>18.3f}"
        for (rho, ratio), one in cells.items()
    ]
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
