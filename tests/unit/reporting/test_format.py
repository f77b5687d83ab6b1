from __future__ import annotations

import doctest
import math

import pytest
from support import records as make

from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt


def verdict(*, unit: str = "ns", better: str = "lower", **numbers: object) -> Verdict:
    return Verdict(gate="g", outcome=Outcome.PASS, unit=unit, n=1, reason="r", better=better, **numbers)  # type: ignore[arg-type]


def test_its_examples_hold() -> None:
    failures, examples = doctest.testmod(fmt)
    assert examples > 10
    assert failures == 0


@pytest.mark.parametrize(
    ("observed", "budget", "better", "expected"),
    [
        (12.3e6, 15e6, "lower", "12.3 ms ≤ 15 ms"),
        (15e6, 15e6, "lower", "15 ms ≤ 15 ms"),
        (15.3e6, 15e6, "lower", "15.3 ms > 15 ms"),
        (15e6, 15e6, "higher", "15 ms ≥ 15 ms"),
        (12e6, 15e6, "higher", "12 ms < 15 ms"),
    ],
)
def test_the_sign_says_what_the_numbers_say(observed: float, budget: float, better: str, expected: str) -> None:
    assert fmt.comparison(verdict(observed=observed, budget=budget, better=better)) == expected


@pytest.mark.parametrize("excess", [1e-2, 1e-3, 1e-5, 1e-8])
def test_rounding_never_hides_a_missed_budget(excess: float) -> None:
    observed, budget = fmt.observed_and_budget(verdict(observed=12e6 * (1 + excess), budget=12e6))
    assert observed != budget == "12 ms"


def test_an_agreement_just_below_one_is_not_written_as_one() -> None:
    text = fmt.comparison(verdict(unit="fraction", observed=0.99996, budget=1.0, better="higher"))
    assert text == "99.996 % < 100 %"


@pytest.mark.parametrize(("ratio", "told"), [(1.005, "×1.005"), (0.995, "×0.995"), (1.0, "×1"), (1 + 1e-9, "×1")])
def test_a_limit_of_half_a_percent_is_not_written_as_none(ratio: float, told: str) -> None:
    assert fmt.quantity(ratio, "ratio") == told


def test_a_missing_observation_is_a_dash_and_no_comparison() -> None:
    assert fmt.comparison(verdict(budget=15e6)) == "– (budget 15 ms)"
    assert fmt.relation(verdict(observed=math.nan, budget=15e6)) == ""
    assert fmt.comparison(verdict(observed=math.nan, budget=15e6)) == "not a number (budget 15 ms)"


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (None, "–"),
        ((11.2e6, 13.1e6), "11.2–13.1 ms"),
        ((950e3, 1.2e6), "950 µs – 1.2 ms"),
        ((11.2e6, math.inf), "≥ 11.2 ms"),
        ((-math.inf, 13.1e6), "≤ 13.1 ms"),
        ((-math.inf, math.inf), "–"),
        ((12.001e6, 12.002e6), "12.001–12.002 ms"),
    ],
)
def test_intervals_say_their_unit_once_and_never_collapse(bounds: tuple[float, float] | None, expected: str) -> None:
    assert fmt.interval(verdict(interval=bounds)) == expected


def test_the_worst_attempt_comes_first_and_put_back_ones_do_not_count() -> None:
    final = fmt.final_attempts(make.farm_run())
    assert final[0] == make.failed()
    assert final[-1].status == "passed"
    assert not any(one.requeued for one in final)


def test_caveats_name_boards_that_are_no_hardware_and_samples_that_were_not_measured() -> None:
    from dataclasses import replace

    hardware = replace(make.passed(1), board=make.board(1, environment=Environment.HARDWARE))
    virtual = make.passed(2)
    replayed = replace(make.passed(3), board=replace(make.board(3), runtime="replay 1"))

    assert fmt.caveats([hardware]) == ()
    (one,) = fmt.caveats([hardware, virtual])
    assert one.startswith("pi5-02 is virtual")
    assert "the samples of pi5-03 were played back from a recording, not measured" in fmt.caveats([replayed])


def test_parameters_with_colons_stay_in_the_short_name() -> None:
    assert fmt.short_name("a/t.py::test_x[socket://h::1]") == "test_x[socket://h::1]"
