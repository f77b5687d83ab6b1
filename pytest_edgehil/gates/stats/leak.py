"""Does memory grow, once warming up is over? The slope of a soak's memory, with bounds.

Memory over an hour is a saw (allocator, garbage collector) on a warm-up curve, with or without a leak beneath.
Testing "slope > 0" alarms nearly always. So: the minima of one-minute windows stand for what is really held; the fit
is f(t) = c + a·(1 − e^(−t/τ)) + b·t with a ≥ 0; and b is held against a *budget*. Bounds for b come from the profile of
the squared error over all other parameters, with the residual variance inflated for autocorrelation. A saw whose teeth
are longer than the windows widens the bounds: such a soak ends undecided rather than wrong.

Looks stand every 5 minutes from minute 25 and spend α·t/T of the error in all, so a leak may be called early. That
there is none is said from minute 30 on, with an α of its own spent in the same way, or at the end alone with the whole
of it. A leak that begins after "none" was said early is not seen.

Source: profile-likelihood bounds, Bates & Watts 1988; checked by simulation in ``benchmarks/statistics``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_edgehil.gates.stats.autocorrelation import residual_inflation

FloatArray = npt.NDArray[np.float64]

WINDOW_S = 60.0
FIRST_LOOK_S = 25 * 60.0
FIRST_PASS_S = 30 * 60.0
LOOK_EVERY_S = 5 * 60.0
_FEWEST_WINDOWS = 12
_TAUS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A look at the slope.

    Args:
        at_s: time of the look since the first reading.
        estimate, low, high: bytes per hour.
        windows: window minima that went into it.
        decision: ``above`` the budget, ``below``, or ``open``.
    """

    at_s: float
    estimate: float
    low: float
    high: float
    windows: int
    decision: str


def window_minima(
    times_s: FloatArray, values: FloatArray, *, window_s: float = WINDOW_S
) -> tuple[FloatArray, FloatArray]:
    """The smallest value of every full window, at the window's middle. Windows with no reading are left out.

    Args:
        times_s: shape (n,), growing, from 0.
        values: shape (n,).
        window_s: length of a window.

    Returns:
        (middles, minima), each shape (m,).

    >>> middles, minima = window_minima(np.arange(180.0), np.arange(180.0))
    >>> middles.tolist(), minima.tolist()
    ([30.0, 90.0], [0.0, 60.0])
    """
    windows = np.floor(times_s / window_s).astype(np.int64)
    full = windows < int(times_s[-1] // window_s) if times_s.size else windows < 0
    windows, values = windows[full], values[full]
    if not windows.size:
        return np.empty(0), np.empty(0)
    numbers, firsts = np.unique(windows, return_index=True)
    return np.asarray((numbers + 0.5) * window_s), np.asarray(np.minimum.reduceat(values, firsts), dtype=np.float64)


def slope_bounds(
    times_s: FloatArray, minima: FloatArray, alphas: tuple[float, float], resolution: float
) -> tuple[float, float, float]:
    """The slope b of c + a·(1 − e^(−t/τ)) + b·t, a ≥ 0, and a bound on either side.

    Args:
        times_s: shape (m,), growing.
        minima: shape (m,).
        alphas: error rate of the lower and of the upper bound.
        resolution: step in which the values are counted (a page); the residual variance is at least that of rounding.

    Returns:
        (estimate, low, high), in units of `minima` per second.

    >>> t = np.arange(30.0, 3600.0, 60.0)
    >>> estimate, low, high = slope_bounds(t, 1e6 + 100.0 * t, (0.05, 0.05), resolution=1.0)
    >>> round(estimate, 2), low < 100.0 < high
    (100.0, True)
    """
    profile = _Profile(times_s, minima)
    estimate, least = profile.minimum()
    residuals = profile.residuals(estimate)
    m = minima.shape[0]
    inflation = residual_inflation(residuals)
    freedom = max(3.0, m / inflation - 4.0)  # correlated windows are fewer than they look
    variance = max(least / max(1, m - 4), resolution**2 / 12.0) * inflation
    edges = []
    for alpha, sign in zip(alphas, (-1.0, 1.0), strict=True):
        quantile = float(special.stdtrit(freedom, 1.0 - alpha))
        step = sign * quantile * math.sqrt(variance) / max(profile.spread, 1e-12)
        edges.append(profile.edge(estimate, least + variance * quantile**2, step))
    return estimate, edges[0], edges[1]


def fitted(times_s: FloatArray, minima: FloatArray, slope: float) -> FloatArray:
    """The best curve c + a·(1 − e^(−t/τ)) + b·t with this slope, at the times of the minima.

    Args:
        times_s: shape (m,), growing.
        minima: shape (m,).
        slope: b, in units of `minima` per second.

    >>> t = np.arange(30.0, 3600.0, 60.0)
    >>> bool(np.allclose(fitted(t, 1e6 + 100.0 * t, 100.0), 1e6 + 100.0 * t))
    True
    """
    return np.asarray(minima - _Profile(times_s, minima).residuals(slope), dtype=np.float64)


def look(
    times_s: FloatArray,
    values: FloatArray,
    *,
    budget_per_h: float,
    duration_s: float,
    alpha: float,
    resolution: float,
    early_pass: bool = False,
    ended: bool = False,
) -> Slope | None:
    """The first look that says *above*, or the last one that was made; None before the first.

    An earlier *below* counts for nothing once a later look does not say so too: who goes on sees more.

    Args:
        times_s: shape (n,), growing, seconds; counted from the first reading.
        values: shape (n,), bytes held.
        budget_per_h: allowed slope, bytes per hour.
        duration_s: T, the declared length of the soak; the error is spread over it.
        alpha: error rate of each side over the whole soak.
        resolution: bytes in which memory is counted.
        early_pass: may a slope within the budget be called before the end, from minute 30 on?
        ended: there will be no more readings; what there is gets a last look.
    """
    since = times_s - times_s[0] if times_s.size else times_s
    elapsed = min(float(since[-1]), duration_s) if since.size else 0.0
    end_s = elapsed if ended else duration_s
    middles, minima = window_minima(since, values)
    found: Slope | None = None
    previous_above_s = previous_below_s = 0.0
    for at_s in looks(elapsed, last_s=end_s):
        seen = middles + WINDOW_S / 2 <= at_s
        count = int(seen.sum())
        may_pass = at_s >= (FIRST_PASS_S if early_pass else max(FIRST_PASS_S, end_s))
        spend_above = alpha * (at_s - previous_above_s) / duration_s
        spend_below = alpha * (at_s - previous_below_s) / duration_s if early_pass else alpha
        previous_above_s = at_s
        previous_below_s = at_s if may_pass else previous_below_s
        if count < _FEWEST_WINDOWS:
            continue
        bounds = slope_bounds(middles[seen], minima[seen], (spend_above, spend_below), resolution)
        estimate, low, high = (3600.0 * one for one in bounds)
        decision = "open"
        if low > budget_per_h:
            decision = "above"
        elif high <= budget_per_h and may_pass:
            decision = "below"
        found = Slope(at_s=at_s, estimate=estimate, low=low, high=high, windows=count, decision=decision)
        if decision == "above":
            break
    return found


def looks(elapsed_s: float, *, last_s: float = math.inf) -> tuple[float, ...]:
    """When one looks: every 5 minutes from minute 25, and at the end.

    >>> looks(1900.0), looks(1900.0, last_s=1900.0)
    ((1500.0, 1800.0), (1500.0, 1800.0, 1900.0))
    """
    count = int((elapsed_s - FIRST_LOOK_S) // LOOK_EVERY_S) + 1 if elapsed_s >= FIRST_LOOK_S else 0
    regular = [FIRST_LOOK_S + LOOK_EVERY_S * number for number in range(count)]
    return tuple(sorted({*regular, last_s})) if FIRST_PASS_S <= last_s <= elapsed_s else tuple(regular)


class _Profile:
    """The squared error as a function of the slope, minimised over c, a ≥ 0 and τ (a grid, and a = 0)."""

    def __init__(self, times_s: FloatArray, values: FloatArray) -> None:
        taus = np.geomspace(60.0, max(61.0, 0.6 * (times_s[-1] - times_s[0])), _TAUS)
        curves = -np.exp(-(times_s - times_s[0])[None, :] / taus[:, None])  # 1 − e^(−t/τ), but for a constant
        self._curves = curves - curves.mean(axis=1, keepdims=True)
        self._t = times_s - times_s.mean()
        self._y = values - values.mean()
        self._gg = np.einsum("ij,ij->i", self._curves, self._curves)
        self._gy = self._curves @ self._y
        self._gt = self._curves @ self._t
        self._tt, self._ty, self._yy = (
            float(a @ b) for a, b in ((self._t, self._t), (self._t, self._y), (self._y, self._y))
        )

    @property
    def spread(self) -> float:
        """√Σ(t − t̄)²: what a residual's size is divided by to get a slope's."""
        return math.sqrt(self._tt)

    def error(self, slope: float) -> float:
        """The least squared error with this slope."""
        return float(self.errors(np.array([slope]))[0])

    def errors(self, slopes: FloatArray) -> FloatArray:
        """The least squared error with each slope: shape (k,) to (k,)."""
        warm_up = np.maximum(self._gy - slopes[:, None] * self._gt, 0.0)
        rest = self._yy - 2.0 * slopes * self._ty + slopes * slopes * self._tt
        return np.asarray(np.maximum(rest - np.max(warm_up * warm_up / self._gg, axis=1), 0.0))

    def residuals(self, slope: float) -> FloatArray:
        """What remains of the values at the best fit with this slope."""
        warm_up = np.maximum(self._gy - slope * self._gt, 0.0)
        best = int(np.argmax(warm_up * warm_up / self._gg))
        left = self._y - slope * self._t - warm_up[best] / self._gg[best] * self._curves[best]
        return np.asarray(left, dtype=np.float64)

    def minimum(self) -> tuple[float, float]:
        """The slope with the least squared error, and that error.

        For a given τ the error is a parabola in the slope, with a free and with a = 0; the best of them all wins.
        """
        free = self._tt - self._gt**2 / self._gg
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(free > 1e-9 * self._tt, (self._ty - self._gt * self._gy / self._gg) / free, np.nan)
        candidates = np.concatenate(([self._ty / self._tt], slopes[np.isfinite(slopes)]))
        errors = self.errors(candidates)
        best = int(np.argmin(errors))
        return float(candidates[best]), float(errors[best])

    def edge(self, estimate: float, limit: float, step: float) -> float:
        """The outermost slope in the direction of `step` whose error is still within the limit."""
        reach = step
        while self.error(estimate + reach) <= limit and abs(reach) < 1e12 * abs(step):
            reach *= 2.0
        # The error is the least of many parabolas: it may dip again further out, so look on a grid before closing in.
        grid = estimate + 4.0 * reach * np.linspace(0.0, 1.0, 257)
        inside = np.flatnonzero(self.errors(grid) <= limit)
        last = int(inside[-1]) if inside.size else 0
        low, high = float(grid[last]), float(grid[min(last + 1, 256)])
        for _ in range(4):
            finer = np.linspace(low, high, 33)
            beyond = np.flatnonzero(self.errors(finer) > limit)
            first = int(beyond[0]) if beyond.size else 32
            low, high = float(finer[max(first - 1, 0)]), float(finer[first])
        return low
