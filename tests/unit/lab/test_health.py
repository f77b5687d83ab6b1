"""What is too much for a board that is to be handed out."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_edgehil.lab.health import HealthRules, Vitals, judge
from pytest_edgehil.model.board import Accelerator, Board, Environment, Timing, VirtualSpec

BOARD = Board(id="pi5-01", cls="pi5-8gb", environment=Environment.HARDWARE, serial="10000000deadbeef")
WELL = Vitals(
    serial="10000000deadbeef",
    runtimes={"onnxruntime": "1.22", "replay": "1"},
    accelerator=None,
    disk_free_bytes=1 << 30,
    temperature_c=55.0,
    clock_offset_s=0.4,
)
RULES = HealthRules(runtimes=("onnxruntime",))


def test_a_healthy_board_passes_and_its_vitals_are_kept():
    checkup = judge(BOARD, WELL, RULES)
    assert checkup.passed
    assert (checkup.temperature_c, checkup.disk_free_bytes, checkup.clock_offset_s) == (55.0, 1 << 30, 0.4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"serial": "1000000000000042"}, "another board answers: its serial number is 1000000000000042, the lab says"),
        ({"serial": ""}, "another board answers: its serial number is missing, the lab says 10000000deadbeef"),
        ({"runtimes": {"replay": "1"}}, "it lacks the runtime onnxruntime (it has replay); install it"),
        (
            {"disk_free_bytes": 1 << 20},
            "only 1 MiB are free on its disk, expected 64 MiB; run 'edgehil board gc",
        ),
        ({"temperature_c": 80.1}, "it is at 80.1 °C, expected 80 °C at most"),
        ({"clock_offset_s": 301.0}, "its clock is 5.02 min ahead of ours, expected 5 min at most"),
        ({"clock_offset_s": -1e9}, "behind ours"),
    ],
)
def test_what_is_wrong_is_said_with_what_was_expected(changes, complaint):
    assert complaint in judge(BOARD, dataclasses.replace(WELL, **changes), RULES).complaint


def test_everything_that_is_wrong_is_said():
    ill = dataclasses.replace(WELL, serial="x", temperature_c=99.0)
    assert judge(BOARD, ill, RULES).complaint.count(";") == 1


def test_what_a_board_does_not_tell_is_not_held_against_it():
    quiet = dataclasses.replace(WELL, temperature_c=None, clock_offset_s=None)
    assert judge(BOARD, quiet, RULES).passed
    assert judge(dataclasses.replace(BOARD, serial=None), dataclasses.replace(WELL, serial=""), RULES).passed


def test_the_accelerator_that_the_lab_says_must_be_there():
    board = dataclasses.replace(BOARD, accelerator=Accelerator(kind="hailo10h"))
    assert "its accelerator is not there, the lab says hailo10h" in judge(board, WELL, RULES).complaint
    there = dataclasses.replace(WELL, accelerator="hailo10h")
    assert judge(board, there, RULES).passed


def test_a_virtual_board_has_the_serial_number_that_it_was_made_with():
    board = Board(id="v1", cls="pi5", environment=Environment.VIRTUAL, virtual=VirtualSpec(serial="0001"))
    assert judge(board, dataclasses.replace(WELL, serial="0001"), RULES).passed
    assert not judge(board, WELL, RULES).passed
    assert judge(dataclasses.replace(board, serial="10000000deadbeef"), WELL, RULES).passed


def test_rechecks_come_later_and_later_and_end():
    rules = HealthRules(recheck_s=60, longest_recheck_s=200, give_up=3)
    assert [rules.recheck_after_s(failures) for failures in (1, 2, 3, 4)] == [60, 120, 200, None]
    assert HealthRules(give_up=0).recheck_after_s(1) is None


def test_a_board_whose_time_is_its_instructions_may_lag_behind():
    counted = dataclasses.replace(BOARD, environment=Environment.EMULATED, timing=Timing.ICOUNT)
    slow = dataclasses.replace(WELL, clock_offset_s=-3600.0)
    assert judge(counted, slow, RULES).passed
    assert judge(counted, slow, RULES).clock_offset_s == -3600.0
    assert not judge(dataclasses.replace(counted, timing=Timing.WALL), slow, RULES).passed
