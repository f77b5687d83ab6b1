"""How many times as slow is one model as another, at a quantile? From blocks of inferences measured side by side.

One model's block follows right after the other's on the same board, so whatever else changes there (temperature, what
other programs do) meets both. The blocks of each model are pooled for the estimate, and the standard error comes from
leaving one pair out at a time: that takes the correlation within a block into account, whatever its form, as long as
blocks are long against it.

The logarithm of the ratio is used: its distribution is nearly symmetric, and a board that is slower throughout adds
the same to both sides.

Sources: Harrell & Davis 1982 (the quantile); Efron & Stein 1981 (the jackknife's variance); Lan & DeMets 1983
(looking several times); Kalibera & Jones 2013 (ratios of benchmarks with effects between runs).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from pytest_edgehil.gates.stats import spending
from pytest_edgehil.gates.stats.harrell_davis import harrell_davis, weights

FloatArray = npt.NDArray[np.float64]

LOOK_SHARES = (0.3, 0.4, 0.6, 0.8, 1.0)
"""Of the pairs that may be measured: where one looks; 6, 8, 12, 16 and 20 of 20."""

FEWEST_BLOCKS = 6
"""Fewer give a standard error that is itself known too badly: t with 4 degrees of freedom and less."""

FEWEST_BEYOND = 5
"""Inferences that must be expected beyond the quantile: with fewer the estimate rests on one or two values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuantile:
    """The logarithm of a quantile, and what it would be without each block.

    Args:
        value: ln of the Harrell-Davis estimate over all blocks.
        without: shape (k,): the same with block j left out.
    """

    value: float
    without: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRatio:
    """ln(candidate / baseline) with its standard error.

    Args:
        value: natural logarithm of the ratio.
        error: its standard error; 0 when no pair differs from any other, which is no measurement.
        df: degrees of freedom of the error.
    """

    value: float
    error: float
    df: float

    def bounds(self, critical: float) -> tuple[float, float]:
        """The ratio's lower and upper bound, `critical` standard errors away; each is one-sided.

        >>> low, high = LogRatio(value=0.0, error=0.05, df=19).bounds(2.0)
        >>> round(low, 4), round(high, 4)
        (0.9048, 1.1052)
        """
        return math.exp(self.value - critical * self.error), math.exp(self.value + critical * self.error)


def log_quantile(blocks: npt.ArrayLike, q: float) -> LogQuantile:
    """Natural logarithm of a quantile over all blocks and without each of them.

    Args:
        blocks: shape (k, m), k ≥ 2, all above zero: one block per row.
        q: which quantile, 0 < q < 1.

    >>> found = log_quantile([[1.0, 2.0], [1.0, 2.0]], 0.5)
    >>> round(math.exp(found.value), 3), found.without.round(3).tolist()
    (1.5, [0.405, 0.405])
    """
    values = np.asarray(blocks, dtype=np.float64)
    count, size = values.shape
    flat = values.ravel()
    order = np.argsort(flat, kind="stable")
    ordered, owner = flat[order], order // size
    # every row of `left` is the sorted pool without one block: sorted once, cut k times
    kept = owner[np.newaxis, :] != np.arange(count)[:, np.newaxis]
    left = np.broadcast_to(ordered, kept.shape)[kept].reshape(count, (count - 1) * size)
    return LogQuantile(value=math.log(harrell_davis(ordered, q)), without=np.log(left @ weights((count - 1) * size, q)))


def jackknife_error(without: npt.ArrayLike) -> float:
    """Standard error from the delete-one estimates: sqrt((k - 1)/k · Σ (θ_j - mean θ)²).

    Args:
        without: shape (k,): the estimate with one block (or pair) left out.

    >>> values = np.array([1.0, 2.0, 4.0, 7.0])
    >>> left_out = (values.sum() - values) / 3
    >>> bool(np.isclose(jackknife_error(left_out), values.std(ddof=1) / 2))  # of a mean: its classical error
    True
    """
    estimates = np.asarray(without, dtype=np.float64)
    k = estimates.shape[0]
    error = math.sqrt((k - 1) / k * float(((estimates - estimates.mean()) ** 2).sum()))
    return error if error > 1e-12 else 0.0  # blocks that are all alike, but for rounding


def paired_ratio(candidate: npt.ArrayLike, baseline: npt.ArrayLike, q: float) -> LogRatio:
    """Natural logarithm of the ratio of two quantiles, from pairs of blocks.

    Args:
        candidate, baseline: shape (k, m), k ≥ 2, all above zero; row j of both was measured side by side.
        q: which quantile, 0 < q < 1.

    >>> rng = np.random.default_rng(1)
    >>> board = rng.lognormal(0.0, 0.3, (20, 1))  # a board that changes its speed all the time
    >>> candidate, baseline = (board * rng.lognormal(0.0, 0.05, (20, 50)) for _ in range(2))
    >>> found = paired_ratio(1.2 * candidate, baseline, 0.95)
    >>> round(math.exp(found.value), 1), found.error < 0.05, found.df
    (1.2, True, 19)
    """
    ours, theirs = log_quantile(candidate, q), log_quantile(baseline, q)
    return LogRatio(
        value=ours.value - theirs.value,
        error=jackknife_error(ours.without - theirs.without),
        df=ours.without.shape[0] - 1,
    )


def session_ratio(now: LogQuantile, then: LogQuantile, *, spread: float) -> LogRatio:
    """Natural logarithm of the ratio of a quantile in this session to that in a stored one.

    Every session (a boot, a day, a board of the same class) has a speed of its own: with a standard deviation of
    `spread` each, two of them differ by 2·spread² in variance, which no number of inferences within one can show.

    Args:
        now, then: of blocks of consecutive inferences.
        spread: relative standard deviation between sessions; it is believed, hence without degrees of freedom.

    Returns:
        The ratio; df by Welch and Satterthwaite.

    >>> rng = np.random.default_rng(1)
    >>> now, then = (log_quantile(rng.lognormal(0.0, 0.05, (20, 50)), 0.95) for _ in range(2))
    >>> found = session_ratio(now, then, spread=0.03)
    >>> found.error > 0.0424, found.df > 500
    (True, True)
    """
    return stored_ratio(
        (now,),
        then_value=then.value,
        then_error=jackknife_error(then.without),
        then_blocks=then.without.shape[0],
        spread=spread,
    )


def stored_ratio(
    now: Sequence[LogQuantile],
    *,
    then_value: float,
    then_error: float,
    then_blocks: int,
    spread: float,
    may_be_alike: bool = False,
) -> LogRatio:
    """As `session_ratio`, where only the figures of the stored session are at hand, and of one or several sessions now.

    Args:
        now: of each session, of blocks of consecutive inferences; their mean is held against the stored one.
        then_value: ln of the stored session's quantile.
        then_error: its jackknife standard error.
        then_blocks: from so many blocks.
        spread: relative standard deviation between sessions.
        may_be_alike: all blocks of a session may be exactly alike, as counted instructions are.

    Returns:
        The ratio; unless they may be, error 0 when the blocks of a session are all alike.
    """
    count = len(now)
    value = math.fsum(one.value for one in now) / count - then_value
    errors = [(jackknife_error(one.without) / count, one.without.shape[0] - 1) for one in now]
    if not may_be_alike and not all(error for error, _ in errors):
        return LogRatio(value=value, error=0.0, df=min(df for _, df in errors))
    errors.append((then_error, then_blocks - 1))
    variance = math.fsum(error**2 for error, _ in errors) + (1.0 + 1.0 / count) * spread**2
    estimated = math.fsum(error**4 / df for error, df in errors)
    return LogRatio(value=value, error=math.sqrt(variance), df=variance**2 / estimated if estimated else math.inf)


def session_critical(ratios: Sequence[LogRatio], alpha: float) -> float:
    """How many standard errors away the limit must be after the last of several sessions, one look after each.

    The error is spent by `spending.over_reruns`, a session being one share; how much the looks have in common follows
    from their variances.

    Args:
        ratios: of the first session, of the first two, and so on.
        alpha: error rate over all sessions that there can ever be.

    >>> one, two = (LogRatio(value=0.0, error=error, df=1000.0) for error in (0.042, 0.037))
    >>> round(session_critical((one,), 0.05), 2), round(session_critical((one, two), 0.05), 2)
    (1.67, 2.29)
    """
    information: list[float] = []
    for one in ratios:
        share = (ratios[0].error / one.error) ** 2
        # a session that adds nothing would leave nothing to integrate over; a little more is on the safe side
        information.append(share if not information else max(share, information[-1] + 0.01))
    sessions = np.arange(1, len(ratios) + 1)
    normal = spending.boundaries(
        information, alpha, points=401, spend=lambda _, rate: spending.over_reruns(sessions, rate)
    )
    return float(stats.t.isf(special.ndtr(-normal[-1]), ratios[-1].df))


@functools.lru_cache(maxsize=256)
def looks(most: int, block: int, q: float, *, upto: int = 0) -> tuple[int, ...]:
    """The numbers of pairs at which one looks; empty when `most` pairs are too few for this quantile.

    Args:
        most: pairs that one run of a test may measure.
        block: inferences in a block.
        q: which quantile.
        upto: pairs over all runs; beyond the first run's, one looks at whole multiples of `most`.

    >>> looks(20, 50, 0.95), looks(6, 50, 0.95), looks(20, 50, 0.99), looks(20, 50, 0.999)
    ((6, 8, 12, 16, 20), (6,), (12, 16, 20), ())
    >>> looks(20, 50, 0.95, upto=45)
    (6, 8, 12, 16, 20, 40, 60)
    """
    # 1 - 0.99 is a little more or less than 0.01 in binary, and so is 0.3 · 20
    counts = {max(FEWEST_BLOCKS, math.ceil(round(share * most, 9))) for share in LOOK_SHARES}
    counts = {one for one in counts if one <= most} | {most * run for run in range(2, math.ceil(upto / most) + 1)}
    beyond = round(1.0 - q, 12) * block
    return tuple(sorted(one for one in counts if round(one * beyond, 9) >= FEWEST_BEYOND))


@functools.lru_cache(maxsize=256)
def critical_values(
    at: tuple[int, ...],
    most: int,
    alpha: float,
    *,
    spend: Callable[[npt.ArrayLike, float], FloatArray] = spending.over_reruns,
) -> tuple[float, ...]:
    """How many standard errors away the limit must be at each look: t with one degree of freedom less than pairs.

    The boundaries of a Brownian motion whose error is spent little by little, each moved from the normal
    distribution to the t distribution at the same tail probability.

    Args:
        at: pairs at each look.
        most: pairs that one run may measure.
        alpha: error rate of a side over all looks.
        spend: shares of `most`, α → the error spent by then.

    >>> [round(one, 2) for one in critical_values((6, 8, 12, 16, 20), 20, 0.05)]
    [4.19, 3.44, 2.57, 2.19, 1.92]
    >>> round(critical_values((20,), 20, 0.05)[0], 3)  # one look: a t test at 95 % of α
    1.757
    """
    normal = spending.boundaries([one / most for one in at], alpha, points=401, spend=spend)
    tails = special.ndtr(-np.asarray(normal))
    return tuple(float(stats.t.isf(tail, one - 1)) for tail, one in zip(tails, at, strict=True))
