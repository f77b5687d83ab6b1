"""A model against another one on the same board: what the pairs of blocks say, and what they must never say."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.evidence import raw
from pytest_edgehil.gates import continued
from pytest_edgehil.gates.against_baseline import AgainstBaseline
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import EarlierRun, Outcome, Sample, Verdict
from pytest_edgehil.model.record import GateUse
from pytest_edgehil.model.series import BlockPair, Paired


def gate(ratio: float = 1.1, **changes: object) -> AgainstBaseline:
    found = parse("p95_latency", (), {"baseline": "old", "ratio": ratio, **changes}, settings=GateSettings())
    assert isinstance(found, AgainstBaseline)
    return found


def blocks(ratio: float, *, pairs: int = 20, block: int = 50, rho: float = 0.5, seed: int = 1) -> np.ndarray:
    """Shape (pairs, 2, block): the candidate's and the baseline's latencies in ns."""
    rng = np.random.default_rng(seed)
    both = latencies_ms(rng, 2 * pairs * block, rho=rho).reshape(pairs, 2, block)
    both[:, 0] *= ratio
    return to_ns(both)


def sample_of(both: np.ndarray, *, baseline: str = "old", **changes: object) -> Sample:
    """A sample of pairs that ran one after the other."""
    at, found = 0, []
    for candidate, other in both:
        spent = [int(np.where(np.isfinite(one), one, 0).sum()) for one in (candidate, other)]
        found.append(
            BlockPair(
                candidate_ns=candidate,
                baseline_ns=other,
                candidate_first=True,
                candidate_start_ns=at,
                baseline_start_ns=at + spent[0],
            )
        )
        at += sum(spent)
    readings = tuple(reading(float(second)) for second in range(min(at // 10**9, 3600) + 2))
    paired = Paired(baseline=baseline, digest="sha256:" + "1" * 64, seed=7, pairs=tuple(found), label="old 1.0 fp32")
    known = {"paired": (paired,), "readings": readings, "conditions": conditions(), **changes}
    return Sample.empty().replace(**known)


def verdict_of(ratio: float, *, allowed: float = 1.1, seed: int = 1, **changes: object) -> Verdict:
    return gate(allowed).evaluate(sample_of(blocks(ratio, seed=seed), **changes))


def test_a_model_as_fast_as_its_baseline_passes_at_an_early_look() -> None:
    verdict = verdict_of(1.0)
    assert verdict.outcome is Outcome.PASS
    assert verdict.statistics["pairs"] in {6, 8}
    assert verdict.n == verdict.statistics["pairs"] * 50
    assert verdict.unit == "ratio"
    assert verdict.budget == 1.1
    assert verdict.interval is not None
    assert verdict.interval[0] <= verdict.observed <= verdict.interval[1] <= 1.1
    assert "p95 latency is at most" in verdict.reason
    assert "times that of old 1.0 fp32, where 1.1 times is allowed" in verdict.reason
    assert "error rate 5%" in verdict.reason
    assert "slower" in verdict.would_change


def test_a_model_that_is_much_slower_fails_at_the_first_look() -> None:
    verdict = verdict_of(1.4)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.statistics["looks"] == 1
    assert verdict.interval[0] > 1.1
    assert "faster" in verdict.would_change


def test_at_the_boundary_it_asks_for_pairs_up_to_the_next_look_and_ends_undecided() -> None:
    both = blocks(1.1, seed=3)
    wanted, have = [], 0
    while (demand := gate().demand(sample_of(both[:have]))) is not None:
        assert (demand.baseline, demand.block, demand.inferences) == ("old", 50, 0)
        have += demand.pairs
        wanted.append(have)
    assert wanted == [6, 8, 12, 16, 20]
    verdict = gate().evaluate(sample_of(both))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "budget of 20 pairs is spent" in verdict.reason
    assert "pairs (pairs=…)" in verdict.would_change
    assert not gate().evaluate(sample_of(both[:12])).decided


def test_the_time_for_measuring_ends_it_too() -> None:
    verdict = gate(max_duration="2 s").evaluate(sample_of(blocks(1.1, seed=3)[:8]))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "2 s for measuring are spent" in verdict.reason


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_what_is_measured_after_a_decision_changes_nothing(ratio: float) -> None:
    first = gate().evaluate(sample_of(blocks(ratio)[:12]))
    assert first.outcome is not Outcome.INCONCLUSIVE
    later = np.concatenate([blocks(ratio)[:12], blocks(2.3 - ratio, seed=9)])
    assert dataclasses.replace(gate().evaluate(sample_of(later)), statistics={}) == dataclasses.replace(
        first, statistics={}
    )


def test_drift_of_the_board_meets_both_and_changes_nothing() -> None:
    slowing = np.linspace(1.0, 1.6, 20)[:, np.newaxis, np.newaxis]
    assert gate().evaluate(sample_of((blocks(1.0) * slowing).astype(np.int64))).outcome is Outcome.PASS
    assert gate().evaluate(sample_of((blocks(1.3) * slowing).astype(np.int64))).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "spoil",
    [
        lambda both: np.full_like(both, 10_000_000),
        lambda both: np.where(np.arange(2)[None, :, None] == 1, 10_000_000, both),
        lambda both: np.where(np.arange(50) == 3, np.nan, both.astype(float)),
        lambda both: np.where(np.arange(50) == 3, -both, both),
        lambda both: np.where(np.arange(50) == 3, 0, both),
        lambda both: np.where(np.arange(50) == 3, np.inf, both.astype(float)),
        lambda both: np.broadcast_to(both[:1], both.shape),
    ],
    ids=["constant", "constant baseline", "nan", "negative", "zero", "infinite", "a recording that repeats itself"],
)
def test_what_is_no_measurement_is_invalid_and_never_a_pass(spoil) -> None:
    verdict = gate().evaluate(sample_of(spoil(blocks(1.0))))
    assert verdict.outcome is Outcome.INVALID
    assert verdict.decided
    assert verdict.not_checked == ()


def test_without_pairs_with_this_baseline_in_blocks_of_this_length_nothing_is_said() -> None:
    for sample in (Sample.empty(), timed([1_000_000 + i for i in range(99)]), sample_of(blocks(1.0), baseline="other")):
        verdict = gate().evaluate(sample)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.n == 0
        assert not verdict.decided
    assert gate(block=40).evaluate(sample_of(blocks(1.0))).n == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": conditions(throttled_after=0x40004)}, "throttled"),
        ({"conditions": conditions(boot_id_after="another")}, "rebooted"),
        ({"readings": (reading(0.0), reading(1.0, swap_bytes=2**20))}, "swapped out"),
        ({"readings": tuple(reading(float(i), arm_hz=(2_400 - 150 * i) * 10**6) for i in range(10))}, "Arm clock"),
    ],
    ids=["throttled", "rebooted", "swapped", "clocked down"],
)
def test_a_board_that_was_not_itself_makes_it_invalid(changes: dict[str, object], said: str) -> None:
    for ratio in (1.0, 1.4):
        verdict = verdict_of(ratio, **changes)
        assert verdict.outcome is Outcome.INVALID
        assert said in verdict.reason


def test_the_temperature_must_stand_still_where_the_marker_asks() -> None:
    warming = tuple(reading(float(at), temperature_c=50.0 + at) for at in range(20))
    assert gate(max_drift="3 C").evaluate(sample_of(blocks(1.0), readings=warming)).outcome is Outcome.INVALID


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 50.0), st.sampled_from([0.95, 1.0, 1.05, 1.1, 1.2, 1.3]), st.integers(0, 50))
def test_scaling_both_sides_changes_nothing(scale: float, ratio: float, seed: int) -> None:
    both = blocks(ratio, seed=seed).astype(np.float64)
    one, other = (gate().evaluate(sample_of(both * by)) for by in (1.0, scale))
    assert one.outcome is other.outcome
    assert math.isclose(one.observed, other.observed, rel_tol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([1.0, 1.1, 1.2]), st.floats(1.0, 3.0), st.integers(0, 50))
def test_a_slower_model_never_fares_better(ratio: float, slower: float, seed: int) -> None:
    both = blocks(ratio, seed=seed).astype(np.float64)
    worse = both.copy()
    worse[:, 0] *= slower
    order = [Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.FAIL]
    before, after = (gate().evaluate(sample_of(one)).outcome for one in (both, worse))
    # one look may refuse what a later one allows; but what has failed does not pass, nor the other way round
    assert not (before is Outcome.FAIL and after is Outcome.PASS)
    assert order.index(after) >= order.index(before) - (before is Outcome.FAIL)


def test_the_same_model_against_itself_passes_nearly_always_and_never_fails() -> None:
    outcomes = [verdict_of(1.0, seed=seed).outcome for seed in range(40)]
    assert outcomes.count(Outcome.PASS) >= 39
    assert Outcome.FAIL not in outcomes


def test_a_stored_sample_is_judged_the_same_again(tmp_path) -> None:
    sample, chosen = sample_of(blocks(1.05, seed=4)), gate()
    use = GateUse(name="p95_latency", arguments=chosen.arguments())
    raw.write_sample(tmp_path / "s.json.gz", sample, [use])
    (again,) = raw.recompute(raw.read_sample(tmp_path / "s.json.gz"), [use])
    assert again == chosen.evaluate(sample)


# --- run again ---------------------------------------------------------------------------------------


def again(*runs: Sample) -> Sample:
    """The last one goes on from those before it."""
    before = (EarlierRun(run=f"run-{i}", board="b1", sample=one) for i, one in enumerate(runs[:-1], 1))
    return runs[-1].replace(earlier=tuple(before))


def test_a_test_that_is_run_again_pools_the_pairs_of_all_its_runs_and_looks_after_each_budget():
    near = gate(1.03)
    first, second = (sample_of(blocks(1.03, seed=seed)) for seed in (1, 3))
    alone = [near.evaluate(one) for one in (first, second)]
    assert [one.outcome for one in alone] == [Outcome.INCONCLUSIVE] * 2
    wanted = continued.demand(near, again(first, sample_of(blocks(1.03, seed=3)[:8])))
    assert (wanted.pairs, wanted.block) == (12, 50), "a whole further budget, and no look before"
    found = continued.evaluate(near, again(first, second))
    assert (found.n, found.statistics["looks"], found.statistics["pairs_allowed"]) == (2000, 6.0, 40.0)
    assert found.statistics["standard_error"] < min(one.statistics["standard_error"] for one in alone)
    assert found.statistics["alpha_spent"] == pytest.approx(0.04875)


def test_what_an_earlier_run_has_shown_stands_and_luck_does_not_undo_it():
    slow, quick = sample_of(blocks(1.3)), sample_of(blocks(0.9, seed=2))
    found = continued.evaluate(gate(), again(slow, quick))
    assert found.outcome is Outcome.FAIL
    assert "decided in run run-1 on b1, which running the test again does not undo" in found.reason
    assert continued.demand(gate(), again(slow, sample_of(blocks(0.9)[:0]))) is None


def test_running_again_at_the_limit_errs_no_more_often_than_alpha_in_all():
    from pytest_edgehil.gates.stats.block_ratio import critical_values, looks

    at = looks(20, 50, 0.95, upto=200)
    critical = np.array(critical_values(at, 20, 0.05))
    rng = np.random.default_rng(5)
    # of normal pairs, whose mean and standard error are those of a t test at each look
    pairs = rng.normal(0.0, 1.0, (4000, at[-1]))
    counts = np.array(at)
    mean = np.cumsum(pairs, axis=1)[:, counts - 1] / counts
    square = np.cumsum(pairs**2, axis=1)[:, counts - 1] / counts
    error = np.sqrt((square - mean**2) / (counts - 1))
    assert 0.035 < float((mean + critical * error <= 0).any(axis=1).mean()) < 0.06
