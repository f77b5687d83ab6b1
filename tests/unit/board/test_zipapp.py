"""The on-board program as one file: always the same bytes, nothing missing, nothing imported here."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest_edgehil
from pytest_edgehil.board.zipapp import onboard_zipapp

SOURCES = Path(pytest_edgehil.__file__).parent / "onboard"


def test_it_holds_every_module_and_nothing_else():
    data, digest = onboard_zipapp()
    assert digest == hashlib.sha256(data).hexdigest()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        expected = {f"onboard/{path.relative_to(SOURCES).as_posix()}" for path in SOURCES.rglob("*.py")}
        assert set(archive.namelist()) == {"__main__.py", *expected}
        assert archive.testzip() is None
        assert {(one.date_time, one.compress_type) for one in archive.infolist()} == {((1980, 1, 1, 0, 0, 0), 0)}


def test_another_process_in_another_directory_and_time_zone_makes_the_same_bytes(tmp_path):
    code = "from pytest_edgehil.board.zipapp import onboard_zipapp; print(onboard_zipapp()[1])"
    for zone in ("UTC", "Pacific/Auckland"):
        told = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "TZ": zone, "PYTHONHASHSEED": "7"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout.strip() == onboard_zipapp()[1]


def test_making_it_does_not_import_what_runs_on_a_board():
    code = (
        "import sys; from pytest_edgehil.board.zipapp import onboard_zipapp; onboard_zipapp(); "
        "print([name for name in sys.modules if 'onboard.' in name or name.endswith('.onboard')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_it_runs_with_the_standard_library_alone(tmp_path):
    path = tmp_path / "onboard.pyz"
    path.write_bytes(onboard_zipapp()[0])
    told = subprocess.run(
        [sys.executable, "-S", "-E", "-I", path, "serve"], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "--token" in told.stderr
