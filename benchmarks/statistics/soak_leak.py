"""How often the leak fit calls a leak, and when, against an ordinary least-squares slope.

Memory is simulated for one hour at 1 Hz: a warm-up curve of 30 MB (time constant 2 to 15 min), teeth of 10 MB (15 to
58 s), noise, and a leak; counted in pages of 16 KiB. The budget is 5 MB/h. The peer tests, once at the end, whether
the least-squares slope over all readings is above or below the same budget, as scripts do.

The second table asks other methods whether memory grows at all, on soaks without a leak, with teeth of uneven length:
alone, of some two minutes and very uneven (gamma of shape 2), and on a warm-up curve. Each should alarm in 5 %.

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

MB, PAGE, SECONDS, ALPHA, Z = 1e6, 16384, 3600, 0.05, 1.6449
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


def trend(values: npt.NDArray[np.float64], *, correlated: bool = False) -> float:
    """Mann-Kendall's z; `correlated` with the variance of Hamed & Rao 1998, from the ranks of the detrended values."""
    n = values.shape[0]
    s = float(sum(np.sign(values[at + 1 :] - values[at]).sum() for at in range(n - 1)))
    variance = n * (n - 1) * (2 * n + 5) / 18.0
    if correlated:
        at = np.arange(n)
        ranks = stats.rankdata(values - np.polyval(np.polyfit(at, values, 1), at))
        ranks -= ranks.mean()
        rho = np.correlate(ranks, ranks, "full")[n:] / float(ranks @ ranks)
        lags = np.arange(1, n)
        counts = np.abs(rho) > 1.96 / np.sqrt(n)
        weights = (n - lags) * (n - lags - 1.0) * (n - lags - 2.0)
        variance *= max(1e-9, 1.0 + 2.0 / (n * (n - 1.0) * (n - 2.0)) * float((weights * rho * counts).sum()))
    return float((s - np.sign(s)) / np.sqrt(variance))


def uneven(rng: np.random.Generator, *, warming: bool = False, slow: bool = False) -> npt.NDArray[np.float64]:
    """A soak without a leak whose collector runs when it likes: every tooth of 10 MB has its own length."""
    lengths = 1.0 + rng.gamma(2.0, 62.5, size=SECONDS) if slow else rng.uniform(15.0, 58.0, size=SECONDS // 15 + 2)
    begins = np.concatenate(([0.0], np.cumsum(lengths))) - rng.uniform(0.0, lengths[0] if slow else 15.0)
    which = np.searchsorted(begins, TIMES_S, side="right") - 1
    held = 200.0 + 10.0 * (TIMES_S - begins[which]) / lengths[which] + rng.normal(0.0, 0.3, TIMES_S.size)
    held += 30.0 * (1.0 - np.exp(-TIMES_S / rng.uniform(120.0, 900.0))) if warming else 0.0
    return np.asarray(np.round(held * MB / PAGE) * PAGE)


def alarms(repetitions: int, *, warming: bool = False, slow: bool = False) -> dict[str, float]:
    """How often each method says "it grows" of a soak without a leak, at a stated 5 %."""
    rng = np.random.default_rng(7)
    found: dict[str, list[bool]] = {}
    for _ in range(repetitions):
        values = uneven(rng, warming=warming, slow=slow)
        third = values.size // 3
        line = stats.linregress(TIMES_S, values)
        said = {
            "least-squares slope": line.slope / line.stderr > Z,
            "last third above the first, Mann-Whitney": bool(
                stats.mannwhitneyu(values[-third:], values[:third], alternative="greater").pvalue < ALPHA
            ),
            "Mann-Kendall, Hamed-Rao (every 10 s)": trend(values[::10], correlated=True) > Z,
            "Mann-Kendall on minima of 120 s": trend(leak.window_minima(TIMES_S, values, window_s=120.0)[1]) > Z,
            "ours, beyond a budget of 5 MB/h": ours(values)[0] == "above",
        }
        for name, alarmed in said.items():
            found.setdefault(name, []).append(bool(alarmed))
    return {name: float(np.mean(one)) for name, one in found.items()}


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
    plain, slow, warming = alarms(repetitions), alarms(repetitions, slow=True), alarms(repetitions, warming=True)
    table.append(f"\n{'alarms without a leak':42}{'teeth':>8}{'slow teeth':>13}{'and warming up':>17}")
    table += [f"{name:42}{plain[name]:>8.3f}{slow[name]:>13.3f}{warming[name]:>17.3f}" for name in plain]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
