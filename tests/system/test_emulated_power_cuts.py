"""The power goes in the middle of a deployment, on an emulated board: it boots, on the old combo or the new one, whole.

One deployment is recorded with everything that the board writes, and cut at random (`support.emulated_cuts`); hundreds
of cuts are in ``benchmarks/emulated/cuts.py``.
"""

from __future__ import annotations

import contextlib
import random
import secrets

import pytest
from support.emulated import START_S, image_directory
from support.emulated_cuts import BOOT_S, DATA_AT, PATHS, REPAIRED, Stand, copy_sparse, shell

from pytest_edgehil.board.firmware_trial import leave_trial
from pytest_edgehil.board.flash import plan_flash
from pytest_edgehil.emulated.farm import start

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(3600)]

REPLAYED = 6
"""Cuts of each path; of what does not take long, one more by killing QEMU."""
LONG = "firmware write"
NEVER = 2 * REPLAYED


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    made = Stand.make(tmp_path_factory.mktemp("cuts"), image_directory())
    made.record()
    return made


@pytest.mark.parametrize("path", PATHS)
def test_a_power_cut_at_any_moment_leaves_one_whole_combo(stand: Stand, path: str) -> None:
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    cuts = list(stand.replay({path: REPLAYED}, chance, next_run_of=NEVER if path == LONG else REPLAYED))
    if path != LONG:
        cuts.append(stand.kill(path, chance, next_run=False))
    wrong = [str(cut) for cut in cuts if cut.faults]
    assert not wrong, f"seed {seed}: {wrong}"


def test_a_commit_record_of_the_journal_that_was_torn_is_dropped_and_the_board_is_whole(stand: Stand) -> None:
    torn = stand.with_a_torn_commit_record()
    with (
        start(stand.board, directory=stand.directory / "recovered", wait_s=START_S, disk=torn) as running,
        contextlib.closing(stand.session(running)) as session,
    ):
        said = running.layout.console_log.read_text(errors="replace")
        assert "JBD2: journal transaction" in said
        assert REPAIRED in said
        leave_trial(session, boot_timeout_s=BOOT_S)
        assert stand.faults_on(session, *stand.allowed("commit")) == []


def test_a_superblock_that_was_torn_while_it_was_mounted_is_repaired_when_the_board_boots(stand: Stand) -> None:
    torn, checksum_at = stand.directory / "torn.raw", DATA_AT + 1024 + 0x3FC  # in the second of its sectors
    copy_sparse(stand.final, torn)
    with torn.open("r+b") as disk:
        disk.seek(checksum_at)
        other = bytes(one ^ 0xFF for one in disk.read(4))
        disk.seek(checksum_at)
        disk.write(other)
    with (
        start(stand.board, directory=stand.directory / "repaired", wait_s=START_S, disk=torn) as running,
        contextlib.closing(stand.session(running)) as session,
    ):
        assert stand.faults_on(session, stand.combos[2]) == []


def test_a_board_that_boots_the_wrong_slot_is_not_taken_for_its_combo_and_is_brought_back(stand: Stand) -> None:
    wanted = stand.combos[2]
    with start(stand.board, directory=stand.directory / "wrong", wait_s=START_S, disk=stand.final) as running:
        session = stand.session(running)
        with contextlib.closing(session):
            before = session.client.hello.boot_id
            assert plan_flash(wanted.combo, session.client.status()).steps == ()
            shell(session, "fw_setenv BOOT_ORDER 'A B'; fw_setenv BOOT_A_LEFT 3; sync")
            shell(session, "(sleep 1; reboot) </dev/null >/dev/null 2>&1 &")
            session.renew(old_boot_id=before, timeout_s=BOOT_S)
            status = session.client.status()
            assert status.firmware.partition == 2
            assert status.wrong_firmware == (
                "partition 2 runs edge-os 2026.11, and the active combo has another firmware: deploy the combo again"
            )
            stand.deploy(session, wanted)
            assert session.client.status().wrong_firmware is None
            assert stand.faults_on(session, wanted) == []
