"""How often the gates on what a meter reads, and on the rate of tokens, say what, at and around their limit.

The gates themselves on whole samples: a reading each second for five minutes, 160 generations. r is the true value over
the limit, turned round where more is better: a right gate has P and F of at most 5 % at r = 1, P at 0.9 and F at 1.1. P
and F are the shares of PASS and FAIL, n the mean number of readings or generations.

- *energy*: inferences of 50 ms (10 % spread, correlation 0.5) under a power of 6 W that is steady (7 % spread,
  correlation 0.8 from second to second), comes in bursts (10 % of the time, 10 s each, 1.5 times the power), or jumps
  between two levels that last a minute on average.
- *npu_utilisation*: 70 % with the same three kinds, cut off at 0 and 100 %.
- *tokens_per_second*: generations of 16 to 64 tokens, 25 ms each; tokens of one generation share a speed (5 % spread),
  2 % of them stall for four times as long; or the board is 30 % slower for 10 generations, 10 % of the time.

    python benchmarks/statistics/meters.py [--json] [--quick] [--repetitions 400]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import signal
from support.samples import conditions, reading, timed, to_ns

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Outcome, Sample
from pytest_edgehil.model.series import Generations

Array = npt.NDArray[np.float64]
SECONDS, GENERATIONS = 300, 160
RATIOS = (0.9, 1.0, 1.1)
POWER_W, LATENCY_MS, USED, TOKEN_MS = 6.0, 50.0, 0.7, 25.0
SLOWER, SLOW_SHARE, SLOW_RUN = 1.3, 0.1, 10


def ar1(rng: np.random.Generator, n: int, rho: float) -> Array:
    """Standard normal numbers, each like the one before."""
    shocks = rng.standard_normal(n) * np.sqrt(1.0 - rho * rho)
    shocks[0] /= np.sqrt(1.0 - rho * rho)
    return np.asarray(signal.lfilter([1.0], [1.0, -rho], shocks))


def runs(rng: np.random.Generator, n: int, share: float, length: float) -> npt.NDArray[np.bool_]:
    """Shape (n,): True for so large a share of the time, in runs of this mean length; a Markov chain."""
    leave, enter = 1.0 / length, share / (1.0 - share) / length
    inside, found = rng.random() < share, np.empty(n, dtype=bool)
    for at, drawn in enumerate(rng.random(n)):
        inside = drawn >= leave if inside else drawn < enter
        found[at] = inside
    return found


def steady(rng: np.random.Generator, n: int) -> Array:
    """Around 1."""
    return np.asarray(1.0 + 0.07 * ar1(rng, n, 0.8))


def bursts(rng: np.random.Generator, n: int) -> Array:
    """1.5 times as much for 10 % of the time, in runs of 10; 1 on average."""
    return np.asarray(steady(rng, n) * np.where(runs(rng, n, 0.1, 10.0), 1.5, 1.0) / 1.05)


def levels(rng: np.random.Generator, n: int) -> Array:
    """Two levels that last for a minute; 1 on average."""
    return np.asarray(steady(rng, n) * np.where(runs(rng, n, 0.5, 60.0), 1.1, 0.9))


METERED = (steady, bursts, levels)


def metered(rng: np.random.Generator, kind: Callable[[np.random.Generator, int], Array]) -> Sample:
    """Five minutes of inferences on a board that reports power and utilisation."""
    count = int(1.02 * SECONDS * 1e3 / LATENCY_MS)
    latencies = to_ns(LATENCY_MS * (1.0 + 0.1 * ar1(rng, count, 0.5)))
    relative = kind(rng, SECONDS)
    readings = tuple(
        reading(at + 0.5, power_w=POWER_W * one, npu_percent=float(np.clip(100.0 * USED * one, 0.0, 100.0)))
        for at, one in enumerate(relative.tolist())
    )
    return timed(latencies, readings=readings)


def generating(rng: np.random.Generator, *, regimes: bool) -> Sample:
    """Generations whose tokens share a speed."""
    tokens = rng.integers(16, 65, GENERATIONS)
    pace = TOKEN_MS * np.exp(0.05 * ar1(rng, GENERATIONS, 0.3) - 0.00125)
    stalls = rng.binomial(tokens - 1, 0.02) * 3.0
    took = pace * (tokens - 1 + stalls)
    if regimes:
        took *= np.where(runs(rng, GENERATIONS, SLOW_SHARE, SLOW_RUN), SLOWER, 1.0)
    first = to_ns(np.full(GENERATIONS, 200.0))
    total = first + to_ns(took)
    return Sample.empty().replace(
        conditions=conditions(),
        generations=Generations(
            starts_ns=np.cumsum(total) - total,
            prompt_tokens=np.full(GENERATIONS, 8),
            new_tokens=tokens,
            first_token_ns=first,
            total_ns=total,
        ),
    )


def token_rate_hz(*, regimes: bool) -> float:
    """The true rate: tokens over time, on average."""
    slow = 1.0 + SLOW_SHARE * (SLOWER - 1.0) if regimes else 1.0
    return 1e3 / (TOKEN_MS * 1.06 * slow)


def used(kind: Callable[[np.random.Generator, int], Array]) -> float:
    """The true mean utilisation, which the cut at 100 % moves."""
    found = np.clip(USED * kind(np.random.default_rng(0), 400_000), 0.0, 1.0)
    return float(found.mean())


def gate(name: str, *args: object, **kwargs: object) -> Gate:
    """As a marker declares it."""
    return parse(name, args, kwargs, settings=GateSettings())


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of PASS and FAIL, and the mean number of observations to the verdict."""

    passed: float
    failed: float
    n: float

    def __str__(self) -> str:
        """P/F n."""
        return f"{self.passed:.3f}/{self.failed:.3f} {self.n:4.0f}"


def cell(judge: Gate, samples: list[Sample]) -> Cell:
    """One setting."""
    found = [judge.evaluate(one) for one in samples]
    return Cell(
        passed=sum(one.outcome is Outcome.PASS for one in found) / len(found),
        failed=sum(one.outcome is Outcome.FAIL for one in found) / len(found),
        n=float(np.mean([one.n for one in found])),
    )


def table(repetitions: int) -> dict[tuple[str, str, float], Cell]:
    """(gate, kind, r) → shares."""
    cells = {}
    for number, kind in enumerate(METERED):
        rng = np.random.default_rng([6, number])
        samples = [metered(rng, kind) for _ in range(repetitions)]
        energy_j, share = POWER_W * LATENCY_MS / 1e3, used(kind)
        for ratio in RATIOS:
            cells["energy", kind.__name__, ratio] = cell(gate("energy", f"{energy_j / ratio} J"), samples)
            cells["npu_utilisation", kind.__name__, ratio] = cell(
                gate("npu_utilisation", at_least=share * ratio), samples
            )
    for regimes in (False, True):
        rng = np.random.default_rng([7, regimes])
        samples = [generating(rng, regimes=regimes) for _ in range(repetitions)]
        rate = token_rate_hz(regimes=regimes)
        for ratio in RATIOS:
            name = "regimes" if regimes else "alike"
            cells["tokens_per_second", name, ratio] = cell(gate("tokens_per_second", f"{rate * ratio}/s"), samples)
    return cells


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=400)
    arguments = parser.parse_args()
    repetitions = 20 if arguments.quick else arguments.repetitions
    cells = table(repetitions)
    wrong = {key: one.passed for key, one in cells.items() if key[2] == 1.0}
    ours, worst = wrong["energy", "steady", 1.0], max(wrong.values())
    figure = bench.Figure(
        name="false PASS of an energy at its limit, steady power",
        value=ours,
        unit="share",
        peer="the worst of the gates and kinds here",
        peer_value=worst,
        ratio=ours / worst if worst else 1.0,
        also={
            "repetitions": repetitions,
            "cells": [
                {"gate": name, "kind": kind, "r": ratio, "pass": one.passed, "fail": one.failed, "n": one.n}
                for (name, kind, ratio), one in cells.items()
            ],
        },
    )
    error = (0.05 * 0.95 / repetitions) ** 0.5
    lines = [
        f"P/F and mean n over {repetitions} samples a cell; standard error of a share at 5 %: {error:.3f}",
        f"{'':28}" + "".join(f"{f'r = {one}':>18}" for one in RATIOS),
    ]
    for name, kind in dict.fromkeys((name, kind) for name, kind, _ in cells):
        lines.append(f"{f'{name}, {kind}':28}" + "".join(f"{cells[name, kind, ratio]!s:>18}" for ratio in RATIOS))
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
