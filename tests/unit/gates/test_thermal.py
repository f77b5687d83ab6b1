from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from support.samples import conditions, over_time, reading, timed

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.stats.warming import fit
from pytest_edgehil.gates.thermal import Thermal
from pytest_edgehil.model import Outcome, Sample, Verdict

NOISE = np.random.default_rng(2).normal(0.0, 0.3, 4000)


def gate(*args: object, soak_ns: int | None = None, **kwargs: object) -> Thermal:
    found = parse("thermal", args, kwargs, settings=GateSettings(soak_ns=soak_ns))
    assert isinstance(found, Thermal)
    return found


def warming(end_c: float, *, tau_s: float = 100.0, start_c: float = 40.0) -> Callable[[float], float]:
    return lambda at: end_c - (end_c - start_c) * math.exp(-at / tau_s) + NOISE[int(at)]


def first_decision(thermal: Thermal, sample: Sample) -> tuple[Verdict, int]:
    for seconds in range(15, int(sample.duration_s) + 1, 15):
        part = sample.replace(readings=sample.readings[: seconds + 1], duration_s=float(seconds))
        verdict = thermal.evaluate(part)
        if verdict.decided:
            return verdict, seconds
    raise AssertionError("never decided")


def test_a_cool_board_passes_long_before_the_duration_is_over() -> None:
    verdict, seconds = first_decision(gate("80 C"), over_time(600, temperature_c=warming(60)))
    assert verdict.outcome is Outcome.PASS
    assert seconds <= 300
    assert verdict.interval is not None
    assert verdict.interval[0] - 1 <= 60 <= verdict.interval[1] + 1


def test_a_board_that_will_get_too_hot_fails_before_it_is() -> None:
    sample = over_time(600, temperature_c=warming(95, tau_s=200))
    verdict, seconds = first_decision(gate("85 C"), sample)
    assert verdict.outcome is Outcome.FAIL
    hottest = max(one.temperature_c or 0.0 for one in sample.readings[: seconds + 1])
    assert hottest < 91


def test_a_mean_above_the_limit_fails_and_a_single_reading_does_not() -> None:
    rows = [reading(float(at), temperature_c=70.0 + 0.55 * (at % 2)) for at in range(100)]
    rows[50] = reading(50.0, temperature_c=82.0)
    assert gate("80 C").evaluate(timed([1, 2], readings=tuple(rows))).outcome is not Outcome.FAIL
    rows[40:75] = [reading(float(at), temperature_c=81.0) for at in range(40, 75)]
    verdict = gate("80 C").evaluate(timed([1, 2], readings=tuple(rows)))
    assert verdict.outcome is Outcome.FAIL
    assert "30 s" in verdict.reason


def test_close_to_the_limit_only_a_settled_temperature_passes() -> None:
    settled = gate("80 C").evaluate(over_time(600, temperature_c=warming(79, tau_s=60)))
    assert settled.outcome is Outcome.PASS
    rising = gate("80 C").evaluate(over_time(600, temperature_c=warming(79, tau_s=300)))
    assert rising.outcome is Outcome.INCONCLUSIVE
    assert rising.decided


def test_too_short_a_measurement_is_inconclusive_and_states_that_it_was_shortened() -> None:
    verdict = gate("80 C", soak_ns=20 * 10**9).evaluate(over_time(20, temperature_c=warming(50)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "replaced the declared 10 min by 20 s" in verdict.reason


@pytest.mark.parametrize("bits", [0x2, 0x4, 0x8, 0x40000, 0x20000])
def test_throttling_fails_at_once(bits: int) -> None:
    sample = over_time(40, temperature_c=warming(60), throttled=lambda at: bits if at > 20 else 0)
    verdict = gate("80 C").evaluate(sample)
    assert verdict.outcome is Outcome.FAIL
    assert verdict.decided
    assert gate("80 C", throttling=True).evaluate(sample).outcome is Outcome.INCONCLUSIVE


def test_throttling_before_this_measurement_does_no_harm() -> None:
    healthy = conditions(throttled_before=0xE0000, throttled_after=0xE0000)
    sample = over_time(600, temperature_c=warming(60), throttled=lambda _: 0xE0000, conditions=healthy)
    assert gate("80 C").evaluate(sample).outcome is Outcome.PASS


def test_under_voltage_is_not_the_models_fault() -> None:
    sample = over_time(40, temperature_c=warming(60), conditions=conditions(throttled_after=0x50005))
    assert gate("80 C").evaluate(sample).outcome is Outcome.INVALID


def test_throttling_alone_can_be_asked_for() -> None:
    cool = over_time(600)
    assert gate().evaluate(cool).outcome is Outcome.PASS
    assert gate().evaluate(over_time(300)).outcome is Outcome.INCONCLUSIVE
    blind = over_time(600, conditions=conditions(throttled_before=None, throttled_after=None))
    blind = blind.replace(readings=tuple(reading(one.at_s, throttled=None) for one in blind.readings))
    assert gate().evaluate(blind).outcome is Outcome.INCONCLUSIVE


def test_a_stuck_or_missing_or_broken_sensor_never_passes() -> None:
    stuck = over_time(600, temperature_c=lambda _: 50.0)
    assert gate("80 C").evaluate(stuck).outcome is Outcome.INCONCLUSIVE
    missing = stuck.replace(readings=tuple(reading(one.at_s, temperature_c=None) for one in stuck.readings))
    assert gate("80 C").evaluate(missing).outcome is Outcome.INCONCLUSIVE
    broken = stuck.replace(readings=(*stuck.readings, reading(601.0, temperature_c=math.nan)))
    assert gate("80 C").evaluate(broken).outcome is Outcome.INVALID
    assert gate("80 C").evaluate(Sample.empty()).outcome is Outcome.INCONCLUSIVE


def test_seconds_are_demanded_in_slices_up_to_the_duration() -> None:
    thermal = gate("80 C", duration="100 s")
    first = thermal.demand(Sample.empty())
    assert first is not None
    assert first.seconds == 15.0
    last = thermal.demand(over_time(95, temperature_c=warming(60)))
    assert last is not None
    assert last.seconds == 5.0
    assert thermal.demand(over_time(100, temperature_c=warming(60, tau_s=500))) is None


@pytest.mark.parametrize("tau_s", [40.0, 120.0])
def test_the_bounds_hold_the_truth_about_as_often_as_stated(tau_s: float) -> None:
    inside = 0
    for seed in range(60):
        times = np.arange(0.0, 2.0 * tau_s)
        values = 70.0 - 30.0 * np.exp(-times / tau_s) + np.random.default_rng(seed).normal(0.0, 0.3, times.size)
        found = fit(times, np.round(values / 0.55) * 0.55, alpha=0.05)
        assert found is not None
        inside += found.low_c <= 70.0 <= found.high_c
    assert inside >= 47  # 90 % of 60 is 54
