"""A virtual board dies with whoever started it, however that happens, and nothing of it is ever left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.virtual_boards import DEADLINE_S, alive, board, eventually, run_on, running

from pytest_edgehil.errors import BoardError, ConfigError, ConnectFailed, PowerError
from pytest_edgehil.model.board import Board, Environment
from pytest_edgehil.virtual import farm
from pytest_edgehil.virtual.processes import children, marked, marker_of

# a child that ignores signals, one in a session of its own, and a daemon that has forked twice
CHILDREN = (
    "trap '' HUP TERM INT; sleep 600 >/dev/null 2>&1 & echo $!; setsid sleep 601 >/dev/null 2>&1 </dev/null & echo $!;"
    "python3 -S -E -c 'import os, time\n"
    "if os.fork(): os._exit(0)\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "print(os.getpid(), flush=True)\n"
    "for fd in range(3): os.close(fd)\n"
    "time.sleep(600)'; wait"
)

STARTER = """
import sys, threading
from pathlib import Path
from support.virtual_boards import board, client
from pytest_edgehil.virtual.farm import start
up = start(board(), directory=Path(sys.argv[1]))
with client(up) as one:
    channel = one.get_transport().open_session()
    channel.exec_command(sys.argv[2])
    output = channel.makefile("r")
    pids = [output.readline().strip() for _ in range(3)]
    print(up.endpoint.pid, up.endpoint.warden_pid, *pids, flush=True)
    sys.stdin.read()
up.stop()
"""


class Starter:
    """A process that has started a board with children of every kind on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(directory), CHILDREN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        line = self.process.stdout.readline()
        self.supervisor, self.warden, *self.children = (int(pid) for pid in line.split())
        assert len(self.children) == 3
        assert all(alive(pid) for pid in (self.supervisor, self.warden, *self.children))

    def all_gone(self) -> bool:
        known = (self.supervisor, self.warden, *self.children)
        return not any(alive(pid) for pid in known) and not marked(marker_of(self.directory))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)


@pytest.fixture
def starter(tmp_path):
    one = Starter(tmp_path / "board")
    yield one
    one.end()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_board_dies_with_its_starter(starter, number):
    starter.process.send_signal(number)
    eventually(starter.all_gone)
    assert not (starter.directory / "endpoint.json").exists()
    assert not (starter.directory / "control.sock").exists()


def test_the_board_dies_when_its_starter_lets_go_in_an_orderly_way(starter):
    starter.process.communicate(timeout=DEADLINE_S)
    assert starter.process.returncode == 0
    eventually(starter.all_gone)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_nothing_is_left_of_a_supervisor_that_is_killed(starter, number):
    os.kill(starter.supervisor, number)
    eventually(starter.all_gone)
    assert not (starter.directory / "endpoint.json").exists()


def test_nothing_is_left_when_the_warden_is_killed(starter):
    os.kill(starter.warden, signal.SIGKILL)
    eventually(starter.all_gone)


def test_nothing_is_left_when_starter_and_supervisor_are_killed_at_once(starter):
    starter.process.kill()
    os.kill(starter.supervisor, signal.SIGKILL)
    eventually(starter.all_gone)


def test_a_supervisor_that_hangs_is_killed_in_the_end(starter):
    os.kill(starter.supervisor, signal.SIGSTOP)
    starter.process.kill()
    eventually(starter.all_gone)


def kill_at_once(starter: Starter, *others: int) -> None:
    pids = (starter.warden, starter.supervisor, *others)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that none can see another die
    starter.process.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_nothing_is_left_when_starter_warden_and_supervisor_are_killed_at_once(starter):
    kill_at_once(starter)
    eventually(starter.all_gone)
    with running(starter.directory) as up:
        assert run_on(up, "echo up").out == "up\n"


def test_what_is_left_when_their_sweeper_is_killed_too_ends_with_the_next_start(starter):
    (sweeper,) = set(children(starter.warden)) - {starter.supervisor}
    kill_at_once(starter, sweeper)
    eventually(lambda: not any(alive(pid) for pid in (starter.supervisor, starter.warden, sweeper)))
    assert any(alive(pid) for pid in starter.children), "the one case that is left to the next start"
    with running(starter.directory) as up:
        assert not any(alive(pid) for pid in starter.children)
        assert run_on(up, "echo up").out == "up\n"


def test_a_board_can_be_started_again_after_its_supervisor_was_killed(tmp_path):
    with running(tmp_path / "board") as up:
        os.kill(up.endpoint.pid, signal.SIGKILL)
        with running(tmp_path / "board") as again:
            assert again.owned
            assert again.endpoint.pid != up.endpoint.pid
            assert again.endpoint.host_key == up.endpoint.host_key
            assert run_on(again, "echo up").out == "up\n"


def test_the_board_lives_on_when_the_thread_that_started_it_ends(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.append(farm.start(board(), directory=tmp_path / "board")))
    thread.start()
    thread.join()
    (up,) = found
    with up:
        assert run_on(up, "echo alive").out == "alive\n"


def test_a_fork_of_the_starter_does_not_keep_the_board_alive(tmp_path):
    fork = "    import os, time\n    os.fork() or time.sleep(600)\n"  # it inherits our end of the warden's stdin
    script = STARTER.replace("    print(up.endpoint", f"{fork}    print(up.endpoint")
    assert script != STARTER
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "board"), CHILDREN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        process.kill()
        eventually(lambda: not any(alive(pid) for pid in pids))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)


def test_stop_may_be_called_twice_and_leaves_nothing(tmp_path):
    up = farm.start(board(), directory=tmp_path / "board")
    pid = int(run_on(up, "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!").out)
    up.stop()
    assert not any(alive(one) for one in (pid, up.endpoint.pid, up.endpoint.warden_pid))
    assert marked(marker_of(tmp_path / "board")) == []
    up.stop()
    with pytest.raises(PowerError):
        up.control.status()


def test_nothing_is_left_when_start_fails(tmp_path):
    directory = tmp_path / "board"
    (directory / "keys").mkdir(parents=True)
    (directory / "keys/identity.pem").write_text("no key")
    with pytest.raises(ConfigError, match=r"keys cannot be read|cannot be read"):
        farm.start(board(), directory=directory)
    assert marked(marker_of(directory)) == []


def test_a_start_that_takes_too_long_is_given_up_and_leaves_nothing(tmp_path):
    directory = tmp_path / "board"
    with pytest.raises(ConnectFailed, match="did not start in time"):
        farm.start(board(), directory=directory, wait_s=0.0)
    with running(directory) as up:
        assert up.owned


def test_a_disk_that_cannot_be_made_is_a_board_error_that_names_the_log(tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board/disk").write_text("in the way")
    with pytest.raises(BoardError, match=r"did not start: .*supervisor\.log"):
        farm.start(board(), directory=tmp_path / "board")


def test_a_board_of_hardware_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not virtual"):
        farm.start(Board(id="b", cls="c", environment=Environment.HARDWARE), directory=tmp_path)
