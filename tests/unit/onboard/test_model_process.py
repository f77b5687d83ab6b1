"""The on-board program's side of a model's process: how the process ended is told, whenever it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.onboard.model_process import ModelProcess
from pytest_edgehil.onboard.problem import Problem

HALF_A_FRAME = """
import os, signal, struct
os.read(0, 1)
os.write(1, struct.pack(">4sII", b"EHF1", 1000, 0) + b"{")
"""


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "child-killed", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "child-crashed", "SIGSEGV"),
        ("os._exit(7)", "child-crashed", "status 7"),
        ("os.write(1, b'x' * 5000)", "internal", "no frame"),
    ],
    ids=["killed", "crashed", "exit", "rubbish"],
)
def test_a_process_that_ends_in_the_middle_of_a_frame_is_told_by_how_it_ended(
    tmp_path: Path, ending: str, code: str, told: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(HALF_A_FRAME + ending)
    process = ModelProcess(program)
    with pytest.raises(Problem, match=told) as caught:
        process.request({"op": "status", "id": 1})
    assert caught.value.code == code
    process.kill()
