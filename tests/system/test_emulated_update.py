"""A firmware goes to an emulated board: from slot A to slot B and committed, or tried, rejected and left again.

One board for all of them, each starting from whatever runs there. It has the small image: the one of the repository
without its wheels. What is done with a root is the same, and takes a third of the time for a third of the bytes; the
whole of the large one goes to a board in ``benchmarks/emulated/update.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulated import START_S, emulated_board, image_directory
from support.emulated_bench import settle
from support.emulated_cuts import shell
from support.small_image import small_image

from pytest_edgehil.artifacts.bundle import read
from pytest_edgehil.board.console import Console
from pytest_edgehil.board.delivery import DeltaPolicy, Method, Way
from pytest_edgehil.board.flash import FlashReport, flash, plan_flash
from pytest_edgehil.board.power import open_power
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import RunningBoard, start
from pytest_edgehil.errors import FirmwareRejected
from pytest_edgehil.model import Artifact, Combo
from pytest_edgehil.model.board import Slots

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(3600)]

BOOT_S = 600.0
OLD, WELL, UNWELL = "2026.11", "2026.12", "2026.13"
HEALTH = "#!/bin/sh\necho no modem >&2\nexit 4\n"
SLOTS = Slots(backend="uboot", partitions=(2, 3), devices={"root": ("/dev/vda2", "/dev/vda3")})


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_image(tmp_path_factory.mktemp("image"), image_directory())[0]


@pytest.fixture(scope="module")
def firmwares(repository: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """Version → an update that is the board's own image but for its version, and for a health check that fails."""
    place = tmp_path_factory.mktemp("firmware")
    edgehil(repository, "image", "firmware", str(image), "--out", str(place))
    (recipe,), (root,) = place.glob("*.yaml"), place.glob("*.ext4")
    recipes = [str(update(recipe, root, WELL)), str(update(recipe, root, UNWELL))]
    place.joinpath("health").write_text(HEALTH)
    commands = "write health /etc/edgehil/health\nset_inode_field /etc/edgehil/health mode 0100755\n"
    debugfs = shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert debugfs is not None
    image = root.with_name(f"{root.stem}-{UNWELL}.ext4")
    subprocess.run([debugfs, "-w", "-f", "-", str(image)], input=commands, text=True, cwd=place, check=True)
    edgehil(repository, "build", "--out", str(place / "artifacts"), *recipes)
    found = [read(path) for path in (place / "artifacts").glob("*.tar.gz")]
    return {one.manifest.version: one for one in found}


def update(recipe: Path, root: Path, version: str) -> Path:
    """A recipe of the same root under another version; file data carries no sum in ext4 and may be changed in place."""
    image = root.with_name(f"{root.stem}-{version}.ext4")
    data, told = root.read_bytes(), f'"version": "{OLD}"'.encode()
    assert data.count(told) == 1
    image.write_bytes(data.replace(told, f'"version": "{version}"'.encode()))
    made = recipe.with_name(f"{version}.yaml")
    made.write_text(recipe.read_text().replace(f'"{OLD}"', f'"{version}"').replace(root.name, image.name))
    return made


@pytest.fixture(scope="module")
def running(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBoard]:
    board = emulated_board(image)
    assert board.emulated is not None
    small = dataclasses.replace(board.emulated, memory_bytes=2**29)
    board = dataclasses.replace(board, emulated=small, slots=SLOTS, home="/data/edgehil")
    # it is the only one of its kind: to boot it is cheaper than to make a template of it
    with start(board, directory=tmp_path_factory.mktemp("emulated") / "board", wait_s=START_S, cold=True) as running:
        yield running


@pytest.fixture(scope="module")
def session(running: RunningBoard) -> Iterator[BoardSession]:
    session = BoardSession(running.board, token=1, holder="test")
    with contextlib.closing(session):
        settle(session)
        yield session


def deploy(session: BoardSession, running: RunningBoard, firmware: Artifact) -> FlashReport:
    plan = plan_flash(Combo(firmware=firmware), session.client.status())
    way, power = Way(policy=DeltaPolicy.ALWAYS), open_power(running.board)
    return flash(plan, session, power=power, way=way, boot_timeout_s=BOOT_S)


def what_runs(session: BoardSession) -> tuple[int | None, int | None, bool, str | None]:
    now = session.client.status().firmware
    return now.partition, now.default_partition, now.tryboot, now.version


def the_other(partition: int | None) -> int:
    return next(one for one in SLOTS.partitions if one != partition)


def test_a_firmware_goes_to_the_other_slot_boots_proves_itself_and_is_committed(
    session: BoardSession, running: RunningBoard, firmwares: dict[str, Artifact]
) -> None:
    before, new = what_runs(session)[0], firmwares[WELL]
    report = deploy(session, running, new)
    (delivery,) = report.deliveries
    assert (delivery.method, delivery.refused) == (Method.DELTA, "")
    assert delivery.sent_bytes < 0.01 * new.size_bytes  # the rest was there, in the slot that ran
    other = the_other(before)
    assert what_runs(session) == (other, other, False, WELL)
    status = session.client.status()
    assert status.firmware.digest == dict(status.combo)["firmware"] == new.digest


def test_a_firmware_that_is_not_well_is_left_again_and_says_why(
    session: BoardSession, running: RunningBoard, firmwares: dict[str, Artifact]
) -> None:
    before, combo = what_runs(session), dict(session.client.status().combo)
    with pytest.raises(FirmwareRejected) as told:
        deploy(session, running, firmwares[UNWELL])
    assert f"{UNWELL} was tried on partition" in str(told.value)
    assert "its health check ended with status 4: no modem" in str(told.value)
    assert f"edge-os {before[3]} on partition {before[0]} runs again" in str(told.value)
    assert what_runs(session) == before
    assert dict(session.client.status().combo) == combo


def test_boots_that_nobody_looks_at_give_their_tries_back_and_never_take_what_was_rejected(
    session: BoardSession, running: RunningBoard, tmp_path: Path
) -> None:
    before = what_runs(session)
    slot = SLOTS.names[before[0] == SLOTS.partitions[1]]
    shell(session, f"fw_setenv BOOT_{slot}_LEFT 0; sync")  # as after three boots that were cut
    session.drop()
    assert running.board.console is not None
    with contextlib.closing(Console.open(running.board.console, log_path=tmp_path / "c", board_id="emu-01")) as console:
        since = console.position
        open_power(running.board).cycle()
        console.wait_for("no slot has tries left", timeout_s=BOOT_S, since=since)
        console.wait_for("is ready", timeout_s=BOOT_S, since=since)
    said = shell(session, "cat /proc/cmdline; fw_printenv")  # no program of ours, which would give them back as well
    assert f"rauc.slot={slot} " in said
    assert f"BOOT_{slot}_LEFT=3\n" in said
    assert f"BOOT_ORDER={slot}\n" in said
    assert what_runs(session) == before


def edgehil(repository: Path, *arguments: str) -> None:
    argv = [sys.executable, "-m", "pytest_edgehil", *arguments]
    done = subprocess.run(argv, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
