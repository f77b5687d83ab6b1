"""``edgehil prompt``: every failing test of every bundle is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_edgehil.cli import main

SUITES = Path(__file__).parents[3] / "suites"
BUNDLE = SUITES / "prompts" / "digit-reader.prompt.yaml"


def test_a_good_bundle_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "check", str(BUNDLE)]) == 0
    assert "2 templates for digits 1.*; 6 of 6 tests passed" in capsys.readouterr().out


def test_every_failing_test_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BUNDLE.read_text().replace("reads 7", "reads 8").replace("refused: outside", "refused: inside"))
    assert main(["prompt", "check", str(BUNDLE), str(bad)]) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 2
    assert "4 of 6 tests passed" in said.out


def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BUNDLE.read_text().replace("guardrails:", "guardrail:"))
    assert main(["prompt", "check", str(bad)]) == 2
    assert "did you mean 'guardrails'" in capsys.readouterr().err


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prompt", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Prompt bundle"
