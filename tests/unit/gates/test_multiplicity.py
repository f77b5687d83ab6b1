from __future__ import annotations

import doctest
import json

import pytest
from support.stored_runs import gate

from pytest_edgehil.gates import multiplicity
from pytest_edgehil.gates.multiplicity import Declared, ErrorBudget


def declared(*gates: tuple[str, object, float | None]) -> list[Declared]:
    return [Declared(test=test, gate=one, own_alpha=own) for test, one, own in gates]  # type: ignore[arg-type]


P95 = gate("p95_latency", "1 ms")
SOAK = gate("soak", "2 h", leak="5 MiB/h", crash_rate=0.01)
SIZE = gate("size", "1 MiB")


def test_the_examples_hold() -> None:
    failures, examples = doctest.testmod(multiplicity)
    assert (failures, examples > 0) == (0, True)


def test_the_shares_add_up_to_the_suites_rate() -> None:
    budget = ErrorBudget.of(declared(("a", P95, None), ("a", SIZE, None), ("b", SOAK, None)), alpha=0.05, suite=0.06)
    assert (budget.statements, budget.gates, budget.tests) == (3, 2, 2)
    assert budget.alpha * budget.statements == pytest.approx(0.06)
    assert budget.at_most == pytest.approx(0.06)


def test_a_rate_of_a_gates_own_comes_on_top_and_is_named() -> None:
    budget = ErrorBudget.of(declared(("a", P95, None), ("b", SOAK, 0.01)), alpha=0.05, suite=0.04)
    assert budget.alpha == 0.04, "the other one shares with nobody"
    assert budget.at_most == pytest.approx(0.06)
    assert "with an α of its own: soak of b with 0.01: the chance" in budget.told()
    many = ErrorBudget.of(declared(*((f"t{i}", P95, 0.2) for i in range(9))), alpha=0.05, suite=None)
    assert "p95_latency of t2 with 0.2, 6 more: " in many.told()
    assert many.at_most == 1.0
    alone = ErrorBudget.of(declared(("a", P95, 0.02)), alpha=0.05, suite=0.04)
    assert "which no gate shares" in alone.told()


def test_a_run_that_infers_nothing_says_nothing() -> None:
    assert ErrorBudget.of(declared(("a", SIZE, None)), alpha=0.05, suite=0.01).told() == ""
    assert ErrorBudget.of((), alpha=0.05, suite=None).told() == ""


def test_gates_with_several_statements_are_told_apart() -> None:
    told = ErrorBudget.of(declared(("a", SOAK, None)), alpha=0.05, suite=None).told()
    assert told.startswith("α = 0.05 a gate, 1 gate with 2 statements in the 1 selected test: ")
    assert told.endswith("is up to 10%")


def test_it_crosses_from_a_worker_to_the_controller() -> None:
    budget = ErrorBudget.of(declared(("a", P95, None), ("b", SOAK, 0.01)), alpha=0.05, suite=0.04)
    assert ErrorBudget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
