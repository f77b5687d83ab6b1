from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from support.samples import MS, timed

from pytest_edgehil.gates.judging import judge, union
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import ColdStart, Demand, Outcome, Sample, Verdict

FAST = parse("p95_latency", ("12 ms",), {}, settings=GateSettings())
COLD = parse("cold_start", ("2 s",), {}, settings=GateSettings())


class Board:
    """Measures exactly what is demanded, as far as it has something to give."""

    def __init__(self, latency_ms: float = 8.0, *, has: int = 10_000) -> None:
        self.latencies = (latency_ms * MS + np.arange(has) * 7919 % 1000).astype(np.int64)
        self.demands: list[Demand] = []
        self.sample = Sample.empty()

    def measure(self, demand: Demand) -> Sample:
        self.demands.append(demand)
        starts = self.sample.cold_starts + tuple(
            ColdStart(load_ns=10**9 + i, rss_before_bytes=1, rss_after_bytes=2, peak_rss_bytes=2)
            for i in range(demand.cold_starts)
        )
        n = min(self.sample.n + demand.inferences, self.latencies.size)
        self.sample = (
            timed(self.latencies[:n], cold_starts=starts, readings=()) if n else self.sample.replace(cold_starts=starts)
        )
        return self.sample


def still() -> Callable[[], float]:
    return lambda: 0.0


def test_it_measures_on_until_every_gate_has_decided_and_restarts_before_it_measures() -> None:
    board = Board()
    sample, verdicts = judge([FAST, COLD], sample=Sample.empty(), measure=board.measure, clock=still(), max_seconds=1)
    assert [one.outcome for one in verdicts] == [Outcome.PASS, Outcome.PASS]
    assert board.demands[:2] == [Demand(cold_starts=3), Demand(inferences=30)]
    assert verdicts[0].n == sample.n


def test_a_decided_sample_is_not_measured_again() -> None:
    board = Board()
    before = timed(board.latencies[:400], readings=())
    sample, verdicts = judge([FAST], sample=before, measure=board.measure, clock=still(), max_seconds=1)
    assert sample is before
    assert board.demands == []
    assert verdicts[0].outcome is Outcome.PASS


def test_it_stops_when_the_time_is_spent_and_leaves_the_verdict_open() -> None:
    ticks = itertools.count()
    board = Board(11.9)
    board.latencies[::20] = 15 * MS
    _, verdicts = judge([FAST], sample=Sample.empty(), measure=board.measure, clock=lambda: next(ticks), max_seconds=5)
    assert verdicts[0].outcome is Outcome.INCONCLUSIVE
    assert not verdicts[0].decided
    assert len(board.demands) == 4


def test_it_stops_when_measuring_brings_nothing_new() -> None:
    board = Board(has=40)
    sample, verdicts = judge([FAST], sample=Sample.empty(), measure=board.measure, clock=still(), max_seconds=1)
    assert sample.n == 40
    assert verdicts[0].outcome is Outcome.INCONCLUSIVE


def test_every_look_is_reported() -> None:
    seen: list[tuple[int, tuple[Verdict, ...]]] = []
    judge(
        [FAST],
        sample=Sample.empty(),
        measure=Board().measure,
        clock=still(),
        max_seconds=1,
        on_look=lambda sample, verdicts: seen.append((sample.n, verdicts)),
    )
    assert [n for n, _ in seen][:3] == [0, 30, 34]
    assert seen[-1][1][0].outcome is Outcome.PASS


def test_the_verdicts_can_be_computed_again_from_the_stored_sample() -> None:
    sample, verdicts = judge([FAST, COLD], sample=Sample.empty(), measure=Board().measure, clock=still(), max_seconds=1)
    assert tuple(gate.evaluate(sample) for gate in (FAST, COLD)) == verdicts


def test_without_gates_nothing_is_measured() -> None:
    board = Board()
    assert judge([], sample=Sample.empty(), measure=board.measure, clock=still(), max_seconds=1)[1] == ()
    assert board.demands == []


def test_an_error_while_measuring_is_not_swallowed() -> None:
    def broken(_: Demand) -> Sample:
        raise ConnectionError("the link is gone")

    with pytest.raises(ConnectionError):
        judge([FAST], sample=Sample.empty(), measure=broken, clock=still(), max_seconds=1)


def test_a_union_of_nothing_is_nothing() -> None:
    assert union([None, None]) is None
