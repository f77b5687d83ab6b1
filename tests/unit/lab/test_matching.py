"""Which boards do, and what is said about those that do not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support.lab_files import make_lab

from pytest_edgehil.errors import BoardUnavailable
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.matching import candidates, mismatch, mismatches
from pytest_edgehil.model.board import Environment, Requirement, Timing


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def ids(lab: Lab, requirement: Requirement) -> list[str]:
    return [board.id for board in candidates(lab, requirement)]


def test_a_requirement_that_asks_for_nothing_takes_the_plainest_board_first(lab: Lab) -> None:
    assert ids(lab, Requirement()) == ["bare-1", "bare-2", "hat-2", "hat-1"]


def test_a_board_with_what_was_asked_for_is_as_plain_as_one_without(lab: Lab) -> None:
    assert ids(lab, Requirement(accelerator="hailo10h", tags=frozenset({"cooled"}))) == ["hat-1"]
    assert ids(lab, Requirement(accelerator="hailo10h")) == ["hat-2", "hat-1"]


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        (Requirement(cls="pi5-4gb"), ["bare-1", "bare-2"]),
        (Requirement(cls="pi5-8*"), ["hat-2", "hat-1"]),
        (Requirement(board_id="hat-1"), ["hat-1"]),
        (Requirement(among=frozenset({"hat-1", "bare-2"})), ["bare-2", "hat-1"]),
        (Requirement(tags=frozenset({"cooled"})), ["bare-2", "hat-1"]),
        (Requirement(environment=Environment.VIRTUAL, cls="pi5-4gb"), ["bare-1", "bare-2"]),
    ],
)
def test_every_field_of_a_requirement_narrows_the_choice(
    lab: Lab, requirement: Requirement, expected: list[str]
) -> None:
    assert ids(lab, requirement) == expected


@pytest.mark.parametrize(
    ("requirement", "why"),
    [
        (Requirement(cls="pi5-8gb-hat2"), "class is pi5-4gb, not pi5-8gb-hat2"),
        (Requirement(board_id="hat-1"), "it is bare-1, not hat-1"),
        (Requirement(tags=frozenset({"cooled"})), "tag cooled is missing"),
        (Requirement(tags=frozenset({"cooled", "big"})), "tags big, cooled are missing"),
        (Requirement(environment=Environment.HARDWARE), "environment is virtual, not hardware"),
        (Requirement(accelerator="hailo8"), "accelerator is missing, not hailo8"),
        (Requirement(among=frozenset({"hat-1", "hat-2"})), "it is not among hat-1, hat-2"),
    ],
)
def test_a_mismatch_says_what_is_and_what_was_wanted(lab: Lab, requirement: Requirement, why: str) -> None:
    assert mismatch(lab.board("bare-1"), requirement) == why


def test_all_mismatches_are_named(lab: Lab) -> None:
    wanted = Requirement(cls="pi5-8gb-hat2", accelerator="hailo8")

    assert mismatches(lab.board("bare-1"), wanted) == (
        "class is pi5-4gb, not pi5-8gb-hat2",
        "accelerator is missing, not hailo8",
    )
    assert mismatches(lab.board("hat-1"), Requirement(cls="pi5-8gb-hat2")) == ()


def test_an_impossible_requirement_names_the_nearest_miss(lab: Lab) -> None:
    wanted = Requirement(cls="pi5-8gb-hat2", tags=frozenset({"cooled"}), accelerator="hailo8")

    with pytest.raises(BoardUnavailable) as refused:
        candidates(lab, wanted)

    assert str(refused.value) == (
        f"no board of {lab.path} can ever fulfil the requirement: a board of class pi5-8gb-hat2 with tag cooled with "
        "accelerator hailo8; nearest is hat-1: accelerator is hailo10h, not hailo8"
    )


@pytest.mark.parametrize(
    ("requirement", "meant"),
    [
        (Requirement(cls="pi5-8gb-hat3"), "did you mean 'pi5-8gb-hat2'?"),
        (Requirement(cls="jetson"), "the lab's classes are pi5-4gb, pi5-8gb-hat2"),
        (Requirement(board_id="bare1"), "did you mean 'bare-1'?"),
        (Requirement(tags=frozenset({"coolde"})), "did you mean 'cooled'?"),
        (Requirement(tags=frozenset({"lidar"})), "the lab's tags are cooled"),
    ],
)
def test_a_word_that_the_lab_does_not_know_gets_a_near_miss(lab: Lab, requirement: Requirement, meant: str) -> None:
    with pytest.raises(BoardUnavailable, match=meant.replace("?", r"\?")):
        candidates(lab, requirement)


def test_a_tag_that_no_board_has_is_named_beside_the_board_that_has_everything_else(lab: Lab) -> None:
    with pytest.raises(BoardUnavailable, match=r"; no board has tag hailo8; hat-1 has everything else"):
        candidates(lab, Requirement(cls="pi5-8gb-hat2", tags=frozenset({"hailo8", "cooled"})))


def test_counted_instructions_and_a_clock_are_two_kinds_of_board(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    boards = tuple(
        dataclasses.replace(board, timing=Timing.ICOUNT) if board.id == "bare-1" else board for board in lab.boards
    )
    mixed = dataclasses.replace(lab, boards=boards)
    assert ids(mixed, Requirement(timing=Timing.ICOUNT)) == ["bare-1"]
    assert "bare-1" not in ids(mixed, Requirement(timing=Timing.WALL))
    assert ids(mixed, Requirement(cls="pi5-4gb")) == ["bare-2", "bare-1"]  # who does not ask leaves it to those who do
    with pytest.raises(BoardUnavailable, match=r"with timing icount; nearest is .*: timing is wall, not icount"):
        candidates(lab, Requirement(timing=Timing.ICOUNT))
