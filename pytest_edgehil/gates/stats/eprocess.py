r"""The truncated beta-mixture e-process: is a rate at most p0? Anytime-valid, with no alternative to choose.

For independent trials, S exceedances in n, and a rate that is at least p0, the process ``e_pass`` is a
supermartingale that starts at 1; by Ville's inequality it ever reaches 1/α with probability at most α. One may look
as often as one likes and stop at once. ``e_fail`` is its mirror image for a rate that is at most p0.

Each is the likelihood ratio against p0 of a beta prior cut off at p0::

    log e_pass(n, S) = ln B(S+a, n−S+b) + ln I_p0(S+a, n−S+b) − ln B(a, b) − ln I_p0(a, b) − S·ln p0 − (n−S)·ln(1−p0)

Sources: Ville 1939; Robbins 1970 (mixtures); Howard & Ramdas 2022 (confidence sequences). The prior's shape was
chosen by simulation for p0 = 0.05: few samples on both sides of the budget.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]


def log_e_pass(n: npt.ArrayLike, s: npt.ArrayLike, p0: float) -> Any:
    """Log evidence that the rate is below `p0`. Prior: beta(½, 1/p0), cut off above p0.

    Args:
        n: trials, any shape; need not be whole (see `autocorrelation`).
        s: exceedances among them, same shape.
        p0: the rate's limit, 0 < p0 < 1.

    Returns:
        Natural logarithm of the e-value, shape as `n` and `s` broadcast.

    >>> round(float(log_e_pass(70, 0, 0.05)), 4), round(float(log_e_pass(129, 1, 0.05)), 4)
    (2.9992, 3.0277)
    """
    a, b = 0.5, 1.0 / p0
    return _log_mixture(n, s, p0, a=a, b=b, upper=False)


def log_e_fail(n: npt.ArrayLike, s: npt.ArrayLike, p0: float) -> Any:
    """Log evidence that the rate is above `p0`. Prior: beta(1, 1/(2·p0) − 1), cut off below p0.

    For p0 ≥ ½ that prior would have no mass left to give; its second shape is kept at 0.05 at least.

    Args and Returns: see `log_e_pass`.

    >>> round(float(log_e_fail(3, 3, 0.05)), 4), round(float(log_e_fail(30, 6, 0.05)), 4)
    (4.053, 3.3668)
    """
    a, b = 1.0, max(1.0 / (2.0 * p0) - 1.0, 0.05)
    return _log_mixture(n, s, p0, a=a, b=b, upper=True)


def _log_mixture(n: Any, s: Any, p0: float, *, a: float, b: float, upper: bool) -> Any:
    if isinstance(n, float) and isinstance(s, float):
        return _log_mixture_of_one(n, s, p0, a=a, b=b, upper=upper)
    n = np.asarray(n, dtype=np.float64)
    s = np.asarray(s, dtype=np.float64)
    share = special.betaincc if upper else special.betainc
    with np.errstate(divide="ignore"):  # a share that underflows means evidence for the other side: -inf is right
        gained = special.betaln(s + a, n - s + b) + np.log(share(s + a, n - s + b, p0))
    return gained - _log_prior(p0, a, b, upper=upper) - s * math.log(p0) - (n - s) * math.log1p(-p0)


def _log_mixture_of_one(n: float, s: float, p0: float, *, a: float, b: float, upper: bool) -> float:
    """The same for numbers, in a fifth of the time: a session looks at its e-values one by one, and often."""
    share = float((special.betaincc if upper else special.betainc)(s + a, n - s + b, p0))
    if share <= 0.0:
        return -math.inf
    gained = float(special.betaln(s + a, n - s + b)) + math.log(share)
    return gained - _log_prior(p0, a, b, upper=upper) - s * math.log(p0) - (n - s) * math.log1p(-p0)


@functools.lru_cache(maxsize=256)
def _log_prior(p0: float, a: float, b: float, *, upper: bool) -> float:
    """Mass of the prior on its side of p0, times B(a, b)."""
    share = special.betaincc if upper else special.betainc
    return float(special.betaln(a, b)) + math.log(float(share(a, b, p0)))


# Critical counts and intervals are constants of their arguments, and every look needs again what the one before it
# needed.
@functools.lru_cache(maxsize=4096)
def most_exceedances_to_pass(n: int, p0: float, alpha: float, *, inflation: float = 1.0) -> int:
    """The largest S at which `log_e_pass` still reaches ln(1/α); −1 when even none would be too many.

    >>> most_exceedances_to_pass(69, 0.05, 0.05), most_exceedances_to_pass(70, 0.05, 0.05)
    (-1, 0)
    """
    threshold = math.log(1.0 / alpha)
    low, high = -1, n + 1  # passes at low (by convention), does not pass at high
    while high - low > 1:
        middle = (low + high) // 2
        if middle <= n and float(log_e_pass(n / inflation, middle / inflation, p0)) >= threshold:
            low = middle
        else:
            high = middle
    return low


@functools.lru_cache(maxsize=4096)
def fewest_exceedances_to_fail(n: int, p0: float, alpha: float, *, inflation: float = 1.0) -> int:
    """The smallest S at which `log_e_fail` reaches ln(1/α); n + 1 when even all would be too few.

    >>> fewest_exceedances_to_fail(30, 0.05, 0.05), fewest_exceedances_to_fail(1, 0.05, 0.05)
    (6, 2)
    """
    threshold = math.log(1.0 / alpha)
    low, high = -1, n + 1  # does not fail at low, fails at high (by convention)
    while high - low > 1:
        middle = (low + high) // 2
        if float(log_e_fail(n / inflation, middle / inflation, p0)) >= threshold:
            high = middle
        else:
            low = middle
    return high


@functools.lru_cache(maxsize=1024)
def rate_interval(n: int, s: int, alpha: float) -> tuple[float, float]:
    """The rates that neither process rejects at (n, S): each bound errs with probability at most α, at any time.

    Args:
        n: trials.
        s: exceedances.
        alpha: error rate of each side.

    Returns:
        (low, high), 0 ≤ low ≤ high ≤ 1.

    >>> low, high = rate_interval(70, 0, 0.05)
    >>> low, 0.0499 < high <= 0.05
    (0.0, True)
    """
    if n == 0:
        return 0.0, 1.0
    threshold = math.log(1.0 / alpha)
    rate = s / n

    def above(p0: float) -> bool:  # is p0 rejected from above, so that the rate is shown to be below it?
        return float(log_e_pass(float(n), float(s), p0)) >= threshold

    def below(p0: float) -> bool:
        return float(log_e_fail(float(n), float(s), p0)) >= threshold

    high = _edge(rate, 1.0 - 1e-9, rejected=above) if s < n else 1.0
    low = _edge(rate, 1e-9, rejected=below) if s > 0 else 0.0
    return low, high


def _edge(kept: float, rejected_at: float, *, rejected: Any) -> float:
    """Bisect between a rate that is kept and one that should be rejected; returns the rejected edge."""
    if not rejected(rejected_at):
        return 0.0 if rejected_at < kept else 1.0
    for _ in range(60):
        middle = 0.5 * (kept + rejected_at)
        if 0.0 < middle < 1.0 and rejected(middle):
            rejected_at = middle
        else:
            kept = middle
    return rejected_at
