"""No board is ever in two hands, and a dead holder's board is free again within the expiry.

What counts is what the *boards* wrote down: who spoke to them, with which fencing token, from when to when.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.farm import Farm

from pytest_edgehil.virtual.journal import read_journal
from pytest_edgehil.virtual.processes import marked, marker_of

EXPIRY_S = 5.0

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}

    @pytest.mark.parametrize("number", range(16))
    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_it(number, dut):
        dut.run(X)
"""

HANG = """
    import os
    import time
    from pathlib import Path
    import pytest

    def test_first(board):
        assert board.run("true").exit_status == 0

    @pytest.mark.combo(model="steady")
    def test_hangs(dut, board):
        here = Path(__file__).parent
        if not (here / "pid").exists():
            (here / "pid.part").write_text(f"{os.getpid()} {board.id}")
            (here / "pid.part").rename(here / "pid")
            while True:
                time.sleep(0.1)

    def test_last(board):
        assert board.run("true").exit_status == 0
"""


def board_directories(farm: Farm) -> list[Path]:
    return sorted((farm.state / "labs" / "farm" / "boards").iterdir())


def sessions(directory: Path) -> list[tuple[int, float, float]]:
    """(token, from, to) of everybody who spoke to the board under a token."""
    opened: dict[object, tuple[int, float]] = {}
    found = []
    for line in read_journal(directory / "journal.jsonl"):
        token = line.details.get("token")
        key = line.details.get("session")
        if line.event == "ssh-open" and token is not None:
            opened[key] = (int(str(token)), line.at_s)
        elif line.event == "ssh-close" and key in opened:
            which, since = opened.pop(key)
            found.append((which, since, line.at_s))
    return found


@pytest.mark.timeout(450)
def test_auto_means_one_worker_per_matching_free_board_and_none_ever_shares_one(farm: Farm):
    farm.boards(8)  # the odd ones match: four
    farm.pytester.makepyfile(SUITE)
    result = farm.run("-n", "auto", "--edgehil-board-class=pi5-8gb-hat2")
    result.assert_outcomes(passed=16)
    assert {one["worker"] for one in farm.results["tests"]} <= {"gw0", "gw1", "gw2", "gw3"}
    result.stdout.fnmatch_lines(["*4 workers*"])
    used = {one["board"]["id"] for one in farm.results["tests"]}
    assert used <= {"b1", "b3", "b5", "b7"}
    assert len(used) > 1
    spoken = 0
    for directory in board_directories(farm):
        by_time = sorted(sessions(directory), key=lambda one: one[1])
        spoken += len(by_time)
        for (token, _, until), (later_token, since, _) in itertools.pairwise(by_time):
            assert token <= later_token, f"{directory.name}: a lower token spoke after a higher one"
            assert token == later_token or until <= since, f"{directory.name}: two holders at once"
    assert spoken >= 16 // 4


def test_more_workers_than_boards_is_one_clear_line(farm: Farm):
    farm.pytester.makepyfile(SUITE)
    result = farm.run("-n3")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*-n 3: more workers than boards; *has 2*"])


def start(farm: Farm, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *farm.arguments(*arguments)],
        cwd=farm.pytester.path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def hanging(farm: Farm, run: subprocess.Popen[str]) -> tuple[int, str]:
    """Waits until the test hangs; pid of the process that runs it, and its board."""
    path = farm.pytester.path / "pid"
    deadline = time.monotonic() + 240
    while not path.exists():
        assert run.poll() is None, run.stdout.read() if run.stdout else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pid, board = path.read_text().split()
    return int(pid), board


def eventually(what: str, condition, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.25)


def nothing_runs(farm: Farm) -> bool:
    return not any(marked(marker_of(directory)) for directory in board_directories(farm))


@pytest.mark.timeout(450)
def test_a_killed_worker_frees_its_board_and_the_run_goes_on(farm: Farm):
    farm.pytester.makepyfile(HANG)
    run = start(farm, "-n2")
    pid, board = hanging(farm, run)
    os.kill(pid, signal.SIGKILL)
    output, _ = run.communicate(timeout=300)
    assert "INTERNALERROR" not in output
    assert run.returncode == 0, output  # it does not hang a second time, on another board
    told = {one["nodeid"].rpartition("::")[2]: one for one in farm.results["tests"]}
    assert set(told) == {"test_first", "test_hangs", "test_last"}
    assert told["test_hangs"]["status"] == "passed"
    assert farm.board_states()[board]["state"] == "free"
    assert nothing_runs(farm)


@pytest.mark.timeout(450)
@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_a_killed_controller_frees_its_boards_within_the_expiry_and_leaves_no_process(farm: Farm, workers):
    farm.boards(2, expiry=f"{EXPIRY_S:g} s")
    farm.pytester.makepyfile(HANG)
    run = start(farm, *workers)
    hanging(farm, run)
    run.kill()
    run.wait(30)
    if run.stdout is not None:
        run.stdout.close()
    killed_at = datetime.now(UTC)
    ends: list[datetime] = []

    def all_free() -> bool:
        states = farm.board_states().values()
        ends.extend(datetime.fromisoformat(one["expires_at"]) for one in states if one["expires_at"])
        return all(one["state"] == "free" for one in states)

    # how long this takes to see depends on the machine; that nobody renewed the lease after the kill does not
    eventually("the boards are not free", all_free, seconds=120)
    assert all(end <= killed_at + timedelta(seconds=EXPIRY_S) for end in ends), (
        "renewed after its controller was killed"
    )
    eventually("a process of a board is left", lambda: nothing_runs(farm), seconds=120)


@pytest.mark.timeout(450)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminated"])
def test_an_interrupted_run_gives_its_board_back_at_once(farm: Farm, how: signal.Signals):
    farm.pytester.makepyfile(HANG)
    run = start(farm)
    _, board = hanging(farm, run)
    run.send_signal(how)
    output, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, output
    assert farm.board_states()[board]["state"] == "free"
    assert nothing_runs(farm)
