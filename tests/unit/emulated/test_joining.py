"""A board that runs already is joined by those who want what it was started as, and refused to everybody else."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.empty_image import count_as_built, empty_image

from pytest_edgehil.emulated.farm import _started_as, start
from pytest_edgehil.emulated.image.built import find_image, image_key
from pytest_edgehil.emulated.layout import Endpoint, Layout
from pytest_edgehil.emulated.machine import Machine
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment, Timing

pytestmark = pytest.mark.needs("qemu")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image that counts as built: nothing boots it."""
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "cache"))
    return empty_image(tmp_path / "image", cache=tmp_path / "cache")


@pytest.fixture
def counting(image: Path) -> Board:
    spec = EmulatedSpec(image=image, serial="e1", memory_bytes=2**31)
    return Board(id="emu-01", cls="c", environment=Environment.EMULATED, timing=Timing.ICOUNT, emulated=spec)


@pytest.fixture
def layout(tmp_path: Path, counting: Board) -> Iterator[Layout]:
    """Of a board that is served as far as anybody can tell: its warden's lock is held."""
    layout = Layout(root=tmp_path / "board")
    layout.root.mkdir()
    assert counting.emulated is not None
    machine = Machine(image=find_image(counting.emulated.image), memory_bytes=2**31, icount=True)
    Endpoint(
        board_id="emu-01", host="127.0.0.1", port=1, user="root", host_key="ssh-ed25519 A", client_key="c",
        console="socket://127.0.0.1:2", qmp="q", identity_key="i", warden_pid=3, starter_pid=4711,
        started_as=_started_as(counting, counting.emulated, machine),
    ).write(layout.endpoint)  # fmt: skip
    with layout.lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield layout


def test_who_wants_what_runs_joins_it(counting: Board, layout: Layout) -> None:
    running = start(counting, directory=layout.root)
    assert not running.owned
    assert running.board.ssh is not None
    assert running.board.ssh.port == 1


@pytest.mark.parametrize("asked", [{"cold": True}, {"disk": Path("left.qcow2")}, {"write_log": Path("writes.log")}])
def test_who_wants_it_booted_or_with_a_disk_of_his_own_does_not_get_what_runs(
    counting: Board, layout: Layout, asked: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"emu-01 runs already, so it can be given .*\(process 4711\)"):
        start(counting, directory=layout.root, **asked)


@pytest.mark.parametrize(
    ("timing", "spec", "told"),
    [
        (Timing.WALL, {}, "with timing icount; the lab file says timing wall: end it"),
        (Timing.ICOUNT, {"memory_bytes": 2**30}, "with memory 2 GiB; the lab file says memory 1 GiB: end it"),
        (Timing.WALL, {"cores": 2}, "with timing icount, cores 1; the lab file says timing wall, cores 2: end it"),
        (Timing.ICOUNT, {"serial": "e2"}, "with serial e1; the lab file says serial e2: end it"),
    ],
)
def test_a_board_that_was_started_as_something_else_is_not_joined(
    counting: Board, layout: Layout, timing: Timing, spec: dict[str, Any], told: str
) -> None:
    assert counting.emulated is not None
    board = dataclasses.replace(counting, timing=timing, emulated=dataclasses.replace(counting.emulated, **spec))
    with pytest.raises(ConfigError) as refused:
        start(board, directory=layout.root)
    assert f"emu-01 runs already, {told}" in str(refused.value)
    assert "process 4711; Ctrl-C in 'edgehil farm up'" in str(refused.value)


def test_a_board_of_an_image_that_has_changed_is_not_joined(counting: Board, layout: Layout, image: Path) -> None:
    (image / "init").write_text("another one")
    count_as_built(image, cache=layout.root.parent / "cache")
    key = image_key(image)
    with pytest.raises(ConfigError, match=rf"with image edge 2026\.11 \(.*the lab file says .*\({key[:8]}\)"):
        start(counting, directory=layout.root)


def test_a_board_of_another_hardware_is_not_joined_though_its_lab_file_is_the_same(
    counting: Board, layout: Layout
) -> None:
    document = json.loads(layout.endpoint.read_text())
    document["started_as"]["machine"] = "another"
    layout.endpoint.write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="with device tree of another version of pytest-edgehil; the lab"):
        start(counting, directory=layout.root)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "the whole"),
        ("[]", "the whole"),
        ("\0\xff", "the whole"),
        ('{"port": "1"}', "board_id"),
        (None, "started_as: field required"),
    ],
)
def test_an_endpoint_that_cannot_be_read_is_one_line_and_says_what_to_do(
    counting: Board, layout: Layout, text: str | None, where: str
) -> None:
    if text is None:  # as an older version wrote it
        document = json.loads(layout.endpoint.read_text())
        del document["started_as"]
        text = json.dumps(document)
    layout.endpoint.write_text(text)
    with pytest.raises(ConfigError) as refused:
        start(counting, directory=layout.root)
    assert "\n" not in str(refused.value)
    assert f"({where}" in str(refused.value)
    assert "end whoever runs the board" in str(refused.value)
