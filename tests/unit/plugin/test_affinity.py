"""The choice of the next test: every test once, on a board that fits, and an end near the bound."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_edgehil.plugin.scheduling.affinity import Affinity
from pytest_edgehil.plugin.scheduling.estimates import FIRST_FLASH_S, FIRST_GUESS_S, Estimates
from pytest_edgehil.plugin.scheduling.task import NO_BOARD, Task

BOARDS = ("b0", "b1", "b2", "b3", "b4")
FITS = {
    "any": frozenset(BOARDS),
    "few": frozenset({"b0", "b1"}),
    "one": frozenset({"b3"}),
    "overlapping": frozenset({"b1", "b2"}),
    "nobody": frozenset(),
}


def choice(tasks: list[Task], *, flash_s: float | None = None) -> Affinity:
    combos = {task.combo for task in tasks} - {""}
    known = {} if flash_s is None else dict.fromkeys(combos, flash_s)
    return Affinity(tasks, fits=FITS, estimates=Estimates(tasks, flash_s=known))


@dataclass
class Run:
    """Workers that keep xdist's rules: two tests at most, and the first begins only when the second is known."""

    tasks: list[Task]
    took_s: list[float]
    boards: list[str | None]
    flash_s: float = 3.0
    breaks: frozenset[int] = frozenset()  # tests that break their board when they are first run
    now: float = 0.0
    ended: list[int] = field(default_factory=list)
    placed: list[tuple[int, str | None]] = field(default_factory=list)
    flashes: int = 0

    def __post_init__(self) -> None:
        self.core = choice(self.tasks, flash_s=self.flash_s)
        self.combos = dict.fromkeys(range(len(self.boards)), "")
        self.events: list[tuple[float, int]] = []
        self.broken: set[int] = set()

    def all(self) -> float:
        for worker, board in enumerate(self.boards):
            self.core.join(worker, board, now=0.0)
        self.feed(range(len(self.boards)))
        for _ in range(20 * len(self.tasks) + 100):
            if not self.events:
                break
            self.now, worker = heapq.heappop(self.events)
            self.end(worker)
        assert not self.events, "it does not come to an end"
        return self.now

    def feed(self, workers) -> None:
        for worker in workers:
            idle = not self.core.hand(worker)
            while self.core.is_open(worker) and len(self.core.hand(worker)) < 2:
                index = self.core.take(worker, now=self.now)
                if index is None:
                    index = self.core.take_unmet(worker, now=self.now)
                if index is None:
                    break
            hand = self.core.hand(worker)
            if len(hand) == 1 and self.core.is_open(worker):
                self.core.close(worker)
            if idle and hand:
                self.begin(worker)

    def begin(self, worker: int) -> None:
        index = self.core.hand(worker)[0]
        flash_s = self.flash_s if self.tasks[index].combo not in ("", self.combos[worker]) else 0.0
        self.flashes += flash_s > 0
        self.combos[worker] = self.tasks[index].combo or self.combos[worker]
        heapq.heappush(self.events, (self.now + flash_s + self.took_s[index], worker))

    def end(self, worker: int) -> None:
        index = self.core.hand(worker)[0]
        board = self.core.board(worker)
        self.placed.append((index, board))
        if index in self.breaks - self.broken and board is not None and self.core.is_open(worker):
            self.broken.add(index)
            self.core.change_board(worker, None, now=self.now)
            self.core.give_back(index, without=board)
            for other in [one for one in self.core.hand(worker) if self.tasks[one].need != NO_BOARD]:
                self.core.give_back(other)
        else:
            self.ended.append(index)
            self.core.finished(worker, index, took_s=self.took_s[index], flash_s=None, now=self.now)
        if self.core.hand(worker):
            self.begin(worker)
        idle = [one for one in range(len(self.boards)) if not self.core.hand(one) and self.core.is_open(one)]
        self.feed(dict.fromkeys([worker, *idle]))


durations = st.floats(0.0, 500.0, allow_nan=False)
drawn_tasks = st.lists(
    st.tuples(
        st.sampled_from(["", "c1", "c2", "c3"]),
        st.sampled_from([NO_BOARD, *FITS]),
        durations,
        st.none() | durations,
        st.sampled_from(["f", "g"]),
    ),
    max_size=40,
)


def tasks_of(drawn) -> tuple[list[Task], list[float]]:
    tasks = [
        Task(index=at, combo="" if need == NO_BOARD else combo, need=need, family=family, expected_s=expected_s)
        for at, (combo, need, _, expected_s, family) in enumerate(drawn)
    ]
    return tasks, [took_s for _, _, took_s, _, _ in drawn]


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=drawn_tasks,
    boards=st.lists(st.sampled_from([*BOARDS, None]), min_size=1, max_size=7),
    breaks=st.frozensets(st.integers(0, 39), max_size=4),
)
def test_every_test_ends_once_and_only_on_a_board_that_fits(drawn, boards, breaks):
    tasks, took_s = tasks_of(drawn)
    run = Run(tasks, took_s, boards, breaks=breaks)
    run.all()
    # boards that break while the others are through leave tests that nobody is there for: xdist starts a worker then
    left = run.core.waiting
    assert Counter(run.ended) == Counter(dict.fromkeys(set(run.ended), 1))
    assert len(run.ended) + left == len(tasks)
    if not breaks:
        assert left == 0
        seated = set(boards)
        for index, board in run.placed:
            need = tasks[index].need
            assert need == NO_BOARD or board in FITS[need] or not FITS[need] & seated


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    took_s=st.lists(st.floats(0.01, 300.0), min_size=1, max_size=60), boards=st.integers(1, 5), combos=st.integers(1, 4)
)
def test_with_known_durations_no_run_is_longer_than_two_bounds_and_a_flash_for_every_combo(took_s, boards, combos):
    """Any list schedule ends within work / boards + the longest test (Graham 1966); a follower may cost one more."""
    tasks = [
        Task(index=at, combo=f"c{at % combos}", need="any", family=f"f{at}", expected_s=one)
        for at, one in enumerate(took_s)
    ]
    run = Run(tasks, took_s, list(BOARDS[:boards]))
    makespan_s = run.all()
    assert makespan_s <= sum(took_s) / boards + 2 * max(took_s) + run.flash_s * (combos + 1) + 1e-6


def test_a_board_stays_on_its_combo_until_nothing_is_left_of_it():
    tasks = [Task(index=at, combo=f"c{at % 3}", need="any", expected_s=1.0) for at in range(30)]
    run = Run(tasks, [1.0] * 30, ["b0"])
    run.all()
    assert run.flashes == 3


@pytest.mark.parametrize(("each_s", "joins"), [(0.5, False), (5.0, True)])
def test_a_second_board_joins_a_combo_only_where_that_saves_more_than_a_flash(each_s, joins):
    core = choice([Task(index=at, combo="c1", need="any", expected_s=each_s) for at in range(6)], flash_s=3.0)
    core.join("w0", "b0", now=0.0)
    core.join("w1", "b1", now=0.0)
    assert core.take("w0", now=0.0) == 0
    assert (core.take("w1", now=0.0) is not None) is joins


def test_the_soak_begins_first_and_what_waits_behind_it_is_tiny():
    tasks = [Task(index=at, combo="c1", need="any", expected_s=10.0 + at) for at in range(20)]
    tasks.append(Task(index=20, combo="c2", need="any", at_least_s=3600.0))
    tasks.append(Task(index=21, combo="c2", need="any", expected_s=0.1))
    core = choice(tasks, flash_s=30.0)
    core.join("w0", "b0", now=0.0)
    core.join("w1", "b1", now=0.0)
    assert core.take("w0", now=0.0) == 20
    assert core.take("w0", now=0.0) in (21, None)
    assert core.take("w1", now=0.0) == 19


def test_boards_that_only_some_tests_can_use_do_those_first_when_there_is_much_of_them():
    tasks = [Task(index=at, combo="c1", need="any", expected_s=10.0) for at in range(40)]
    tasks += [Task(index=40 + at, combo="c2", need="one", expected_s=10.0) for at in range(30)]
    core = choice(tasks, flash_s=1.0)
    for board in BOARDS:
        core.join(board, board, now=0.0)
    assert tasks[core.take("b3", now=0.0)].need == "one"


def test_a_test_that_broke_a_board_is_not_given_to_that_board_again_while_there_is_another():
    tasks = [Task(index=0, combo="c1", need="few", expected_s=1.0)]
    core = choice(tasks)
    core.join("w0", "b0", now=0.0)
    core.join("w1", "b1", now=0.0)
    assert core.take("w0", now=0.0) == 0
    core.give_back(0, without="b0")
    assert core.take("w0", now=1.0) is None
    assert core.take("w1", now=1.0) == 0


def test_a_test_that_no_board_fits_goes_to_whoever_has_nothing_else_to_do():
    tasks = [Task(index=0, combo="c1", need="nobody"), Task(index=1, combo="c1", need="any")]
    core = choice(tasks)
    core.join("w0", "b0", now=0.0)
    assert core.unmet() == ("nobody",)
    assert core.take("w0", now=0.0) == 1
    assert core.take("w0", now=0.0) is None
    assert core.take_unmet("w0", now=0.0) == 0


def test_tests_on_several_boards_begin_first_as_many_at_once_as_there_are_boards_for():
    tasks = [Task(index=at, combo="c1", need="any", expected_s=100.0) for at in range(10)]
    tasks += [Task(index=10 + at, need="few", expected_s=1.0 + at, boards=2) for at in range(3)]
    core = Affinity(tasks, fits={"any": frozenset(BOARDS), "few": frozenset(BOARDS)}, estimates=Estimates(tasks))
    for board in BOARDS:
        core.join(board, board, now=0.0)

    assert [core.take(board, now=0.0) for board in BOARDS] == [12, 11, 0, 1, 2]  # the third would have to wait
    core.finished("b0", 12, took_s=3.0, flash_s=None, now=3.0)
    assert core.take("b0", now=3.0) == 10


def test_a_test_on_more_boards_than_there_are_workers_is_run_all_the_same():
    tasks = [Task(index=0, need="any", expected_s=1.0, boards=3)]
    run = Run(tasks, [1.0], ["b0"])
    run.all()
    assert run.ended == [0]


def test_a_worker_without_a_board_runs_what_needs_none():
    tasks = [Task(index=0, combo="c1", need="any"), Task(index=1)]
    core = choice(tasks)
    core.join("w0", None, now=0.0)
    core.join("w1", "b1", now=0.0)
    assert core.take("w0", now=0.0) == 1
    assert core.take("w0", now=0.0) is None


# --- estimates ------------------------------------------------------------------------------------------------------


def test_what_never_ran_is_expected_to_last_as_long_as_its_family_does():
    tasks = [Task(index=at, family="slow" if at < 3 else "other") for at in range(5)]
    estimates = Estimates(tasks)
    assert estimates.of(1) == FIRST_GUESS_S
    assert estimates.is_blind(1)
    changed = estimates.observe(0, 100.0)
    assert {1, 2, 3, 4} <= set(changed)
    assert estimates.of(1) > 60.0
    assert FIRST_GUESS_S < estimates.of(3) < estimates.of(1) + 1.0
    assert not estimates.is_blind(1)
    assert estimates.is_blind(3)


def test_what_ran_before_is_expected_to_take_as_long_again_but_a_soak_no_less_than_its_marker_says():
    estimates = Estimates([Task(index=0, expected_s=5.0), Task(index=1, expected_s=5.0, at_least_s=60.0)])
    assert (estimates.of(0), estimates.of(1)) == (5.0, 60.0)
    assert estimates.observe(0, 50.0) == []


def with_history(*, spread: float) -> tuple[Estimates, list[float]]:
    """Two hundred tests of ten functions, of which an earlier run knows the durations with an error; and the truth."""
    draw = random.Random(1)
    functions = [draw.gauss(3.0, 0.9) for _ in range(10)]
    took_s = [math.exp(functions[at % 10] + draw.gauss(0.0, 0.4)) for at in range(200)]
    tasks = [
        Task(index=at, family=f"f{at % 10}", expected_s=one * math.exp(draw.gauss(0.0, spread)))
        for at, one in enumerate(took_s)
    ]
    return Estimates(tasks), took_s


def error(estimates: Estimates, took_s: list[float]) -> float:
    """Mean square, in the logarithm."""
    return sum(math.log(estimates.of(at) / one) ** 2 for at, one in enumerate(took_s)) / len(took_s)


def test_a_history_that_proves_wrong_is_believed_less_than_the_function_s_other_tests():
    estimates, took_s = with_history(spread=1.0)
    before = error(estimates, took_s)
    longest_first = sorted(range(200), key=estimates.of, reverse=True)
    told = [len(estimates.observe(at, took_s[at])) for at in longest_first[:16]]
    assert told == [0] * 15 + [200]
    assert error(estimates, took_s) < 0.5 * before


def test_a_history_that_proves_right_is_believed():
    estimates, took_s = with_history(spread=0.02)
    expected = [estimates.of(at) for at in range(200)]
    for at in sorted(range(200), key=estimates.of, reverse=True):
        estimates.observe(at, took_s[at])
    assert [estimates.of(at) for at in range(200)] == pytest.approx(expected, rel=0.05)


def test_flash_costs_are_learned_for_combos_that_were_never_flashed():
    estimates = Estimates([], flash_s={})
    assert estimates.flash_s("c1") == FIRST_FLASH_S
    assert estimates.flash_s("") == 0.0
    for _ in range(20):
        estimates.observe_flash("c1", 40.0)
    assert estimates.flash_s("c2") == pytest.approx(40.0, rel=0.05)


@given(st.data())
@settings(max_examples=40)
def test_changed_expectations_change_the_order(data):
    count = data.draw(st.integers(1, 30))
    tasks = [Task(index=at, combo="c", need="any", family=f"f{at % 4}") for at in range(count)]
    core = choice(tasks)
    core.join("w", "b0", now=0.0)
    taken, now = [], 0.0
    while core.waiting:
        index = core.take("w", now=now)
        assert index is not None
        taken.append(index)
        now += 10.0
        core.finished("w", index, took_s=data.draw(durations), flash_s=None, now=now)
    assert sorted(taken) == list(range(count))


def test_tests_that_flash_nothing_are_shared_by_all_boards():
    core = choice([Task(index=at, need="any", expected_s=1.0) for at in range(12)])
    core.join("w0", "b0", now=0.0)
    core.join("w1", "b1", now=0.0)
    assert [core.take(worker, now=0.0) for worker in ("w0", "w1", "w0", "w1")] == [0, 1, 2, 3]
