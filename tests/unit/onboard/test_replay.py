"""Playing back a recording: the rules of artifacts/replay.py, by the numbers."""

from __future__ import annotations

import json
import struct

import pytest

from pytest_edgehil.artifacts.replay import TensorShape, Trace, trace_bytes
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.runtimes.replay import ReplaySession
from pytest_edgehil.onboard.tensors import Tensor

MS = 1_000_000


def session(tmp_path, **fields) -> ReplaySession:
    trace = Trace(**{"latencies_ns": (10 * MS, 20 * MS, 30 * MS), "period_s": 0.025, **fields})
    path = tmp_path / "trace.json"
    path.write_bytes(trace_bytes(trace))
    return ReplaySession(path)


def items(count: int) -> list[Tensor]:
    data = memoryview(bytes(4 * count))
    return [Tensor(name="x", dtype="float32", shape=(count, 1), data=data)]


def test_latencies_repeat_and_the_clock_is_their_sum_and_the_gaps(tmp_path):
    played = session(tmp_path, gap_ns=5 * MS)
    played.stage(items(2), append=False)
    block = played.block(first=0, limit=4, until_ns=10**18, keep=0)
    assert block.latencies_ns == [10 * MS, 20 * MS, 30 * MS, 10 * MS]
    assert block.starts_ns == [0, 15 * MS, 40 * MS, 75 * MS]
    assert played.now_ns() == 90 * MS


def test_a_demand_for_time_is_met_on_the_recordings_clock(tmp_path):
    played = session(tmp_path)
    played.stage(items(1), append=False)
    hour = 3600 * 10**9
    count = 0
    while played.now_ns() < hour:
        count += len(played.block(first=0, limit=4000, until_ns=hour, keep=0).starts_ns)
    assert count == 180_000


def test_outputs_belong_to_items_not_to_inferences(tmp_path):
    played = session(tmp_path, outputs={"logits": [[1, 0], [0, 1], [0.5, 0.25]]})
    played.stage(items(4), append=False)
    block = played.block(first=3, limit=3, until_ns=10**18, keep=3)
    rows = [struct.unpack("<2f", tensors[0].data) for tensors in block.outputs]
    assert rows == [(1, 0), (1, 0), (0, 1)]  # items 3, 0, 1 of 4; recorded are 3
    assert block.outputs[0][0].shape == (1, 2)


def test_run_gets_as_many_rows_as_its_batch(tmp_path):
    played = session(tmp_path, outputs={"logits": [[1], [2]]})
    feeds = [Tensor(name="x", dtype="float32", shape=(1, 3, 1), data=memoryview(bytes(12)))]
    outputs, start, latency = played.run(feeds)
    assert outputs[0].shape == (3, 1)
    assert struct.unpack("<3f", outputs[0].data) == (1, 2, 1)
    assert (start, latency) == (0, 10 * MS)


def test_readings_stand_on_the_recordings_clock(tmp_path):
    played = session(tmp_path, temperature_c=(50.0, 60.0), throttled=(0, 0, 4))
    played.stage(items(1), append=False)
    assert [row["at_s"] for row in played.readings()] == [0.0]
    played.block(first=0, limit=3, until_ns=10**18, keep=0)  # 60 ms
    rows = played.readings()
    assert [row["at_s"] for row in rows] == [0.025, 0.05]
    assert [row["temperature_c"] for row in rows] == [60.0, 50.0]
    assert rows[0]["rss_bytes"] is None
    facts = played.facts()
    assert (facts["throttled_before"], facts["throttled"]) == (0, 4)
    assert played.readings() == []


def test_inputs_and_outputs_are_described(tmp_path):
    played = session(tmp_path, inputs={"x": TensorShape(dtype="float32", shape=(1, 4))}, outputs={"y": [[[1, 2]]]})
    assert played.inputs == [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    assert played.outputs == [{"name": "y", "dtype": "float32", "shape": [1, 1, 2]}]


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2}, {"latencies_ns": []}, {"latencies_ns": [0]}, {"latencies_ns": "x"}, {"period_s": 0},
        {"outputs": {"y": [[1, 2], [3]]}}, {"outputs": {"y": []}}, {"gap_ns": -1}, {"inputs": {"x": {}}},
    ],
    ids=str,
)  # fmt: skip
def test_a_recording_that_cannot_be_played_is_refused(tmp_path, change):
    value = json.loads(trace_bytes(Trace(latencies_ns=(1,))))
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({**value, **change}))
    with pytest.raises(Problem) as caught:
        ReplaySession(path)
    assert caught.value.code == "model-failed"
