"""The power goes at every line of what changes a board: it is on one whole combo, the old or the new one, always."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import cut_everywhere
from support.boards import BenchBoard, firmware_bundle, model_bundle
from support.cutting import in_memory

from pytest_edgehil.model import Artifact
from pytest_edgehil.onboard import combos, firmware
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.slots import chosen


@pytest.fixture
def bench(monkeypatch):
    """In memory where there is memory for files: the board is copied for every line."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as directory:
        yield from made(Path(directory), monkeypatch)


def made(directory: Path, monkeypatch) -> Iterator[BenchBoard]:
    board = BenchBoard(directory / "board", new=True)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    Home(board.edgehil).prepare()
    yield board


def keep(bench: BenchBoard, artifact: Artifact) -> str:
    Home(bench.edgehil).bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    return artifact.digest


def cut_everywhere_in(bench: BenchBoard, scenario: str, **arguments) -> list[dict]:
    bench.put("scenario.json", json.dumps(arguments))
    done = subprocess.run(
        [sys.executable, cut_everywhere.__file__, scenario, str(bench.root)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [one for one in states if "failed" in one], done.stderr
    assert not [one for one in states if one["broken_trees"] or one["leftovers"] or one["recovered_twice"]]
    return states


@pytest.mark.timeout(450)
def test_while_a_combo_is_switched(bench, tmp_path):
    old, new = keep(bench, model_bundle(tmp_path, seed=1)), keep(bench, model_bundle(tmp_path, seed=2))
    combos.activate(Home(bench.edgehil), {"model": old})
    states = cut_everywhere_in(bench, "activate", combo={"model": new})
    seen = [one["combo"] for one in states]
    switched = seen.index({"model": new})
    assert switched > 20
    assert seen == [{"model": old}] * switched + [{"model": new}] * (len(seen) - switched)


@pytest.mark.timeout(450)
def test_while_a_firmware_and_a_model_are_committed_together(bench, tmp_path):
    home = Home(bench.edgehil)
    old = {"model": keep(bench, model_bundle(tmp_path, seed=1))}
    new = {
        "model": keep(bench, model_bundle(tmp_path, seed=2)),
        "firmware": keep(bench, firmware_bundle(tmp_path, health=None, files={"kernel": b"k" * 2000})),
    }
    combos.activate(home, old)
    firmware.write(home, chosen(None), new["firmware"], 3)
    bench.booted(3, tryboot=True)
    states = cut_everywhere_in(bench, "activate", combo=new, partition=3)
    assert {one["default"] for one in states} == {2, 3}
    for one in states:
        assert one["combo"] == (new if one["default"] == 3 else old)


def test_while_a_bundle_is_received(bench, tmp_path):
    artifact = model_bundle(tmp_path)
    states = cut_everywhere_in(bench, "receive", digest=artifact.digest, file=str(artifact.path))
    name = artifact.digest.removeprefix("sha256:")
    stored = [one["store"] for one in states]
    assert stored[0] == {}
    assert stored[-1] == {name: artifact.size_bytes}
    assert all(one in ({}, {name: artifact.size_bytes}) for one in stored)
    assert {one["fence"] for one in states} == {0, 7}


@pytest.mark.timeout(450)
def test_while_a_firmware_is_written(bench, tmp_path):
    digest = keep(bench, firmware_bundle(tmp_path, health=None, files={"kernel": b"k" * 2000}))
    states = cut_everywhere_in(bench, "firmware", digest=digest)
    assert {one["default"] for one in states} == {2}
    identities = [one["identity"] for one in states]
    whole = {"name": "edge-os", "version": "2.0", "digest": digest}
    assert identities[-1] == whole
    # half of a firmware may have a name already, but the digest of the whole only when it is whole
    assert all(one is None or one["digest"] is None or one == whole for one in identities)
