"""Programs on a leash: nothing that they start gets away, and nothing else is touched."""

from __future__ import annotations

import os
import shlex
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


LOGIN_SHELLS = [
    "/bin/sh",
    pytest.param("bash", marks=pytest.mark.needs("bash")),
    pytest.param("busybox sh", marks=pytest.mark.needs("busybox")),
]


class Started:
    def __init__(self, tmp_path: Path, *, own_session: bool, limit_s: float | None, shell: str = "/bin/sh") -> None:
        self.name = new_name()
        self._pids = tmp_path / "pids"
        line = start_line(("sh", "-c", FAMILY, "family", str(self._pids)), self.name, limit_s=limit_s)
        self.process = subprocess.Popen([*shell.split(), "-c", line], start_new_session=own_session)
        self.pids = until(self._read)

    def _read(self) -> list[int]:
        words = self._pids.read_text().split() if self._pids.exists() else []
        return [int(word) for word in words] if len(words) == 5 else []


def sh(line: str, *, shell: str = "/bin/sh", own_session: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*shell.split(), "-c", line], capture_output=True, text=True, check=False, start_new_session=own_session
    )


def said_by(pid: int) -> bytes:
    """Arguments and environment of a process; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def named(name: str) -> list[int]:
    """Processes that have the name in their arguments or their environment."""
    everybody = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return [pid for pid in everybody if name.encode() in said_by(pid)]


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
@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_killer_finds_the_whole_family(
    shell: str, own_session: bool, limit_s: float | None, tmp_path: Path, clean_up: list
) -> None:
    family = Started(tmp_path, own_session=own_session, limit_s=limit_s, shell=shell)
    clean_up.append(family)
    killed = sh(kill_line(family.name))
    assert (killed.returncode, killed.stdout, killed.stderr) == (0, "", "")
    assert not [pid for pid in family.pids if alive(pid)]
    assert named(family.name) == []


def test_killer_leaves_others_alone(tmp_path: Path, clean_up: list) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        clean_up.append(Started(tmp_path / name, own_session=False, limit_s=None))
    one, two = clean_up
    sh(kill_line(one.name))
    assert all(alive(pid) for pid in two.pids)


def test_killing_what_is_gone_already_is_no_error() -> None:
    assert sh(kill_line(new_name())).returncode == 0


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_board_ends_a_command_and_all_that_it_started_by_itself_at_its_limit(shell: str, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    line = start_line(("sh", "-c", FAMILY, "family", str(pids)), new_name(), limit_s=4.0)
    assert sh(line, shell=shell).returncode == 137
    until(lambda: not [pid for pid in map(int, pids.read_text().split()) if alive(pid)])


def test_nothing_of_the_limit_outlives_the_command() -> None:
    name = new_name()
    assert sh(start_line(("true",), name, limit_s=1000.0)).returncode == 0
    until(lambda: not named(name))


def test_ending_the_sleep_of_the_limit_ends_nothing_else(tmp_path: Path) -> None:
    name, go_on = new_name(), tmp_path / "go-on"
    os.mkfifo(go_on)
    line = start_line(("sh", "-c", f"read -r word <{shlex.quote(str(go_on))}; echo $word"), name, limit_s=7919.0)
    process = subprocess.Popen(["/bin/sh", "-c", line], stdout=subprocess.PIPE, text=True, start_new_session=True)

    def sleeping() -> list[int]:
        return [pid for pid in named(name) if b"sleep\x007919\0" in said_by(pid) and pid != process.pid]

    def in_the_session() -> list[int]:
        return [pid for pid in named(name) if pid != process.pid and session_of(pid) == process.pid]

    (sleep,) = until(sleeping)
    os.kill(sleep, signal.SIGKILL)
    until(lambda: len(in_the_session()) == 1)  # the program itself
    go_on.write_text("went on\n")
    assert process.communicate() == ("went on\n", None)
    assert process.returncode == 0


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_program_that_ends_its_process_group_is_told_like_any_other(shell: str, limit_s: float | None) -> None:
    ended = sh(start_line(("sh", "-c", "kill -TERM 0"), new_name(), limit_s=limit_s), shell=shell)
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_nothing_is_interpreted_by_a_shell(shell: str) -> None:
    odd = ("a b", "it's", '"q"', "$HOME", "`id`", "*", "", "x\ny", ";exit 9", "-n", "\\", "ünïcödé", "!", "~")
    ended = sh(start_line(("printf", "%s|", *odd), new_name(), limit_s=60.0), shell=shell)
    assert ended.stdout.split("|")[:-1] == list(odd)
    assert sh(start_line(("exit", "3"), new_name(), limit_s=None), shell=shell).returncode == 127


@pytest.mark.parametrize("shell", LOGIN_SHELLS)
def test_long_arguments_are_passed_on(shell: str) -> None:
    for length in (30_000, 90_000):  # above 64 KiB the line is made in another way
        ended = sh(start_line(("printf", "%s", "x" * length), new_name(), limit_s=60.0), shell=shell)
        assert len(ended.stdout) == length


def test_a_program_of_a_shell_s_start_up_file_is_not_taken_for_the_one_that_was_meant(tmp_path: Path) -> None:
    (tmp_path / "rc").write_text("true() { echo wrong; }; set -eu; IFS=e\n")
    line = start_line(("true",), new_name(), limit_s=60.0)
    ended = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "BASH_ENV": str(tmp_path / "rc")}, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("name", ["a=b", "-c"])
def test_program_with_an_unusual_name_is_run(name: str, limit_s: float | None, tmp_path: Path) -> None:
    program = tmp_path / name
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    path = f"PATH={shlex.quote(str(tmp_path))}:$PATH; export PATH\n"
    assert sh(start_line((name,), new_name(), limit_s=limit_s, prelude=path)).stdout == "ran\n"


@pytest.mark.parametrize("limit_s", [None, 60.0])
@pytest.mark.parametrize("status", [0, 1, 126, 255])
def test_exit_status_is_passed_on(status: int, limit_s: float | None) -> None:
    assert sh(start_line(("sh", "-c", f"exit {status}"), new_name(), limit_s=limit_s)).returncode == status


def test_a_prelude_runs_first_and_can_prevent_the_program() -> None:
    says = start_line(("sh", "-c", "echo $SAID"), new_name(), limit_s=60.0, prelude="SAID=so; export SAID\n")
    assert sh(says).stdout == "so\n"
    refused = sh(start_line(("echo", "ran"), new_name(), limit_s=60.0, prelude="echo no >&2; exit 97\n"))
    assert (refused.returncode, refused.stdout, refused.stderr) == (97, "", "no\n")
