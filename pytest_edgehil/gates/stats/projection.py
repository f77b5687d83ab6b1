"""What else a sample might have said: with another budget, or if it had gone on.

Which budget it would have passed is a fact about the sample (`least_to_pass`). How many more trials would decide
(`project`) is no statement with an error rate: what was observed is taken for the truth, and an observed rate near
the limit may well lie on its other side. It tells a person whether to wait for some more samples or to change the
question.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_edgehil.gates.stats.eprocess import log_e_fail, log_e_pass
from pytest_edgehil.gates.stats.sequential import Decision, Look

FARTHEST = 1_000_000
"""No projection beyond so many trials: at such rates a sample says nothing of use about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Args: trials: how many in all, the ones seen included. below: would they show a rate below the limit?"""

    trials: int
    below: bool


@functools.lru_cache(maxsize=256)  # a look evaluates, and asks for more: twice the same
def project(n: int, s: float, *, p0: float, alpha: float, inflation: float = 1.0) -> Projection | None:
    """When the e-process would decide if the rate stayed s/n; None when not within `FARTHEST` trials.

    Args:
        n: trials seen, at least 1.
        s: exceedances among them.
        p0: limit of the rate.
        alpha: error rate of each side.
        inflation: V, taken to stay as it is.

    >>> project(30, 0, p0=0.05, alpha=0.05)
    Projection(trials=70, below=True)
    >>> project(1000, 40, p0=0.05, alpha=0.05).below, project(1000, 60, p0=0.05, alpha=0.05).below
    (True, False)
    >>> project(1000, 50, p0=0.05, alpha=0.05) is None
    True
    """
    threshold = math.log(1.0 / alpha)
    for below, process in ((True, log_e_pass), (False, log_e_fail)):

        def decides(trials: int, process: Callable[..., Any] = process) -> bool:
            return float(process(trials / inflation, trials * (s / n) / inflation, p0)) >= threshold

        # log e(t·n, t·S) is convex in t and 0 at t = 0 (see `sequential.walk`): it crosses the threshold once
        open_at, decided_at = n - 1, max(FARTHEST, 2 * n)
        if not decides(decided_at):
            continue
        while decided_at - open_at > 1:
            middle = math.isqrt(open_at * decided_at)
            middle = middle if open_at < middle < decided_at else (open_at + decided_at) // 2
            open_at, decided_at = (open_at, middle) if decides(middle) else (middle, decided_at)
        return Projection(trials=decided_at, below=below)
    return None


def fewest_to_pass(p0: float, alpha: float) -> int:
    """How many trials it takes at least to show a rate below p0: with no exceedance, and independent.

    >>> fewest_to_pass(0.05, 0.05), fewest_to_pass(0.01, 0.05)
    (70, 358)
    """
    found = project(1, 0.0, p0=p0, alpha=alpha)
    return FARTHEST if found is None else found.trials


def least_to_pass(
    values: npt.NDArray[np.int64], judge: Callable[[float], tuple[Decision, Look | None]]
) -> tuple[float, int] | None:
    """The smallest budget that these values pass, and with how many of them; None when they pass none.

    Bisection: with a larger budget there are fewer exceedances at every look, so what passes goes on passing. Nearly:
    how exceedances cluster depends on the budget too. What is returned does pass; rarely a smaller one would as well.

    Args:
        values: shape (n,).
        judge: from a budget to the decision about them and the look that decided.
    """
    candidates = np.sort(values)  # numpy's `unique` hashes, which takes seconds for a million of them
    found: tuple[float, int] | None = None
    first, end = 0, candidates.shape[0]
    while first < end:
        middle = (first + end - 1) // 2 if found is not None else end - 1  # the largest first: does any pass?
        decision, look = judge(float(candidates[middle]))
        if decision is Decision.BELOW and look is not None:
            found, end = (float(candidates[middle]), look.n), middle
        elif found is None:
            return None
        else:
            first = middle + 1
    return found
