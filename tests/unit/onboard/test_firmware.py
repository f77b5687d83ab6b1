"""Firmware slots: what is written where, what proves itself, what is never touched."""

from __future__ import annotations

import subprocess

import pytest
from support.boards import HEALTHY, BenchBoard, firmware_bundle, model_bundle
from support.cutting import firmware_bundle as system
from support.processes import alive, until

from pytest_edgehil.onboard import combos, firmware, floor
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.slots import chosen, directories

SLOTS = chosen(None)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    board = BenchBoard(tmp_path / "board", new=True)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    return board


@pytest.fixture
def home(bench):
    home = Home(bench.edgehil)
    home.prepare()
    return home


def stored(home: Home, directory, **how) -> str:
    artifact = firmware_bundle(directory, files={"overlays/hat.dtbo": b"d" * 3000}, **how)
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    return artifact.digest


def test_a_firmware_goes_to_the_other_partition_whole_and_replaces_what_was_there(home, bench, tmp_path):
    digest = stored(home, tmp_path)
    bench.put("partitions/3/old/file", "stale")
    answer = firmware.write(home, SLOTS, digest, 3)
    tree = bench.root / "partitions/3"
    assert (answer["written_bytes"], answer["skipped"]) == (3000 + len(HEALTHY) + 34, False)
    assert {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()} == {
        "firmware.json", "health", "overlays/hat.dtbo", "edgehil-bundle"
    }  # fmt: skip
    assert firmware.identity(home, 3) == {"name": "edge-os", "version": "2.0", "digest": digest}
    assert (tree / "health").stat().st_mode & 0o111
    assert firmware.write(home, SLOTS, digest, 3)["skipped"] is True


def test_what_runs_or_boots_by_default_is_never_written(home, bench, tmp_path):
    digest = stored(home, tmp_path)
    bench.booted(3, tryboot=True)
    for partition in (2, 3):
        with pytest.raises(Problem, match="in use"):
            firmware.write(home, SLOTS, digest, partition)


def test_a_partition_that_was_altered_is_written_again(home, bench, tmp_path):
    digest = stored(home, tmp_path)
    firmware.write(home, SLOTS, digest, 3)
    bench.put("partitions/3/overlays/hat.dtbo", b"rotten")
    assert firmware.write(home, SLOTS, digest, 3)["skipped"] is False


def test_a_model_is_no_firmware(home, tmp_path):
    artifact = model_bundle(tmp_path)
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    with pytest.raises(Problem, match="of track model"):
        firmware.write(home, SLOTS, artifact.digest, 3)


def test_a_medium_that_does_not_keep_what_is_written_is_noticed(home, tmp_path, monkeypatch):
    digest = stored(home, tmp_path)
    real = directories.write_all
    monkeypatch.setattr(directories, "write_all", lambda out, data: real(out, data.replace(b"d", b"D")))
    with pytest.raises(Problem, match="does not read back") as caught:
        firmware.write(home, SLOTS, digest, 3)
    assert caught.value.code == "digest-mismatch"
    assert firmware.identity(home, 3)["digest"] is None


def test_a_firmware_on_trial_proves_itself(home, bench, tmp_path):
    digest = stored(home, tmp_path)
    firmware.write(home, SLOTS, digest, 3)
    bench.booted(3, tryboot=True)
    proof = firmware.prove(home, SLOTS, digest, 3)
    assert proof["reasons"] == []
    assert (proof["name"], proof["version"], proof["partition"], proof["tryboot"]) == ("edge-os", "2.0", 3, True)


@pytest.mark.parametrize(
    ("booted", "tryboot", "health", "reason"),
    [
        (2, False, HEALTHY, "partition 2 booted, expected 3"),
        (3, False, HEALTHY, "not on trial"),
        (3, True, b"#!/bin/sh\necho no modem >&2\nexit 4\n", "ended with status 4: no modem"),
    ],
    ids=["fell back", "no trial", "unwell"],
)
def test_a_firmware_that_must_not_be_committed(home, bench, tmp_path, *, booted, tryboot, health, reason):
    digest = stored(home, tmp_path, health=health)
    firmware.write(home, SLOTS, digest, 3)
    bench.booted(booted, tryboot=tryboot)
    (told,) = firmware.prove(home, SLOTS, digest, 3)["reasons"]
    assert reason in told


def test_a_health_check_that_hangs_is_ended_with_all_it_started(home, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(firmware, "HEALTH_TIMEOUT_S", 0.5)
    digest = stored(home, tmp_path, health=b"#!/bin/sh\nsleep 1000 & echo $! > $EDGEHIL_SYSROOT/pid\nwait\n")
    firmware.write(home, SLOTS, digest, 3)
    bench.booted(3, tryboot=True)
    wait, note = subprocess.Popen.wait, bench.root / "pid"

    def once_it_has_begun(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        if timeout == firmware.HEALTH_TIMEOUT_S:
            until(lambda: note.exists() and note.read_text().endswith("\n"))
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", once_it_has_begun)
    (told,) = firmware.prove(home, SLOTS, digest, 3)["reasons"]
    assert "took longer" in told
    pid = int((bench.root / "pid").read_text())
    until(lambda: not alive(pid))


def test_what_a_health_check_leaves_running_does_not_hold_it_up_and_is_ended(home, bench, tmp_path):
    digest = stored(home, tmp_path, health=b"#!/bin/sh\nsleep 1000 & echo $! > $EDGEHIL_SYSROOT/pid\nexit 0\n")
    firmware.write(home, SLOTS, digest, 3)
    bench.booted(3, tryboot=True)
    assert firmware.prove(home, SLOTS, digest, 3)["reasons"] == []
    pid = int((bench.root / "pid").read_text())
    until(lambda: not alive(pid))


def test_an_altered_tree_is_not_proven_even_if_it_boots(home, bench, tmp_path):
    digest = stored(home, tmp_path)
    firmware.write(home, SLOTS, digest, 3)
    bench.booted(3, tryboot=True)
    bench.put("partitions/3/overlays/hat.dtbo", b"rotten")
    (told,) = firmware.prove(home, SLOTS, digest, 3)["reasons"]
    assert "overlays/hat.dtbo hashes to" in told


def test_committing_swaps_the_partitions_in_autoboot(home, bench):
    from pytest_edgehil.virtual.bootloader import parse_autoboot

    SLOTS.chooser.commit(3)
    data = (bench.root / "boot/autoboot.txt").read_bytes()
    assert len(data) <= 512
    read = parse_autoboot(data)
    assert (read.default, read.tryboot) == (3, 2)
    assert SLOTS.chooser.state().default == 3


def test_a_reboot_that_is_refused_is_told(bench):
    bench.shim("reboot", "echo not allowed >&2; exit 1")
    with pytest.raises(Problem, match="not allowed") as caught:
        firmware.reboot(SLOTS, trial=3)
    assert caught.value.code == "reboot-failed"


def test_on_real_hardware_a_login_that_is_not_root_asks_sudo(monkeypatch):
    monkeypatch.delenv("EDGEHIL_SYSROOT", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert firmware.reboot_argv("0 tryboot") == ["sudo", "-n", "reboot", "0 tryboot"]


def held(home: Home, artifact) -> str:
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    return artifact.digest


def test_a_firmware_below_the_floor_is_not_written(home, bench, tmp_path):
    bench.put("home/.edgehil/firmware-floor", "1.10\n")
    old, new = (held(home, system(tmp_path, version=version)) for version in ("1.9", "1.10.0"))
    with pytest.raises(Problem, match=r"edge-os 1\.9 is below the board's firmware floor 1\.10") as refused:
        firmware.write(home, SLOTS, old, 3)
    assert refused.value.code == "wrong-target"
    assert not directories.slot(3).exists()
    assert firmware.write(home, SLOTS, new, 3)["skipped"] is False


def test_a_floor_that_cannot_be_read_lets_nothing_pass(home, bench, tmp_path):
    bench.put("home/.edgehil/firmware-floor", "latest")
    with pytest.raises(Problem, match="expected a version such as"):
        firmware.write(home, SLOTS, held(home, system(tmp_path)), 3)


def test_a_committed_firmware_raises_the_floor_and_never_lowers_it(home, bench, tmp_path):
    for partition, version, named, then in ((3, "2.0", "1.5", "1.5"), (2, "2.1", "1.0", "1.5")):
        digest = held(home, system(tmp_path, version=version, artifact_provides={"firmware.floor": named}))
        firmware.write(home, SLOTS, digest, partition)
        bench.booted(partition, tryboot=True)
        combos.activate(home, {"firmware": digest}, slots=SLOTS, partition=partition)
        assert floor.floor(home) == then


@pytest.mark.parametrize("named", ["3.0", "soon", ""])
def test_a_firmware_that_would_lock_itself_out_is_refused(home, tmp_path, named):
    digest = held(home, system(tmp_path, version="2.0", artifact_provides={"firmware.floor": named}))
    with pytest.raises(Problem) as refused:
        firmware.write(home, SLOTS, digest, 3)
    assert refused.value.code == "corrupt-artifact"
