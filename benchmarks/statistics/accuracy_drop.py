"""How often the test of an accuracy drop errs at its margin, against Wald's interval.

The true drop equals the margin, so PASS and FAIL are both errors; each should come up in at most 5 % of all sets. The
group-sequential test is what the gate does (five looks); the single one is Tango's score at the end only.

    python benchmarks/statistics/accuracy_drop.py [--json] [--quick] [--repetitions 20000]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np

from pytest_edgehil.gates.accuracy_drop import looks as drop_looks
from pytest_edgehil.gates.stats import tango
from pytest_edgehil.gates.stats.spending import boundaries

ALPHA, Z = 0.05, 1.6449
SETTINGS = (
    (300, 0.02, 0.0),
    (500, 0.01, 0.0),
    (500, 0.01, 0.01),
    (500, 0.02, 0.02),
    (1000, 0.01, 0.005),
    (2000, 0.02, 0.03),
)
"""Items of the set, margin, and rate of items that only the model has right."""


def errors(n: int, margin: float, gained_rate: float, repetitions: int) -> dict[str, tuple[float, float]]:
    """Method → (false PASS, false FAIL)."""
    rng = np.random.default_rng([n, round(1e4 * margin), round(1e4 * gained_rate)])
    rates = [margin + gained_rate, gained_rate]
    looks = drop_looks(n)
    critical = boundaries([one / n for one in looks], ALPHA)
    steps = np.diff((0, *looks))
    counts = np.zeros((repetitions, 2), dtype=np.int64)
    decided = np.zeros(repetitions, dtype=int)
    known: dict[tuple[int, int, int], float] = {}
    scores = np.zeros(repetitions)
    for count, step, z in zip(looks, steps, critical, strict=True):
        counts += rng.multinomial(step, [*rates, 1.0 - sum(rates)], size=repetitions)[:, :2]
        for row, (lost, gained) in enumerate(counts.tolist()):
            key = (count, lost, gained)
            if key not in known:
                known[key] = tango.cautious(count, lost, gained, margin)
            scores[row] = known[key]
        decided = np.where((decided == 0) & (np.abs(scores) >= z), np.sign(-scores), decided)
    lost, gained = counts[:, 0], counts[:, 1]
    drop = (lost - gained) / n
    spread = np.sqrt(np.maximum((lost + gained) / n - drop**2, 0.0) / n)
    return {
        "score, five looks": (float((decided == 1).mean()), float((decided == -1).mean())),
        "score, one look": (float((scores <= -Z).mean()), float((scores >= Z).mean())),
        "Wald, one look": (float((drop + Z * spread < margin).mean()), float((drop - Z * spread > margin).mean())),
    }


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=20000)
    arguments = parser.parse_args()
    repetitions = 1000 if arguments.quick else arguments.repetitions
    found = {setting: errors(*setting, repetitions) for setting in SETTINGS}
    worst = {
        name: max(passed for methods in found.values() for method, (passed, _) in methods.items() if method == name)
        for name in ("score, five looks", "Wald, one look")
    }
    figure = bench.Figure(
        name="largest rate of a false PASS at the margin of an accuracy drop",
        value=worst["score, five looks"],
        unit="fraction",
        peer="Wald interval",
        peer_value=worst["Wald, one look"],
        ratio=worst["score, five looks"] / max(worst["Wald, one look"], 1.0 / repetitions),
        also={"repetitions": repetitions},
    )
    table = [
        f"{repetitions} sets a row, standard error {math.sqrt(ALPHA * (1 - ALPHA) / repetitions):.4f} near 5 %\n",
        f"{'items':>6} {'margin':>7} {'gained':>7}  {'method':18} {'false PASS':>10} {'false FAIL':>10}",
    ]
    table += [
        f"{n:>6} {margin:>7.3f} {gained:>7.3f}  {name:18} {passed:>10.4f} {failed:>10.4f}"
        for (n, margin, gained), methods in found.items()
        for name, (passed, failed) in methods.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
