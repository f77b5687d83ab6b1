"""What the simulation schedules: rows of tests, combos, soaks and boards, and the least time that each can take.

A workload's tests have real durations, and what a scheduler is told of them: their durations with an error (an earlier
run), or nothing. Everything is drawn from a seed.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

FLASH_S = 30.0
SOAK_S = 3600.0
MEDIAN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One test.

    Args:
        took_s: how long it really takes, without the flash.
        need: class of board, or ``any``; ``none`` needs no board.
    """

    __test__ = False

    nodeid: str
    combo: str
    took_s: float
    family: str = ""
    need: str = "any"
    soak: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """See above.

    Args:
        boards: class of each.
        tests: in the order in which they are collected.
        expected_s: what the scheduler is told of each, or None.
        dies_at_s: board → when it dies.
    """

    name: str
    boards: tuple[str, ...]
    tests: tuple[Test, ...]
    expected_s: tuple[float | None, ...]
    flash_s: float = FLASH_S
    dies_at_s: dict[int, float] = field(default_factory=dict)

    def fits(self, need: str) -> frozenset[int]:
        """The boards that a test may run on."""
        return frozenset(at for at, cls in enumerate(self.boards) if need in ("any", "none", cls))

    @property
    def bound_s(self) -> float:
        """Nobody can be faster, not even who knows everything.

        For every kind of board: what only those can do, shared evenly, each flashed once and each combo flashed once;
        and the longest test after its flash. Boards that die do no work afterwards.
        """
        work: dict[str, float] = defaultdict(float)
        combos: dict[str, set[str]] = defaultdict(set)
        longest_s = 0.0
        for test in self.tests:
            fits = self.fits(test.need)
            if not fits:
                continue
            work[test.need] += test.took_s
            combos[test.need].add(test.combo)
            longest_s = max(longest_s, test.took_s + self.flash_s * bool(test.combo))
        bound_s = longest_s
        for need in work:
            fits = self.fits(need)
            within = [one for one in work if self.fits(one) <= fits]
            total_s = sum(work[one] for one in within)
            flashed = set().union(*(combos[one] for one in within)) - {""}
            flashes = max(len(fits), len(flashed)) if flashed else 0
            bound_s = max(bound_s, self._drained_s(fits, total_s + flashes * self.flash_s))
        return bound_s

    def _drained_s(self, fits: frozenset[int], work_s: float) -> float:
        """When boards of which some die have done so much work together."""
        ends = sorted(self.dies_at_s[one] for one in fits if one in self.dies_at_s)
        alive, now, left_s = len(fits), 0.0, work_s
        for end_s in ends:
            if left_s <= alive * (end_s - now):
                break
            left_s -= alive * (end_s - now)
            alive, now = alive - 1, end_s
        return now + left_s / alive if alive else math.inf


def drawn(
    *,
    boards: int,
    tests: int,
    combos: int,
    soaks: int = 0,
    seed: int = 0,
    spread: float = 1.0,
    shuffled: bool = False,
    classes: int = 1,
    name: str = "",
    flash_s: float = FLASH_S,
) -> Workload:
    """Tests of a few functions, each run with every combo, and soaks of an hour.

    Durations are lognormal with the median of 20 s. Of their spread (in the logarithm), 0.9 belongs to the function,
    which is slow or quick with all combos, and the rest to the test. Some combos have more tests than others.

    Args:
        spread: standard deviation of the logarithm of the durations.
        shuffled: the collection is in random order, and not grouped by combo.
        classes: 2: a third of the tests ask for the class that a half of the boards have.
    """
    draw = random.Random(f"{seed} {boards} {tests} {combos} {soaks}")
    functions = max(1, tests // combos)
    weights = [math.exp(draw.gauss(0.0, 0.6)) for _ in range(combos)]
    of_function = [draw.gauss(0.0, 0.9 * spread) for _ in range(functions)]
    own = spread * math.sqrt(1.0 - 0.9**2)
    made: list[Test] = []
    for number, combo in enumerate(draw.choices(range(combos), weights, k=tests)):
        function = number % functions
        need = "a" if classes > 1 and draw.random() < 1 / 3 else "any"
        took_s = MEDIAN_S * math.exp(of_function[function] + draw.gauss(0.0, own))
        made.append(
            Test(
                nodeid=f"test_c{combo}.py::test_f{function}[c{combo}-{number}]@c{combo}",
                combo=f"c{combo}",
                took_s=took_s,
                family=f"f{function}",
                need=need,
            )
        )
    for number in range(soaks):
        combo = draw.randrange(combos)
        made.append(
            Test(
                nodeid=f"test_c{combo}.py::test_soak{number}@c{combo}",
                combo=f"c{combo}",
                took_s=SOAK_S,
                family=f"soak{number}",
                soak=True,
            )
        )
    made.sort(key=lambda one: int(one.combo[1:]))
    if shuffled:
        draw.shuffle(made)
    kinds = tuple("ab"[at % 2] if classes > 1 else "a" for at in range(boards))
    return Workload(
        name=name or f"{boards}/{tests}/{combos}/{soaks}",
        boards=kinds,
        tests=tuple(made),
        expected_s=(None,) * len(made),
        flash_s=flash_s,
    )


def known(workload: Workload, *, sigma: float, seed: int = 0) -> Workload:
    """The same after an earlier run: every duration is known with a lognormal error of this spread."""
    draw = random.Random(f"history {seed}")
    return replace(
        workload,
        expected_s=tuple(test.took_s * math.exp(draw.gauss(0.0, sigma)) for test in workload.tests),
    )


def dying(workload: Workload, *, part: float, seed: int = 0) -> Workload:
    """The same, but such a part of the boards dies, each at a random moment of the least time that the run can take."""
    draw = random.Random(f"dying {seed}")
    victims = draw.sample(range(len(workload.boards)), round(part * len(workload.boards)))
    bound_s = workload.bound_s
    return replace(workload, dies_at_s={victim: draw.uniform(0.0, bound_s) for victim in victims})


def unrelated(workload: Workload) -> Workload:
    """The same, but no test tells anything of another one: every test is a function of its own."""
    return replace(workload, tests=tuple(replace(one, family=one.nodeid) for one in workload.tests))


def of(name: str, boards: Sequence[str], tests: Sequence[Test], *, flash_s: float = FLASH_S) -> Workload:
    """Any other one, of which nothing is known."""
    return Workload(
        name=name, boards=tuple(boards), tests=tuple(tests), expected_s=(None,) * len(tests), flash_s=flash_s
    )
