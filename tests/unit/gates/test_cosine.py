"""`cosine_similarity`: outputs that point the same way as the baseline's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates.cosine import CosineSimilarity
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.model import Demand, Outcome, Sample


def gate(*args: object, **asked: object) -> CosineSimilarity:
    found = parse("cosine_similarity", args or (0.99,), asked, settings=GateSettings())
    assert isinstance(found, CosineSimilarity)
    return found


def cosines(good: int, bad: int, *, of: int | None = None, seed: int = 0) -> Sample:
    values = np.random.default_rng(seed).permutation(np.repeat([0.995, 0.5], [good, bad]))
    return Sample.empty().replace(cosines=values, evaluated_of=of)


def test_outputs_that_point_the_same_way_pass_before_the_set_is_used_up() -> None:
    verdict = gate().evaluate(cosines(300, 0, of=300))
    assert verdict.outcome is Outcome.PASS
    assert verdict.n < 80
    assert (verdict.observed, verdict.budget, verdict.better) == (0.995, 0.99, "higher")
    assert verdict.interval is not None
    assert verdict.interval[0] >= 0.99


def test_outputs_that_often_point_elsewhere_fail_soon() -> None:
    verdict = gate().evaluate(cosines(200, 100, of=300))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.n <= 43
    assert verdict.interval is not None
    assert verdict.interval[1] < 0.99
    assert "would not have failed" in verdict.would_change


def test_a_rate_at_the_limit_stays_open_and_says_what_it_would_take() -> None:
    verdict = gate().evaluate(cosines(282, 18, of=300))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "a larger set" in verdict.would_change
    assert "a projection" in verdict.would_change


def test_exactly_the_budget_is_enough() -> None:
    at_budget = Sample.empty().replace(cosines=np.full(300, 0.99), evaluated_of=300)
    assert gate().evaluate(at_budget).outcome is Outcome.PASS
    below = Sample.empty().replace(cosines=np.full(300, np.nextafter(0.99, 0.0)), evaluated_of=300)
    assert gate().evaluate(below).outcome is Outcome.FAIL


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_without_a_direction_is_as_far_off_as_can_be(value: float) -> None:
    verdict = gate().evaluate(Sample.empty().replace(cosines=np.full(300, value), evaluated_of=300))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.statistics["no_direction"] == verdict.n


def test_nothing_compared_is_never_a_pass() -> None:
    for sample in (Sample.empty(), Sample.empty().replace(cosines=np.empty(0))):
        verdict = gate().evaluate(sample)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "dut.evaluate" in verdict.would_change


def test_the_demand_ends_with_the_set() -> None:
    assert gate().demand(cosines(40, 3, of=300)) == Demand(evaluations=5)
    assert gate().demand(cosines(280, 20, of=300)) is None


def test_the_items_that_are_needed_are_known_before_anything_runs() -> None:
    assert gate().too_small(59) is None
    assert gate().too_small(58) == (
        "59 items are needed to certify a cosine of at least 0.99 on 95% of them at an error rate of 5%; the set has 58"
    )
    verdict = gate().evaluate(cosines(58, 0, of=58))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "59 items are needed" in verdict.reason
    assert gate().evaluate(cosines(59, 0, of=59)).outcome is Outcome.PASS


def test_the_arguments_say_it_all() -> None:
    one = gate(0.98, share=0.9, baseline="digits-fp32", alpha=0.01)
    assert from_arguments("cosine_similarity", one.arguments()) == one
    for wrong in ((1.5,), ("0.9",), (float("nan"),)):
        with pytest.raises(MarkerError, match="cosine_similarity: least must"):
            gate(*wrong)
    with pytest.raises(MarkerError, match="share must lie between 0 and 1"):
        gate(0.9, share=1.0)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1.0, 1.0), min_size=30, max_size=200),
    least=st.floats(-0.9, 0.99),
    worse=st.floats(0.0, 0.5),
    whole=st.booleans(),
)
def test_less_similar_outputs_never_turn_a_fail_into_a_pass(
    values: list[float], least: float, worse: float, whole: bool
) -> None:
    one = CosineSimilarity(least=least, share=0.9, alpha=0.05)
    sample = Sample.empty().replace(cosines=np.array(values), evaluated_of=len(values) if whole else None)
    lower = sample.replace(cosines=np.array(values) - worse)
    if one.evaluate(sample).outcome is Outcome.FAIL:
        assert one.evaluate(lower).outcome is Outcome.FAIL
    if one.evaluate(lower).outcome is Outcome.PASS:
        assert one.evaluate(sample).outcome is Outcome.PASS


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1.0, 1.0), min_size=30, max_size=200), least=st.floats(-0.9, 0.99))
def test_the_interval_decides_as_the_verdict_does(values: list[float], least: float) -> None:
    verdict = CosineSimilarity(least=least, share=0.9, alpha=0.05).evaluate(
        Sample.empty().replace(cosines=np.array(values), evaluated_of=len(values))
    )
    assert verdict.interval is not None
    low, high = verdict.interval
    assert low <= high
    if verdict.outcome is Outcome.PASS:
        assert low >= least
    if verdict.outcome is Outcome.FAIL:
        assert high < least


def test_a_false_certificate_is_rare_at_the_limit() -> None:
    """Cosines with exactly 5 % below the budget: at most 5 % of the sets may pass, and at most 5 % fail."""
    rng = np.random.default_rng(5)
    at_the_limit = [np.where(rng.random(300) < 0.05, 0.9, 1.0) for _ in range(200)]
    outcomes = [gate().evaluate(Sample.empty().replace(cosines=one, evaluated_of=300)).outcome for one in at_the_limit]
    assert outcomes.count(Outcome.PASS) / 200 < 0.05 + 3 * 0.0155
    assert outcomes.count(Outcome.FAIL) / 200 < 0.05 + 3 * 0.0155


def test_a_cosine_beyond_1_is_none() -> None:
    values = np.full(300, 0.995)
    values[7] = 2.0
    assert gate().evaluate(Sample.empty().replace(cosines=values, evaluated_of=300)).outcome is Outcome.INVALID
    values[7] = 1.0 + 1e-7
    assert gate().evaluate(Sample.empty().replace(cosines=values, evaluated_of=300)).outcome is Outcome.PASS
