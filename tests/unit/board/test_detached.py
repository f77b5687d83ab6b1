"""A soak on a board without a wire: it goes on without a link, counts what crashes, and sees to its own end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.boards import BenchBoard, model_bundle
from support.processes import alive, until

from pytest_edgehil.artifacts.replay import Trace, build_replay
from pytest_edgehil.board import detached
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardCrashed, BoardError, LeaseLost, LinkLost, ModelError, ProtocolError
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Combo, Demand, Outcome, Sample

MS = 1_000_000
X = {"x": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)}
SLICE = Demand(seconds=0.5, horizon_s=600.0, restarts=True)


class Leased:
    """Stands in for the lease."""

    def __init__(self) -> None:
        self.lost = False

    def check(self) -> None:
        if self.lost:
            raise LeaseLost("taken away")


@pytest.fixture(autouse=True)
def no_job_outlives_the_test(bench, world):
    yield
    for one in jobs(bench):
        with contextlib.suppress(OSError):
            os.killpg(one, signal.SIGKILL)


@pytest.fixture
def lease():
    return Leased()


@pytest.fixture
def session(bench, world, lease):
    session = BoardSession(bench.board, token=1, holder="me", connect=world.connect, check=lease.check)
    yield session
    lease.lost = False
    session.close()


@pytest.fixture
def dut(session, tmp_path):
    with Dut.open(session, combo=Combo(model=model_bundle(tmp_path))) as dut:
        dut.run(X)
        yield dut


def directories(bench: BenchBoard) -> list[Path]:
    return [one for one in (bench.edgehil / "jobs").glob("*") if one.is_dir()]


def jobs(bench: BenchBoard) -> list[int]:
    """Process ids of the detached programs that live."""
    found = []
    for one in directories(bench):
        with contextlib.suppress(FileNotFoundError):  # a job that has ended takes its directory with it
            found.append(int((one / "alive").read_text() or 0))
    return [one for one in found if one and alive(one)]


def model_of(job: int) -> int:
    """The process that holds the model: there is none for a moment when it is started again."""
    (first, *_) = until(Path(f"/proc/{job}/task/{job}/children").read_text).split()
    return int(first)


def go_on(dut: Dut, done: Callable[[Sample], bool], demand: Demand = SLICE) -> Sample:
    """Measure on until something shows: what was read ahead comes first."""
    for _ in range(60):
        sample = dut.measure_more(demand)
        if done(sample):
            return sample
    raise AssertionError("it never showed")


def contiguous(sample) -> bool:
    """Is the end of one inference the beginning of the next, give or take what a busy machine does?"""
    gaps = sample.starts_ns[1:] - (sample.starts_ns + sample.latencies_ns)[:-1]
    return bool((gaps >= 0).all()) and float(np.median(gaps)) < MS


def test_a_soak_goes_on_between_two_demands_and_ends_with_the_next_thing_that_is_done(dut, bench):
    before = dut.sample
    first = dut.measure_more(SLICE)
    (job,) = jobs(bench)
    second = dut.measure_more(SLICE)
    assert jobs(bench) == [job]
    assert before.duration_s < first.duration_s < second.duration_s
    assert contiguous(second.replace(starts_ns=second.starts_ns[1:], latencies_ns=second.latencies_ns[1:]))
    assert len(second.cold_starts) == 2
    assert {one.process for one in second.readings} <= {0, 1}
    assert second.conditions.restarts == 0
    assert second.peak_rss_bytes >= max(one.rss_bytes or 0 for one in second.readings)
    dut.run(X)
    assert jobs(bench) == []
    assert directories(bench) == []
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    dut.close()
    until(lambda: not alive(job))
    assert directories(bench) == []


def test_a_link_that_drops_costs_nothing(dut, bench, world):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    for number in (1, 2):
        world.opened[-1].cut("the cable was pulled")
        go_on(dut, lambda sample, number=number: len(sample.link_drops) == number)
    assert jobs(bench) == [job]
    sample = dut.sample
    later = sample.replace(starts_ns=sample.starts_ns[1:], latencies_ns=sample.latencies_ns[1:])
    assert contiguous(later)
    assert len(sample.link_drops) == 2
    assert np.unique(sample.starts_ns).size == sample.n
    gap_ns = (later.starts_ns[1:] - (later.starts_ns + later.latencies_ns)[:-1]).sum()
    assert gap_ns + later.latencies_ns.sum() == pytest.approx(
        later.starts_ns[-1] + later.latencies_ns[-1] - later.starts_ns[0]
    )
    assert dut.broken is None
    dut.run(X)  # the model is loaded again in the new session
    soak = parse("soak", ("1 s",), {}, settings=GateSettings())
    verdict = soak.evaluate(dut.sample)
    assert verdict.outcome is Outcome.PASS
    assert "lost 2 times" in verdict.reason


def test_a_link_that_stays_away_is_an_error_of_the_link_in_bounded_time(dut, bench, world, monkeypatch):
    dut._model._pick_up_s = 3.0
    dut.measure_more(SLICE)
    world.hangs = True
    world.opened[-1].cut("the cable was pulled")
    with pytest.raises(LinkLost, match=r"could not be reached again within 3 s"):
        go_on(dut, lambda _sample: False)
    assert isinstance(dut.broken, LinkLost)
    assert jobs(bench)  # it goes on, until somebody else comes or nobody does for long


def test_a_reboot_meanwhile_is_no_crash_of_the_model(dut, bench, world):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    world.opened[-1].cut("power")
    os.killpg(job, signal.SIGKILL)
    bench.boot()
    with pytest.raises(BoardCrashed, match="rebooted in the middle"):
        go_on(dut, lambda _sample: False)
    assert dut.sample.crashes_at_s == ()


def test_the_death_of_the_measuring_program_is_no_crash_of_the_model(dut, bench):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    os.killpg(job, signal.SIGKILL)
    with pytest.raises(ProtocolError, match="ended without a word"):
        go_on(dut, lambda _sample: False)


def test_a_lost_lease_is_noticed_before_the_link_is_opened_again(dut, world, lease):
    dut.measure_more(SLICE)
    world.opened[-1].cut("the cable was pulled")
    opened = len(world.opened)
    lease.lost = True
    with pytest.raises(LeaseLost):
        go_on(dut, lambda _sample: False)
    assert len(world.opened) == opened


def test_the_next_holder_ends_what_goes_on(dut, bench, world):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    world.opened[-1].cut("the cable was pulled")
    with contextlib.closing(BoardSession(bench.board, token=2, holder="other", connect=world.connect)) as other:
        other.client.status()
        assert not alive(job)
        assert directories(bench) == []
        with pytest.raises(BoardError, match="token 1 is refused"):
            go_on(dut, lambda _sample: False)


def test_nobody_attending_ends_it(dut, bench, world, monkeypatch):
    monkeypatch.setattr(detached, "UNATTENDED_S", 2.0)
    dut._model._pick_up_s = 0.1
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    world.opened[-1].cut("the host died")
    until(lambda: not alive(job))


def test_a_model_that_crashes_is_counted_and_started_again(dut, bench):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    for number, (name, words) in enumerate([(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")], start=1):
        os.kill(model_of(job), name)
        sample = go_on(dut, lambda sample, number=number: len(sample.crashes_at_s) == number)
        assert words in sample.crash_reasons[-1]
    sample = dut.measure_more(SLICE)
    assert jobs(bench) == [job]
    assert sample.conditions.restarts == 2
    assert len(sample.cold_starts) == 4
    assert sorted(sample.crashes_at_s) == list(sample.crashes_at_s)
    assert sample.crashes_at_s[-1] <= sample.duration_s
    assert (np.diff(sample.starts_ns) > 0).all()
    verdict = parse("soak", ("1 h",), {}, settings=GateSettings()).evaluate(sample)
    assert verdict.outcome is Outcome.FAIL
    assert "2 crashes" in verdict.reason
    assert dut.broken is None


def test_a_crash_ends_a_measurement_that_is_not_a_soak(dut, bench):
    patient = Demand(seconds=0.5, horizon_s=600.0)
    dut.measure_more(patient)
    (job,) = jobs(bench)
    os.kill(model_of(job), signal.SIGSEGV)
    with pytest.raises(ModelError, match="SIGSEGV"):
        go_on(dut, lambda _sample: False, patient)


def test_a_model_that_does_not_load_again_fails_the_soak(dut, bench):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    asked = json.loads((directories(bench)[0] / "request.json").read_text())
    Path(asked["entry"]).unlink()
    os.kill(model_of(job), signal.SIGKILL)
    sample = go_on(dut, lambda sample: bool(sample.not_restarted))
    assert "does not load" in sample.not_restarted
    verdict = parse("soak", ("1 h",), {"crash_rate": 0.5}, settings=GateSettings()).evaluate(sample)
    assert verdict.outcome is Outcome.FAIL
    assert "could not be started again" in verdict.reason


def recording(directory: Path, **fields):
    return build_replay(Trace(**{"latencies_ns": (5 * MS,), **fields}), name="trace", version="1", out_dir=directory)


def test_a_recording_crashes_when_it_says_so_and_always_in_the_same_way(session, tmp_path):
    found = []
    for _ in range(2):
        with Dut.open(session, combo=Combo(model=recording(tmp_path, crash_after_s=100.0))) as dut:
            dut.run(X)
            demand = Demand(seconds=250.0, horizon_s=3600.0, restarts=True)
            found.append([dut.measure_more(demand) for _ in range(3)])
    assert [one.crashes_at_s for one in found[0]] == [one.crashes_at_s for one in found[1]]
    assert [one.n for one in found[0]] == [one.n for one in found[1]]
    last = found[0][-1]
    assert last.crashes_at_s == pytest.approx((100.0, 200.0, 300.0), abs=0.1)
    assert "the recording says" in last.crash_reasons[0]
    assert len(last.cold_starts) == 4


DIES = """
if [ -e "$EDGEHIL_SYSROOT/dies" ] && [ "$3" = child ]; then
  exec PYTHON -E -c "import os, sys; sys.path.insert(0, sys.argv[2]); from onboard import child
child.Child._measure = lambda *_: os._exit(9)
child.main()" "$@"
fi
exec PYTHON "$@"
"""


def test_a_model_that_never_gets_to_its_first_inference_is_given_up(dut, bench):
    dut.measure_more(SLICE)
    (job,) = jobs(bench)
    bench.shim("python3", DIES.replace("PYTHON", sys.executable))
    bench.put("dies", "")
    os.kill(model_of(job), signal.SIGKILL)
    sample = go_on(dut, lambda sample: bool(sample.not_restarted))
    assert "5 times in a row before its first inference" in sample.not_restarted
    assert len(sample.crashes_at_s) == 6
    assert "ended with status 9" in sample.crash_reasons[-1]
