"""``edgehil lab check --boards``, ``console`` and ``power`` on a real virtual board that somebody keeps running."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.processes import until

from pytest_edgehil.lab.inventory import Lab, load_lab
from pytest_edgehil.lab.leases import AuditEvent, BoardStatus, Holder
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.virtual.farm import RunningBoard, board_directory, start

CI = Holder(name="ci-841", host="runner-2", pid=22, user="ci")


@dataclass(frozen=True)
class Place:
    """A lab of one board, which runs."""

    lab: Lab
    running: RunningBoard

    def edgehil(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytest_edgehil", "lab", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "EDGEHIL_LAB": str(self.lab.path)},
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("hands")
    (directory / "lab.yaml").write_text(
        f"lab: hands\nstate_dir: {directory / 'state'}\nlease_expiry: 60 s\n"
        "boards:\n  v1: {class: pi5, environment: virtual, power: {backend: virtual}}\n"
    )
    lab = load_lab(directory / "lab.yaml")
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "v1")) as running:
        yield Place(lab=lab, running=running)


def test_check_looks_at_the_boards_and_brings_back_one_that_has_recovered(place: Place):
    with open_store(place.lab) as store:
        store.quarantine("v1", reason="kernel panic", by=CI, automatic=True)
        done = place.edgehil("check", "--boards")
        assert done.returncode == 0, done.stderr
        row = done.stdout.splitlines()[-1]
        assert re.match(r"v1 +passed +\d+\.\d °C +\S+ \w+ +\+0\.0 s +free", row), row
        assert store.boards()[0].state is BoardStatus.FREE
        assert store.checks()["v1"].checkup.temperature_c > 20
        assert "it has passed its check" in {line.reason for line in store.audit()}


def test_watch_looks_at_a_board_when_its_time_has_come(place: Place):
    # due at once: the store's clock is the test's, and it was long ago
    with open_store(place.lab, clock=lambda: time.time() - 3600.0) as past:
        past.quarantine("v1", reason="kernel panic", by=CI, automatic=True)
    with open_store(place.lab) as store:
        watch = subprocess.Popen(
            [sys.executable, "-m", "pytest_edgehil", "lab", "check", "--watch", "--every", "50 ms"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "EDGEHIL_LAB": str(place.lab.path)},
        )
        try:
            until(lambda: store.boards()[0].state is BoardStatus.FREE, timeout_s=120)
        finally:
            watch.terminate()
            watch.communicate()


def test_the_console_is_shown_and_typed_at_until_the_escape_key(place: Place):
    keyboard, terminal = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "pytest_edgehil", "lab", "console", "v1"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "EDGEHIL_LAB": str(place.lab.path)},
    )
    try:
        assert command.stdout is not None
        os.set_blocking(command.stdout.fileno(), False)
        said = b""

        def shows(what: bytes) -> bool:
            nonlocal said
            said += command.stdout.read() or b""
            return what in said

        until(lambda: shows(b"login: "), timeout_s=120)
        with open_store(place.lab) as store:
            assert store.boards()[0].holder is not None
            os.write(keyboard, b"root\r")
            until(lambda: shows(b"Login incorrect"), timeout_s=120)
            os.write(keyboard, b"\x1d")
            assert command.wait(120) == 0
            assert store.boards()[0].holder is None
            assert AuditEvent.CONSOLE in {line.event for line in store.audit()}
        log = place.lab.state_dir / "console" / "v1.log"
        assert b"Login incorrect" in log.read_bytes()
    finally:
        command.kill()
        command.communicate()
        os.close(keyboard)
        os.close(terminal)


def test_power_is_cut_and_comes_back(place: Place):
    assert place.edgehil("power", "v1", "off").stdout == "v1: power off, done; it is off now\n"
    assert place.edgehil("power", "v1", "status").stdout == "v1: off\n"
    checked = place.edgehil("check", "--board", "v1")
    assert checked.returncode == 1
    assert re.search(r"v1 +failed .* quarantined ", checked.stdout), checked.stdout
    assert place.edgehil("power", "v1", "on", "--reason", "back").returncode == 0
    assert Path(place.running.endpoint.socket).exists()
    until(lambda: place.running.control.status().state == "running", timeout_s=120)
    assert place.edgehil("check", "--board", "v1").returncode == 0


def test_somebody_works_by_hand_on_a_board_that_is_out(place: Place):
    with open_store(place.lab) as store:
        store.quarantine("v1", reason="no room", by=CI)
        done = subprocess.run(
            [sys.executable, "-m", "pytest_edgehil", "board", "gc", "v1"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "EDGEHIL_LAB": str(place.lab.path)},
        )
        assert done.returncode == 0, done.stderr
        assert "v1 is quarantined (no room): nobody else gets it meanwhile" in done.stderr
        assert "v1: removed 0 bundles" in done.stdout
        assert store.restore("v1", by=CI)
