"""Beside other plugins and in pytest's stricter moods, a board test is a test like any other."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from support.farm import Farm

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_gate(dut):
        dut.run(X)

    def test_board(board, console):
        assert board.run("true").exit_status == 0
        assert console.text() is not None

    def test_host(rng):
        assert rng.random() < 1
"""


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            ("--strict-config", "--strict-markers", "-W", "error", "-n0", "-o", "xfail_strict=true"), id="strict"
        ),
        pytest.param(
            ("-W", "error", "-n2", "--dist=loadscope", "--cov=.", "--alluredir=allure", "--clean-alluredir"), id="many"
        ),
        pytest.param(
            tuple(f"-pno:{one}" for one in ("terminal", "xdist", "allure_pytest", "junitxml", "logging", "timeout")),
            id="bare",
        ),
        pytest.param(("-s", "-vv", "--setup-show", "--durations=0", "--tb=native", "-p", "no:xdist"), id="loud"),
    ],
)
def test_a_suite_passes_in_any_company(farm: Farm, arguments):
    farm.pytester.makepyfile(SUITE)
    result = farm.run(*arguments)
    assert result.ret == 0, result.stdout.str() + result.stderr.str()
    assert {one["status"] for one in farm.results["tests"]} == {"passed"}
    assert len(farm.results["tests"]) == 2
    output = result.stdout.str() + result.stderr.str()
    assert "Traceback" not in output
    assert "Warning" not in output
    if "-pno:terminal" not in arguments:
        result.assert_outcomes(passed=3)
        assert "p95_latency" in output
    if "--cov=." in arguments:
        assert "TOTAL" in output


@WORKERS
def test_a_timeout_ends_a_hanging_test_and_gives_the_board_back_unharmed(farm: Farm, workers):
    hangs = {
        "host": "while True: time.sleep(0.05)",
        "command": "board.run('sleep', '600', timeout_s=500)",
        "measurement": "dut.measure_more(Demand(seconds=600))",
    }
    farm.pytester.makepyfile(
        """
        import time
        import numpy as np
        import pytest
        from pytest_edgehil.model import Demand

        pytestmark = pytest.mark.combo(model="digits")
        X = {"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}
        """
        + "".join(
            f"""
        @pytest.mark.timeout(3, method="signal", func_only=True)
        def test_{name}(board, dut):
            dut.run(X)
            {hang}

        def test_after_{name}(board, dut):
            dut.run(X)
        """
            for name, hang in hangs.items()
        )
    )
    result = farm.run(*workers)
    result.assert_outcomes(passed=3, failed=3)
    told = {one["nodeid"].rpartition("::")[2]: one for one in farm.results["tests"]}
    assert len(farm.results["tests"]) == 6, "nothing is run again"
    for name in hangs:
        assert told[f"test_{name}"]["status"] == "failed"
        assert "Timeout" in told[f"test_{name}"]["message"]
        assert told[f"test_after_{name}"]["status"] == "passed"
    assert {one["state"] for one in farm.board_states().values()} == {"free"}


HANG = """
    import os
    import time
    from pathlib import Path

    import pytest

    def stop_here(board):
        here = Path(__file__).parent
        (here / "pid.part").write_text(f"{os.getpid()} {board.id}")
        (here / "pid.part").rename(here / "pid")
        while True:
            time.sleep(0.05)

    @pytest.mark.combo(model="digits")
    def test_hangs(request, board):
        BODY
"""
FLASHING = """
        from threading import Thread

        from pytest_edgehil.model import Fault

        board.run("true")
        board.virtual.inject(Fault(kind="slow-link", options={"rate_bytes_per_s": 40_000}))

        def tell():
            time.sleep(1.0)  # the push takes most of a minute at this rate: this comes in the middle of it
            here = Path(__file__).parent
            (here / "pid.part").write_text(f"{os.getpid()} {board.id}")
            (here / "pid.part").rename(here / "pid")

        Thread(target=tell, daemon=True).start()
        request.getfixturevalue("dut")
"""


def interrupted(farm: Farm, *arguments: str) -> tuple[int, str, str]:
    """Ctrl-C as soon as the test says that it hangs: exit status, output, and the board it had."""
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *farm.arguments(*arguments)],
        cwd=farm.pytester.path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    path = farm.pytester.path / "pid"
    deadline = time.monotonic() + 200
    while not path.exists():
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    output, _ = run.communicate(timeout=300)
    return run.returncode, output, path.read_text().split()[1]


def test_an_interrupt_in_the_middle_of_flashing_leaves_a_board_that_the_next_run_can_use(farm: Farm):
    farm.boards(1)
    farm.pytester.makepyfile(test_suite=HANG.replace("\n        BODY", FLASHING))
    status, output, board = interrupted(farm, "test_suite.py")
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert "INTERNALERROR" not in output
    assert farm.board_states()[board]["state"] == "free"
    farm.pytester.makepyfile(
        test_again=SUITE.replace("steady", "digits").replace("(1, 4)", "(1, 1, 8, 8)").replace("12 ms", "1 h")
    )
    farm.run("test_again.py").assert_outcomes(passed=3)


NEVER_ENDS = """
    import time

    from xdist.workermanage import NodeManager

    from pytest_edgehil.holding import Holding

    NodeManager.EXIT_TIMEOUT = 0.2  # after which it kills a worker
    Holding.close = lambda self: time.sleep(600)
"""


@pytest.mark.parametrize("workers", ["", NEVER_ENDS], ids=["who end", "who are too slow to end"])
def test_an_interrupt_gives_the_boards_of_all_workers_back_at_once(farm: Farm, workers: str):
    farm.boards(2, expiry="10 min")
    farm.pytester.makeconftest(workers)
    farm.pytester.makepyfile(HANG.replace("BODY", "stop_here(board)"))
    status, output, board = interrupted(farm, "-n2")
    assert status == pytest.ExitCode.INTERRUPTED, output
    assert "INTERNALERROR" not in output
    assert farm.board_states()[board]["state"] == "free"


def test_allure_has_a_result_of_a_test_whose_worker_was_killed(farm: Farm):
    farm.pytester.makepyfile(
        """
        import os
        import signal

        def test_kills(board):
            os.kill(os.getpid(), signal.SIGKILL)

        def test_lives(board):
            pass
        """
    )
    result = farm.run("-n2", "--alluredir=allure", "--clean-alluredir")
    result.assert_outcomes(passed=1, failed=1)
    shown = [json.loads(path.read_text()) for path in (farm.pytester.path / "allure").glob("*-result.json")]
    assert {one["name"]: one["status"] for one in shown} == {"test_kills": "broken", "test_lives": "passed"}
    assert {one["state"] for one in farm.board_states().values()} == {"free"}
    assert not (farm.report / "allure-running").exists()
