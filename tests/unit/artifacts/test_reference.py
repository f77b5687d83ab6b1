"""The baseline on the host: real sessions, checked feeds, recorded outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import manifest
from support.onnx_models import classifier

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.reference import OnnxSession, ReferenceModel
from pytest_edgehil.artifacts.replay import Trace, build_replay
from pytest_edgehil.errors import CorruptArtifact, ModelError, WrongTarget
from pytest_edgehil.model.artifact import Track

IMAGE = np.zeros((1, 1, 8, 8), dtype=np.float32)


@pytest.fixture
def reference(tmp_path: Path) -> ReferenceModel:
    return ReferenceModel(pack(manifest(), {"model.onnx": classifier()}, tmp_path))


def test_it_runs_by_names(reference: ReferenceModel) -> None:
    outputs = reference.run({"image": IMAGE})
    assert outputs["logits"].shape == (1, 3)
    assert [str(one) for one in reference.inputs] == ["image: float32 (1, 1, 8, 8)"]


def test_evaluating_is_running_item_by_item(reference: ReferenceModel) -> None:
    images = np.random.default_rng(1).random((5, 1, 8, 8), dtype=np.float32)
    together = reference.evaluate({"image": images})["logits"]
    alone = [reference.run({"image": images[at : at + 1]})["logits"] for at in range(5)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "no feed for the input 'image'"),
        ({"picture": IMAGE}, "has no input 'picture'"),
        ({"image": IMAGE, "mask": IMAGE}, "has no input 'mask'"),
        ({"image": IMAGE.astype(np.float64)}, "was fed float64 (1, 1, 8, 8)"),
        ({"image": IMAGE[0]}, "was fed float32 (1, 8, 8)"),
        ({"image": np.zeros((2, 1, 8, 8), dtype=np.float32)}, "was fed float32 (2, 1, 8, 8)"),
    ],
)
def test_wrong_feeds_are_named_with_what_the_model_takes(
    reference: ReferenceModel, feeds: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError) as caught:
        reference.run(feeds)
    assert said in str(caught.value)
    assert "it takes image: float32 (1, 1, 8, 8)" in str(caught.value)
    assert str(caught.value).startswith("digits 1.0.0 int8-static: ")


@pytest.mark.parametrize("data", [b"", b"junk", classifier()[:-100]])
def test_a_model_that_does_not_load_is_the_models_fault(data: bytes) -> None:
    with pytest.raises(ModelError, match="x: ONNX Runtime does not load it") as caught:
        OnnxSession(data, label="x")
    assert "\n" not in str(caught.value)


def test_a_bundle_that_changed_is_not_run(tmp_path: Path) -> None:
    old = pack(manifest(), {"model.onnx": classifier()}, tmp_path)
    pack(manifest(), {"model.onnx": classifier(seed=1)}, tmp_path)
    with pytest.raises(CorruptArtifact):
        ReferenceModel(old)


def test_firmware_does_not_run_on_the_host(tmp_path: Path) -> None:
    firmware = manifest(track=Track.FIRMWARE, format="firmware-tree", quantisation="none")
    with pytest.raises(WrongTarget, match="does not run on the host"):
        ReferenceModel(pack(firmware, {"model.onnx": b"x"}, tmp_path))


def test_a_recording_gives_its_outputs_item_by_item(tmp_path: Path) -> None:
    trace = Trace(latencies_ns=(1,), outputs={"logits": [[0.0, 1.0], [1.0, 0.0]]})
    reference = ReferenceModel(build_replay(trace, name="old", version="1", out_dir=tmp_path))
    outputs = reference.evaluate({"image": np.zeros((3, 1), dtype=np.float32)})["logits"]
    np.testing.assert_array_equal(outputs, [[0, 1], [1, 0], [0, 1]])
    assert outputs.dtype == np.float32
    np.testing.assert_array_equal(reference.run({"image": np.zeros((1, 1))})["logits"], [[0, 1]])
