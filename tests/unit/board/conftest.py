"""A board on the bench for every test of this room: files below a directory, and links to it that can be cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.boards import BenchBoard
from support.rebooting import Rebooting

from pytest_edgehil.board import conversation
from pytest_edgehil.board.session import BoardSession


@pytest.fixture(autouse=True)
def a_board_has_time_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over three seconds late is given up, as who waits for Ctrl-C wants it; a busy machine is no reason to."""
    monkeypatch.setattr(conversation, "LAST_WORDS_S", 60.0)


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
