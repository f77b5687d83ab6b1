"""An emulated board whose time is its instructions: what it tells apart, and what refuses it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest
from support.emulated_bench import Bench, open_bench
from support.farm import NOTHING

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.model import Budgets, Manifest, Provenance, Target, Track

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(1800)]

LAYER, ROWS, PRODUCTS = 160, 2, 40
SUITE = """
import numpy as np
import pytest

FEEDS = {"x": np.ones((2, 160), dtype=np.float32)}
median = pytest.mark.quantile_latency(0.5, baseline="plain", ratio=1.005, pairs=6, block=10)


@pytest.mark.combo(model="slower")
@median
def test_one_percent_more(dut):
    dut.run(FEEDS)


@pytest.mark.combo(model="plain")
@median
def test_the_same(dut):
    dut.run(FEEDS)


@pytest.mark.combo(model="plain")
@pytest.mark.p95_latency("12 ms")
def test_milliseconds(dut):
    dut.run(FEEDS)
"""


def layers(*, extra: int) -> bytes:
    """x (2, 160) → y: products of matrices, and so many steps of a hundredth of their work."""
    names = ["x", *(f"y{number}" for number in range(PRODUCTS + extra - 1)), "y"]
    nodes = [
        onnx.helper.make_node("MatMul", [before, "w"], [after])
        if number < PRODUCTS
        else onnx.helper.make_node("Erf", [before], [after])
        for number, (before, after) in enumerate(pairwise(names))
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [ROWS, LAYER]) for name in ("x", "y")]
    weights = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [LAYER, LAYER], [1.0 / LAYER] * LAYER**2)
    graph = onnx.helper.make_graph(nodes, "layers", ends[:1], ends[1:], [weights])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def artifact(directory: Path, name: str, *, extra: int) -> None:
    manifest = Manifest(
        schema=1,
        name=name,
        version="1.0.0",
        track=Track.MODEL,
        format="onnx",
        quantisation="fp32",
        target=Target(name="any", board_classes=("*",), runtime="onnxruntime"),
        files=(),
        entry="model.onnx",
        provides={},
        depends={},
        budgets=Budgets(),
        provenance=Provenance(source=NOTHING, recipe=NOTHING),
    )
    path = directory / f"{name}.onnx"
    path.write_bytes(layers(extra=extra))
    pack(manifest, {"model.onnx": path}, directory / "artifacts")


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A board that counts, for a lab of its own."""
    with open_bench(tmp_path / "bench", icount=True) as bench:
        bench.leave()
        monkeypatch.setenv("EDGEHIL_STATE_DIR", str(bench.state))
        yield bench


def test_one_percent_more_instructions_fail_and_milliseconds_are_refused(
    counted: Bench, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "lab.yaml").write_text(counted.lab_file())
    (tmp_path / "test_counted.py").write_text(SUITE)
    artifact(tmp_path, "plain", extra=0)
    artifact(tmp_path, "slower", extra=1)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--edgehil-lab", str(tmp_path / "lab.yaml")]
    argv += ["--edgehil-artifacts", str(tmp_path / "artifacts"), f"--edgehil-report={tmp_path / 'report'}"]
    argv += ["--edgehil-plots=off", f"--rootdir={tmp_path}", str(tmp_path / "test_counted.py")]
    done = subprocess.run(argv, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-1000:]
    found: list[dict[str, Any]] = json.loads((tmp_path / "report/results.json").read_text())["tests"]
    tests = {one["nodeid"].rpartition("::")[2]: one for one in found}
    slower, same, refused = (tests[f"test_{name}"] for name in ("one_percent_more", "the_same", "milliseconds"))
    assert [one["status"] for one in (slower, same, refused)] == ["failed", "passed", "error"], done.stdout
    assert {one["board"]["timing"] for one in (slower, same)} == {"icount"}
    assert 1.005 < slower["verdicts"][0]["observed"] < 1.02
    assert 0.995 < same["verdicts"][0]["observed"] < 1.005
    assert refused["board"] is None
    assert "timing is icount, not wall: it counts instructions" in refused["message"]
    statements = [
        json.loads(base64.b64decode(json.loads(path.read_text())["payload"]))
        for path in (tmp_path / "report/evidence").glob("0*.dsse.json")
    ]
    assert [one["predicate"]["environment"]["timing"] for one in statements] == ["icount", "icount"]
