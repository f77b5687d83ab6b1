"""A start of an emulated board: clean, with the right time and random numbers of its own.

And the image that it starts from: the same bytes whenever it is built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.emulated import START_S, emulated_board, image_directory

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.emulated.image.built import find_image
from pytest_edgehil.emulated.image.deb import unpack_deb
from pytest_edgehil.emulated.image.ext4 import Tools
from pytest_edgehil.emulated.image.fetch import Pinned
from pytest_edgehil.emulated.image.modules import compile_modules
from pytest_edgehil.emulated.image.recipe import load_lock, load_recipe
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Board
from pytest_edgehil.places import cache_directory

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(1800)]

COMMAND_S = 300.0
LEAVES_SOMETHING = """
ls /data; echo mine >/data/mine; sync
head -c 16 /dev/urandom | base64
cat /proc/sys/kernel/random/boot_id
date +%s
"""
CLEAN_LAB = """
lab: clean
lease_expiry: 300 s
health: {{check: false}}
boards:
  emu-01: {{class: c, environment: emulated, emulated: {{image: {image}, clean_for: test}}}}
"""
CLEAN = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_it_is_as_new(board, number):
    assert board.run("test", "-e", "/data/mine", timeout_s=300).exit_status == 1
    assert board.run("touch", "/data/mine", timeout_s=300).exit_status == 0
"""


def said(board: Board, directory: Path, *argv: str, cold: bool = False) -> str:
    """What a board prints that is started for it."""
    with start(board, directory=directory, wait_s=START_S, cold=cold) as running:
        with socket.create_connection((running.endpoint.host, running.endpoint.port), COMMAND_S) as link:
            assert link.recv(4) == b"SSH-"  # "returns when it can be reached": the first connection is served
        session = BoardSession(running.board, token=1, holder="test")
        with contextlib.closing(session):
            outcome = session.transport.run(Command(argv=argv, timeout_s=COMMAND_S))
    assert outcome.exit_status == 0, outcome.stderr
    return outcome.stdout.decode()


def test_each_start_is_a_clean_board_with_the_time_of_day_and_random_numbers_of_its_own(tmp_path: Path) -> None:
    board, seen = emulated_board(image_directory()), []
    for _ in range(2):
        before = int(time.time())
        *files, random, boot_id, clock = said(board, tmp_path / "board", "sh", "-c", LEAVES_SOMETHING).split()
        assert before <= int(clock) <= time.time()
        assert "mine" not in files
        seen.append((random, boot_id))
    (first_random, first_boot), (second_random, second_boot) = seen
    assert first_random != second_random
    assert first_boot != second_boot


def test_each_test_has_a_clean_board_where_the_lab_file_asks_for_that(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "lab.yaml").write_text(CLEAN_LAB.format(image=image_directory()))
    (tmp_path / "test_clean.py").write_text(CLEAN)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--edgehil-lab", str(tmp_path / "lab.yaml")]
    argv += [f"--rootdir={tmp_path}", str(tmp_path / "test_clean.py")]
    done = subprocess.run(argv, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "2 passed" in done.stdout


def test_a_board_has_the_memory_and_the_cores_of_its_lab_file(tmp_path: Path) -> None:
    board = emulated_board(image_directory())
    assert board.emulated is not None
    board = dataclasses.replace(board, emulated=dataclasses.replace(board.emulated, memory_bytes=2**29, cores=2))
    asked = ("sh", "-c", "nproc; grep MemTotal /proc/meminfo")
    cores, _, memory_kib, _ = said(board, tmp_path / "board", *asked, cold=True).split()
    assert int(cores) == 2
    assert 400 * 1024 < int(memory_kib) < 512 * 1024


def test_an_image_that_is_built_from_scratch_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    directory = image_directory()
    (tmp_path / "packages").mkdir()
    for package in (cache_directory() / "packages").iterdir():
        (tmp_path / "packages" / package.name).symlink_to(package)  # what is pinned needs not be fetched again
    built = build_image(directory, say=print, cache=tmp_path)
    assert built.directory.is_relative_to(tmp_path)
    assert built.digest == find_image(directory).digest


def test_modules_are_compiled_by_the_pinned_tools_whatever_python_this_host_has(tmp_path: Path) -> None:
    directory = image_directory()
    pinned = Pinned(load_recipe(directory), cache_directory() / "packages", say=print)
    for one in load_lock(directory).tools:
        unpack_deb(pinned.read(one), tmp_path / "tools", label=str(one), only=None, leave_out=())
    module = tmp_path / "tree/usr/lib/module.py"
    module.parent.mkdir(parents=True)
    module.write_text("x = 1\n")
    compile_modules(Tools(tmp_path / "tools"), tmp_path / "tree", python="3.11")
    compiled = module.parent / "__pycache__/module.cpython-311.pyc"
    assert compiled.read_bytes()[4:8] == b"\1\0\0\0"  # by hash, and never held against the source (PEP 552)
    compiled.unlink()
    (tmp_path / "tools/usr/lib/python3.11/contextlib.py").unlink()  # this host may have one of its own
    with pytest.raises(ConfigError, match="No module named 'contextlib'"):
        compile_modules(Tools(tmp_path / "tools"), tmp_path / "tree", python="3.11")
    assert not compiled.exists()
