"""A leaseholder whose lease was taken away must not take the next holder's board down with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.farm import lab_text

from pytest_edgehil.errors import Fenced
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.model.board import Fault
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual.control import VirtualControl
from pytest_edgehil.virtual.farm import board_directory, start

HOLDER = """
import sys
from pathlib import Path
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual.farm import board_directory, start

bearer = Bearer(token=1, holder="earlier") if sys.argv[2] == "lease" else None
lab = load_lab(Path(sys.argv[1]))
running = start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=bearer)
print("up", flush=True)
sys.stdin.readline()
running.stop()
print("stopped", flush=True)
"""


LATER = Bearer(token=2, holder="later")


def holder(lab: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lab), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def tell_to_stop(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate("stop\n", timeout=60)
    assert output == "stopped\n"


def test_the_next_leaseholder_has_a_board_of_its_own(tmp_path: Path):
    (tmp_path / "lab.yaml").write_text(lab_text(name="farm", boards=1))
    lab = load_lab(tmp_path / "lab.yaml")
    earlier = holder(tmp_path / "lab.yaml", "lease")
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=LATER) as running:
        assert running.owned
        before = running.control.status()
        tell_to_stop(earlier)
        after = running.control.status()
        assert (after.state, after.boot_id) == ("running", before.boot_id)


def test_an_earlier_leaseholder_neither_starts_the_board_nor_switches_its_power_nor_breaks_it(tmp_path: Path):
    (tmp_path / "lab.yaml").write_text(lab_text(name="farm", boards=1))
    lab = load_lab(tmp_path / "lab.yaml")
    directory = board_directory(lab.state_dir, "b1")
    refusal = "b1: token 1 is refused: the board's power has seen token 2 of later"
    with start(lab.boards[0], directory=directory, for_lease=LATER) as running:
        before = running.control.status()
        stale = VirtualControl(running.control.path, bearer=Bearer(token=1, holder="earlier"))
        with pytest.raises(Fenced, match=refusal):
            start(lab.boards[0], directory=directory, for_lease=Bearer(token=1, holder="earlier"))
        for verb in (stale.power_off, stale.power_cycle, stale.stop, stale.clear_faults, stale.status):
            with pytest.raises(Fenced, match=refusal):
                verb()
        with pytest.raises(Fenced, match=refusal):
            stale.inject(Fault(kind="power-cut"))
        after = running.control.status()
        assert (after.state, after.boot_id, after.armed) == ("running", before.boot_id, before.armed)


def test_a_board_that_somebody_keeps_running_is_joined(tmp_path: Path):
    (tmp_path / "lab.yaml").write_text(lab_text(name="farm", boards=1))
    lab = load_lab(tmp_path / "lab.yaml")
    keeper = holder(tmp_path / "lab.yaml", "farm up")
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=LATER) as running:
        assert not running.owned
    tell_to_stop(keeper)
