"""A leaseholder whose lease was taken away must not take the next holder's board down with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.farm import lab_text

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.virtual.farm import board_directory, start

HOLDER = """
import sys
from pathlib import Path
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.virtual.farm import board_directory, start

lab = load_lab(Path(sys.argv[1]))
running = start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=sys.argv[2] == "lease")
print("up", flush=True)
sys.stdin.readline()
running.stop()
print("stopped", flush=True)
"""


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
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=True) as running:
        assert running.owned
        before = running.control.status()
        tell_to_stop(earlier)
        after = running.control.status()
        assert (after.state, after.boot_id) == ("running", before.boot_id)


def test_a_board_that_somebody_keeps_running_is_joined(tmp_path: Path):
    (tmp_path / "lab.yaml").write_text(lab_text(name="farm", boards=1))
    lab = load_lab(tmp_path / "lab.yaml")
    keeper = holder(tmp_path / "lab.yaml", "farm up")
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "b1"), for_lease=True) as running:
        assert not running.owned
    tell_to_stop(keeper)
