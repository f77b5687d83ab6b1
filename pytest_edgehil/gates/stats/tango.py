"""By how much is the model less accurate than its baseline on the same items? Tango's paired score test.

Only the items count on which one of both is right: `lost` (the baseline right, the model wrong) and `gained` (the
other way round). McNemar's test asks whether the drop is zero, which is the wrong question for a budget; Wald's
interval errs far too often when few items differ.

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


def interval(n: int, lost: int, gained: int, z: float) -> tuple[float, float]:
    """The drops whose `score` lies within ±z.

    >>> low, high = interval(500, 3, 1, 1.645)
    >>> round(low, 4), round(high, 4)
    (-0.0035, 0.0132)
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
        beyond = score(n, lost, gained, middle) > z if z > 0 else score(n, lost, gained, middle) < z
        outside, inside = (middle, inside) if beyond else (outside, middle)
    return inside
