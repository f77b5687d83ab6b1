"""The stated error rates, in a few seconds: the simulations of ``benchmarks/statistics`` with few runs and fixed seeds.

How many wrong verdicts may come up follows from the binomial distribution: a gate at exactly 5 % exceeds `at_most` once
in a thousand times, and the seeds are fixed, so it does not do so now and then. The full simulations stand in
``docs/explanation/error-rates.md``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy

from pytest_edgehil.model import Outcome

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def at_most(runs: int, rate: float = 0.05) -> int:
    """The most wrong verdicts that so many runs may have at this rate."""
    return int(scipy.stats.binom.isf(0.001, runs, rate))


def at_least(runs: int, rate: float) -> int:
    """The fewest right ones at this rate."""
    return int(scipy.stats.binom.ppf(0.001, runs, rate))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS / "statistics"))
    yield importlib.import_module
    for name in (
        "bench",
        "cases",
        "other_cases",
        "regime",
        "thermal",
        "soak_leak",
        "p95_operating_characteristics",
        "meters",
        "open_loop",
        "open_loop_drawn",
    ):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("rho", "ratio", "right", "inferences"),
    [
        (0.0, 0.7, "PASS", 200),
        (0.5, 0.7, "PASS", 230),  # mean 196, standard error 11 in so few runs
        (0.0, 1.1, "FAIL", 45),
        (0.5, 1.1, "FAIL", 45),
        (0.0, 1.5, "FAIL", 30),
        (0.5, 1.5, "FAIL", 30),
        (0.8, 1.5, "FAIL", 40),
    ],
)
def test_clear_cases_are_decided_rightly_and_with_few_inferences(script, rho, ratio, right, inferences) -> None:
    p95 = script("p95_operating_characteristics")
    rng = np.random.default_rng([round(10 * rho), round(10 * ratio)])
    budget_ns = round(p95.TRUE_P95_MS / ratio * p95.MS)
    found = p95.summary([p95.gate(p95.to_ns(p95.latencies_ms(rng, 1000, rho=rho)), budget_ns) for _ in range(60)])
    assert (found.passed, found.failed) == (right == "PASS", right == "FAIL")
    assert found.inferences <= inferences


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_at_the_budget_wrong_verdicts_are_as_rare_as_stated(script, rho: float) -> None:
    p95 = script("p95_operating_characteristics")
    rng = np.random.default_rng(17)
    budget_ns = round(p95.TRUE_P95_MS * p95.MS)
    found = [p95.gate(p95.to_ns(p95.latencies_ms(rng, 1000, rho=rho)), budget_ns)[0] for _ in range(60)]
    assert found.count(Outcome.PASS) <= at_most(60)
    assert found.count(Outcome.FAIL) <= at_most(60)


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(
    "name",
    ["lognormal, rho 0.9", "lognormal, rho 0.95", "Pareto, rho 0.5", "coarse clock, rho 0.8", "mean of 10 neighbours"],
)
def test_other_latencies_and_quantiles_err_no_more_often(script, name: str, quantile: float) -> None:
    other = script("other_cases")
    found = other.errors(other.ORDINARY[name], quantile, 40, seed=3)
    assert found.passed * 40 <= at_most(40)
    assert found.failed * 40 <= at_most(40)


def test_throttling_that_comes_and_goes_does_not_pass(script) -> None:
    regime = script("regime")
    limit_ms = regime.budget_ms()
    for name in ("bits, as by default", "no bits, as by default"):
        outcomes, _ = regime.run(regime.GUARDS[name], limit_ms, 15)
        assert outcomes[Outcome.PASS] <= at_most(15, 0.06)
    assert regime.run(regime.GUARDS["no guard"], limit_ms, 15)[0][Outcome.PASS] >= at_least(15, 0.35)


def test_a_board_well_below_or_above_its_limit_is_told_long_before_the_end(script) -> None:
    thermal = script("thermal")
    for end_c, right in ((65.0, Outcome.PASS), (75.0, Outcome.PASS), (85.0, Outcome.FAIL), (95.0, Outcome.FAIL)):
        rng = np.random.default_rng(round(end_c))
        found = [thermal.ours(thermal.temperatures(rng, end_c)) for _ in range(4)]
        assert {outcome for outcome, _ in found} == {right}
        assert np.mean([seconds for _, seconds in found]) < thermal.SECONDS / 2


def test_a_leak_is_called_early_and_warming_up_is_none(script) -> None:
    soak = script("soak_leak")
    rng = np.random.default_rng(11)
    for leaked, right, minute in ((20.0, "above", 36.0), (50.0, "above", 27.0), (0.0, "below", 60.0)):
        found = [soak.ours(soak.memory(rng, leaked)) for _ in range(12)]
        assert sum(decision != right for decision, _ in found) <= at_most(12)
        assert np.mean([one for _, one in found]) <= minute


def test_means_of_meters_and_tokens_at_their_limit_are_wrong_in_at_most_their_error_rate(script) -> None:
    meters, runs = script("meters"), 50
    rng = np.random.default_rng(3)
    samples = [meters.metered(rng, meters.steady) for _ in range(runs)]
    found = [
        meters.cell(meters.gate("energy", f"{meters.POWER_W * meters.LATENCY_MS / 1e3} J"), samples),
        meters.cell(meters.gate("npu_utilisation", at_least=meters.USED), samples),
        meters.cell(
            meters.gate("tokens_per_second", f"{meters.token_rate_hz(regimes=False)}/s"),
            [meters.generating(rng, regimes=False) for _ in range(runs)],
        ),
    ]
    for one in found:
        assert max(one.passed, one.failed) * runs <= at_most(runs), found
    assert meters.cell(meters.gate("npu_utilisation", at_least=0.9 * meters.USED), samples).passed > 0.8


def test_responses_at_a_rate_do_not_pass_at_their_budget_on_scenarios_drawn_at_random(script) -> None:
    drawn, scenarios = script("open_loop_drawn"), 12
    found = drawn.simulated(scenarios, reference=200_000)
    wrong = sum(found[kind, 1.0]["PASS"] for kind in drawn.KINDS[:2])
    assert wrong <= at_most(scenarios)
    assert sum(of.total() for (kind, _), of in found.items() if kind in drawn.KINDS[:2]) == 3 * scenarios
