"""Building: the shipped recipes give what their README says, and the same bytes everywhere."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts import build as build_module
from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.bundle import file_bytes, read
from pytest_edgehil.artifacts.dataset import load_dataset
from pytest_edgehil.artifacts.prompts import parse_prompts
from pytest_edgehil.artifacts.recipe import load_recipe
from pytest_edgehil.artifacts.report import BuildReport, write_report
from pytest_edgehil.errors import ExtraMissing, RecipeError

SUITES = Path(__file__).parents[3] / "suites"
DIGITS = SUITES / "models" / "digits"

RECIPE = """\
track: model
name: tiny
version: "1"
target: {name: any, board_classes: ["*"], runtime: onnxruntime}
source: model.onnx
quantise: {method: static, calibration: items.npz}
evaluate: {dataset: items.npz}
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(classifier())
    images = np.random.default_rng(3).random((40, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "items.npz", image=images, labels=np.zeros(40, dtype=np.int64))
    return tmp_path


def made(room: Path, text: str = RECIPE, out: str = "out", *, measure: bool = True) -> BuildReport:
    (room / "recipe.yaml").write_text(text)
    return build(load_recipe(room / "recipe.yaml"), out_dir=room / out, measure=measure)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BuildReport]:
    """As they are shipped; how fast they are here and what memory they take is measured of the small models below."""
    out = tmp_path_factory.mktemp("digits")
    names = ("digits-fp32", "digits-int8", "digits-int8-dynamic", "digits-bad")
    with pytest.MonkeyPatch.context() as patch:
        for rounds in ("_ROUNDS", "_PER_ROUND", "_WARMUP"):
            patch.setattr(build_module, rounds, 1)
        patch.setattr(build_module, "peak_bytes", lambda _model, _feeds: None)
        return {
            name: build(load_recipe(DIGITS / f"{name}.yaml"), out_dir=out, measure=name != "digits-fp32")
            for name in names
        }


def test_the_int8_digits_agree_with_fp32_on_the_held_out_set(digits: dict[str, BuildReport]) -> None:
    for name in ("digits-int8", "digits-int8-dynamic"):
        accuracy = digits[name].accuracy
        assert accuracy is not None
        assert accuracy.items >= 500
        assert accuracy.agreement >= 0.993
        assert accuracy.artifact is not None
        assert accuracy.artifact >= 0.98


def test_the_bad_digits_are_really_bad(digits: dict[str, BuildReport]) -> None:
    accuracy = digits["digits-bad"].accuracy
    assert accuracy is not None
    assert accuracy.agreement < 0.85
    assert accuracy.source is not None
    assert accuracy.artifact is not None
    assert accuracy.source - accuracy.artifact > 0.10


def test_only_the_calibration_set_tells_the_bad_recipe_from_the_good_one(digits: dict[str, BuildReport]) -> None:
    good, bad = digits["digits-int8"].artifact.manifest, digits["digits-bad"].artifact.manifest
    assert good.provenance.source == bad.provenance.source
    assert good.provenance.calibration != bad.provenance.calibration
    recipes = [load_recipe(DIGITS / f"{name}.yaml") for name in ("digits-int8", "digits-bad")]
    steps = [dataclasses.replace(one.step.quantise, calibration=None) for one in recipes]  # type: ignore[union-attr]
    assert steps[0] == steps[1]


def test_int8_digits_are_a_third_of_the_size(digits: dict[str, BuildReport]) -> None:
    full = digits["digits-fp32"].artifact.size_bytes
    assert full < 2 << 20
    assert digits["digits-int8"].artifact.size_bytes < full / 3
    assert digits["digits-int8-dynamic"].artifact.size_bytes < full / 3


def test_held_out_calibration_and_training_items_are_disjoint() -> None:
    """The training items are all the others of the 1797; see train.py, which deals each item once."""
    calibration, heldout = (load_dataset(DIGITS / f"{name}.npz") for name in ("calibration", "heldout"))
    assert len(heldout) == 600
    assert len(calibration) == 200
    seen = {one.tobytes() for one in calibration.inputs["image"]}
    assert not any(one.tobytes() in seen for one in heldout.inputs["image"])
    assert heldout.labels is not None
    assert min(np.bincount(heldout.labels)) >= 50
    for one in (calibration, heldout):
        assert one.inputs["image"].dtype == np.float32
        assert one.inputs["image"].min() == 0
        assert one.inputs["image"].max() == 1


def test_the_committed_digits_are_small() -> None:
    assert sum(path.stat().st_size for path in DIGITS.iterdir() if path.is_file()) < 3_000_000


def test_every_input_is_in_the_provenance(digits: dict[str, BuildReport]) -> None:
    provenance = digits["digits-int8"].artifact.manifest.provenance
    assert provenance.calibration == load_dataset(DIGITS / "calibration.npz").digest
    assert provenance.recipe == load_recipe(DIGITS / "digits-int8.yaml").digest
    assert set(provenance.tools) == {"pytest-edgehil", "numpy", "onnx", "onnxruntime"}
    assert digits["digits-fp32"].artifact.manifest.provenance.calibration is None


def test_two_builds_in_two_directories_give_the_same_bytes(tmp_path: Path, digits: dict[str, BuildReport]) -> None:
    shutil.copytree(DIGITS, tmp_path / "elsewhere" / "copied")
    for path in (tmp_path / "elsewhere" / "copied").iterdir():
        path.touch()
    for name in ("digits-int8", "digits-int8-dynamic"):
        again = build(
            load_recipe(tmp_path / "elsewhere" / "copied" / f"{name}.yaml"), out_dir=tmp_path / name, measure=False
        )
        assert again.artifact.path.read_bytes() == digits[name].artifact.path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda room: (room / "model.onnx").write_bytes(classifier(seed=1)),
        lambda room: np.savez(room / "items.npz", image=np.zeros((2, 1, 8, 8), dtype=np.float32)),
    ],
    ids=["source", "calibration"],
)
def test_a_changed_input_gives_other_bytes(room: Path, change: object) -> None:
    before = made(room, out="before", measure=False).artifact
    change(room)  # type: ignore[operator]
    assert made(room, out="after", measure=False).artifact.digest != before.digest


def test_a_changed_recipe_gives_other_bytes_and_a_comment_does_not(room: Path) -> None:
    before = made(room).artifact.digest
    assert made(room, f"# comment\n{RECIPE}", measure=False).artifact.digest == before
    fewer = RECIPE.replace("items.npz}\nev", "items.npz, items: 20}\nev")
    assert made(room, fewer, measure=False).artifact.digest != before


def test_progress_is_told_in_lines(room: Path) -> None:
    lines: list[str] = []
    (room / "recipe.yaml").write_text(RECIPE)
    build(load_recipe(room / "recipe.yaml"), out_dir=room, progress=lines.append)
    assert any("calibrating with 40 items" in line for line in lines)
    assert lines[-1] == "timing on this host, one thread"
    assert not any("\n" in line for line in lines)


def test_the_report_is_written_beside_the_artifact(room: Path) -> None:
    report = made(room)
    as_json, as_markdown = write_report(report)
    assert as_json.parent == as_markdown.parent == report.artifact.path.parent
    document = report.to_json()
    assert document["artifact"]["digest"] == report.artifact.digest
    assert document["accuracy"]["items"] == 40
    assert document["host_latency"]["artifact_p50_ns"] > 0
    assert f"| digest | {report.artifact.digest} |" in as_markdown.read_text()
    assert report.operators
    assert report.errors
    # what a build must tell, in each of its three forms
    said = ("size", "agreement", "accuracy", "host latency", "host memory", "quantised", "worst layers")
    for text in (report.to_text(), as_markdown.read_text()):
        assert [one for one in said if one not in text] == []
    assert document["source_size_bytes"] == (room / "model.onnx").stat().st_size
    assert document["output_size_bytes"] == len(file_bytes(report.artifact, "model.onnx"))
    assert document["host_memory"]["artifact_bytes"] > 0
    assert all(0 <= one["quantised"] <= one["total"] for one in document["operators"])
    errors = [one["relative_rms"] for one in document["largest_errors"]]
    assert errors == sorted(errors, reverse=True)
    assert json.loads(as_json.read_text()) == document


def test_weights_beside_the_model_are_taken_in_and_their_change_is_a_change_of_the_source(room: Path) -> None:
    text = RECIPE.replace("method: static, calibration: items.npz", "method: dynamic")
    plain = made(room, text, measure=False).artifact
    model = onnx.load(room / "model.onnx")
    onnx.save(model, room / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (room / "weights.bin").stat().st_size > 0
    beside = made(room, text, out="beside", measure=False).artifact
    assert file_bytes(beside, "model.onnx") == file_bytes(plain, "model.onnx")
    data = bytearray((room / "weights.bin").read_bytes())
    data[3] ^= 0x01
    (room / "weights.bin").write_bytes(data)
    changed = made(room, text, out="changed", measure=False).artifact
    assert changed.manifest.provenance.source != beside.manifest.provenance.source
    (room / "weights.bin").unlink()
    with pytest.raises(RecipeError, match="weights in other files cannot be taken in") as refused:
        made(room, text, out="gone")
    assert "\n" not in str(refused.value)


def test_without_labels_there_is_agreement_but_no_accuracy(room: Path) -> None:
    images = np.random.default_rng(4).random((5, 1, 8, 8), dtype=np.float32)
    np.savez(room / "more.npz", image=images)
    report = made(room, RECIPE.replace("dataset: items", "dataset: more"))
    assert report.accuracy is not None
    assert report.accuracy.source is None
    assert "accuracy" not in dict(report.rows())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "{dataset: items.npz}",
            "{dataset: items.npz, output: logit}",
            "the model has no output 'logit'; it has logits",
        ),
        ("calibration: items.npz", "calibration: other.npz", "other.npz: its items do not fit the source"),
        ("dataset: items.npz", "dataset: other.npz", "other.npz: its items do not fit the source"),
        ("source: model.onnx", "source: junk.onnx", "ONNX Runtime does not load it"),
        (
            "{method: static,",
            "{method: static, exclude: [nix],",
            "recipe.yaml: quantise.exclude: the model has no node",
        ),
        ("source:", "budgets: {size: 1 KiB}\nsource:", "budgets.size: the bundle has"),
        ("source:", "provides: {model.name: x}\nsource:", "provides.model.name: is set by the build"),
    ],
)
def test_what_cannot_be_built_is_said_in_one_line_and_leaves_no_artifact(
    room: Path, old: str, new: str, said: str
) -> None:
    np.savez(room / "other.npz", image=np.zeros((2, 4), dtype=np.float32))
    (room / "junk.onnx").write_bytes(b"junk")
    assert old in RECIPE
    with pytest.raises(RecipeError) as caught:
        made(room, RECIPE.replace(old, new, 1))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if "dataset" not in old:  # the report comes after the artifact, and the artifact is good
        assert not list((room / "out").glob("*"))


def test_quantising_without_the_extra_names_the_extra(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    for name in ("quantise", "calibrate"):
        monkeypatch.delitem(sys.modules, f"pytest_edgehil.artifacts.{name}", raising=False)
    with pytest.raises(ExtraMissing, match=r"pip install 'pytest-edgehil\[build\]'"):
        made(room)
    plain = RECIPE.replace("{method: static, calibration: items.npz}", "{method: none}")
    assert made(room, plain, measure=False).artifact.manifest.quantisation == "fp32"


def test_the_shipped_prompt_bundle_goes_with_the_digits(tmp_path: Path) -> None:
    artifact = build(load_recipe(SUITES / "prompts" / "digit-reader.yaml"), out_dir=tmp_path).artifact
    assert artifact.manifest.depends == {"model.name": ("digits",), "model.version": ("1.*",)}
    bundle = parse_prompts(file_bytes(artifact, "prompt.json"))
    said = bundle.render("announce", {"digit": 7, "percent": 99.5})
    assert said == "The digit reads 7, 99.5 percent sure."
    assert read(artifact.path) == artifact


def test_a_dependency_that_the_bundle_makes_must_not_be_in_the_recipe(tmp_path: Path) -> None:
    shutil.copytree(SUITES / "prompts", tmp_path / "prompts")
    recipe = tmp_path / "prompts" / "digit-reader.yaml"
    recipe.write_text(recipe.read_text() + "depends: {model.name: [other]}\n")
    with pytest.raises(RecipeError, match=r"depends\.model\.name: is made from the bundle's 'models'"):
        build(load_recipe(recipe), out_dir=tmp_path)


def test_models_of_one_bundle_that_need_other_versions_are_refused(tmp_path: Path) -> None:
    shutil.copytree(SUITES / "prompts", tmp_path / "prompts")
    bundle = tmp_path / "prompts" / "digit-reader.prompt.yaml"
    bundle.write_text(bundle.read_text().replace("models:\n", 'models:\n  - {name: other, versions: ["2.*"]}\n'))
    with pytest.raises(RecipeError, match="split the bundle"):
        build(load_recipe(tmp_path / "prompts" / "digit-reader.yaml"), out_dir=tmp_path)
