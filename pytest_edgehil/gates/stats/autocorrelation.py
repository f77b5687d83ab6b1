"""How much less n correlated inferences say than n independent ones: the variance inflation V.

Latencies come in stretches: a slow inference is likely followed by another. The e-process assumes independent trials,
so it is evaluated at (n/V, S/V). V is the inflation of the *exceedance indicator's* variance, not of latency's: the
tail is less correlated than the bulk. Several estimates are made and the largest counts:

- `indicator_inflation`: Geyer's initial monotone sequence on an indicator of the tail (twice as many exceedances as
  the budget allows, so that there is something to estimate from);
- `copula_inflation`: the autocorrelation of the normal scores, carried over to the tail through a Gaussian copula.
  It uses every inference, so it sees correlation long before the tail has shown any;
- where neighbours correlate strongly (`STRONG`), `persistence_inflation`: a stretch that is not much longer than the
  correlation looks less correlated than it is, by about (1 + 4ρ)/n, and scatters. The AR(1) that one could still take
  for the truth counts then.

And V grows where it leaves few effective inferences (`SCARCE`), for from few of them V itself is not known well.

The step n → n/V is a heuristic that was checked by simulation (``benchmarks/statistics``), not a theorem.

Sources: Geyer 1992 (initial sequence estimators); Owen 1956 (the bivariate normal integral); Kendall 1954 (the bias
of an autocorrelation).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
from scipy import fft, special

FloatArray = npt.NDArray[np.float64]

STRONG = 0.6
"""Neighbours whose normal scores correlate by less are estimated well enough from 30 inferences on."""
SCARCE = 6.0
"""With n/V effective inferences, V − 1 is raised by the share (SCARCE·V/n)⁴, at most doubled: by 6 % at 12, by all of
it at 6."""
MARGIN_PER_RATE = 5.0
"""Standard errors by which a strong correlation is taken to be stronger, for every unit of p0, at most `_MOST_MARGIN`:
the larger p0, the fewer effective inferences decide, and the more weighs a V that is too small."""
_MOST_MARGIN = 1.645
_STRONGEST = 0.995
_LAGS = 400
_ONE_BY_ONE = 64
_MOST_KNOWN = 1024
_KNOWN: dict[tuple[bytes, float], float] = {}
"""V of values that were looked at before, by their digest. A gate walks along the same sample again whenever it has
grown, so every look but the last one is an old one. Only numbers are kept, and no more than `_MOST_KNOWN`."""


def variance_inflation(values: npt.ArrayLike, p0: float) -> float:
    """V of the indicator "beyond the (1−p0) quantile": the largest estimate, at least 1; see above.

    Only the order of the values matters: any growing rescaling leaves V unchanged.

    Args:
        values: shape (n,), in the order of time.
        p0: share of exceedances that the budget allows.

    Returns:
        V ≥ 1; 1 for fewer than 4 values and for constant ones.

    >>> rng = np.random.default_rng(7)
    >>> variance_inflation(rng.normal(size=500), 0.05) < 1.5
    True
    >>> variance_inflation(np.repeat(rng.normal(size=50), 10), 0.05) > 4
    True
    """
    series = np.ascontiguousarray(values, dtype=np.float64)
    if series.shape[0] < 4 or np.ptp(series) == 0.0:
        return 1.0
    key = (hashlib.blake2b(series.tobytes(), digest_size=16).digest(), p0)
    found = _KNOWN.get(key)
    if found is None:
        scores = autocorrelations(special.ndtri(_ranks(series) / (series.shape[0] + 1.0)))
        found = max(
            1.0,
            indicator_inflation(series, p0),
            copula_inflation(scores, p0),
            persistence_inflation(scores, p0),
        )
        found = 1.0 + (found - 1.0) * (1.0 + min(1.0, SCARCE * found / series.shape[0]) ** 4)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = found
    return found


def indicator_inflation(series: FloatArray, p0: float) -> float:
    """Geyer's estimate on the indicator 1{X > empirical (1−2·p0) quantile}; see `variance_inflation`."""
    level = max(1.0 - 2.0 * p0, 0.5)  # beyond a median there is no tail to look at
    indicator = (series > np.quantile(series, level)).astype(np.float64)
    return monotone_inflation(indicator)


def monotone_inflation(series: FloatArray) -> float:
    """Geyer's estimate of how much less the mean of this series says than that of independent values; may be below 1.

    >>> monotone_inflation(np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0] * 20)) > 1.5
    True
    """
    n = series.shape[0]
    centred = series - series.mean()
    power = float(centred @ centred)
    if power <= _nothing(series):
        return 1.0
    # the sequence nearly always ends after a few lags, which cost less one by one than all of them at once
    total, least = 0.0, math.inf
    for lag in range(0, min(_ONE_BY_ONE, n - n % 2), 2):
        pair = float(centred[: n - lag] @ centred[lag:]) + float(centred[: n - lag - 1] @ centred[lag + 1 :])
        if pair <= 0.0:
            return 2.0 * total - 1.0 if lag else 1.0
        least = min(least, pair / power)
        total += least
    correlations = autocorrelations(series)
    pairs = np.empty(0) if correlations is None else _initial_pairs(correlations)
    return float(2.0 * np.minimum.accumulate(pairs).sum() - 1.0) if pairs.size else 1.0


def copula_inflation(correlations: FloatArray | None, p0: float) -> float:
    """1 + 2·Σ c(ρ_k) over the normal scores' autocorrelations up to Geyer's lag; see `variance_inflation`.

    Args:
        correlations: shape (n,), of the normal scores; None when they do not vary.
        p0: probability of the tail.
    """
    if correlations is None:
        return 1.0
    lags = 2 * _initial_pairs(correlations).size
    return float(1.0 + 2.0 * tail_correlation(correlations[1:lags], p0).sum())


def persistence_inflation(correlations: FloatArray | None, p0: float) -> float:
    """1 + 2·Σ c(ρ^k) for the strongest lag-one correlation ρ that is still credible, where it is `STRONG`.

    Args:
        correlations: shape (n,), of the normal scores; None when they do not vary.
        p0: probability of the tail.
    """
    if correlations is None or correlations[1] < STRONG:
        return 1.0
    n = correlations.shape[0]
    rho = float(correlations[1])
    rho = min(rho + (1.0 + 4.0 * rho) / n, 0.99)
    margin = min(MARGIN_PER_RATE * p0, _MOST_MARGIN) * ((1.0 - rho * rho) / n) ** 0.5
    rho = min(rho + margin, _STRONGEST)
    return float(1.0 + 2.0 * tail_correlation(rho ** np.arange(1, _LAGS), p0).sum())


def tail_correlation(rho: npt.ArrayLike, p0: float) -> FloatArray:
    """Correlation of two tail indicators when the normal scores beneath them correlate by `rho`.

    c(ρ) = [P(Z₁ > z, Z₂ > z) − p0²] / (p0·(1−p0)) with P(Z > z) = p0; the joint probability through Owen's T.

    Args:
        rho: any shape, −1 ≤ ρ ≤ 1.
        p0: probability of the tail.

    Returns:
        Same shape.

    >>> [round(float(one), 4) + 0.0 for one in tail_correlation([0.0, 1.0], 0.05)]
    [0.0, 1.0]
    """
    rho = np.clip(np.asarray(rho, dtype=np.float64), -0.999999, 1.0)
    z = special.ndtri(1.0 - p0)
    joint = p0 - 2.0 * special.owens_t(z, np.sqrt((1.0 - rho) / (1.0 + rho)))
    return np.asarray((joint - p0 * p0) / (p0 * (1.0 - p0)), dtype=np.float64)


def autocorrelations(series: FloatArray) -> FloatArray | None:
    """Autocorrelations at lag 0 … n−1 (biased: divided by n, so that the sequence dies out); None when constant.

    Args:
        series: shape (n,).

    Returns:
        Shape (n,), first 1.

    >>> [round(float(one), 3) for one in autocorrelations(np.array([1.0, -1.0, 1.0, -1.0]))]
    [1.0, -0.75, 0.5, -0.25]
    """
    n = series.shape[0]
    centred = series - series.mean()
    size = fft.next_fast_len(2 * n, real=True)
    spectrum = fft.rfft(centred, size)
    covariances = fft.irfft(spectrum.real**2 + spectrum.imag**2, size)[:n]
    if covariances[0] <= _nothing(series):
        return None
    return np.asarray(covariances / covariances[0], dtype=np.float64)


def residual_inflation(residuals: FloatArray) -> float:
    """How much the variance of a fitted slope grows by correlation of the residuals: AR(1)'s, or Geyer's where larger.

    A fit takes correlation out of its residuals: r₁ is too low by about (1 + 4·r₁)/m (Kendall 1954), which is added.

    Args:
        residuals: shape (m,), in the order of time.

    Returns:
        At least 1.

    >>> residual_inflation(np.where(np.arange(40) % 2, 1.0, -1.0))
    1.0
    """
    correlations = autocorrelations(residuals)
    if correlations is None:
        return 1.0
    m = residuals.shape[0]
    first = float(correlations[1])
    r1 = min(max(first + (1.0 + 4.0 * max(0.0, first)) / m, 0.0), 0.9)
    pairs = correlations[: 2 * (m // 2)].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0.0)
    initial: FloatArray = np.minimum.accumulate(pairs[: ends[0]] if ends.size else pairs)
    geyer = float(2.0 * initial.sum() - 1.0) if initial.size else 1.0
    return float(max(1.0, (1.0 + r1) / (1.0 - r1), geyer))


def _nothing(series: FloatArray) -> float:
    """A sum of squares that is no more than this is the rounding of a constant series."""
    largest = float(np.abs(series).max())
    return float(1e-12 * max(1.0, largest * largest) * series.shape[0])


def _ranks(series: FloatArray) -> FloatArray:
    """Ranks from 1, ties sharing their mean: `scipy.stats.rankdata` without its overhead, which is most of its time.

    >>> _ranks(np.array([30.0, 10.0, 20.0, 10.0])).tolist()
    [4.0, 1.5, 3.0, 1.5]
    """
    order = np.argsort(series, kind="stable")
    ordered = series[order]
    new = np.concatenate(([True], ordered[1:] != ordered[:-1]))
    edges = np.append(np.flatnonzero(new), series.shape[0])
    ranks = np.empty(series.shape[0])
    ranks[order] = (0.5 * (edges[:-1] + edges[1:] + 1.0))[np.cumsum(new) - 1]
    return ranks


def _initial_pairs(correlations: FloatArray) -> FloatArray:
    """Γ_m = ρ_2m + ρ_2m+1 up to the first that is not positive (Geyer's initial positive sequence)."""
    even = correlations[: 2 * (correlations.shape[0] // 2)]
    pairs = even[0::2] + even[1::2]
    ends = np.flatnonzero(pairs <= 0.0)
    return pairs[: ends[0]] if ends.size else pairs
