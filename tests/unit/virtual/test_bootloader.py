from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.virtual.bootloader import (
    Candidate,
    Firmware,
    UnbootablePartition,
    candidates,
    parse_autoboot,
    read_firmware,
)

AB = b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / "boot").mkdir()
    for number in (2, 3):
        (tmp_path / f"partitions/{number}").mkdir(parents=True)
    (tmp_path / "boot/autoboot.txt").write_bytes(AB)
    return tmp_path


def order(disk: Path, *, tryboot: bool) -> list[tuple[int, bool]]:
    found, _ = candidates(disk / "boot", disk / "partitions", tryboot=tryboot)
    return [(candidate.partition, candidate.tryboot) for candidate in found]


def test_without_the_flag_the_default_comes_first_and_the_other_is_walked_to(disk):
    assert order(disk, tryboot=False) == [(2, False), (3, False)]


def test_with_the_flag_the_other_is_tried_once_before_the_default(disk):
    assert order(disk, tryboot=True) == [(3, True), (2, False), (3, False)]


def test_comments_other_sections_and_blank_lines_are_skipped():
    parsed = parse_autoboot(b"# A/B\n\n[pi4]\nboot_partition=9\n[all] \n boot_partition = 3 # now\n")
    assert (parsed.default, parsed.tryboot) == (3, 3)


def test_512_bytes_are_read_and_513_are_not(disk):
    (disk / "boot/autoboot.txt").write_bytes(AB.ljust(512, b"#"))
    assert order(disk, tryboot=True)[0] == (3, True)
    (disk / "boot/autoboot.txt").write_bytes(AB.ljust(513, b"#"))
    found, complaint = candidates(disk / "boot", disk / "partitions", tryboot=True)
    assert found == [Candidate(partition=2, tryboot=False), Candidate(partition=3, tryboot=False)]
    assert complaint == "autoboot.txt: 513 bytes > 512, ignored"


@pytest.mark.parametrize("content", [b"[all]\nboot_partition=two\n", b"[all]\nboot_partition=\n"])
def test_a_partition_that_is_no_number_is_complained_about(disk, content):
    (disk / "boot/autoboot.txt").write_bytes(content)
    _, complaint = candidates(disk / "boot", disk / "partitions", tryboot=False)
    assert "is no number" in complaint


def test_without_autoboot_the_partitions_are_walked(disk):
    (disk / "boot/autoboot.txt").unlink()
    assert order(disk, tryboot=True) == [(2, False), (3, False)]


def test_a_firmware_has_a_name_and_a_version(disk):
    (disk / "partitions/2/firmware.json").write_text('{"name": "edge-os", "version": "2026.11", "more": 1}')
    assert read_firmware(disk / "partitions/2") == Firmware(name="edge-os", version="2026.11")


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"name": "x"}', '{"name": "", "version": "1"}', "\xff"])
def test_what_is_no_firmware_does_not_boot(disk, content):
    if content is not None:
        (disk / "partitions/2/firmware.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UnbootablePartition, match=r"firmware\.json"):
        read_firmware(disk / "partitions/2")
