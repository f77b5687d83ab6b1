"""``edgehil farm`` keeps boards up until it is told to end, and lets one look at them and break them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest
from support.virtual_boards import DEADLINE_S, alive, eventually

LAB = """\
lab: farm-test
boards:
  b1: {class: pi5, environment: virtual, virtual: {serial: "01"}}
  b2: {class: pi5, environment: virtual, virtual: {serial: "02"}}
  real: {class: pi5, environment: hardware, ssh: {host: pi.invalid, user: edge, key: key, host_key: "HOST_KEY"}}
"""


def farm(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_edgehil", "farm", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    host_key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    path.write_text(LAB.replace("HOST_KEY", host_key))
    return path


@pytest.fixture
def up(lab: Path, tmp_path: Path):
    """`edgehil farm up` in a process of its own, once both boards are there."""
    with (tmp_path / "told").open("wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_edgehil", "farm", "up", str(lab), "b1", "b2"], stdout=told, env=os.environ
        )
    try:
        eventually(lambda: "Ctrl-C" in (tmp_path / "told").read_text())
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.needs("ssh")
def test_up_tells_how_to_reach_each_board(up, tmp_path):
    told = (tmp_path / "told").read_text()
    commands = re.findall(r"^  ssh +(ssh .*)$", told, re.MULTILINE)
    assert len(commands) == 2
    done = subprocess.run(
        [*commands[1].split(), "-o", "BatchMode=yes", "cat $EDGEHIL_SYSROOT/etc/hostname"],
        check=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    assert done.stdout == b"b2\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_ends_in_an_orderly_way_and_takes_the_boards_down(up, lab, number):
    pid = json.loads(farm("status", "b1", "--lab", str(lab)).stdout)["pid"]
    up.send_signal(number)
    assert up.wait(DEADLINE_S) == 0
    assert not alive(pid)
    complaint = farm("status", "b1", "--lab", str(lab), expect=3).stderr
    assert f"is not running; start it with 'edgehil farm up {lab} b1'" in complaint


def test_boards_are_looked_at_and_broken(up, lab):
    where = ("--lab", str(lab))
    assert (
        farm("fault", "b1", "slow-link", "--option", "rate_bytes_per_s=1000", *where).stdout
        == "b1: slow-link in effect\n"
    )
    assert farm("fault", "b1", "link-cut", "--after-bytes", "99", *where).stdout == "b1: link-cut armed\n"
    status = json.loads(farm("status", "b1", *where).stdout)
    assert (status["levels"], status["armed"]) == (["slow-link"], ["link-cut"])
    assert farm("clear", "b1", *where).stdout == "b1: no faults\n"
    assert json.loads(farm("status", "b1", *where).stdout)["armed"] == []
    assert farm("power", "b1", "off", *where).stdout == "b1: power is off\n"
    assert farm("power", "b1", "on", *where).stdout == "b1: power is on\n"
    assert farm("fault", "b1", "panic", *where).stdout in {"b1: panic triggered\n", "b1: panic armed\n"}
    assert json.loads(farm("status", "b2", *where).stdout)["state"] == "running"


@pytest.mark.parametrize(
    ("arguments", "complaint", "status"),
    [
        (("fault", "b1", "earthquake"), "fault 'earthquake' is unknown: expected one of link-cut", 2),
        (("fault", "b1", "slow-link", "--option", "fast"), "expected NAME=NUMBER", 2),
        (("fault", "b1", "slow-link", "--option", "rate_bytes_per_s=fast"), "expected NAME=NUMBER", 2),
        (("status", "b1"), "virtual board b1 is not running", 3),
        (("power", "nosuch", "off"), "nosuch", 2),
    ],
)
def test_mistakes_are_one_line(lab, arguments, complaint, status):
    done = farm(*arguments, "--lab", str(lab), expect=status)
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_hardware_is_not_started(lab):
    assert "real is hardware, not virtual" in farm("up", str(lab), "real", expect=2).stderr
