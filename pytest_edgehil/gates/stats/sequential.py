"""Walking along a sample and stopping at the first look that decides.

A verdict must be a pure function of the stored sample, and a longer sample must never change a verdict that was
reached. So the looks stand at fixed counts, each look sees only what came before it, and the walk reports the first
one that decides, however much more was measured since.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pytest_edgehil.gates.stats.eprocess import (
    fewest_exceedances_to_fail,
    log_e_fail,
    log_e_pass,
    most_exceedances_to_pass,
)

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
        inflation: V, see `autocorrelation`.
        log_e_pass, log_e_fail: evidence at (n/V, S/V).
    """

    number: int
    n: int
    exceedances: int
    inflation: float
    log_e_pass: float
    log_e_fail: float


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
    may_decide: Callable[[int], bool] | None = None,
    may_pass: Callable[[int], bool] | None = None,
    fewest_to_pass: int = 60,
    fewest_to_fail: int = 30,
) -> tuple[Decision, Look | None]:
    """Look at the first n trials for every n in `at`; stop at the first look that decides.

    With V > 1, more exceedances could weaken the evidence for "above" (they may raise V), and a later stretch could
    then pass. So once the *uncorrected* evidence has shown "above", this sample can no longer end "below".

    Args:
        exceeded: shape (n,): did trial i exceed?
        p0: limit of the rate.
        alpha: error rate of each side.
        at: counts to look at, growing.
        inflation: n → V of the first n trials; None for independent trials.
        may_decide: n → may the first n trials decide anything at all?
        may_pass: n → may they show "below"?
        fewest_to_pass: trials needed to show "below".
        fewest_to_fail: trials needed to show "above".

    Returns:
        The decision, and the deciding look (or the last one; None when there was none).

    >>> walk(np.zeros(100, dtype=bool), p0=0.05, alpha=0.05, at=looks(100))[0]
    <Decision.BELOW: 'below'>
    """
    threshold = math.log(1.0 / alpha)
    counts = np.array([n for n in at if n <= exceeded.shape[0]], dtype=np.int64)
    if not counts.size:
        return Decision.OPEN, None
    total = np.concatenate(([0], np.cumsum(exceeded, dtype=np.int64)))[counts]
    for_pass = total <= [most_exceedances_to_pass(n, p0, alpha) for n in counts.tolist()]
    for_fail = total >= [fewest_exceedances_to_fail(n, p0, alpha) for n in counts.tolist()]

    def corrected(index: int) -> Look:
        n, s = int(counts[index]), int(total[index])
        v = 1.0 if inflation is None else inflation(n)
        return Look(
            number=index + 1,
            n=n,
            exceedances=s,
            inflation=v,
            log_e_pass=float(log_e_pass(n / v, s / v, p0)),
            log_e_fail=float(log_e_fail(n / v, s / v, p0)),
        )

    # V is costly, and only where it can matter is it estimated: log e(t·n, t·S) is the logarithm of a mean of t-th
    # powers of likelihood ratios, so it is convex in t and 0 at t = 0. What stays below the threshold at t = 1 stays
    # below it at every t = 1/V ≤ 1.
    once_above = False
    for index in np.flatnonzero(for_pass | for_fail).tolist():
        n = int(counts[index])
        if may_decide is not None and not may_decide(n):
            continue
        if for_fail[index]:
            look = corrected(index)
            if look.log_e_fail >= threshold and n >= fewest_to_fail:
                return Decision.ABOVE, look
            once_above = once_above or look.inflation > 1.0
        elif n >= fewest_to_pass and not once_above and (may_pass is None or may_pass(n)):
            look = corrected(index)
            if look.log_e_pass >= threshold:
                return Decision.BELOW, look
    return Decision.OPEN, corrected(counts.size - 1)
