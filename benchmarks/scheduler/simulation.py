"""A discrete-event simulation in which the real scheduler classes give out tests to workers that only pretend.

The workers keep xdist's rules: a test begins when its worker knows the next one, or knows that there is none; a stolen
test must not have been looked at yet. A board flashes when its combo is another one than that of the test.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from workloads import SOAK_S, Workload
from xdist.remote import Producer
from xdist.scheduler import LoadGroupScheduling, LoadScheduling, WorkStealingScheduling

from pytest_edgehil.plugin.scheduler import AffineScheduler, Agenda
from pytest_edgehil.plugin.scheduling.task import NO_BOARD, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a simulated run went.

    Args:
        makespan_s: when the last test ended.
        flashes: on all boards together.
        ran: how often each test was run to its end.
        cpu_s: what the scheduler itself used.
        misplaced: tests that ran on a board that is not fit for them.
        began_s: when each test began.
        lost: tests that a dying board took with it, and when; each had to begin again then, which nobody could foresee.
    """

    makespan_s: float
    flashes: int
    ran: tuple[int, ...]
    cpu_s: float
    misplaced: int
    began_s: tuple[float, ...]
    lost: tuple[tuple[int, float], ...]

    def bound_s(self, workload: Workload) -> float:
        """The workload's lower bound, given what was lost."""
        again = (at_s + workload.flash_s + workload.tests[index].took_s for index, at_s in self.lost)
        return max([workload.bound_s, *again])


class _Config:
    """As much of pytest's configuration as schedulers ask for."""

    def __init__(self, workers: int) -> None:
        self.option = SimpleNamespace(loadscopereorder=True, debug=False)
        self.hook = SimpleNamespace(pytest_collectreport=lambda report: None)  # noqa: ARG005
        self._values = {"tx": ["popen"] * workers, "maxschedchunk": None}

    def getvalue(self, name: str) -> Any:
        return self._values[name]

    getoption = getvalue


class _Node:
    """A worker."""

    def __init__(self, at: int, board: int | None, run: _Simulation) -> None:
        self.at = at
        self.board = board
        self.gateway = SimpleNamespace(id=f"gw{at}")
        self.shutting_down = False
        self.queue: deque[int] = deque()
        self.running: int | None = None
        self.next: int | None = None
        self.combo = ""
        self.gone = False
        self._run = run

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.queue.extend(indices)
        self._run.wake(self)

    def send_steal(self, indices: Sequence[int]) -> None:
        wanted = set(indices)
        stolen = [one for one in self.queue if one in wanted]
        if len(stolen) < len(wanted):
            stolen = []
        self.queue = deque(one for one in self.queue if one not in set(stolen))
        self._run.later(0.0, lambda: self._run.scheduler.remove_pending_tests_from_node(self, stolen))

    def shutdown(self) -> None:
        self.shutting_down = True
        self._run.wake(self)


class _Boards:
    """Which worker has which board: as many of both."""

    def __init__(self, run: _Simulation) -> None:
        self._run = run

    def open(self, workers: Sequence[str], wanted: object) -> None: ...

    def board(self, worker: str) -> str | None:
        board = self._run.nodes[int(worker[2:])].board
        return None if board is None else str(board)

    def move(self, worker: str, wanted: object) -> None: ...

    def use(self, worker: str, board: str | None) -> None: ...

    def insist(self, worker: str, nodeid: str) -> None: ...

    def leave(self, worker: str) -> None: ...


class _Simulation:
    def __init__(self, workload: Workload, make: Callable[[_Config, _Simulation], Any]) -> None:
        self.workload = workload
        self.now = 0.0
        self.cpu_s = 0.0
        self.flashes = 0
        self.misplaced = 0
        self.ran = [0] * len(workload.tests)
        self.began_s = [-1.0] * len(workload.tests)
        self.last_s = 0.0
        self.lost: list[tuple[int, float]] = []
        self.nodes = [_Node(at, at, self) for at in range(len(workload.boards))]
        self._fits = {test.need: workload.fits(test.need) for test in workload.tests}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._finished = False
        self.scheduler = make(_Config(len(self.nodes)), self)
        self._affine = isinstance(self.scheduler, AffineScheduler)

    def later(self, after_s: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + after_s, self._count, call))

    def wake(self, node: _Node) -> None:
        if node.running is None and not node.gone:
            self.later(0.0, lambda: self._go(node))

    def _go(self, node: _Node) -> None:
        if node.running is not None or node.gone:
            return
        if node.next is None and node.queue:
            node.next = node.queue.popleft()
        if node.next is None:
            if node.shutting_down:
                node.gone = True
            return
        if not node.queue and not node.shutting_down:
            return
        node.running, node.next = node.next, (node.queue.popleft() if node.queue else None)
        self._start(node, node.running)

    def _start(self, node: _Node, index: int) -> None:
        test = self.workload.tests[index]
        flash_s = 0.0
        fit = node.board in self._fits[test.need] or test.need == "none" or not self._fits[test.need]
        if test.combo not in ("", node.combo) and self._fits[test.need]:
            flash_s, node.combo = self.workload.flash_s, test.combo
            self.flashes += 1
        if node.board is None and test.need != "none":
            self.later(0.0, lambda: self._hand_back(node, index))
            return
        took_s = flash_s + (test.took_s if self._fits[test.need] or test.need == "none" else 0.0)
        dies_s = self.workload.dies_at_s.get(node.at)
        if dies_s is not None and self.now + took_s >= dies_s and self._affine:
            self.later(max(0.0, dies_s - self.now), lambda: self._die(node, index))
            return
        self.misplaced += not fit
        self.began_s[index] = self.now
        self.later(took_s, lambda: self._end(node, index, took_s, flash_s))

    def _end(self, node: _Node, index: int, took_s: float, flash_s: float) -> None:
        self.ran[index] += 1
        self.last_s = self.now
        if self._affine:
            self.scheduler.flashed(self.workload.tests[index].nodeid, flash_s)
        self._complete(node, index, took_s)

    def _die(self, node: _Node, index: int) -> None:
        board, node.board = str(node.board), None
        self.lost.append((index, self.now))
        nodeid = self.workload.tests[index].nodeid
        self.scheduler.given_back(nodeid, without=board)
        self.scheduler.has_board(node.gateway.id, None)
        self._complete(node, index, 0.0)

    def _hand_back(self, node: _Node, index: int) -> None:
        self.scheduler.given_back(self.workload.tests[index].nodeid, without=None)
        self._complete(node, index, 0.0)

    def _complete(self, node: _Node, index: int, took_s: float) -> None:
        node.running = None
        self.scheduler.mark_test_complete(node, index, took_s)
        self._go(node)

    def run(self) -> Outcome:
        began = time.process_time()
        ids = [test.nodeid for test in self.workload.tests]
        for node in self.nodes:
            self.scheduler.add_node(node)
        for node in self.nodes:
            self.scheduler.add_node_collection(node, ids)
        self.scheduler.schedule()
        while self._events:
            self.now, _, call = heapq.heappop(self._events)
            call()
            if self.scheduler.tests_finished and not self._finished:
                self._finished = True
                for node in self.nodes:
                    node.shutdown()
        return Outcome(
            makespan_s=self.last_s,
            flashes=self.flashes,
            ran=tuple(self.ran),
            cpu_s=time.process_time() - began,
            misplaced=self.misplaced,
            began_s=tuple(self.began_s),
            lost=tuple(self.lost),
        )


def _affine(config: _Config, run: _Simulation) -> AffineScheduler:
    workload = run.workload
    tasks = [
        Task(
            index=at,
            combo=test.combo,
            need=NO_BOARD if test.need == "none" else test.need,
            family=test.family,
            expected_s=expected_s,
            at_least_s=SOAK_S if test.soak else 0.0,
        )
        for at, (test, expected_s) in enumerate(zip(workload.tests, workload.expected_s, strict=True))
    ]
    fits = {
        need: frozenset(map(str, workload.fits(need))) for need in {test.need for test in workload.tests} - {"none"}
    }
    informed = any(one is not None for one in workload.expected_s)
    combos = {test.combo for test in workload.tests} - {""}
    agenda = Agenda(tasks=tasks, fits=fits, flash_s=dict.fromkeys(combos, workload.flash_s) if informed else {})
    return AffineScheduler(
        config,  # type: ignore[arg-type]
        agenda=lambda _: agenda,
        seating=_Boards(run),
        clock=lambda: run.now,
    )


def _quiet(make: Callable[..., Any]) -> Callable[[Any, _Simulation], Any]:
    """Those of xdist, without their log."""
    return lambda config, _: make(config, Producer("", enabled=False))


SCHEDULERS: dict[str, Callable[[Any, _Simulation], Any]] = {
    "affine": _affine,
    "load": _quiet(LoadScheduling),
    "worksteal": _quiet(WorkStealingScheduling),
    "loadgroup": _quiet(LoadGroupScheduling),
}


def simulate(workload: Workload, scheduler: str) -> Outcome:
    """Run a workload under a scheduler."""
    return _Simulation(workload, SCHEDULERS[scheduler]).run()
