"""By how much is the model less accurate than its baseline on the same items? Tango's paired score test.

Only the items count on which one of both is right: `lost` (the baseline right, the model wrong) and `gained` (the
other way round). McNemar's test asks whether the drop is zero, which is the wrong question for a budget; Wald's
interval errs far too often when few items differ.

The score is asymptotic, and counts come in whole items: enumerated exactly over sets of 200 to 1000 items, at a stated
5 % it passes falsely in up to 6.0 % and fails falsely in up to 8.3 % of all sets. So the gate uses `cautious`, which is
short of a decision by a part of an item: at most 4.9 and 5.4 % (``benchmarks/statistics/tango_size.py``).

Source: Tango 1998, Statistics in Medicine 17:891–908.
"""

from __future__ import annotations

import math


def score(n: int, lost: int, gained: int, drop: float) -> float:
    """How far the observed drop lies above `drop`, in standard errors under that drop.

    Args:
        n: items.
        lost: items that only the baseline has right.
        gained: items that only the model has right.
        drop: drop in accuracy that is held against the data, −1 < drop < 1.

    Returns:
        Tango's z: below −1.645 shows at 5 % that the true drop is smaller than `drop`, above 1.645 that it is larger.

    >>> round(score(500, 3, 1, 0.02), 3)
    -2.418
    """
    a = 2.0 * n
    b = -lost - gained + (2.0 * n - lost + gained) * drop
    c = -gained * drop * (1.0 - drop)
    rate = max(0.0, (math.sqrt(max(0.0, b * b - 4.0 * a * c)) - b) / (2.0 * a))
    variance = n * (2.0 * rate + drop * (1.0 - drop))
    distance = lost - gained - n * drop
    if variance <= 0.0:
        return 0.0 if distance == 0.0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


PASS_ITEMS, FAIL_ITEMS = 0.1, 0.5
"""By so many items the observed drop is taken to be nearer to the one that is held against it, below it and above."""


def cautious(n: int, lost: int, gained: int, drop: float) -> float:
    """`score` with a correction for counts being whole; it never changes sign.

    >>> round(cautious(500, 3, 1, 0.02), 3), round(cautious(300, 0, 0, 0.01), 3)
    (-2.388, -1.683)
    """
    found, distance = score(n, lost, gained, drop), lost - gained - n * drop
    if distance == 0.0 or math.isinf(found):
        return found
    kept = 1.0 - (PASS_ITEMS if distance < 0.0 else FAIL_ITEMS) / abs(distance)
    return found * max(0.0, kept)


def interval(n: int, lost: int, gained: int, z: float) -> tuple[float, float]:
    """The drops whose `cautious` score lies within ±z.

    >>> low, high = interval(500, 3, 1, 1.645)
    >>> round(low, 4), round(high, 4)
    (-0.005, 0.0134)
    """
    observed = (lost - gained) / n
    low = _crossing(n, lost, gained, z=z, between=(-1.0 + 1e-9, observed))
    high = _crossing(n, lost, gained, z=-z, between=(1.0 - 1e-9, observed))
    return low, high


def _crossing(n: int, lost: int, gained: int, *, z: float, between: tuple[float, float]) -> float:
    """The drop at which the score equals z, from outside to inside; the score falls as the drop grows."""
    outside, inside = between
    for _ in range(80):
        middle = 0.5 * (outside + inside)
        found = cautious(n, lost, gained, middle)
        beyond = found > z if z > 0 else found < z
        outside, inside = (middle, inside) if beyond else (outside, middle)
    return inside
