from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from pytest_edgehil.gates.stats.eprocess import (
    fewest_exceedances_to_fail,
    log_e_fail,
    log_e_pass,
    most_exceedances_to_pass,
    rate_interval,
)


@pytest.mark.parametrize(
    ("n", "s", "expected"),
    [(69, 0, 2.9533), (70, 0, 2.9992), (128, 1, 2.9865), (129, 1, 3.0277)],
)
def test_log_e_pass_has_its_published_values(n: int, s: int, expected: float) -> None:
    assert round(float(log_e_pass(n, s, 0.05)), 4) == expected


@pytest.mark.parametrize(("n", "s", "expected"), [(3, 3, 4.0530), (30, 5, 2.1177), (30, 6, 3.3668)])
def test_log_e_fail_has_its_published_values(n: int, s: int, expected: float) -> None:
    assert round(float(log_e_fail(n, s, 0.05)), 4) == expected


def test_seventy_inferences_without_an_exceedance_are_the_fewest_that_pass() -> None:
    threshold = math.log(20)
    assert float(log_e_pass(69, 0, 0.05)) < threshold <= float(log_e_pass(70, 0, 0.05))


def log_expectation(process: Callable[..., Any], n: int, p0: float, rate: float) -> float:
    counts = np.arange(n + 1)
    return float(special.logsumexp(stats.binom.logpmf(counts, n, rate) + process(n, counts, p0)))


@pytest.mark.parametrize("p0", [0.01, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("process", [log_e_pass, log_e_fail])
def test_both_processes_have_expectation_one_at_the_limit(p0: float, process: Callable[..., Any]) -> None:
    """What Ville's inequality rests on: at the limit each is a martingale that starts at 1."""
    for n in (1, 7, 40, 200):
        assert log_expectation(process, n, p0, p0) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("p0", [0.01, 0.05, 0.2])
def test_inside_its_null_the_expectation_is_at_most_one(p0: float) -> None:
    assert log_expectation(log_e_pass, 150, p0, 1.5 * p0) <= 0.0
    assert log_expectation(log_e_fail, 150, p0, 0.5 * p0) <= 0.0


@given(n=st.integers(1, 400), p0=st.floats(0.005, 0.5), data=st.data())
def test_more_exceedances_never_speak_for_a_pass_nor_against_a_fail(n: int, p0: float, data: st.DataObject) -> None:
    s = data.draw(st.integers(0, n - 1))
    assert float(log_e_pass(n, s + 1, p0)) <= float(log_e_pass(n, s, p0)) + 1e-9
    assert float(log_e_fail(n, s + 1, p0)) >= float(log_e_fail(n, s, p0)) - 1e-9


@given(n=st.integers(1, 500), inflation=st.floats(1.0, 8.0))
def test_critical_counts_are_exactly_where_the_processes_cross(n: int, inflation: float) -> None:
    threshold = math.log(20)
    most = most_exceedances_to_pass(n, 0.05, 0.05, inflation=inflation)
    fewest = fewest_exceedances_to_fail(n, 0.05, 0.05, inflation=inflation)
    counts = np.arange(n + 1)
    passing = np.flatnonzero(log_e_pass(n / inflation, counts / inflation, 0.05) >= threshold)
    failing = np.flatnonzero(log_e_fail(n / inflation, counts / inflation, 0.05) >= threshold)
    assert most == (passing[-1] if passing.size else -1)
    assert fewest == (failing[0] if failing.size else n + 1)
    assert most < fewest


@given(n=st.integers(1, 1000), data=st.data())
def test_interval_holds_the_observed_rate_and_agrees_with_the_processes(n: int, data: st.DataObject) -> None:
    s = data.draw(st.integers(0, n))
    low, high = rate_interval(n, s, 0.05)
    assert 0.0 <= low <= s / n <= high <= 1.0
    if 0.0 < high < 1.0:
        assert float(log_e_pass(n, s, high)) == pytest.approx(math.log(20), abs=1e-3)
    if low > 0.0:
        assert float(log_e_fail(n, s, low)) == pytest.approx(math.log(20), abs=1e-3)


def test_a_sample_of_any_size_is_numerically_safe() -> None:
    for n, s in ((10**6, 0), (10**6, 10**6), (10**6, 50_000)):
        for process in (log_e_pass, log_e_fail):
            assert not math.isnan(float(process(n, s, 0.05)))
