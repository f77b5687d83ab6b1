"""A QEMU lives and dies with whoever started it, and its power goes over its own protocol.

The machine is one without processor and memory: it starts at once, and QEMU is the real one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import alive, until

from pytest_edgehil.board.power import QmpSwitch, open_power
from pytest_edgehil.emulated import process as process_module
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.process import Process, end_another, is_served
from pytest_edgehil.errors import BoardError, ConnectFailed, PowerError
from pytest_edgehil.model.board import Board, Environment, QmpPower

pytestmark = pytest.mark.needs("qemu")

OWNER = """
import sys, time
from pathlib import Path
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.process import Process
process = Process({argv!r}, Layout(root=Path({root!r})), what="board", deadline_s=time.monotonic() + 120)
process.qmp().close()
print(process.warden_pid, flush=True)
time.sleep(600)
"""


def machine() -> list[str]:
    qemu = shutil.which("qemu-system-aarch64")
    assert qemu is not None
    return [
        qemu,
        "-M",
        "none",
        "-display",
        "none",
        "-nodefaults",
        "-no-shutdown",
        "-qmp",
        "unix:qmp.sock,server=on,wait=off",
    ]


def qemu_of(warden: int) -> int:
    text = Path(f"/proc/{warden}/task/{warden}/children").read_text()
    return int(text.split()[0])


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Process, Layout]]:
    layout = Layout(root=tmp_path)
    process = Process(machine(), layout, what="board", deadline_s=time.monotonic() + 120)
    process.qmp().close()
    yield process, layout
    process.stop()


def test_a_stopped_board_leaves_no_qemu(running: tuple[Process, Layout]) -> None:
    process, layout = running
    qemu = qemu_of(process.warden_pid)
    process.stop()
    assert not alive(qemu)
    assert not layout.qmp.exists()


def test_a_warden_that_is_killed_takes_qemu_along(running: tuple[Process, Layout]) -> None:
    process, _ = running
    qemu = qemu_of(process.warden_pid)
    os.kill(process.warden_pid, signal.SIGKILL)
    until(lambda: not alive(qemu))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_owner_that_dies_takes_qemu_along(tmp_path: Path, number: signal.Signals) -> None:
    program = OWNER.format(argv=machine(), root=str(tmp_path))
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    warden = int(owner.stdout.readline())
    qemu = qemu_of(warden)
    owner.send_signal(number)
    owner.wait()
    until(lambda: not alive(qemu) and not alive(warden))
    owner.stdout.close()


def test_an_owner_and_a_warden_that_are_killed_at_once_take_qemu_along(tmp_path: Path) -> None:
    program = OWNER.format(argv=machine(), root=str(tmp_path))
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    warden = int(owner.stdout.readline())
    qemu = qemu_of(warden)
    os.kill(warden, signal.SIGKILL)
    owner.kill()
    owner.wait()
    until(lambda: not alive(qemu) and not alive(warden))
    owner.stdout.close()


def test_a_qemu_that_does_not_start_is_told_with_what_it_said(tmp_path: Path) -> None:
    argv = [machine()[0], "-M", "no-such-machine"]
    process = Process(argv, Layout(root=tmp_path), what="board e", deadline_s=time.monotonic() + 120)
    with pytest.raises(BoardError, match=r"board e: QEMU ended: .*unsupported machine"):
        process.qmp()
    process.stop()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_qemu_of_somebody_else_is_ended_also_when_it_hangs(
    running: tuple[Process, Layout], hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "ASK_S", 0.2)
    process, layout = running
    qemu = qemu_of(process.warden_pid)
    if hangs:
        os.kill(qemu, signal.SIGSTOP)
    end_another(layout, warden_pid=process.warden_pid, what="board e", deadline_s=time.monotonic() + 120)
    assert not is_served(layout)
    until(lambda: not alive(qemu))


def test_a_warden_that_hangs_is_killed_and_takes_qemu_along(
    running: tuple[Process, Layout], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "ASK_S", 0.2)
    monkeypatch.setattr(process_module, "WARDEN_S", 0.2)
    process, layout = running
    qemu = qemu_of(process.warden_pid)
    for pid in (qemu, process.warden_pid):
        os.kill(pid, signal.SIGSTOP)
    end_another(layout, warden_pid=process.warden_pid, what="board e", deadline_s=time.monotonic() + 120)
    assert not is_served(layout)
    until(lambda: not alive(qemu))


def test_a_process_that_has_got_the_wardens_number_since_is_left_alone(running: tuple[Process, Layout]) -> None:
    process, layout = running
    os.kill(qemu_of(process.warden_pid), signal.SIGSTOP)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        with pytest.raises(ConnectFailed, match=rf"board e: .*did not end in time; .* process {stranger.pid}"):
            end_another(layout, warden_pid=stranger.pid, what="board e", deadline_s=time.monotonic() + 0.2)
        assert stranger.poll() is None
        stranger.communicate(b"\n")
    assert stranger.returncode == 0
    assert is_served(layout)


def test_power_is_switched_and_told_over_qmp(running: tuple[Process, Layout]) -> None:
    _, layout = running
    board = Board(id="e", cls="c", environment=Environment.EMULATED, power=QmpPower(socket=layout.qmp))
    power = open_power(board)
    assert power.is_on()
    power.off()
    assert power.is_on() is False
    power.off()
    power.on()
    assert power.is_on()
    power.on()
    power.cycle()
    assert power.is_on()


def test_power_of_a_qemu_that_is_gone_is_an_error(running: tuple[Process, Layout]) -> None:
    process, layout = running
    process.stop()
    with pytest.raises(PowerError, match=r"no QEMU answers at .*is the board running"):
        QmpSwitch(layout.qmp, board_id="e").off()
