"""The medium that a power cut leaves: what was flushed is there, whatever becomes of the rest."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from support.write_log import BLOCK, SECTOR, Medium, WriteLog

FLUSH = None


def log_of(path: Path, *entries: tuple[int, bytes] | None) -> WriteLog:
    """A log as QEMU writes it: of writes (sector and data) and flushes."""
    data = bytes(SECTOR)
    for entry in entries:
        at, written = entry or (0, b"")
        head = struct.pack("<QQQQ", at, len(written) // SECTOR, 0 if entry else 1, 0)
        data += head.ljust(SECTOR, b"\0") + written
    path.write_bytes(data)
    return WriteLog(path)


def sectors(letters: str) -> bytes:
    return b"".join(letter.encode() * SECTOR for letter in letters)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(sectors("...."))
    return path


def test_what_was_flushed_is_there_and_of_the_rest_any_sectors(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", (0, sectors("a")), FLUSH, (1, sectors("bcd")), FLUSH, (0, sectors("e")))
    medium, seen = Medium(disk, log), set()
    for seed in range(200):
        with medium.cut(3, random.Random(seed)):
            seen.add(disk.read_bytes()[::SECTOR].decode())
        assert disk.read_bytes() == sectors("a..."), "what was not flushed is taken back for the next cut"
    assert {one[0] for one in seen} == {"a"}
    assert {"a...", "abcd", "ab..", "a.cd", "ab.d"} <= seen
    with medium.cut(5, random.Random(1)):
        assert disk.read_bytes()[SECTOR:] == sectors("bcd")


def test_a_sector_in_which_a_long_write_breaks_off_may_be_torn_and_one_of_a_block_never(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    for many, torn in ((BLOCK // SECTOR, {False}), (BLOCK // SECTOR + 1, {False, True})):
        disk.write_bytes(sectors("." * many))
        medium = Medium(disk, log_of(tmp_path / "log", FLUSH, (0, sectors("a" * many))))
        seen = set()
        for seed in range(200):
            with medium.cut(2, random.Random(seed)) as told:
                left = disk.read_bytes()
            mixed = [at for at in range(0, len(left), SECTOR) if len(set(left[at : at + SECTOR])) > 1]
            assert bool(mixed) == ("torn" in told)
            seen.add(bool(mixed))
        assert seen == torn
        assert disk.read_bytes() == sectors("." * many)


def test_writes_over_each_other_are_taken_back_in_the_right_order(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", (0, sectors("a")), FLUSH, (0, sectors("b")), (0, sectors("c")))
    medium = Medium(disk, log)
    with medium.cut(4, None):
        assert disk.read_bytes() == sectors("c...")
    assert disk.read_bytes() == sectors("a...")


def test_a_disk_that_ignores_flushes_may_lose_what_was_flushed(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", (0, sectors("a")), FLUSH, (1, sectors("b")))
    medium, seen = Medium(disk, log), set()
    for seed in range(50):
        with medium.cut(3, random.Random(seed), honest=False):
            seen.add(disk.read_bytes()[::SECTOR].decode())
    assert {"....", "a...", ".b..", "ab.."} == seen


def test_at_risk_is_what_was_written_and_not_flushed(tmp_path: Path) -> None:
    log = log_of(tmp_path / "log", (0, sectors("a")), FLUSH, (1, sectors("b")), (2, sectors("c")), FLUSH)
    assert log.at_risk(0, 5) == [1, 3, 4]
    assert log.at_risk(2, 3) == [3]


def test_a_log_without_a_flush_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no flush"):
        log_of(tmp_path / "log", (0, sectors("a")))
