"""How often the leak fit calls a leak, and when, against an ordinary least-squares slope.

Memory is simulated for one hour at 1 Hz: a warm-up curve of 30 MB (time constant 2 to 15 min), teeth of 10 MB (15 to
58 s), noise, and a leak; counted in pages of 16 KiB. The budget is 5 MB/h. The peer tests, once at the end, whether
the least-squares slope over all readings is above or below the same budget, as scripts do.

    python benchmarks/statistics/soak_leak.py [--json] [--quick] [--repetitions 200]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_edgehil.gates.stats import leak

MB, PAGE, SECONDS, ALPHA = 1e6, 16384, 3600, 0.05
BUDGET_MB_PER_H = 5.0
LEAKS_MB_PER_H = (0.0, 1.0, 5.0, 10.0, 20.0, 50.0)
TIMES_S = np.arange(SECONDS + 1.0)


def memory(rng: np.random.Generator, leak_mb_per_h: float) -> npt.NDArray[np.float64]:
    """Bytes held, shape (3601,)."""
    tooth = rng.uniform(15.0, 58.0)
    teeth = 10.0 * (((TIMES_S + rng.uniform(0.0, 60.0)) % tooth) / tooth)
    warm_up = 30.0 * (1.0 - np.exp(-TIMES_S / rng.uniform(120.0, 900.0)))
    held = 200.0 + teeth + warm_up + leak_mb_per_h * TIMES_S / 3600.0 + rng.normal(0.0, 0.3, TIMES_S.size)
    return np.asarray(np.round(held * MB / PAGE) * PAGE)


def ours(values: npt.NDArray[np.float64]) -> tuple[str, float]:
    """Decision and minute, as the gate comes to it: it stops at the first look that decides, on either side."""
    for at_s in leak.looks(float(SECONDS), last_s=float(SECONDS)):
        seen = at_s >= TIMES_S
        found = leak.look(
            TIMES_S[seen],
            values[seen],
            budget_per_h=BUDGET_MB_PER_H * MB,
            duration_s=float(SECONDS),
            alpha=ALPHA,
            resolution=PAGE,
            early_pass=True,
            ended=at_s == SECONDS,
        )
        if found is not None and found.decision != "open":
            return found.decision, found.at_s / 60.0
    return "open", SECONDS / 60.0


def least_squares(values: npt.NDArray[np.float64]) -> tuple[str, float]:
    """The peer."""
    line = stats.linregress(TIMES_S / 3600.0, values / MB)
    reach = float(stats.t.ppf(1.0 - ALPHA, TIMES_S.size - 2)) * line.stderr
    if line.slope - reach > BUDGET_MB_PER_H:
        return "above", 60.0
    return ("below" if line.slope + reach <= BUDGET_MB_PER_H else "open"), 60.0


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    arguments = parser.parse_args()
    repetitions = 20 if arguments.quick else arguments.repetitions
    rows = []
    for leaked in LEAKS_MB_PER_H:
        rng = np.random.default_rng(round(10 * leaked))
        samples = [memory(rng, leaked) for _ in range(repetitions)]
        for name, decide in (("profile fit", ours), ("least squares", least_squares)):
            found = [decide(one) for one in samples]
            counts = Counter(decision for decision, _ in found)
            shares = {word: counts[word] / repetitions for word in ("below", "above", "open")}
            rows.append((leaked, name, shares, float(np.mean([minute for _, minute in found]))))
    false_alarms = {name: shares["above"] for leaked, name, shares, _ in rows if leaked == 1.0}
    figure = bench.Figure(
        name="false alarms at a leak of 1 MB/h against a budget of 5 MB/h",
        value=false_alarms["profile fit"],
        unit="fraction",
        peer="least-squares slope",
        peer_value=false_alarms["least squares"],
        ratio=false_alarms["profile fit"] / max(false_alarms["least squares"], 1.0 / repetitions),
        also={"repetitions": repetitions},
    )
    table = [
        f"{repetitions} soaks of 1 h a row, budget {BUDGET_MB_PER_H:g} MB/h\n",
        f"{'leak':>10}  {'method':14} {'within':>7} {'beyond':>7} {'open':>7} {'minute':>7}",
    ]
    table += [
        f"{leaked:>5g} MB/h  {name:14} {shares['below']:>7.3f} {shares['above']:>7.3f} {shares['open']:>7.3f} "
        f"{minute:>7.1f}"
        for leaked, name, shares, minute in rows
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
