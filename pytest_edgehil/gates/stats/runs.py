r"""How much less n trials say than n independent ones, by the runs of exceedances themselves.

`autocorrelation` looks at the ranks of all latencies. Slow inferences that come in bursts of which the rest shows no
sign are invisible there: whatever lies below the budget may be as independent as it likes. The exceedances themselves
tell. Taken as a Markov chain of two states, with a the chance that a quiet trial is followed by an exceedance and b the
chance that an exceedance is followed by a quiet trial, the variance of the number of exceedances is that of independent
ones times

    V = (1 + λ)/(1 − λ),  λ = 1 − a − b,

and a run of exceedances is 1/b long on average. R runs of S exceedances in n trials estimate b by R/S and a by
R/(n − S). Few runs say little about b, so for a PASS its lower confidence bound counts instead (Clopper–Pearson,
`DOUBT`): R of S exceedances were the last of their run. As long as no two exceedances stand together there is nothing
to doubt, and V is 1: a bound would then ask for several times as many inferences of every good model.

What this cannot see is a burst that has not come yet. With S = 0 there are no runs; only watching for longer helps.

Sources: Gabriel 1959 (the number of successes in a two-state chain); Clopper & Pearson 1934. As in `autocorrelation`,
the step n → n/V is a heuristic that was checked by simulation (``benchmarks/statistics/other_cases.py``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

DOUBT = 0.2
"""For a PASS, b is taken for its lower bound at a confidence of 1 − DOUBT."""


def starts(exceeded: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """At which trials does a run of exceedances begin?

    Args:
        exceeded: shape (n,).

    Returns:
        Shape (n,).

    >>> starts(np.array([True, True, False, True])).tolist()
    [True, False, False, True]
    """
    begun = exceeded.copy()
    begun[1:] &= ~exceeded[:-1]
    return begun


def burst_inflation(n: int, s: int, runs: int, *, doubt: float | None = None) -> float:
    """V of a two-state chain with so many exceedances in so many runs, at least 1.

    Args:
        n: trials.
        s: exceedances among them.
        runs: in how many runs they came.
        doubt: take runs for longer, up to a bound that errs with this probability; None: for as long as they were.

    >>> burst_inflation(1000, 50, 50), round(burst_inflation(1000, 50, 10), 1), burst_inflation(1000, 0, 0)
    (1.0, 8.5, 1.0)
    >>> round(burst_inflation(1000, 50, 10, doubt=0.2), 1)
    12.2
    """
    if s >= n or runs >= s:
        return 1.0
    ends = runs / s if doubt is None else float(special.betaincinv(runs, s - runs + 1, doubt))
    begins = runs / (n - s)
    return max(1.0, (2.0 - begins - ends) / (begins + ends))
