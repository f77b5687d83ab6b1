"""Where will the temperature end? An exponential approach, fitted with bounds for its end.

T(t) = T∞ − A·e^(−t/τ). For a given τ this is linear in T∞ and A; τ is minimised continuously. Bounds for T∞ come from
the profile of the squared error, with the residual variance inflated for autocorrelation and never below that of the
sensor's rounding (the BCM2712's step is 0.55 °C). The first minute is left out by the caller: the die itself warms up
within seconds and would bend the fit (by up to 17 °C in simulation).

Source: a first-order (RC) thermal model; profile bounds as in `leak`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

FloatArray = npt.NDArray[np.float64]

SENSOR_STEP_C = 0.55
_SHORTEST_TAU_S = 2.0
_LONGEST_TAU_SPANS = 10.0
"""A curve that bends slower than this is a straight line to us. A smaller limit makes the bounds of T∞ too narrow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warming:
    """A fitted approach.

    Args:
        end_c, low_c, high_c: T∞ and its bounds.
        tau_s: time constant.
        now_c: fitted temperature at the last reading.
    """

    end_c: float
    low_c: float
    high_c: float
    tau_s: float
    now_c: float

    def seconds_until(self, limit_c: float) -> float | None:
        """From the last reading until the fitted curve reaches the limit; None when it never does.

        t* = τ·ln((T∞ − T) / (T∞ − limit)).

        >>> fit = Warming(end_c=90.0, low_c=89.0, high_c=91.0, tau_s=100.0, now_c=70.0)
        >>> round(fit.seconds_until(80.0), 1), fit.seconds_until(95.0)
        (69.3, None)
        """
        if self.now_c >= limit_c:
            return 0.0
        if self.end_c <= limit_c:
            return None
        return self.tau_s * math.log((self.end_c - self.now_c) / (self.end_c - limit_c))


def fit(times_s: FloatArray, temperatures_c: FloatArray, *, alpha: float) -> Warming | None:
    """Fit the approach; None with fewer than 10 readings or no time between them.

    Args:
        times_s: shape (n,), growing.
        temperatures_c: shape (n,).
        alpha: error rate of each bound of T∞.

    >>> t = np.arange(0.0, 300.0)
    >>> found = fit(t, 70.0 - 30.0 * np.exp(-t / 60.0), alpha=0.05)
    >>> round(found.end_c), round(found.tau_s)
    (70, 60)
    """
    n = times_s.shape[0]
    span = float(times_s[-1] - times_s[0]) if n else 0.0
    if n < 10 or span <= 2 * _SHORTEST_TAU_S:
        return None
    since = times_s - times_s[0]
    bounds = (math.log(_SHORTEST_TAU_S), math.log(_LONGEST_TAU_SPANS * span))

    def best_tau(error_of: Callable[[float], float]) -> tuple[float, float]:
        """Minimise over log τ: a grid first, for the error may have two valleys, then continuously."""
        grid = np.linspace(*bounds, 24)
        errors = [error_of(math.exp(one)) for one in grid]
        middle = int(np.argmin(errors))
        around = (float(grid[max(0, middle - 1)]), float(grid[min(23, middle + 1)]))
        found = optimize.minimize_scalar(lambda one: error_of(math.exp(one)), bounds=around, method="bounded")
        return (
            (math.exp(found.x), float(found.fun))
            if found.fun < errors[middle]
            else (math.exp(grid[middle]), errors[middle])
        )

    def free(tau: float) -> tuple[float, float, float]:
        return _linear(since, temperatures_c, tau, end_c=None)

    tau, least = best_tau(lambda one: free(one)[0])
    _, end, amplitude = free(tau)
    residuals = temperatures_c - end + amplitude * np.exp(-since / tau)
    power = float(residuals @ residuals)
    r1 = float(residuals[1:] @ residuals[:-1]) / power if power > 0 else 0.0
    r1 = min(max(r1, 0.0), 0.95)
    freedom = n - 3
    variance = max(least / freedom, SENSOR_STEP_C**2 / 12.0)
    limit = least + variance * (1.0 + r1) / (1.0 - r1) * float(special.stdtrit(freedom, 1.0 - alpha)) ** 2

    def error(end_c: float) -> float:
        return best_tau(lambda one: _linear(since, temperatures_c, one, end_c=end_c)[0])[1]

    return Warming(
        end_c=end,
        low_c=_edge(error, end, limit, -1.0),
        high_c=_edge(error, end, limit, 1.0),
        tau_s=tau,
        now_c=end - amplitude * math.exp(-span / tau),
    )


def _linear(since: FloatArray, values: FloatArray, tau: float, *, end_c: float | None) -> tuple[float, float, float]:
    """For a given τ: (squared error, T∞, A), T∞ free or given."""
    curve = -np.exp(-since / tau)
    if end_c is not None:
        rest = values - end_c
        amplitude = float(curve @ rest) / float(curve @ curve)
        left = rest - amplitude * curve
        return float(left @ left), end_c, amplitude
    centred, mean = curve - curve.mean(), float(values.mean())
    power = float(centred @ centred)
    amplitude = float(centred @ values) / power if power > 0 else 0.0
    end = mean - amplitude * float(curve.mean())
    left = values - end - amplitude * curve
    return float(left @ left), end, amplitude


def _edge(error: Callable[[float], float], end_c: float, limit: float, step_c: float) -> float:
    """The outermost T∞ in the direction of the step whose error is within the limit, at most 200 °C away."""
    inside, reach = end_c, step_c
    while error(end_c + reach) <= limit:
        inside = end_c + reach
        if abs(reach) > 200.0:
            return inside
        reach *= 2.0
    outside = end_c + reach
    for _ in range(12):
        middle = 0.5 * (inside + outside)
        inside, outside = (middle, outside) if error(middle) <= limit else (inside, middle)
    return outside
