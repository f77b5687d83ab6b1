"""A board on the bench for every test of this room: files below a directory, and links to it that can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.boards import BenchBoard
from support.rebooting import Rebooting

from pytest_edgehil.board.session import BoardSession


@pytest.fixture
def bench(tmp_path: Path) -> BenchBoard:
    """The board."""
    return BenchBoard(tmp_path / "board")


@pytest.fixture
def world(bench: BenchBoard) -> Iterator[Rebooting]:
    """What is between us and the board."""
    world = Rebooting(bench)
    yield world
    world.close()


@pytest.fixture
def session(bench: BenchBoard, world: Rebooting) -> Iterator[BoardSession]:
    """A leaseholder's session on the board."""
    session = BoardSession(bench.board, token=1, holder="me", connect=world.connect)
    yield session
    session.close()
