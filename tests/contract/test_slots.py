"""One contract for every way of having firmware slots: tryboot with devices, a virtual board's directories, U-Boot."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest
from support.boards import firmware_bundle
from support.slot_boards import DEVICE_BYTES, SlotBoard

from pytest_edgehil.onboard import combos, firmware, readback, uncached
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem
from pytest_edgehil.onboard.slots import chosen, directories, images

KINDS = ("tryboot", "virtual", "uboot")


@pytest.fixture(params=KINDS)
def bench(request, tmp_path, monkeypatch):
    board = SlotBoard(tmp_path / "board", request.param)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    return board


@pytest.fixture
def slots(bench):
    return chosen(bench.declared)


@pytest.fixture
def home(bench):
    home = Home(bench.edgehil)
    home.prepare()
    return home


def stored(home: Home, artifact) -> str:
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    return artifact.digest


def where(slots) -> tuple[int | None, bool, int | None]:
    state = slots.chooser.state()
    return state.running, state.on_trial, state.default


def tried(home, bench, slots, tmp_path, **how) -> str:
    """Written to slot 3 and booted there on trial."""
    digest = stored(home, bench.firmware(tmp_path, **how))
    firmware.write(home, slots, digest, 3)
    bench.power_cycle(*slots.chooser.arm(3))
    return digest


# --- which slot boots ----------------------------------------------------------------------------------


def test_a_board_tells_what_runs_and_what_boots_next(slots):
    assert where(slots) == (2, False, 2)
    assert slots.other(2) == 3


def test_a_slot_that_is_armed_boots_once_and_the_next_boot_is_the_defaults(bench, slots):
    assert bench.power_cycle(*slots.chooser.arm(3)) == 3
    assert where(slots) == (3, True, 2)
    assert bench.power_cycle() == 2
    assert where(slots) == (2, False, 2)


def test_arming_alone_changes_nothing_that_is_told(slots):
    slots.chooser.arm(3)
    assert where(slots) == (2, False, 2)


def test_what_does_not_come_up_is_left_by_the_bootloader(bench, slots):
    assert bench.power_cycle(*slots.chooser.arm(3), comes_up=False) == 2
    assert where(slots) == (2, False, 2)


def test_a_committed_slot_boots_from_then_on(bench, slots):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    assert where(slots)[2] == 3
    for _ in range(2):
        assert bench.power_cycle() == 3
        assert where(slots) == (3, False, 3)


def test_committing_and_retiring_twice_is_as_once(bench, slots):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    slots.chooser.commit(3)
    slots.chooser.retire(2)
    slots.chooser.retire(2)
    assert where(slots)[2] == 3
    assert bench.power_cycle() == 3


def test_a_slot_that_is_retired_is_not_booted_and_may_be_armed_again(bench, slots):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.retire(3)
    assert bench.power_cycle() == 2
    assert bench.power_cycle(*slots.chooser.arm(3)) == 3


def test_and_back_again(bench, slots):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    bench.power_cycle()
    bench.power_cycle(*slots.chooser.arm(2))
    assert where(slots) == (2, True, 3)
    slots.chooser.commit(2)
    assert bench.power_cycle() == 2


def test_what_is_no_slot_is_refused(slots):
    with pytest.raises(Problem, match="slot"):
        slots.other(7)


# --- what a slot holds ---------------------------------------------------------------------------------


def test_a_firmware_is_written_read_back_and_named(home, bench, slots, tmp_path):
    digest = stored(home, bench.firmware(tmp_path))
    told = []
    answer = firmware.write(home, slots, digest, 3, lambda *progress: told.append(progress))
    assert answer["skipped"] is False
    assert answer["read_back"] in {readback.DIRECT, readback.DROPPED}
    assert json.loads(bench.carries(3).partition(b"\n")[0])["version"] == "2.0"
    assert firmware.identity(home, 3) == {"name": "edge-os", "version": "2.0", "digest": digest}
    assert {phase for phase, _, _ in told} == {"write", "verify"}
    assert {done == total == answer["written_bytes"] for _, done, total in told[-1:]} == {True}
    assert firmware.write(home, slots, digest, 3)["skipped"] is True
    assert where(slots) == (2, False, 2)


def test_neither_what_runs_nor_what_boots_by_default_is_written(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    before = bench.carries(2), bench.carries(3)
    for partition in (2, 3):
        with pytest.raises(Problem, match="in use"):
            firmware.write(home, slots, digest, partition)
    assert (bench.carries(2), bench.carries(3)) == before


def test_a_medium_that_does_not_keep_what_is_written_is_noticed(home, bench, slots, tmp_path, monkeypatch):
    digest = stored(home, bench.firmware(tmp_path))
    for module in (directories, uncached):
        real = module.write_all
        monkeypatch.setattr(
            module, "write_all", lambda out, data, real=real: real(out, bytes(data).replace(b"kk", b"kK"))
        )
    with pytest.raises(Problem, match="does not read back") as refused:
        firmware.write(home, slots, digest, 3)
    assert refused.value.code == "digest-mismatch"
    assert (firmware.identity(home, 3) or {"digest": None})["digest"] is None


def test_a_slot_that_is_half_written_has_no_identity_and_does_not_boot_by_itself(
    home, bench, slots, tmp_path, monkeypatch
):
    tried(home, bench, slots, tmp_path)
    bench.power_cycle()
    digest = stored(home, bench.firmware(tmp_path, version="3.0"))

    class Cut(BaseException):
        pass

    def cut(*_progress: object) -> None:
        raise Cut

    with pytest.raises(Cut):
        firmware.write(home, slots, digest, 3, cut)
    assert (firmware.identity(home, 3) or {"digest": None})["digest"] is None
    assert [bench.power_cycle() for _ in range(2)] == [2, 2]
    assert firmware.write(home, slots, digest, 3)["skipped"] is False


def test_a_bundle_that_changed_in_the_store_is_not_taken_for_what_it_was(home, bench, slots, tmp_path):
    artifact = bench.firmware(tmp_path)
    digest = stored(home, artifact)
    firmware.install(home, digest)
    data = artifact.path.read_bytes()
    half = len(data) // 2
    home.bundle(digest).write_bytes(data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])
    if bench.kind == "virtual":
        tree = home.tree(digest)
        (tree / "kernel").write_bytes(b"rotten")
    with pytest.raises(Problem) as refused:
        firmware.write(home, slots, digest, 3)
    assert refused.value.code in {"corrupt-artifact", "digest-mismatch"}


# --- proving and going back ----------------------------------------------------------------------------


def test_a_firmware_on_trial_proves_itself_and_is_committed_with_its_combo(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    proof = firmware.prove(home, slots, digest, 3)
    assert proof == {"partition": 3, "tryboot": True, "name": "edge-os", "version": "2.0", "reasons": []}
    combos.activate(home, {"firmware": digest}, slots=slots, partition=3)
    assert bench.power_cycle() == 3
    assert combos.recover(home, slots) is None
    assert firmware.identity(home, 3, running=True) == {"name": "edge-os", "version": "2.0", "digest": digest}


def test_a_bootloader_that_fell_back_is_no_proof(home, bench, slots, tmp_path):
    digest = stored(home, bench.firmware(tmp_path))
    firmware.write(home, slots, digest, 3)
    bench.power_cycle(*slots.chooser.arm(3), comes_up=False)
    (told,) = firmware.prove(home, slots, digest, 3)["reasons"]
    assert told == "partition 2 booted, expected 3"


def test_another_firmware_than_the_one_that_was_written_is_no_proof(home, bench, slots, tmp_path):
    tried(home, bench, slots, tmp_path)
    other = stored(home, bench.firmware(tmp_path, version="2.1"))
    firmware.install(home, other)
    (told,) = firmware.prove(home, slots, other, 3)["reasons"]
    assert f"does not carry {other}; it says that it is edge-os 2.0" in told


def test_bytes_that_changed_since_they_were_written_are_no_proof(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    path = bench.root / ("partitions/3/kernel" if bench.kind == "virtual" else "dev/vda3")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    (told,) = firmware.prove(home, slots, digest, 3)["reasons"]
    assert "hashes to" in told


def test_a_reboot_without_a_trial_leaves_what_is_on_trial_for_good(home, bench, slots, tmp_path):
    tried(home, bench, slots, tmp_path)
    firmware.reboot(slots, trial=None)
    assert (bench.root / "reboot-asked").read_text() == ""
    assert [bench.power_cycle() for _ in range(2)] == [2, 2]


def test_an_interrupted_commit_is_finished_or_dropped_by_what_boots(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    combos.activate(home, {"firmware": digest})  # leaves the combo's directory
    home.current.unlink()
    intent = json.dumps({"combo": combos.combo_id({"firmware": digest}), "partition": 3})
    home.journal.write_text(intent)
    bench.power_cycle()
    assert "dropped" in str(combos.recover(home, slots))
    assert combos.current(home) == {}
    bench.power_cycle(*slots.chooser.arm(3))
    home.journal.write_text(intent)
    slots.chooser.commit(3)
    bench.power_cycle()
    assert "finished" in str(combos.recover(home, slots))
    assert combos.current(home) == {"firmware": digest}


# --- of devices only -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bench", ["tryboot", "uboot"], indirect=True)
def test_an_image_that_does_not_fit_is_refused_before_a_byte_is_written(home, bench, slots, tmp_path):
    digest = stored(home, bench.firmware(tmp_path, padding=DEVICE_BYTES))
    with pytest.raises(Problem, match=rf"only {DEVICE_BYTES}") as refused:
        firmware.write(home, slots, digest, 3)
    assert refused.value.code == "wrong-target"
    assert set(bench.carries(3)) == {0}


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_an_image_that_does_not_fit_leaves_the_firmware_to_fall_back_to(home, bench, slots, tmp_path):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    digest = stored(home, bench.firmware(tmp_path, padding=DEVICE_BYTES))
    with pytest.raises(Problem, match="only"):
        firmware.write(home, slots, digest, 2)
    assert bench.environment()["BOOT_ORDER"] == "B A"
    assert [bench.power_cycle() for _ in range(4)] == [3, 3, 3, 2]


@pytest.mark.parametrize("bench", ["tryboot", "uboot"], indirect=True)
def test_an_image_that_is_not_what_its_manifest_says_is_never_a_firmware(home, bench, slots, tmp_path):
    """As a bundle it is whole and has the digest that was told; only the manifest in it lies."""
    honest = gzip.decompress(bench.firmware(tmp_path).path.read_bytes())
    at = len(honest) // 2
    lying = gzip.compress(honest[:at] + bytes([honest[at] ^ 1]) + honest[at + 1 :], compresslevel=1, mtime=0)
    digest = f"sha256:{hashlib.sha256(lying).hexdigest()}"
    home.bundle(digest).write_bytes(lying)
    with pytest.raises(Problem, match=r"root\.img") as refused:
        firmware.write(home, slots, digest, 3)
    assert refused.value.code in {"digest-mismatch", "corrupt-artifact"}
    assert (slots.chooser.state().running, slots.chooser.state().default) == (2, 2)
    assert firmware.prove(home, slots, digest, 3)["reasons"]


@pytest.mark.parametrize("bench", ["tryboot", "uboot"], indirect=True)
def test_a_root_from_another_device_than_the_slots_is_no_proof(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    bench.put("proc/self/mountinfo", "1 0 254:2 / / rw,relatime - ext4 /dev/root rw\n")
    (told,) = firmware.prove(home, slots, digest, 3)["reasons"]
    assert told == "/ is mounted from device 254:2, and partition 3 is device 254:3"


@pytest.mark.parametrize("bench", ["tryboot", "uboot"], indirect=True)
def test_a_firmware_that_does_not_say_who_it_is_is_no_proof(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    (bench.root / images.IDENTITY).unlink()
    (told,) = firmware.prove(home, slots, digest, 3)["reasons"]
    assert "does not say who it is" in told


@pytest.mark.parametrize("bench", ["tryboot", "uboot"], indirect=True)
def test_the_health_check_of_an_image_is_the_running_firmwares(home, bench, slots, tmp_path):
    digest = tried(home, bench, slots, tmp_path)
    script = bench.put(images.HEALTH, "#!/bin/sh\necho no modem >&2\nexit 4\n")
    script.chmod(0o755)
    (told,) = firmware.prove(home, slots, digest, 3)["reasons"]
    assert told == "its health check ended with status 4: no modem"


@pytest.mark.parametrize("bench", ["virtual"], indirect=True)
def test_a_board_without_devices_takes_no_image(home, slots, tmp_path):
    other = SlotBoard(tmp_path / "other", "uboot").firmware(tmp_path)
    with pytest.raises(Problem, match=r"an image 'root', and the board's slots name no device"):
        firmware.write(home, slots, stored(home, other), 3)


@pytest.mark.parametrize("bench", ["tryboot"], indirect=True)
def test_a_tree_on_a_board_with_devices_goes_into_the_directory_and_forgets_the_image(home, bench, slots, tmp_path):
    firmware.write(home, slots, stored(home, bench.firmware(tmp_path)), 3)
    digest = stored(home, firmware_bundle(tmp_path, version="2.5"))
    firmware.write(home, slots, digest, 3)
    assert firmware.identity(home, 3) == {"name": "edge-os", "version": "2.5", "digest": digest}


# --- of U-Boot only ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_default_that_came_up_gets_its_tries_back(home, bench, slots):
    for _ in range(9):
        assert bench.power_cycle() == 2
        assert slots.chooser.state().wears
        combos.recover(home, slots)
        assert bench.environment()["BOOT_A_LEFT"] == "3"


def test_no_boot_takes_a_retired_slot_however_many_there_are_between_two_sessions(bench, slots):
    slots.chooser.retire(3)
    assert {bench.power_cycle() for _ in range(12)} == {2}
    assert where(slots) == (2, False, 2)
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    slots.chooser.retire(2)
    assert {bench.power_cycle() for _ in range(12)} == {3}
    assert where(slots) == (3, False, 3)


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_committed_slot_at_its_last_try_is_not_on_trial_and_gets_its_tries_back(bench, slots, home):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    assert [bench.power_cycle() for _ in range(3)] == [3, 3, 3]
    assert bench.environment()["BOOT_B_LEFT"] == "0"
    state = slots.chooser.state()
    assert (state.running, state.on_trial, state.wears) == (3, False, True)
    combos.recover(home, slots)
    assert where(slots) == (3, False, 3)
    assert bench.power_cycle() == 3


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_committed_slot_that_fails_all_its_tries_is_left_for_the_one_before_it(bench, slots, home):
    bench.power_cycle(*slots.chooser.arm(3))
    slots.chooser.commit(3)
    assert [bench.power_cycle() for _ in range(4)] == [3, 3, 3, 2]  # nobody says that they came up
    assert where(slots) == (2, False, 2)
    combos.recover(home, slots)
    assert {bench.power_cycle() for _ in range(3)} == {2}


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_failed_trial_is_out_of_the_order_once_somebody_looks(bench, slots, home):
    bench.power_cycle(*slots.chooser.arm(3))
    assert bench.power_cycle() == 2
    combos.recover(home, slots)
    assert bench.environment()["BOOT_ORDER"] == "A"
    assert {bench.power_cycle() for _ in range(8)} == {2}


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_trial_gets_none_back(home, bench, slots):
    bench.power_cycle(*slots.chooser.arm(3))
    combos.recover(home, slots)
    assert bench.environment()["BOOT_B_LEFT"] == "0"
    assert bench.power_cycle() == 2


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_other_variables_stay_and_nothing_is_written_that_is_there_already(bench, slots):
    slots.chooser.commit(2)
    bench.shim("fw_setenv", "exit 9")
    slots.chooser.commit(2)
    assert bench.environment()["bootcmd"] == "run a=b"


@pytest.mark.parametrize(
    ("shim", "line", "told"),
    [
        ("fw_setenv", "echo 'Cannot open environment' >&2; exit 1", "fw_setenv ended with status 1: Cannot open env"),
        ("fw_setenv", "exit 0", "does not keep what is written: BOOT_ORDER is 'A B', expected 'B A'"),
        ("fw_printenv", "exit 3", "fw_printenv ended with status 3: it said nothing"),
    ],
)
@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_a_tool_that_fails_is_told_in_one_line(bench, slots, shim, line, told):
    bench.shim(shim, line)
    with pytest.raises(Problem, match=told) as refused:
        slots.chooser.arm(3)
    assert refused.value.code == "slots-failed"
    assert "\n" not in refused.value.message


@pytest.mark.parametrize("bench", ["uboot"], indirect=True)
def test_an_environment_without_the_variables_is_read_as_the_boot_script_does(bench, slots):
    (bench.root / "uboot.env").write_text("bootcmd=x\n")
    assert where(slots) == (2, False, 2)
    slots.chooser.arm(3)
    assert bench.environment()["BOOT_B_LEFT"] == "1"


# --- what the lab declares -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "declared",
    [
        "",
        "[1]",
        "7",
        '{"partitions": [2]}',
        '{"backend": "grub"}',
        '{"devices": {"root": ["/dev/a"]}}',
        '{"partitions": "x"}',
    ],
)
def test_slots_that_cannot_be_read_are_refused(declared):
    with pytest.raises(Problem) as refused:
        chosen(declared)
    assert refused.value.code == "bad-request"
