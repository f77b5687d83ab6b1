from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support import records as make

from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.verdict import Outcome
from pytest_edgehil.reporting.terminal import Line, summary


def account(records: Sequence[TestRecord], *, width: int = 160, **rest: object) -> list[Line]:
    rest = {"quarantined": {}, "not_run": ()} | rest
    return summary(records, width=width, **rest)  # type: ignore[arg-type]


def text(lines: Sequence[Line]) -> str:
    return "\n".join(line.text for line in lines)


def everything(width: int) -> list[Line]:
    return account(make.farm_run(), width=width, quarantined=make.QUARANTINED, not_run=make.NOT_RUN)


def test_a_run_without_gates_says_nothing() -> None:
    parity = replace(make.passed(), verdicts=())
    assert account([parity]) == []
    assert account([]) == []


def test_a_wide_terminal_shows_every_column() -> None:
    head, *_ = account([make.passed()])
    assert head.text.split() == ["board", "combo", "gate", "observed", "budget", "interval", "n", "verdict", "test"]
    assert head.bold


def test_a_row_holds_the_numbers_with_their_units() -> None:
    row = next(line for line in account([make.passed()]) if "p95_latency" in line.text)
    assert re.split(r"\s{2,}", row.text) == [
        "pi5-01", "edge-os 2026.11 + digits 1.0.0 int8-static", "p95_latency", "9.82 ms", "≤ 12 ms", "9.43–10.3 ms",
        "480", "PASS", "test_digits",
    ]  # fmt: skip
    assert row.colour == "green"


def test_the_budget_is_what_is_required_also_where_it_was_missed() -> None:
    rows = [line.text for line in account([make.failed()]) if line.text.startswith("pi5")]
    assert [re.split(r"\s{2,}", row)[3:5] for row in rows if "FAIL" in row] == [
        ["81.2 %", "≥ 98 %"],
        ["16.2 ms", "≤ 12 ms"],
    ]


def test_failures_come_before_everything_that_passed() -> None:
    lines = account([make.passed(), make.inconclusive(), make.failed()])
    outcomes = [
        match[0] for line in lines if (match := re.search(r"\b(PASS|FAIL|INCONCLUSIVE)  ", line.text)) is not None
    ]
    assert [one.strip() for one in outcomes] == ["FAIL", "FAIL", "INCONCLUSIVE", "PASS", "PASS", "PASS", "PASS"]


@pytest.mark.parametrize("width", [60, 64, 72, 80, 100, 120, 200])
def test_no_line_is_longer_than_the_terminal(width: int) -> None:
    assert [line.text for line in everything(width) if len(line.text) > width] == []


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_decides_is_there_at_every_width(width: int) -> None:
    shown = text(everything(width))
    for needed in ("pi5-02", "p95_latency", "16.2 ms", "12 ms", "FAIL", "INCONCLUSIVE", "INVALID"):
        assert needed in shown


def test_eighty_columns_wrap_the_combo_and_drop_what_is_needed_least() -> None:
    head = everything(80)[0].text.split()
    assert head == ["board", "combo", "gate", "observed", "budget", "verdict"]
    assert "int8-coarse" in text(account([make.failed()], width=80))


def test_every_verdict_that_is_not_pass_gets_its_reason() -> None:
    record = make.failed()
    shown = text(account([record], verbose=False))
    missed = [one for one in record.verdicts if one.outcome is not Outcome.PASS]
    assert len(missed) == 2
    for one in missed:
        assert f"FAIL test_coarse on pi5-02: {one.gate}: {one.reason}" in shown
        assert "figures: observed" in shown
    assert record.verdicts[2].reason not in shown
    assert record.verdicts[2].reason in text(account([record], verbose=True))


def test_what_would_change_a_missed_verdict_stands_below_it() -> None:
    verdict = replace(make.latency(Outcome.FAIL, observed_ms=16.2), would_change="a faster model")
    shown = text(account([replace(make.failed(), verdicts=(verdict,))], verbose=False))
    assert shown.index(verdict.reason) < shown.index("figures: ") < shown.index("would change it: a faster model")


def test_where_hundreds_are_missed_only_the_first_are_explained_in_full() -> None:
    many = [replace(make.failed(), nodeid=f"t.py::test_{i}", verdicts=(make.latency(Outcome.FAIL),)) for i in range(99)]
    shown = text(account(many, verbose=False))
    assert shown.count("FAIL test_") == 99
    assert shown.count("figures: ") == 30


def test_an_assertion_that_failed_beside_passing_gates_is_told() -> None:
    record = replace(make.passed(), status=Status.FAILED, message="assert 3 == 4")
    assert "FAILED test_digits on pi5-01: assert 3 == 4" in text(account([record]))


def test_an_assertion_that_failed_beside_an_undecided_gate_is_told_too() -> None:
    record = replace(make.inconclusive(), status=Status.FAILED, message="assert 3 == 4")
    shown = text(account([record]))
    assert "FAILED test_close_call on pi5-03: assert 3 == 4" in shown
    assert "INCONCLUSIVE test_close_call" in shown


def test_broken_infrastructure_is_told_without_a_verdict() -> None:
    shown = text(account([make.infrastructure(), make.passed()]))
    assert "INFRASTRUCTURE test_nobody_left: no board of class pi5-4gb is left" in shown


def test_a_put_back_attempt_is_told_with_where_the_test_ended() -> None:
    shown = text(account([make.put_back(), make.passed(3, test="test_survives", attempt=2)]))
    assert "test_survives on pi5-04: link to pi5-04 broke" in shown
    assert "then passed on pi5-03" in shown


def test_a_put_back_attempt_that_never_ran_again_is_told_as_that() -> None:
    assert "and never ran again" in text(account([make.put_back()]))


def test_quarantined_boards_and_what_did_not_run_are_told() -> None:
    shown = text(account([], quarantined={"pi5-04": "no answer"}, not_run=["t.py::a", "t.py::b"]))
    assert "pi5-04: no answer" in shown
    assert "NOT RUN: 2 collected tests without a result" in shown
    assert "t.py::b" in shown
    assert shown.endswith("1 quarantined · 2 not run")


def test_many_passes_are_cut_short_but_never_a_failure() -> None:
    lines = account([*(make.passed(test=f"test_{i}") for i in range(40)), make.failed()])
    assert any(line.text == "… and 81 more verdicts PASS" for line in lines)
    assert sum(" FAIL " in line.text for line in lines) == 2


def test_what_was_not_checked_is_said_once() -> None:
    shown = text(account([make.passed(1), make.passed(2, test="test_other")]))
    assert shown.count("not checked by p95_latency: autocorrelation of the latencies") == 1


def test_a_quiet_account_says_that_there_is_more() -> None:
    lines = summary([make.passed()], quarantined={}, not_run=[], width=100, verbose=False)
    shown = "\n".join(line.text for line in lines)
    assert "not checked by" not in shown
    assert "did not check is listed with -v" in shown


def test_virtual_boards_are_called_virtual() -> None:
    assert "pi5-01 is virtual" in text(account([make.passed()]))


def test_the_last_line_counts_and_is_green_only_if_all_is_well() -> None:
    assert account([make.passed()])[-1] == Line(text="verdicts: 3 PASS · 1 board", bold=True, colour="green")
    assert account([make.passed(), make.inconclusive()])[-1].colour == "yellow"
    assert account([make.passed(), make.failed()])[-1].colour == "red"
    assert account([make.passed()], not_run=["t.py::a"])[-1].colour == "red"


def test_a_reason_of_several_lines_stays_within_its_sentence() -> None:
    record = replace(make.infrastructure(), message="first\nsecond\r\nthird")
    assert "first second third" in text(account([record]))


def test_a_number_is_not_torn_from_its_unit() -> None:
    for width in range(60, 140):
        assert not any(re.match(r"\s*(%|ms)\b", line.text) for line in everything(width))


def test_markup_is_what_a_terminal_writer_takes() -> None:
    assert Line(text="x").markup == {}
    assert Line(text="x", bold=True, colour="red").markup == {"bold": True, "red": True}


def test_a_board_is_not_named_twice_in_one_line() -> None:
    reason = "pi5-04: the on-board program was killed by SIGSEGV"
    broken = replace(make.put_back(), message=reason, quarantined=reason)
    shown = text(account([broken], quarantined={"pi5-04": reason}))
    assert "pi5-04: pi5-04" not in shown
    assert "  pi5-04: the on-board program was killed by SIGSEGV" in shown
    assert "test_survives on pi5-04: the on-board program was killed" in shown
