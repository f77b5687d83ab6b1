"""A holder that is stopped for longer than its lease wakes up: it is told whose board it is now, and harms nobody."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.farm import lab_text, onnx_artifact
from support.processes import until
from support.standing_farm import once

from pytest_edgehil.holding import Holding
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.leases import BoardStatus, Holder
from pytest_edgehil.lab.reservation import reserve
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.model.board import Requirement
from pytest_edgehil.virtual.farm import board_directory, start
from pytest_edgehil.virtual.journal import read_journal

SLEEPER = Path(__file__).parent.parent / "support" / "sleeper.py"
EXPIRY_S = 12.0  # until it is stopped its heartbeats must not be late, on any machine
NEXT = Holder(name="ci-841", host="runner-2", pid=22, user="ci")

LOST = r"LeaseLost: lease on b1 \(token \d+\) expired \S+ \S+ ago(?: because [^;]*?)?"
NOW = r"it is held by ci-841 \(pid 22 on runner-2\) now; run 'edgehil lab boards' to see who holds what"
ON_BOARD = r"Fenced: b1: token \d+ is refused: the board has seen token \d+ of ci-841"
ON_POWER = r"Fenced: b1: token \d+ is refused: the board's power has seen token \d+ of ci-841"

PATHS = {
    "push under way": rf"{LOST} while flashing; {NOW}",
    "command under way": rf"{LOST} while running the test; {NOW}",
    "console": rf"{LOST}; {NOW}",
    "power off": rf"{LOST}; {NOW}",
    "power cycle": rf"{LOST}; {NOW}",
    "command": rf"{LOST}; {NOW}",
    "reading": rf"{LOST}; {NOW}",
    "board: command": ON_BOARD,
    "board: program": ON_BOARD,
    "board: session": ON_BOARD,
    "board: push": ON_BOARD,
    "board: fault": ON_POWER,
    "board: power": ON_POWER,
    "board: stop": ON_POWER,
}
"""What the holder tried, and what it is told: on its own host by its lease, and by the board where it does not look."""


@dataclass(frozen=True)
class Woken:
    """What came of it."""

    told: dict[str, str]
    harm: list[str]
    ticks_went_on: bool
    powered_off: list[str]
    typed: bool
    store: frozenset[str]
    still_works: int


def told_by(directory: Path) -> Woken:
    """Stop a holder in the middle of everything, have somebody else lease the board, and wake it up."""
    (directory / "lab.yaml").write_text(lab_text(name="farm", boards=1) + f"state_dir: {directory / 'state'}\n")
    lab = load_lab(directory / "lab.yaml")
    (directory / "ballast").write_bytes(os.urandom(8 << 20))
    artifact = onnx_artifact(directory / "artifacts", ballast=directory / "ballast")
    place = board_directory(lab.state_dir, "b1")
    with start(lab.boards[0], directory=place) as running, open_store(lab) as store:
        disk_home = running.layout.home
        sleeper = subprocess.Popen(
            [sys.executable, str(SLEEPER), str(lab.path), str(artifact.path), str(EXPIRY_S)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert sleeper.stdout is not None
            assert sleeper.stdout.readline().startswith("ready")
            partial = disk_home / ".edgehil/store/sha256" / f".{artifact.digest.removeprefix('sha256:')}.partial"
            until(lambda: partial.exists() and partial.stat().st_size > 0, timeout_s=60)
            until((disk_home / "ticks").exists, timeout_s=60)
            sleeper.send_signal(signal.SIGSTOP)
            until(lambda: store.boards()[0].state is BoardStatus.FREE, timeout_s=60)
            reservation = reserve(lab, [Requirement()], store=store, holder=NEXT, wait_s=0, expiry_s=600)
            holding = Holding(lab=lab, reservation=reservation, console_log=directory / "next.log")
            holding.open()
            assert holding.session.client.status().fence_holder == "ci-841"
            ticks = (disk_home / "ticks").stat().st_size
            sleeper.send_signal(signal.SIGCONT)
            output, _ = sleeper.communicate("go\n", timeout=300)
            woken = Woken(
                told=json.loads(output),
                harm=[path.name for path in disk_home.iterdir() if path.name == "harm"],
                ticks_went_on=(disk_home / "ticks").stat().st_size != ticks,
                powered_off=[line.event for line in read_journal(running.layout.journal) if line.event == "power-off"],
                typed="root" in holding.console.text(),
                store=holding.session.client.status().store,
                still_works=holding.run("true").exit_status,
            )
            holding.close()
            return woken
        finally:
            sleeper.kill()
            sleeper.communicate()


@pytest.fixture(scope="module")
def woken(tmp_path_factory: pytest.TempPathFactory) -> Woken:
    """One sleeper for all tests."""
    kept: list[Woken] = []
    once(tmp_path_factory, f"sleeper-{os.getpid()}", lambda directory: kept.append(told_by(directory)))
    return kept[0]


@pytest.mark.timeout(450)
@pytest.mark.parametrize("path", PATHS)
def test_it_is_told_on_every_path(woken: Woken, path: str):
    assert re.fullmatch(PATHS[path], woken.told[path]), woken.told[path]


def test_it_tried_every_path_there_is(woken: Woken):
    assert set(woken.told) == set(PATHS)


def test_it_has_done_no_harm(woken: Woken):
    assert woken.harm == []
    assert not woken.ticks_went_on
    assert woken.powered_off == []
    assert not woken.typed
    assert woken.store == frozenset()
    assert woken.still_works == 0
