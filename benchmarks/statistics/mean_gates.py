"""How often the gates on a mean (throughput, tokens per second) say what, at and around their limit.

Times as in `p95_operating_characteristics`: 10 ms·exp(0.08·Z), Z an AR(1) with correlation rho, 2 % stalls with a heavy
tail; and a harder kind: 1 % exponential stalls of five times the mean. r is the true mean over the limit: at r = 1 a
right gate has P and F of at most 5 %. P and F are the shares of PASS and FAIL, n the mean number of inferences. The
peer is what everyone does: one t-bound without correlation and skewness, taken again at every look.

    python benchmarks/statistics/mean_gates.py [--json] [--quick] [--repetitions 2000]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import stats
from support.samples import latencies_ms

from pytest_edgehil.gates.stats.mean import UNSEEN_STALL, look, looks

Array = npt.NDArray[np.float64]
ALPHA, MOST = 0.05, 960
RATIOS = (0.8, 0.9, 0.97, 1.0, 1.03, 1.1)


def light(rng: np.random.Generator, n: int, rho: float) -> Array:
    """The printed scenario of the latency gate."""
    return latencies_ms(rng, n, rho=rho)


def stalling(rng: np.random.Generator, n: int, rho: float) -> Array:
    """One inference in a hundred takes six times as long."""
    found = latencies_ms(rng, n, rho=rho)
    stalled = rng.random(n) < 0.01
    found[stalled] += rng.exponential(50.0, int(stalled.sum()))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of PASS and FAIL, and the mean number of inferences to the verdict."""

    passed: float
    failed: float
    inferences: float

    def __str__(self) -> str:
        """P/F n."""
        return f"{self.passed:.3f}/{self.failed:.3f} {self.inferences:4.0f}"


def ours(times: Array, limit: float) -> tuple[str, int]:
    """Our gate: the verdict, and the inferences it took."""
    for number, n in enumerate(looks(MOST), start=1):
        found = look(times[:n], alpha=ALPHA, number=number, unseen=UNSEEN_STALL)
        if found is not None and found.high <= limit:
            return "P", n
        if found is not None and found.low > limit:
            return "F", n
    return "I", MOST


def naive(times: Array, limit: float) -> tuple[str, int]:
    """The peer: a t-test at 5 % at every look."""
    for n in looks(MOST):
        part = times[:n]
        error = float(stats.t.ppf(1 - ALPHA, n - 1) * part.std(ddof=1) / np.sqrt(n))
        if part.mean() + error <= limit:
            return "P", n
        if part.mean() - error > limit:
            return "F", n
    return "I", MOST


def cell(gate: Callable[[Array, float], tuple[str, int]], samples: list[Array], limit: float) -> Cell:
    """One setting."""
    found = [gate(one, limit) for one in samples]
    return Cell(
        passed=sum(one == "P" for one, _ in found) / len(found),
        failed=sum(one == "F" for one, _ in found) / len(found),
        inferences=float(np.mean([n for _, n in found])),
    )


def table(repetitions: int) -> dict[tuple[str, float, float], tuple[Cell, Cell]]:
    """(kind, rho, r) → (ours, peer)."""
    cells = {}
    for kind in (light, stalling):
        mean = float(kind(np.random.default_rng(0), 4_000_000, 0.0).mean())
        for rho in (0.0, 0.5, 0.8):
            rng = np.random.default_rng(round(10 * rho))
            samples = [kind(rng, MOST, rho) for _ in range(repetitions)]
            for ratio in RATIOS:
                cells[kind.__name__, rho, ratio] = (
                    cell(ours, samples, mean / ratio),
                    cell(naive, samples, mean / ratio),
                )
    return cells


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    arguments = parser.parse_args()
    repetitions = 100 if arguments.quick else arguments.repetitions
    cells = table(repetitions)
    our, peer = cells["light", 0.8, 1.0]
    figure = bench.Figure(
        name="false PASS of a throughput at its limit, rho = 0.8",
        value=our.passed,
        unit="share",
        peer="a t-test at every look",
        peer_value=peer.passed,
        also={
            "repetitions": repetitions,
            "cells": [
                {"kind": kind, "rho": rho, "r": ratio, "pass": one.passed, "fail": one.failed, "n": one.inferences}
                for (kind, rho, ratio), (one, _) in cells.items()
            ],
        },
    )
    error = (0.05 * 0.95 / repetitions) ** 0.5
    lines = [
        f"P/F and mean inferences over {repetitions} samples of at most {MOST}; standard error at 5 %: {error:.3f}"
    ]
    lines.append(f"{'':26}" + "".join(f"{'r = ' + str(ratio):>18}" for ratio in RATIOS))
    for kind in ("light", "stalling"):
        for rho in (0.0, 0.5, 0.8):
            for at, label in enumerate((f"{kind}, rho {rho}: ours", "  t-test at every look")):
                lines.append(f"{label:26}" + "".join(f"{cells[kind, rho, one][at]!s:>18}" for one in RATIOS))
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
