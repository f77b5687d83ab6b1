"""An emulated board says itself what its time is, and is believed before the lab file: however it was reached."""

from __future__ import annotations

import dataclasses

import pytest
from support.boards import BenchBoard
from support.rebooting import Rebooting

from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import LabFileError
from pytest_edgehil.model.requirement import Environment, Timing


@pytest.mark.parametrize(("lab", "told"), [(Timing.WALL, "icount"), (Timing.ICOUNT, "wall")])
def test_a_board_whose_time_is_not_what_the_lab_says_is_refused(
    bench: BenchBoard, world: Rebooting, lab: Timing, told: str
) -> None:
    bench.put("proc/device-tree/edgehil-timing", f"{told}\0")
    session = BoardSession(dataclasses.replace(bench.board, timing=lab), token=1, holder="me", connect=world.connect)
    with pytest.raises(LabFileError) as refused:
        session.client.status()
    said = f"boards.bench.timing: the lab says {lab.value}, but the board that answers was started with timing {told}"
    assert said in str(refused.value)
    session.close()


@pytest.mark.parametrize("told", ["wall\0", None])
def test_a_board_that_says_the_same_or_nothing_is_used(
    bench: BenchBoard, session: BoardSession, told: str | None
) -> None:
    if told is not None:
        bench.put("proc/device-tree/edgehil-timing", told)
    assert session.client.hello.timing == (told and told.rstrip("\0"))


def test_an_emulated_board_is_not_taken_for_hardware_whatever_the_lab_says(bench: BenchBoard, world: Rebooting) -> None:
    bench.put("proc/device-tree/edgehil-timing", "wall\0")
    claimed = dataclasses.replace(bench.board, environment=Environment.HARDWARE)
    session = BoardSession(claimed, token=1, holder="me", connect=world.connect)
    with pytest.raises(LabFileError, match=r"boards\.bench\.environment: the lab says hardware.* is emulated"):
        session.client.status()
    session.close()
