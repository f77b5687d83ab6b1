"""The log of power cuts: a later run goes on with it, and what it comes to is said with its uncertainty."""

from __future__ import annotations

from pathlib import Path

from support.cut_log import CutLog, summary
from support.emulated_cuts import Cut, complaints

WELL = Cut(path="commit", how="QEMU killed after 1.00 s", outcome="new combo, and the next run ends well")
MIXED = Cut(path="model write", how="before write 3 of 9 (seed 1; told)", outcome="old combo", faults=("one", "two"))
LOST = Cut(path="firmware write", how="before write 4", outcome="", faults=("BootFailed: /tmp/edgehil-cuts-a1/x\ny",))


def test_a_log_is_gone_on_with_and_names_no_directory_of_its_machine(tmp_path: Path) -> None:
    path = tmp_path / "cuts.log"
    log = CutLog(path)
    log.begin("a recording")
    for cut in (WELL, MIXED, LOST):
        log.add("ours", cut)
    log.add("peer", LOST)
    assert "BootFailed: x y" in path.read_text()
    again = CutLog(path)
    assert (again.recordings, len(again.of("peer"))) == (1, 1)
    well, mixed, lost = again.of("ours")
    assert well == WELL
    assert (mixed.outcome, mixed.faults) == ("old combo", ("one; two",))
    assert (lost.outcome, bool(lost.faults)) == ("", True)
    again.add("ours", WELL)
    assert path.read_text().splitlines()[-1].startswith("   5 | ours | commit | ")


def test_the_summary_counts_by_path_and_bounds_the_share_of_bad_ends() -> None:
    trial = Cut(path="commit", how="before write 5", outcome="old combo, after a trial that nobody had committed")
    lines = summary([WELL] * 100 + [trial] * 99 + [MIXED])
    assert "  commit           199 cuts: 99 old combo (99 of them left a trial), 100 new combo, 0 wrong" in lines
    assert "  model write        1 cuts: 0 old combo (0 of them left a trial), 0 new combo, 1 wrong" in lines
    assert "  100 by killing QEMU; after 100 the deployment was run again, and ended well" in lines
    assert "  wrong: at most 2.3% (Clopper-Pearson, one-sided, 95%)" in lines


def test_what_the_kernel_said_of_a_file_system_that_it_refused_is_no_damage_once_it_has_mounted_it() -> None:
    refused = [
        "[1.0] EXT4-fs (vda2): mounted filesystem without journal",
        "[1.8] EXT4-fs (vda4): error loading journal",
    ]
    mounted = "[1.9] EXT4-fs (vda4): mounted filesystem with ordered data mode. Quota mode: none."
    assert complaints(refused) == refused[1:]
    assert complaints([*refused, mounted]) == []
    later = "[2.5] EXT4-fs error (device vda4): ext4_lookup:1855: inode #12: deleted inode referenced: 13"
    other = "[0.9] EXT4-fs (vda2): I/O error while writing superblock"
    assert complaints([other, *refused, mounted, later]) == [other, later]
    assert complaints(["[3.0] EXT4-fs (vda4): mounting fs with errors, running e2fsck is recommended"]) != []
    assert complaints([mounted, "[3.1] EXT4-fs (vda4): warning: mounting fs with errors"]) != []
