"""``edgehil build --check``: the same inputs give the same bytes, and the input that differs is named."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts import rebuild as module
from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.artifacts.recipe import load_recipe
from pytest_edgehil.cli import main
from pytest_edgehil.errors import RecipeError
from pytest_edgehil.model.artifact import Artifact

RECIPE = """\
track: model
name: tiny
version: "1"
target: {name: any, board_classes: ["*"]}
source: model.onnx
quantise: {method: static, calibration: items.npz}
evaluate: {dataset: heldout.npz}
"""


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((30, 1, 8, 8), dtype=np.float32)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(classifier())
    np.savez(tmp_path / "items.npz", image=images(1))
    np.savez(tmp_path / "heldout.npz", image=images(2), labels=np.zeros(30, dtype=np.int64))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def made(room: Path) -> Artifact:
    return build(load_recipe(room / "recipe.yaml"), out_dir=room / "out").artifact


def differences(room: Path, artifact: Artifact) -> tuple[str, ...]:
    found = module.rebuild(artifact, load_recipe(room / "recipe.yaml"))
    assert found.same == (not found.differences)
    return found.differences


def test_nothing_changed_nothing_differs(room: Path) -> None:
    artifact = made(room)
    (room / "recipe.yaml").write_text(f"# a comment\n{RECIPE}")
    assert differences(room, artifact) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda room: (room / "model.onnx").write_bytes(classifier(seed=1)), "source: it was sha256:"),
        (lambda room: np.savez(room / "items.npz", image=images(9)), "calibration set: it was sha256:"),
        (
            lambda room: (room / "recipe.yaml").write_text(RECIPE.replace("items.npz}", "items.npz, items: 9}")),
            "recipe",
        ),
        (lambda room: (room / "recipe.yaml").write_text(RECIPE.replace('"1"', '"2"')), "version: the artifact has 1"),
    ],
)
def test_the_one_input_that_differs_is_named(room: Path, change, said: str) -> None:
    artifact = made(room)
    change(room)
    found = differences(room, artifact)
    assert any(one.startswith(said) for one in found)
    assert len(found) <= 2  # a version is part of the recipe, too


PROMPT = """\
models: [{name: digits, versions: ["*"]}]
variables: {question: {type: text}}
templates: {ask: "Read {{question}}"}
tests: [{name: one, template: ask, values: {question: x}, expect: ["Read x"]}]
"""
EVERY_KIND = {
    "model": """\
track: model
name: tiny
version: "1"
target: {name: any, board_classes: ["*"]}
source: model.onnx
quantise: {method: static, calibration: items.npz}
health: {dataset: heldout.npz, items: 2}
""",
    "prompt": """\
track: prompt
name: ask
version: "1"
target: {name: any, board_classes: ["*"]}
bundle: prompts.yaml
""",
    "firmware": """\
track: firmware
name: edge-os
version: "1"
target: {name: any, board_classes: ["*"]}
tree: system
""",
    "images": """\
track: firmware
name: edge-image
version: "1"
target: {name: any, board_classes: ["*"]}
images: {root: root.ext4}
""",
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of every kind with its inputs, built; to be copied."""
    room = tmp_path_factory.mktemp("everything") / "one"
    room.mkdir()
    (room / "model.onnx").write_bytes(classifier())
    np.savez(room / "items.npz", image=images(1))
    np.savez(room / "heldout.npz", image=images(2), labels=np.zeros(30, dtype=np.int64))
    (room / "prompts.yaml").write_text(PROMPT)
    (room / "system").mkdir()
    for name, mode in (("kernel", 0o644), ("health", 0o755)):
        (room / "system" / name).write_text("#!/bin/sh\n")
        (room / "system" / name).chmod(mode)
    (room / "root.ext4").write_bytes(b"root" * 5000)
    for kind, text in EVERY_KIND.items():
        (room / f"{kind}.yaml").write_text(text)
        build(load_recipe(room / f"{kind}.yaml"), out_dir=room / "out", measure=False)
    return room


BUILD_ALL = """
import json, os, pathlib, sys
os.umask(0o077)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.recipe import load_recipe
found = {}
for kind in sys.argv[2:]:
    made = build(load_recipe(pathlib.Path(sys.argv[1], kind + ".yaml")), out_dir=pathlib.Path("made"), measure=False)
    found[made.artifact.path.name] = made.artifact.digest
print(json.dumps(found))
"""


def test_another_directory_and_environment_give_the_same_bytes(everything: Path, tmp_path: Path) -> None:
    """Other cwd, HOME, TZ, LANG, hash seed, umask, threads, times of files, order of their creation."""
    there = tmp_path / "elsewhere" / "deep"
    there.parent.mkdir()
    shutil.copytree(everything, there, ignore=shutil.ignore_patterns("out"), copy_function=shutil.copyfile)
    (there / "system" / "health").chmod(0o700)
    for path in there.rglob("*"):
        os.utime(path, (1e9, 1e9))
    environment = {
        **os.environ, "HOME": str(tmp_path), "TZ": "Pacific/Kiritimati", "LANG": "tr_TR.UTF-8", "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "4711", "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1", "USER": "somebody", "COLUMNS": "40",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", BUILD_ALL, str(there), *EVERY_KIND],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {path.name: read(path).digest for path in (everything / "out").glob("*.tar.gz")}


def rewritten(name: str, old: str, new: str) -> Callable[[Path], object]:
    def change(room: Path) -> None:
        text = (room / name).read_text()
        assert old in text
        (room / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("model", lambda room: (room / "model.onnx").write_bytes(classifier(seed=1)), "source: "),
        ("model", lambda room: np.savez(room / "items.npz", image=images(9)), "calibration set: "),
        ("model", lambda room: np.savez(room / "heldout.npz", image=images(9)), "health check: its items"),
        ("model", rewritten("model.yaml", "items: 2", "items: 3"), "recipe: "),
        ("model", rewritten("model.yaml", "items.npz}", "items.npz, per_channel: false}"), "recipe: "),
        ("model", rewritten("model.yaml", "name: tiny", "name: tinier"), "name: the artifact has tiny"),
        ("prompt", rewritten("prompts.yaml", "Read {{question}}", "Now Read {{question}}"), "source: "),
        ("prompt", rewritten("prompt.yaml", '["*"]', '["pi5-*"]'), "recipe: .* \\(target differ\\)"),
        ("firmware", lambda room: (room / "system" / "kernel").write_text("#!/bin/zsh"), "source: "),
        ("firmware", lambda room: (room / "system" / "kernel").chmod(0o755), "source: "),
        ("firmware", lambda room: (room / "system" / "kernel").rename(room / "system" / "image"), "source: "),
        ("firmware", lambda room: (room / "system" / "added").write_text(""), "source: "),
        (
            "firmware",
            rewritten("firmware.yaml", "tree: system", "tree: system\nprovides: {x: y}"),
            "recipe: .*provides",
        ),
        (
            "firmware",
            rewritten("firmware.yaml", "tree: system", "tree: system\nbudgets: {size: 1 MiB}"),
            "recipe: .*budg",
        ),
        ("images", lambda room: (room / "root.ext4").write_bytes(b"boot" * 5000), "source: "),
        ("images", rewritten("images.yaml", "{root: root", "{rootfs: root"), "source: "),
        ("images", rewritten("images.yaml", 'version: "1"', 'version: "2"'), "version: the artifact has 1"),
    ],
)
def test_any_input_that_changes_changes_the_bytes_and_is_named(
    everything: Path, tmp_path: Path, kind: str, change: Callable[[Path], object], said: str
) -> None:
    room = tmp_path / "room"
    shutil.copytree(everything, room)
    change(room)
    (path,) = [one for one in (everything / "out").glob("*.tar.gz") if one.name.startswith(NAMES[kind])]
    found = module.rebuild(read(path), load_recipe(room / f"{kind}.yaml"))
    assert not found.same
    assert any(re.match(said, one) for one in found.differences), found.differences


NAMES = {"model": "tiny", "prompt": "ask", "firmware": "edge-os", "images": "edge-image"}


def test_weights_in_a_file_beside_the_model_are_its_source(room: Path) -> None:
    text = RECIPE.replace("quantise: {method: static, calibration: items.npz}\n", "")
    (room / "recipe.yaml").write_text(text)
    model = onnx.load(room / "model.onnx")
    onnx.save(model, room / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    artifact = made(room)
    assert differences(room, artifact) == ()
    data = bytearray((room / "weights.bin").read_bytes())
    data[5] ^= 1
    (room / "weights.bin").write_bytes(data)
    (found,) = differences(room, artifact)
    assert found.startswith("source: ")


def test_weights_of_a_branch_in_a_file_beside_the_model_are_its_source_too(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    from pytest_edgehil.artifacts.build import _whole

    out = [helper.make_tensor_value_info("w", TensorProto.FLOAT, [64])]
    weights = numpy_helper.from_array(np.arange(64, dtype=np.float32), "w")
    branch = helper.make_graph([], "branch", [], out, [weights])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64])]
    model = helper.make_model(helper.make_graph([node], "net", inputs, outputs))
    onnx.save(model, tmp_path / "plain.onnx")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size >= 256
    whole = _whole(tmp_path / "model.onnx")
    assert onnx.load_from_string(whole) == onnx.load(tmp_path / "plain.onnx")
    (tmp_path / "weights.bin").write_bytes(bytes((tmp_path / "weights.bin").stat().st_size))
    assert _whole(tmp_path / "model.onnx") != whole


def test_another_version_of_a_tool_is_named(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_edgehil.artifacts import build as builder

    artifact = made(room)
    real = builder.installed
    monkeypatch.setattr(builder, "installed", lambda tool: "0.0.1" if tool == "onnx" else real(tool))
    (found,) = differences(room, artifact)
    assert found == f"tool onnx: it was built with {real('onnx')}, here is 0.0.1"


def test_bytes_that_differ_without_reason_are_told_as_that(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_edgehil.artifacts import quantise

    artifact = made(room)
    real = quantise.canonical
    monkeypatch.setattr(quantise, "canonical", lambda model: real(model) + b"\x1a\x00")  # an empty doc string
    (found,) = differences(room, artifact)
    assert found.startswith("every input is the same, but not the bytes")
    assert "model.onnx" in found


def test_the_verb_tells_and_fails(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = made(room)
    asked = ["build", "--quiet", "--check", str(artifact.path), str(room / "recipe.yaml")]
    assert main(asked) == 0
    assert "gives the same bytes again" in capsys.readouterr().out
    (room / "recipe.yaml").write_text(RECIPE.replace("items.npz}", "items.npz, per_channel: false}"))
    assert main(asked) == 1
    assert "  - recipe: it was" in capsys.readouterr().out
    assert main([*asked, str(room / "recipe.yaml")]) == 2
    assert "pass the one recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "said"),
    [("agreement: 1.0, drop: 0.5", None), ("drop: 0.0", None), ("agreement: 1.0", "evaluate.agreement")],
)
def test_a_build_that_misses_its_limits_leaves_no_artifact(room: Path, limit: str, said: str | None) -> None:
    calibration = images(1) / 50 if said else images(1)  # too dim: the ranges are wrong
    np.savez(room / "items.npz", image=calibration)
    if said:  # items of both signs, so that not all fall into one class
        varied = np.random.default_rng(7).normal(0, 5, (200, 1, 8, 8)).astype(np.float32)
        np.savez(room / "heldout.npz", image=varied)
        (room / "model.onnx").write_bytes(classifier(seed=2))  # whose classes are equally frequent
    (room / "recipe.yaml").write_text(RECIPE.replace("heldout.npz}", f"heldout.npz, {limit}}}"))
    if said is None:
        assert made(room).path.is_file()
        return
    with pytest.raises(RecipeError, match=said):
        made(room)
    assert not list((room / "out").glob("*.tar.gz"))


def test_a_limit_on_accuracy_needs_labels(room: Path) -> None:
    np.savez(room / "heldout.npz", image=images(2))
    (room / "recipe.yaml").write_text(RECIPE.replace("heldout.npz}", "heldout.npz, drop: 0.01}"))
    with pytest.raises(RecipeError, match="has no labels to judge it by"):
        made(room)
