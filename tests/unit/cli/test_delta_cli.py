"""``edgehil delta``: what a board would be sent, in words, and the file itself."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.delta.published import peek
from pytest_edgehil.cli import main
from pytest_edgehil.onboard import patch
from pytest_edgehil.onboard.home import Home


def packed(directory: Path, version: str, data: bytes) -> Path:
    return pack(manifest(version=version), {"model.onnx": data}, directory).path


def test_it_says_what_is_sent_and_writes_what_a_board_applies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8).tobytes()
    old, new = packed(tmp_path, "1.0.0", data), packed(tmp_path, "1.0.1", data[:100_000] + b"new" + data[100_000:])
    out = tmp_path / "out" / "digits.ehdelta"
    assert main(["delta", str(old), str(new), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "digits 1.0.1 int8-static from digits 1.0.0 int8-static" in said
    assert "of a full push" in said
    assert "model.onnx: 195 KiB, 100.0% there, 0.0% new" in said
    one = peek(out)
    home = Home(tmp_path / "board")
    home.prepare()
    (source,) = one.sources
    home.bundle(source).write_bytes(old.read_bytes())
    delta = io.BytesIO(b"".join(one.pieces()))
    assert b"".join(patch.patched(home, patch.read_head(delta.read), delta.read)) == new.read_bytes()
    assert out.stat().st_size < 7_000
    assert main(["delta", str(old), str(new), "--out", str(tmp_path / "digits.bin")]) == 2
    assert "does not end in .ehdelta" in capsys.readouterr().err


def test_bundles_without_anything_in_common_are_called_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (np.random.default_rng(seed).integers(0, 256, 50_000, dtype=np.uint8).tobytes() for seed in (1, 2))
    assert main(["delta", str(packed(tmp_path, "1", one)), str(packed(tmp_path, "2", other))]) == 0
    assert "nothing in common" in capsys.readouterr().out


def test_a_name_that_means_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["delta", "digits", "digitss", "--artifacts", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
