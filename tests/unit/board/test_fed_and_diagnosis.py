"""What is remembered to be fed again, and how a failure is made more exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_edgehil.board.diagnosis import CONSOLE_S, WATCHDOG_S, Witnesses
from pytest_edgehil.board.fed import MAX_SINGLE_FEEDS, Fed, signature
from pytest_edgehil.errors import (
    BoardCrashed,
    ConnectFailed,
    DeadlineExceeded,
    DiskFull,
    Fenced,
    LinkLost,
    ModelError,
    ModelTimeout,
    OutOfMemory,
    Overheated,
    PowerError,
    ProtocolError,
)


def x(value: float, *, length: int = 4) -> dict:
    return {"x": np.full((1, length), value, dtype=np.float32)}


def test_single_feeds_of_one_shape_are_one_group_and_copied():
    fed, first = Fed(), x(1)
    fed.add_one(first)
    first["x"][:] = 9
    fed.add_one(x(2))
    fed.add_one(x(3, length=5))
    groups = fed.groups()
    assert [(group.items, group.batched) for group in groups] == [(2, False), (1, False)]
    np.testing.assert_array_equal(groups[0].stacked["x"][:, 0, 0], [1, 2])


def test_a_held_out_set_counts_once_and_is_not_copied():
    fed, inputs = Fed(), {"x": np.zeros((7, 4), np.float32)}
    fed.add_items(inputs)
    fed.add_items(dict(inputs))
    (group,) = fed.groups()
    assert (group.items, group.batched) == (7, True)
    assert group.stacked["x"] is inputs["x"]
    assert group.signature == signature(x(0))


def test_memory_has_an_end():
    fed = Fed()
    for _ in range(MAX_SINGLE_FEEDS + 10):
        fed.add_one(x(0))
    assert fed.groups()[0].items == MAX_SINGLE_FEEDS


# --- diagnosis -----------------------------------------------------------------------------------------


class FakeConsole:
    def __init__(self) -> None:
        self.said = ""

    @property
    def position(self) -> int:
        return len(self.said)

    def text(self, since: int = 0) -> str:
        return self.said[since:]

    def crash_reason(self, since: int = 0) -> str | None:
        return self.said[since:].strip() or None


class FakePower:
    def __init__(self, state: bool | Exception | None) -> None:
        self.state = state

    def is_on(self) -> bool | None:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


class FakeSession:
    """A board that answers or does not."""

    def __init__(self, problem: Exception | None = None) -> None:
        self.client = self
        self.problem = problem

    def status(self, *, timeout_s: float) -> None:
        if self.problem is not None:
            raise self.problem


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def witnesses(console=None, power=None, clock=None) -> Witnesses:
    clock = clock or Clock()
    return Witnesses("pi5-01", console=console, power=power, clock=clock, wait=clock.wait)


ALIVE = FakeSession()
DEAD = FakeSession(LinkLost("nobody there"))


@pytest.mark.parametrize(
    "problem", [LinkLost("cut"), DeadlineExceeded("slow"), ConnectFailed("no"), ProtocolError("?")]
)
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("Kernel panic - not syncing: Attempted to kill init!", BoardCrashed),
        ("Out of memory: Killed process 812 (python3)", OutOfMemory),
        ("thermal thermal_zone0: critical temperature reached (110 C), shutting down", Overheated),
        ("reboot: Restarting system", BoardCrashed),
    ],
)
def test_the_console_says_why_a_link_is_gone(problem, line, error):
    console = FakeConsole()
    told = witnesses(console)
    console.said += line
    found = told.explain(problem, DEAD)
    assert type(found) is error
    assert line in str(found)
    assert str(problem) in str(found)


def test_a_model_that_does_not_answer_is_its_own_fault_unless_the_console_shows_that_the_board_crashed():
    console, problem = FakeConsole(), ModelTimeout("the model did not answer")
    told = witnesses(console)
    assert told.explain(problem, DEAD) is problem, "its session is over, which says nothing about the board"
    console.said += "Kernel panic - not syncing"
    assert type(told.explain(problem, DEAD)) is BoardCrashed


def test_what_the_console_said_before_explains_nothing():
    console = FakeConsole()
    console.said = "reboot: Restarting system"
    told, problem = witnesses(console), LinkLost("cut")
    assert told.explain(problem, DEAD) is problem
    console.said += "Kernel panic"
    told.forget_past()
    assert told.explain(problem, DEAD) is problem


def test_the_console_is_waited_for_but_not_longer_than_is_said():
    console, clock = FakeConsole(), Clock()
    told = witnesses(console, clock=clock)
    problem = LinkLost("cut")
    assert told.explain(problem, DEAD) is problem
    assert CONSOLE_S <= clock.now <= CONSOLE_S + 0.5


def test_of_a_board_that_went_silent_the_watchdog_is_waited_for():
    console, clock = FakeConsole(), Clock()
    told = witnesses(console, clock=clock)
    problem = LinkLost("silent for 10 s")
    problem.__cause__ = DeadlineExceeded("nothing came")
    assert told.explain(problem, DEAD) is problem
    assert WATCHDOG_S <= clock.now <= WATCHDOG_S + 0.5


@pytest.mark.parametrize(
    ("line", "error", "next_step"),
    [
        ("Kernel panic - not syncing: sysrq triggered crash", BoardCrashed, "see its console log"),
        ("Out of memory: Killed process 812 (python3)", OutOfMemory, "'peak_rss'"),
        ("critical temperature reached (110 C), shutting down", Overheated, "check its cooling"),
        ("softdog: Initiating system reboot", BoardCrashed, "its watchdog reset it"),
        ("U-Boot 2023.01+dfsg-2", BoardCrashed, "rebooted by itself and did not say why"),
    ],
)
def test_what_is_told_names_what_happened_and_what_to_do_next(line, error, next_step):
    console = FakeConsole()
    told = witnesses(console)
    console.said += line
    found = told.explain(LinkLost("pi5-01: cut"), DEAD)
    assert type(found) is error
    assert str(found).startswith(f"pi5-01: cut; the console shows: {line}; ")
    assert next_step in str(found)


def test_no_power_is_a_crash():
    assert type(witnesses(power=FakePower(False)).explain(LinkLost("cut"), DEAD)) is BoardCrashed


@pytest.mark.parametrize("state", [True, None, PowerError("no answer")])
def test_a_power_switch_that_does_not_say_off_is_no_witness(state):
    problem = LinkLost("cut")
    assert witnesses(power=FakePower(state)).explain(problem, DEAD) is problem


@pytest.mark.parametrize("problem", [Fenced("token"), DiskFull("full")])
def test_what_is_exact_already_stays(problem):
    console = FakeConsole()
    told = witnesses(console, FakePower(False))
    console.said = "Kernel panic"
    assert told.explain(problem, DEAD) is problem


@pytest.mark.parametrize("problem", [ModelError("died of SIGSEGV"), OutOfMemory("killed")])
def test_a_model_is_blamed_on_a_living_board_only(problem):
    assert witnesses().explain(problem, ALIVE) is problem
    found = witnesses().explain(problem, DEAD)
    assert type(found) is BoardCrashed
    assert "the board itself is gone" in str(found)
    console = FakeConsole()
    told = witnesses(console)
    console.said = "Kernel panic"
    assert "Kernel panic" in str(told.explain(problem, DEAD))


@given(st.text())
def test_any_words_of_a_console_make_a_board_error(line):
    console = FakeConsole()
    told = witnesses(console)
    console.said = line
    assert isinstance(told.explain(LinkLost("cut"), DEAD), (LinkLost, BoardCrashed, OutOfMemory, Overheated))
