"""The power goes at every line of what changes a board: it is on one whole combo, the old or the new one, always."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.boards import BenchBoard, firmware_bundle, model_bundle
from support.cut_everywhere import State, states
from support.cutting import in_memory

from pytest_edgehil.model import Artifact
from pytest_edgehil.onboard import combos, firmware, sink
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


def cut_everywhere(bench: BenchBoard, operation: Callable[[Home], object]) -> list[State]:
    seen = list(states(bench.root, operation))
    assert not [one for one in seen if one.broken_trees or one.leftovers or one.recovered_twice]
    return seen


def test_while_a_combo_is_switched(bench, tmp_path):
    old, new = keep(bench, model_bundle(tmp_path, seed=1)), keep(bench, model_bundle(tmp_path, seed=2))
    combos.activate(Home(bench.edgehil), {"model": old})
    seen = cut_everywhere(bench, lambda home: combos.activate(home, {"model": new}, slots=chosen(None), partition=None))
    switched = next(number for number, one in enumerate(seen) if one.combo == {"model": new})
    assert sum(one.lines for one in seen[:switched]) > 20
    assert [one.combo for one in seen[:switched]] == [{"model": old}] * switched
    assert [one.combo for one in seen[switched:]] == [{"model": new}] * (len(seen) - switched)


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
    seen = cut_everywhere(bench, lambda home: combos.activate(home, new, slots=chosen(None), partition=3))
    assert {one.default for one in seen} == {2, 3}
    for one in seen:
        assert one.combo == (new if one.default == 3 else old)


def test_while_a_bundle_is_received(bench, tmp_path):
    artifact = model_bundle(tmp_path)
    seen = cut_everywhere(bench, lambda home: receive(home, artifact))
    name = artifact.digest.removeprefix("sha256:")
    stored = [one.store for one in seen]
    assert stored[0] == {}
    assert stored[-1] == {name: artifact.size_bytes}
    assert all(one in ({}, {name: artifact.size_bytes}) for one in stored)
    assert {one.token for one in seen} == {0, 7}


def receive(home: Home, artifact: Artifact) -> None:
    ours, theirs = os.pipe()
    data = artifact.path.read_bytes()
    # smaller than a pipe
    frames = struct.pack(">BII", 0, len(data), len(data)) + data + struct.pack(">BII", 2, 0, 0)
    os.write(theirs, b'{"what": "bytes", "from": 0}\n' + frames)
    os.close(theirs)
    try:
        sink.sink(
            home,
            digest=artifact.digest,
            size=len(data),
            token=7,
            holder="me",
            source=ours,
            tell=lambda _told: None,
        )
    finally:
        os.close(ours)


def test_while_a_firmware_is_written(bench, tmp_path):
    digest = keep(bench, firmware_bundle(tmp_path, health=None, files={"kernel": b"k" * 2000}))
    seen = cut_everywhere(bench, lambda home: firmware.write(home, chosen(None), digest, 3))
    assert {one.default for one in seen} == {2}
    identities = [one.identity for one in seen]
    whole = {"name": "edge-os", "version": "2.0", "digest": digest}
    assert identities[-1] == whole
    # half of a firmware may have a name already, but the digest of the whole only when it is whole
    assert all(one is None or one["digest"] is None or one == whole for one in identities)
