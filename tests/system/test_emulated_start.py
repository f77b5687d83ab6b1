"""A start of an emulated board: clean, with the right time, random numbers of its own, and no way out of it.

And the image that it starts from: the same bytes whenever it is built.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from support.emulated import START_S, emulated_board, image_directory

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import start
from pytest_edgehil.emulated.image.build import build_image, find_image
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
LOOKS_FOR_A_WAY_OUT = """
import socket
query = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.settimeout(3)
    try:
        one.sendto(query, ("10.0.2.3", 53))
        print("a name server answers", one.recv(512))
    except OSError:
        pass
for address in (("10.0.2.2", 22), ("10.0.2.2", 53), ("10.0.2.3", 53), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, 2).close()
        print(address, "can be reached")
    except OSError:
        pass
"""


def said(board: Board, directory: Path, *argv: str) -> str:
    """What a board prints that is started for it."""
    with start(board, directory=directory, wait_s=START_S) as running:
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


def test_a_board_reaches_neither_this_host_nor_a_name_server_nor_anybody_else(tmp_path: Path) -> None:
    board = emulated_board(image_directory())
    assert said(board, tmp_path / "board", "python3", "-c", LOOKS_FOR_A_WAY_OUT) == ""


def test_an_image_that_is_built_from_scratch_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    directory = image_directory()
    (tmp_path / "packages").mkdir()
    for package in (cache_directory() / "packages").iterdir():
        (tmp_path / "packages" / package.name).symlink_to(package)  # what is pinned needs not be fetched again
    built = build_image(directory, say=print, cache=tmp_path)
    assert built.directory.is_relative_to(tmp_path)
    assert built.digest == find_image(directory).digest
