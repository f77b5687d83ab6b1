"""How often the p95 gate says what, and after how many inferences, against an exact binomial test of a fixed 1000.

Latency is simulated: 10 ms·exp(0.08·Z), Z an AR(1) with correlation rho, 2 % stalls with a heavy tail, whole
nanoseconds. r is the true p95 over the budget: below 1 the model is good enough, above it is not. Each cell shows
P/F/I (shares of PASS, FAIL, INCONCLUSIVE) and the mean number of inferences to the verdict. A right gate has P of at
most 5 % at r ≥ 1 and F of at most 5 % at r ≤ 1.

    python benchmarks/statistics/p95_operating_characteristics.py [--json] [--quick] [--repetitions 1000]
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import stats
from support.samples import MS, TRUE_P95_MS, latencies_ms, to_ns

from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.model import Outcome, Sample

P0, ALPHA, MOST = 0.05, 0.05, 1000
RATIOS = (0.7, 0.9, 1.0, 1.1, 1.5)
RHOS = (0.0, 0.5, 0.8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of the verdicts and mean inferences of one setting."""

    passed: float
    failed: float
    inferences: float

    def __str__(self) -> str:
        """P/F/I, n."""
        return f"{self.passed:.3f}/{self.failed:.3f}/{1 - self.passed - self.failed:.3f} {self.inferences:5.0f}"


def gate(latencies: npt.NDArray[np.int64], budget_ns: int) -> tuple[Outcome, int]:
    """Our gate on one sample: the outcome and the inferences it took."""
    sample = Sample(latencies_ns=latencies, starts_ns=np.cumsum(latencies) - latencies)
    verdict = LatencyQuantile(budget_ns=budget_ns, alpha=ALPHA, max_samples=MOST).evaluate(sample)
    return verdict.outcome, verdict.n


def fixed(latencies: npt.NDArray[np.int64], budget_ns: int) -> tuple[Outcome, int]:
    """The peer: an exact binomial test of either side, once, on all inferences."""
    n, s = latencies.shape[0], int((latencies > budget_ns).sum())
    if stats.binom.cdf(s, n, P0) <= ALPHA:
        return Outcome.PASS, n
    return (Outcome.FAIL if stats.binom.sf(s - 1, n, P0) <= ALPHA else Outcome.INCONCLUSIVE), n


def summary(found: list[tuple[Outcome, int]]) -> Cell:
    """Shares of what was decided."""
    counts = Counter(outcome for outcome, _ in found)
    return Cell(
        passed=counts[Outcome.PASS] / len(found),
        failed=counts[Outcome.FAIL] / len(found),
        inferences=float(np.mean([n for _, n in found])),
    )


def table(repetitions: int) -> dict[tuple[float, float], tuple[Cell, Cell]]:
    """(rho, r) → (ours, peer), both on the same samples."""
    cells = {}
    for rho in RHOS:
        for ratio in RATIOS:
            rng = np.random.default_rng([round(10 * rho), round(10 * ratio)])
            samples = [to_ns(latencies_ms(rng, MOST, rho=rho)) for _ in range(repetitions)]
            budget = round(TRUE_P95_MS / ratio * MS)
            cells[rho, ratio] = (
                summary([gate(one, budget) for one in samples]),
                summary([fixed(one, budget) for one in samples]),
            )
    return cells


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    arguments = parser.parse_args()
    repetitions = 60 if arguments.quick else arguments.repetitions
    cells = table(repetitions)
    ours, peer = cells[0.5, 0.7]
    figure = bench.Figure(
        name="mean inferences to a p95 verdict, r = 0.7, rho = 0.5",
        value=ours.inferences,
        unit="inferences",
        peer="exact binomial test, fixed n",
        peer_value=peer.inferences,
        also={
            "repetitions": repetitions,
            "cells": [
                {"rho": rho, "r": r, "pass": one.passed, "fail": one.failed, "inferences": one.inferences}
                for (rho, r), (one, _) in cells.items()
            ],
        },
    )
    lines = [
        f"P/F/I and mean inferences over {repetitions} samples a cell; a share's standard error is at most",
        f"{0.5 / repetitions**0.5:.3f}, and {(0.05 * 0.95 / repetitions) ** 0.5:.3f} near 5 %\n",
        f"{'':24}" + "".join(f"{'r = ' + str(ratio):>25}" for ratio in RATIOS),
    ]
    for rho in RHOS:
        for label, which in ((f"rho {rho}: e-process", 0), ("  exact binomial, n 1000", 1)):
            lines.append(f"{label:24}" + "".join(f"{cells[rho, ratio][which]!s:>25}" for ratio in RATIOS))
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
