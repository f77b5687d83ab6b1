"""The on-board program compiled here: once for all processes, never taken damaged, and done without where it fails."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pytest_edgehil.board import bytecode
from pytest_edgehil.board.program import _RECEIVE
from pytest_edgehil.board.zipapp import onboard_zipapp


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache/onboard/compiled"


def made() -> bytecode.Bytecode | None:
    """As another process would get it."""
    return bytecode.onboard_bytecode.__wrapped__()


def names(data: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return set(archive.namelist())


def test_it_is_made_once_and_anew_when_the_cache_is_damaged(cache: Path) -> None:
    first = made()
    assert first is not None
    (path,) = cache.iterdir()
    before = path.stat().st_ino
    assert made() == first
    assert path.stat().st_ino == before
    path.write_bytes(first.data[:-1])
    assert made() == first
    assert names(first.data) == {f"{name}c" for name in names(onboard_zipapp()[0]) if "/" in name}


def test_where_nothing_can_be_kept_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "file"))
    assert made() is None


def test_a_board_with_another_python_takes_the_program_alone(cache: Path, tmp_path: Path) -> None:
    one = made()
    assert one is not None
    data, digest = onboard_zipapp()
    for magic, kept in (("00000000", []), (one.magic, [one.name])):
        home = tmp_path / magic
        files = [(f"onboard-{digest}.pyz", digest, len(data), None), (one.name, one.digest, len(one.data), magic)]
        argv = [sys.executable, "-S", "-E", "-c", _RECEIVE, str(home), json.dumps(files)]
        done = subprocess.run(argv, input=data + one.data, capture_output=True, check=True)
        assert json.loads(done.stdout) == {"ok": True}
        (program,) = (home / "bin").iterdir()
        assert hashlib.sha256(program.read_bytes()).hexdigest() == digest
        assert sorted(path.name for path in home.glob("compiled/*")) == kept
