from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import MS, conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.model import Demand, Outcome, Sample, Verdict


def gate(budget: str = "12 ms", **changes: object) -> LatencyQuantile:
    found = parse("p95_latency", (budget,), changes, settings=GateSettings())
    assert isinstance(found, LatencyQuantile)
    return found


def spread(n: int, *, slow: int = 0, fast_ms: float = 8.0, slow_ms: float = 15.0) -> np.ndarray:
    """n latencies, no two alike in a row, of which `slow` are slow, evenly spread."""
    values = fast_ms * MS + np.arange(n) * 7919 % 1000
    if slow:
        values[np.linspace(0, n - 1, slow).astype(int)] = slow_ms * MS
    return values.astype(np.int64)


def verdict_of(latencies: np.ndarray, **changes: object) -> Verdict:
    return gate().evaluate(timed(latencies, **changes))


def test_a_clearly_fast_model_passes_after_few_inferences() -> None:
    verdict = verdict_of(spread(1000))
    assert verdict.outcome is Outcome.PASS
    assert 70 <= verdict.n <= 150
    assert verdict.decided
    assert verdict.budget == 12 * MS
    assert verdict.interval is not None
    assert verdict.observed is not None
    assert verdict.interval[0] <= verdict.observed <= verdict.interval[1] <= 12 * MS


def test_a_clearly_slow_model_fails_at_the_first_look() -> None:
    verdict = verdict_of(spread(1000, fast_ms=13.0))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.n == 30
    assert verdict.statistics["lower_bound"] > 12 * MS


def test_a_model_at_its_budget_stays_undecided_and_says_when_the_budget_of_samples_is_spent() -> None:
    latencies = to_ns(latencies_ms(np.random.default_rng(3), 1000))
    limit = f"{int(np.quantile(latencies, 0.95))} ns"
    verdict = gate(limit).evaluate(timed(latencies))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "no more than 1000 inferences" in verdict.reason
    early = gate(limit).evaluate(timed(latencies[:500]))
    assert early.outcome is Outcome.INCONCLUSIVE
    assert not early.decided


def test_the_reason_tells_what_was_counted_with_units() -> None:
    verdict = verdict_of(spread(400, slow=2))
    assert verdict.outcome is Outcome.PASS
    assert "p95 latency is within 12 ms" in verdict.reason
    assert "inferences" in verdict.reason
    assert "error rate 5%" in verdict.reason
    assert "\n" not in verdict.reason


def test_an_inference_of_exactly_the_budget_is_within_it() -> None:
    at_budget = spread(200)
    at_budget[::2] = 12 * MS
    assert verdict_of(at_budget).outcome is Outcome.PASS
    at_budget[::2] += 1
    assert verdict_of(at_budget).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("latencies", "outcome"),
    [
        (np.empty(0, dtype=np.int64), Outcome.INCONCLUSIVE),
        (np.full(500, 5 * MS), Outcome.INVALID),
        (np.full(500, 0), Outcome.INVALID),
        (np.where(np.arange(500) == 3, -1, spread(500)), Outcome.INVALID),
        (np.where(np.arange(500) == 3, np.nan, spread(500).astype(float)), Outcome.INVALID),
        (np.where(np.arange(500) == 3, np.inf, spread(500).astype(float)), Outcome.INVALID),
    ],
    ids=["empty", "constant", "zero", "negative", "nan", "infinite"],
)
def test_what_is_no_measurement_never_passes(latencies: np.ndarray, outcome: Outcome) -> None:
    assert verdict_of(latencies).outcome is outcome


def test_a_clock_that_ticks_too_coarsely_to_differ_is_named() -> None:
    assert "does not tick" in verdict_of(np.full(60, 5 * MS)).reason


@given(
    values=st.lists(st.integers(1, 40), min_size=1, max_size=200),
    budget=st.integers(1, 40),
    factor=st.integers(1, 10**5),
)
@settings(max_examples=60, deadline=None)
def test_scaling_latencies_and_budget_together_changes_nothing(values: list[int], budget: int, factor: int) -> None:
    small = gate(f"{budget} ns").evaluate(timed(np.array(values)))
    large = gate(f"{budget * factor} ns").evaluate(timed(np.array(values) * factor))
    assert small.outcome is large.outcome
    assert small.n == large.n
    assert small.decided is large.decided


@given(
    values=st.lists(st.integers(5 * MS, 16 * MS), min_size=30, max_size=250),
    raised=st.lists(st.booleans(), min_size=250, max_size=250),
)
@settings(max_examples=60, deadline=None)
def test_more_exceedances_never_turn_a_fail_into_a_pass(values: list[int], raised: list[bool]) -> None:
    latencies = np.array(values)
    before = verdict_of(latencies)
    after = verdict_of(np.where(raised[: latencies.size], np.maximum(latencies, 13 * MS), latencies))
    assert not (before.outcome is Outcome.FAIL and after.outcome is Outcome.PASS)


@given(n=st.integers(30, 300), more=st.integers(0, 300), seed=st.integers(0, 1000), limit=st.sampled_from([10, 12, 14]))
@settings(max_examples=40, deadline=None)
def test_a_reached_verdict_stays_unless_what_is_measured_later_shows_that_a_pass_was_wrong(
    n: int, more: int, seed: int, limit: int
) -> None:
    latencies = to_ns(latencies_ms(np.random.default_rng(seed), n + more, rho=0.5))
    early = gate(f"{limit} ms").evaluate(timed(latencies[:n]))
    late = gate(f"{limit} ms").evaluate(timed(latencies))
    if early.outcome is Outcome.FAIL or (early.outcome is late.outcome is Outcome.PASS):
        assert (late.outcome, late.n, late.observed, late.interval) == (
            early.outcome,
            early.n,
            early.observed,
            early.interval,
        )
    elif early.outcome is Outcome.PASS:
        assert late.statistics["ruled_out_at"] > n, "only what came later may take a PASS back"


def test_the_demand_is_the_next_look_until_it_has_decided() -> None:
    p95 = gate()
    assert p95.demand(Sample.empty()) == Demand(inferences=30)
    assert p95.demand(timed(spread(30, slow=2))) == Demand(inferences=4)
    assert p95.demand(timed(spread(400))) is None


def test_no_more_is_demanded_once_the_time_for_measuring_is_spent() -> None:
    sample = timed(spread(60, slow=3))
    assert gate(max_duration="10 s").demand(sample.replace(duration_s=9.9)) is not None
    spent = sample.replace(duration_s=10.0)
    assert gate(max_duration="10 s").demand(spent) is None
    assert "no more than 10 s may be measured" in gate(max_duration="10 s").evaluate(spent).reason


def test_a_minimum_duration_holds_a_pass_back_but_not_a_fail() -> None:
    fast, slow = timed(spread(100)), timed(spread(100, fast_ms=13.0))
    held = gate(min_duration="10 s").evaluate(fast)
    assert held.outcome is Outcome.INCONCLUSIVE
    assert not held.decided
    assert gate(min_duration="10 s").evaluate(slow).outcome is Outcome.FAIL
    assert gate(min_duration="10 s").evaluate(timed(spread(2000))).outcome is Outcome.PASS


def test_correlated_latencies_need_more_inferences_than_independent_ones() -> None:
    rng = np.random.default_rng(8)
    loose = [verdict_of(to_ns(0.7 * latencies_ms(rng, 1000))).n for _ in range(8)]
    tied = [verdict_of(to_ns(0.7 * latencies_ms(rng, 1000, rho=0.8))).n for _ in range(8)]
    assert np.mean(tied) > 1.5 * np.mean(loose)


def test_another_quantile_is_judged_by_its_own_rate() -> None:
    p99 = parse("quantile_latency", (), {"q": 0.99, "budget": "12 ms"}, settings=GateSettings())
    verdict = p99.evaluate(timed(spread(1000, slow=25)))
    assert verdict.gate == "quantile_latency"
    assert verdict.outcome is Outcome.FAIL
    assert gate().evaluate(timed(spread(1000, slow=25))).outcome is Outcome.PASS


# --- what makes a measurement unusable --------------------------------------------------------------------


def readings(n: int = 12, **changed_at_6: object) -> tuple[object, ...]:
    return tuple(reading(float(at), **(changed_at_6 if at == 6 else {})) for at in range(n))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": conditions(throttled_after=0x50000)}, "throttled bits changed"),
        ({"conditions": conditions(throttled_before=0x4)}, "throttled"),
        ({"readings": readings(throttled=0x2)}, "Arm frequency capped"),
        ({"readings": readings(arm_hz=1_500_000_000)}, "the Arm clock changed"),
        ({"readings": readings(swap_bytes=10 * 2**20)}, "swapped out"),
        ({"conditions": conditions(boot_id_after="ffffffff-2222")}, "rebooted"),
    ],
    ids=["sticky bit", "live bit before", "live bit in between", "clock", "swap", "reboot"],
)
@pytest.mark.parametrize("fast_ms", [8.0, 13.0], ids=["would pass", "would fail"])
def test_trouble_on_the_board_makes_the_measurement_invalid(
    changes: dict[str, object], said: str, fast_ms: float
) -> None:
    verdict = verdict_of(spread(1000, fast_ms=fast_ms), **changes)
    assert verdict.outcome is Outcome.INVALID
    assert verdict.decided
    assert said in verdict.reason


def test_sticky_bits_from_before_and_jitter_of_the_clock_do_no_harm() -> None:
    rows = tuple(reading(float(at), throttled=0x50000, arm_hz=2_400_000_000 + (at % 5) * 30_000) for at in range(9))
    healthy = conditions(throttled_before=0x50000, throttled_after=0x50000)
    assert verdict_of(spread(1000), readings=rows, conditions=healthy).outcome is Outcome.PASS


def test_a_clock_that_idles_between_two_measurements_does_no_harm() -> None:
    """The governor clocks down while nothing runs: the readings at 8 … 11 s lie after the last inference."""
    rows = tuple(reading(float(at), arm_hz=1_500_000_000 if at >= 10 else 2_400_000_000) for at in range(12))
    assert verdict_of(spread(1000), readings=rows).outcome is Outcome.PASS


def test_sensors_that_the_board_lacks_are_named() -> None:
    bare = conditions(throttled_before=None, throttled_after=None, boot_id_before=None, boot_id_after=None)
    verdict = verdict_of(spread(4000), readings=(), conditions=bare)
    assert verdict.outcome is Outcome.PASS
    for sensor in ("throttling", "Arm clock", "reboot", "swap", "thermal plateau"):
        assert any(one.startswith(sensor) for one in verdict.not_checked)


BITS = {"throttled_before": 0, "throttled_after": 0}
NO_BITS = {"throttled_before": None, "throttled_after": None}


@pytest.mark.parametrize("bits", [BITS, NO_BITS], ids=["bits", "no bits"])
def test_a_board_that_declares_nothing_is_watched_for_half_a_minute_before_it_passes(bits: dict[str, object]) -> None:
    undeclared = conditions(**bits, steady_state_s=None)
    rows = tuple(reading(float(at), throttled=bits["throttled_before"]) for at in range(4))
    short = verdict_of(spread(400), readings=rows, conditions=undeclared)
    assert short.outcome is Outcome.INCONCLUSIVE
    assert not short.decided
    assert "30 s that a PASS needs (the default for a board whose lab declares no steady_state)" in short.reason
    assert "steady_state: in lab.yaml, or min_duration= in this marker" in short.would_change
    long = verdict_of(spread(4000), readings=rows, conditions=undeclared)
    assert long.outcome is Outcome.PASS
    assert long.n >= 3750  # 30 s of 8 ms
    assert verdict_of(spread(400, fast_ms=13.0), readings=rows, conditions=undeclared).outcome is Outcome.FAIL
    told = gate(min_duration="0 s").evaluate(timed(spread(400), readings=rows, conditions=undeclared))
    assert told.outcome is Outcome.PASS


def test_a_pass_is_held_back_for_as_long_as_the_board_declares() -> None:
    two = conditions(steady_state_s=2.0)
    short = verdict_of(spread(100), conditions=two)
    assert short.outcome is Outcome.INCONCLUSIVE
    assert "2 s that a PASS needs (the board's steady_state)" in short.reason
    assert verdict_of(spread(400), conditions=two).outcome is Outcome.PASS
    held = gate(min_duration="5 s").evaluate(timed(spread(400), conditions=two))
    assert held.outcome is Outcome.INCONCLUSIVE
    assert "5 s that a PASS needs (min_duration)" in held.reason


def test_a_recording_and_numbers_of_no_board_are_not_waited_for() -> None:
    assert verdict_of(spread(100), conditions=conditions(steady_state_s=None, replayed=True)).outcome is Outcome.PASS
    assert verdict_of(spread(100), conditions=None).outcome is Outcome.PASS


def test_recorded_arguments_of_earlier_versions_mean_what_they_meant() -> None:
    now = gate().arguments()
    assert from_arguments("p95_latency", {**now, "min_duration_ns": 0, "unwatched_ns": 30 * 10**9}) == gate()
    then = from_arguments("p95_latency", {**now, "min_duration_ns": 5 * 10**9, "unwatched_ns": 0})
    assert then == gate(min_duration="5 s")


def test_a_fast_model_passes_after_the_minimum_duration_however_many_inferences_that_takes() -> None:
    fast = spread(25_000, fast_ms=1.0)  # 25 s, and 25 times max_samples
    assert gate(min_duration="20 s").evaluate(timed(fast)).outcome is Outcome.PASS
    assert gate(min_duration="30 s").evaluate(timed(fast)).outcome is Outcome.INCONCLUSIVE


def test_throttling_that_the_board_remembers_from_before_is_named() -> None:
    old = conditions(throttled_before=0x40000, throttled_after=0x40000)
    rows = tuple(reading(float(at), throttled=0x40000) for at in range(9))
    verdict = verdict_of(spread(1000), readings=rows, conditions=old)
    assert verdict.outcome is Outcome.PASS
    assert any(one.startswith("throttling between two readings") for one in verdict.not_checked)


def test_a_costly_clock_is_named() -> None:
    verdict = verdict_of(spread(400), conditions=conditions(clock_cost_ns=30_000))
    assert verdict.outcome is Outcome.PASS
    assert any("0.25% of the budget" in one for one in verdict.not_checked)


def test_a_recording_is_judged_alike_and_named() -> None:
    played = verdict_of(spread(400), conditions=conditions(replayed=True))
    assert played.outcome is verdict_of(spread(400)).outcome
    assert "replayed from a recording" in played.reason
    dipped = verdict_of(spread(50), conditions=conditions(replayed=True), readings=readings(arm_hz=1_000_000_000))
    assert dipped.outcome is Outcome.INVALID


def warming(seconds: int, c_per_s: float) -> tuple[object, ...]:
    return tuple(reading(float(at), temperature_c=45.0 + c_per_s * at) for at in range(seconds + 1))


def test_a_board_that_warms_up_by_much_while_measuring_makes_it_invalid() -> None:
    steep = timed(spread(4000), readings=warming(32, 1.0))
    verdict = gate().evaluate(steep)
    assert verdict.outcome is Outcome.INVALID
    assert "the temperature moved by" in verdict.reason
    assert gate(max_drift="40 C").evaluate(steep).outcome is Outcome.PASS


def test_a_gentle_rise_is_judged_and_a_short_measurement_says_that_it_cannot_tell_a_plateau() -> None:
    gentle = timed(spread(4000), readings=warming(32, 0.2))
    verdict = gate().evaluate(gentle)
    assert verdict.outcome is Outcome.PASS
    assert any(one.startswith("thermal plateau: ") for one in verdict.not_checked)
    assert gate(max_drift="2 C").evaluate(gentle).outcome is Outcome.INVALID
    settled = gate(min_duration="60 s").evaluate(timed(spread(9000), readings=warming(72, 0.02)))
    assert settled.outcome is Outcome.PASS
    assert not any("plateau" in one for one in settled.not_checked)


def test_inferences_that_another_gate_had_made_count_and_a_verdict_says_how_many_were_looked_at() -> None:
    rng = np.random.default_rng(5)

    def with_slow_ones(n: int, share: float) -> np.ndarray:
        return np.where(rng.random(n) < share, 14 * MS, 10 * MS) + rng.integers(0, 1000, n)

    near = verdict_of(with_slow_ones(60_000, 0.044))
    assert near.outcome is Outcome.PASS
    assert 10_000 < near.n <= 60_000
    at_the_limit = verdict_of(with_slow_ones(400_000, 0.05))
    assert at_the_limit.outcome is Outcome.INCONCLUSIVE
    assert at_the_limit.n <= 100_000
    assert f"looks at the first {at_the_limit.n} of the 400000 that were made" in at_the_limit.reason
