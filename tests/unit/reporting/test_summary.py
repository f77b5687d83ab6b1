from __future__ import annotations

import re
from dataclasses import replace

from support import records as make

from pytest_edgehil.reporting.summary import markdown


def everything() -> str:
    return markdown(make.farm_run(), quarantined=make.QUARANTINED, not_run=make.NOT_RUN)


def cells(row: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_the_headline_counts_verdicts_boards_and_gaps() -> None:
    headline = everything().split("\n\n")[1]
    assert (
        headline
        == "❌ FAIL 2 · ⚠️ INVALID 1 · ❔ INCONCLUSIVE 1 · ✅ PASS 7 · on 3 boards · 1 quarantined · **1 not run**"
    )


def test_failures_stand_before_the_fold_and_passes_behind_it() -> None:
    before, behind = everything().split("<details>", 1)
    assert before.count("| ❌ FAIL |") == 2
    assert "✅ PASS |" not in before
    assert behind.split("</details>")[0].count("| ✅ PASS |") == 7


def test_every_row_has_as_many_cells_as_the_head() -> None:
    rows = [line for line in everything().splitlines() if line.startswith("|")]
    assert {len(cells(row)) for row in rows} == {9}


def test_a_row_holds_the_numbers_with_units() -> None:
    row = next(line for line in everything().splitlines() if "16.2 ms" in line)
    assert cells(row)[1:6] == ["p95\\_latency", "16.2 ms", "≤ 12 ms", "15.6–17 ms", "480"]


def test_text_from_tests_cannot_break_out_of_the_table() -> None:
    nasty = replace(make.failed(), nodeid="t.py::test[a|b]", message="<img src=x> `code` | pipe")
    rows = [line for line in markdown([nasty], quarantined={}, not_run=()).splitlines() if line.startswith("| ❌")]
    assert all(cells(row)[-1] == "test\\[a\\|b\\]" for row in rows)
    broken = replace(make.infrastructure(), message="<img src=x>\n\n# heading")
    assert "&lt;img src=x&gt; \\# heading" in markdown([broken], quarantined={}, not_run=())


def test_infrastructure_errors_put_back_attempts_quarantine_and_gaps_are_told() -> None:
    shown = everything()
    assert "**infrastructure** test\\_nobody\\_left: no board of class pi5-4gb is left" in shown
    assert "**Put back, because the board broke or was lost**" in shown
    assert "- `pi5-04`: link to pi5-04 broke" in shown
    assert "- `suites/models/test_digits.py::test_never`" in shown
    assert "pi5-02, pi5-03 are virtual" in shown


def test_a_large_run_stays_below_the_limit_of_a_step_summary() -> None:
    many = [replace(make.failed(), nodeid=f"t.py::test_{i}", message="m" * 5000) for i in range(3000)]
    shown = markdown(many, quarantined={}, not_run=[f"t.py::n{i}" for i in range(3000)])
    assert len(shown.encode()) < 1_000_000
    assert "more: see results.json" in shown


def test_a_run_without_gates_says_so() -> None:
    assert "no gate was judged · on 0 boards" in markdown([], quarantined={}, not_run=())
