"""What holds for every gate on a latency, whatever was measured: stated once, tried on all of them.

Samples are made of few distinct values in a wild order: ties at the budget, stretches and single stalls come up often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.samples import MS, conditions, timed

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.model import ColdStart, Outcome, Sample
from pytest_edgehil.model.series import BlockPair, Generations, OpenLoop, Paired

RATE_HZ, BLOCK, PAIRS = 20.0, 20, 6
BASELINE_NS = 10 * MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A gate on time and the way in which durations get into a sample that it looks at.

    Args:
        declare: the gate with a budget in ns.
        measured: the sample in which these durations were measured.
        scales: may durations and budget be multiplied together? Not where something else has a time of its own.
        prefix: does more of the same never change what was decided?
    """

    declare: Callable[[int], Gate]
    measured: Callable[[np.ndarray], Sample]
    scales: bool = True
    prefix: bool = True


def gate(name: str, *args: object, **kwargs: object) -> Gate:
    return parse(name, args, kwargs, settings=GateSettings())


def open_loop(values: np.ndarray) -> Sample:
    """Due every 50 ms; what is longer than that delays those after it."""
    intended = np.arange(values.size, dtype=np.int64) * int(1e9 / RATE_HZ)
    starts = intended.copy()
    whole = np.where(np.isfinite(values), values, 0).astype(np.int64)
    for at in range(1, values.size):
        starts[at] = max(intended[at], starts[at - 1] + whole[at - 1])
    series = OpenLoop(rate_hz=RATE_HZ, intended_ns=intended, starts_ns=starts, latencies_ns=values)
    return timed([1, 2], open_loop=(series,), duration_s=values.size / RATE_HZ)


def generations(values: np.ndarray) -> Sample:
    whole = np.where(np.isfinite(values), values, 0).astype(np.int64)
    made = Generations(
        starts_ns=np.cumsum(whole) - whole,
        prompt_tokens=np.full(values.size, 8),
        new_tokens=np.full(values.size, 1),
        first_token_ns=values,
        total_ns=values,
    )
    return timed([1, 2], generations=made)


def pairs(values: np.ndarray) -> Sample:
    """Blocks of the model against blocks of a baseline whose durations hardly vary."""
    blocks = [values[at : at + BLOCK] for at in range(0, values.size - BLOCK + 1, BLOCK)][:PAIRS]
    baseline = BASELINE_NS + np.arange(BLOCK, dtype=np.int64)
    made = tuple(
        BlockPair(
            candidate_ns=block,
            baseline_ns=baseline + 100 * at,
            candidate_first=bool(at % 2),
            candidate_start_ns=at * 10**9,
            baseline_start_ns=at * 10**9 + 5 * 10**8,
        )
        for at, block in enumerate(blocks)
    )
    return timed([1, 2], paired=(Paired(baseline="other", digest="sha256:00", seed=1, pairs=made),))


WAYS = {
    "p95": Way(declare=lambda ns: gate("p95_latency", f"{ns} ns"), measured=timed),
    "median": Way(declare=lambda ns: gate("quantile_latency", 0.501, f"{ns} ns"), measured=timed),
    "p99": Way(declare=lambda ns: gate("quantile_latency", 0.99, f"{ns} ns"), measured=timed),
    "open loop": Way(declare=lambda ns: gate("p95_latency", f"{ns} ns", rate="20/s"), measured=open_loop, scales=False),
    "first token": Way(
        declare=lambda ns: LatencyQuantile(name="time_to_first_token", budget_ns=ns, alpha=0.05), measured=generations
    ),
    "baseline": Way(
        declare=lambda ns: gate("p95_latency", baseline="other", ratio=ns / BASELINE_NS, pairs=PAIRS, block=BLOCK),
        measured=pairs,
        scales=False,
    ),
}

every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
few = settings(max_examples=12, deadline=None)

KINDS = st.sampled_from([8.0, 9.5, 11.0, 12.0, 12.000001, 13.0, 40.0])
STRETCHES = st.lists(st.tuples(KINDS, st.integers(1, 60)), min_size=1, max_size=5)


def durations(stretches: list[tuple[float, int]], *, jitter: bool = True) -> np.ndarray:
    """Nanoseconds; the jitter only ever shortens, so that what is at the budget stays within it."""
    values = np.repeat([round(one * MS) for one, _ in stretches], [count for _, count in stretches]).astype(np.int64)
    return values - (np.arange(values.size) * 7919 % 97 if jitter else 0)


@every_way
@given(stretches=STRETCHES, raised=st.lists(st.booleans(), min_size=300, max_size=300))
@few
def test_more_slow_ones_never_turn_a_fail_into_a_pass(
    way: Way, stretches: list[tuple[float, int]], raised: list[bool]
) -> None:
    values = durations(stretches)
    slower = np.where(raised[: values.size], np.maximum(values, 60 * MS + values), values)
    before = way.declare(12 * MS).evaluate(way.measured(values))
    after = way.declare(12 * MS).evaluate(way.measured(slower))
    assert not (before.outcome is Outcome.FAIL and after.outcome is Outcome.PASS)


@every_way
@given(stretches=STRETCHES, more=STRETCHES)
@few
def test_what_was_decided_stays_unless_what_is_measured_later_takes_a_pass_back(
    way: Way, stretches: list[tuple[float, int]], more: list[tuple[float, int]]
) -> None:
    values, longer = durations(stretches), durations([*stretches, *more])
    early = way.declare(12 * MS).evaluate(way.measured(values))
    late = way.declare(12 * MS).evaluate(way.measured(longer))
    if early.outcome is Outcome.PASS and late.outcome is not Outcome.PASS:
        assert late.statistics["ruled_out_at"] > early.n
    elif early.outcome in (Outcome.PASS, Outcome.FAIL):
        assert (late.outcome, late.n, late.observed, late.interval) == (
            early.outcome,
            early.n,
            early.observed,
            early.interval,
        )


@every_way
@given(stretches=STRETCHES, factor=st.integers(2, 10**4))
@few
def test_scaling_durations_and_budget_together_changes_nothing(
    way: Way, stretches: list[tuple[float, int]], factor: int
) -> None:
    if not way.scales:
        factor = 1
    values = durations(stretches)
    small = way.declare(12 * MS).evaluate(way.measured(values))
    large = way.declare(12 * MS * factor).evaluate(way.measured(values * factor).replace(readings=()))
    assert small.outcome is large.outcome
    assert small.n == large.n


@every_way
@given(
    stretches=STRETCHES,
    bad=st.sampled_from([np.nan, np.inf, -np.inf, -5.0, 0.0, -float(2**62)]),
    at=st.integers(0, 299),
)
@few
def test_one_number_that_is_no_duration_never_passes(
    way: Way, stretches: list[tuple[float, int]], bad: float, at: int
) -> None:
    values = durations([*stretches, (8.0, 100)]).astype(np.float64)
    values[at % min(values.size, PAIRS * BLOCK)] = bad
    assert way.declare(12 * MS).evaluate(way.measured(values)).outcome is not Outcome.PASS


@every_way
@pytest.mark.parametrize("n", [0, 1, 29, 30, 500, 5000])
@pytest.mark.parametrize("value", [1, 5 * MS, 12 * MS])
def test_nothing_and_a_clock_that_stands_still_never_pass(way: Way, n: int, value: int) -> None:
    sample = way.measured(np.full(n, value, dtype=np.int64))
    assert way.declare(12 * MS).evaluate(sample).outcome is not Outcome.PASS


@every_way
@pytest.mark.parametrize("kind", [8.0, 40.0])
def test_whole_numbers_and_floats_are_judged_alike(way: Way, kind: float) -> None:
    values = durations([(kind, 900)])
    whole, fractional = (way.declare(12 * MS).evaluate(way.measured(values.astype(one))) for one in (int, float))
    assert whole == fractional
    assert whole.outcome is (Outcome.PASS if kind == 8.0 else Outcome.FAIL)


@pytest.mark.parametrize("name", ["p95", "median", "p99", "open loop", "first token"])
def test_exactly_the_budget_is_within_it_and_a_nanosecond_more_is_not(name: str) -> None:
    way = WAYS[name]
    values = durations([(8.0, 1), (12.0, 1)] * 1000, jitter=False)
    values[0::2] -= np.arange(values[0::2].size) * 7919 % 997
    assert way.declare(12 * MS).evaluate(way.measured(values)).outcome is Outcome.PASS
    values[1::2] += 1
    assert way.declare(12 * MS).evaluate(way.measured(values)).outcome is not Outcome.PASS


@pytest.mark.parametrize("name", ["p95", "first token"])
def test_durations_of_centuries_do_not_overflow_into_a_pass(name: str) -> None:
    way = WAYS[name]
    huge = np.full(600, 2**61, dtype=np.int64) + np.arange(600)  # sums of four of them exceed int64
    assert way.declare(12 * MS).evaluate(way.measured(huge)).outcome is not Outcome.PASS


@pytest.mark.parametrize("way", [way for name, way in WAYS.items() if name != "first token"])
def test_recorded_arguments_give_the_same_gate_again(way: Way) -> None:
    declared = way.declare(12 * MS)
    assert from_arguments(declared.name, declared.arguments()) == declared


@every_way
@pytest.mark.parametrize(
    "changes",
    [
        {"throttled_before": 0x4},
        {"throttled_after": 0x40000},
        {"boot_id_after": "another"},
    ],
    ids=["throttled", "has throttled", "rebooted"],
)
def test_a_board_that_was_not_itself_never_passes_nor_fails(way: Way, changes: dict[str, object]) -> None:
    for kind in (8.0, 40.0):
        sample = way.measured(durations([(kind, 300)]))
        verdict = way.declare(12 * MS).evaluate(sample.replace(conditions=conditions(**changes)))
        assert verdict.outcome in (Outcome.INVALID, Outcome.INCONCLUSIVE)


@given(
    loads=st.lists(st.integers(-5, 200), min_size=0, max_size=6),
)
@few
def test_a_cold_start_passes_only_when_every_one_was_a_duration_within_the_budget(loads: list[int]) -> None:
    starts = tuple(
        ColdStart(load_ns=one * MS, rss_before_bytes=1, rss_after_bytes=2, peak_rss_bytes=3) for one in loads
    )
    verdict = gate("cold_start", "100 ms", starts=3).evaluate(timed([1, 2], cold_starts=starts))
    if verdict.outcome is Outcome.PASS:
        assert len(loads) >= 3
        assert all(0 < one <= 100 for one in loads)
