"""Running a test again goes on where it was: luck cannot be tried twice."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from support.samples import MS, conditions, latencies_ms, reading, timed, to_ns
from support.stored_runs import gate, steady

from pytest_edgehil.errors import UserError
from pytest_edgehil.gates.continued import demand, evaluate, joined
from pytest_edgehil.gates.gate import statements
from pytest_edgehil.gates.stats.sequential import Decision, looks, walk
from pytest_edgehil.model import Demand, EarlierRun, Outcome, Sample, Verdict
from pytest_edgehil.model.series import BlockPair, OpenLoop, Paired

P95 = gate("p95_latency", "12 ms")


def after(*runs: Sample, changed: tuple[str, ...] = ()) -> tuple[EarlierRun, ...]:
    return tuple(
        EarlierRun(run=f"run-{i}", board="pi5-01", sample=one, changed=changed) for i, one in enumerate(runs, 1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Coin:
    """The latency gate without what corrects for correlated latencies, so that it is exact and quick."""

    budget_ns: int = 12 * MS
    alpha: float = 0.1
    max_samples: int = 100
    name: ClassVar[str] = "coin"

    def arguments(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def extended(self, by: Sample) -> Coin:
        return dataclasses.replace(self, max_samples=self.max_samples + by.n)

    def demand(self, sample: Sample) -> Demand | None:
        return None if sample.n >= self.max_samples else Demand(inferences=self.max_samples - sample.n)

    def evaluate(self, sample: Sample) -> Verdict:
        at = looks(sample.n, also=self.max_samples)
        decision, look = walk(sample.latencies_ns > self.budget_ns, p0=0.05, alpha=self.alpha, at=at)
        outcome = {Decision.BELOW: Outcome.PASS, Decision.ABOVE: Outcome.FAIL}.get(decision, Outcome.INCONCLUSIVE)
        n = sample.n if look is None else look.n
        return Verdict(gate=self.name, outcome=outcome, unit="ns", n=n, reason="as tossed")


def tossed(slow: npt.NDArray[np.bool_]) -> Sample:
    """An inference takes longer than 12 ms where the coin says so."""
    return timed((np.where(slow, 13, 11) * MS + np.arange(slow.size)).astype(np.int64), readings=())


# --- the error rate ----------------------------------------------------------------------------------


def test_running_again_ten_times_at_the_boundary_passes_wrongly_no_more_often_than_alpha() -> None:
    rng, toss, tries = np.random.default_rng(8), Coin(), 150
    continued = anew = 0
    for _ in range(tries):
        runs = [tossed(rng.random(toss.max_samples) < 0.05) for _ in range(10)]
        anew += any(toss.evaluate(one).outcome is Outcome.PASS for one in runs)
        continued += evaluate(toss, runs[-1].replace(earlier=after(*runs[:-1]))).outcome is Outcome.PASS
    assert continued / tries <= toss.alpha + 3 * math.sqrt(toss.alpha * (1 - toss.alpha) / tries)
    assert anew / tries > 0.25, "starting again would have passed; otherwise this shows nothing"


def test_once_failed_it_never_passes_and_once_passed_it_never_fails() -> None:
    bad, good = steady(20.0, readings=()), steady(8.0, n=3000, readings=())
    failed = evaluate(P95, good.replace(earlier=after(bad)))
    assert failed.outcome is Outcome.FAIL
    assert failed.decided
    assert "decided in run run-1 on pi5-01, which running the test again does not undo" in failed.reason
    assert any("alone it would say PASS" in one for one in failed.not_checked)
    passed = evaluate(P95, bad.replace(earlier=after(good)))
    assert passed.outcome is Outcome.PASS
    assert any("alone it would say FAIL" in one for one in passed.not_checked)
    assert demand(P95, good.replace(earlier=after(bad))) is None


def test_a_first_crossing_stands_also_where_the_longer_sample_would_not_look() -> None:
    """A look at the last sample of an earlier run is a look, although a longer walk would not look there."""
    toss = Coin(alpha=0.05, max_samples=70)  # 70 without exceedance pass, 67 do not
    first = tossed(np.zeros(70, dtype=bool))
    now = tossed(np.ones(70, dtype=bool)).replace(earlier=after(first))
    verdict = evaluate(toss, now)
    assert (verdict.outcome, verdict.n) == (Outcome.PASS, 70)
    assert toss.extended(first).evaluate(joined([first, now])).outcome is Outcome.FAIL, "a longer walk alone"


def test_an_undecided_run_goes_on_with_a_fresh_budget_and_counts_every_inference() -> None:
    one = gate("p95_latency", "12 ms", max_samples=60)
    first = timed([13 * MS + i if i % 30 == 0 else 8 * MS + i for i in range(60)], readings=())
    assert evaluate(one, first).outcome is Outcome.INCONCLUSIVE
    start = Sample.empty().replace(earlier=after(first))
    assert demand(one, start) == Demand(inferences=7), "the next look of the whole process"
    fast = steady(8.0, n=60, readings=())
    verdict = evaluate(one, fast.replace(earlier=after(first)))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.n == 120
    assert verdict.statistics["reruns"] == 1
    assert "goes on from 1 earlier run (run-1)" in verdict.reason
    assert demand(one, fast.replace(earlier=after(first))) is None, "its own 60 are spent"
    third = evaluate(one, steady(8.0, n=60, readings=()).replace(earlier=after(first, fast, fast)))
    assert third.n > 120


# --- validity is a matter of one run -----------------------------------------------------------------


def test_runs_together_are_watched_for_as_long_as_the_slowest_of_their_boards_needs() -> None:
    run = timed((8 * MS + np.random.default_rng(1).integers(1000, size=60)).astype(np.int64))
    undeclared = run.replace(conditions=conditions(steady_state_s=None))
    again = run.replace(earlier=after(run))
    assert evaluate(P95, again).outcome is Outcome.PASS
    assert evaluate(P95, run.replace(earlier=after(undeclared))).outcome is Outcome.INCONCLUSIVE
    assert evaluate(P95, undeclared.replace(earlier=after(run))).outcome is Outcome.INCONCLUSIVE


def test_what_changes_from_run_to_run_is_no_trouble_and_what_changes_within_one_is() -> None:
    rng = np.random.default_rng(3)
    undecided = timed(to_ns(latencies_ms(rng, 200)), conditions=conditions(throttled_after=0))
    other_boot = conditions(
        boot_id_before="00000000", boot_id_after="00000000", throttled_before=0x50000, throttled_after=0x50000
    )
    slower_clock = tuple(reading(float(at), arm_hz=1_500_000_000, throttled=0x50000) for at in range(3))
    now = timed(to_ns(latencies_ms(rng, 200)), conditions=other_boot, readings=slower_clock, earlier=after(undecided))
    tight = gate("p95_latency", "11.6 ms")
    verdict = evaluate(tight, now)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.n == 400
    rebooted = now.replace(conditions=conditions(boot_id_after="11111111"))
    told = evaluate(tight, rebooted)
    assert told.outcome is Outcome.INVALID
    assert "rebooted during the measurement" in told.reason


def test_an_invalid_run_is_left_out_counted_and_named() -> None:
    throttled = steady(20.0, conditions=conditions(throttled_after=0x40000))
    assert evaluate(P95, throttled).outcome is Outcome.INVALID
    verdict = evaluate(P95, steady(8.0).replace(earlier=after(throttled)))
    assert verdict.outcome is Outcome.PASS
    assert verdict.n < 200, "as if it had not been measured"
    assert "not continued, because INVALID: 1 earlier run (run-1)" in verdict.reason
    assert (verdict.statistics["reruns"], verdict.statistics["invalid_runs"]) == (0, 1)
    # an invalid last run passes nothing, and does not excuse a FAIL
    assert evaluate(P95, throttled.replace(earlier=after(steady(8.0)))).outcome is Outcome.INVALID
    assert evaluate(P95, throttled.replace(earlier=after(steady(20.0)))).outcome is Outcome.FAIL


def test_a_run_that_was_judged_by_other_arguments_does_not_count() -> None:
    verdict = evaluate(P95, steady(8.0).replace(earlier=after(steady(20.0), changed=("p95_latency",))))
    assert verdict.outcome is Outcome.PASS
    assert "not continued, because judged by other arguments: 1 earlier run (run-1)" in verdict.reason


# --- gates that cannot go on -------------------------------------------------------------------------


def test_a_failure_of_a_gate_that_is_no_sequential_test_stands() -> None:
    rss = gate("peak_rss", "100 MiB")
    big, small = steady(8.0), steady(8.0, peak_rss_bytes=50 * 2**20, readings=())
    assert evaluate(rss, big).outcome is Outcome.FAIL
    verdict = evaluate(rss, small.replace(earlier=after(big)))
    assert verdict.outcome is Outcome.FAIL
    assert "decided in run run-1" in verdict.reason
    assert evaluate(rss, big.replace(earlier=after(small))).outcome is Outcome.FAIL
    assert demand(rss, small.replace(earlier=after(big))) is None


def test_what_is_judged_anew_in_each_run_says_how_its_error_rate_adds_up() -> None:
    agreement = gate("accuracy", agreement=0.9)
    undecided = steady(8.0, agreed=np.ones(10, dtype=bool), evaluated_of=10)
    assert evaluate(agreement, undecided).outcome is Outcome.INCONCLUSIVE
    now = steady(8.0, agreed=np.ones(200, dtype=bool), evaluated_of=200)
    verdict = evaluate(agreement, now.replace(earlier=after(undecided, undecided)))
    assert verdict.outcome is Outcome.PASS
    assert "each of 3 runs was judged anew, so the error rate is up to 15%" in verdict.reason
    size = evaluate(gate("size", "9 MiB"), now.replace(earlier=after(undecided)))
    assert "error rate" not in size.reason, "nothing was inferred"


def test_an_earlier_run_with_earlier_runs_of_its_own_is_refused() -> None:
    nested = steady(8.0).replace(earlier=after(steady(8.0)))
    with pytest.raises(UserError, match="earlier runs of its own"):
        evaluate(P95, steady(8.0).replace(earlier=after(nested)))


# --- joining -----------------------------------------------------------------------------------------


def test_series_are_put_behind_each_other_without_a_gap() -> None:
    def loop(start: int) -> OpenLoop:
        at = np.array([start, start + 10])
        return OpenLoop(rate_hz=5.0, intended_ns=at, starts_ns=at + 1, latencies_ns=np.array([3, 4]))

    def pairs(digest: str) -> Paired:
        block = np.array([1, 2])
        pair = BlockPair(
            candidate_ns=block, baseline_ns=block, candidate_first=True, candidate_start_ns=0, baseline_start_ns=1
        )
        return Paired(baseline="old", digest=digest, seed=1, pairs=(pair,))

    one = steady(8.0, n=3).replace(open_loop=(loop(10**12),), paired=(pairs("a"),))
    other = steady(8.0, n=2).replace(open_loop=(loop(5),), paired=(pairs("a"), pairs("b")))
    both = joined([one, other])
    assert np.diff(both.starts_ns).min() > 0
    assert both.starts_ns[3] == one.starts_ns[2] + one.latencies_ns[2]
    (series,) = both.open_loop
    assert series.intended_ns.tolist() == [10**12, 10**12 + 10, 10**12 + 15, 10**12 + 25]
    assert series.responses_ns.tolist() == [4, 5, 4, 5]
    assert [(found.digest, len(found.pairs)) for found in both.paired] == [("b", 1)], "the newest baseline counts"
    assert [len(found.pairs) for found in joined([one, one.replace(starts_ns=one.starts_ns + 1)]).paired] == [2]


# --- counting ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "count"),
    [
        ("p95_latency", ("1 ms",), {}, 1),
        ("accuracy", (), {"agreement": 0.9}, 1),
        ("size", ("1 MiB",), {}, 0),
        ("peak_rss", ("1 MiB",), {}, 0),
        ("thermal", ("80 C",), {}, 1),
        ("thermal", (), {"throttling": False}, 0),
        ("soak", ("1 h",), {}, 0),
        ("soak", ("1 h",), {"leak": "5 MiB/h"}, 1),
        ("soak", ("1 h",), {"leak": "5 MiB/h", "drift": "10 %"}, 2),
        ("soak", ("1 h",), {"leak": "5 MiB/h", "crash_rate": 0.05, "peak_rss": "1 GiB"}, 2),
    ],
)
def test_statements_with_an_error_rate_are_counted(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], count: int
) -> None:
    assert statements(gate(name, *args, **kwargs)) == count


# --- on another kind of board ------------------------------------------------------------------------

SLOW = steady(20.0, n=40, readings=())
QUICK = steady(8.0, readings=())


def on_another(sample: Sample, why: str = "the board's class was a, and is b now", run: str = "run-1") -> EarlierRun:
    return EarlierRun(run=run, board="pi5-02", sample=sample, apart=why)


def test_a_fail_on_another_kind_of_board_stands_and_nothing_else_of_it_counts() -> None:
    found = evaluate(P95, QUICK.replace(earlier=(on_another(SLOW),)))
    assert found.outcome is Outcome.FAIL
    assert "decided in run run-1 on pi5-02, which running the test again does not undo" in found.reason
    assert demand(P95, QUICK.replace(earlier=(on_another(SLOW),))) is None
    few = steady(8.0, n=40, readings=())
    found = evaluate(P95, few.replace(earlier=(on_another(QUICK),)))
    assert (found.outcome, found.n, found.statistics["reruns"]) == (Outcome.INCONCLUSIVE, 40, 0.0)
    assert "not continued, because on another kind of board: 1 earlier run (run-1)" in found.reason
    weighed = gate("peak_rss", "10 MiB")
    big = QUICK.replace(peak_rss_bytes=20 * 2**20)
    small = QUICK.replace(peak_rss_bytes=2**20)
    assert evaluate(weighed, small).outcome is Outcome.PASS
    assert evaluate(weighed, small.replace(earlier=(on_another(big),))).outcome is Outcome.FAIL
    assert evaluate(weighed, big.replace(earlier=(on_another(small),))).outcome is Outcome.FAIL


def test_runs_on_another_kind_of_board_are_judged_together_as_they_were_then() -> None:
    def third(number: int) -> Sample:
        slow = np.arange(100) % 8 == 0
        return timed((np.where(slow, 13, 11) * MS + np.arange(100) + number).astype(np.int64), readings=())

    open_gate = gate("p95_latency", "12 ms", max_samples=60)
    runs = [on_another(third(i), run=f"run-{i}") for i in range(4)]
    assert {evaluate(open_gate, one.sample).outcome for one in runs} == {Outcome.INCONCLUSIVE}
    assert evaluate(open_gate, QUICK.replace(earlier=tuple(runs))).outcome is Outcome.FAIL
    apart = [on_another(one.sample, why=str(number)) for number, one in enumerate(runs)]
    assert evaluate(open_gate, QUICK.replace(earlier=tuple(apart))).outcome is Outcome.PASS


def test_a_fail_by_other_arguments_on_another_kind_of_board_does_not_count() -> None:
    one = dataclasses.replace(on_another(SLOW), changed=("p95_latency",))
    assert evaluate(P95, QUICK.replace(earlier=(one,))).outcome is Outcome.PASS
