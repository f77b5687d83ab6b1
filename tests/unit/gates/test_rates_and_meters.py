"""Gates on a mean: throughput, tokens per second, utilisation, energy; and on the time to the first token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import MS, conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.evidence.raw import sample_from_bytes, sample_to_bytes
from pytest_edgehil.gates.continued import joined
from pytest_edgehil.gates.gate import Gate, statements
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.gates.stats.mean import look
from pytest_edgehil.model import Demand, Outcome, Sample, SensorReading
from pytest_edgehil.model.series import Generations


def gate(name: str, *args: object, **changes: object) -> Gate:
    return parse(name, args, changes, settings=GateSettings())


def spread(n: int, *, mean_ms: float = 10.0, seed: int = 1) -> np.ndarray:
    return to_ns(mean_ms * np.exp(np.random.default_rng(seed).normal(0.0, 0.08, n)))


def metered(n_seconds: int = 70, *, watts: float = 5.0, npu: float = 60.0, seed: int = 2, **changes: object) -> Sample:
    """Back-to-back inferences of 10 ms on a board with a power meter and a busy accelerator."""
    rng = np.random.default_rng(seed)
    rows = [
        reading(float(at), power_w=watts * (1 + 0.03 * rng.normal()), npu_percent=npu + 3 * rng.normal())
        for at in range(1, n_seconds)
    ]
    return timed(spread(100 * n_seconds), **{"readings": tuple(rows), **changes})


def generated(n: int, *, first_ms: float = 200.0, token_ms: float = 50.0, tokens: int = 17, seed: int = 3) -> Sample:
    rng = np.random.default_rng(seed)
    firsts = to_ns(first_ms * np.exp(0.08 * rng.normal(size=n)))
    totals = firsts + to_ns((tokens - 1) * token_ms * np.exp(0.03 * rng.normal(size=n)))
    made = Generations(
        starts_ns=np.cumsum(totals) - totals,
        prompt_tokens=np.full(n, 8),
        new_tokens=np.full(n, tokens),
        first_token_ns=firsts,
        total_ns=totals,
    )
    seconds = float(totals.sum()) / 1e9
    rows = tuple(reading(float(at)) for at in range(int(seconds) + 1))
    return Sample.empty().replace(generations=made, conditions=conditions(), readings=rows, duration_s=seconds)


HOT = conditions(throttled_after=4)
CASES = [
    ("throughput", ("80/s",), timed(spread(500)), Outcome.PASS),
    ("throughput", ("120/s",), timed(spread(500)), Outcome.FAIL),
    ("throughput", ("99.5/s",), timed(spread(1000)), Outcome.INCONCLUSIVE),
    ("throughput", ("80/s",), timed(spread(500), conditions=conditions(throttled_after=4)), Outcome.INVALID),
    ("tokens_per_second", ("12/s",), generated(80), Outcome.PASS),
    ("tokens_per_second", ("25/s",), generated(80), Outcome.FAIL),
    ("tokens_per_second", ("19.9/s",), generated(170, seed=4), Outcome.INCONCLUSIVE),
    ("tokens_per_second", ("12/s",), generated(80).replace(conditions=conditions(throttled_after=4)), Outcome.INVALID),
    ("time_to_first_token", ("300 ms",), generated(200), Outcome.PASS),
    ("time_to_first_token", ("150 ms",), generated(60), Outcome.FAIL),
    ("time_to_first_token", ("228 ms",), generated(300), Outcome.INCONCLUSIVE),
    ("time_to_first_token", ("300 ms",), generated(80).replace(conditions=HOT), Outcome.INVALID),
    ("energy", ("60 mJ",), metered(), Outcome.PASS),
    ("energy", ("40 mJ",), metered(), Outcome.FAIL),
    ("energy", ("50 mJ",), metered(320), Outcome.INCONCLUSIVE),
    ("energy", ("60 mJ",), metered(conditions=conditions(throttled_after=4)), Outcome.INVALID),
]  # fmt: skip


@pytest.mark.parametrize(("name", "args", "sample", "outcome"), CASES, ids=lambda one: str(one)[:24])
def test_each_gate_says_each_of_the_four(name, args, sample, outcome) -> None:
    one = gate(name, *args)
    verdict = one.evaluate(sample)
    assert verdict.outcome is outcome, verdict.reason
    assert "\n" not in verdict.reason
    assert verdict.would_change
    assert verdict.statistics["alpha"] == 0.05
    assert from_arguments(name, one.arguments()) == one
    stored = sample_from_bytes(sample_to_bytes(sample, ()), what="here")
    assert one.evaluate(stored) == verdict
    if outcome in {Outcome.PASS, Outcome.FAIL}:
        low, high = verdict.interval or (verdict.statistics["lower_bound"], np.inf)
        assert low <= verdict.observed <= high
        assert one.demand(sample) is None


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        ({"at_least": 0.5}, Outcome.PASS),
        ({"at_least": 0.7}, Outcome.FAIL),
        ({"max": 0.7}, Outcome.PASS),
        ({"max": 0.5}, Outcome.FAIL),
        ({"at_least": 0.5, "max": 0.7}, Outcome.PASS),
        ({"at_least": 0.3, "max": 0.5}, Outcome.FAIL),
        ({"at_least": 0.6}, Outcome.INCONCLUSIVE),
    ],
)
def test_utilisation_has_a_limit_on_either_side(arguments, outcome) -> None:
    one = gate("npu_utilisation", **arguments)
    verdict = one.evaluate(metered(320))
    assert verdict.outcome is outcome, verdict.reason
    assert statements(one) == len(arguments)
    assert from_arguments("npu_utilisation", one.arguments()) == one
    throttled = metered(conditions=conditions(throttled_after=4))
    assert one.evaluate(throttled).outcome is Outcome.INVALID


@pytest.mark.parametrize(("name", "arguments"), [("energy", ("1 J",)), ("npu_utilisation", ())])
def test_a_board_without_the_meter_is_inconclusive_and_says_so(name, arguments) -> None:
    one = gate(name, *arguments, **({"at_least": 0.01} if name == "npu_utilisation" else {}))
    fresh = one.evaluate(Sample.empty())
    assert fresh.outcome is Outcome.INCONCLUSIVE
    assert one.demand(Sample.empty()) == Demand(seconds=5.0)
    verdict = one.evaluate(timed(spread(1000)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "the board has no" in verdict.reason


def test_energy_says_what_its_meter_leaves_out_and_how_it_was_got() -> None:
    verdict = gate("energy", "60 mJ").evaluate(metered())
    assert any("5 V rail" in one and "1.1451" in one for one in verdict.not_checked)
    assert verdict.observed == pytest.approx(0.05, rel=0.03)
    assert " W over 30 readings times " in verdict.reason


def test_readings_that_never_move_measure_nothing() -> None:
    rows = tuple(reading(float(at), power_w=5.0, npu_percent=60.0) for at in range(1, 70))
    for one in (gate("energy", "1 J"), gate("npu_utilisation", at_least=0.1)):
        verdict = one.evaluate(metered(readings=rows))
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert "alike" in verdict.reason


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
def test_a_meter_that_lies_is_invalid(bad) -> None:
    good = metered().readings
    for field, one in (("power_w", gate("energy", "1 J")), ("npu_percent", gate("npu_utilisation", at_least=0.1))):
        rows = (*good[:9], reading(9.5, **{"power_w": 5.0, "npu_percent": 60.0, field: bad}), *good[9:])
        assert one.evaluate(metered(readings=rows)).outcome is Outcome.INVALID


@pytest.mark.parametrize("bad", [np.empty(0, dtype=np.int64), np.full(500, 10 * MS), -spread(500), np.zeros(500)])
def test_throughput_of_what_is_no_measurement_never_passes(bad) -> None:
    assert gate("throughput", "1/h").evaluate(timed(bad)).outcome is not Outcome.PASS


def test_generations_that_are_no_measurement_never_pass() -> None:
    good = generated(100).generations
    no_time = generated(100).replace(
        generations=Generations(
            starts_ns=good.starts_ns,
            prompt_tokens=good.prompt_tokens,
            new_tokens=good.new_tokens,
            first_token_ns=good.total_ns,
            total_ns=good.total_ns,
        )
    )
    one_token = generated(100, tokens=1)
    for sample in (no_time, one_token, Sample.empty()):
        assert gate("tokens_per_second", "1/h").evaluate(sample).outcome is not Outcome.PASS
    assert gate("time_to_first_token", "1 h").evaluate(Sample.empty()).outcome is Outcome.INCONCLUSIVE


def test_demands_are_in_the_gates_own_kind_and_end() -> None:
    assert gate("throughput", "80/s").demand(Sample.empty()) == Demand(inferences=60)
    assert gate("tokens_per_second", "12/s").demand(Sample.empty()) == Demand(generations=20)
    assert gate("time_to_first_token", "1 s").demand(generated(10)) == Demand(generations=20)
    assert gate("throughput", "99.5/s").demand(timed(spread(100))) == Demand(inferences=20)
    assert gate("throughput", "99.5/s").demand(timed(spread(1000))) is None
    assert gate("energy", "50 mJ").demand(metered(32)) == Demand(seconds=29.0)


def test_a_longer_sample_never_changes_a_verdict_that_was_reached() -> None:
    short = gate("throughput", "80/s").evaluate(timed(spread(240)))
    slow_later = np.concatenate([spread(240), spread(2000, mean_ms=90.0)])
    later = gate("throughput", "80/s").evaluate(timed(slow_later))
    assert (short.outcome, short.n) == (later.outcome, later.n) == (Outcome.PASS, short.n)


def test_one_stall_in_the_first_look_keeps_the_mean_open() -> None:
    calm = spread(60, mean_ms=9.0)
    stalled = calm.copy()
    stalled[30] = 120 * MS
    assert gate("throughput", "80/s").evaluate(timed(calm)).outcome is Outcome.PASS
    assert gate("throughput", "80/s").evaluate(timed(stalled)).outcome is Outcome.INCONCLUSIVE


def test_runs_are_joined_with_their_generations() -> None:
    both = joined([generated(40), generated(40, seed=9)])
    assert both.generations is not None
    assert both.generations.starts_ns.shape == (80,)
    assert (np.diff(both.generations.starts_ns) > 0).all()


@settings(max_examples=30, deadline=None)
@given(scale=st.floats(0.05, 20.0), seed=st.integers(0, 50))
def test_scaling_times_and_the_limit_together_changes_nothing(scale: float, seed: int) -> None:
    times = spread(240, seed=seed)
    limit = 97.0
    plain = gate("throughput", f"{limit}/s").evaluate(timed(times))
    scaled = gate("throughput", f"{limit / scale}/s").evaluate(timed(times * scale))
    assert (plain.outcome, plain.n) == (scaled.outcome, scaled.n)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=80))
def test_no_list_of_readings_breaks_the_gates_on_meters(values: list[float]) -> None:
    rows = tuple(SensorReading(at_s=float(at), power_w=one, npu_percent=one) for at, one in enumerate(values, 1))
    sample = metered(readings=rows)
    usable = all(np.isfinite(one) and one > 0 for one in values)
    for one in (gate("energy", "1 J"), gate("npu_utilisation", at_least=0.0001)):
        verdict = one.evaluate(sample)
        assert verdict.outcome is not Outcome.PASS or (usable and len(set(values)) > 1)


def test_a_mean_at_its_limit_rarely_passes() -> None:
    """Quick form of benchmarks/statistics/mean_gates.py; a t-test at every look passes about 45 % of these."""
    rng = np.random.default_rng(4)
    limit = f"{1000.0 / 10.1732}/s"
    found = [gate("throughput", limit).evaluate(timed(to_ns(latencies_ms(rng, 960, rho=0.5)))) for _ in range(60)]
    outcomes = [one.outcome for one in found]
    assert outcomes.count(Outcome.PASS) <= 3
    assert outcomes.count(Outcome.FAIL) <= 6


def test_the_bounds_of_a_ratio_do_not_depend_on_its_scale() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 30, 200)
    times = counts * 50.0 * np.exp(0.1 * rng.normal(size=200))
    one, other = look(times, counts, alpha=0.05), look(7 * times, counts, alpha=0.05)
    assert one is not None
    assert other is not None
    assert one.low < 50.0 < one.high
    assert (other.low, other.high) == pytest.approx((7 * one.low, 7 * one.high))
    assert look(50.0 * counts, counts, alpha=0.05) is None
