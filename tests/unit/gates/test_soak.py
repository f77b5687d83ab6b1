from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from support.samples import MIB, conditions, over_time, reading

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.soak import Soak
from pytest_edgehil.gates.stats import leak
from pytest_edgehil.model import Outcome, Sample

HOUR = 3600


def gate(*args: object, soak_ns: int | None = None, **kwargs: object) -> Soak:
    found = parse("soak", args, kwargs, settings=GateSettings(soak_ns=soak_ns))
    assert isinstance(found, Soak)
    return found


def saw(leak_mib_per_h: float = 0.0, *, tooth_s: float = 32.8, phase_s: float = 0.0) -> Callable[[float], float]:
    """A warm-up curve with teeth of 10 MB on top, and a leak."""

    def at_time(at: float) -> float:
        warm_up = 30 * MIB * (1.0 - math.exp(-at / 300.0))
        return 200 * MIB + warm_up + leak_mib_per_h * MIB * at / HOUR + 10e6 * ((at + phase_s) % tooth_s) / tooth_s

    return at_time


def test_a_soak_without_a_crash_passes_when_the_whole_duration_is_over() -> None:
    assert gate("10 min").evaluate(over_time(600)).outcome is Outcome.PASS
    early = gate("10 min").evaluate(over_time(599))
    assert early.outcome is Outcome.INCONCLUSIVE
    assert not early.decided


def test_a_crash_fails_when_no_rate_is_allowed() -> None:
    verdict = gate("10 min").evaluate(over_time(60, conditions=conditions(restarts=1)))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.decided


@pytest.mark.parametrize(
    ("crashes", "outcome"), [(0, Outcome.PASS), (1, Outcome.INCONCLUSIVE), (12, Outcome.FAIL), (400, Outcome.FAIL)]
)
def test_a_crash_rate_is_decided_on_stretches_of_ten_seconds(crashes: int, outcome: Outcome) -> None:
    verdict = gate("1 h", crash_rate=0.01).evaluate(over_time(HOUR, conditions=conditions(restarts=crashes)))
    assert verdict.outcome is outcome
    assert "stretches of 10 s" in verdict.reason


def test_many_crashes_fail_long_before_the_end() -> None:
    verdict = gate("1 h", crash_rate=0.01).evaluate(over_time(120, conditions=conditions(restarts=5)))
    assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("mib_per_h", "outcome"), [(0.0, Outcome.PASS), (1.0, Outcome.PASS), (20.0, Outcome.FAIL), (50.0, Outcome.FAIL)]
)
def test_a_leak_is_told_from_warming_up(mib_per_h: float, outcome: Outcome) -> None:
    verdict = gate("1 h", leak="5 MiB/h").evaluate(over_time(HOUR, rss_bytes=saw(mib_per_h)))
    assert verdict.outcome is outcome
    assert verdict.unit == "bytes/h"
    assert verdict.interval is not None
    assert verdict.interval[0] < verdict.interval[1]


def test_a_large_leak_ends_the_soak_early() -> None:
    verdict = gate("1 h", leak="5 MiB/h").evaluate(over_time(36 * 60, rss_bytes=saw(20.0)))
    assert verdict.outcome is Outcome.FAIL
    assert "at minute" in verdict.reason


def test_a_small_leak_passes_only_at_the_end() -> None:
    soak = gate("1 h", leak="5 MiB/h")
    assert soak.evaluate(over_time(50 * 60, rss_bytes=saw())).outcome is Outcome.INCONCLUSIVE
    assert soak.evaluate(over_time(HOUR, rss_bytes=saw())).outcome is Outcome.PASS


def test_memory_in_swap_counts_as_held() -> None:
    sample = over_time(HOUR, rss_bytes=saw())
    rows = tuple(
        reading(one.at_s, rss_bytes=one.rss_bytes, swap_bytes=int(50 * MIB * one.at_s / HOUR))
        for one in sample.readings
    )
    assert gate("1 h", leak="5 MiB/h").evaluate(sample.replace(readings=rows)).outcome is Outcome.FAIL


def test_flat_memory_is_a_good_sign_and_no_stuck_sensor() -> None:
    sample = over_time(HOUR, rss_bytes=lambda _: 200 * MIB)
    assert gate("1 h", leak="5 MiB/h").evaluate(sample).outcome is Outcome.PASS


def test_a_restart_hides_a_leak() -> None:
    sample = over_time(HOUR, rss_bytes=saw(), conditions=conditions(restarts=1))
    verdict = gate("1 h", leak="5 MiB/h", crash_rate=0.05).evaluate(sample)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "restarted in between" in verdict.reason


def test_without_a_memory_sensor_waiting_for_a_leak_is_hopeless() -> None:
    sample = over_time(60)
    blind = sample.replace(readings=tuple(reading(one.at_s, rss_bytes=None) for one in sample.readings))
    verdict = gate("1 h", leak="5 MiB/h").evaluate(blind)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert gate("1 h", leak="5 MiB/h").demand(blind) is None


def test_memory_above_the_ceiling_fails_at_once() -> None:
    verdict = gate("1 h", peak_rss="180 MiB").evaluate(over_time(60, rss_bytes=saw()))
    assert verdict.outcome is Outcome.FAIL
    assert "exceeds 180 MiB" in verdict.reason


def test_a_shortened_soak_says_so_and_does_not_decide_a_leak() -> None:
    shortened = gate("1 h", leak="5 MiB/h", soak_ns=20 * 10**9)
    verdict = shortened.evaluate(over_time(20, rss_bytes=saw()))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "replaced the declared 1 h by 20 s" in verdict.reason
    assert verdict.statistics["declared_s"] == HOUR
    assert verdict.statistics["measured_s"] == 20.0
    assert verdict.statistics["override_s"] == 20.0
    plain = gate("1 h", soak_ns=20 * 10**9).evaluate(over_time(20))
    assert plain.outcome is Outcome.PASS
    assert "replaced the declared 1 h by 20 s" in plain.reason


def test_a_reboot_makes_the_soak_invalid() -> None:
    verdict = gate("1 min").evaluate(over_time(60, conditions=conditions(boot_id_after="another")))
    assert verdict.outcome is Outcome.INVALID


def test_nothing_measured_is_never_a_pass() -> None:
    verdict = gate("1 min", peak_rss="1 GiB").evaluate(Sample.empty())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert not verdict.decided


def test_seconds_are_demanded_a_minute_at_a_time() -> None:
    soak = gate("10 min")
    first = soak.demand(Sample.empty())
    assert first is not None
    assert first.seconds == 60.0
    last = soak.demand(over_time(590))
    assert last is not None
    assert last.seconds == 10.0
    assert soak.demand(over_time(600)) is None


@pytest.mark.parametrize(("mib_per_h", "wrong"), [(5.0, ("above", "below")), (0.0, ("above",)), (10.0, ("below",))])
def test_wrong_calls_of_a_leak_are_rare(mib_per_h: float, wrong: tuple[str, ...]) -> None:
    times = np.arange(HOUR + 1.0)
    errors = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        memory = saw(mib_per_h, tooth_s=rng.uniform(15, 58), phase_s=rng.uniform(0, 60))
        values = np.array([memory(at) for at in times]) + rng.normal(0.0, 0.3e6, times.size)
        found = leak.look(
            times, values, budget_per_h=5 * MIB, duration_s=HOUR, alpha=0.05, resolution=16384, early_pass=True
        )
        assert found is not None
        errors += found.decision in wrong
    assert errors <= 6  # both sides at the budget: 10 % of 25 is 2.5


def test_windows_that_nothing_was_read_in_are_left_out() -> None:
    times = np.concatenate((np.arange(0.0, 60.0), np.arange(180.0, 241.0)))
    middles, minima = leak.window_minima(times, times)
    assert middles.tolist() == [30.0, 210.0]
    assert minima.tolist() == [0.0, 180.0]
