"""`make demo` leaves no process behind, neither when it is interrupted nor when it is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_edgehil.virtual.processes import MARKER

# what the step that is ended here needs: models of later steps would be built only to be thrown away
DEMO = """
import sys
sys.path.insert(0, "demo")
import run
run.RECIPES = tuple(one for one in run.RECIPES if "bad" not in one and "dynamic" not in one)
sys.exit(run.main())
"""


def processes_with(text: str) -> dict[int, str]:
    """pid → command line of every process that has the text in its environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and text.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def eventually(condition, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.25)  # each look reads the environment of every process of the machine
    return True


@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "killed"])
def test_nothing_is_left_of_an_ended_demo(tmp_path: Path, repository: Path, how: signal.Signals):
    out = tmp_path / "out"
    state = str(out / "state")
    with (tmp_path / "log").open("wb") as log:
        demo = subprocess.Popen(
            [sys.executable, "-c", DEMO, str(out)], cwd=repository, stdout=log, stderr=log, start_new_session=True
        )

    def boards() -> int:
        return sum(MARKER in line for line in map(environment_of, processes_with(state)))

    try:
        ready = eventually(lambda: demo.poll() is not None or boards() > 0, seconds=400)
        assert ready, (tmp_path / "log").read_text()
        assert demo.poll() is None, (tmp_path / "log").read_text()
        if how is signal.SIGINT:
            os.killpg(demo.pid, how)  # a terminal sends Ctrl-C to the whole group
        else:
            demo.send_signal(how)
        demo.wait(120)
        assert demo.returncode != 0
        assert eventually(lambda: not processes_with(state), seconds=120), processes_with(state)
    finally:
        demo.kill()
        demo.wait(10)


def environment_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "environ").read_bytes().decode("utf-8", "replace")
    return ""
