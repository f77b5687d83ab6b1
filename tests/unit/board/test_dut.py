"""The DUT: what becomes of what a test feeds, and of a board that breaks under it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from support.boards import SERIAL, bundle, language_bundle, linear_model, model_bundle

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.artifacts.reference import OnnxSession
from pytest_edgehil.artifacts.replay import Trace, build_replay
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.evaluation import drawn_order
from pytest_edgehil.board.model_under_test import CRITICAL_C
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import (
    BoardCrashed,
    DatasetError,
    Fenced,
    LinkLost,
    ModelError,
    OutOfMemory,
    Overheated,
    UserError,
)
from pytest_edgehil.model import Combo, Demand

MS = 1_000_000
NOTES = Path(__file__).parents[3] / "suites" / "models" / "notes" / "notes-fp32.onnx"
X = {"x": np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)}


class Console:
    def __init__(self) -> None:
        self.said = ""

    @property
    def position(self) -> int:
        return len(self.said)

    def text(self, since: int = 0) -> str:
        return self.said[since:]

    def crash_reason(self, since: int = 0) -> str | None:
        return self.said[since:].strip() or None


@pytest.fixture
def model(tmp_path):
    return model_bundle(tmp_path)


@pytest.fixture
def dut(session, model):
    with Dut.open(session, combo=Combo(model=model)) as dut:
        yield dut


def dataset(items: int = 40, *, seed: int = 3) -> Dataset:
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(items, 4)).astype(np.float32)
    return Dataset.of_arrays("set", {"x": inputs}, random.integers(0, 3, items))


def replay(directory, **fields):
    return build_replay(Trace(**{"latencies_ns": (5 * MS,), **fields}), name="trace", version="1", out_dir=directory)


# --- what a test does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared_s", [2.0, None])
def test_what_the_lab_declares_of_the_board_stands_in_the_conditions_of_what_it_measured(
    session, model, declared_s, monkeypatch
):
    monkeypatch.setattr(session, "board", dataclasses.replace(session.board, steady_state_s=declared_s))
    with Dut.open(session, combo=Combo(model=model)) as dut:
        dut.run(X)
        assert dut.sample.conditions.steady_state_s == declared_s
        assert dut.sample.n == 1


def test_opening_flashes_and_loads_in_steps_and_says_which_board_it_is(session, model):
    steps = []

    @contextlib.contextmanager
    def step(name):
        steps.append(name)
        yield

    with Dut.open(session, combo=Combo(model=model), step=step) as dut:
        assert steps == ["flash", "load"]
        assert dut.sample.n == 0
        assert len(dut.sample.cold_starts) == 1
        assert dut.sample.artifact_size_bytes == model.size_bytes
        assert dut.sample.conditions is None
        assert (dut.ref.id, dut.ref.serial, dut.ref.firmware) == ("bench", SERIAL, "edge-os 1.0")
        assert dut.ref.runtime.startswith("onnxruntime ")
        dut.run(X)
        assert steps[2:] == ["warm-up"]
        dut.run(X)
        dut.measure(X, inferences=3)
        assert steps[2:] == ["warm-up", "measure"]


def test_an_inference_is_timed_where_it_runs_and_becomes_part_of_the_sample(dut):
    outputs = dut.run(X)
    np.testing.assert_array_equal(outputs["logits"], OnnxSession(linear_model(), label="here").run(X)["logits"])
    before = dut.sample
    dut.run(X)
    assert (before.n, dut.sample.n) == (1, 2)
    assert dut.sample.duration_s == pytest.approx(dut.sample.latencies_ns.sum() / 1e9)
    assert dut.sample.conditions.runtime == "onnxruntime"
    assert dut.sample.peak_rss_bytes >= dut.sample.cold_starts[0].peak_rss_bytes
    steady = dut.sample.steady_peak_rss_bytes
    assert steady is None or dut.sample.cold_starts[0].rss_before_bytes < steady <= dut.sample.peak_rss_bytes


def test_a_held_out_set_is_compared_with_labels_and_baseline(dut):
    items = dataset()
    here = OnnxSession(linear_model(), label="same")
    found = dut.evaluate(items, here)
    logits = here.evaluate(items.inputs)["logits"]
    np.testing.assert_array_equal(found.outputs["logits"], logits)
    np.testing.assert_array_equal(found.correct, logits.argmax(axis=1) == items.labels)
    assert found.agreed.all()
    assert (found.agreement, found.accuracy) == (1.0, found.correct.mean())
    sample = dut.sample
    assert sample.n == 40
    assert sample.evaluated_of == 40
    np.testing.assert_array_equal(sample.correct, sample.baseline_correct)


def test_another_baseline_disagrees_where_its_classes_differ(dut):
    items, other = dataset(200), OnnxSession(linear_model(seed=9), label="other")
    found = dut.evaluate(items, other)
    np.testing.assert_array_equal(
        found.agreed, found.predicted == other.evaluate(items.inputs)["logits"].argmax(axis=1)
    )
    assert 0 < found.agreement < 1


def test_the_baseline_of_the_dut_is_taken_unless_another_is_named(session, model):
    with Dut.open(session, combo=Combo(model=model), baseline=OnnxSession(linear_model(), label="b")) as dut:
        assert dut.evaluate(dataset()).agreement == 1.0
        assert dut.evaluate(dataset(), OnnxSession(linear_model(seed=9), label="o")).agreement < 1.0


def test_outputs_that_are_no_number_agree_with_nothing(session, tmp_path):
    class Nan:
        def evaluate(self, inputs):
            return {"logits": np.full((len(inputs["x"]), 3), np.nan, dtype=np.float32)}

    with Dut.open(session, combo=Combo(model=model_bundle(tmp_path))) as dut:
        items = Dataset(name="nan", digest="", inputs={"x": np.full((3, 4), np.nan, np.float32)})
        found = dut.evaluate(items, Nan())
        assert found.predicted.tolist() == [-1, -1, -1]
        assert found.agreement == 0.0


def test_a_set_can_be_taken_in_parts_and_gates_get_the_rest(dut):
    items = dataset(30)
    first = dut.evaluate(items, OnnxSession(linear_model(), label="b"), items=10)
    assert (len(first.predicted), first.of) == (10, 30)
    sample = dut.measure_more(Demand(evaluations=15))
    assert (sample.agreed.size, sample.correct.size, sample.evaluated_of, sample.n) == (25, 25, 30, 25)
    sample = dut.measure_more(Demand(evaluations=100))
    assert (sample.agreed.size, sample.n) == (30, 30)
    order = drawn_order(30, digest=items.digest, seed=0)
    right = OnnxSession(linear_model(), label="b").evaluate(items.inputs)["logits"].argmax(1) == items.labels
    np.testing.assert_array_equal(sample.correct, right[order])  # in the order in which the items were taken
    assert sample.order_seed == 0
    np.testing.assert_array_equal(first.items, np.sort(order[:10]))  # what the test gets is in the set's own order
    np.testing.assert_array_equal(first.correct, right[first.items])
    assert dut.measure_more(Demand(evaluations=5)).n == 30
    with pytest.raises(DatasetError):
        dut.evaluate(items, items=0)


def test_the_same_set_again_is_measured_again_but_is_no_further_evidence(dut):
    items, here = dataset(12), OnnxSession(linear_model(), label="b")
    dut.evaluate(items, here, items=5)
    dut.evaluate(items, here)
    dut.evaluate(items, here)
    sample = dut.sample
    assert sample.n == 29
    assert (sample.agreed.size, sample.evaluated_of) == (12, 12)
    order = drawn_order(12, digest=items.digest, seed=0)
    right = here.evaluate(items.inputs)["logits"].argmax(1) == items.labels
    np.testing.assert_array_equal(sample.correct, right[order])
    assert [(one.items, one.of) for one in sample.heldout] == [(5, 12), (12, 12), (12, 12)]
    assert {one.digest for one in sample.heldout} == {items.digest}


def test_another_seed_takes_the_items_in_another_order(session, model):
    items, here = dataset(30), OnnxSession(linear_model(), label="b")
    right = here.evaluate(items.inputs)["logits"].argmax(1) == items.labels
    with Dut.open(session, combo=Combo(model=model), baseline=here, order_seed=7) as dut:
        found = dut.evaluate(items)
        np.testing.assert_array_equal(found.correct, right)
        np.testing.assert_array_equal(found.items, np.arange(30))
        np.testing.assert_array_equal(dut.sample.correct, right[drawn_order(30, digest=items.digest, seed=7)])
        assert dut.sample.order_seed == 7
        np.testing.assert_allclose(dut.sample.cosines, 1.0)


def test_a_language_model_is_scored_token_by_token_against_its_baseline(session, tmp_path):
    data = NOTES.read_bytes()
    here = OnnxSession(data, label="notes")
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 43, size=size) for size in (5, 9, 5, 2)]
    with Dut.open(session, combo=Combo(model=bundle(tmp_path, {"model.onnx": data})), baseline=here) as dut:
        found = dut.score_tokens(prompts)
        assert found.prompt.tolist() == [3] + [0] * 4 + [2] * 4 + [1] * 8
        np.testing.assert_allclose(found.kl, 0.0, atol=1e-9)
        np.testing.assert_allclose(found.nll, found.baseline_nll, atol=1e-6)
        logits = here.run({"ids": prompts[1][None]})["logits"][0, 0].astype(float)
        expected = np.log(np.exp(logits).sum()) - logits[prompts[1][1]]
        assert found.nll[found.prompt == 1][0] == pytest.approx(expected)
        assert (dut.sample.n, dut.sample.token_scores.kl.size) == (4, 17)
        dut.score_tokens(prompts)
        assert (dut.sample.n, dut.sample.token_scores.kl.size) == (8, 17)  # the same prompts are no further evidence
        dut.score_tokens(prompts[:1])
        assert dut.sample.token_scores.prompt.max() == 4
        with pytest.raises(DatasetError, match="token 43; the vocabulary has 43"):
            dut.score_tokens([np.array([1, 43])])
        assert dut.measure_more(Demand(inferences=6)).n == 15  # what was scored can be repeated


def test_token_scores_need_a_baseline(dut):
    with pytest.raises(UserError, match="there is none: pass baseline"):
        dut.score_tokens([np.array([1, 2])])


def test_model_and_baseline_stay_paired_item_by_item(dut):
    here = OnnxSession(linear_model(), label="b")
    dut.evaluate(dataset(10), here)
    dut.evaluate(dataset(12, seed=4), here)
    sample = dut.sample
    assert sample.agreed.size == sample.correct.size == sample.baseline_correct.size == 22
    assert sample.evaluated_of == 22
    with pytest.raises(UserError, match="paired item by item"):
        dut.evaluate(dataset(5))
    dut.evaluate(Dataset.of_arrays("unlabelled", {"x": np.ones((5, 4), np.float32)}), here)
    assert (dut.sample.agreed.size, dut.sample.correct.size) == (27, 22)


def test_more_is_what_the_body_fed_again(dut):
    dut.run(X)
    assert dut.measure_more(Demand(inferences=50)).n == 51
    dut.evaluate(dataset(20))
    assert dut.measure_more(Demand(inferences=100)).n == 171
    longer = dut.measure_more(Demand(seconds=0.6))
    assert longer.duration_s >= 0.5
    assert (np.diff(longer.starts_ns) > 0).all()


def test_feeds_of_different_shapes_share_the_demand(session, tmp_path):
    with Dut.open(session, combo=Combo(model=replay(tmp_path))) as dut:
        for length in (1, 2, 3):
            dut.run({"x": np.zeros((1, length), np.float32)})
        assert dut.measure_more(Demand(inferences=100)).n == 103
        assert dut.measure_more(Demand(inferences=1)).n == 104


def test_cold_starts_are_real_ones(dut):
    dut.run(X)
    sample = dut.measure_more(Demand(cold_starts=2))
    assert len(sample.cold_starts) == 3
    assert len({one.load_ns for one in sample.cold_starts}) == 3
    assert (sample.n, sample.conditions.restarts) == (1, 0)
    assert dut.run(X)["logits"].shape == (1, 3)


def test_a_recording_is_played_by_the_numbers_without_a_warm_up(session, tmp_path):
    recorded = replay(
        tmp_path, latencies_ns=(5 * MS, 7 * MS), temperature_c=(61.5,), throttled=(0, 0, 0, 4), rss_bytes=(2**20,),
        peak_rss_bytes=3 * 2**20, load_ns=9 * MS, outputs={"y": [[0, 1], [1, 0]]}, period_s=0.5,
    )  # fmt: skip
    with Dut.open(session, combo=Combo(model=recorded)) as dut:
        items = Dataset.of_arrays("s", {"x": np.zeros((4, 1), np.float32)}, np.array([1, 0, 1, 1]))
        assert dut.evaluate(items).correct.tolist() == [True, True, True, False]
        sample = dut.measure_more(Demand(seconds=3600))
        assert sample.latencies_ns[:4].tolist() == [5 * MS, 7 * MS, 5 * MS, 7 * MS]
        assert sample.replayed
        assert sample.cold_starts[0].load_ns == 9 * MS
        assert sample.peak_rss_bytes == 3 * 2**20
        assert sample.duration_s == pytest.approx(3600, abs=0.1)
        assert len(sample.readings) == 7201
        assert {row.temperature_c for row in sample.readings} == {61.5}
        assert sample.conditions.throttled_before == 0


def test_inferences_are_due_at_a_given_rate_and_do_not_count_as_closed_loop(dut):
    dut.run(X)
    sample = dut.measure_more(Demand(inferences=40, rate_hz=400.0))
    sample = dut.measure_more(Demand(inferences=10, rate_hz=400.0))
    assert sample.n == 1
    (series,) = sample.open_loop
    assert series.rate_hz == 400.0
    assert series.intended_ns.shape == series.late_ns.shape == (50,)
    assert np.diff(series.intended_ns[:40]).min() == np.diff(series.intended_ns[:40]).max() == 2_500_000
    assert (series.starts_ns >= series.intended_ns).all()
    assert (series.responses_ns >= series.latencies_ns).all()
    assert (series.late_ns >= 0).all()
    assert sample.conditions.throttled_before == 0
    faster = dut.measure(X, inferences=5, rate="2000/s")
    assert [one.rate_hz for one in faster.open_loop] == [400.0, 2000.0]


def test_a_recording_queues_at_a_rate_on_its_own_clock(session, tmp_path):
    trace = Trace(latencies_ns=(2 * MS, 25 * MS, 2 * MS, 2 * MS), load_ns=1, load_rss_bytes=1, peak_rss_bytes=1)
    artifact = build_replay(trace, name="played", version="1", out_dir=tmp_path)
    with Dut.open(session, combo=Combo(model=artifact)) as dut:
        (series,) = dut.measure(X, inferences=4, rate="100/s").open_loop
        assert series.responses_ns.tolist() == [2 * MS, 25 * MS, 17 * MS, 9 * MS]
        (series,) = dut.measure(X, seconds=60.0, rate="0.5/s").open_loop[1:]  # waiting takes no real time
        assert len(series.starts_ns) == 30


def test_tokens_are_generated_greedily_and_timed_on_the_board(session, tmp_path):
    with Dut.open(session, combo=Combo(model=language_bundle(tmp_path))) as dut:
        made = dut.generate(np.array([[0, 1]]), max_new_tokens=6)
        assert made.tokens.tolist() == [2, 3, 4, 0, 1, 2]
        assert 0 < made.first_token_ns < made.total_ns
        assert dut.generate(np.array([3]), max_new_tokens=50, stop=[0, 1]).tokens.tolist() == [4, 0]
        sample = dut.measure_more(Demand(generations=3))
        assert sample.n == 0
        assert sample.generations.new_tokens.tolist() == [6, 2, 6, 2, 6]
        assert sample.generations.prompt_tokens.tolist() == [2, 1, 2, 1, 2]
        assert (np.diff(sample.generations.starts_ns) > 0).all()
        assert sample.conditions.runtime == "onnxruntime"
        assert dut.measure_more(Demand(inferences=4)).n == 4  # the first prompt, run forward once each
        for wrong in (np.array([[0.5]]), np.empty((1, 0), np.int64), np.zeros((2, 3), np.int64)):
            with pytest.raises(ModelError, match="token ids"):
                dut.generate(wrong)
        with pytest.raises(ModelError, match="token 1"):
            dut.generate(np.array([9]))
        assert dut.broken is None


def test_what_is_no_language_model_generates_nothing(dut, session, tmp_path):
    with pytest.raises(ModelError, match="int64 token ids"):
        dut.generate(np.array([1]))
    with pytest.raises(UserError, match="generated none"):
        dut.measure_more(Demand(generations=1))


def test_a_recording_generates_by_the_numbers(session, tmp_path):
    recorded = replay(tmp_path, first_token_ns=(90 * MS, 80 * MS), token_ns=(10 * MS, 20 * MS), token_ids=(1, 2, 3))
    with Dut.open(session, combo=Combo(model=recorded)) as dut:
        first = dut.generate(np.array([7, 7]), max_new_tokens=4)
        assert (first.tokens.tolist(), first.first_token_ns, first.total_ns) == ([1, 2, 3, 1], 90 * MS, 130 * MS)
        second = dut.generate(np.array([7]), max_new_tokens=4, stop=[3])
        assert (second.tokens.tolist(), second.start_ns, second.total_ns) == ([2, 3], 130 * MS, 100 * MS)
        assert dut.sample.generations.total_ns.tolist() == [130 * MS, 100 * MS]


def test_nothing_fed_means_nothing_to_repeat(dut):
    with pytest.raises(UserError, match="fed nothing"):
        dut.measure_more(Demand(inferences=1))


def test_without_a_model_there_is_nothing_to_run(session):
    with Dut.open(session, combo=Combo()) as dut:
        assert dut.ref.runtime is None
        for call in (lambda: dut.run(X), lambda: dut.evaluate(dataset()), lambda: dut.measure(X, inferences=1)):
            with pytest.raises(UserError, match="no model is flashed"):
                call()


def test_a_measurement_needs_an_end(dut):
    with pytest.raises(UserError, match="inferences"):
        dut.measure(X)


def test_wrong_feeds_do_not_break_the_board(dut):
    with pytest.raises(ModelError, match="takes x float32"):
        dut.run({"y": X["x"]})
    assert dut.broken is None
    dut.run(X)


def test_the_next_dut_takes_the_session_over_and_sees_nothing_of_this_one(session, model, tmp_path):
    with Dut.open(session, combo=Combo(model=model)) as dut:
        dut.measure(X, seconds=1.2)
    with Dut.open(session, combo=Combo(model=replay(tmp_path))) as other:
        assert other.flashed.activated
        assert (other.sample.n, other.sample.readings) == (0, ())
        other.run(X)
        assert other.sample.replayed


# --- a board that breaks ------------------------------------------------------------------------------------


def soon(call, *arguments) -> threading.Timer:
    timer = threading.Timer(0.4, call, arguments)
    timer.start()
    return timer


def test_a_cut_link_is_told_and_everything_after_it_says_the_same(dut, world):
    timer = soon(world.opened[-1].cut)
    with pytest.raises(LinkLost):
        dut.measure(X, seconds=600)
    timer.join()
    assert isinstance(dut.broken, LinkLost)
    for call in (lambda: dut.run(X), lambda: dut.measure_more(Demand(cold_starts=1)), lambda: dut.attest(b"{}")):
        with pytest.raises(LinkLost):
            call()


def test_a_panic_on_the_console_is_a_crash(session, world, model):
    console = Console()
    with Dut.open(session, combo=Combo(model=model), console=console) as dut:

        def panic() -> None:
            console.said += "Kernel panic - not syncing: test"
            world.opened[-1].cut()

        timer = soon(panic)
        with pytest.raises(BoardCrashed, match="Kernel panic"):
            dut.measure(X, seconds=600)
        timer.join()
        assert isinstance(dut.broken, BoardCrashed)
        assert dut.console_text.startswith("Kernel panic")


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGKILL, OutOfMemory), (signal.SIGABRT, ModelError)], ids=["SIGKILL", "SIGABRT"]
)
def test_how_the_models_process_died_decides_whom_to_blame(dut, bench, number, error):
    timer = soon(lambda: os.kill(child_below(bench), number))
    with pytest.raises(error):
        dut.measure(X, seconds=600)
    timer.join()
    assert (dut.broken is not None) == (error is OutOfMemory)


def child_below(bench) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[-2:-1] == [b"child"] and (path.parent / "cwd").readlink() == bench.home:
                return int(path.parent.name)
        except OSError:
            continue
    raise AssertionError("the model has no process")


def test_a_board_beyond_its_critical_temperature_is_not_measured_on(dut, bench):
    bench.put("sys/class/thermal/thermal_zone0/temp", f"{int(CRITICAL_C * 1000) + 500}\n")
    with pytest.raises(Overheated, match=r"110\.5 °C"):
        dut.measure(X, seconds=600)
    assert isinstance(dut.broken, Overheated)


def take_over(session) -> None:
    session.client.status()


def test_a_revived_holder_is_stopped(dut, bench):
    other = BoardSession(bench.board, token=9, holder="other", connect=bench.connect)
    timer = soon(take_over, other)
    with pytest.raises(Fenced, match="token 9 of other"):
        dut.measure(X, seconds=600)
    timer.join()
    transport = other.transport
    other.close()
    transport.close()


def test_a_board_that_broke_while_it_was_opened_leaves_nothing_open(session, world, model):
    world.comes_up = True
    session.client.status()
    world.opened[-1].cut()
    with pytest.raises(LinkLost):
        Dut.open(session, combo=Combo(model=model))
    with Dut.open(session, combo=Combo(model=model)) as again:
        again.run(X)
