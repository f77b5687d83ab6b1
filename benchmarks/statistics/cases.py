"""Latencies to try the gates on: scores with any correlation, carried over to any distribution, quantiles known.

A *case* draws positive numbers whose (1 − p0) quantile is exactly 1: times any budget, they are latencies of a model
that is exactly at that budget. Both PASS and FAIL are then errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from scipy import signal, special, stats

FloatArray = npt.NDArray[np.float64]
Scores = Callable[[np.random.Generator, int], FloatArray]
Case = Callable[[np.random.Generator, int, float], FloatArray]
"""(generator, n, p0) → shape (n,), relative to the budget."""


def autoregression(rho: float) -> Scores:
    """Standard normal scores, AR(1), in their steady state from the first on."""

    def draw(rng: np.random.Generator, n: int) -> FloatArray:
        shocks = rng.normal(size=n) * np.sqrt(1.0 - rho * rho)
        shocks[0] /= np.sqrt(1.0 - rho * rho)
        return np.asarray(signal.lfilter([1.0], [1.0, -rho], shocks))

    return draw


def moving_average(width: int) -> Scores:
    """Standard normal scores: means of so many neighbours."""

    def draw(rng: np.random.Generator, n: int) -> FloatArray:
        shocks = rng.normal(size=n + width - 1)
        return np.asarray(np.convolve(shocks, np.ones(width) / np.sqrt(width), "valid"))

    return draw


def lognormal(scores: Scores, spread: float = 0.08) -> Case:
    """Scores as logarithms."""
    return lambda rng, n, p0: np.exp(spread * (scores(rng, n) - special.ndtri(1.0 - p0)))


def distributed(scores: Scores, distribution: stats.rv_continuous) -> Case:
    """Scores carried over to a (frozen, positive) distribution."""

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        return np.asarray(distribution.isf(special.ndtr(-scores(rng, n))) / distribution.isf(p0))

    return draw


def coarse(case: Case, tick: float) -> Case:
    """A clock that only knows multiples of a tick: ties, also at the budget. What exceeded it still does."""
    return lambda rng, n, p0: np.ceil(case(rng, n, p0) / tick - 1e-9) * tick


def two_modes(scores: Scores) -> Case:
    """Two modes, the slow one for twice the share that may exceed; its own median is the budget."""

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        slow = rng.random(n) < 2.0 * p0
        wobble = np.exp(0.02 * scores(rng, n))
        return np.where(slow, wobble, 0.6 * np.minimum(wobble, 1.2))

    return draw


def changing_spread(rho: float, strength: float) -> Case:
    """Uncorrelated scores of a spread that comes and goes: only the extremes come in clusters."""
    reference = np.random.default_rng(99)
    marginal = np.exp(strength * reference.normal(size=2_000_000)) * reference.normal(size=2_000_000)
    spread = autoregression(rho)

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        values = np.exp(strength * spread(rng, n)) * rng.normal(size=n)
        return np.asarray(np.exp(0.05 * (values - np.quantile(marginal, 1.0 - p0))))

    return draw


def periodic(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
    """A spike every 1/p0 inferences, at a random phase."""
    values = 0.8 + 0.05 * rng.random(n)
    every = round(1.0 / p0)
    values[rng.integers(every) :: every] = 1.3
    return np.asarray(values + 0.01 * rng.random(n))


def bursts(length: float) -> Case:
    """All slow ones come in stretches of this mean length, and nothing announces them."""

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        slow = np.zeros(n, dtype=bool)
        at, now = 0, bool(rng.random() < p0)
        while at < n:
            stay = int(rng.geometric(1.0 / length if now else p0 / (1.0 - p0) / length))
            slow[at : at + stay] = now
            at, now = at + stay, not now
        return np.asarray(np.where(slow, 1.3, 0.8) + 0.05 * rng.random(n))

    return draw


def leaky_bursts(length: float, slow_share: float) -> Case:
    """Stretches of this mean length in which only so large a share is slow: bursts with gaps in them."""

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        stretches = bursts(length)(rng, n, p0 / slow_share) > 1.0
        return np.asarray(np.where(stretches & (rng.random(n) < slow_share), 1.3, 0.8) + 0.05 * rng.random(n))

    return draw


def square_wave(period: int) -> Case:
    """All slow ones in one block of every period, at a random phase."""

    def draw(rng: np.random.Generator, n: int, p0: float) -> FloatArray:
        phase = (np.arange(n) + rng.integers(period)) % period
        return np.asarray(np.where(phase < p0 * period, 1.3, 0.8) + 0.05 * rng.random(n))

    return draw


ORDINARY: Mapping[str, Case] = MappingProxyType(
    {
        "lognormal, rho 0": lognormal(autoregression(0.0)),
        "lognormal, rho 0.5": lognormal(autoregression(0.5)),
        "lognormal, rho 0.8": lognormal(autoregression(0.8)),
        "lognormal, rho 0.9": lognormal(autoregression(0.9)),
        "lognormal, rho 0.95": lognormal(autoregression(0.95)),
        "lognormal, rho -0.5": lognormal(autoregression(-0.5)),
        "gamma, rho 0.5": distributed(autoregression(0.5), stats.gamma(4.0)),
        "Pareto, rho 0.5": distributed(autoregression(0.5), stats.pareto(1.5)),
        "mean of 10 neighbours": lognormal(moving_average(10)),
        "two modes, rho 0.5": two_modes(autoregression(0.5)),
        "coarse clock, rho 0": coarse(lognormal(autoregression(0.0)), 0.05),
        "coarse clock, rho 0.8": coarse(lognormal(autoregression(0.8)), 0.05),
        "a spike at every 1/p0": periodic,
    }
)
"""What the gate is meant for: correlation that shows in the bulk, any distribution."""

BLIND: Mapping[str, Case] = MappingProxyType(
    {
        "rho -0.9": lognormal(autoregression(-0.9)),
        "spread that comes and goes": changing_spread(0.95, 0.7),
        "bursts of 1.5": bursts(1.5),
        "bursts of 3": bursts(3.0),
        "bursts of 5": bursts(5.0),
        "bursts of 12": bursts(12.0),
        "bursts of 25": bursts(25.0),
        "bursts of 50": bursts(50.0),
        "bursts of 100": bursts(100.0),
        "bursts of 12, half of it slow": leaky_bursts(12.0, 0.5),
        "bursts of 50, half of it slow": leaky_bursts(50.0, 0.5),
        "5 slow of every 100": square_wave(100),
        "25 slow of every 500": square_wave(500),
    }
)
"""Where stopping early is known to err: what comes in bursts of which the rest of the latencies shows no sign."""
