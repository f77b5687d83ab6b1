"""How much accuracy is lost against the baseline, with labels: Tango's paired score test at up to five looks.

The looks stand at every fifth of the set; the error is spent by O'Brien and Fleming's function, so that the last look
is hardly stricter than a single test. McNemar's test would ask whether the drop is zero, Wald's interval errs far too
often where few items differ. At the margin a false PASS comes up in 3.7 to 5.1 % of all sets at a stated 5 % (exactly
counted in `benchmarks/statistics/tango_size.py`; in 1.8 to 6.0 % where the model gains no item at all and the counts
are small), against up to 19.8 % by Wald's interval; with five looks see `benchmarks/statistics/accuracy_drop.py`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_edgehil.gates.share import UNSEEN, percent
from pytest_edgehil.model.verdict import Outcome

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import BoolArray

LOOKS = 5
"""Evenly spread over the set."""
FEWEST = 30
SEES_NOT = (
    *UNSEEN,
    (
        "exactness: the score test is asymptotic; at a stated 5% and the margin a false PASS comes up in at most 4.9% "
        "of all sets of 200 items and more, a false FAIL in at most 5.4%"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """What is known of the drop.

    Args:
        outcome: PASS, FAIL or INCONCLUSIVE.
        n: items that went into it.
        lost, gained: items that only the baseline, only the model has right.
        bounds: of the drop.
        looks: how often was looked.
        decided: may more items still change it?
        reason: what was counted, and what follows.
        would_change: see `Verdict.would_change`.
    """

    outcome: Outcome
    n: int
    lost: int
    gained: int
    bounds: tuple[float, float]
    looks: int
    decided: bool
    reason: str
    would_change: str


def judge(right: BoolArray, baseline_right: BoolArray, *, drop: float, alpha: float, size: int) -> Drop:
    """Is at most `drop` of the accuracy lost?

    Args:
        right, baseline_right: shape (m,), m ≥ 1, in the order in which the items were taken.
        drop: what may be lost, as a fraction.
        alpha: error rate of each side.
        size: items in the whole set.
    """
    import numpy as np

    from pytest_edgehil.gates.stats import tango

    lost = np.cumsum(baseline_right & ~right)
    gained = np.cumsum(right & ~baseline_right)
    at, critical = looks(size), critical_values(size, alpha)
    n = min(right.shape[0], size)
    outcome, z, decided = Outcome.INCONCLUSIVE, math.inf, n >= size
    seen = 0
    for count, z in zip(at, critical, strict=True):
        if count > n:
            break
        seen += 1
        distance = tango.cautious(count, int(lost[count - 1]), int(gained[count - 1]), drop)
        if abs(distance) >= z:
            n, outcome, decided = count, Outcome.PASS if distance < 0 else Outcome.FAIL, True
            break
    b, c = int(lost[n - 1]), int(gained[n - 1])
    low, high = tango.interval(n, b, c, z) if math.isfinite(z) else (-1.0, 1.0)
    counted = (
        f"of {n} items the model lost {b} that the baseline has right and gained {c}: a drop of {percent((b - c) / n)}"
    )
    bounds = f"between {percent(low)} and {percent(high)} at an error rate of {percent(alpha)}"
    if outcome is not Outcome.INCONCLUSIVE:
        said = f"{counted} where {percent(drop)} may be lost ({bounds})"
    elif at:
        said = f"{counted}, {bounds}, which does not tell whether it is at most {percent(drop)}"
    else:
        said = f"{counted}; at least {FEWEST} items are needed, the set has {size}"
    return Drop(
        outcome=outcome,
        n=n,
        lost=b,
        gained=c,
        bounds=(low, high),
        looks=seen,
        decided=decided,
        reason=said,
        would_change=_would_change(outcome, n=n, lost=b, gained=c, drop=drop, z=z, decided=decided, size=size),
    )


def looks(size: int) -> tuple[int, ...]:
    """Where the test looks: every fifth of the set, from 30 items on, and the whole set.

    >>> looks(500), looks(40), looks(20)
    ((100, 200, 300, 400, 500), (32, 40), ())
    """
    counts = (math.ceil(size * look / LOOKS) for look in range(1, LOOKS + 1))
    return tuple(count for count in counts if count >= FEWEST)


@functools.lru_cache(maxsize=64)
def critical_values(size: int, alpha: float) -> tuple[float, ...]:
    """One z per look; numerical integration, so it is kept."""
    from pytest_edgehil.gates.stats.spending import boundaries

    at = looks(size)
    return boundaries([n / size for n in at], alpha) if at else ()


def most_lost_to_pass(n: int, gained: int, *, drop: float, z: float) -> int:
    """The largest number of lost items among n that still passes, if so many are gained; −1 when none does."""
    from pytest_edgehil.gates.stats import tango

    low, high = -1, n - gained + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tango.cautious(n, middle, gained, drop) <= -z else (low, middle)
    return low


def can_pass(size: int, gained: int, *, drop: float, alpha: float) -> bool:
    """Would a set of so many items pass at any look if nothing were lost and so many items gained?"""
    return any(
        most_lost_to_pass(n, min(gained, n), drop=drop, z=z) >= 0
        for n, z in zip(looks(size), critical_values(size, alpha), strict=True)
    )


def items_needed(*, drop: float, alpha: float) -> int:
    """The smallest set that passes if the model and the baseline have the same items right.

    >>> items_needed(drop=0.01, alpha=0.05)
    320
    """
    low, high = FEWEST - 1, FEWEST
    while not can_pass(high, 0, drop=drop, alpha=alpha):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if can_pass(middle, 0, drop=drop, alpha=alpha) else (middle, high)
    return high


def _would_change(
    outcome: Outcome, *, n: int, lost: int, gained: int, drop: float, z: float, decided: bool, size: int
) -> str:
    if not math.isfinite(z):
        return f"a set of at least {FEWEST} items"
    most = most_lost_to_pass(n, gained, drop=drop, z=z)
    if outcome is Outcome.PASS:
        return f"more than {most} lost items among these {n} instead of {lost} would not have passed"
    if outcome is Outcome.FAIL:
        from pytest_edgehil.gates.stats import tango

        fewest = lost
        while fewest > 0 and tango.cautious(n, fewest - 1, gained, drop) >= z:
            fewest -= 1
        return f"fewer than {fewest} lost items among these {n} instead of {lost} would not have failed"
    if not decided:
        return f"the next look at the set, which has {size} items"
    if most < 0:
        return f"a larger set: with {n} items not even a model that loses none would have passed"
    return f"a larger set, or fewer lost items: at most {most} instead of {lost} would have passed with these {n}"
