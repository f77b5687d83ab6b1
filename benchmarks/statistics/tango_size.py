"""The size of Tango's score test at the margin, exactly: every outcome of a set is counted, nothing is simulated.

The true drop equals the margin, so a PASS is an error and should come up in at most 5 % of all sets. Wald's interval is
the peer: where few items differ it has seen no variance, and passes far too often. One look, at the whole set; the five
looks of the gate are simulated in ``accuracy_drop.py``.

    python benchmarks/statistics/tango_size.py [--json] [--quick]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
from scipy import special

from pytest_edgehil.gates.stats import tango

Z = 1.6449
SETTINGS = tuple(
    (n, margin, gained)
    for n, margin in ((200, 0.02), (300, 0.01), (300, 0.02), (500, 0.01), (500, 0.02), (500, 0.05), (1000, 0.01))
    for gained in (0.0, 0.005, 0.01, 0.02)
)
"""Items of the set, margin, and rate of items that only the model has right."""
_NEGLIGIBLE = 1e-12


def sizes(n: int, margin: float, gained_rate: float) -> tuple[float, float]:
    """Probability of a false PASS at the margin: by the score test, and by Wald's interval."""
    lost_rate = margin + gained_rate
    rest = 1.0 - lost_rate - gained_rate
    score = wald = 0.0
    for gained in _likely(n, gained_rate):
        for lost in _likely(n - gained, lost_rate / (1.0 - gained_rate)):
            p = _multinomial((lost, gained, n - lost - gained), (lost_rate, gained_rate, rest))
            drop = (lost - gained) / n
            spread = np.sqrt(max((lost + gained) / n - drop**2, 0.0) / n)
            score += p * (tango.cautious(n, lost, gained, margin) <= -Z)
            wald += p * bool(drop + Z * spread < margin)
    return score, wald


def _likely(n: int, rate: float) -> range:
    """The counts that come up at all."""
    if rate == 0.0:
        return range(1)
    above = [int(special.bdtrik(1.0 - _NEGLIGIBLE, n, rate)) + 2, n]
    return range(min(above) + 1)


def _multinomial(counts: tuple[int, ...], rates: tuple[float, ...]) -> float:
    used = [(count, rate) for count, rate in zip(counts, rates, strict=True) if rate > 0.0]
    logs = special.gammaln(sum(counts) + 1.0) + sum(
        count * np.log(rate) - special.gammaln(count + 1.0) for count, rate in used
    )
    return float(np.exp(logs))


def main() -> int:
    """Runs the benchmark."""
    arguments = bench.parser(__doc__).parse_args()
    settings = SETTINGS[4:12] if arguments.quick else SETTINGS
    found = {setting: sizes(*setting) for setting in settings}
    scores, walds = zip(*found.values(), strict=True)
    figure = bench.Figure(
        name="largest size of Tango's score test at the margin of an accuracy drop",
        value=max(scores),
        unit="fraction",
        peer="Wald interval",
        peer_value=max(walds),
        also={"smallest": min(scores), "settings": len(found)},
    )
    table = [f"{'items':>6} {'margin':>7} {'gained':>7}  {'score':>7} {'Wald':>7}"]
    table += [
        f"{n:>6} {margin:>7.3f} {gained:>7.3f}  {score:>7.4f} {wald:>7.4f}"
        for (n, margin, gained), (score, wald) in found.items()
    ]
    usual = [score for (_, _, gained), (score, _) in found.items() if gained > 0.0]
    few = f"{min(scores):.3f} to {max(scores):.3f} where it gains none and few items differ"
    table += [f"\nscore test {min(usual):.3f} to {max(usual):.3f} where the model also gains items, {few};"]
    table += [f"Wald's interval up to {max(walds):.3f}"]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
