"""``edgehil farm sense``: it sets what somebody asked for, on a board that runs, or says why it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.cli import main
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.virtual.farm import board_directory


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text("lab: l\nboards:\n  e: {class: c, environment: emulated, emulated: {image: i}}\n")
    return path


def test_sensors_are_not_said_to_be_set_where_nobody_said_to_what(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["farm", "sense", "e", "--lab", str(lab)]) == 2
    assert capsys.readouterr().err == "edgehil: e: nothing to set: expected --temperature, --throttled or both\n"


@pytest.mark.parametrize("killed", [False, True])
def test_a_board_that_does_not_run_has_no_sensors_to_set(
    lab: Path, capsys: pytest.CaptureFixture[str], killed: bool
) -> None:
    layout = Layout(root=board_directory(load_lab(lab).state_dir, "e"))
    if killed:  # what its warden would have removed
        layout.root.mkdir(parents=True)
        layout.endpoint.touch()
    assert main(["farm", "sense", "e", "--temperature", "50", "--lab", str(lab)]) == 3
    assert "emulated board e is not running; start it with 'edgehil farm up" in capsys.readouterr().err
    assert not layout.sensors.exists()
