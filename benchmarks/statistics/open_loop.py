"""How often the quantile gate says what of response times at a given rate, where queueing makes clusters.

Services as in `p95_operating_characteristics`: 10 ms·exp(0.08·Z) with AR(1) correlation rho, and one of three
kinds of stalls: 2 % with a light Lomax tail; these and 0.2 % of 200 ms; 1 % exponential with a mean of 40 ms.
Inferences are due evenly; load is the mean service over the interval. r is the true p95 of the responses (of
two million) over the budget. P and F are the shares of PASS and FAIL, n the mean number of inferences and s the
seconds that they take; at most what is due in three minutes. P* and F* are those of at most 1000 without
`stats.queueing`, with the variance inflation alone. A right gate has P of at most 5 % at r = 1. The gate was
made with these scenarios before its author's eyes; those of `open_loop_drawn.py` were not.

    python benchmarks/statistics/open_loop.py [--json] [--quick] [--repetitions 300]
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from support.samples import latencies_ms

from pytest_edgehil.gates.latency import DUE_S, MAX_SAMPLES, STALL_NS
from pytest_edgehil.gates.stats.autocorrelation import variance_inflation
from pytest_edgehil.gates.stats.sequential import Decision, looks, walk
from pytest_edgehil.gates.timings import Timings
from pytest_edgehil.model import Sample

Array = npt.NDArray[np.float64]
P0, ALPHA = 0.05, 0.05
LONGEST = 60_000
Said = tuple[Decision, int]
LOADS = (0.16, 0.3, 0.6, 0.8, 0.9, 0.95)


def light(rng: np.random.Generator, n: int, rho: float) -> Array:
    """The printed scenario of the latency gate."""
    return latencies_ms(rng, n, rho=rho)


def rare(rng: np.random.Generator, n: int, rho: float) -> Array:
    """One inference in 500 stalls for twenty times the mean."""
    found = latencies_ms(rng, n, rho=rho)
    found[rng.random(n) < 0.002] += 200.0
    return found


def exponential(rng: np.random.Generator, n: int, rho: float) -> Array:
    """One inference in a hundred stalls for four times the mean."""
    found = latencies_ms(rng, n, rho=rho)
    stalled = rng.random(n) < 0.01
    found[stalled] += rng.exponential(40.0, int(stalled.sum()))
    return found


def responses(services: Array, interval: float) -> Array:
    """Lindley's recursion without a loop: W_k = max over j ≤ k of (S_j + … + S_k − (k−j)·T)."""
    due = np.arange(services.shape[0]) * interval
    done = np.cumsum(services)
    return np.asarray(done - due - np.minimum.accumulate(done - services - due))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of the verdicts, with the cluster and without."""

    passed: float
    failed: float
    inferences: float
    seconds: float
    plain_passed: float
    plain_failed: float


def gate(services: Array, interval: float, budget: float, *, clusters: bool, stall: float | None = None) -> Said:
    """Our gate on one sample, with or without `stats.queueing`; all in ms.

    Args:
        services: as many as the sample can have at most; the gate stops before.
        interval: one is due every so long.
        budget: limit of the response.
        clusters: with the guard against stalls.
        stall: the longest stall that a PASS must exclude; None: the gate's default.
    """
    most = MAX_SAMPLES if not clusters else max(MAX_SAMPLES, math.ceil(DUE_S * 1e3 / interval))
    services = services[:most]
    values = responses(services, interval)
    stall = max(STALL_NS / 1e6, 2 * budget) if stall is None else stall
    timed = Timings(
        values_ns=values,  # type: ignore[arg-type]
        begun_ns=values,  # type: ignore[arg-type]
        what="response",
        unit="inferences",
        board=Sample.empty(),
        duration_s=0.0,
        services_ns=services,  # type: ignore[arg-type]
        interval_ns=interval,
        stall_ns=stall,
    )
    plain = functools.cache(lambda n: variance_inflation(values[:n], P0))
    decision, look = walk(
        values > budget,
        p0=P0,
        alpha=ALPHA,
        at=looks(services.shape[0], also=MAX_SAMPLES),
        inflation=lambda n: max(plain(n), timed.cluster(n, budget) if clusters else 1.0),
        may_pass=lambda n: (
            timed.outlasts_a_stall(n, budget, inflation=plain(n), p0=P0, alpha=ALPHA)
            if clusters
            else not timed.overloaded(n)
        ),
    )
    assert look is not None
    return decision, look.n


def cell(
    services: Callable[[np.random.Generator, int, float], Array],
    *,
    load: float,
    rho: float,
    ratio: float,
    repetitions: int,
    reference: int = 2_000_000,
) -> Cell:
    """One setting."""
    long = services(np.random.default_rng(1), reference, rho)
    interval = float(long.mean()) / load
    budget = float(np.quantile(responses(long, interval), 1 - P0)) / ratio
    found, plain = [], []
    for seed in range(repetitions):
        sample = services(np.random.default_rng(1000 + seed), LONGEST, rho)
        found.append(gate(sample, interval, budget, clusters=True))
        plain.append(gate(sample, interval, budget, clusters=False))

    def share(of: list[tuple[Decision, int]], what: Decision) -> float:
        return sum(one is what for one, _ in of) / repetitions

    return Cell(
        passed=share(found, Decision.BELOW),
        failed=share(found, Decision.ABOVE),
        inferences=float(np.mean([n for _, n in found])),
        seconds=float(np.mean([n for _, n in found])) * interval / 1e3,
        plain_passed=share(plain, Decision.BELOW),
        plain_failed=share(plain, Decision.ABOVE),
    )


KINDS = (light, rare, exponential)


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=300)
    arguments = parser.parse_args()
    repetitions = 30 if arguments.quick else arguments.repetitions
    settings = [
        (kind, load, rho, ratio)
        for kind in KINDS
        for rho in (0.0, 0.8)
        for load in LOADS
        for ratio in (0.5, 0.7, 1.0, 1.5)
    ]
    cells = {
        (kind.__name__, load, rho, ratio): cell(kind, load=load, rho=rho, ratio=ratio, repetitions=repetitions)
        for kind, load, rho, ratio in settings
    }
    at_boundary = cells["light", 0.9, 0.0, 1.0]
    figure = bench.Figure(
        name="false PASS of a p95 response at a load of 0.9, r = 1",
        value=at_boundary.passed,
        unit="share",
        peer="the same without the drain time of the queue",
        peer_value=at_boundary.plain_passed,
        also={
            "repetitions": repetitions,
            "cells": [
                {"stalls": kind, "load": load, "rho": rho, "r": ratio, "pass": one.passed, "fail": one.failed}
                | {
                    "inferences": one.inferences,
                    "seconds": one.seconds,
                    "plain_pass": one.plain_passed,
                    "plain_fail": one.plain_failed,
                }
                for (kind, load, rho, ratio), one in cells.items()
            ],
        },
    )
    lines = [
        f"{repetitions} samples a line; standard error of a share at 5 %: {(0.05 * 0.95 / repetitions) ** 0.5:.3f}",
        f"{'stalls':12}{'rho':>5}{'load':>6}{'r':>5}{'P':>8}{'F':>8}{'n':>8}{'s':>6}{'P*':>8}{'F*':>8}",
    ]
    lines += [
        f"{kind:12}{rho:5}{load:6}{ratio:5}{one.passed:8.3f}{one.failed:8.3f}{one.inferences:8.0f}{one.seconds:6.0f}"
        f"{one.plain_passed:8.3f}{one.plain_failed:8.3f}"
        for (kind, load, rho, ratio), one in cells.items()
    ]
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
