"""peak_rss, size and cold_start."""

from __future__ import annotations

import numpy as np
import pytest
from support.samples import MIB, MS, conditions, over_time, reading, timed

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import ColdStart, Demand, Outcome, Sample

RAN = timed(np.arange(40) + 5 * MS)


def gate(name: str, *args: object, **kwargs: object) -> Gate:
    return parse(name, args, kwargs, settings=GateSettings())


def start(load_ms: float, peak_bytes: int = 50 * MIB) -> ColdStart:
    return ColdStart(
        load_ns=round(load_ms * MS), rss_before_bytes=10 * MIB, rss_after_bytes=40 * MIB, peak_rss_bytes=peak_bytes
    )


# --- peak_rss ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peak", "outcome"), [(179 * MIB, Outcome.PASS), (180 * MIB, Outcome.PASS), (180 * MIB + 1, Outcome.FAIL)]
)
def test_peak_rss_is_held_against_the_budget(peak: int, outcome: Outcome) -> None:
    verdict = gate("peak_rss", "180 MiB").evaluate(RAN.replace(peak_rss_bytes=peak))
    assert verdict.outcome is outcome
    assert verdict.observed == peak
    assert verdict.unit == "bytes"


def test_the_spike_of_a_load_counts_as_peak() -> None:
    sample = RAN.replace(cold_starts=(start(100, peak_bytes=300 * MIB),))
    assert gate("peak_rss", "180 MiB").evaluate(sample).outcome is Outcome.FAIL


def test_a_model_that_was_only_loaded_has_not_shown_its_peak() -> None:
    loaded = Sample.empty().replace(peak_rss_bytes=50 * MIB, conditions=conditions())
    verdict = gate("peak_rss", "180 MiB").evaluate(loaded)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert gate("peak_rss", "180 MiB").demand(loaded) == Demand(inferences=1)


def test_memory_that_was_swapped_out_may_have_been_part_of_the_peak() -> None:
    sample = RAN.replace(peak_rss_bytes=170 * MIB, readings=(reading(0.0, swap_bytes=20 * MIB),))
    assert gate("peak_rss", "180 MiB").evaluate(sample).outcome is Outcome.INCONCLUSIVE
    assert gate("peak_rss", "200 MiB").evaluate(sample).outcome is Outcome.PASS
    assert gate("peak_rss", "160 MiB").evaluate(sample).outcome is Outcome.FAIL


def test_memory_and_swap_of_one_moment_fail_together() -> None:
    rows = (reading(0.0, rss_bytes=170 * MIB, swap_bytes=20 * MIB),)
    sample = RAN.replace(peak_rss_bytes=170 * MIB, readings=rows)
    assert gate("peak_rss", "180 MiB").evaluate(sample).outcome is Outcome.FAIL


def test_the_spike_of_a_load_is_told_apart_from_the_steady_state() -> None:
    sample = RAN.replace(
        cold_starts=(start(100, peak_bytes=150 * MIB),),
        peak_rss_bytes=150 * MIB,
        steady_peak_rss_bytes=110 * MIB,
        cgroup_peak_bytes=160 * MIB,
    )
    verdict = gate("peak_rss", "180 MiB").evaluate(sample)
    assert "150 MiB while loading, 110 MiB since" in verdict.reason
    assert "control group peaked at 160 MiB" in verdict.reason
    assert verdict.would_change == "a budget of less than 150 MiB"
    blind = gate("peak_rss", "180 MiB").evaluate(RAN)
    assert any("spike" in one for one in blind.not_checked)
    assert any("memory.peak" in one for one in blind.not_checked)


@pytest.mark.parametrize(("budget", "outcome"), [("150 MiB", Outcome.PASS), ("130 MiB", Outcome.FAIL)])
def test_what_the_process_held_before_is_not_the_models(budget: str, outcome: Outcome) -> None:
    sample = RAN.replace(cold_starts=(start(100, peak_bytes=150 * MIB),), peak_rss_bytes=150 * MIB)
    verdict = gate("peak_rss", budget, of="model").evaluate(sample)
    assert verdict.outcome is outcome
    assert verdict.observed == 140 * MIB
    assert gate("peak_rss", budget, of="model").evaluate(RAN).outcome is Outcome.INCONCLUSIVE


def test_no_reading_of_the_peak_is_never_a_pass() -> None:
    sample = RAN.replace(peak_rss_bytes=None, readings=())
    assert gate("peak_rss", "180 MiB").evaluate(sample).outcome is Outcome.INCONCLUSIVE
    assert gate("peak_rss", "180 MiB").evaluate(RAN.replace(peak_rss_bytes=0, readings=())).outcome is Outcome.INVALID


# --- size -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "outcome"),
    [(MIB, Outcome.PASS), (MIB + 1, Outcome.FAIL), (None, Outcome.INCONCLUSIVE), (0, Outcome.INVALID)],
)
def test_size_is_held_against_the_budget(size: int | None, outcome: Outcome) -> None:
    verdict = gate("size", "1 MiB").evaluate(Sample.empty().replace(artifact_size_bytes=size))
    assert verdict.outcome is outcome
    assert verdict.decided
    assert gate("size", "1 MiB").demand(Sample.empty()) is None


# --- cold_start -------------------------------------------------------------------------------------------


def test_cold_starts_are_demanded_until_there_are_enough() -> None:
    cold = gate("cold_start", "2 s", starts=4)
    assert cold.demand(RAN) == Demand(cold_starts=4)
    assert cold.demand(RAN.replace(cold_starts=(start(900),))) == Demand(cold_starts=3)
    assert cold.evaluate(RAN.replace(cold_starts=(start(900),))).outcome is Outcome.INCONCLUSIVE
    assert cold.demand(RAN.replace(cold_starts=tuple(start(900 + i) for i in range(4)))) is None


def test_every_start_must_be_within_the_budget() -> None:
    cold = gate("cold_start", "2 s")
    good = cold.evaluate(RAN.replace(cold_starts=(start(900), start(1900), start(2000))))
    assert good.outcome is Outcome.PASS
    assert good.observed == 2000 * MS
    assert any("63%" in one for one in good.not_checked)
    assert cold.evaluate(RAN.replace(cold_starts=(start(900), start(1900), start(2001)))).outcome is Outcome.FAIL
    assert good.statistics["between_process_sd_ns"] == pytest.approx(608.28 * MS, rel=1e-4)
    assert "the fastest 900 ms and the slowest 2 s (standard deviation between processes 608.3 ms" in good.reason


def test_one_slow_start_fails_at_once() -> None:
    cold = gate("cold_start", "2 s")
    sample = RAN.replace(cold_starts=(start(2500),))
    assert cold.evaluate(sample).outcome is Outcome.FAIL
    assert cold.demand(sample) is None


def test_starts_that_are_no_measurement_are_invalid() -> None:
    cold = gate("cold_start", "2 s")
    assert cold.evaluate(RAN.replace(cold_starts=(start(900),) * 3)).outcome is Outcome.INVALID
    assert cold.evaluate(RAN.replace(cold_starts=(start(0),))).outcome is Outcome.INVALID
    throttled = RAN.replace(cold_starts=(start(1), start(2), start(3)), conditions=conditions(throttled_after=0x40000))
    assert cold.evaluate(throttled).outcome is Outcome.INVALID


def test_a_recording_has_one_load_and_that_is_no_stuck_clock() -> None:
    sample = RAN.replace(cold_starts=(start(900),) * 3, conditions=conditions(replayed=True))
    assert gate("cold_start", "2 s").evaluate(sample).outcome is Outcome.PASS


@pytest.mark.parametrize("held", [0, -16384])
def test_memory_of_a_process_that_holds_nothing_is_invalid(held: int) -> None:
    broken = over_time(3600, rss_bytes=lambda _: held)
    for name, args, kwargs in (
        ("peak_rss", ("200 MiB",), {}),
        ("soak", ("1 h",), {"leak": "5 MiB/h"}),
        ("soak", ("1 h",), {"peak_rss": "200 MiB"}),
    ):
        verdict = parse(name, args, kwargs, settings=GateSettings()).evaluate(broken)
        assert verdict.outcome is Outcome.INVALID


def test_readings_alone_show_no_peak_to_be_within_a_budget() -> None:
    """Once a second misses a spike; only the kernel's own high-water mark does not."""
    read = over_time(600, peak_rss_bytes=None)
    assert parse("peak_rss", ("200 MiB",), {}, settings=GateSettings()).evaluate(read).outcome is Outcome.INCONCLUSIVE
    assert parse("peak_rss", ("50 MiB",), {}, settings=GateSettings()).evaluate(read).outcome is Outcome.FAIL
    soak = parse("soak", ("10 min",), {"peak_rss": "200 MiB"}, settings=GateSettings())
    assert soak.evaluate(read).outcome is Outcome.INCONCLUSIVE
