"""Rates from a fixed number of independent trials, exactly.

Sources: Clopper & Pearson 1934. `last_chance` is an ordinary exact calculation over the binomial walk: it hands the
error that the sequential looks did not spend to one final test of the whole set.

Of scipy only `special`: importing `scipy.stats` takes most of a second, in every run that judges.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, most_exceedances_to_pass

FloatArray = npt.NDArray[np.float64]


def clopper_pearson(n: int, s: int, alpha: float) -> tuple[float, float]:
    """Exact bounds for a rate; each side errs with probability at most `alpha`.

    Args:
        n: trials, at least 1.
        s: how many of them exceeded.
        alpha: error rate of each side.

    Returns:
        (low, high).

    >>> low, high = clopper_pearson(299, 0, 0.05)
    >>> low, high < 0.01
    (0.0, True)
    """
    low = 0.0 if s == 0 else float(special.betaincinv(s, n - s + 1, alpha))
    high = 1.0 if s == n else float(special.betaincinv(s + 1, n - s, 1.0 - alpha))
    return low, high


def trials_needed(rate: float, alpha: float, *, exceedances: int = 0) -> int:
    """How many trials with so many exceedances show that the rate is at most `rate`.

    >>> [trials_needed(0.01, 0.05, exceedances=s) for s in range(4)]
    [299, 473, 628, 773]
    """
    low, high = exceedances, max(1, exceedances)
    while special.bdtr(exceedances, high, rate) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if special.bdtr(exceedances, middle, rate) > alpha else (low, middle)
    return high


def last_chance(
    size: int, p0: float, alpha: float, *, at: Sequence[int], fewest_to_pass: int = 60, fewest_to_fail: int = 30
) -> tuple[int, int]:
    """Bounds for one exact test of all `size` trials, after the e-process left the looks `at` undecided.

    The e-process errs less often than α within a finite set. The difference goes to this final test, so that a false
    "below" of either kind has probability at most α, and so has a false "above".

    Args:
        size: trials in the whole set.
        p0: limit of the rate.
        alpha: error rate of each side.
        at: looks of the e-process, growing, none beyond `size`.
        fewest_to_pass: the e-process decides "below" on no fewer trials.
        fewest_to_fail: and "above" on no fewer.

    Returns:
        (most, fewest): at most so many exceedances show "below", at least so many "above".

    >>> last_chance(299, 0.01, 0.05, at=())
    (0, 7)
    """
    # p = p0 is the worst case of both nulls: either stopping rule is monotone in every single trial.
    alive = np.ones(1)
    seen, passed, failed = 0, 0.0, 0.0
    for n in at:
        alive = np.convolve(alive, _binomial(n - seen, p0))
        seen = n
        if n >= fewest_to_fail:
            edge = fewest_exceedances_to_fail(n, p0, alpha)
            failed += float(alive[edge:].sum())
            alive = alive[:edge]
        if n >= fewest_to_pass:
            edge = most_exceedances_to_pass(n, p0, alpha)
            passed += float(alive[: edge + 1].sum())
            alive[: edge + 1] = 0.0
    if size > seen:
        alive = np.convolve(alive, _binomial(size - seen, p0))
    below = passed + np.cumsum(alive)
    above = failed + np.cumsum(alive[::-1])[::-1]
    most = int(np.searchsorted(below, alpha, side="right")) - 1
    enough = np.flatnonzero(above <= alpha)
    return most, int(enough[0]) if enough.size else alive.shape[0]


@functools.lru_cache(maxsize=1024)  # forty walks over all looks, and sets of the same size are judged again and again
def whole_set_bounds(size: int, s: int, alpha: float, *, at: tuple[int, ...]) -> tuple[float, float]:
    """The rates that neither the looks nor the test of the whole set rule out, once all of the set has been seen.

    Inverts `last_chance`: a limit at or above the upper bound would have passed, one at or below the lower bound would
    have failed, so an interval never contradicts its verdict. Wider than `clopper_pearson` by what looks have spent.

    Args:
        size: trials in the whole set, at least 1.
        s: how many of them exceeded.
        alpha: error rate of each side.
        at: looks of the e-process, growing, none beyond `size`.

    Returns:
        (low, high), to a millionth, rounded outwards.

    >>> low, high = whole_set_bounds(299, 0, 0.05, at=())
    >>> low, 0.00996 < high < 0.01
    (0.0, True)
    """
    rate = s / size

    def passes(p0: float) -> bool:
        return s <= last_chance(size, p0, alpha, at=at)[0]

    def fails(p0: float) -> bool:
        return s >= last_chance(size, p0, alpha, at=at)[1]

    high = 1.0 if s == size else _ruled_out(rate, 1.0 - 1e-9, passes)
    low = 0.0 if s == 0 else _ruled_out(rate, 1e-9, fails)
    return low, high


def _ruled_out(kept: float, out: float, rules_out: Callable[[float], bool]) -> float:
    """The rate nearest to `kept` that is ruled out, by bisection; beyond `out`, 0 or 1, when not even that is."""
    if not rules_out(out):
        return 0.0 if out < kept else 1.0
    while abs(out - kept) > 1e-6:
        middle = 0.5 * (kept + out)
        kept, out = (kept, middle) if rules_out(middle) else (middle, out)
    return out


def _binomial(n: int, p: float) -> FloatArray:
    """Probabilities of 0 … n, cut where the rest is below 1e-18."""
    upto = min(n, math.ceil(n * p + 12.0 * math.sqrt(n * p + 1.0) + 20.0))
    k = np.arange(upto + 1)
    ways = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return np.asarray(np.exp(ways + special.xlogy(k, p) + special.xlog1py(n - k, -p)), dtype=np.float64)
