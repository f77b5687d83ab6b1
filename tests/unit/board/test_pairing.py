"""Two models on one board that take turns: the real on-board program, with real models and with recordings."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from support.boards import model_bundle
from support.processes import until

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.artifacts.replay import Trace, build_replay
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.pairing import Against
from pytest_edgehil.errors import ModelError, OutOfMemory, UserError
from pytest_edgehil.model import Combo, Demand

MS = 1_000_000
MIB = 2**20
X = {"x": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)}
TWO = Demand(pairs=2, block=10, baseline="old")


def recording(directory, name, latency_ms, **fields):
    known = {"latencies_ns": tuple(int(latency_ms * MS) + i for i in range(97)), **fields}
    return build_replay(Trace(**known), name=name, version="1", out_dir=directory)


def opened(session, model, old, *, seed=3, step=contextlib.nullcontext):
    return Dut.open(session, combo=Combo(model=model), against=Against(artifacts={"old": old}, seed=seed), step=step)


def children(bench) -> dict[int, str]:
    """State of every process that holds a model, by pid."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = (entry / "cwd").readlink() == bench.home
            if ours and (entry / "cmdline").read_bytes().split(b"\0")[-2:-1] == [b"child"]:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()[0]
    return found


def stopped(bench) -> int:
    return list(children(bench).values()).count("T")


def test_two_real_models_take_turns_and_only_one_of_them_runs_at_a_time(session, bench, tmp_path):
    steps = []

    @contextlib.contextmanager
    def step(name):
        steps.append(name)
        yield

    model, old = model_bundle(tmp_path), model_bundle(tmp_path, layers=6, width=64, seed=2)
    with opened(session, model, old, step=step) as dut:
        dut.run(X)
        before = dut.sample
        sample = dut.measure_more(TWO)
        assert steps == ["flash", "load", "warm-up", "load baseline", "measure"]
        (paired,) = sample.paired
        assert (paired.baseline, paired.digest, paired.label, paired.seed) == ("old", old.digest, old.label, 3)
        assert [one.candidate_ns.shape + one.baseline_ns.shape for one in paired.pairs] == [(10, 10)] * 2
        draw = random.Random(3)
        for one in paired.pairs:
            assert one.candidate_first is (draw.random() < 0.5)
            assert one.candidate_first is (one.candidate_start_ns < one.baseline_start_ns)
            first, second = (one.candidate_ns, one.baseline_ns) if one.candidate_first else (one.baseline_ns, None)
            assert abs(one.candidate_start_ns - one.baseline_start_ns) >= first.sum()
            del second
        # what is measured in turns is no part of what was measured alone
        assert (sample.n, sample.duration_s) == (before.n, before.duration_s)
        assert len(sample.cold_starts) == 1
        assert paired.baseline_peak_rss_bytes is not None
        longer = dut.measure_more(TWO)
        assert len(longer.paired[0].pairs) == 4
        assert longer.paired[0].pairs[:2] == paired.pairs
        assert steps.count("load baseline") == 1
        assert len(children(bench)) == 2
        until(
            lambda: stopped(bench) == 1
        )  # whoever was not measured last; a stop is done a little after it is asked for
        dut.run(X)  # the model goes on, the baseline is stopped in its turn
        until(lambda: stopped(bench) == 1)
    until(lambda: not children(bench))


def test_a_baseline_that_the_board_has_is_not_sent_again(session, tmp_path, monkeypatch):
    from pytest_edgehil.board import pairing

    sent = []
    real = pairing.deliver
    monkeypatch.setattr(
        pairing,
        "deliver",
        lambda session, artifact, **how: sent.append(artifact.label) or real(session, artifact, **how),
    )
    model, old = recording(tmp_path, "new", 5), recording(tmp_path, "old", 6)
    for _ in range(2):
        with opened(session, model, old) as dut:
            dut.run(X)
            dut.measure_more(TWO)
    with opened(session, model, model) as dut:  # against itself: it is on the board anyway
        dut.run(X)
        dut.measure_more(TWO)
    assert sent == [old.label]


def test_recordings_are_played_in_turns_each_on_its_own_clock(session, tmp_path):
    model = recording(tmp_path, "new", 5, peak_rss_bytes=90 * MIB, throttled=(0,), rss_bytes=(80 * MIB,), period_s=0.01)
    old = recording(tmp_path, "old", 6, peak_rss_bytes=400 * MIB, throttled=(0,), rss_bytes=(300 * MIB,), period_s=0.01)
    with opened(session, model, old) as dut:
        dut.run(X)
        sample = dut.measure_more(TWO)
    (paired,) = sample.paired
    np.testing.assert_array_equal(paired.pairs[0].candidate_ns, 5 * MS + np.arange(1, 11))
    np.testing.assert_array_equal(paired.pairs[1].baseline_ns, 6 * MS + np.arange(10, 20))
    # the memory of the model under test stays its own, and the baseline's is told apart
    assert sample.peak_rss_bytes == 90 * MIB
    assert {row.rss_bytes for row in sample.readings} == {80 * MIB}
    assert paired.baseline_peak_rss_bytes == 400 * MIB
    assert sample.replayed


@pytest.mark.parametrize(
    "throttled", [(0,) * 3 + (0x4,) + (0,) * 99, (0,) * 3 + (0x40000,) * 99], ids=["live", "sticky"]
)
def test_throttling_while_the_baseline_ran_is_not_lost(session, tmp_path, throttled):
    model = recording(tmp_path, "new", 5, throttled=(0,), period_s=0.01)
    old = recording(tmp_path, "old", 6, throttled=throttled, period_s=0.01)
    with opened(session, model, old) as dut:
        dut.run(X)
        sample = dut.measure_more(Demand(pairs=6, block=10, baseline="old"))
    assert sample.conditions.throttled_before == 0
    assert sample.conditions.throttled_after & 0x40004


def test_both_get_what_the_test_fed_item_by_item_and_shape_by_shape(session, tmp_path):
    model = model_bundle(tmp_path)
    inputs = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    with opened(session, model, model) as dut:
        dut.evaluate(Dataset.of_arrays("set", {"x": inputs}, np.zeros(7, dtype=int)))
        dut.run(X)
        sample = dut.measure_more(Demand(pairs=3, block=10, baseline="old"))
    assert [one.candidate_ns.shape for one in sample.paired[0].pairs] == [(10,)] * 3


def test_a_baseline_that_takes_other_inputs_is_refused_in_one_line(session, tmp_path):
    with opened(session, model_bundle(tmp_path), model_bundle(tmp_path, inputs=5)) as dut:
        dut.run(X)
        with pytest.raises(
            UserError, match=r"bench: the baseline takes x float32 \(1, 5\); .* must take what the test"
        ):
            dut.measure_more(TWO)
        assert dut.broken is None
        dut.run(X)


def test_a_name_without_an_artifact_and_a_test_that_fed_nothing_are_named(session, tmp_path):
    model = recording(tmp_path, "new", 5)
    with opened(session, model, model) as dut:
        with pytest.raises(UserError, match="fed nothing"):
            dut.measure_more(TWO)
        dut.run(X)
        with pytest.raises(UserError, match="no artifact was given for the baseline 'other'"):
            dut.measure_more(Demand(pairs=1, block=10, baseline="other"))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGKILL, OutOfMemory), (signal.SIGABRT, ModelError)])
def test_a_baseline_whose_process_dies_is_named_and_the_model_stays(session, bench, tmp_path, number, error):
    with opened(session, model_bundle(tmp_path), model_bundle(tmp_path, seed=2)) as dut:
        dut.run(X)
        before = set(children(bench))
        dut.measure_more(TWO)
        (baseline,) = set(children(bench)) - before
        os.kill(baseline, number)
        with pytest.raises(error, match="the baseline beside the model: the model's process"):
            dut.measure_more(TWO)
        assert set(children(bench)) == before


def test_a_baseline_that_does_not_load_is_named_and_the_model_stays(session, bench, tmp_path):
    from support.boards import bundle

    with opened(session, model_bundle(tmp_path), bundle(tmp_path, {"model.onnx": b"no model"})) as dut:
        dut.run(X)
        with pytest.raises(ModelError, match="the baseline beside the model: the model does not load"):
            dut.measure_more(TWO)
        dut.run(X)
        assert len(children(bench)) == 1


def test_a_restart_of_the_model_and_the_next_tests_model_leave_no_baseline_behind(session, bench, tmp_path):
    model, old = model_bundle(tmp_path), model_bundle(tmp_path, seed=2)
    with opened(session, model, old) as dut:
        dut.run(X)
        dut.measure_more(TWO)
        sample = dut.measure_more(Demand(cold_starts=1))
        assert len(sample.cold_starts) == 2
        assert len(dut.measure_more(TWO).paired[0].pairs) == 4
        session.client.load(model.digest)
        assert len(children(bench)) == 1
