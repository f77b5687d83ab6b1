"""``edgehil build``: reports on stdout, progress on stderr, mistakes in one line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.onnx_models import classifier

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.cli import build as verb
from pytest_edgehil.errors import RecipeError

SUITES = Path(__file__).parents[3] / "suites"
RECIPE = """\
track: model
name: tiny
version: "1"
target: {name: any, board_classes: ["*"]}
source: model.onnx
"""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(classifier())
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    options = parser.parse_args(["build", *map(str, arguments)])
    status: int = options.run(options)
    return status


def test_artifacts_and_reports_are_written(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    firmware = SUITES / "firmware" / "edge-os-2026.11.yaml"
    assert run(room / "recipe.yaml", firmware, "--out", room / "out") == 0
    said = capsys.readouterr()
    found = {path.name for path in (room / "out").iterdir()}
    assert found == {
        f"{stem}{suffix}"
        for stem in ("tiny-1-any-fp32", "edge-os-2026.11-pi5")
        for suffix in (".tar.gz", ".report.json", ".report.md")
    }
    digest = read(room / "out" / "tiny-1-any-fp32.tar.gz").digest
    assert digest in said.out
    assert json.loads((room / "out" / "tiny-1-any-fp32.report.json").read_text())["artifact"]["digest"] == digest
    assert "[1/2] recipe: packed tiny-1-any-fp32.tar.gz" in said.err
    assert "[2/2] edge-os-2026.11: collected 5 files" in said.err


def test_quiet_says_no_progress(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(room / "recipe.yaml", "--out", room / "out", "--quiet")
    said = capsys.readouterr()
    assert said.err == ""
    assert "tiny-1-any-fp32.tar.gz" in said.out


def test_a_mistake_in_the_last_recipe_is_told_before_anything_is_built(room: Path) -> None:
    (room / "bad.yaml").write_text(RECIPE.replace("name: tiny", "nam: tiny"))
    with pytest.raises(RecipeError, match=r"bad\.yaml:"):
        run(room / "recipe.yaml", room / "bad.yaml", "--out", room / "out")
    assert not (room / "out").exists()


def test_two_builds_leave_the_same_bytes(room: Path) -> None:
    run(room / "recipe.yaml", "--out", room / "one")
    run(room / "recipe.yaml", "--out", room / "two")
    one, two = ((room / name / "tiny-1-any-fp32.tar.gz").read_bytes() for name in ("one", "two"))
    assert one == two


def test_importing_the_verb_imports_nothing_heavy() -> None:
    program = (
        "import sys, pytest_edgehil.cli.build\n"
        "print([name for name in ('numpy', 'onnxruntime', 'pydantic', 'yaml') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert ran.stdout.strip() == "[]"
