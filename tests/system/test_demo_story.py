"""What the demos start ends with them, two of them never share a directory, and what is missing is said at once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import alive, until

STORY = """
import sys
from pathlib import Path
sys.path.insert(0, "demo")
from story import perform
sys.exit(perform(Path(sys.argv[1]), lambda demo: demo.run("sh", "-c", "echo $$; exec sleep 600"), steps=1))
"""


def performance(repository: Path, out: Path) -> tuple[subprocess.Popen[str], int]:
    """A demo whose only command goes on, and that command's process."""
    demo = subprocess.Popen(
        [sys.executable, "-c", STORY, str(out)],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert demo.stdout is not None
    assert demo.stdout.readline().startswith("$ sh -c")
    return demo, int(demo.stdout.readline())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_a_demo_runs_ends_with_it(repository: Path, tmp_path: Path, how: signal.Signals) -> None:
    demo, command = performance(repository, tmp_path / "out")
    with demo:
        demo.send_signal(how)
        assert demo.wait(120) != 0
        until(lambda: not alive(command))


def test_ctrl_c_reaches_the_command_of_a_demo_once(repository: Path, tmp_path: Path) -> None:
    demo, command = performance(repository, tmp_path / "out")
    with demo:
        assert os.getpgid(command) != os.getpgid(demo.pid)
        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        assert demo.wait(120) == 130
        until(lambda: not alive(command))


def test_a_second_demo_in_one_directory_is_refused_and_touches_nothing(repository: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    demo, _ = performance(repository, out)
    with demo:
        (out / "results").mkdir()
        second = subprocess.run(
            [sys.executable, "-c", STORY, str(out)], cwd=repository, capture_output=True, text=True, check=False
        )
        assert second.returncode == 1
        assert "another one is running in" in second.stderr
        assert (out / "results").exists()
        demo.kill()
    third, _ = performance(repository, out)  # the directory is free again, and what was in it gone
    with third:
        assert not (out / "results").exists()
        third.kill()


def test_a_directory_with_other_files_is_left_alone(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").touch()
    done = subprocess.run(
        [sys.executable, "-c", STORY, str(tmp_path)], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "holds other files" in done.stderr
    assert (tmp_path / "thesis").exists()


def test_without_qemu_the_emulated_demo_says_what_to_install_before_anything_else(
    repository: Path, tmp_path: Path
) -> None:
    for name in ("make", "sh"):
        program = shutil.which(name)
        assert program is not None
        (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        ["make", "demo-emulated", f"VENV={tmp_path / 'venv'}"],
        cwd=repository,
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "run 'apt-get install --no-install-recommends qemu-system-arm qemu-utils'" in done.stdout + done.stderr
    assert not (tmp_path / "venv").exists()
