"""Replay artifacts: a trace survives packing, and a trace that cannot be played is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.replay import TensorShape, Trace, build_replay, parse_trace, read_trace, trace_bytes
from pytest_edgehil.errors import CorruptArtifact

TRACE = Trace(
    latencies_ns=(1_000_000, 2_000_000),
    load_ns=5_000_000,
    load_rss_bytes=40 << 20,
    peak_rss_bytes=50 << 20,
    gap_ns=10,
    period_s=0.5,
    rss_bytes=(41 << 20, 42 << 20),
    temperature_c=(50.0, 51.5),
    throttled=(0, 0x50005),
    arm_hz=(2_400_000_000,),
    inputs={"image": TensorShape(dtype="float32", shape=(1, 1, 8, 8))},
    outputs={"logits": [[0.0, 1.0], [1.0, 0.0]]},
)


def test_a_trace_survives_packing(tmp_path: Path) -> None:
    made = build_replay(TRACE, name="old", version="1.0", out_dir=tmp_path)
    assert read_trace(made) == TRACE
    assert made.manifest.target.runtime == "replay"
    assert made.manifest.format == "replay"
    assert made.path.name == "old-1.0-any-recorded.tar.gz"
    assert build_replay(TRACE, name="old", version="1.0", out_dir=tmp_path / "again").digest == made.digest


def test_what_is_left_out_has_a_default() -> None:
    assert parse_trace(b'{"schema":1,"latencies_ns":[1]}') == Trace(latencies_ns=(1,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 2}, "schema"),
        ({"latency_ns": [1]}, "'latency_ns' is an unknown field"),
        ({"latencies_ns": []}, "latencies_ns: is empty"),
        ({"latencies_ns": [1, 0]}, "latencies_ns[1]: 0"),
        ({"latencies_ns": [1.5]}, "latencies_ns[0]: 1.5"),
        ({"latencies_ns": [True]}, "latencies_ns[0]: True"),
        ({"latencies_ns": 5}, "latencies_ns: 5"),
        ({"latencies_ns": [2**63]}, "latencies_ns[0]"),
        ({"gap_ns": -1}, "gap_ns: -1"),
        ({"period_s": 0}, "period_s"),
        ({"period_s": "1"}, "period_s"),
        ({"rss_bytes": [-1]}, "rss_bytes[0]: -1"),
        ({"temperature_c": ["hot"]}, "temperature_c[0]: 'hot'"),
        ({"load_ns": 0}, "load_ns: 0"),
        ({"inputs": {"image": {"dtype": "float32"}}}, "inputs.image"),
        ({"inputs": {"image": {"dtype": "float32", "shape": [-1]}}}, "inputs.image"),
        ({"inputs": []}, "inputs"),
        ({"outputs": {"logits": []}}, "outputs.logits"),
        ({"outputs": {"logits": [[1, 2], [1]]}}, "outputs.logits"),
        ({"outputs": {"logits": [["a"]]}}, "outputs.logits"),
        ({"outputs": {"logits": [[None]]}}, "outputs.logits"),
    ],
)
def test_what_is_off_is_named(changes: dict[str, Any], said: str) -> None:
    document = {**json.loads(trace_bytes(TRACE)), **changes}
    with pytest.raises(CorruptArtifact) as caught:
        parse_trace(json.dumps(document).encode(), where="trace.json of x")
    assert said in str(caught.value)
    assert str(caught.value).startswith("trace.json of x: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"schema":1,"latencies_ns":[NaN]}', b"[" * 100_000])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptArtifact):
        parse_trace(data)


def test_a_trace_that_cannot_be_played_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        build_replay(Trace(latencies_ns=()), name="old", version="1", out_dir=tmp_path)
    with pytest.raises(CorruptArtifact):
        build_replay(Trace(latencies_ns=(1,), temperature_c=(float("nan"),)), name="old", version="1", out_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_artifact_of_another_format_has_no_trace(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="of format onnx, expected replay"):
        read_trace(pack(manifest(), {"model.onnx": b"x"}, tmp_path))
