"""More exceedances never turn a FAIL into a PASS: for every gate that counts exceedances.

Where V is estimated this is not plain: one more slow inference may make the sample look less correlated, so that it
counts for more, and passes before the look at which it would have failed. Samples here are made so that this corner is
met: a correlated stretch that all but passes, and a slow one behind it. Without the rule of `sequential.walk` about two
of a thousand such samples turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.samples import MS, timed

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.gates.soaking import crashes
from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, log_e_fail
from pytest_edgehil.gates.stats.sequential import Decision, looks, walk
from pytest_edgehil.model import Outcome, Sample
from pytest_edgehil.model.series import Generations, OpenLoop

Ints = npt.NDArray[np.int64]
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=20, deadline=None)


def correlated(rng: np.random.Generator, n: int, rho: float) -> npt.NDArray[np.float64]:
    shocks = rng.normal(size=n) * np.sqrt(1.0 - rho * rho)
    return np.asarray(10.0 * np.exp(0.08 * scipy.signal.lfilter([1.0], [1.0, -rho], shocks)))


def shaped(rng: np.random.Generator) -> Ints:
    """Latencies of 60 to 1000 inferences: correlated, with bursts, steps, a slow start or a slow end."""
    rho, n = float(rng.choice([0.0, 0.5, 0.8, 0.95])), int(rng.integers(60, 700))
    values = correlated(rng, n, rho)
    for _ in range(int(rng.integers(0, 6))):
        at, length = int(rng.integers(n)), int(rng.integers(1, 40))
        values[at : at + length] *= rng.uniform(1.1, 2.0)
    kind = int(rng.integers(4))
    if kind == 1:
        values[int(rng.integers(n)) :] *= rng.uniform(1.05, 1.4)
    elif kind == 2:
        values[: int(rng.integers(3, 60))] *= rng.uniform(1.1, 1.5)
    elif kind == 3:
        values = np.concatenate((values, rng.uniform(13.0, 16.0, size=int(rng.integers(30, 300)))))
    return np.rint(values * MS).astype(np.int64)


def slower(rng: np.random.Generator, values: Ints, budget_ns: int) -> Ints:
    """Some of them raised beyond the budget: single ones, stretches, or all of them by a little."""
    raised = values.copy()
    kind = int(rng.integers(3))
    if kind == 0:
        at = rng.integers(values.size, size=int(rng.integers(1, 4)))
        raised[at] = int(budget_ns * rng.choice([1.0001, 1.05, 3.0]))
    elif kind == 1:
        start = int(rng.integers(values.size))
        raised[start : start + int(rng.integers(1, 60))] = int(budget_ns * 1.01)
    else:
        raised = (raised * (1.0 + rng.uniform(0.0, 0.3) * rng.random(values.size))).astype(np.int64)
    return np.maximum(raised, values)


def at_rate(values: Ints) -> Sample:
    """Due every 50 ms, and never later than that: what is raised delays nothing else."""
    intended = np.arange(values.size, dtype=np.int64) * 50 * MS
    series = OpenLoop(rate_hz=20.0, intended_ns=intended, starts_ns=intended, latencies_ns=values)
    return timed([1, 2], open_loop=(series,), duration_s=values.size / 20.0)


def generated(values: Ints) -> Sample:
    eight = np.full(values.size, 8)
    made = Generations(
        starts_ns=np.cumsum(values) - values,
        prompt_tokens=eight,
        new_tokens=eight,
        first_token_ns=values,
        total_ns=values + 1,
    )
    return timed([1, 2], generations=made)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A gate on a quantile, and how durations get into what it looks at."""

    declare: Callable[[int], Gate]
    measured: Callable[[Ints], Sample]
    quantile: float = 0.95


def quantile_gate(ns: int, **changes: object) -> LatencyQuantile:
    known: dict[str, object] = {"budget_ns": ns, "alpha": 0.05, "min_duration_ns": 0}
    return LatencyQuantile(**{**known, **changes})  # type: ignore[arg-type]


WAYS = {
    "p95": Way(declare=quantile_gate, measured=timed),
    "median, alpha 0.2": Way(
        declare=lambda ns: quantile_gate(ns, quantile=0.5, alpha=0.2), measured=timed, quantile=0.5
    ),
    "p99": Way(declare=lambda ns: quantile_gate(ns, quantile=0.99, max_samples=50), measured=timed, quantile=0.99),
    "at a rate": Way(declare=lambda ns: quantile_gate(ns, rate_hz=20.0), measured=at_rate),
    "first token": Way(declare=lambda ns: quantile_gate(ns, name="time_to_first_token"), measured=generated),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@given(seed=seeds)
@few
def test_slower_inferences_never_turn_a_fail_into_a_pass(way: Way, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = shaped(rng)
    for step in range(6):  # the largest of a few budgets at which it fails: nearest to the corner
        budget_ns = int(np.quantile(values, max(0.05, way.quantile - (0.5 + step) * (1.0 - way.quantile))))
        gate = way.declare(budget_ns)
        failed = gate.evaluate(way.measured(values)).outcome is Outcome.FAIL
        if failed:
            break
    for _ in range(4):
        turned = gate.evaluate(way.measured(slower(rng, values, budget_ns))).outcome is Outcome.PASS
        assert not (failed and turned)


@given(seed=seeds, rho=st.sampled_from([0.7, 0.8, 0.9, 0.95]), n=st.sampled_from(looks(460)[12:]))
@settings(max_examples=40, deadline=None)
def test_a_stretch_that_all_but_passes_and_then_fails_does_not_pass_when_one_of_it_is_slower(
    seed: int, rho: float, n: int
) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(8):
        stretch, late = correlated(rng, n, rho), rng.uniform(13.0, 16.0, size=int(rng.integers(50, 900)))
        values = np.rint(np.concatenate((stretch, late)) * MS).astype(np.int64)
        gate = quantile_gate(int(np.quantile(values[:n], rng.uniform(0.98, 1.0))) + 1)
        nearly = gate.evaluate(timed(values[:n]))
        if nearly.outcome is Outcome.INCONCLUSIVE and nearly.statistics["log_e_pass"] > 2.5:
            break
    assume(gate.evaluate(timed(values)).outcome is Outcome.FAIL)
    for at in rng.integers(n, size=4).tolist():
        raised = values.copy()
        raised[at] = 13 * MS
        assert gate.evaluate(timed(raised)).outcome is not Outcome.PASS


@given(seed=seeds, v_before=st.floats(1.0, 30.0), v_after=st.floats(1.0, 30.0))
@settings(max_examples=60, deadline=None)
def test_the_rule_holds_however_the_inflation_changes(seed: int, v_before: float, v_after: float) -> None:
    """V may do what it likes: an adversary that chooses it freely for both samples does not get a PASS either."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(30, 800))
    exceeded = rng.random(n) < rng.choice([0.0, 0.01, 0.05, 0.3], size=8).repeat(n // 8 + 1)[:n]
    more = exceeded | (rng.random(n) < rng.choice([0.001, 0.02]))
    before, _ = walk(exceeded, p0=0.05, alpha=0.05, at=looks(n), inflation=lambda _: v_before)
    after, _ = walk(more, p0=0.05, alpha=0.05, at=looks(n), inflation=lambda _: v_after)
    assert not (before is Decision.ABOVE and after is Decision.BELOW)


@pytest.mark.parametrize("p0", [0.5, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.01])
def test_what_fails_corrected_fails_uncorrected_too(p0: float, alpha: float) -> None:
    """What the rule rests on: log e_fail(n/V, S/V) ≥ ln(1/α) implies S ≥ the fewest that fail at V = 1."""
    for n in looks(3000)[::4]:
        fewest = fewest_exceedances_to_fail(n, p0, alpha)
        for v in (1.0, 1.3, 2.0, 5.0, 20.0, 100.0):
            below = np.arange(fewest)
            assert not (log_e_fail(n / v, below / v, p0) >= np.log(1.0 / alpha)).any(), (n, v)


# --- what counts independent trials: shares of items, crashes ----------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("accuracy", (), {"agreement": 0.95}),
        ("accuracy", (), {"at_least": 0.9}),
        ("cosine_similarity", (0.99,), {"share": 0.95}),
    ],
    ids=["agreement", "correctness", "cosine"],
)
@given(seed=seeds, whole=st.booleans())
@few
def test_more_items_off_never_turn_a_fail_into_a_pass(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], seed: int, whole: bool
) -> None:
    gate = parse(name, args, kwargs, settings=GateSettings())
    rng = np.random.default_rng(seed)
    n = int(rng.integers(20, 500))
    good = rng.random(n) > rng.choice([0.02, 0.08, 0.15, 0.3], size=4).repeat(n // 4 + 1)[:n]

    def outcome(good: npt.NDArray[np.bool_]) -> Outcome:
        size = n if whole else None
        compared = {"agreed": good, "correct": good, "cosines": np.where(good, 0.999, 0.5)}
        return gate.evaluate(timed([1, 2], evaluated_of=size, **compared)).outcome

    before = outcome(good)
    for _ in range(6):
        fewer = good & (rng.random(n) > rng.choice([0.003, 0.03, 0.3]))
        assert not (before is Outcome.FAIL and outcome(fewer) is Outcome.PASS)
        assert not (before is not Outcome.PASS and outcome(fewer) is Outcome.PASS)


@given(seed=seeds, ended=st.booleans(), early=st.booleans())
@few
def test_more_crashes_never_turn_a_fail_into_a_pass(seed: int, ended: bool, early: bool) -> None:
    rng = np.random.default_rng(seed)
    duration_s = float(rng.uniform(60.0, 7200.0))
    at_s = np.sort(rng.uniform(0.0, duration_s, size=int(rng.integers(0, 14))))

    def outcome(at_s: npt.NDArray[np.float64]) -> Outcome:
        sample = timed([1, 2], duration_s=duration_s, crashes_at_s=tuple(at_s.tolist()))
        said = crashes.at_rate(sample, 0.01, trial_ns=10**10, alpha=0.05, ended=ended, early=early)
        return said.outcome

    before = outcome(at_s)
    for _ in range(6):
        more = np.sort(np.append(at_s, rng.uniform(0.0, duration_s, size=int(rng.integers(1, 4)))))
        assert not (before is Outcome.FAIL and outcome(more) is Outcome.PASS)
