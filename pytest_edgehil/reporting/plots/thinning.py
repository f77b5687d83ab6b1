"""Fewer points for the same picture: a million readings are no more to see than a thousand, if the extremes stay."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BUCKETS = 300


def line(x: FloatArray, y: FloatArray, *, buckets: int = BUCKETS) -> tuple[FloatArray, FloatArray]:
    """The points of a line that make up its outline: the lowest and the highest of every bucket, first and last.

    Args:
        x: shape (n,), growing.
        y: shape (n,).
        buckets: stretches of equally many points.

    Returns:
        (x, y), each shape (m,), m ≤ 2·buckets + 2, in the order of `x`; as given when they are few.

    >>> x, y = line(np.arange(10_000.0), np.where(np.arange(10_000) == 1234, 9.0, 1.0))
    >>> x.size <= 602, float(y.max()), float(x[y.argmax()])
    (True, 9.0, 1234.0)
    """
    n = x.shape[0]
    if n <= 2 * buckets + 2:
        return x, y
    edges = np.linspace(0, n, buckets + 1).astype(np.int64)
    kept = {0, n - 1}
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kept.add(first + int(np.argmin(y[first:end])))
        kept.add(first + int(np.argmax(y[first:end])))
    at = np.array(sorted(kept))
    return x[at], y[at]


def distribution(values: npt.NDArray[np.int64], *, points: int = BUCKETS) -> tuple[FloatArray, FloatArray]:
    """An empirical distribution function, without most of its inner steps.

    The smallest and the 60 largest values keep their own step, for the tail is what is looked at.

    Args:
        values: shape (n,), n ≥ 1.
        points: steps that are kept of the others.

    Returns:
        (x, share of the values that are at most x), each shape (m,), growing.

    >>> x, share = distribution(np.arange(1, 5))
    >>> x.tolist(), share.tolist()
    ([1.0, 2.0, 3.0, 4.0], [0.25, 0.5, 0.75, 1.0])
    """
    ordered = np.sort(values).astype(np.float64)
    n = ordered.shape[0]
    last_of_equals = np.append(ordered[1:] > ordered[:-1], True)
    ranks = np.flatnonzero(last_of_equals)
    if ranks.shape[0] > points + 61:
        inner = ranks[np.linspace(0, ranks.shape[0] - 61, points).astype(np.int64)]
        ranks = np.unique(np.concatenate((ranks[:1], inner, ranks[-60:])))
    return ordered[ranks], (ranks + 1.0) / n
