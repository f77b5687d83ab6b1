"""How near to the lower bound the schedulers come: ours and xdist's own, in a simulation that drives the real classes.

Each row is a lab and a suite: boards / tests / combos / soaks of an hour. Tests are lognormal around 20 s, a flash
takes 30 s. A figure is makespan / lower bound, the worst of the seeds; the collection is grouped by combo, or shuffled.
The columns of our scheduler: with the durations of an earlier run, known within a spread of 0.25 (or 1.0) of their
logarithm; without any (`new`), and without any where no test tells anything of another one (`blind`); with two classes
of boards; with a tenth of the boards dying. The bound knows everything; whom nothing tells how long a test takes cannot
keep the longest from beginning last. So beside `blind` stands `lottery`: what is reached on average when tests begin in
random order, no board ever waits and no flash takes any time. xdist's schedulers know nothing of durations, combos or
classes, so they have one column each.

For other suites: --boards, --tests, --combos, --soaks, --spread, --flash.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
from simulation import Outcome, simulate
from workloads import FLASH_S, Workload, drawn, dying, known, unrelated

ROWS = (
    (8, 1000, 10, 4),
    (32, 1000, 10, 8),
    (128, 20_000, 50, 64),
    (500, 20_000, 50, 200),
    (32, 2000, 50, 0),
    (500, 20_000, 50, 0),
)
PEERS = ("load", "worksteal", "loadgroup")
LOTTERY = "lottery"
DRAWS = 5
BOUNDS = {"known": 1.05, "new": 1.2, "poorly known": None, "blind": None, "two classes": None, "dying": None}
MOST_CPU_S = 5.0


@dataclass(slots=True)
class Cell:
    """The worst of the seeds."""

    ratio: float = 0.0
    flashes: int = 0
    cpu_s: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, workload: Workload, outcome: Outcome) -> None:
        """One more seed."""
        self.ratio = max(self.ratio, outcome.makespan_s / outcome.bound_s(workload))
        self.flashes = max(self.flashes, outcome.flashes)
        self.cpu_s = max(self.cpu_s, outcome.cpu_s)
        twice = sum(count != 1 for count in outcome.ran)
        if twice:
            self.wrong.append(f"{twice} tests were not run exactly once")

    def refuse_misplaced(self, outcome: Outcome) -> None:
        """For a scheduler that knows boards."""
        if outcome.misplaced:
            self.wrong.append(f"{outcome.misplaced} tests ran on boards that are not fit for them")


def cases(make: Callable[..., Workload], seed: int) -> dict[str, Workload]:
    """What our scheduler is tried with."""
    plain, classes = make(seed=seed), make(seed=seed, classes=2)
    return {
        "known": known(plain, sigma=0.25, seed=seed),
        "new": plain,
        "poorly known": known(plain, sigma=1.0, seed=seed),
        "blind": unrelated(plain),
        "two classes": known(classes, sigma=0.25, seed=seed),
        "dying": dying(known(plain, sigma=0.25, seed=seed), part=0.1, seed=seed),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A lab and a suite."""

    numbers: tuple[int, int, int, int]
    shuffled: bool
    spread: float
    flash_s: float
    seeds: int
    peers: bool

    @property
    def name(self) -> str:
        """In the table."""
        return "/".join(map(str, self.numbers)) + (" shuffled" if self.shuffled else " grouped")

    def workload(self, *, seed: int, classes: int = 1) -> Workload:
        """One of those that are tried."""
        boards, tests, combos, soaks = self.numbers
        return drawn(
            boards=boards,
            tests=tests,
            combos=combos,
            soaks=soaks,
            seed=seed,
            classes=classes,
            shuffled=self.shuffled,
            spread=self.spread,
            flash_s=self.flash_s,
        )


def cells_of(row: Row) -> dict[str, Cell]:
    """All columns of one row. xdist's schedulers run once: they are no better with another seed."""
    make = row.workload
    cells: dict[str, Cell] = {}
    for seed in range(row.seeds):
        for name, workload in cases(make, seed).items():
            outcome = simulate(workload, "affine")
            cell = cells.setdefault(name, Cell())
            cell.add(workload, outcome)
            cell.refuse_misplaced(outcome)
        lottery = cells.setdefault(LOTTERY, Cell())
        lottery.ratio = max(lottery.ratio, in_random_order(make(seed=seed), seed=seed))
        for peer in PEERS if row.peers and not seed else ():
            workload = make(seed=seed)
            cells.setdefault(peer, Cell()).add(workload, simulate(workload, peer))
    return cells


def in_random_order(workload: Workload, *, seed: int) -> float:
    """Makespan / lower bound of tests in random order (soaks, which say how long they take, first) without flashes."""
    draw = random.Random(f"lottery {seed}")
    soaks = [one.took_s for one in workload.tests if one.soak]
    others = [one.took_s for one in workload.tests if not one.soak]
    ends = []
    for _ in range(DRAWS):
        draw.shuffle(others)
        busy = [0.0] * len(workload.boards)
        for took_s in (*soaks, *others):
            heapq.heapreplace(busy, busy[0] + took_s)
        ends.append(max(busy))
    return sum(ends) / len(ends) / workload.bound_s


def main() -> int:
    """Simulates."""
    parser = bench.parser(__doc__)
    parser.add_argument("--seeds", type=int, help="runs of each case (default: 3; with --quick 1)")
    parser.add_argument("--no-peers", action="store_true", help="leave out xdist's own schedulers")
    parser.add_argument("--jobs", type=int, help="rows at a time (default: as many as there are CPUs)")
    one = parser.add_argument_group("another suite than those of the table")
    one.add_argument("--boards", type=int, default=32)
    one.add_argument("--tests", type=int)
    one.add_argument("--combos", type=int, default=10)
    one.add_argument("--soaks", type=int, default=0)
    one.add_argument("--spread", type=float, default=1.0, help="of the logarithm of the durations (default: 1)")
    one.add_argument("--flash", type=float, default=FLASH_S, metavar="SECONDS")
    arguments = parser.parse_args()
    seeds = arguments.seeds or (1 if arguments.quick else 3)
    rows = ROWS[:2] + ROWS[4:5] if arguments.quick else ROWS
    if arguments.tests is not None:
        rows = ((arguments.boards, arguments.tests, arguments.combos, arguments.soaks),)
    table, ours, peer, failed, most_cpu_s = _heads(arguments), 0.0, 0.0, [], 0.0
    tried = [
        Row(
            numbers=numbers,
            shuffled=shuffled,
            spread=arguments.spread,
            flash_s=arguments.flash,
            seeds=seeds,
            peers=not arguments.no_peers,
        )
        for numbers in rows
        for shuffled in (False, True)
    ]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for row, cells in zip(tried, pool.map(cells_of, tried), strict=True):
            table.append(f"{row.name:26}" + "".join(f"{cell.ratio:>14.2f}" for cell in cells.values()))
            ours = max(ours, cells["known"].ratio)
            peer = max(peer, min((cells[one].ratio for one in PEERS if one in cells), default=0.0))
            most_cpu_s = max(most_cpu_s, *(cells[one].cpu_s for one in BOUNDS))
            failed += _refused(row.name, cells, judged=arguments.tests is None)
    table += ["", f"most CPU time that the choice and the simulation around it took in one run: {most_cpu_s:.1f} s"]
    table += [f"NOT KEPT: {one}" for one in failed]
    figure = bench.Figure(
        name="makespan / lower bound, worst row, durations known",
        value=ours,
        unit="ratio",
        peer="the best of xdist's schedulers",
        peer_value=peer or ours,
        also={"most_cpu_s": bench.rounded(most_cpu_s), "not_kept": failed, "load": os.getloadavg()[0]},
    )
    return bench.publish(arguments, figure, table) or bool(failed)


def _heads(arguments: argparse.Namespace) -> list[str]:
    names = [*BOUNDS, LOTTERY, *(() if arguments.no_peers else PEERS)]
    return [f"{'boards/tests/combos/soaks':26}" + "".join(f"{name:>14}" for name in names)]


def _refused(name: str, cells: dict[str, Cell], *, judged: bool) -> list[str]:
    told = [f"{name}, {column}: {wrong}" for column, cell in cells.items() for wrong in cell.wrong]
    for column, bound in BOUNDS.items() if judged else ():
        if bound is not None and cells[column].ratio > bound:
            told.append(f"{name}, {column}: {cells[column].ratio:.3f} instead of {bound} at most")
        if cells[column].cpu_s > MOST_CPU_S:
            told.append(f"{name}, {column}: {cells[column].cpu_s:.1f} s of CPU time instead of {MOST_CPU_S:g} at most")
    return told


if __name__ == "__main__":
    raise SystemExit(main())
