"""Progress of a push: drawn over in a terminal, few plain lines elsewhere, nothing for a short one."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from pytest_edgehil.reporting.sending import Teller


@dataclass(frozen=True)
class At:
    sent_bytes: int
    rate_bytes_per_s: float | None = 2**20
    label: str = "digits"
    phase: str = "send"
    total_bytes: int = 60 * 2**20


def told(*, terminal: bool, step_s: float, mib: range) -> str:
    out, now = io.StringIO(), [0.0]
    teller = Teller(out, terminal=terminal, clock=lambda: now[0])
    for at in mib:
        teller(At(at * 2**20))
        now[0] += step_s
    return out.getvalue()


def test_a_short_push_says_nothing_in_a_log():
    assert told(terminal=False, step_s=0.01, mib=range(61)) == ""


def test_a_long_push_says_a_line_now_and_then_and_at_the_end():
    lines = told(terminal=False, step_s=1.0, mib=range(61)).splitlines()
    assert lines[0] == "  digits: 3 %, 2 MiB of 60 MiB, 1 MiB/s, 58 s left"
    assert lines[-1] == "  digits: 100 %, 60 MiB of 60 MiB, 1 MiB/s"
    assert len(lines) == 7
    assert not any("\r" in one for one in lines)


def test_a_terminal_has_one_line_that_is_drawn_over():
    text = told(terminal=True, step_s=1.0, mib=range(61))
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text.count("\r") == 60


@pytest.mark.parametrize("terminal", [True, False])
def test_a_rate_that_is_not_known_is_left_out(terminal):
    out, now = io.StringIO(), [0.0]
    teller = Teller(out, terminal=terminal, clock=lambda: now[0])
    for at in (0, 2**20):
        teller(At(at, rate_bytes_per_s=None))
        now[0] += 20.0
    assert out.getvalue().strip() == "digits: 1 %, 1 MiB of 60 MiB"
