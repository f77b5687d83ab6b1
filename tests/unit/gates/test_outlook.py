"""What would change a verdict: budgets that were quoted must hold, projections must be called so."""

from __future__ import annotations

import doctest
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import MS, latencies_ms, over_time, timed, to_ns

from pytest_edgehil.gates import outlook
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.stats import projection
from pytest_edgehil.model import ColdStart, Outcome, Sample, Verdict


def judged(latencies: np.ndarray, budget: str, **changes: object) -> Verdict:
    return parse("p95_latency", (budget,), changes, settings=GateSettings()).evaluate(timed(latencies))


def simulated(seed: int, n: int = 400, rho: float = 0.5) -> np.ndarray:
    return to_ns(latencies_ms(np.random.default_rng(seed), n, rho=rho))


@pytest.mark.parametrize("module", [outlook, projection])
def test_examples_in_the_docstrings(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted > 0
    assert found.failed == 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), budget_ms=st.sampled_from([9.5, 10.6, 11.6, 12.4, 15.0]))
def test_a_budget_that_is_said_to_pass_or_to_fail_does(seed: int, budget_ms: float) -> None:
    latencies = simulated(seed)
    verdict = judged(latencies, f"{budget_ms} ms", max_samples=400)
    passes = re.search(r"(?:of at least|one of) ([0-9.]+ ms)", verdict.would_change)
    fails = re.search(r"below ([0-9.]+ ms)", verdict.would_change)
    assert passes is not None or fails is not None
    if passes is not None:
        assert judged(latencies, passes[1], max_samples=400).outcome is Outcome.PASS
    if fails is not None:
        just_below = f"{int(float(fails[1].removesuffix(' ms')) * MS) - 1} ns"
        assert judged(latencies[: verdict.n], just_below, max_samples=400).outcome is Outcome.FAIL


def test_a_budget_that_passes_is_the_smallest_that_does() -> None:
    latencies = simulated(5)
    quoted = re.search(r"of at least ([0-9.]+ ms)", judged(latencies, "8 ms", max_samples=400).would_change)
    assert quoted is not None
    smaller = f"{float(quoted[1].removesuffix(' ms')) * 0.999} ms"
    assert judged(latencies, smaller, max_samples=400).outcome is not Outcome.PASS


def test_a_fail_says_that_more_inferences_do_not_undo_it() -> None:
    assert "do not undo a FAIL" in judged(simulated(1), "8 ms").would_change


def test_a_fail_of_few_inferences_promises_no_budget() -> None:
    said = judged(simulated(1, n=30), "8 ms").would_change
    assert "at least 70 inferences to tell" in said
    assert "of at least" not in said


def test_a_number_of_further_inferences_is_called_a_projection_and_comes_true_if_they_go_on_alike() -> None:
    pattern = 8 * MS + np.arange(100) * 7919 % 1000
    pattern[::40] = 13 * MS  # 3 of 100, evenly spread
    verdict = judged(np.tile(pattern, 2), "12 ms", max_samples=200)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    said = re.search(r"about ([0-9]+) more inferences would PASS, if .*projection", verdict.would_change)
    assert said is not None
    enough = 200 + int(int(said[1]) * 1.15)
    longer = np.tile(pattern, enough // 100 + 1)[:enough]
    assert judged(longer, "12 ms", max_samples=enough).outcome is Outcome.PASS


def test_a_rate_at_its_limit_is_not_promised_a_verdict() -> None:
    pattern = 8 * MS + np.arange(400) * 7919 % 1000
    pattern[::20] = 13 * MS
    verdict = judged(pattern, "12 ms", max_samples=400)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "not even a million inferences" in verdict.would_change


def test_few_inferences_are_said_to_be_too_few_and_not_too_close() -> None:
    verdict = judged(simulated(1, n=34), "14 ms")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "too few inferences" in verdict.reason
    assert "too close" not in verdict.reason


def test_a_clock_that_stood_still_for_a_while_is_not_called_close_to_the_budget() -> None:
    jitter = np.random.default_rng(0).integers(1000, size=800)
    verdict = judged(np.concatenate((np.full(200, 8 * MS), 8 * MS + jitter)), "12 ms")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "too close" not in verdict.reason
    assert "0 of 1000 inferences took longer than 12 ms; that would PASS if each of them told something new, but" in (
        verdict.reason
    )
    assert "neighbours are so alike that they count as 3" in verdict.reason


def test_an_observed_quantile_far_from_the_budget_is_not_called_close_to_it() -> None:
    values = 8 * MS + np.random.default_rng(0).integers(1000, size=585)
    values[::40] = 14 * MS
    verdict = judged(values, "12 ms", max_samples=585)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "15 of 585 inferences (2.6%) took longer than 12 ms, too close to 5% to tell" in verdict.reason


def test_a_sample_whose_slow_beginning_rules_a_pass_out_says_so_and_promises_none() -> None:
    values = 8 * MS + np.random.default_rng(0).integers(1000, size=1000)
    values[:8] = 13 * MS
    verdict = judged(values, "12 ms")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "8 of the first 30 did, which alone would show that the budget is missed" in verdict.reason
    assert "cannot PASS any more" in verdict.would_change
    assert "inferences would PASS" not in verdict.would_change
    assert verdict.statistics["ruled_out_at"] == 30


def test_a_pass_is_taken_back_by_what_shows_later_that_it_was_wrong() -> None:
    fast, slow = 8 * MS + np.random.default_rng(0).integers(1000, size=(2, 400))
    assert judged(fast[:100], "12 ms").outcome is Outcome.PASS
    assert judged(np.concatenate((fast[:100], slow + 6 * MS)), "12 ms").outcome is Outcome.FAIL


def test_a_duration_that_is_missing_is_named() -> None:
    verdict = judged(simulated(1, n=150), "20 ms", min_duration="2 min")
    assert "min_duration" in verdict.would_change


def test_an_invalid_measurement_must_be_made_again() -> None:
    verdict = judged(np.full(40, 9 * MS), "12 ms")
    assert verdict.outcome is Outcome.INVALID
    assert verdict.would_change == outlook.AGAIN


# --- thermal, size, cold start -----------------------------------------------------------------------


def warming(end_c: float, seconds: int, limit: str = "80 C") -> Verdict:
    sample = over_time(seconds, temperature_c=lambda t: end_c - (end_c - 45.0) * np.exp(-t / 120.0) + 0.3 * np.sin(t))
    return parse("thermal", (limit,), {}, settings=GateSettings()).evaluate(sample)


@pytest.mark.parametrize("end_c", [70.0, 80.2, 90.0])
def test_a_temperature_limit_that_is_said_to_pass_or_to_fail_does(end_c: float) -> None:
    seconds = 300 if end_c == 90.0 else 600
    said = warming(end_c, seconds, "84 C").would_change
    quoted = {
        Outcome.PASS: re.search(r"at least ([0-9.]+) °C", said),
        Outcome.FAIL: re.search(r"below ([0-9.]+) °C would have failed", said),
    }
    assert any(quoted.values())
    for outcome, found in quoted.items():
        if found is not None and "if the temperature also settles" not in said:
            limit = float(found[1]) - (0.1 if outcome is Outcome.FAIL else 0.0)
            assert warming(end_c, seconds, f"{limit} C").outcome is outcome


def test_a_measurement_that_is_too_short_says_how_much_is_missing() -> None:
    assert re.search(r"measuring on, by about [0-9.]+ (s|min)", warming(70.0, 180).would_change)
    early = warming(70.0, 40)
    assert "20 readings after the first 1 min" in early.would_change
    assert "nothing was read after the first 1 min" in early.reason


def test_throttling_is_not_undone_by_measuring_on() -> None:
    sample = over_time(60, throttled=lambda t: 4 if t > 30 else 0)
    verdict = parse("thermal", ("80 C",), {}, settings=GateSettings()).evaluate(sample)
    assert verdict.outcome is Outcome.FAIL
    assert "measuring on does not undo it" in verdict.would_change


def test_a_size_that_would_have_been_enough_is_enough() -> None:
    def weighed(budget: str) -> Verdict:
        return parse("size", (budget,), {}, settings=GateSettings()).evaluate(timed([1], artifact_size_bytes=1_234_567))

    found = re.search(r"at least (.+)", weighed("1 kB").would_change)
    assert found is not None
    assert weighed(found[1]).outcome is Outcome.PASS


def started(*load_ms: float, budget: str = "100 ms") -> Verdict:
    loads = tuple(
        ColdStart(load_ns=int(one * MS), rss_before_bytes=1, rss_after_bytes=2, peak_rss_bytes=3) for one in load_ms
    )
    sample = Sample.empty().replace(cold_starts=loads)
    return parse("cold_start", (budget,), {}, settings=GateSettings()).evaluate(sample)


def test_a_slow_start_says_which_budget_would_have_been_enough() -> None:
    found = re.search(r"at least ([0-9.]+ ms)", started(80, 123.45678, 90).would_change)
    assert found is not None
    assert started(80, 123.45678, 90, budget=found[1]).outcome is Outcome.PASS


def test_a_board_is_not_said_to_lack_bits_that_nobody_asked_it_for() -> None:
    unseen = " ".join(started(80, 90, 85).not_checked)
    assert "board reports no" not in unseen
    assert "the throttled bits are read around inferences, and none ran" in unseen
