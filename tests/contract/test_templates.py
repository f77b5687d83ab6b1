"""What becomes of a template that is damaged, and of a cache that is full.

The machine is one without processor and memory, which says on its console what a board would say; QEMU, its state,
its restoring and its warden are real.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.empty_image import empty_image

from pytest_edgehil.emulated import farm, sensors, template
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.machine import QEMU, Machine
from pytest_edgehil.emulated.template import Unrestorable, template_of
from pytest_edgehil.errors import BoardError, ConfigError
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment

pytestmark = pytest.mark.needs("qemu")
MEMORY_BYTES = 2**20
START_S = 120.0


class Empty(Machine):
    """A machine that only talks; where `alien`, what is saved of it is restored into another one."""

    __slots__ = ()
    made = 0
    alien = False
    cannot_start = False

    def argv(
        self, layout: Layout, *, template: Layout | None, saving: bool, ssh_port: int, write_log: Path | None = None
    ) -> list[str]:
        assert write_log is None
        line = "edgehil: waiting for a seed" if saving else "edgehil: emu-01 is ready"
        if saving:
            Empty.made += 1
            layout.memory.write_bytes(bytes(self.memory_bytes))
        layout.console_log.write_text(line)
        kind = "no-such-machine" if self.cannot_start else "virt" if self.alien and not saving else "none"
        argv = [shutil.which(QEMU) or QEMU, "-M", kind, "-nodefaults"]
        argv += ["-display", "none", "-no-shutdown", "-qmp", f"unix:{layout.qmp.name},server=on,wait=off"]
        argv += ["-chardev", "socket,id=console,host=127.0.0.1,port=0,server=on,wait=off"]
        argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]
        return argv if template is None else [*argv, "-incoming", "defer"]


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Of an image that counts as built: nothing boots it."""
    monkeypatch.setenv("EDGEHIL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(farm, "Machine", Empty)
    directory = empty_image(tmp_path / "image", cache=tmp_path / "cache", files={"disk.raw": 2**20})
    spec = EmulatedSpec(image=directory, serial="e1", memory_bytes=MEMORY_BYTES)
    yield Board(id="emu-01", cls="c", environment=Environment.EMULATED, emulated=spec)
    Empty.made, Empty.alien, Empty.cannot_start = 0, False, False


def the_template(tmp_path: Path) -> Layout:
    (state,) = (tmp_path / "cache/templates").glob("*/state.bin")
    return Layout(root=state.parent)


def started(board: Board, tmp_path: Path) -> None:
    with start(board, directory=tmp_path / "board", wait_s=START_S) as running:
        assert running.owned


def test_a_template_is_made_once(board: Board, tmp_path: Path) -> None:
    for _ in range(2):
        started(board, tmp_path)
    assert Empty.made == 1
    assert sorted(path.name for path in (tmp_path / "cache/templates").iterdir() if path.name[0] != ".") == (
        sorted([the_template(tmp_path).root.name, f"{the_template(tmp_path).root.name}.lock"])
    )


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [one.getMessage() for one in caplog.records if one.name == "edgehil.emulated"]
    assert not any("\n" in one for one in found)
    return found


@pytest.mark.parametrize("left", [b"", b"garbage", None], ids=["empty", "garbage", "half"])
def test_a_damaged_template_is_made_once_more_and_that_is_said(
    board: Board, tmp_path: Path, left: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    started(board, tmp_path)
    state = the_template(tmp_path).state
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2] if left is None else left)
    for _ in range(2):
        started(board, tmp_path)
    assert Empty.made == 2
    assert lines(caplog) == [
        f"the template {state.parent} is damaged (its state is not what was saved); it is made once more"
    ]


def test_a_template_that_qemu_does_not_take_is_made_once_more_and_only_once(
    board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Empty.alien = True
    with pytest.raises(Unrestorable, match=r"cannot be restored: .*Machine type received is 'none' and local is 'virt"):
        started(board, tmp_path)
    assert Empty.made == 2
    first, second = lines(caplog)
    assert first.startswith(f"emulated board emu-01: the template {the_template(tmp_path).root} cannot be restored: ")
    assert second.endswith("is damaged (QEMU does not take it); it is made once more")


@pytest.mark.parametrize("name", ["memory.bin", "disk.qcow2", "board.dtb"])
def test_a_template_of_which_something_is_missing_is_made_once_more(board: Board, tmp_path: Path, name: str) -> None:
    started(board, tmp_path)
    (the_template(tmp_path).root / name).unlink()
    started(board, tmp_path)
    assert Empty.made == 2


def test_whoever_finds_the_same_damage_takes_what_has_been_made_meanwhile(board: Board, tmp_path: Path) -> None:
    started(board, tmp_path)
    bad = Unrestorable("damaged", stamp=template.stamp_of(the_template(tmp_path)))
    assert board.emulated is not None
    machine = Empty(image=farm.find_image(board.emulated.image), memory_bytes=MEMORY_BYTES, icount=False)
    deadline_s = time.monotonic() + START_S
    for _ in range(2):
        template_of(machine, deadline_s=deadline_s, instead_of=bad)
    assert Empty.made == 2


def test_the_logs_of_a_template_that_is_not_made_are_where_the_message_says(board: Board, tmp_path: Path) -> None:
    Empty.cannot_start = True
    with pytest.raises(BoardError, match="unsupported machine type") as refused:
        started(board, tmp_path)
    log = Path(str(refused.value).rpartition("see ")[2])
    assert "unsupported machine type" in log.read_text()
    assert not list((tmp_path / "cache/templates").glob(".making-[!l]*"))


def test_a_full_cache_is_told_as_that(board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _at: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sensors.os, "posix_fallocate", full)
    told = r"no template can be made in .*templates: \[Errno 28\] No space left on device"
    with pytest.raises(ConfigError, match=told):
        started(board, tmp_path)
    monkeypatch.setattr(template, "_ROOM_BYTES", 2**62)
    with pytest.raises(ConfigError, match=r"only .* are left for it in .*: make room with 'edgehil image prune'"):
        started(board, tmp_path)
