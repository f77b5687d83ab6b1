"""Is a mean, or a ratio of two sums, below a limit? Looked at again and again while the sample grows.

For what is an average and no quantile: time per inference (throughput), time per token, power, utilisation. At look k
(after 60, 120, 240, … observations) a one-sided t-bound is taken at α/(k·(k+1)); these add up to α over all looks there
can ever be, so one may look as often as the sample doubles, without a last look and without assuming how the looks
depend on each other. Correlated observations count as n/V, with V from Geyer's initial monotone sequence, also in the
degrees of freedom. Skewness makes a t-bound too narrow on its long side; that side is moved by Johnson's term.

Durations have a tail that a sample may not have shown yet, and one stall in a hundred inferences moves a mean by more
than a t-bound allows for. So their upper bound counts one more observation: a stall of `unseen` times the mean, or the
worst that was seen, whichever is more. It weighs less as the sample grows. Without it, a mean at its limit passes in up
to half of all cases (``benchmarks/statistics/mean_gates.py``).

Sources: Cochran 1977 (ratio estimator); Johnson 1978 (skewness); Geyer 1992; the union bound. The added stall is a
heuristic that was checked by simulation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_edgehil.gates.stats.autocorrelation import SCARCE, autocorrelations, monotone_inflation

FIRST_LOOK = 60
FEWEST_EFFECTIVE = 8.0
"""With fewer effective observations nothing is said: V itself is not known well then."""
UNSEEN_STALL = 10.0
"""How many times the mean a duration may take that no sample has shown yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanLook:
    """What a look at the first `n` observations shows.

    Args:
        number: 1 for the first look.
        n: observations seen.
        mean: Σ amounts / Σ counts.
        low, high: bounds of the true ratio, each wrong with probability at most α over all looks.
        inflation: V; n/V is what the observations count as.
    """

    number: int
    n: int
    mean: float
    low: float
    high: float
    inflation: float


def looks(upto: int, *, first: int = FIRST_LOOK) -> tuple[int, ...]:
    """The counts at which one looks, as far as they are ≤ `upto`.

    >>> looks(500)
    (60, 120, 240, 480)
    """
    counts = []
    count = first
    while count <= upto:
        counts.append(count)
        count *= 2
    return tuple(counts)


def next_look(n: int, *, first: int = FIRST_LOOK) -> int:
    """The first look beyond `n` observations.

    >>> next_look(0), next_look(60), next_look(61)
    (60, 120, 120)
    """
    count = first
    while count <= n:
        count *= 2
    return count


def look(
    amounts: npt.ArrayLike,
    counts: npt.ArrayLike | None = None,
    *,
    alpha: float,
    number: int = 1,
    unseen: float = 0.0,
) -> MeanLook | None:
    """Bounds of Σ amounts / Σ counts; of the mean when there are no counts.

    Args:
        amounts: shape (n,), finite.
        counts: shape (n,), not negative, not all zero; None: one each.
        alpha: error rate of each side over all looks.
        number: which look this is.
        unseen: how many times the mean one more unit may take that was not observed; 0 for what has no tail.

    Returns:
        None when the bounds do not exist: fewer than `FEWEST_EFFECTIVE` effective observations, or all alike.

    >>> found = look([1.0, 2.0, 3.0, 2.5, 1.5, 2.2, 1.8, 2.1, 1.9, 2.0], alpha=0.05)
    >>> round(found.low, 2), found.mean, round(found.high, 2)
    (1.6, 2.0, 2.4)
    """
    times = np.asarray(amounts, dtype=np.float64)
    shares = np.ones_like(times) if counts is None else np.asarray(counts, dtype=np.float64)
    n = times.shape[0]
    ratio = float(times.sum() / shares.sum())
    residuals = times - ratio * shares
    spread = float(np.sqrt(residuals @ residuals / max(1, n - 1)))
    if spread <= 1e-12 * float(np.abs(times).max()):
        return None
    inflation = _inflation(residuals)
    effective = n / inflation
    if effective < FEWEST_EFFECTIVE:
        return None
    t = float(special.stdtrit(effective - 1.0, 1.0 - alpha / (number * (number + 1))))
    error = spread / math.sqrt(effective)
    skewness = float(((residuals / spread) ** 3).mean())
    moved = error * abs(skewness) * (1.0 + 2.0 * t * t) / (6.0 * math.sqrt(effective))
    worst = max(float(residuals.max()), (unseen - 1.0) * ratio) / effective if unseen else 0.0
    unit = float(shares.mean())
    return MeanLook(
        number=number,
        n=n,
        mean=ratio,
        low=ratio - (error * t + (moved if skewness < 0 else 0.0)) / unit,
        high=ratio + (error * t + (moved if skewness > 0 else 0.0) + worst) / unit,
        inflation=inflation,
    )


def _inflation(residuals: npt.NDArray[np.float64]) -> float:
    """V of the mean: Geyer's, or that of the strongest AR(1) still credible where neighbours are clearly alike.

    A stretch that is not much longer than the correlation looks less correlated than it is, by about (1 + 4ρ)/n.
    """
    n = residuals.shape[0]
    found = max(1.0, monotone_inflation(residuals))
    correlations = autocorrelations(residuals)
    if correlations is not None and float(correlations[1]) > 2.0 / math.sqrt(n):
        rho = float(correlations[1])
        rho = min(rho + (1.0 + 4.0 * rho) / n, 0.99)
        rho = min(rho + math.sqrt((1.0 - rho * rho) / n), 0.995)
        found = max(found, (1.0 + rho) / (1.0 - rho))
    return float(1.0 + (found - 1.0) * (1.0 + min(1.0, SCARCE * found / n) ** 4))
