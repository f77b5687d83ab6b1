"""Samples as a board would have measured them, made up: what gates are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from pytest_edgehil.model import Conditions, Sample, SensorReading

MS = 1_000_000
"""Nanoseconds."""
MIB = 2**20
TRUE_P95_MS = 11.597
"""Of `latencies_ms`, whatever its autocorrelation."""


def conditions(**changes: object) -> Conditions:
    """A board on which nothing went wrong, whose every sensor works, and on which nothing ever comes and goes."""
    known: dict[str, object] = {
        "runtime": "onnxruntime",
        "runtime_version": "1.20.0",
        "page_size_bytes": 16384,
        "clock_cost_ns": 60,
        "throttled_before": 0,
        "throttled_after": 0,
        "boot_id_before": "5f0c9cba-1111",
        "boot_id_after": "5f0c9cba-1111",
        "steady_state_s": 0.0,
    }
    return Conditions(**{**known, **changes})  # type: ignore[arg-type]


def reading(at_s: float, **changes: object) -> SensorReading:
    """One healthy row of the on-board sampler."""
    known: dict[str, object] = {
        "rss_bytes": 100 * MIB,
        "swap_bytes": 0,
        "temperature_c": 50.0 + 0.55 * (int(at_s) % 2),
        "arm_hz": 2_400_000_000 + int(at_s) * 1000,
        "throttled": 0,
    }
    return SensorReading(at_s=at_s, **{**known, **changes})  # type: ignore[arg-type]


def timed(latencies_ns: Sequence[float] | npt.NDArray[np.int64], **changes: object) -> Sample:
    """A sample of back-to-back inferences, with a reading each second."""
    latencies = np.asarray(latencies_ns)
    finite = np.where(np.isfinite(latencies), latencies, 0).astype(np.int64)
    starts = np.cumsum(finite) - finite
    seconds = float(finite.sum()) / 1e9
    known: dict[str, object] = {
        "latencies_ns": latencies,
        "starts_ns": starts,
        "readings": tuple(reading(float(at)) for at in range(int(seconds) + 1)),
        "duration_s": seconds,
        "peak_rss_bytes": 120 * MIB,
        "artifact_size_bytes": 1 * MIB,
        "conditions": conditions(),
    }
    return Sample(**{**known, **changes})  # type: ignore[arg-type]


def latencies_ms(rng: np.random.Generator, n: int, *, rho: float = 0.0) -> npt.NDArray[np.float64]:
    """Latencies with a heavy tail whose logarithms follow an AR(1); p95 is `TRUE_P95_MS` for every rho."""
    shocks = rng.normal(size=n) * np.sqrt(1.0 - rho * rho)
    shocks[0] /= np.sqrt(1.0 - rho * rho)  # starts in its steady state
    z = np.fromiter(accumulate(shocks.tolist(), lambda last, shock: rho * last + shock), dtype=np.float64, count=n)
    stalls = np.where(rng.random(n) < 0.02, 1.2 + 0.5 * rng.pareto(2.0, size=n), 1.0)
    return np.asarray(10.0 * np.exp(0.08 * z) * stalls)


def to_ns(milliseconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Whole nanoseconds."""
    return np.rint(milliseconds * MS).astype(np.int64)


def over_time(
    seconds: int,
    *,
    temperature_c: Callable[[float], float] | None = None,
    rss_bytes: Callable[[float], float] | None = None,
    throttled: Callable[[float], int] | None = None,
    **changes: object,
) -> Sample:
    """A sample that lasted so long, with sensors that follow functions of the time in seconds."""
    rows = []
    for at in range(seconds + 1):
        known: dict[str, object] = {}
        if temperature_c is not None:
            known["temperature_c"] = round(temperature_c(at) / 0.55) * 0.55
        if rss_bytes is not None:
            known["rss_bytes"] = int(rss_bytes(at)) // 16384 * 16384
        if throttled is not None:
            known["throttled"] = throttled(at)
        rows.append(reading(float(at), **known))
    n = max(1, seconds * 10)
    latencies = 10 * MS + (np.arange(n) * 7919 % 1000)
    known_sample: dict[str, object] = {
        "starts_ns": np.arange(n, dtype=np.int64) * 100 * MS,
        "readings": tuple(rows),
        "duration_s": float(seconds),
    }
    return timed(latencies, **{**known_sample, **changes})
