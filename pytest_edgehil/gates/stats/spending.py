"""Looking several times at a growing sample without spending more than α: group-sequential boundaries.

For statistics that behave like a Brownian motion in the share of the information seen. By O'Brien and Fleming's
function almost nothing is spent early and nearly all at the end, so that the last look is hardly stricter than a
single test would be. By Pocock's much is spent early: clear cases end soon, and close ones need a little more. A power
of the share (`over_reruns`) lies between the two.

Sources: Lan & DeMets 1983; Kim & DeMets 1987 (powers); Armitage, McPherson & Rowe 1969 (the recursive integration).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

FloatArray = npt.NDArray[np.float64]


def obrien_fleming(shares: npt.ArrayLike, alpha: float) -> FloatArray:
    """The error spent by the time each share of the information is seen.

    >>> [round(float(one), 4) for one in obrien_fleming([0.5, 1.0], 0.05)]
    [0.0056, 0.05]
    """
    shares = np.asarray(shares, dtype=np.float64)
    return np.asarray(2.0 * special.ndtr(special.ndtri(alpha / 2.0) / np.sqrt(shares)), dtype=np.float64)


def pocock(shares: npt.ArrayLike, alpha: float) -> FloatArray:
    """The error spent by the time each share of the information is seen: α·ln(1 + (e - 1)·t).

    >>> [round(float(one), 4) for one in pocock([0.3, 1.0], 0.05)]
    [0.0208, 0.05]
    """
    return np.asarray(alpha * np.log1p((np.e - 1.0) * np.asarray(shares, dtype=np.float64)), dtype=np.float64)


RESERVE = 0.05
"""The share of α that a first run leaves for running the test again; see `over_reruns`."""


def over_reruns(shares: npt.ArrayLike, alpha: float) -> FloatArray:
    """The error spent when a planned study (share 1) may be continued for ever: nearly all of it in the plan.

    Up to the planned end 0.95·α·t²; beyond it α·(1 − 0.05/t), which never reaches α. In normal deviates the reserve
    makes the last planned look stricter by 1 %.

    >>> [round(float(one), 5) for one in over_reruns([0.3, 1.0, 2.0, 3.0], 0.05)]
    [0.00428, 0.0475, 0.04875, 0.04917]
    """
    shares = np.asarray(shares, dtype=np.float64)
    planned = (1.0 - RESERVE) * alpha * np.minimum(shares, 1.0) ** 2
    return np.asarray(planned + RESERVE * alpha * (1.0 - 1.0 / np.maximum(shares, 1.0)), dtype=np.float64)


def boundaries(
    shares: Sequence[float],
    alpha: float,
    *,
    points: int = 1001,
    spend: Callable[[npt.ArrayLike, float], FloatArray] = obrien_fleming,
) -> tuple[float, ...]:
    """Critical values of z, one per look, of a one-sided test that spends `alpha` in all.

    Args:
        shares: information seen at each look, growing, in (0, 1].
        alpha: error rate of the whole procedure.
        points: grid of the numerical integration.
        spend: shares, α → the error spent by then.

    Returns:
        z-values: cross one of them at its look and stop.

    >>> [round(one, 2) for one in boundaries([0.2, 0.4, 0.6, 0.8, 1.0], 0.025)]
    [4.88, 3.36, 2.68, 2.29, 2.03]
    >>> [round(one, 2) for one in boundaries([0.3, 0.4, 0.6, 0.8, 1.0], 0.05, spend=pocock)]
    [2.04, 2.2, 2.11, 2.08, 2.07]
    """
    spent = spend(shares, alpha)
    found: list[float] = []
    grid = density = np.empty(0)
    for look, share in enumerate(shares):
        root = float(np.sqrt(share))
        to_spend = float(spent[look] - (spent[look - 1] if look else 0.0))
        if look == 0:
            boundary = -float(special.ndtri(to_spend))
            grid = np.linspace(-9.0 * root, boundary * root, points)
            density = np.exp(-0.5 * (grid / root) ** 2) / (root * np.sqrt(2.0 * np.pi))
        else:
            step = float(np.sqrt(share - shares[look - 1]))
            weights = density * _simpson(grid)
            low, high = 0.0, 40.0  # probability to cross now for the first time falls as the boundary rises
            for _ in range(60):
                boundary = 0.5 * (low + high)
                crossed = float(weights @ special.ndtr((grid - boundary * root) / step))
                low, high = (boundary, high) if crossed > to_spend else (low, boundary)
            wider = np.linspace(-9.0 * root, boundary * root, points)
            kernel = np.exp(-0.5 * ((wider[:, None] - grid[None, :]) / step) ** 2) / (step * np.sqrt(2.0 * np.pi))
            grid, density = wider, kernel @ weights
        found.append(boundary)
    return tuple(found)


def _simpson(grid: FloatArray) -> FloatArray:
    """Weights of Simpson's rule on an even grid with an odd number of points."""
    weights = np.ones_like(grid)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    return np.asarray(weights * (grid[1] - grid[0]) / 3.0, dtype=np.float64)
