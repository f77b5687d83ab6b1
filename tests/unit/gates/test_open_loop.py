"""Quantiles of response times at a given rate: what queueing does to a sample, and what the gate makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from support.samples import MS, conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates.judging import judge
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.gates.stats.queueing import drained
from pytest_edgehil.model import Demand, Outcome, Sample
from pytest_edgehil.model.series import OpenLoop


def gate(budget: str = "12 ms", *, rate: str = "20/s", **changes: object) -> LatencyQuantile:
    """A gate that knows of no stalls longer than what it sees, unless it is told."""
    asked = {"rate": rate, "stall": "1 ms", **changes}
    found = parse("p95_latency", (budget,), asked, settings=GateSettings())
    assert isinstance(found, LatencyQuantile)
    return found


def at_rate(services_ns: np.ndarray, rate_hz: float, *, late_ns: int = 0, **changes: object) -> Sample:
    """A sample of inferences that were due at a rate, each waiting for the one before."""
    intended = np.rint(np.arange(len(services_ns)) * 1e9 / rate_hz).astype(np.int64)
    starts, ended = np.empty_like(intended), 0
    for at, (due, service) in enumerate(zip(intended.tolist(), services_ns.tolist(), strict=True)):
        starts[at] = max(due, ended) + late_ns
        ended = starts[at] + service
    series = OpenLoop(
        rate_hz=rate_hz,
        intended_ns=intended,
        starts_ns=starts,
        latencies_ns=services_ns,
        late_ns=np.full(len(services_ns), late_ns),
    )
    seconds = int(ended / 1e9) + 1
    known: dict[str, object] = {
        "open_loop": (series,),
        "conditions": conditions(),
        "readings": tuple(reading(float(at)) for at in range(seconds)),
    }
    return Sample.empty().replace(**{**known, **changes})


def services(n: int, *, p95_ms: float = 8.0, seed: int = 1) -> np.ndarray:
    draws = np.random.default_rng(seed).normal(0.0, 0.08, n)
    return to_ns(p95_ms * np.exp(draws - 0.08 * 1.645))


def test_a_fast_model_passes_and_the_reason_names_the_rate() -> None:
    verdict = gate().evaluate(at_rate(services(400), 20.0))
    assert verdict.outcome is Outcome.PASS
    assert verdict.n <= 150
    assert "p95 response time at 20/s is within 12 ms" in verdict.reason
    assert verdict.statistics["load_share"] == pytest.approx(0.14, abs=0.02)


def test_a_slow_model_fails() -> None:
    assert gate().evaluate(at_rate(services(200, p95_ms=15.0), 20.0)).outcome is Outcome.FAIL


def test_stalls_that_a_closed_loop_hides_fail_in_an_open_one() -> None:
    latencies = services(6000, p95_ms=9.0)
    latencies[100::1000] += 500 * MS
    closed = parse("p95_latency", ("12 ms",), {}, settings=GateSettings()).evaluate(timed(latencies))
    assert closed.outcome is Outcome.PASS
    assert gate(rate="100/s", stall=None).evaluate(at_rate(latencies, 100.0)).outcome is Outcome.FAIL


def test_closed_loop_latencies_do_not_count_at_a_rate_nor_those_of_another_rate() -> None:
    verdict = gate().evaluate(timed(services(400)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert not verdict.decided
    other = at_rate(services(400), 50.0)
    assert gate().demand(other) == Demand(inferences=30, rate_hz=20.0)


def test_a_queue_that_never_drains_never_passes_and_says_so() -> None:
    sample = at_rate(services(1000, p95_ms=60.0), 20.0)
    verdict = gate("10 min", max_samples=1000).evaluate(sample)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "cannot keep up with 20/s" in verdict.reason
    assert gate("1 s", max_samples=1000).evaluate(sample).outcome is Outcome.FAIL


def test_measuring_ends_although_the_model_cannot_keep_up() -> None:
    latencies = services(4000, p95_ms=60.0)
    asked: list[int] = []

    def measure(demand: Demand) -> Sample:
        asked.append(demand.inferences)
        return at_rate(latencies[: sum(asked)], demand.rate_hz)

    for budget, outcome in (("10 min", Outcome.INCONCLUSIVE), ("500 ms", Outcome.FAIL)):
        asked.clear()
        _, (verdict,) = judge(
            [gate(budget, max_samples=1000)], sample=Sample.empty(), measure=measure, clock=lambda: 0.0, max_seconds=1.0
        )
        assert verdict.outcome is outcome
        assert sum(asked) <= 1000


def test_at_a_high_load_a_sample_counts_for_less() -> None:
    latencies = services(1200)
    found = [gate(rate=f"{hz}/s", stall="250 ms").evaluate(at_rate(latencies, hz)) for hz in (20.0, 40.0, 110.0)]
    assert [one.outcome for one in found] == [Outcome.PASS, Outcome.PASS, Outcome.INCONCLUSIVE]
    assert found[1].n > 1.9 * found[0].n > 800
    assert "one stall of 250 ms makes about 11" in found[2].reason
    assert "a shorter stall=" in found[2].would_change
    assert found[2].statistics["stall_cluster"] > 100
    told = [one for one in found[0].not_checked if one.startswith("stalls: ")]
    assert len(told) == 1
    assert "longer than 250 ms" in told[0]


@pytest.mark.parametrize(
    ("asked", "stall_ms", "most"),
    [
        ({}, 250, 3600),
        ({"budget": "400 ms"}, 800, 3600),
        ({"stall": "40 ms"}, 40, 3600),
        ({"rate": "1/s"}, 250, 1000),
        ({"max_samples": 500}, 250, 500),
    ],
)
def test_what_a_pass_excludes_by_default_and_how_much_may_be_measured_for_it(
    asked: dict[str, object], stall_ms: int, most: int
) -> None:
    found = gate(**{"stall": None, **asked})  # type: ignore[arg-type]
    assert (found.stall_ns, found.max_samples) == (stall_ms * MS, most)


def test_a_stall_without_a_rate_is_refused() -> None:
    with pytest.raises(MarkerError, match="stall means nothing without rate=…"):
        parse("p95_latency", ("12 ms",), {"stall": "1 s"}, settings=GateSettings())


def test_a_sample_with_stalls_counts_by_busy_periods_and_not_by_slow_responses() -> None:
    rare = services(2000)
    rare[1000] += 500 * MS  # one stall, and with it more slow responses than 5 % of all
    verdict = gate(rate="110/s", stall=None).evaluate(at_rate(rare, 110.0))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.statistics["exceedances"] > 200
    assert verdict.statistics["effective_n"] < 12


def test_a_stall_makes_as_many_responses_slow_as_it_takes_to_drain() -> None:
    interval, service, budget = 10.0, 8.0, 24.0
    queue = np.full(200, service)
    queue[20] += 2 * budget - service  # the response becomes twice the budget
    ended, slow = 0.0, 0
    for at, took in enumerate(queue):
        ended = max(ended, at * interval) + took
        slow += ended - at * interval > budget
    expected = drained(queue[:20], interval_ns=interval, budget_ns=budget, stall_ns=2 * budget)
    assert expected == pytest.approx(slow, abs=1)


def test_the_minimum_duration_counts_from_when_inferences_were_due() -> None:
    latencies = services(300)
    assert gate(min_duration="14 s").evaluate(at_rate(latencies, 20.0)).outcome is Outcome.PASS
    late = gate(min_duration="15 s").evaluate(at_rate(latencies, 20.0))
    assert late.outcome is Outcome.INCONCLUSIVE
    assert "15 s" in late.reason


def test_beginning_late_by_our_own_fault_is_named() -> None:
    prompt = gate().evaluate(at_rate(services(400), 20.0, late_ns=2000))
    assert not any("lateness" in one for one in prompt.not_checked)
    late = gate().evaluate(at_rate(services(400), 20.0, late_ns=200_000))
    assert any("lateness" in one and "1.67%" in one for one in late.not_checked)


def test_throttling_while_it_was_measured_is_invalid_and_before_it_is_not() -> None:
    sample = at_rate(services(400), 20.0)
    hot = (*sample.readings[:3], reading(3.5, throttled=4), *sample.readings[4:])
    assert gate().evaluate(sample.replace(readings=hot)).outcome is Outcome.INVALID
    before = (reading(-9.0, throttled=4), *sample.readings)
    assert gate().evaluate(sample.replace(readings=before)).outcome is Outcome.PASS


@pytest.mark.parametrize("bad", [np.empty(0, dtype=np.int64), np.full(200, 8 * MS), -services(200)])
def test_nothing_constant_or_negative_passes(bad: np.ndarray) -> None:
    assert gate().evaluate(at_rate(bad, 20.0)).outcome is not Outcome.PASS


def test_the_gate_is_restored_from_its_arguments() -> None:
    one = gate(rate="90/min")
    assert one.rate_hz == 1.5
    assert from_arguments("p95_latency", one.arguments()) == one


def test_queueing_does_not_make_the_gate_pass_what_is_at_its_budget() -> None:
    """Quick form of benchmarks/statistics/open_loop.py: without the cluster about 60 % passed here."""
    rng = np.random.default_rng(5)
    rate_hz = 1000.0 / 11.4  # load 0.9
    budget_ns = 16_800_000  # the true p95, from two million inferences
    found = [
        gate(f"{budget_ns} ns", rate=f"{rate_hz}/s", stall="33 ms")
        .evaluate(at_rate(to_ns(latencies_ms(rng, 1000)), rate_hz))
        .outcome
        for _ in range(30)
    ]
    assert found.count(Outcome.PASS) <= 2
    assert found.count(Outcome.FAIL) <= 5
