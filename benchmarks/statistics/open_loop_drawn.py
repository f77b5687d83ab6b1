"""The gate on response times at a rate, on scenarios that nobody chose: each is drawn at random, and used once.

Services are those of the latency gate, with a correlation of 0, 0.5 or 0.8, and stalls on top. Drawn are: the
load (0.1 … 0.95), how long a stall is in the median (20 ms … 1 s, evenly in its logarithm), how its length is
distributed (all alike, exponential, Pareto of index 2), how often one comes (one in 50 … 10 000 inferences),
and whether by chance or in a cycle (with a jitter of a tenth). Every gate asks whether the p95 is within the
true one (of a million responses) over r. At r = 1 each PASS and each FAIL is wrong; at r = 0.5 a PASS is right
and at 1.5 a FAIL. The gate knows of stalls of 250 ms, or twice the budget if that is more.

Three kinds are told apart, because no gate can know what it has not seen: scenarios whose stalls are nearly all within
what the gate was told; those where more than 1 % of the stalls are longer; and these again, with a gate that was told
the length that 99 % of the stalls keep.

    python benchmarks/statistics/open_loop_drawn.py [--json] [--quick] [--repetitions 400]
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench
import numpy as np
import numpy.typing as npt
from open_loop import LONGEST, P0, gate, responses
from support.samples import latencies_ms

from pytest_edgehil.gates.latency import STALL_NS
from pytest_edgehil.gates.stats.sequential import Decision

Array = npt.NDArray[np.float64]
SEED = 20261121
RATIOS = (0.5, 1.0, 1.5)
KINDS = ("stalls within what the gate was told", "longer stalls than it was told", "the same, told of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Args: rho: of services. load: mean service over the interval. every: inferences between two stalls on average."""

    rho: float
    load: float
    stall_ms: float
    law: str
    every: float
    cyclic: bool

    def services(self, rng: np.random.Generator, n: int) -> Array:
        """Shape (n,), ms."""
        found = latencies_ms(rng, n, rho=self.rho)
        if self.cyclic:
            gaps = self.every * (1.0 + 0.1 * rng.standard_normal(int(1.5 * n / self.every) + 10))
            at = np.cumsum(np.maximum(gaps, 1.0)) - rng.random() * self.every
            at = np.unique(at[(at >= 0) & (at < n)].astype(np.int64))
        else:
            at = np.flatnonzero(rng.random(n) < 1.0 / self.every)
        found[at] += self.stall_ms * self.lengths(rng, at.shape[0])
        return found

    def lengths(self, rng: np.random.Generator, n: int) -> Array:
        """Stalls in units of their median."""
        if self.law == "exponential":
            return np.asarray(rng.exponential(1.0 / np.log(2.0), n))
        return np.asarray((1.0 - rng.random(n)) ** -0.5 / np.sqrt(2.0) if self.law == "Pareto" else np.ones(n))


def drawn(rng: np.random.Generator) -> Scenario:
    """One scenario."""
    return Scenario(
        rho=float(rng.choice([0.0, 0.5, 0.8])),
        load=float(rng.uniform(0.1, 0.95)),
        stall_ms=float(np.exp(rng.uniform(np.log(20.0), np.log(1000.0)))),
        law=str(rng.choice(["alike", "exponential", "Pareto"])),
        every=float(np.exp(rng.uniform(np.log(50.0), np.log(10_000.0)))),
        cyclic=bool(rng.random() < 0.5),
    )


def simulated(repetitions: int, *, reference: int = 1_000_000) -> dict[tuple[str, float], Counter[str]]:
    """(Kind of scenario, r) → how often PASS, FAIL and INCONCLUSIVE."""
    found = {(kind, ratio): Counter[str]() for ratio in RATIOS for kind in KINDS}
    names = {Decision.BELOW: "PASS", Decision.ABOVE: "FAIL", Decision.OPEN: "INCONCLUSIVE"}
    for number in range(repetitions):
        rng = np.random.default_rng([SEED, number])
        scenario = drawn(rng)
        long = scenario.services(rng, reference)
        interval = float(long.mean()) / scenario.load
        p95 = float(np.quantile(responses(long, interval), 1 - P0))
        sample = scenario.services(rng, LONGEST)
        longest = scenario.stall_ms * float(np.quantile(scenario.lengths(rng, 100_000), 0.99))
        for ratio in RATIOS:
            budget = p95 / ratio
            told = max(STALL_NS / 1e6, 2 * budget)
            said, _ = gate(sample, interval, budget, clusters=True)
            found[KINDS[0 if longest <= told else 1], ratio][names[said]] += 1
            if longest > told:
                said, _ = gate(sample, interval, budget, clusters=True, stall=longest)
                found[KINDS[2], ratio][names[said]] += 1
    return found


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    arguments = parser.parse_args()
    repetitions = 20 if arguments.quick else arguments.repetitions
    found = simulated(repetitions)
    shares = {key: {name: of[name] / max(1, of.total()) for name in ("PASS", "FAIL")} for key, of in found.items()}
    within, beyond = (shares[kind, 1.0]["PASS"] for kind in KINDS[:2])
    figure = bench.Figure(
        name="false PASS of a p95 response on scenarios drawn at random, stalls within what was told",
        value=within,
        unit="share",
        peer="longer stalls than the gate was told",
        peer_value=beyond,
        ratio=within / beyond if beyond else 1.0,
        also={
            "repetitions": repetitions,
            "cells": [{"kind": kind, "r": ratio, **dict(of)} for (kind, ratio), of in found.items()],
        },
    )
    lines = [f"{repetitions} scenarios drawn at random, one sample each", ""]
    lines += [f"{'r':3}  {'':40}{'scenarios':>10}{'PASS':>8}{'FAIL':>8}"]
    for (kind, ratio), of in found.items():
        share = shares[kind, ratio]
        lines.append(f"{ratio:3}  {kind:40}{of.total():>10}{share['PASS']:8.3f}{share['FAIL']:8.3f}")
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
