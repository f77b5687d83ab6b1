"""A push that takes long is told where the run is watched: also from a worker, live on a terminal, plainly in a log."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter
from support.farm import Farm

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.plugin.progress import Printing, TellingOfSending


def sending(percent: int, *, label: str = "digits 1.0.0", phase: str = "send") -> Any:
    return SimpleNamespace(
        label=label, phase=phase, sent_bytes=percent * 1000, total_bytes=100_000, rate_bytes_per_s=5000.0
    )


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Item:
    """As much of a test as is told of."""

    nodeid, name, location = "test_a.py::test_a", "test_a", ("test_a.py", 1, "test_a")

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []
        self.ihook = self

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports.append(report)


def told(steps: list[tuple[float, Any]]) -> list[pytest.TestReport]:
    item, clock = Item(), Clock()
    telling = TellingOfSending(item, SimpleNamespace(holding=SimpleNamespace(id="b1")), clock=clock)  # type: ignore[arg-type]
    for clock.now_s, one in steps:
        telling.look(one)
    return item.reports


def printed(reports: list[pytest.TestReport], monkeypatch: pytest.MonkeyPatch, *, live: bool, every_s: float) -> str:
    out = io.StringIO()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "__stdout__", SimpleNamespace(isatty=lambda: live))
    terminal = object.__new__(TerminalReporter)
    from _pytest._io import TerminalWriter

    terminal._tw = TerminalWriter(out)
    terminal.currentfspath = None
    found = {"terminalreporter": terminal}
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=found.get))
    clock = Clock()
    printing = Printing(config, every_s=None, clock=clock)  # type: ignore[arg-type]
    for report in reports:
        printing.pytest_runtest_logreport(report)
        clock.now_s += every_s
    return out.getvalue()


def test_what_is_short_is_not_told():
    assert told([(0.0, sending(0)), (1.0, sending(50)), (1.9, sending(100))]) == []


def test_what_is_long_is_told_now_and_then_and_at_its_end_with_test_and_board():
    reports = told([(number / 10, sending(number)) for number in range(101)])
    texts = [str(one.edgehil_progress) for one in reports]  # type: ignore[attr-defined]
    assert texts[0] == "test_a on b1: digits 1.0.0: 20 %, 19.5 KiB of 97.7 KiB, 4.88 KiB/s, 16 s left"
    assert texts[-1] == "test_a on b1: digits 1.0.0: 100 %, 97.7 KiB of 97.7 KiB, 4.88 KiB/s"
    assert len(texts) == 17
    assert [one.edgehil_sending for one in reports[-2:]] == ["more", "last"]  # type: ignore[attr-defined]


def test_each_artifact_and_each_phase_has_its_own_quiet_beginning():
    assert told([(0.0, sending(0)), (3.0, sending(5, label="notes")), (6.0, sending(9, phase="write"))]) == []
    (one,) = told([(0.0, sending(0, phase="verify")), (3.0, sending(5, phase="verify"))])
    assert "reading its slot back: 5 %" in one.edgehil_progress


def test_a_log_gets_a_line_every_ten_seconds_and_the_last(monkeypatch: pytest.MonkeyPatch):
    reports = told([(number / 2, sending(number)) for number in range(101)])
    text = printed(reports, monkeypatch, live=False, every_s=0.5)
    assert "\r" not in text
    assert re.findall(r"digits 1\.0\.0: (\d+) %", text) == ["4", "24", "44", "64", "84", "100"]


def test_a_terminal_gets_one_line_that_is_drawn_over_and_left_at_the_end(monkeypatch: pytest.MonkeyPatch):
    text = printed(told([(number / 2, sending(number)) for number in range(101)]), monkeypatch, live=True, every_s=0.5)
    assert text.count("\r") == 97
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert max(map(len, text.split("\r"))) <= 60


def test_a_limit_holds_and_a_worker_tells_how_far_it_is(farm: Farm):
    """At the limit it takes 5 s, which is longer than what is not told."""
    farm.boards(1)
    size = read(next(farm.artifacts.glob("digits-*"))).size_bytes
    farm.pytester.makepyfile(
        f"""
        def test_slow(dut):
            assert dut.flashed.sent_bytes >= {size}
        """
    )
    ran = farm.run("-n1", "--edgehil-model=digits", f"--edgehil-push-limit={size // 5} B/s", "--edgehil-delta=never")
    ran.assert_outcomes(passed=1)
    assert re.search(r"edgehil: test_slow on b1: digits 1\.0\.0 fp32: \d+ %, .* of ", ran.stdout.str())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--edgehil-push-limit=10 MB", "--edgehil-push-limit: '10 MB' is no bandwidth; expected for example '10 MB/s'"),
        ("--edgehil-push-limit=0 MB/s", "--edgehil-push-limit: '0 MB/s' is no bandwidth"),
        ("--edgehil-delta=maybe", "--edgehil-delta: invalid choice: 'maybe'"),
    ],
)
def test_a_wrong_option_is_one_line(pytester: pytest.Pytester, option: str, said: str):
    ran = pytester.runpytest_inprocess(option)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines([f"*{said}*"])
