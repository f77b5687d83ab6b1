"""How often the drift test calls a drift, and when, against the naive comparison of the last minutes with the first.

Latencies are simulated for one hour, 20 a second: 10 ms · exp(0.05·Z) with Z an AR(1) at ρ = .5, a disturbance of the
minutes (an AR(1) of 1 % at ρ_m = 0 or .5: what the neighbours on the board do), stalls (×1.2 and more, 2 % of the
time), and a trend over the hour. The budget is 10 %. Sequential on both sides. The peer compares, once at the end, the
median of the last five minutes with that of the first five, and calls everything above the budget a drift.

    python benchmarks/statistics/soak_drift.py [--json] [--quick] [--repetitions 200]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import signal

from pytest_edgehil.gates.stats import drift

SECONDS, RATE, ALPHA, BUDGET = 3600, 20, 0.05, 0.10
TIMES_S = np.arange(SECONDS * RATE) / RATE
DRIFTS = (0.0, 0.05, 0.08, 0.10, 0.12, 0.15, 0.30)
MINUTES_RHO = (0.0, 0.5)


def correlated(rng: np.random.Generator, n: int, rho: float) -> npt.NDArray[np.float64]:
    """A stationary AR(1) of variance 1, shape (n,)."""
    shocks = rng.normal(size=n) * np.sqrt(1.0 - rho * rho)
    shocks[0] /= np.sqrt(1.0 - rho * rho)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], shocks))


def latencies(rng: np.random.Generator, grown: float, rho_minutes: float) -> npt.NDArray[np.float64]:
    """Shape (72000,), ms."""
    n = TIMES_S.size
    minutes = np.repeat(0.01 * correlated(rng, SECONDS // 60, rho_minutes), 60 * RATE)
    stalls = np.where(rng.random(n) < 0.02, 1.2 + 0.5 * rng.pareto(2.0, size=n), 1.0)
    trend = np.log1p(grown) * TIMES_S / SECONDS
    return np.asarray(10.0 * np.exp(0.05 * correlated(rng, n, 0.5) + minutes + trend) * stalls)


def ours(values: npt.NDArray[np.float64], quantile: float) -> tuple[str, float]:
    """Decision and minute, as the gate comes to it: it stops at the first look that decides."""
    for number in range(5, 13):
        seen = SECONDS * number / 12 >= TIMES_S
        found = drift.look(
            TIMES_S[seen],
            values[seen],
            budget=BUDGET,
            duration_s=float(SECONDS),
            alpha=ALPHA,
            quantile=quantile,
            early_pass=True,
            ended=number == 12,
        )
        if found is not None and found.decision != "open":
            return found.decision, found.at_s / 60.0
    return "open", 60.0


def last_against_first(values: npt.NDArray[np.float64], quantile: float) -> tuple[str, float]:
    """The peer."""
    part = 5 * 60 * RATE
    ratio = float(np.quantile(values[-part:], quantile) / np.quantile(values[:part], quantile))
    return ("above" if ratio > 1.0 + BUDGET else "below"), 60.0


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    arguments = parser.parse_args()
    repetitions = 10 if arguments.quick else arguments.repetitions
    rows = []
    for rho in MINUTES_RHO:
        for grown in DRIFTS:
            rng = np.random.default_rng(round(1000 * grown) + round(10 * rho))
            samples = [latencies(rng, grown, rho) for _ in range(repetitions)]
            for name, decide, quantile in (
                ("trend of medians", ours, 0.5),
                ("trend of p95s", ours, 0.95),
                ("last against first", last_against_first, 0.5),
            ):
                found = [decide(one, quantile) for one in samples]
                counts = Counter(decision for decision, _ in found)
                shares = {word: counts[word] / repetitions for word in ("below", "above", "open")}
                rows.append((rho, grown, name, shares, float(np.mean([minute for _, minute in found]))))
    wrong = {
        name: max(shares["below"] for rho, grown, word, shares, _ in rows if word == name and grown == BUDGET)
        for name in ("trend of medians", "last against first")
    }
    figure = bench.Figure(
        name="false PASS at a drift of exactly the budget of 10 %",
        value=wrong["trend of medians"],
        unit="fraction",
        peer="last five minutes against the first five",
        peer_value=wrong["last against first"],
        ratio=wrong["trend of medians"] / max(wrong["last against first"], 1.0 / repetitions),
        also={"repetitions": repetitions},
    )
    table = [
        f"{repetitions} soaks of 1 h a row, budget {BUDGET:.0%}, error rate {ALPHA:.0%} a side\n",
        f"{'rho_m':>5} {'drift':>6}  {'method':19} {'within':>7} {'beyond':>7} {'open':>7} {'minute':>7}",
    ]
    table += [
        f"{rho:>5g} {grown:>6.0%}  {name:19} {shares['below']:>7.3f} {shares['above']:>7.3f} {shares['open']:>7.3f} "
        f"{minute:>7.1f}"
        for rho, grown, name, shares, minute in rows
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
