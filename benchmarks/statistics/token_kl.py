"""How often the stated 95 % upper bound of a mean divergence per token is above the true one.

Prompts of unequal length whose tokens resemble each other: every prompt has a mean of its own (log-normal), and its
tokens vary around it (gamma, skewed). The bound by prompt-cluster bootstrap-t is what the gates take; the peer takes
all tokens as independent, as a mean with a standard error does.

    python benchmarks/statistics/token_kl.py [--json] [--quick] [--repetitions 2000]
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np

from pytest_edgehil.gates.stats.cluster_bootstrap import cluster_mean

ALPHA, Z = 0.05, 1.6449
TOKENS = 100
SETTINGS = ((0.4, 20), (0.4, 50), (0.4, 100), (0.4, 200), (0.4, 400), (0.7, 100), (0.7, 200), (1.0, 100), (1.0, 200))
"""How much prompts differ (standard deviation of the logarithm of their means), and how many there are."""
RESAMPLES = 999
"""Fewer than the gates take: the coverage does not change, the noise of a single bound does."""


def coverage(spread: float, prompts: int, repetitions: int) -> tuple[float, float, float, float]:
    """Shares of upper bounds that hold, of lower bounds that hold, of upper bounds by tokens; and the design effect."""
    high = low = alone = 0
    effects = []
    for number in range(repetitions):
        rng = np.random.default_rng([prompts, round(100 * spread), number])
        sizes = rng.integers(TOKENS // 2, 3 * TOKENS // 2, size=prompts)
        means = rng.lognormal(-0.5 * spread * spread, spread, size=prompts)  # 1 on average: the truth
        prompt = np.repeat(np.arange(prompts), sizes)
        values = rng.gamma(0.5, 2.0, size=prompt.shape[0]) * means[prompt]
        found = cluster_mean(values, prompt, ALPHA, rng=rng, resamples=RESAMPLES)
        high += found.high >= 1.0
        low += found.low <= 1.0
        alone += values.mean() + Z * values.std(ddof=1) / math.sqrt(values.shape[0]) >= 1.0
        effects.append(found.design_effect)
    return high / repetitions, low / repetitions, alone / repetitions, float(np.median(effects))


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=2000)
    arguments = parser.parse_args()
    repetitions = 200 if arguments.quick else arguments.repetitions
    settings = ((0.4, 100), (0.4, 200)) if arguments.quick else SETTINGS
    found = {setting: coverage(*setting, repetitions) for setting in settings}
    enough = {setting: one for setting, one in found.items() if setting[0] == 0.4 and setting[1] >= 100}
    figure = bench.Figure(
        name="least coverage of the 95 % upper bound of a divergence per token, at 100 prompts and more",
        value=min(one[0] for one in enough.values()),
        unit="fraction",
        peer="tokens taken as independent",
        peer_value=min(one[2] for one in enough.values()),
        also={"repetitions": repetitions},
    )
    table = [
        f"{repetitions} sets a row, standard error {math.sqrt(0.05 * 0.95 / repetitions):.4f} near .95\n",
        f"{'spread':>6} {'prompts':>7} {'effect':>6}  {'upper':>6} {'lower':>6}  {'by tokens':>9}",
    ]
    table += [
        f"{spread:>6.1f} {prompts:>7} {effect:>6.1f}  {high:>6.3f} {low:>6.3f}  {alone:>9.3f}"
        for (spread, prompts), (high, low, alone, effect) in found.items()
    ]
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
