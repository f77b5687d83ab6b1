"""What machine QEMU is asked for, and what a template of it is good for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_edgehil.emulated import machine as machines
from pytest_edgehil.emulated.image.built import Image
from pytest_edgehil.emulated.image.device_tree import parse
from pytest_edgehil.emulated.machine import Machine, qemu_version
from pytest_edgehil.errors import ConfigError


def machine(directory: Path, *, icount: bool = False) -> Machine:
    image = Image(directory=directory, name="i", version="1", key="k", root_bytes=0, digests={})
    return Machine(image=image, memory_bytes=2**30, icount=icount)


@pytest.mark.needs("qemu")
def test_a_machine_has_the_same_key_whenever_it_is_asked_though_qemu_draws_seeds(tmp_path: Path) -> None:
    trees, keys = set(), set()
    for number in range(2):
        machines._device_tree.cache_clear()  # as in another process
        machine(tmp_path).write_device_tree(tmp_path / f"{number}.dtb")
        trees.add((tmp_path / f"{number}.dtb").read_bytes())
        keys.add(machine(tmp_path).key())
    assert (len(trees), len(keys)) == (2, 1)


@pytest.mark.needs("qemu")
def test_a_device_tree_of_another_version_of_ours_is_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine(tmp_path).key()
    machines._device_tree.cache_clear()
    monkeypatch.setattr(machines, "SOFT_C", 70)
    try:
        assert machine(tmp_path).key() != before
    finally:
        machines._device_tree.cache_clear()


@pytest.mark.needs("qemu")
@pytest.mark.parametrize(("icount", "said"), [(False, b"wall\0"), (True, b"icount\0")])
def test_a_board_can_tell_what_its_time_is(tmp_path: Path, icount: bool, said: bytes) -> None:
    machine(tmp_path, icount=icount).write_device_tree(tmp_path / "board.dtb")
    assert parse((tmp_path / "board.dtb").read_bytes()).properties["edgehil-timing"] == said


@pytest.mark.parametrize(
    ("program", "told"),
    [
        (
            "#!/bin/sh\necho cannot open shared object file >&2; exit 127\n",
            "(exit status 127): cannot open shared object file; run 'apt-get",
        ),
        ("#!/bin/sh\n", "(exit status 0): it says nothing; run 'apt-get"),
        ("\0not a program\n", "cannot be run: Exec format error; run 'apt-get"),
    ],
)
def test_a_qemu_that_does_not_run_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, told: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "qemu-system-aarch64"
    path.write_text(program)
    path.chmod(0o755)
    qemu_version.cache_clear()
    try:
        with pytest.raises(ConfigError) as refused:
            machine(tmp_path).key()
    finally:
        qemu_version.cache_clear()
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)
