from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.samples import TRUE_P95_MS, latencies_ms

from pytest_edgehil.gates.stats.autocorrelation import tail_correlation, variance_inflation
from pytest_edgehil.gates.stats.sequential import Decision, looks, next_look, walk


def test_looks_stand_where_the_design_puts_them() -> None:
    assert looks(100) == (30, 34, 38, 43, 48, 53, 60, 67, 75, 84, 94)
    assert looks(29) == ()
    assert looks(1000, also=1000)[-1] == 1000


@given(n=st.integers(0, 3000), also=st.integers(30, 2000))
def test_next_look_is_the_first_beyond(n: int, also: int) -> None:
    upcoming = next_look(n, also=also)
    assert upcoming > n
    assert upcoming in looks(5000, also=also)
    assert not [one for one in looks(5000, also=also) if n < one < upcoming]


@given(exceeded=st.lists(st.booleans(), max_size=300), rest=st.lists(st.booleans(), max_size=300))
def test_a_longer_sample_never_changes_what_was_decided(exceeded: list[bool], rest: list[bool]) -> None:
    def decide(values: list[bool]) -> tuple[Decision, object]:
        return walk(np.array(values, dtype=bool), p0=0.05, alpha=0.05, at=looks(len(values)))

    first, look = decide(exceeded)
    if first is not Decision.OPEN:
        assert decide(exceeded + rest) == (first, look)


def test_bursts_among_the_exceedances_count_for_less_than_as_many_single_ones() -> None:
    def inflation(_: int) -> float:
        return 1.0

    single, burst = np.zeros(400, dtype=bool), np.zeros(400, dtype=bool)
    single[[20, 120, 220]] = burst[20:23] = True
    assert walk(single, p0=0.05, alpha=0.05, at=looks(400), inflation=inflation)[0] is Decision.BELOW
    assert walk(burst, p0=0.05, alpha=0.05, at=looks(400))[0] is Decision.BELOW, "as independent trials they would pass"
    held = walk(burst, p0=0.05, alpha=0.05, at=looks(400), inflation=inflation)
    assert held[0] is Decision.OPEN
    assert held[1] is not None
    assert held[1].inflation > 3.0


def test_a_run_that_still_goes_on_is_no_burst_and_can_fail() -> None:
    exceeded = np.arange(400) >= 200
    decision, look = walk(exceeded, p0=0.05, alpha=0.05, at=looks(400), inflation=lambda _: 1.0)
    assert decision is Decision.ABOVE
    assert look is not None
    assert look.n < 300


@given(exceeded=st.lists(st.booleans(), min_size=30, max_size=400), data=st.data())
def test_more_exceedances_never_turn_above_into_below(exceeded: list[bool], data: st.DataObject) -> None:
    more = np.array(exceeded) | np.array(
        data.draw(st.lists(st.booleans(), min_size=len(exceeded), max_size=len(exceeded)))
    )
    before = walk(np.array(exceeded), p0=0.05, alpha=0.05, at=looks(len(exceeded)))[0]
    after = walk(more, p0=0.05, alpha=0.05, at=looks(len(exceeded)))[0]
    assert not (before is Decision.ABOVE and after is Decision.BELOW)
    assert not (before is not Decision.BELOW and after is Decision.BELOW)


def test_correlation_delays_a_decision_and_never_forbids_the_other_for_good() -> None:
    exceeded = np.zeros(400, dtype=bool)
    plain = walk(exceeded, p0=0.05, alpha=0.05, at=looks(400))
    slowed = walk(exceeded, p0=0.05, alpha=0.05, at=looks(400), inflation=lambda _: 3.0)
    assert plain[0] is slowed[0] is Decision.BELOW
    assert plain[1] is not None
    assert slowed[1] is not None
    assert slowed[1].n > 2 * plain[1].n


def test_once_shown_above_without_correction_it_can_no_longer_end_below() -> None:
    exceeded = np.concatenate((np.ones(8, dtype=bool), np.zeros(2000, dtype=bool)))
    decision, _ = walk(exceeded, p0=0.05, alpha=0.05, at=looks(2008), inflation=lambda n: 6.0 if n < 100 else 1.0)
    assert decision is Decision.OPEN


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_inflation_is_near_the_truth_of_an_autoregression(rho: float) -> None:
    """The truth: 1 + 2·Σ c(ρ^k), known for a Gaussian AR(1)."""
    truth = 1.0 + 2.0 * float(tail_correlation(rho ** np.arange(1, 200), 0.05).sum())
    rng = np.random.default_rng(11)
    found = []
    for _ in range(30):
        z = np.empty(3000)
        z[0] = rng.normal()
        for i in range(1, z.size):
            z[i] = rho * z[i - 1] + np.sqrt(1 - rho * rho) * rng.normal()
        found.append(variance_inflation(z, 0.05))
    assert truth * 0.9 < float(np.median(found)) < truth * 1.8  # the larger of two estimates: cautious, not wild


@given(st.lists(st.integers(1, 10**6), min_size=4, max_size=200), st.integers(2, 1000))
def test_inflation_knows_order_only(values: list[int], factor: int) -> None:
    series = np.array(values)
    assert variance_inflation(series * factor, 0.05) == pytest.approx(variance_inflation(series, 0.05), rel=1e-9)
    assert variance_inflation(series, 0.05) >= 1.0


@pytest.mark.parametrize(
    ("ratio", "rho", "expected", "most_inferences"),
    [
        (0.7, 0.0, Decision.BELOW, 200),
        (0.7, 0.5, Decision.BELOW, 240),
        (1.1, 0.0, Decision.ABOVE, 45),
        (1.1, 0.5, Decision.ABOVE, 55),
        (1.5, 0.5, Decision.ABOVE, 30),
    ],
)
def test_clear_cases_are_decided_rightly_and_soon(
    ratio: float, rho: float, expected: Decision, most_inferences: int
) -> None:
    rng = np.random.default_rng(5)
    needed = []
    for _ in range(40):
        values = latencies_ms(rng, 1000, rho=rho)
        decision, look = walk(
            values > TRUE_P95_MS / ratio,
            p0=0.05,
            alpha=0.05,
            at=looks(1000),
            inflation=lambda n, values=values: variance_inflation(values[:n], 0.05),
        )
        assert decision is expected
        assert look is not None
        needed.append(look.n)
    assert np.mean(needed) <= most_inferences


def test_at_the_budget_a_false_pass_is_rare_also_with_strong_correlation() -> None:
    rng = np.random.default_rng(6)
    passes = 0
    for _ in range(60):
        values = latencies_ms(rng, 1000, rho=0.8)
        decision, _ = walk(
            values > TRUE_P95_MS,
            p0=0.05,
            alpha=0.05,
            at=looks(1000),
            inflation=lambda n, values=values: variance_inflation(values[:n], 0.05),
        )
        passes += decision is Decision.BELOW
    assert passes <= 7  # 5 % of 60 is 3; 8 or more would happen once in 100 runs of a gate at exactly 5 %
