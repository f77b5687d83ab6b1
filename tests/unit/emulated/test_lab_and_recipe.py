"""Emulated boards in a lab file, and the recipe and lock of an image."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_edgehil.emulated.farm import start
from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.emulated.image.built import Image, find_image, image_key
from pytest_edgehil.emulated.image.recipe import LOCK, load_lock, load_recipe, lock_text
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.machine import Machine
from pytest_edgehil.errors import ConfigError, LabFileError
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment, QmpPower, Timing

HOST_KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIFuRQ/NyNkLMjjkQ/S3Isz7mGxgWBIVtlfcjFb2P6dek"


def lab(directory: Path, board: str) -> Path:
    path = directory / "lab.yaml"
    path.write_text(f"lab: l\nboards:\n  e: {{class: c, {board}}}\n")
    return path


def test_a_board_that_is_emulated_here_needs_no_address(tmp_path: Path) -> None:
    path = lab(
        tmp_path, "environment: emulated, power: {backend: qmp}, emulated: {image: img, memory: 1 GiB, cores: 2}"
    )
    (board,) = load_lab(path).boards
    assert (board.ssh, board.power) == (None, None)
    assert board.emulated is not None
    assert (board.emulated.image, board.emulated.memory_bytes, board.emulated.cores) == (tmp_path / "img", 2**30, 2)
    assert len(board.emulated.serial) == 16


def test_a_board_is_clean_for_a_lease_unless_its_lab_says_for_each_test(tmp_path: Path) -> None:
    for told, expected in (("", "lease"), (", clean_for: test", "test")):
        (board,) = load_lab(lab(tmp_path, f"environment: emulated, emulated: {{image: img{told}}}")).boards
        assert board.emulated is not None
        assert board.emulated.clean_for == expected


def test_a_board_that_somebody_else_emulates_is_switched_at_its_socket(tmp_path: Path) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    ssh = f"{{host: h, user: u, key: k, host_key: {key}}}"
    path = lab(tmp_path, f"environment: emulated, ssh: {ssh}, power: {{backend: qmp, socket: run/q.sock}}")
    (board,) = load_lab(path).boards
    assert board.power == QmpPower(socket=tmp_path / "run/q.sock")


def test_a_boards_time_is_a_clocks_unless_its_lab_says_that_instructions_are_counted(tmp_path: Path) -> None:
    (clock,) = load_lab(lab(tmp_path, "environment: emulated, emulated: {image: img}")).boards
    (counted,) = load_lab(lab(tmp_path, "environment: emulated, timing: icount, emulated: {image: img}")).boards
    assert (clock.timing, counted.timing) == (Timing.WALL, Timing.ICOUNT)
    ssh = f"ssh: {{host: h, user: u, key: k, host_key: ssh-ed25519 {HOST_KEY}}}"
    (elsewhere,) = load_lab(lab(tmp_path, f"environment: emulated, timing: icount, {ssh}")).boards
    assert elsewhere.timing is Timing.ICOUNT  # somebody else's QEMU may count, too


@pytest.mark.needs("qemu")
def test_counting_instructions_is_another_machine_and_takes_a_template_of_its_own(tmp_path: Path) -> None:
    image = Image(directory=tmp_path, name="i", version="1", key="k", root_bytes=0, digests={})
    clock, counted = (Machine(image=image, memory_bytes=2**30, icount=icount) for icount in (False, True))
    layout = Layout(root=tmp_path)
    for saving in (True, False):
        argv = " ".join(counted.argv(layout, template=None, saving=saving, ssh_port=0))
        assert "-accel tcg,thread=single" in argv
        assert "-icount shift=0,sleep=on,align=off" in argv
        assert "-smp 1" in argv
        assert "icount" not in " ".join(clock.argv(layout, template=None, saving=saving, ssh_port=0))
    assert clock.key() != counted.key()


@pytest.mark.parametrize(
    ("board", "told"),
    [
        ("environment: virtual, emulated: {image: i}", "only a board with 'environment: emulated'"),
        ("environment: emulated, emulated: {image: i}, power: {backend: qmp, socket: s}", "expected no 'socket'"),
        ("environment: emulated, emulated: {image: i}, power: {backend: command, on: [a], off: [b]}", "by its QEMU"),
        ("environment: emulated, emulated: {image: i}, ssh: {host: h}", "only 'port' may be given"),
        ("environment: emulated, emulated: {image: i, memory: 1 MiB}", "too little"),
        (
            "environment: emulated, emulated: {image: i, memory: 1 GB}",
            "3: boards.e.emulated.memory: '1 GB' is no whole number of MiB: expected 953 MiB or 954 MiB",
        ),
        ("environment: virtual, power: {backend: qmp}", "power by qmp on a board without 'emulated'"),
        ("environment: emulated, timing: icount, emulated: {image: i, cores: 2}", "expected 1, more cannot be counted"),
        ("environment: emulated, emulated: {image: i, cores: 0}", "cores"),
        ("environment: emulated, emulated: {image: i, clean_for: run}", "'run'; expected one of lease, test"),
        ("environment: virtual, timing: icount", "only an emulated board's instructions are counted"),
        ("environment: emulated, timing: clock, emulated: {image: i}", "timing"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, board: str, told: str) -> None:
    with pytest.raises(LabFileError) as refused:
        load_lab(lab(tmp_path, board))
    assert told in " ".join(refused.value.problems)


def test_the_image_of_this_repository_is_pinned_to_the_last_byte(repository: Path) -> None:
    directory = repository / "farm/images/edge-arm64"
    recipe, lock = load_recipe(directory), load_lock(directory)
    assert {one.name for one in lock.packages} == set(recipe.packages)
    assert {one.name for one in lock.tools} == set(recipe.tools)
    assert {f"{one.name}=={one.version}" for one in lock.wheels} == set(recipe.wheels)
    assert (directory / LOCK).read_text() == lock_text(lock)


def test_an_image_that_has_not_been_built_says_how(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run 'edgehil image build"):
        find_image(repository / "farm/images/edge-arm64", cache=tmp_path)


def test_a_recipe_instead_of_its_directory_is_no_image(repository: Path, tmp_path: Path) -> None:
    recipe = repository / "farm/images/edge-arm64/image.yaml"
    with pytest.raises(ConfigError, match=r"image\.yaml is no image: expected the directory that image\.yaml lies in"):
        find_image(recipe, cache=tmp_path)
    with pytest.raises(ConfigError, match=r"is no image: .*: File name too long"):
        find_image(tmp_path / ("x" * 300), cache=tmp_path)


@pytest.mark.parametrize("name", ["image.yaml", "image.lock", "boot.cmd", "init"])
def test_an_image_that_shares_a_file_with_another_one_changes_with_it(tmp_path: Path, name: str) -> None:
    for one in ("image.yaml", "image.lock", "boot.cmd", "init"):
        (tmp_path / "image").mkdir(exist_ok=True)
        (tmp_path / "image" / one).write_text("before")
    (tmp_path / "shared").write_text("before")
    (tmp_path / "image" / name).unlink()
    (tmp_path / "image" / name).symlink_to("../shared")
    before = image_key(tmp_path / "image")
    (tmp_path / "shared").write_text("after")
    assert image_key(tmp_path / "image") != before


def test_an_image_without_a_lock_says_how(repository: Path, tmp_path: Path) -> None:
    shutil.copy(repository / "farm/images/edge-arm64/image.yaml", tmp_path)
    for asked in (
        lambda: find_image(tmp_path, cache=tmp_path),
        lambda: build_image(tmp_path, say=print, cache=tmp_path),
    ):
        with pytest.raises(ConfigError, match=r"image\.lock is missing; run 'edgehil image pin"):
            asked()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "  busybox-static:\n",
            "  busybox-static:\n  i2c-tools:\n",
            "they differ in i2c-tools; run 'edgehil image pin",
        ),
        ("  zlib1g:\n", "", "they differ in zlib1g; run 'edgehil image pin"),
        ("tools: [", "tools: [mtools, ", "they differ in mtools; run 'edgehil image pin"),
        ("kernel: linux-image-", "kernel: linux-nonsense-", "they differ in linux-nonsense-cloud-arm64; run 'edgehil"),
        (
            "bootloader: u-boot-qemu",
            "bootloader: grub-nonsense",
            "they differ in grub-nonsense; run 'edgehil image pin",
        ),
        ('python: "3.11"', 'python: "3.12"', "they differ in 3.12; run 'edgehil image pin"),
        ("tools: [", "tools: [-oDir::Bin::dpkg=x, ", "tools[0]: string should match pattern"),
        ("wheels: [", 'wheels: ["--index-url=x", ', "wheels[0]: string should match pattern"),
        ("kernel: linux", "kernel: -olinux", "kernel: string should match pattern"),
        ("slot: 200 MiB", "slot: 0 B", "sizes.slot: expected 16 MiB to 16 GiB, found 0 B"),
        ("data: 768 MiB", "data: 900 GiB", "sizes.data: expected 16 MiB to 64 GiB, found 900 GiB"),
        ("epoch: 1793491200", "epoch: 17934912000", "epoch: expected at most 2147483647"),
        ('"numpy==2.4.6"', '"numpy==2.4.5"', "they differ in numpy==2.4.5; run 'edgehil image pin"),
        ('"numpy==2.4.6"', '"numpy==2.4.6", "Ms_gpack==1.1.1"', "they differ in ms-gpack; run 'edgehil image pin"),
        ("architecture: arm64", "architecture: riscv64", r"architecture: unknown value 'riscv64'; expected arm64"),
    ],
)
def test_a_recipe_that_was_changed_is_not_built_of_its_old_lock(
    repository: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    for name in ("image.yaml", "image.lock", "boot.cmd", "init"):
        shutil.copy(repository / "farm/images/edge-arm64" / name, tmp_path)
    text = (tmp_path / "image.yaml").read_text()
    assert old in text
    (tmp_path / "image.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        build_image(tmp_path, say=print, cache=tmp_path / "cache")
    assert told in str(refused.value)


def test_a_recipe_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "image.yaml").write_text("imagine: x\n")
    with pytest.raises(ConfigError, match=r"image\.yaml"):
        build_image(tmp_path, say=print, cache=tmp_path)


def test_without_qemu_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = EmulatedSpec(image=tmp_path, serial="1")
    board = Board(id="e", cls="c", environment=Environment.EMULATED, emulated=spec)
    with pytest.raises(ConfigError, match="apt-get install --no-install-recommends qemu-system-arm qemu-utils"):
        start(board, directory=tmp_path / "board")
