"""How often a comparison with a baseline says what: interleaved pairs, A then B, a stored golden, and the wrong tests.

Latency is simulated: 10 ms·exp(0.08·Z), Z an AR(1) with correlation rho over everything that the board runs, 2 % stalls
with a heavy tail, whole nanoseconds. The candidate's true ratio to the baseline is known; "at most 1.10 times its p95"
is asked. Each cell shows P/F/I (shares of PASS, FAIL, INCONCLUSIVE) and the mean number of pairs of blocks of 50. A
right gate has P of at most 5 % at 1.10 and above, and F of at most 5 % at 1.10 and below.

- *interleaved*: the gate, which looks at 6, 8, 12, 16 and 20 pairs; *Pocock*: the same where all of α is spent by his
  function; *once*: the same test once, at the end.
- *A then B*: all of the baseline first, then the candidate, while the board becomes 15 % slower at a moment drawn at
  random; the candidate is no slower than the baseline.
- *golden*: a stored session of 1000 inferences, where sessions differ by a standard deviation of 3 %; judged with and
  without 2·spread² in the squared standard error.
- *Mann-Whitney, Kolmogorov-Smirnov*: how often they are significant at 5 % where nothing differs, and where the slowest
  6 % alone take 1.2 times as long (which makes the p95 1.2 times as long).

    python benchmarks/statistics/against_baseline.py [--json] [--quick] [--repetitions 1000]
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
from scipy import stats
from support.samples import latencies_ms

from pytest_edgehil.gates.stats.block_ratio import (
    LogRatio,
    critical_values,
    log_quantile,
    looks,
    paired_ratio,
    session_critical,
    session_ratio,
)
from pytest_edgehil.gates.stats.spending import over_reruns, pocock

Q, ALPHA, PAIRS, BLOCK, LIMIT = 0.95, 0.05, 20, 50, 1.10
RATIOS = (1.0, 1.05, 1.10, 1.15)
RHOS = (0.0, 0.5, 0.8)
STEP, SPREAD, TAIL, SLOWEST = 1.15, 0.03, 1.2, 0.06

Blocks = npt.NDArray[np.float64]
Spending = Callable[[npt.ArrayLike, float], Blocks]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of the verdicts and mean pairs of one setting."""

    passed: float
    failed: float
    pairs: float

    def __str__(self) -> str:
        """P/F/I, pairs."""
        return f"{self.passed:.3f}/{self.failed:.3f}/{1 - self.passed - self.failed:.3f} {self.pairs:4.1f}"

    def to_json(self) -> dict[str, float]:
        """For ``--json``."""
        return {"pass": self.passed, "fail": self.failed, "pairs": self.pairs}


def decided(found: LogRatio, critical: float) -> str:
    """What these bounds say of the limit."""
    if found.value + critical * found.error <= math.log(LIMIT):
        return "PASS"
    return "FAIL" if found.value - critical * found.error > math.log(LIMIT) else ""


def judged(
    candidate: Blocks, baseline: Blocks, at: Sequence[int] | None = None, *, spend: Spending = over_reruns
) -> tuple[str, int]:
    """The gate on pairs of blocks: what it says and after how many pairs."""
    at = looks(PAIRS, BLOCK, Q) if at is None else at
    for k, critical in zip(at, critical_values(tuple(at), PAIRS, ALPHA, spend=spend), strict=True):
        said = decided(paired_ratio(candidate[:k], baseline[:k], Q), critical)
        if said:
            return said, k
    return "", at[-1]


def summary(found: Sequence[tuple[str, int]]) -> Cell:
    """Counts of what was decided."""
    counts = Counter(said for said, _ in found)
    return Cell(
        passed=counts["PASS"] / len(found),
        failed=counts["FAIL"] / len(found),
        pairs=float(np.mean([pairs for _, pairs in found])),
    )


def interleaved(
    rng: np.random.Generator, ratio: float, rho: float, speed: Blocks | float = 1.0, *, block: int = BLOCK
) -> tuple[Blocks, Blocks]:
    """Candidate's and baseline's blocks, in random order within each pair, of a board with this speed over time."""
    board = (latencies_ms(rng, 2 * PAIRS * block, rho=rho) * speed).reshape(PAIRS, 2, block)
    first = (rng.random(PAIRS) < 0.5)[:, np.newaxis]
    return ratio * np.where(first, board[:, 0], board[:, 1]), np.where(first, board[:, 1], board[:, 0])


def stepped(rng: np.random.Generator) -> Blocks:
    """A board that becomes slower at a moment drawn at random."""
    n = 2 * PAIRS * BLOCK
    return np.where(np.arange(n) < rng.integers(0, n + 1), 1.0, STEP)


def table(repetitions: int) -> dict[tuple[float, float], tuple[Cell, Cell, Cell]]:
    """(rho, ratio) → (with looks, with looks as Pocock spends, once at the end), all on the same samples."""
    cells = {}
    for rho in RHOS:
        for ratio in RATIOS:
            rng = np.random.default_rng([round(10 * rho), round(100 * ratio)])
            samples = [interleaved(rng, ratio, rho) for _ in range(repetitions)]
            cells[rho, ratio] = (
                summary([judged(*one) for one in samples]),
                summary([judged(*one, spend=pocock) for one in samples]),
                summary([judged(*one, at=(PAIRS,)) for one in samples]),
            )
    return cells


def under_a_step(repetitions: int) -> tuple[Cell, Cell]:
    """(A then B, interleaved) at ratio 1 on a board that becomes slower."""
    rng = np.random.default_rng(15)
    apart, turns = [], []
    for _ in range(repetitions):
        board = latencies_ms(rng, 2 * PAIRS * BLOCK, rho=0.5) * stepped(rng)
        baseline, candidate = board.reshape(2, PAIRS, BLOCK)
        apart.append(judged(candidate, baseline, at=(PAIRS,)))
        turns.append(judged(*interleaved(rng, 1.0, 0.5, stepped(rng))))
    return summary(apart), summary(turns)


def golden(repetitions: int, ratio: float, *, believed: float, rho: float = 0.5) -> Cell:
    """Against a stored session, believing in a spread between sessions; the true one is `SPREAD`."""
    rng = np.random.default_rng([3, round(100 * ratio)])
    found = []
    for _ in range(repetitions):
        then, now = (
            log_quantile(
                (by * math.exp(SPREAD * rng.normal()) * latencies_ms(rng, PAIRS * BLOCK, rho=rho)).reshape(
                    PAIRS, BLOCK
                ),
                Q,
            )
            for by in (1.0, ratio)
        )
        one = session_ratio(now, then, spread=believed)
        found.append((decided(one, session_critical((one,), ALPHA)), PAIRS))
    return summary(found)


def wrong_tests(repetitions: int) -> dict[str, tuple[float, float]]:
    """Name → share of significant results (where nothing differs, where the tail alone does)."""
    rng = np.random.default_rng(8)
    tests: dict[str, Callable[[Blocks, Blocks], float]] = {
        "Mann-Whitney": lambda a, b: float(stats.mannwhitneyu(a, b).pvalue),
        "Kolmogorov-Smirnov": lambda a, b: float(stats.ks_2samp(a, b, method="asymp").pvalue),
    }
    alarms = {name: [0, 0] for name in tests}
    for _ in range(repetitions):
        baseline, alike, other = (latencies_ms(rng, PAIRS * BLOCK, rho=0.5) for _ in range(3))
        tail = np.where(other > np.quantile(other, 1 - SLOWEST), TAIL * other, other)
        for name, p_value in tests.items():
            alarms[name][0] += p_value(alike, baseline) < ALPHA
            alarms[name][1] += p_value(tail, baseline) < ALPHA
    return {name: (alike / repetitions, tail / repetitions) for name, (alike, tail) in alarms.items()}


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=1000)
    arguments = parser.parse_args()
    repetitions = 60 if arguments.quick else arguments.repetitions
    cells = table(repetitions)
    apart, turns = under_a_step(repetitions)
    goldens = {
        (ratio, believed): golden(repetitions, ratio, believed=believed)
        for ratio in (1.0, LIMIT, 1.2)
        for believed in (0.0, SPREAD)
    }
    wrong = wrong_tests(repetitions)
    ours, _, peer = cells[0.5, 1.05]
    figure = bench.Figure(
        name="mean pairs of blocks to a verdict, true ratio 1.05 of 1.10 allowed, rho = 0.5",
        value=ours.pairs,
        unit="pairs",
        peer="the same test once, after 20 pairs",
        peer_value=peer.pairs,
        also={
            "repetitions": repetitions,
            "cells": [
                {"rho": rho, "ratio": ratio, "looks": one.to_json(), "pocock": two.to_json(), "once": other.to_json()}
                for (rho, ratio), (one, two, other) in cells.items()
            ],
            "step": {"a_then_b": apart.to_json(), "interleaved": turns.to_json()},
            "golden": [
                {"ratio": ratio, "believed_spread": believed, **one.to_json()}
                for (ratio, believed), one in goldens.items()
            ],
            "wrong_tests": {name: {"alike": alike, "tail": tail} for name, (alike, tail) in wrong.items()},
        },
    )
    lines = [
        f"P/F/I and mean pairs over {repetitions} samples a cell; a share's standard error is at most",
        f"{0.5 / repetitions**0.5:.3f}, and {(0.05 * 0.95 / repetitions) ** 0.5:.3f} near 5 %\n",
        f"{'true ratio, 1.10 allowed':24}" + "".join(f"{ratio:>24.2f}" for ratio in RATIOS),
    ]
    for rho in RHOS:
        for label, which in ((f"rho {rho}: interleaved", 0), ("  Pocock", 1), ("  once, 20 pairs", 2)):
            lines.append(f"{label:24}" + "".join(f"{cells[rho, ratio][which]!s:>24}" for ratio in RATIOS))
    lines += [
        f"\nboard 15 % slower from a random moment on, true ratio 1.00, rho 0.5: A then B  {apart}",
        f"{'interleaved':>75}  {turns}",
        "\nstored golden, sessions differ by 3 % (P/F/I)",
    ]
    for believed in (0.0, SPREAD):
        told = "   ".join(f"ratio {ratio:.2f}: {goldens[ratio, believed]}" for ratio in (1.0, LIMIT, 1.2))
        lines.append(f"  spread of {believed:.0%} added     {told}")
    lines.append("\nsignificant at 5 % (1000 inferences each, rho 0.5)")
    for name, (alike, tail) in wrong.items():
        lines.append(
            f"  {name:20} nothing differs: {alike:.3f}   the slowest {SLOWEST:.0%} take {TAIL} times: {tail:.3f}"
        )
    return bench.publish(arguments, figure, lines)


if __name__ == "__main__":
    raise SystemExit(main())
