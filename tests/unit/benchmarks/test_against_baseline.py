"""The error rates of a comparison with a baseline, in a short form with fixed seeds.

Each share is held against what the long form of the benchmark found, within four standard errors of so few
repetitions: a test that alarms once in ten thousand seeds, and only when somebody changes the method.
"""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks/statistics/against_baseline.py"
REPETITIONS = 200


@pytest.fixture(scope="module")
def simulation():
    spec = util.spec_from_file_location("benchmarks_against_baseline", SCRIPT)
    module = util.module_from_spec(spec)
    before = list(sys.path)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before
    for name in (spec.name, "bench"):
        sys.modules.pop(name, None)


def near(share: float, expected: float) -> bool:
    error = max((expected * (1 - expected) / REPETITIONS) ** 0.5, 1 / REPETITIONS)
    return abs(share - expected) <= 4 * error


@pytest.mark.parametrize(
    ("ratio", "looks", "once"),
    [(1.05, (0.95, 0.0), (0.96, 0.0)), (1.10, (0.055, 0.055), (0.05, 0.05)), (1.15, (0.0, 0.94), (0.0, 0.95))],
)
def test_interleaved_pairs_keep_their_error_rate_and_find_what_differs(simulation, ratio, looks, once):
    rng = np.random.default_rng([7, round(100 * ratio)])
    samples = [simulation.interleaved(rng, ratio, 0.5) for _ in range(REPETITIONS)]
    early = simulation.summary([simulation.judged(*one) for one in samples])
    late = simulation.summary([simulation.judged(*one, at=(simulation.PAIRS,)) for one in samples])
    assert near(early.passed, looks[0]), early
    assert near(early.failed, looks[1]), early
    assert near(late.passed, once[0]), late
    assert near(late.failed, once[1]), late
    assert early.pairs < late.pairs


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_other_quantiles_keep_it_too(simulation, quantile, monkeypatch):
    monkeypatch.setattr(simulation, "Q", quantile)
    rng = np.random.default_rng([9, round(100 * quantile)])
    found = simulation.summary(
        [simulation.judged(*simulation.interleaved(rng, simulation.LIMIT, 0.5)) for _ in range(REPETITIONS)]
    )
    assert near(found.passed, 0.055), found
    assert near(found.failed, 0.055), found


def test_one_after_the_other_breaks_under_a_step_and_interleaving_does_not(simulation):
    apart, turns = simulation.under_a_step(REPETITIONS)
    assert apart.failed > 0.10
    assert apart.passed < 0.60
    assert (turns.passed, turns.failed) == (1.0, 0.0)


def test_a_stored_golden_needs_the_spread_between_sessions(simulation):
    without, with_it = (simulation.golden(REPETITIONS, 1.10, believed=spread) for spread in (0.0, 0.03))
    assert near(without.passed, 0.31), without
    assert near(without.failed, 0.32), without
    assert near(with_it.passed, 0.05), with_it
    assert near(with_it.failed, 0.05), with_it


def test_rank_tests_ask_another_question(simulation):
    for alike, tail in simulation.wrong_tests(REPETITIONS).values():
        assert alike > 0.08  # significant where nothing differs: inferences are not independent
        assert tail < 0.5  # and not where the p95 is 1.2 times as long
