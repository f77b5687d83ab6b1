"""Bells of those who wait: rung by others, in whatever moment their owner goes away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_edgehil.lab import fifo_bell
from pytest_edgehil.lab.fifo_bell import FifoBell, ring

DEADLINE_S = 60.0


def test_whoever_waits_is_woken(tmp_path: Path) -> None:
    bell = FifoBell(tmp_path / "bells")
    assert ring(tmp_path / "bells", bell.name)
    assert bell.wait(DEADLINE_S)
    bell.close()


def test_a_bell_that_was_rung_more_often_than_a_pipe_holds_is_still_rung(tmp_path: Path) -> None:
    bell = FifoBell(tmp_path / "bells")
    assert all(ring(tmp_path / "bells", bell.name) for _ in range(70_000))  # 65 536 bytes, pipe(7)
    assert bell.wait(DEADLINE_S)
    bell.close()


def test_one_that_has_been_taken_down_is_no_error(tmp_path: Path) -> None:
    bell = FifoBell(tmp_path / "bells")
    bell.close()
    assert ring(tmp_path / "bells", bell.name)


def test_one_whose_owner_died_is_told_and_taken_down(tmp_path: Path) -> None:
    (tmp_path / "bells").mkdir()
    os.mkfifo(tmp_path / "bells" / "orphan")
    assert not ring(tmp_path / "bells", "orphan")
    assert list((tmp_path / "bells").iterdir()) == []


def test_one_whose_owner_goes_while_it_is_being_rung_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bell = FifoBell(tmp_path / "bells")
    real = os.open

    def open_and_see_it_go(path: Path, flags: int) -> int:
        opened = real(path, flags)
        bell.close()
        return opened

    monkeypatch.setattr(fifo_bell.os, "open", open_and_see_it_go)

    assert not ring(tmp_path / "bells", bell.name)
