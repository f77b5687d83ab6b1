"""The on-board program's bytecode: used if it is what its name says, otherwise the sources are compiled as ever."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.boards import BenchBoard
from support.virtual_boards import eventually

from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.onboard import compiled
from pytest_edgehil.onboard.home import Home

SINK = ["sink", "--token", "1", "--holder", "me", "--digest", "sha256:" + "ab" * 32, "--size", "1000"]


@pytest.fixture
def bench(tmp_path: Path) -> BenchBoard:
    return BenchBoard(tmp_path / "board", new=True)


@pytest.fixture
def program(bench: BenchBoard) -> Path:
    data, digest = onboard_zipapp()
    path = bench.edgehil / "bin" / f"onboard-{digest}.pyz"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def imported(bench: BenchBoard, program: Path, *verb: str) -> set[str]:
    """Where our modules came from, and that the program does what it should."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-v", program, *verb],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=bench.env,
        check=False,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["ok"] for one in answers] == [True, False]  # an offer, and that nothing came
    return {
        line.partition('"')[2].partition('"')[0].partition("/onboard/")[0].rstrip("/")
        for line in done.stderr.splitlines()
        if line.startswith("import 'onboard.")
    }


def test_bytecode_is_used_and_what_is_damaged_is_as_good_as_none(bench, program):
    sources = {str(program)}
    assert imported(bench, program, *SINK) == sources
    subprocess.run([sys.executable, "-S", "-E", program, "compile"], env=bench.env, check=True)
    (made,) = (bench.edgehil / "compiled").iterdir()
    assert imported(bench, program, *SINK) == {str(made)}
    data = bytearray(made.read_bytes())
    data[len(data) // 2] ^= 1
    made.write_bytes(data)
    assert imported(bench, program, *SINK) == sources


def test_what_other_programs_have_left_goes_with_them(bench, program):
    place = bench.edgehil / "compiled"
    place.mkdir()
    (program.parent / "onboard-cd.pyz").touch()
    stale = program.stem + "." + sys.implementation.cache_tag
    for name in ("onboard-ab.cpython-311.00.zip", "onboard-cd.cpython-311.00.zip", f"{stale}.00.zip"):
        (place / name).touch()
    made = compiled.compile_all(Home(bench.edgehil), program)
    assert made is not None
    assert {one.name for one in place.iterdir()} == {"onboard-cd.cpython-311.00.zip", made.name}
    assert compiled.compile_all(Home(bench.edgehil), program) == made  # the same sources, the same bytes


def test_a_session_has_it_done_once_when_it_is_idle(bench, program):
    asked, quiet = threading.Event(), threading.Event()

    def idle() -> bool:
        asked.set()
        return quiet.is_set()

    home = Home(bench.edgehil)
    compiled.later(home, program, idle=idle, pause_s=0.01)
    assert asked.wait(60)
    assert not home.compiled.exists()
    quiet.set()
    eventually(lambda: home.compiled.is_dir() and len(list(home.compiled.glob("onboard-*.zip"))) == 1)
    eventually(lambda: all(thread.name != "compile" for thread in threading.enumerate()))
    asked.clear()
    compiled.later(home, program, idle=idle, pause_s=0.01)
    assert all(thread.name != "compile" for thread in threading.enumerate())


def test_what_a_session_may_be_reading_stays(bench, program):
    first = compiled.compile_all(Home(bench.edgehil), program)
    assert first is not None
    brought = program.with_name("elsewhere") / program.name  # the same program, compiled where it has another path
    brought.parent.mkdir()
    brought.write_bytes(program.read_bytes())
    made = compiled.compile_all(Home(brought.parent), brought)
    assert made is not None
    assert made.name != first.name
    first.unlink()
    theirs = first.with_name(made.name)
    theirs.write_bytes(made.read_bytes())
    assert compiled.compile_all(Home(bench.edgehil), program) == theirs
    assert [one.name for one in first.parent.iterdir()] == [theirs.name]
