from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from pytest_edgehil.gates.share import judge
from pytest_edgehil.gates.stats import tango
from pytest_edgehil.gates.stats.binomial import clopper_pearson, last_chance, trials_needed
from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, most_exceedances_to_pass
from pytest_edgehil.gates.stats.sequential import looks
from pytest_edgehil.gates.stats.spending import boundaries
from pytest_edgehil.model.verdict import Outcome


@pytest.mark.parametrize(
    ("agreement", "needed"),
    [(0.99, [299, 473, 628, 773]), (0.98, [149, 236, 313, 386]), (0.995, [598, 947, 1258, 1549])],
)
def test_items_needed_have_their_published_values(agreement: float, needed: list[int]) -> None:
    assert [trials_needed(1 - agreement, 0.05, exceedances=s) for s in range(4)] == needed


def test_clopper_pearson_inverts_the_binomial_tails() -> None:
    low, high = clopper_pearson(200, 7, 0.05)
    assert scipy.stats.binom.cdf(7, 200, high) == pytest.approx(0.05)
    assert scipy.stats.binom.sf(6, 200, low) == pytest.approx(0.05)
    assert clopper_pearson(20, 0, 0.05)[0] == 0.0
    assert clopper_pearson(20, 20, 0.05)[1] == 1.0


@pytest.mark.parametrize(("size", "p0"), [(299, 0.01), (500, 0.02), (120, 0.05), (20, 0.1)])
def test_looks_and_last_chance_together_err_at_most_alpha(size: int, p0: float) -> None:
    """Simulated on the limit itself, the worst case of either null."""
    at = looks(size, also=size)
    most, fewest = last_chance(size, p0, 0.05, at=at)
    rng = np.random.default_rng(1)
    bad = rng.random((4000, size)) < p0
    counts = np.cumsum(bad, axis=1)
    decided = np.zeros(4000, dtype=int)
    for n in at:
        s = counts[:, n - 1]
        decided = np.where((decided == 0) & (s >= fewest_exceedances_to_fail(n, p0, 0.05)), -1, decided)
        if n >= 60:
            decided = np.where((decided == 0) & (s <= most_exceedances_to_pass(n, p0, 0.05)), 1, decided)
    decided = np.where((decided == 0) & (counts[:, -1] <= most), 1, decided)
    decided = np.where((decided == 0) & (counts[:, -1] >= fewest), -1, decided)
    spread = 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert (decided == 1).mean() <= 0.05 + spread
    assert (decided == -1).mean() <= 0.05 + spread


def test_last_chance_without_looks_is_the_ordinary_exact_test() -> None:
    most, fewest = last_chance(500, 0.02, 0.05, at=())
    assert scipy.stats.binom.cdf(most, 500, 0.02) <= 0.05 < scipy.stats.binom.cdf(most + 1, 500, 0.02)
    assert scipy.stats.binom.sf(fewest - 1, 500, 0.02) <= 0.05 < scipy.stats.binom.sf(fewest - 2, 500, 0.02)


@pytest.mark.parametrize(("n", "lost", "gained", "drop"), [(500, 3, 1, 0.02), (100, 0, 0, 0.01), (80, 9, 12, -0.05)])
def test_tango_uses_the_constrained_maximum_likelihood(n: int, lost: int, gained: int, drop: float) -> None:
    def minus_log_likelihood(rate: float) -> float:
        kept = 1.0 - 2.0 * rate - drop
        if rate + drop < 0 or kept <= 0:
            return math.inf
        told = (n - lost - gained) * math.log(kept)
        told += lost * math.log(rate + drop) if lost else 0.0
        return -(told + (gained * math.log(rate) if gained else 0.0))

    lowest = max(0.0, -drop) + 1e-12
    rate = scipy.optimize.minimize_scalar(
        minus_log_likelihood, bounds=(lowest, (1 - drop) / 2), method="bounded", options={"xatol": 1e-12}
    ).x
    expected = (lost - gained - n * drop) / math.sqrt(n * (2 * rate + drop * (1 - drop)))
    assert tango.score(n, lost, gained, drop) == pytest.approx(expected, abs=1e-3)


def test_tango_interval_ends_where_the_score_is_z() -> None:
    low, high = tango.interval(300, 12, 4, 1.645)
    assert tango.cautious(300, 12, 4, low) == pytest.approx(1.645, abs=1e-6)
    assert tango.cautious(300, 12, 4, high) == pytest.approx(-1.645, abs=1e-6)
    assert low < 8 / 300 < high


def test_boundaries_have_their_textbook_values() -> None:
    # Lan-DeMets with the O'Brien-Fleming-type function, five even looks, one-sided 2.5 % (Jennison & Turnbull 2000).
    expected = [4.877, 3.357, 2.680, 2.290, 2.031]
    assert boundaries([0.2, 0.4, 0.6, 0.8, 1.0], 0.025) == pytest.approx(expected, abs=2e-3)
    assert boundaries([1.0], 0.05) == pytest.approx([1.6449], abs=1e-4)


@pytest.mark.parametrize(("n", "drop", "gained_rate"), [(300, 0.01, 0.01), (500, 0.02, 0.005), (500, 0.01, 0.02)])
def test_the_score_test_has_its_size_at_the_margin(n: int, drop: float, gained_rate: float) -> None:
    """Exactly, as ``benchmarks/statistics/tango_size.py`` counts it for more settings."""
    rates = (drop + gained_rate, gained_rate)
    counts = np.arange(40)
    lost, gained = np.meshgrid(counts, counts, indexing="ij")
    p = scipy.stats.binom.pmf(gained, n, rates[1]) * scipy.stats.binom.pmf(
        lost, n - gained, rates[0] / (1.0 - rates[1])
    )
    assert p.sum() == pytest.approx(1.0, abs=1e-4)
    score = np.vectorize(lambda b, c: tango.score(n, b, c, drop))(lost, gained)
    assert 0.031 <= float(p[score <= -1.6449].sum()) <= 0.052


@pytest.mark.parametrize(("n", "drop"), [(300, 0.01), (300, 0.02), (500, 0.01)])
@pytest.mark.parametrize("gained_rate", [0.0, 0.01])
def test_the_gates_cautious_score_errs_in_at_most_its_error_rate(n: int, drop: float, gained_rate: float) -> None:
    lost, gained = np.meshgrid(np.arange(40), np.arange(25), indexing="ij")
    p = scipy.stats.binom.pmf(gained, n, gained_rate)
    p = p * scipy.stats.binom.pmf(lost, n - gained, (drop + gained_rate) / (1.0 - gained_rate))
    score = np.vectorize(lambda b, c: tango.cautious(n, b, c, drop))(lost, gained)
    assert float(p[score <= -1.6449].sum()) <= 0.052
    assert float(p[score >= 1.6449].sum()) <= 0.055


def test_where_nothing_is_gained_walds_interval_passes_almost_one_set_in_five() -> None:
    lost = np.arange(40)
    p = scipy.stats.binom.pmf(lost, 300, 0.01)
    spread = np.sqrt(lost / 300 - (lost / 300) ** 2) / np.sqrt(300)
    assert float(p[lost / 300 + 1.6449 * spread < 0.01].sum()) == pytest.approx(0.198, abs=0.002)
    score = np.array([tango.score(300, int(one), 0, 0.01) for one in lost])
    assert float(p[score <= -1.6449].sum()) < 0.05


@pytest.mark.parametrize("limit", [0.005, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("size", [20, 120, 300, 900])
def test_the_bounds_of_a_whole_set_never_contradict_its_verdict(size: int, limit: float) -> None:
    rng = np.random.default_rng(size)
    at = looks(size, also=size)
    most, fewest = last_chance(size, limit, 0.05, at=at)
    # a contradiction is possible where the verdict changes; elsewhere a bound is far from the limit
    close = {edge + off for edge in (most, fewest) for off in (-2, -1, 0, 1, 2)}
    upto = min(size, math.ceil(3 * limit * size) + 12)
    for s in sorted({one for one in close if 0 <= one < size} | set(range(0, upto, max(1, upto // 12)))):
        bad = np.zeros(size, dtype=bool)
        bad[rng.permutation(size)[:s]] = True
        share = judge(bad, limit=limit, alpha=0.05, size=size)
        low, high = share.bounds
        if share.outcome is Outcome.PASS:
            assert high <= limit + 2e-6
        elif share.outcome is Outcome.FAIL:
            assert low >= limit - 2e-6
        else:
            assert low < limit < high
        if share.whole:
            exact = clopper_pearson(size, s, 0.05)
            assert low <= exact[0] + 2e-6
            assert high >= exact[1] - 2e-6
