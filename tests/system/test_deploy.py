"""``edgehil deploy`` and ``edgehil board`` on a virtual board: plan, send, prove, go back, make room."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from support.bundles import manifest
from support.farm import Farm
from support.onnx_models import classifier

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.reference import OnnxSession
from pytest_edgehil.cli import main
from pytest_edgehil.model.artifact import Artifact, HealthCheck, Target


def healthy(directory: Path, version: str, *, off: int = 0) -> Artifact:
    """A model whose health check expects its own classes, or others."""
    images = np.random.default_rng(1).random((4, 1, 8, 8), dtype=np.float32)
    model = classifier(seed=2)
    answers = OnnxSession(model, label="x").evaluate({"image": images})["logits"].argmax(axis=1)
    items = io.BytesIO()
    np.savez(items, image=images, expected_class=(answers + off) % 3)
    made = manifest(
        name="reader",
        version=version,
        quantisation="fp32",
        target=Target(name="any", board_classes=("*",), runtime="onnxruntime"),
    )
    made = dataclasses.replace(made, health=HealthCheck(path="health.npz", timeout_s=300))
    return pack(made, {"model.onnx": model, "health.npz": items.getvalue()}, directory)


def test_a_model_that_does_not_prove_itself_is_gone_back_from(farm: Farm, capsys: pytest.CaptureFixture[str]) -> None:
    for version, off in (("1.0.0", 0), ("1.1.0", 1)):
        healthy(farm.artifacts, version, off=off)
    where = ["b1", "--lab", str(farm.lab), "--artifacts", str(farm.artifacts)]

    def said(*arguments: str, status: int = 0) -> str:
        assert main([*arguments]) == status
        return capsys.readouterr().out

    assert "push reader 1.0.0 fp32" in said("deploy", *where, "--model", "reader-1.0.0", "--dry-run")
    assert "active      nothing" in said("board", "status", *where)

    good = said("deploy", *where, "--model", "reader-1.0.0")
    assert "reader 1.0.0 fp32 is loaded and well" in good
    assert "reader 1.0.0 fp32: whole, " in good
    bad = said("deploy", *where, "--model", "reader-1.1.0", "--delta", "always", "--limit", "1 MB/s", status=1)
    assert "reader 1.1.0 fp32: delta, " in bad
    assert "item 0 of the health check is of class" in bad
    assert "back on its last-known-good combo" in bad
    told = said("board", "status", *where)
    assert "active      reader 1.0.0 fp32" in told
    assert "failed      reader 1.1.0 fp32" in told
    setback = json.loads(said("board", "status", *where, "--json"))["setback"]
    assert "health check" in setback["reason"]

    assert "removed 1 bundles" in said("board", "gc", *where, "--keep", "1 B")
    assert "is on the board already" in said("deploy", *where, "--model", "reader-1.0.0")

    # mistakes are one line each; in the same test, for pytester forgets modules that were imported meanwhile
    for arguments, line in (
        (["deploy", *where], "nothing to deploy"),
        (["deploy", *where, "--model", "raeder"], "raeder"),
        (["deploy", *where, "--model", "reader-1.0.0", "--limit", "10 MB"], "expected for example '10 MB/s'"),
        (["board", "status", "b99", *where[1:]], "has no board 'b99'"),
        (["board", "gc", *where, "--keep", "much"], "much"),
        (["board", "rollback", *where], "no other good combo"),
    ):
        assert main(arguments) in {2, 3}
        error = capsys.readouterr().err.strip()
        assert line in error
        assert "\n" not in error
