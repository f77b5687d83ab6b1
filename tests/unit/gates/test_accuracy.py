from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_edgehil.gates.accuracy import Accuracy
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Demand, Outcome, Sample


def gate(**asked: object) -> Accuracy:
    found = parse("accuracy", (), asked, settings=GateSettings())
    assert isinstance(found, Accuracy)
    return found


def agreeing(good: int, bad: int, *, of: int | None = None, seed: int = 0) -> Sample:
    values = np.random.default_rng(seed).permutation(np.repeat([True, False], [good, bad]))
    return Sample.empty().replace(agreed=values, evaluated_of=of)


def labelled(n: int, *, lost: int, gained: int, seed: int = 0) -> Sample:
    order = np.random.default_rng(seed).permutation(n)
    baseline, model = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    model[order[:lost]] = False
    baseline[order[lost : lost + gained]] = False
    return Sample.empty().replace(correct=model, baseline_correct=baseline, agreed=model == baseline, evaluated_of=n)


def test_agreement_is_certified_before_the_set_is_used_up() -> None:
    verdict = gate(agreement=0.98).evaluate(agreeing(500, 0, of=500))
    assert verdict.outcome is Outcome.PASS
    assert verdict.n < 200
    assert verdict.observed == 1.0
    assert verdict.interval is not None
    assert verdict.interval[0] >= 0.98
    assert verdict.better == "higher"


def test_a_model_that_disagrees_often_fails_after_few_items() -> None:
    verdict = gate(agreement=0.98).evaluate(agreeing(350, 150, of=500))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.n <= 43


def test_the_whole_set_gives_one_exact_chance_more() -> None:
    """Three disagreements in 400: the process stays open, the exact test of all 400 does not."""
    values = np.ones(400, dtype=bool)
    values[[250, 300, 390]] = False
    part = gate(agreement=0.98).evaluate(Sample.empty().replace(agreed=values[:395], evaluated_of=400))
    whole = gate(agreement=0.98).evaluate(Sample.empty().replace(agreed=values, evaluated_of=400))
    assert whole.outcome is Outcome.PASS
    assert part.outcome in (Outcome.PASS, Outcome.INCONCLUSIVE)


def test_an_undecided_set_is_inconclusive_and_names_the_items_it_would_need() -> None:
    verdict = gate(agreement=0.99).evaluate(agreeing(120, 0, of=120))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "299 items are needed" in verdict.reason
    assert "the set has 120" in verdict.reason


def test_items_beyond_the_set_are_a_second_pass_and_no_evidence() -> None:
    once = agreeing(120, 0, of=120)
    assert once.agreed is not None
    twice = once.replace(agreed=np.tile(once.agreed, 10))
    assert gate(agreement=0.99).evaluate(twice).outcome is Outcome.INCONCLUSIVE


def test_nothing_compared_is_never_a_pass() -> None:
    assert gate(agreement=0.9).evaluate(Sample.empty()).outcome is Outcome.INCONCLUSIVE
    assert not gate(agreement=0.9).evaluate(Sample.empty()).decided
    ran = Sample.empty().replace(latencies_ns=np.array([5, 6]), starts_ns=np.array([0, 9]))
    assert gate(agreement=0.9).evaluate(ran).decided
    assert "labels" in gate(at_least=0.9).evaluate(agreeing(200, 0)).reason


def test_an_item_that_is_neither_right_nor_wrong_is_invalid() -> None:
    sample = Sample.empty().replace(agreed=np.array([1.0, np.nan] * 100))
    assert gate(agreement=0.5).evaluate(sample).outcome is Outcome.INVALID


def test_at_least_asks_the_labels_and_not_the_baseline() -> None:
    sample = labelled(400, lost=200, gained=0).replace(agreed=np.ones(400, dtype=bool))
    assert gate(at_least=0.9).evaluate(sample).outcome is Outcome.FAIL
    assert gate(agreement=0.9).evaluate(sample).outcome is Outcome.PASS


def test_a_drop_is_tested_on_the_items_that_differ() -> None:
    lossless = gate(drop=0.02).evaluate(labelled(500, lost=10, gained=10))
    assert lossless.outcome is Outcome.PASS
    assert lossless.observed is not None
    assert abs(lossless.observed) < 0.02
    lossy = gate(drop=0.02).evaluate(labelled(500, lost=60, gained=0))
    assert lossy.outcome is Outcome.FAIL
    assert lossy.interval is not None
    assert lossy.interval[0] > 0.02
    close = gate(drop=0.02).evaluate(labelled(500, lost=12, gained=2))
    assert close.outcome is Outcome.INCONCLUSIVE
    assert close.decided


def test_without_labels_disagreement_bounds_the_drop_but_never_fails_it() -> None:
    assert gate(drop=0.02).evaluate(agreeing(500, 0, of=500)).outcome is Outcome.PASS
    verdict = gate(drop=0.02).evaluate(agreeing(300, 200, of=500))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "labels" in verdict.reason


def test_labels_of_unequal_length_are_invalid() -> None:
    sample = Sample.empty().replace(correct=np.ones(90, dtype=bool), baseline_correct=np.ones(80, dtype=bool))
    assert gate(drop=0.02).evaluate(sample).outcome is Outcome.INVALID


def test_the_demand_ends_with_the_set() -> None:
    assert gate(agreement=0.98).demand(Sample.empty()) == Demand(evaluations=30)
    assert gate(agreement=0.98).demand(agreeing(98, 0, of=100)) == Demand(evaluations=2)
    assert gate(agreement=0.98).demand(agreeing(100, 0, of=100)) is None
    assert gate(drop=0.02).demand(labelled(40, lost=0, gained=0).replace(evaluated_of=500)) == Demand(evaluations=60)


@given(
    n=st.integers(1, 300),
    more=st.integers(1, 300),
    rate=st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_reached_verdict_does_not_change_when_more_is_evaluated(n: int, more: int, rate: float, seed: int) -> None:
    values = np.random.default_rng(seed).random(n + more) >= rate
    for asked in ({"agreement": 0.97}, {"drop": 0.03}):
        early = gate(**asked).evaluate(Sample.empty().replace(agreed=values[:n], evaluated_of=n + more))
        late = gate(**asked).evaluate(Sample.empty().replace(agreed=values, evaluated_of=n + more))
        if early.outcome in (Outcome.PASS, Outcome.FAIL):
            assert (late.outcome, late.n, late.observed) == (early.outcome, early.n, early.observed)


def test_a_false_certificate_is_rare_at_the_limit() -> None:
    rng = np.random.default_rng(4)
    passes = sum(
        gate(agreement=0.98).evaluate(Sample.empty().replace(agreed=rng.random(400) >= 0.02, evaluated_of=400)).outcome
        is Outcome.PASS
        for _ in range(200)
    )
    assert passes <= 19  # 5 % of 200 is 10; more than 19 would happen less than once in 300 runs


@pytest.mark.parametrize("size", [100, 120, 148])
def test_a_set_too_small_is_named_before_anything_runs(size: int) -> None:
    assert gate(agreement=0.98).too_small(size) is not None
    assert gate(agreement=0.98).too_small(149) is None


def test_a_set_too_small_for_a_drop_with_labels_depends_on_what_may_be_gained() -> None:
    one = gate(drop=0.01)
    assert one.too_small(320, labelled=True) is None
    said = one.too_small(319, labelled=True)
    assert said == (
        "320 items are needed to certify a drop in accuracy of at most 1% at an error rate of 5%; the set has 319"
    )
    assert one.too_small(319, labelled=True, gained=3) is None
    assert one.too_small(20, labelled=True, gained=20) is not None  # no look at so few
    assert "299 items are needed" in str(one.too_small(298))  # without labels
    best = one.evaluate(labelled(320, lost=0, gained=0))
    assert best.outcome is Outcome.PASS
    assert one.evaluate(labelled(319, lost=0, gained=0)).outcome is Outcome.INCONCLUSIVE


def test_every_verdict_says_what_would_change_it() -> None:
    for verdict, said in (
        (gate(agreement=0.98).evaluate(agreeing(500, 0, of=500)), "more than 0 disagreements among these"),
        (gate(agreement=0.98).evaluate(agreeing(350, 150, of=500)), "disagreements among these"),
        (gate(at_least=0.9).evaluate(labelled(500, lost=20, gained=0)), "wrong answers"),
        (gate(agreement=0.98).evaluate(agreeing(486, 14, of=500)), "a larger set"),
        (gate(drop=0.02).evaluate(labelled(500, lost=0, gained=0)), "lost items among these"),
        (gate(drop=0.02).evaluate(labelled(500, lost=60, gained=0)), "lost items among these"),
        (gate(drop=0.02).evaluate(labelled(500, lost=10, gained=0)), "a larger set"),
        (gate(drop=0.02).evaluate(agreeing(350, 150, of=500)), "labels"),
    ):
        assert said in verdict.would_change
