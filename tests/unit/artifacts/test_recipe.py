"""A recipe is checked before anything is built; what is wrong is named by file, line and path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_edgehil.artifacts.recipe import FirmwareStep, ModelStep, PromptStep, load_recipe
from pytest_edgehil.errors import RecipeError
from pytest_edgehil.model.artifact import Budgets, Track

GOOD = """\
track: model
name: digits
version: "1.0.0"
target: {name: pi5, board_classes: ["pi5-*"], runtime: onnxruntime, min_runtime_version: "1.20"}
source: model.onnx
quantise:
  method: static
  calibration: items.npz
evaluate: {dataset: items.npz, output: logits}
budgets: {p95_latency: 12 ms, peak_rss: 180 MiB, size: 1 MiB}
depends: {firmware.name: [edge-os]}
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "items.npz").write_bytes(b"npz")
    return tmp_path


def written(room: Path, text: str) -> Path:
    path = room / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_good_recipe_becomes_frozen_values(room: Path) -> None:
    recipe = load_recipe(written(room, GOOD))
    assert recipe.track is Track.MODEL
    assert recipe.target.board_classes == ("pi5-*",)
    assert recipe.budgets == Budgets(p95_latency_us=12_000, peak_rss_bytes=180 << 20, size_bytes=1 << 20)
    assert recipe.depends == {"firmware.name": ("edge-os",)}
    assert isinstance(recipe.step, ModelStep)
    assert recipe.step.source == room / "model.onnx"
    assert recipe.step.quantise.method == "static"
    assert recipe.step.quantise.per_channel is True
    assert recipe.step.evaluate is not None
    assert recipe.step.evaluate.output == "logits"


def test_prompt_and_firmware_recipes_have_their_own_step(room: Path) -> None:
    common = 'name: x\nversion: "1"\ntarget: {name: any, board_classes: ["*"]}\n'
    (room / "tree").mkdir()
    prompt = load_recipe(written(room, f"track: prompt\n{common}bundle: items.npz\n"))
    assert prompt.step == PromptStep(bundle=room / "items.npz")
    firmware = load_recipe(written(room, f"track: firmware\n{common}tree: tree\n"))
    assert firmware.step == FirmwareStep(tree=room / "tree")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("track: model\n", "", ":1: track: missing: expected one of firmware, model, prompt"),
        (
            "track: model",
            "track: modle",
            ":1: track: unknown value 'modle'; did you mean 'model'? expected one of model, prompt, firmware",
        ),
        ("name: digits\n", "", ":1: name: missing: this key is needed"),
        ("name: digits", "name: Digits", ":2: name: 'Digits' is no name"),
        ('"1.0.0"', "1.0", ":3: version: expected text, found the number 1.0; put it in quotes"),
        ('"1.0.0"', "2026.10", ":3: version: expected text, found the number 2026.1"),
        ('"1.0.0"', '"../1"', ":3: version: '../1' is no version"),
        ("name: pi5", "name: pi 5", ":4: target.name: 'pi 5' is no word"),
        ('["pi5-*"]', "[]", ":4: target.board_classes: "),
        ('["pi5-*"]', "pi5", ":4: target.board_classes: expected a list, found the text 'pi5'"),
        ('["pi5-*"]', '["pi5-*", "a b"]', ":4: target.board_classes[1]: 'a b' is no board class"),
        ("runtime: onnxruntime, ", "", ":4: target: min_runtime_version says nothing without a runtime"),
        ("source: model.onnx", "source: missing.onnx", ":5: source: there is no file 'missing.onnx' in "),
        ("source: model.onnx", "source: .", ":5: source: there is no file"),
        ("quantise:", "quantize:", ":6: quantize: unknown key; did you mean 'quantise'? known keys here: budgets, "),
        ("method: static", "method: staitc", ":7: quantise.method: unknown value 'staitc'; did you mean 'static'?"),
        ("method: static", "method: dynamic", ":6: quantise: 'calibration' is for method static only"),
        ("method: static", "method: none", ":6: quantise: 'calibration' is for method static only"),
        ("  calibration: items.npz\n", "", ":6: quantise: static quantisation needs 'calibration: FILE.npz'"),
        ("calibration: items.npz", "calibration: no.npz", ":8: quantise.calibration: there is no file 'no.npz'"),
        (
            "  method",
            "  per_chanel: true\n  method",
            ":7: quantise.per_chanel: unknown key; did you mean 'per_channel'?",
        ),
        (
            "  method",
            "  per_channel: 1\n  method",
            ":7: quantise.per_channel: expected true or false, found the number 1",
        ),
        ("  method", "  percentile: 100\n  method", ":7: quantise.percentile: "),
        ("  method", "  percentile: .nan\n  method", ":7: quantise.percentile: expected a finite number, found nan"),
        ("  method", "  items: 0\n  method", ":7: quantise.items: expected at least 1, found the number 0"),
        ("  method", "  items: 10000000000000000\n  method", ":7: quantise.items: expected at most "),
        ("12 ms", "12 parsecs", ":10: budgets.p95_latency: '12 parsecs' is no duration"),
        ("12 ms", "12", ":10: budgets.p95_latency: expected text, found the number 12"),
        ("12 ms", "12 ns", ":10: budgets.p95_latency: '12 ns' is too small"),
        ("1 MiB}", "0 B}", ":10: budgets.size: '0 B' is too small"),
        ("[edge-os]", "[]", ":11: depends.firmware.name: "),
        ("depends:", "name: x\ndepends:", ":11: name: this key is already given in line 2"),
        ("depends:", "depends: &a", ":11: anchors and aliases are not read here"),
        ("name: digits", "name: !!python/object/apply:os.system [id]", ":2: name: tags such as"),
        ("name: digits", "name: !!str digits", ""),
        ("name: digits", "? [a]\n: b", ":2: a key must be plain text"),
        ("name: digits", "name: [", ":4: not valid YAML"),
        ("name: digits", "name: \x01", ":2: not valid YAML"),
        (GOOD, "", ":1: the recipe is empty; expected 'track:'"),
        (GOOD, "- a", ":1: expected a mapping of keys to values, found a list"),
        (GOOD, "a: 1\n---\nb: 2", ":2: not valid YAML"),
        (GOOD, "[" * 5000, ":1: not a recipe: it is nested too deeply"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_path(room: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = written(room, GOOD.replace(old, new, 1))
    if not said:
        assert load_recipe(path).name == "digits"
        return
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert said in line.removeprefix(str(path))
    assert "\n" not in line


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.yaml: there is no such recipe"):
        load_recipe(tmp_path / "gone.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(RecipeError, match="is not UTF-8 text"):
        load_recipe(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(RecipeError, match="at most"):
        load_recipe(tmp_path / "big.yaml")


def test_all_mistakes_are_counted(room: Path) -> None:
    text = GOOD.replace("name: digits", "name: Digits").replace("method: static", "method: other")
    with pytest.raises(RecipeError, match=re.escape("(and 1 more problem)")):
        load_recipe(written(room, text))


def test_the_digest_covers_what_shapes_the_artifact_and_nothing_else(room: Path) -> None:
    good = load_recipe(written(room, GOOD)).digest
    (room / "renamed.onnx").write_bytes(b"onnx")
    same = [
        f"# a comment\n{GOOD}",
        GOOD.replace("source: model.onnx", "source: renamed.onnx"),
        GOOD.replace("evaluate: {dataset: items.npz, output: logits}\n", ""),
        GOOD.replace("  method: static\n", "  method: static\n  per_channel: true\n"),
    ]
    other = [
        GOOD.replace("1.0.0", "1.0.1"),
        GOOD.replace("  method: static\n", "  method: static\n  per_channel: false\n"),
        GOOD.replace("  method: static\n", "  method: static\n  items: 3\n"),
        GOOD.replace("12 ms", "13 ms"),
        GOOD.replace("[edge-os]", "[other]"),
    ]
    assert {load_recipe(written(room, text)).digest for text in same} == {good}
    digests = [load_recipe(written(room, text)).digest for text in other]
    assert len({good, *digests}) == len(other) + 1
