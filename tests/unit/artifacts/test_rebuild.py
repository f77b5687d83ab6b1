"""``edgehil build --check``: the same inputs give the same bytes, and the input that differs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts import rebuild as module
from pytest_edgehil.artifacts.build import build
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
