"""Inferences that are due at a given rate: one queue, times from when they were due, a schedule that goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pytest_edgehil.artifacts.replay import Trace, trace_bytes
from pytest_edgehil.onboard import requests
from pytest_edgehil.onboard.open_loop import Arrivals, Schedule, block
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.runtimes.replay import ReplaySession

MS = 1_000_000
NEVER = 10**18


def session(tmp_path, latencies_ns) -> ReplaySession:
    path = tmp_path / "trace.json"
    path.write_bytes(trace_bytes(Trace(latencies_ns=tuple(latencies_ns), gap_ns=77)))
    return ReplaySession(path)


def measured(played: ReplaySession, schedule: Schedule, count: int, *, until_ns: int = NEVER) -> Arrivals:
    schedule.resume(played.now_ns())
    return block(played, schedule, first=0, limit=count, until_ns=until_ns)


def responses(found: Arrivals) -> list[int]:
    return [
        start + latency - due
        for due, start, latency in zip(found.intended_ns, found.starts_ns, found.latencies_ns, strict=True)
    ]


def test_a_stall_delays_what_is_due_meanwhile(tmp_path):
    found = measured(session(tmp_path, [2 * MS, 25 * MS, 2 * MS, 2 * MS, 2 * MS]), Schedule(100.0), 5)
    assert found.intended_ns == [0, 10 * MS, 20 * MS, 30 * MS, 40 * MS]
    assert found.starts_ns == [0, 10 * MS, 35 * MS, 37 * MS, 40 * MS]
    assert responses(found) == [2 * MS, 25 * MS, 17 * MS, 9 * MS, 2 * MS]
    assert found.late_ns == [0] * 5  # waiting for the one before is not our fault


def test_the_moments_do_not_drift_at_an_odd_rate(tmp_path):
    found = measured(session(tmp_path, [1]), Schedule(3.0), 3001)
    assert found.intended_ns[-1] == 1000 * 10**9


def test_measuring_in_pieces_is_measuring_in_one_go(tmp_path):
    latencies = [12 * MS, 3 * MS, 9 * MS, 40 * MS, 1 * MS]
    whole = responses(measured(session(tmp_path, latencies), Schedule(100.0), 60))
    played, schedule, pieces = session(tmp_path, latencies), Schedule(100.0), []
    while len(pieces) < 60:
        played.wait_until(played.now_ns() + 7 * MS)  # whatever happens between two requests
        pieces += responses(measured(played, schedule, 4))
    assert pieces == whole


def test_a_piece_ends_before_a_moment_that_lies_beyond_its_time_and_an_empty_one_waits(tmp_path):
    played, schedule = session(tmp_path, [MS]), Schedule(10.0)
    schedule.resume(0)
    assert len(block(played, schedule, first=0, limit=99, until_ns=250 * MS).starts_ns) == 3
    assert played.now_ns() == 201 * MS  # nothing waits, so that the caller can send them now
    assert block(played, schedule, first=3, limit=99, until_ns=290 * MS).starts_ns == []
    assert played.now_ns() == 290 * MS


def test_overload_ends_with_the_number_that_was_asked_for(tmp_path):
    found = measured(session(tmp_path, [50 * MS]), Schedule(100.0), 200)
    assert len(found.starts_ns) == 200
    assert responses(found) == [50 * MS + 40 * MS * at for at in range(200)]


def test_beginning_late_is_told_when_it_is_ours(tmp_path):
    class Sleepy(ReplaySession):
        def wait_until(self, moment_ns: int) -> None:
            super().wait_until(moment_ns)
            self._clock_ns += 5

    path = tmp_path / "trace.json"
    path.write_bytes(trace_bytes(Trace(latencies_ns=(MS,))))
    found = measured(Sleepy(path), Schedule(100.0), 3)
    assert found.late_ns == [5, 5, 5]


def test_coordinated_omission_is_seen_in_an_open_loop_only(tmp_path):
    """8 ms at 100/s with a stall of 500 ms every 10 s: who asks in time waits up to half a second.

    How high the p99 gets depends on how the stalls bunch, for their queues run into one another. Evenly spaced, as
    here, they do so least; bunched, the same stalls make a p99 of 1.5 s and more.
    """
    rng = np.random.default_rng(1)
    latencies = 8 * MS * np.exp(0.065 * rng.standard_normal(10_000))
    latencies[500::1000] += 500 * MS
    played = session(tmp_path, latencies.astype(np.int64).tolist())
    found = measured(played, Schedule(100.0), 10_000)
    assert np.quantile(found.latencies_ns, 0.99) / MS == pytest.approx(9.3, abs=0.1)
    assert np.quantile(responses(found), 0.99) / MS == pytest.approx(490, abs=10)


@pytest.mark.parametrize("rate", [0, -1.0, True, "20/s", float("inf"), 1e9])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(Problem, match="rate_hz"):
        requests.measurement({"inferences": 1, "rate_hz": rate})


def test_outputs_are_not_kept_at_a_rate():
    with pytest.raises(Problem, match="outputs"):
        requests.measurement({"inferences": 1, "rate_hz": 5, "keep": 1})
    assert requests.measurement({"inferences": 1, "rate_hz": 5})["rate_hz"] == 5.0
    assert json.dumps(requests.measurement({"inferences": 1}))
