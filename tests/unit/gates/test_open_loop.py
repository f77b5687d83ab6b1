"""Quantiles of response times at a given rate: what queueing does to a sample, and what the gate makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from support.samples import MS, conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.gates.judging import judge
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.gates.stats.queueing import stall_cluster
from pytest_edgehil.model import Demand, Outcome, Sample
from pytest_edgehil.model.series import OpenLoop


def gate(budget: str = "12 ms", *, rate: str = "20/s", **changes: object) -> LatencyQuantile:
    found = parse("p95_latency", (budget,), {"rate": rate, **changes}, settings=GateSettings())
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
    latencies = services(1000, p95_ms=9.0)
    latencies[100::250] += 500 * MS
    closed = parse("p95_latency", ("12 ms",), {}, settings=GateSettings()).evaluate(timed(latencies))
    assert closed.outcome is Outcome.PASS
    assert gate(rate="100/s").evaluate(at_rate(latencies, 100.0)).outcome is Outcome.FAIL


def test_closed_loop_latencies_do_not_count_at_a_rate_nor_those_of_another_rate() -> None:
    verdict = gate().evaluate(timed(services(400)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert not verdict.decided
    other = at_rate(services(400), 50.0)
    assert gate().demand(other) == Demand(inferences=30, rate_hz=20.0)


def test_a_queue_that_never_drains_never_passes_and_says_so() -> None:
    sample = at_rate(services(1000, p95_ms=60.0), 20.0)
    verdict = gate("10 min").evaluate(sample)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.decided
    assert "cannot keep up with 20/s" in verdict.reason
    assert gate("1 s").evaluate(sample).outcome is Outcome.FAIL


def test_measuring_ends_although_the_model_cannot_keep_up() -> None:
    latencies = services(4000, p95_ms=60.0)
    asked: list[int] = []

    def measure(demand: Demand) -> Sample:
        asked.append(demand.inferences)
        return at_rate(latencies[: sum(asked)], demand.rate_hz)

    for budget, outcome in (("10 min", Outcome.INCONCLUSIVE), ("500 ms", Outcome.FAIL)):
        asked.clear()
        _, (verdict,) = judge(
            [gate(budget)], sample=Sample.empty(), measure=measure, clock=lambda: 0.0, max_seconds=1.0
        )
        assert verdict.outcome is outcome
        assert sum(asked) <= 1000


def test_at_a_high_load_a_sample_counts_for_less() -> None:
    latencies = services(1000)
    easy = gate().evaluate(at_rate(latencies, 20.0))
    hard = gate(rate="110/s").evaluate(at_rate(latencies, 110.0))
    assert easy.outcome is Outcome.PASS
    assert hard.outcome is Outcome.PASS
    assert hard.n > 3 * easy.n
    nearly_full = gate(rate="128/s").evaluate(at_rate(latencies, 128.0))
    assert nearly_full.outcome is Outcome.INCONCLUSIVE
    assert "stall" in nearly_full.reason


def test_a_stall_makes_as_many_responses_slow_as_it_takes_to_drain() -> None:
    interval, service, budget = 10.0, 8.0, 24.0
    queue = np.full(200, service)
    queue[20] += 2 * budget - service  # the response becomes twice the budget
    ended, slow = 0.0, 0
    for at, took in enumerate(queue):
        ended = max(ended, at * interval) + took
        slow += ended - at * interval > budget
    assert stall_cluster(queue[:20], interval_ns=interval, budget_ns=budget) == pytest.approx(slow, abs=1)


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
        gate(f"{budget_ns} ns", rate=f"{rate_hz}/s").evaluate(at_rate(to_ns(latencies_ms(rng, 1000)), rate_hz)).outcome
        for _ in range(30)
    ]
    assert found.count(Outcome.PASS) <= 2
    assert found.count(Outcome.FAIL) <= 5
