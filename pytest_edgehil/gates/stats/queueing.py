"""How much one stall weighs when inferences queue behind one another.

At a given rate one stall delays everything that falls due meanwhile, and goes on delaying until the queue has drained.
So slow responses come in clusters, and it is the *busy periods* that are independent of one another: the queue is empty
between two of them, and what happened in one is forgotten in the next.

Of the clusters that a sample holds, the mean that a slow response finds itself in is known (`cluster_size`). A sample
without a long stall cannot tell how long the first one will be. What can be told is which stalls it excludes: in n
responses without one, stalls rarer than one in n/3 may still come (the rule of three), and if each delays L responses
beyond the budget they make up 3·L/n of all. So a PASS needs L to be small against n, and for L somebody has to say how
long a stall may be: the marker (`stall`). `drained` gives L. `outlasts` asks whether a PASS would have come out

- if *every* slow response were one of L that belong together, so that n count as n/L; or
- if one more stall had been seen, of L slow responses.

The first is what a sample with nearly no slow responses can show, the second one with a few slow ones that have nothing
to do with stalls. What is longer than was said, or than was seen, and so rare that none was seen, stays invisible.

Sources: Lindley 1952 (the recursion); the design effect of clustered samples, Kish 1965; regenerative simulation, Crane
and Iglehart 1975. The step n → n/cluster is a heuristic and no theorem; it was checked by simulation
(``benchmarks/statistics/open_loop.py``, and on scenarios drawn at random in ``open_loop_drawn.py``).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pytest_edgehil.gates.stats.eprocess import log_e_pass

FloatArray = npt.NDArray[np.float64]


def drained(services_ns: npt.ArrayLike, *, interval_ns: float, budget_ns: float, stall_ns: float) -> float:
    """How many responses one stall makes slow: those until the queue has drained to the budget.

    Each interval works off ``interval − mean service``; what must be worked off is what the stall, or the longest
    service that was seen if that took longer, takes beyond the budget.

    Args:
        services_ns: shape (n,): how long the inferences themselves took.
        interval_ns: one is due every so long.
        budget_ns: limit of the response.
        stall_ns: the longest stall that may be expected.

    Returns:
        At least 1; infinity when inferences take as long as the interval on average: such a queue never drains.

    >>> drained([8e6, 8e6], interval_ns=10e6, budget_ns=12e6, stall_ns=24e6)
    7.0
    >>> drained([8e6], interval_ns=8e6, budget_ns=12e6, stall_ns=24e6)
    inf
    """
    services = np.asarray(services_ns, dtype=np.float64)
    spare_ns = interval_ns - float(services.mean())
    if spare_ns <= 0.0:
        return math.inf
    return 1.0 + max(0.0, max(stall_ns, float(services.max())) - budget_ns) / spare_ns


def clusters(exceeded: npt.ArrayLike, idle: npt.ArrayLike) -> FloatArray:
    """How many slow responses there are in each busy period that has any.

    Args:
        exceeded: shape (n,), bool: is the response beyond the budget?
        idle: shape (n,), bool: did it find the queue empty, so that a busy period begins with it?

    Returns:
        Shape (c,), each at least 1.

    >>> clusters([0, 1, 1, 0, 1, 0], [1, 1, 0, 0, 1, 1]).tolist()
    [2.0, 1.0]
    """
    begins = np.asarray(idle, dtype=bool).copy()
    if not begins.size:
        return np.empty(0)
    begins[0] = True
    counts = np.add.reduceat(np.asarray(exceeded, dtype=np.int64), np.flatnonzero(begins))
    return np.asarray(counts[counts > 0], dtype=np.float64)


def cluster_size(sizes: npt.ArrayLike, *, more: float | None = None) -> float:
    """In how large a cluster a slow response finds itself: Σ L²/Σ L, with one more cluster counted in.

    That is by how much clusters inflate the variance of the number of slow responses. Few of them say little of how
    large they can be, hence one more.

    Args:
        sizes: shape (c,): the clusters that were seen.
        more: size of the one more; None: as large as the largest of them.

    >>> cluster_size([1.0, 1.0, 4.0]), cluster_size([]), cluster_size([1.0], more=9.0)
    (3.4, 1.0, 8.2)
    """
    found = np.asarray(sizes, dtype=np.float64)
    if more is None:
        if not found.size:
            return 1.0
        more = float(found.max())
    return float(((found**2).sum() + more**2) / (found.sum() + more))


def outlasts(n: int, sizes: npt.ArrayLike, *, stall: float, inflation: float, p0: float, alpha: float) -> bool:
    """Would n responses have passed also if a stall had been missed by chance? See the module.

    Args:
        n: responses seen.
        sizes: shape (c,): the clusters of slow ones among them.
        stall: how many responses the longest stall that may be expected makes slow.
        inflation: variance inflation V for other reasons.
        p0: limit of the share of slow responses.
        alpha: error rate.

    >>> [outlasts(n, [], stall=10.0, inflation=1.0, p0=0.05, alpha=0.05) for n in (690, 700)]
    [False, True]
    >>> outlasts(4000, [1.0] * 60, stall=10.0, inflation=1.0, p0=0.05, alpha=0.05)
    True
    """
    if math.isinf(stall):
        return False
    found = np.asarray(sizes, dtype=np.float64)
    slow, threshold = float(found.sum()), math.log(1.0 / alpha)
    all_stalls = max(stall, inflation)
    if float(log_e_pass(n / all_stalls, slow / all_stalls, p0)) >= threshold:
        return True
    one_more = max(cluster_size(found, more=stall), inflation)
    return float(log_e_pass((n + stall) / one_more, (slow + stall) / one_more, p0)) >= threshold
