"""Programs on a leash: nothing that they start gets away, and nothing else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import alive, until

from pytest_edgehil.board.leash import kill_line, new_name, start_line

FAMILY = """
trap '' TERM HUP
(trap '' TERM HUP; exec sleep 1001) & echo $! >>"$1"
setsid sleep 1002 & echo $! >>"$1"
env -i setsid -f true
env -i sleep 1003 & echo $! >>"$1"
(setsid sh -c 'echo $$ >>"$1"; exec sleep 1004' sh "$1" &)
echo $$ >>"$1"
sleep 1005
"""


class Started:
    def __init__(self, tmp_path: Path, *, own_session: bool, limit_s: float | None) -> None:
        self.name = new_name()
        self._pids = tmp_path / "pids"
        line = start_line(("sh", "-c", FAMILY, "family", str(self._pids)), self.name, limit_s=limit_s)
        self.process = subprocess.Popen(["/bin/sh", "-c", line], start_new_session=own_session)
        self.pids = until(self._read)

    def _read(self) -> list[int]:
        words = self._pids.read_text().split() if self._pids.exists() else []
        return [int(word) for word in words] if len(words) == 5 else []


def sh(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)


@pytest.fixture
def clean_up() -> Iterator[list[Started]]:
    started: list[Started] = []
    yield started
    for one in started:
        for pid in one.pids:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        one.process.wait()


# OpenSSH gives every command a session of its own; other servers leave it in theirs.
@pytest.mark.parametrize("own_session", [True, False])
@pytest.mark.parametrize("limit_s", [None, 1000.0])
def test_killer_finds_the_whole_family(
    own_session: bool, limit_s: float | None, tmp_path: Path, clean_up: list
) -> None:
    family = Started(tmp_path, own_session=own_session, limit_s=limit_s)
    clean_up.append(family)
    killed = sh(kill_line(family.name))
    assert (killed.returncode, killed.stdout, killed.stderr) == (0, "", "")
    assert not [pid for pid in family.pids if alive(pid)]


def test_killer_leaves_others_alone(tmp_path: Path, clean_up: list) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clean_up.append(Started(tmp_path / name, own_session=False, limit_s=None))
    one, two = clean_up
    sh(kill_line(one.name))
    assert all(alive(pid) for pid in two.pids)


def test_killing_what_is_gone_already_is_no_error() -> None:
    assert sh(kill_line(new_name())).returncode == 0


def test_board_ends_a_command_by_itself_at_its_limit() -> None:
    ended = sh(start_line(("sh", "-c", "trap '' TERM; sleep 60 & wait; wait"), new_name(), limit_s=0.5))
    assert ended.returncode == 137


@pytest.mark.parametrize("limit_s", [None, 60.0])
def test_program_whose_name_holds_an_equals_sign_is_run(limit_s: float | None, tmp_path: Path) -> None:
    program = tmp_path / "a=b"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert sh(start_line((str(program),), new_name(), limit_s=limit_s)).stdout == "ran\n"


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("status", [0, 1, 126, 255])
def test_exit_status_is_passed_on(status: int, limit_s: float | None) -> None:
    assert sh(start_line(("sh", "-c", f"exit {status}"), new_name(), limit_s=limit_s)).returncode == status
