r"""Does a latency drift over a soak? The trend of its minutes, with bounds.

The latencies of each minute (of T/60, where that is shorter) are one block, of which one quantile counts: a median, or
a p95. Neighbouring inferences are alike, neighbouring minutes much less so; what is left of it widens the bounds. With
y the logarithm of the blocks' quantiles, y = c + b·t is fitted by least squares, and the drift over the whole soak is
exp(b·T) − 1. Bounds for b are Student's, with the residual variance and the degrees of freedom corrected for
autocorrelation as in `leak`.

- *Above*: the drift *so far*, exp(b·t) − 1, is larger than the budget. Nothing is extrapolated.
- *Below*: the drift *over the whole soak*, exp(b·T) − 1, is at most the budget. Early, that is an extrapolation of a
  straight line: what begins late is not seen then.

Looks stand every T/12 from 5/12·T on and spend α·t/T in all, for either side; *below* from ½·T on. The first minute
(T/20, where that is shorter) is left out: caches fill and clocks settle. No warm-up is modelled: a board that gets
slower while it heats up does get slower. A step in the middle counts as 1.5 times its height.

Source: ordinary least squares with an effective number of blocks, Bayley & Hammersley 1946; checked by simulation in
``benchmarks/statistics/soak_drift.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_edgehil.gates.stats.autocorrelation import residual_inflation

FloatArray = npt.NDArray[np.float64]

LONGEST_BLOCK_S = 60.0
SHORTEST_BLOCK_S = 1.0
LONGEST_SKIP_S = 60.0
FEWEST_BLOCKS = 12
_LOOKS = 12
_FIRST_LOOK = 5
_FIRST_PASS = 6
_NOISE = 1e-6
"""Blocks are known no better than this: a relative noise that no board is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A look at the drift.

    Args:
        at_s: time of the look since the first inference.
        estimate, low, high: growth over the whole soak, 0.1 for a tenth.
        blocks: how many went into it.
        decision: ``above`` the budget, ``below``, or ``open``.
    """

    at_s: float
    estimate: float
    low: float
    high: float
    blocks: int
    decision: str


def block_s(duration_s: float) -> float:
    """Length of a block in a soak of so many seconds.

    >>> block_s(3600.0), block_s(600.0)
    (60.0, 10.0)
    """
    return min(LONGEST_BLOCK_S, max(SHORTEST_BLOCK_S, duration_s / 60.0))


def fewest_inferences(quantile: float) -> int:
    """A block with fewer does not count: its quantile would be that of its largest value.

    >>> fewest_inferences(0.5), fewest_inferences(0.95)
    (4, 40)
    """
    return max(4, math.ceil(2.0 / (1.0 - quantile) - 1e-9))


def block_quantiles(
    times_s: FloatArray, latencies: FloatArray, *, quantile: float, length_s: float, skip_s: float
) -> tuple[FloatArray, FloatArray]:
    """Middles and quantiles of the full blocks that have enough inferences.

    Args:
        times_s: shape (n,), growing, seconds.
        latencies: shape (n,), positive.
        quantile: of each block.
        length_s: of a block.
        skip_s: what is left out at the beginning.

    Returns:
        (middles, quantiles), each shape (m,).

    >>> times = np.arange(240.0)
    >>> middles, medians = block_quantiles(times, times + 1, quantile=0.5, length_s=60.0, skip_s=60.0)
    >>> middles.tolist(), medians.tolist()
    ([90.0, 150.0], [90.5, 150.5])
    """
    if not times_s.size:
        return np.empty(0), np.empty(0)
    count = max(0, math.floor((float(times_s[-1]) - skip_s) / length_s))
    edges = skip_s + length_s * np.arange(count + 1)
    bounds = np.searchsorted(times_s, edges, side="left")
    middles, values = [], []
    for number in range(count):
        piece = latencies[bounds[number] : bounds[number + 1]]
        if piece.shape[0] >= fewest_inferences(quantile):
            middles.append(edges[number] + length_s / 2.0)
            values.append(float(np.quantile(piece, quantile)))
    return np.asarray(middles), np.asarray(values)


def trend_bounds(times_s: FloatArray, values: FloatArray, alphas: tuple[float, float]) -> tuple[float, float, float]:
    """Slope of a straight line through correlated values, and a bound on either side.

    Args:
        times_s: shape (m,), growing, at least 3.
        values: shape (m,).
        alphas: error rate of the lower and of the upper bound.

    Returns:
        (estimate, low, high), in units of `values` per unit of time.

    >>> t = np.arange(30.0)
    >>> estimate, low, high = trend_bounds(t, 2.0 * t + np.where(t % 2, 0.1, -0.1), (0.05, 0.05))
    >>> round(estimate, 2), low < 2.0 < high
    (2.0, True)
    """
    t = times_s - times_s.mean()
    spread = float(t @ t)
    slope = float(t @ values) / spread
    residuals = values - values.mean() - slope * t
    m = values.shape[0]
    inflation = residual_inflation(residuals)
    freedom = max(3.0, m / inflation - 2.0)
    variance = max(float(residuals @ residuals) / max(1, m - 2), _NOISE**2) * inflation
    error = math.sqrt(variance / spread)
    low, high = (float(special.stdtrit(freedom, 1.0 - alpha)) * error for alpha in alphas)
    return slope, slope - low, slope + high


def look(
    times_s: FloatArray,
    latencies: FloatArray,
    *,
    budget: float,
    duration_s: float,
    alpha: float,
    quantile: float = 0.5,
    early_pass: bool = False,
    ended: bool = False,
) -> Drift | None:
    """The first look that says *above*, or the last one that was made; None before the first.

    An earlier *below* counts for nothing once a later look does not say so too: who goes on sees more.

    Args:
        times_s: shape (n,), growing, seconds since the first inference.
        latencies: shape (n,), positive, any unit.
        budget: allowed growth over the whole soak, such as 0.1.
        duration_s: T, the length of the soak.
        alpha: error rate of each side over the whole soak.
        quantile: of each block.
        early_pass: may "below" be said before the end?
        ended: the soak is over, also where the last inference began a little before the end.
    """
    length_s = block_s(duration_s)
    skip_s = min(LONGEST_SKIP_S, duration_s / 20.0)
    middles, values = block_quantiles(times_s, latencies, quantile=quantile, length_s=length_s, skip_s=skip_s)
    if values.size < FEWEST_BLOCKS or float(np.ptp(values)) == 0.0:
        return None  # a latency that never moves at all is a clock that stands
    logs = np.log(values)
    elapsed = duration_s if ended else min(float(times_s[-1]), duration_s)
    allowed = math.log1p(budget)
    found: Drift | None = None
    previous_above_s = previous_below_s = 0.0
    for number in range(_FIRST_LOOK, _LOOKS + 1):
        at_s = duration_s * number / _LOOKS
        last = number == _LOOKS
        if at_s > elapsed + 1e-9:
            break
        seen = middles + length_s / 2.0 <= at_s + 1e-9
        count = int(seen.sum())
        may_pass = last or (early_pass and number >= _FIRST_PASS)
        spend_above = alpha * (at_s - previous_above_s) / duration_s
        spend_below = alpha * (at_s - previous_below_s) / duration_s if early_pass else alpha
        previous_above_s = at_s
        previous_below_s = at_s if may_pass else previous_below_s
        if count < FEWEST_BLOCKS:
            continue
        slope, low, high = trend_bounds(middles[seen], logs[seen], (spend_above, spend_below))
        decision = "open"
        if low * at_s > allowed:
            decision = "above"
        elif may_pass and high * duration_s <= allowed:
            decision = "below"
        estimate, least, most = (math.expm1(min(one * duration_s, 700.0)) for one in (slope, low, high))
        found = Drift(at_s=at_s, estimate=estimate, low=least, high=most, blocks=count, decision=decision)
        if decision == "above":
            break
    return found
