from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import MIB, MS, conditions, over_time, reading

from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.soak import Soak
from pytest_edgehil.gates.soaking.crashes import trials
from pytest_edgehil.gates.stats import leak
from pytest_edgehil.model import Outcome, Sample
from pytest_edgehil.model.series import LinkDrop

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


def drifting(growth: float, *, minutes: int = 60) -> Sample:
    """An hour of inferences whose latency grows by so much in all, or its first minutes."""
    rng = np.random.default_rng(3)
    seconds = minutes * 60
    n = seconds * 5
    at = np.arange(n) / n * seconds
    slow = np.repeat(rng.normal(0.0, 0.01, seconds // 5 + 1), 25)[:n]  # neighbours are alike
    latencies = 10 * MS * np.exp(np.log1p(growth) * at / HOUR + slow + rng.normal(0.0, 0.05, n))
    return over_time(seconds).replace(latencies_ns=latencies.astype(np.int64), starts_ns=(at * 1e9).astype(np.int64))


EMPTY_HOUR = {minutes: over_time(60 * minutes) for minutes in (20, 30, 45, 60)}


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


def test_a_crash_ends_its_trial_and_the_next_process_begins_another() -> None:
    assert trials(60.0, [3.0, 3.0, 25.0], 10.0).tolist() == [True, True, False, False, True, False, False, False]
    assert trials(60.0, [], 10.0).tolist() == [False] * 6
    assert trials(0.0, [0.0], 10.0).tolist() == [True]


def test_crashes_are_told_with_their_reasons() -> None:
    sample = over_time(
        300, crashes_at_s=(20.0, 40.0, 61.0), crash_reasons=("it died of SIGSEGV", "it died of SIGSEGV", "killed")
    )
    verdict = gate("10 min").evaluate(sample)
    assert verdict.outcome is Outcome.FAIL
    assert "2 × it died of SIGSEGV" in verdict.reason
    assert "3 crashes" in verdict.reason
    assert verdict.statistics["restarts"] == 3


def test_a_model_that_cannot_be_started_again_fails_whatever_rate_is_allowed() -> None:
    sample = over_time(300, crashes_at_s=(299.0,), crash_reasons=("killed",), not_restarted="no such file")
    for soak in (gate("1 h", crash_rate=0.2), gate("1 h")):
        verdict = soak.evaluate(sample)
        assert verdict.outcome is Outcome.FAIL
        assert "could not be started again" in verdict.reason
        assert "no such file" in verdict.reason


def test_a_rate_is_shown_before_the_end_by_the_sequential_test() -> None:
    early = gate("1 h", crash_rate=0.05).evaluate(over_time(15 * 60))
    assert early.outcome is Outcome.PASS
    assert "certain at minute 15 of 60" in early.reason
    assert gate("1 h", crash_rate=0.05, full=True).evaluate(over_time(15 * 60)).outcome is Outcome.INCONCLUSIVE


def test_a_rate_is_wrongly_shown_or_refused_at_most_as_often_as_stated() -> None:
    rng = np.random.default_rng(4)
    soak = gate("1 h", crash_rate=0.02)
    wrong = {Outcome.PASS: 0, Outcome.FAIL: 0}
    for _ in range(120):
        crashed = np.cumsum(rng.geometric(0.02, size=40)) * 10.0  # at the boundary; every crash ends its trial
        for minutes in (20, 30, 45, 60):
            at_s = tuple(float(one) for one in crashed if one <= minutes * 60)
            outcome = soak.evaluate(EMPTY_HOUR[minutes].replace(crashes_at_s=at_s)).outcome
            if outcome in wrong:
                wrong[outcome] += 1
                break
    assert wrong[Outcome.PASS] <= 12  # 5 % are 6
    assert wrong[Outcome.FAIL] <= 12


@pytest.mark.parametrize(
    ("growth", "outcome"), [(0.0, Outcome.PASS), (0.03, Outcome.PASS), (0.2, Outcome.FAIL), (0.1, Outcome.INCONCLUSIVE)]
)
def test_a_drift_of_the_latency_is_held_against_its_budget(growth: float, outcome: Outcome) -> None:
    for of in ("median", "p95"):
        verdict = gate("1 h", drift="10 %", drift_of=of).evaluate(drifting(growth))
        assert verdict.outcome is outcome, (of, verdict.reason)
        assert verdict.unit == "fraction"
        assert verdict.would_change


def test_a_large_drift_ends_the_soak_early_and_a_small_one_passes_early() -> None:
    assert gate("1 h", drift="10 %").evaluate(drifting(0.8, minutes=40)).outcome is Outcome.FAIL
    assert gate("1 h", drift="10 %").evaluate(drifting(0.0, minutes=35)).outcome is Outcome.PASS
    assert gate("1 h", drift="10 %", full=True).evaluate(drifting(0.0, minutes=35)).outcome is Outcome.INCONCLUSIVE


def test_a_latency_that_never_moves_is_a_clock_that_stands() -> None:
    sample = over_time(HOUR)
    constant = sample.replace(latencies_ns=np.full(sample.n, 5 * MS))
    assert gate("1 h", drift="10 %").evaluate(constant).outcome is Outcome.INCONCLUSIVE


def test_too_few_inferences_tell_nothing_of_a_drift() -> None:
    sample = drifting(0.0)
    few = sample.replace(latencies_ns=sample.latencies_ns[::200], starts_ns=sample.starts_ns[::200])
    verdict = gate("1 h", drift="10 %").evaluate(few)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided


def test_a_lost_link_is_told_and_changes_nothing() -> None:
    drops = (LinkDrop(at_s=100.0, lasted_s=12.0), LinkDrop(at_s=200.0, lasted_s=3.0))
    verdict = gate("10 min").evaluate(over_time(600, link_drops=drops))
    assert verdict.outcome is Outcome.PASS
    assert "lost 2 times, for 15 s" in verdict.reason
    assert verdict.statistics["without_link_s"] == 15.0


@given(
    scale=st.floats(0.01, 100.0),
    growth=st.sampled_from([-0.1, 0.0, 0.05, 0.3]),
    budget=st.sampled_from(["5 %", "10 %", "25 %"]),
)
@settings(max_examples=15, deadline=None)
def test_scaling_every_latency_changes_no_verdict_on_drift(scale: float, growth: float, budget: str) -> None:
    sample = drifting(growth)
    soak = gate("1 h", drift=budget)
    scaled = sample.replace(latencies_ns=np.rint(sample.latencies_ns * scale).astype(np.int64))
    assert soak.evaluate(scaled).outcome is soak.evaluate(sample).outcome


@given(at=st.lists(st.floats(0.0, 3600.0), max_size=30), one=st.floats(0.0, 3600.0))
@settings(max_examples=40, deadline=None)
def test_one_more_crash_never_makes_a_verdict_better(at: list[float], one: float) -> None:
    order = [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    soak = gate("1 h", crash_rate=0.02, full=True)
    before = soak.evaluate(EMPTY_HOUR[60].replace(crashes_at_s=tuple(sorted(at)))).outcome
    after = soak.evaluate(EMPTY_HOUR[60].replace(crashes_at_s=tuple(sorted([*at, one])))).outcome
    assert order.index(after) <= order.index(before)


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


def test_a_small_leak_passes_early_unless_the_whole_duration_is_asked_for() -> None:
    early = gate("1 h", leak="5 MiB/h").evaluate(over_time(50 * 60, rss_bytes=saw()))
    assert early.outcome is Outcome.PASS
    assert "certain at minute 50 of 60" in early.reason
    assert any("full=True" in one for one in early.not_checked)
    assert early.statistics["measured_s"] == 50 * 60
    whole = gate("1 h", leak="5 MiB/h", full=True)
    assert whole.evaluate(over_time(50 * 60, rss_bytes=saw())).outcome is Outcome.INCONCLUSIVE
    assert whole.evaluate(over_time(HOUR, rss_bytes=saw())).outcome is Outcome.PASS


def test_every_declared_statement_must_be_shown_before_a_soak_passes_early() -> None:
    soak = gate("1 h", leak="5 MiB/h", crash_rate=0.01)
    assert soak.evaluate(over_time(50 * 60, rss_bytes=saw())).outcome is Outcome.INCONCLUSIVE
    assert soak.evaluate(over_time(HOUR, rss_bytes=saw())).outcome is Outcome.PASS
    lenient = gate("1 h", leak="5 MiB/h", crash_rate=0.05)
    assert lenient.evaluate(over_time(50 * 60, rss_bytes=saw())).outcome is Outcome.PASS


def test_a_ceiling_alone_is_never_certain_before_the_end() -> None:
    soak = gate("1 h", peak_rss="400 MiB")
    assert soak.evaluate(over_time(50 * 60, rss_bytes=saw())).outcome is Outcome.INCONCLUSIVE


def test_a_leak_that_shows_after_the_first_look_is_not_passed_by_it() -> None:
    def late(at: float) -> float:
        return saw()(at) + max(0.0, at - 32 * 60) * 200 * MIB / HOUR

    times = np.arange(HOUR + 1.0)
    values = np.array([late(at) for at in times])
    found = leak.look(
        times, values, budget_per_h=5 * MIB, duration_s=HOUR, alpha=0.05, resolution=16384, early_pass=True
    )
    assert found is not None
    assert found.decision != "below"
    assert (
        leak.look(
            times[:1900],
            values[:1900],
            budget_per_h=5 * MIB,
            duration_s=HOUR,
            alpha=0.05,
            resolution=16384,
            early_pass=True,
        ).decision
        == "below"
    )  # type: ignore[union-attr]


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


def test_the_longest_stretch_without_a_restart_tells_of_a_leak() -> None:
    sample = over_time(HOUR, rss_bytes=saw(20.0), crashes_at_s=(900.0,), crash_reasons=("SIGSEGV",))
    rows = tuple(dataclasses.replace(one, process=int(one.at_s > 900.0)) for one in sample.readings)
    verdict = gate("1 h", leak="5 MiB/h", crash_rate=0.05).evaluate(sample.replace(readings=rows))
    assert verdict.outcome is Outcome.FAIL
    assert "in the longest stretch without a restart" in verdict.reason


def test_a_restart_at_an_unknown_time_hides_a_leak() -> None:
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
