"""Walking along a sample and stopping at the first look that decides.

A verdict must be a pure function of the stored sample. So the looks stand at fixed counts, each look sees only what
came before it, and the walk reports the first one that decides, however much more was measured since. What was
measured since can do one thing: take a PASS of dependent trials back, where it shows the opposite (see `walk`).
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_edgehil.gates.stats.autocorrelation import monotone_inflation
from pytest_edgehil.gates.stats.eprocess import (
    fewest_exceedances_to_fail,
    log_e_fail,
    log_e_pass,
    most_exceedances_to_pass,
)
from pytest_edgehil.gates.stats.runs import DOUBT, burst_inflation, starts

FIRST_LOOK = 30
GROWTH = 1.12


class Decision(enum.StrEnum):
    """What a walk came to."""

    BELOW = "below"  # the rate is shown to be below p0
    ABOVE = "above"  # the rate is shown to be above p0
    OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the first `n` trials.

    Args:
        number: 1 for the first look.
        n: trials seen.
        exceedances: how many of them exceeded.
        inflation: V, see `walk`; for "below" where at most a share p0 exceeded, else for "above".
        log_e_pass, log_e_fail: evidence at (n/V, S/V).
        ruled_out_at: after so many trials uncorrected evidence showed "above", so that "below" is ruled out; 0: never.
    """

    number: int
    n: int
    exceedances: int
    inflation: float
    log_e_pass: float
    log_e_fail: float
    ruled_out_at: int = 0


@functools.lru_cache(maxsize=4096)
def looks(upto: int, *, also: int | None = None) -> tuple[int, ...]:
    """The counts at which one looks: ⌈30·1.12^k⌉, and `also`, as far as they are ≤ `upto`.

    >>> looks(60)
    (30, 34, 38, 43, 48, 53, 60)
    >>> looks(75, also=70)
    (30, 34, 38, 43, 48, 53, 60, 67, 70, 75)
    """
    counts = {also} if also is not None and FIRST_LOOK <= also <= upto else set()
    power = 0
    while (count := math.ceil(FIRST_LOOK * GROWTH**power)) <= upto:
        counts.add(count)
        power += 1
    return tuple(sorted(counts))


def next_look(n: int, *, also: int | None = None) -> int:
    """The first look beyond `n` trials.

    >>> next_look(0), next_look(30), next_look(60, also=62)
    (30, 34, 62)
    """
    return next(count for count in looks(max(2 * n, 2 * FIRST_LOOK), also=also) if count > n)


def walk(
    exceeded: npt.NDArray[np.bool_],
    *,
    p0: float,
    alpha: float,
    at: Sequence[int],
    inflation: Callable[[int], float] | None = None,
    watch_at: Sequence[int] = (),
    may_decide: Callable[[int], bool] | None = None,
    may_pass: Callable[[int], bool] | None = None,
    fewest_to_pass: int = 60,
    fewest_to_fail: int = 30,
    only_below: bool = False,
) -> tuple[Decision, Look | None]:
    """Look at the first n trials for every n in `at`; stop at the first look that decides.

    Trials that depend on each other (`inflation`) count for less: n/V of them, with V the largest of what `inflation`
    says and of what the runs of the exceedances say (`runs`; for "below" also Geyer's estimate on the exceedances, for
    "above" without a run that still goes on).

    There one more rule holds. An exceedance more may lower V, and so the evidence for "below" may grow with what speaks
    against it. Therefore no sample ends "below" in which the *uncorrected* evidence (V = 1) shows "above" at any look
    that it has, before or after the one that would have decided. That makes the order safe: turn any trials of a sample
    that ends "above" into exceedances, and it never ends "below". For "above" at some look means log e_fail(n/V, S/V)
    ≥ ln(1/α) there; log e_fail(t·n, t·S) is convex in t and 0 at t = 0, so it is at least as large at t = 1; and it
    grows with S, so the changed sample shows "above" uncorrected at the same look. Independent trials need no such
    rule: there both processes are monotone in S look by look.

    Args:
        exceeded: shape (n,): did trial i exceed?
        p0: limit of the rate.
        alpha: error rate of each side.
        at: counts to look at, growing.
        inflation: n → V of the first n trials; None for independent trials.
        watch_at: further counts at which uncorrected evidence for "above" rules "below" out.
        may_decide: n → may the first n trials decide anything at all?
        may_pass: n → may they show "below"?
        fewest_to_pass: trials needed to show "below".
        fewest_to_fail: trials needed to show "above".
        only_below: do they end "below"? Anything else is told as open and without a look, which takes less time.

    Returns:
        The decision, and the deciding look (or the last one; None when there was none).

    >>> walk(np.zeros(100, dtype=bool), p0=0.05, alpha=0.05, at=looks(100))[0]
    <Decision.BELOW: 'below'>
    """
    sums = np.concatenate(([0], np.cumsum(exceeded, dtype=np.int64)))
    counts, most, fewest = _critical(tuple(at), exceeded.shape[0], p0, alpha)
    if not counts.size:
        return Decision.OPEN, None
    total = sums[counts]
    for_pass, for_fail = total <= most, total >= fewest
    ruled_out = 0 if inflation is None else _first(counts, for_fail)
    if inflation is not None and not ruled_out and watch_at:
        further, _, further_fewest = _critical(tuple(watch_at), exceeded.shape[0], p0, alpha)
        ruled_out = _first(further, sums[further] >= further_fewest)
    if ruled_out and only_below:
        return Decision.OPEN, None
    evidence = _Evidence(
        exceeded=exceeded, p0=p0, threshold=math.log(1.0 / alpha), inflation=inflation, ruled_out_at=ruled_out
    )
    # V is costly, and only where it can matter is it estimated: what stays below the threshold at V = 1 stays below it
    # at every V ≥ 1 (see above).
    candidates = for_fail if ruled_out else for_pass | for_fail
    for index in np.flatnonzero(candidates).tolist():
        n, s = int(counts[index]), int(total[index])
        if may_decide is not None and not may_decide(n):
            continue
        if for_fail[index]:
            v = evidence.shows_above(n, s) if n >= fewest_to_fail else None
            if v is not None:
                return Decision.ABOVE, evidence.look(index + 1, n, s, v)
        elif n >= fewest_to_pass and (may_pass is None or may_pass(n)):
            v = evidence.shows_below(n, s)
            if v is not None:
                return Decision.BELOW, evidence.look(index + 1, n, s, v)
    if only_below:
        return Decision.OPEN, None
    n, s = int(counts[-1]), int(total[-1])
    v = evidence.inflation_below(n, s) if s <= p0 * n else evidence.inflation_above(n, s)
    return Decision.OPEN, evidence.look(counts.size, n, s, v)


class _Evidence:
    """What trials say at a look, V included. Args: see `walk` and `Look`."""

    def __init__(
        self,
        *,
        exceeded: npt.NDArray[np.bool_],
        p0: float,
        threshold: float,
        inflation: Callable[[int], float] | None,
        ruled_out_at: int,
    ) -> None:
        self._exceeded = exceeded
        self._p0 = p0
        self._threshold = threshold
        self._inflation = inflation
        self._ruled_out_at = ruled_out_at
        self._begun = np.cumsum(starts(exceeded)) if inflation is not None else np.empty(0, dtype=np.int64)

    def shows_above(self, n: int, s: int) -> float | None:
        """V, when the first n trials show "above" in spite of it; else None."""
        v = self.inflation_above(n, s)
        return v if log_e_fail(n / v, s / v, self._p0) >= self._threshold else None

    def shows_below(self, n: int, s: int) -> float | None:
        """V, when the first n trials show "below" in spite of it; else None."""
        v = self.inflation_below(n, s)
        return v if log_e_pass(n / v, s / v, self._p0) >= self._threshold else None

    def inflation_above(self, n: int, s: int) -> float:
        """V as it counts for "above"."""
        if self._inflation is None:
            return 1.0
        # a run that still goes on may be no burst at all but how it is from now on: only those before it count
        ended = n - int(self._exceeded[:n][::-1].argmin()) if s < n else 0
        runs = int(self._begun[ended - 1]) if ended else 0
        return max(self._inflation(n), burst_inflation(ended, s - (n - ended), runs))

    def inflation_below(self, n: int, s: int) -> float:
        """V as it counts for "below"; Geyer's estimate, which is costly, only where the rest leaves it open."""
        if self._inflation is None:
            return 1.0
        v = max(self._inflation(n), burst_inflation(n, s, int(self._begun[n - 1]), doubt=DOUBT))
        if s < 2 or log_e_pass(n / v, s / v, self._p0) < self._threshold:
            return v
        return max(v, monotone_inflation(self._exceeded[:n].astype(np.float64)))

    def look(self, number: int, n: int, s: int, v: float) -> Look:
        """A look, told in full."""
        return Look(
            number=number,
            n=n,
            exceedances=s,
            inflation=v,
            log_e_pass=float(log_e_pass(n / v, s / v, self._p0)),
            log_e_fail=float(log_e_fail(n / v, s / v, self._p0)),
            ruled_out_at=self._ruled_out_at,
        )


def _first(counts: npt.NDArray[np.int64], shown: npt.NDArray[np.bool_]) -> int:
    """The first count at which it is shown; 0 when it never is."""
    return int(counts[int(shown.argmax())]) if shown.any() else 0


@functools.lru_cache(maxsize=256)  # a session asks again and again, with every budget that might have been
def _critical(
    at: tuple[int, ...], available: int, p0: float, alpha: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The counts that there are, and for each the most exceedances that pass and the fewest that fail, at V = 1."""
    counts = [n for n in at if n <= available]
    return (
        np.array(counts, dtype=np.int64),
        np.array([most_exceedances_to_pass(n, p0, alpha) for n in counts], dtype=np.int64),
        np.array([fewest_exceedances_to_fail(n, p0, alpha) for n in counts], dtype=np.int64),
    )
