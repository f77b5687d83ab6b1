"""The order of these tests themselves: long ones first, what shares a run in one process, and no list out of date."""

from __future__ import annotations

from pathlib import Path

from support.order import EACH_TEST, LONGEST, place, together

TESTS = Path(__file__).parents[2]
FILES = {str(path.relative_to(TESTS.parent)) for path in TESTS.rglob("test_*.py")}


def test_the_lists_name_files_that_are_there():
    assert EACH_TEST <= FILES
    for start in LONGEST:
        assert any(file.startswith(start.partition("::")[0]) for file in FILES), start


def test_what_looks_at_one_run_stays_together_and_the_other_run_is_another_s():
    faults = "tests/system/test_faults.py::test_a_fault_costs_a_board_not_a_verdict"
    alone, many = (together(f"{faults}[{mode}-link_cut]") for mode in ("alone with SQLite", "n4 with PostgreSQL"))
    assert alone == together(f"{faults}[alone with SQLite-panic]")
    assert many == together("tests/system/test_faults.py::test_faults_cost_nothing_else[n4 with PostgreSQL]")
    assert alone != many


def test_what_is_long_comes_before_what_is_short():
    assert place("tests/system/test_faults.py::test_it") < place("tests/plugin/test_visits.py::test_it")
    assert place("tests/plugin/test_visits.py::test_it") < place("tests/unit/model/test_any.py::test_it")
