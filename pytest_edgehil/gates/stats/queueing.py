"""How much one stall weighs when inferences queue behind one another.

At a given rate one stall delays everything that falls due meanwhile, and goes on delaying until the queue has drained.
So slow responses come in clusters. The variance inflation of `autocorrelation` sees the clusters that there were; a
sample without any looks independent, however long the first one will be. What can be known beforehand is how long a
queue takes to drain. A stall that delays a response to *twice* the budget exceeds it until as much as a whole budget
has been worked off; for stalls with a Pareto tail of index 2 that is the mean excess over the budget. If a longer stall
than that has been seen, its own drain time counts. A stall that is both much longer than the budget and so rare that
none was seen stays invisible: cover ten of its cycles with ``min_duration``.

Sources: Lindley 1952 (the recursion); the design effect of clustered samples, Kish 1965. The step n → n/cluster is a
heuristic, checked by simulation (``benchmarks/statistics/open_loop.py``) and not a theorem.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def stall_cluster(services_ns: npt.ArrayLike, *, interval_ns: float, budget_ns: float) -> float:
    """How many responses exceed the budget, when one stall makes a response twice as long as the budget.

    Each interval works off ``interval − mean service``; the excess is one budget, or the longest service if it is more.

    Args:
        services_ns: shape (n,): how long the inferences themselves took.
        interval_ns: one is due every so long.
        budget_ns: limit of the response.

    Returns:
        At least 1; infinity when inferences take as long as the interval on average: such a queue never drains.

    >>> stall_cluster([8e6, 8e6], interval_ns=10e6, budget_ns=12e6)
    7.0
    >>> stall_cluster([8e6], interval_ns=8e6, budget_ns=12e6)
    inf
    """
    services = np.asarray(services_ns, dtype=np.float64)
    spare_ns = interval_ns - float(services.mean())
    return math.inf if spare_ns <= 0.0 else 1.0 + max(budget_ns, float(services.max())) / spare_ns
