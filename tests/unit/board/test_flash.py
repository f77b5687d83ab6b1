"""Flashing: what is sent and what not, what is active after success, refusal and every kind of interruption."""

from __future__ import annotations

import random
import resource
import sys
import threading

import pytest
from support.boards import BenchBoard, bundle, firmware_bundle, model_bundle
from support.rebooting import Rebooting

from pytest_edgehil.board.answers import BoardStatus, FirmwareState
from pytest_edgehil.board.delivery import Method
from pytest_edgehil.board.firmware_trial import leave_trial
from pytest_edgehil.board.flash import StepKind, flash, plan_flash
from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import (
    BoardError,
    CorruptArtifact,
    DiskFull,
    Fenced,
    FirmwareRejected,
    LinkLost,
    RuntimeMissing,
    UnsafeArchive,
    WrongTarget,
)
from pytest_edgehil.model import Artifact, Combo, Track

UNWELL = b"#!/bin/sh\necho no modem; exit 3\n"


def prompt(directory) -> Artifact:
    return bundle(
        directory, {"p.yaml": b"x"}, track=Track.PROMPT, kind="prompt-bundle", runtime=None, entry="p.yaml", name="say"
    )


def flashed(session, combo, **options):
    return flash(plan_flash(combo, session.client.status()), session, **options)


# --- plans -----------------------------------------------------------------------------------------------


def status(*, combo=None, store=(), firmware=None) -> BoardStatus:
    slots = FirmwareState(
        partition=2, default_partition=2, tryboot=False, name="edge-os", version="1.0", digest=firmware
    )
    return BoardStatus(
        combo=combo or {},
        last_known_good=None,
        store=frozenset(store),
        fence_token=1,
        fence_holder="me",
        firmware=slots,
    )


def test_a_plan_says_what_happens_and_how_much_is_sent(tmp_path):
    combo = Combo(firmware=firmware_bundle(tmp_path), model=model_bundle(tmp_path), prompt=prompt(tmp_path))
    plan = plan_flash(combo, status())
    kinds = [step.kind for step in plan.steps]
    assert kinds == [*["push"] * 3, *["install"] * 3, "firmware", "activate"]
    assert plan.bytes_to_send == sum(one.size_bytes for one in combo.artifacts)
    assert plan.describe().startswith("push edge-os 2.0, push tiny 1.0.0 fp32")


def test_what_the_board_has_is_not_planned(tmp_path):
    model, system = model_bundle(tmp_path), firmware_bundle(tmp_path)
    combo = Combo(firmware=system, model=model)
    stored = plan_flash(combo, status(store=[model.digest]))
    assert [step.artifact for step in stored.steps if step.kind is StepKind.PUSH] == [system]
    running = plan_flash(combo, status(store=[model.digest, system.digest], firmware=system.digest))
    assert StepKind.FIRMWARE not in [step.kind for step in running.steps]
    done = plan_flash(combo, status(combo=combo.digests, store=combo.digests.values(), firmware=system.digest))
    assert done.steps == ()
    assert done.describe() == "edge-os 2.0 + tiny 1.0.0 fp32 is on the board already"
    assert plan_flash(Combo(), status()).steps == ()


def test_an_active_combo_whose_firmware_does_not_run_is_flashed_again(tmp_path):
    combo = Combo(firmware=firmware_bundle(tmp_path), model=model_bundle(tmp_path))
    plan = plan_flash(combo, status(combo=combo.digests, store=combo.digests.values(), firmware=None))
    assert [step.kind for step in plan.steps] == ["install", "install", "firmware", "activate"]


def test_a_status_says_when_the_firmware_that_runs_is_not_the_combo_s():
    combo = {"firmware": "sha256:" + "1" * 64}
    assert status(combo=combo, firmware=combo["firmware"]).wrong_firmware is None
    assert status(combo={}, firmware="sha256:" + "2" * 64).wrong_firmware is None
    assert status(combo=combo, firmware=None).wrong_firmware == (
        "partition 2 runs edge-os 1.0, and the active combo has another firmware: deploy the combo again"
    )


# --- the way ---------------------------------------------------------------------------------------------


def test_a_combo_is_sent_once_and_then_only_activated_or_not_even_that(session, tmp_path):
    first, second = Combo(model=model_bundle(tmp_path, seed=1)), Combo(model=model_bundle(tmp_path, seed=2))
    sent = []
    report = flashed(session, first, on_progress=sent.append)
    assert (report.sent_bytes, report.skipped, report.activated) == (first.model.size_bytes, (), True)
    assert sent[-1].sent_bytes == sent[-1].total_bytes == first.model.size_bytes
    flashed(session, second)
    back = flashed(session, first)
    assert (back.sent_bytes, back.activated) == (0, True)
    same = flashed(session, first)
    assert (same.sent_bytes, same.activated, same.skipped) == (0, False, ("tiny 1.0.0 fp32",))


def test_a_firmware_proves_itself_before_anything_is_committed(session, bench, world, tmp_path):
    combo = Combo(firmware=firmware_bundle(tmp_path), model=model_bundle(tmp_path))
    defaults = []
    world.on_reboot = lambda: defaults.append((bench.root / "boot/autoboot.txt").read_text().splitlines()[2])
    report = flashed(session, combo)
    assert report.firmware_rebooted
    now = session.client.status()
    assert now.combo == combo.digests
    assert (now.firmware.partition, now.firmware.default_partition, now.firmware.version) == (3, 3, "2.0")
    assert session.client.platform.firmware == "edge-os 2.0"
    assert defaults == ["boot_partition=2"]
    assert flashed(session, combo).firmware_rebooted is False


def test_a_firmware_that_is_unwell_is_left_and_the_whole_combo_stays(session, tmp_path):
    old = Combo(model=model_bundle(tmp_path, seed=1))
    flashed(session, old)
    new = Combo(firmware=firmware_bundle(tmp_path, health=UNWELL), model=model_bundle(tmp_path, seed=2))
    with pytest.raises(FirmwareRejected, match=r"status 3: no modem; edge-os 1\.0 on partition 2 runs again"):
        flashed(session, new)
    now = session.client.status()
    assert now.combo == old.digests
    assert (now.firmware.partition, now.firmware.default_partition, now.firmware.tryboot) == (2, 2, False)


def test_a_firmware_that_the_bootloader_leaves_by_itself_is_rejected(session, world, tmp_path):
    world.comes_up, world.falls_back = False, True
    with pytest.raises(FirmwareRejected, match=r"partition 2 booted, expected 3; edge-os 1\.0 on partition 2"):
        flashed(session, Combo(firmware=firmware_bundle(tmp_path)))


def test_a_firmware_that_hangs_is_ended_by_the_power_switch(session, world, tmp_path):
    world.comes_up = False
    with pytest.raises(FirmwareRejected, match=r"after a power cycle edge-os 1\.0 on partition 2 runs again"):
        flashed(session, Combo(firmware=firmware_bundle(tmp_path)), power=world, boot_timeout_s=10.0)
    assert world.cycles == 1
    assert session.client.status().firmware.partition == 2


def test_without_a_power_switch_a_hanging_firmware_says_what_to_do(session, world, tmp_path):
    world.comes_up = False
    with pytest.raises(FirmwareRejected, match="cut the power by hand"):
        flashed(session, Combo(firmware=firmware_bundle(tmp_path)), boot_timeout_s=1.0)


def test_a_trial_that_nobody_finished_is_left_first(session, bench, world, tmp_path):
    system = firmware_bundle(tmp_path)
    session.client.status()
    push(session, system)
    session.client.request("firmware-write", {"digest": system.digest, "partition": 3}, timeout_s=60)
    session.drop()
    bench.booted(3, tryboot=True)
    assert leave_trial(session) is True
    assert session.client.status().firmware.partition == 2
    assert leave_trial(session) is False
    assert flashed(session, Combo(firmware=system)).firmware_rebooted


# --- what does not fit -----------------------------------------------------------------------------------


def test_every_clash_is_listed_before_anything_is_sent(session, tmp_path):
    model = bundle(tmp_path, {"m": b"x"}, architectures=("riscv64",), runtime="litert")
    with pytest.raises(WrongTarget, match=r"riscv64.*needs the runtime litert"):
        flashed(session, Combo(model=model))
    assert session.client.status().store == frozenset()


def test_a_missing_runtime_alone_is_the_boards_fault(session, tmp_path):
    with pytest.raises(RuntimeMissing, match="litert"):
        flashed(session, Combo(model=bundle(tmp_path, {"m": b"x"}, runtime="litert")))


def test_a_hostile_bundle_is_refused_by_the_board_and_the_old_combo_stays(session, tmp_path):
    old = Combo(model=model_bundle(tmp_path))
    flashed(session, old)
    evil = bundle(tmp_path, {"../../evil": b"x"}, name="evil")
    lying = bundle(tmp_path, {"model.onnx": b"x"}, name="lying", change={"files": []}, entry="model.onnx")
    for artifact, error in ((evil, UnsafeArchive), (lying, CorruptArtifact)):
        with pytest.raises(error):
            flashed(session, Combo(model=artifact))
    assert session.client.status().combo == old.digests


def test_a_file_that_changed_on_the_host_never_becomes_a_bundle_on_the_board(session, tmp_path):
    artifact = model_bundle(tmp_path)
    data = bytearray(artifact.path.read_bytes())
    data[-20] ^= 1
    artifact.path.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifact, match="hashes to"):
        flashed(session, Combo(model=artifact))
    artifact.path.unlink()
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        flashed(session, Combo(model=artifact))
    assert session.client.status().store == frozenset()


# --- interruptions ---------------------------------------------------------------------------------------


def big(directory, *, megabytes: int = 12) -> Artifact:
    return bundle(directory, {"model.onnx": random.Random(1).randbytes(megabytes * 2**20)}, name="big")


def test_a_link_that_is_cut_leaves_the_old_combo_and_the_next_run_sends_only_the_rest(session, world, bench, tmp_path):
    old, new = Combo(model=model_bundle(tmp_path)), Combo(model=big(tmp_path))
    flashed(session, old)
    there = 0
    for part in (0.0, 0.3, 0.9):
        plan = plan_flash(new, session.client.status())

        def cut(progress, part=part):
            if progress.sent_bytes >= part * progress.total_bytes:
                world.opened[-1].cut()

        with pytest.raises(LinkLost):
            flash(plan, session, on_progress=cut)
        session.drop()
        now = session.client.status()
        assert now.combo == old.digests
        assert now.store == {old.model.digest}
        left = partial_of(bench, new.model)
        assert left >= there
        there = left
    report = flashed(session, new)
    assert there > 0.5 * new.model.size_bytes
    (delivery,) = report.deliveries
    assert (delivery.method, delivery.resumed_bytes) == (Method.REST, there)
    assert report.sent_bytes == new.model.size_bytes - there
    assert "were there from a push that was cut" in delivery.describe()
    assert session.client.status().combo == new.digests


def partial_of(bench, artifact) -> int:
    path = bench.edgehil / "store/sha256" / f".{artifact.digest[7:]}.partial"
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize("where", [5, 9 * 2**20])
def test_what_was_left_is_used_only_as_far_as_it_is_right(session, bench, tmp_path, where):
    artifact = big(tmp_path)
    session.client.status()
    data = bytearray(artifact.path.read_bytes()[: 10 * 2**20])
    data[where] ^= 1  # as a power cut may leave it: the size is right, a page is not
    (bench.edgehil / "store/sha256" / f".{artifact.digest[7:]}.partial").write_bytes(data)
    sent = push(session, artifact)
    assert sent.resumed_bytes == (8 * 2**20 if where > 8 * 2**20 else 0)
    assert sent.sent_bytes == artifact.size_bytes - sent.resumed_bytes
    assert session.client.status().store == {artifact.digest}


def test_a_full_disk_is_told_and_nothing_is_left(bench, tmp_path):
    # RLIMIT_FSIZE refuses a write as a full disk does (EFBIG), for the board's processes only
    limit = f"ulimit -f {4 * 2**20 // 512}; "
    bench.shim("python3", f'{limit}exec {sys.executable} "$@"')
    world = Rebooting(bench)
    session = BoardSession(bench.board, token=1, holder="me", connect=world.connect)
    with pytest.raises(DiskFull, match="no space left on the board"):
        flashed(session, Combo(model=big(tmp_path)))
    assert list((bench.edgehil / "store/sha256").iterdir()) == []
    assert session.client.status().combo == {}
    session.close()
    world.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_without_room_for_the_program_itself(tmp_path):
    bench = BenchBoard(tmp_path / "new", new=True)
    bench.shim("python3", f'ulimit -f 16; exec {sys.executable} "$@"')
    world = Rebooting(bench)
    session = BoardSession(bench.board, token=1, holder="me", connect=world.connect)
    with pytest.raises(DiskFull):
        session.client.status()
    assert list((bench.edgehil / "bin").iterdir()) == []
    session.close()
    world.close()


def test_a_board_without_python_says_so(bench):
    bench.shim("python3", "echo no python >&2; exit 127")
    world = Rebooting(bench)
    session = BoardSession(bench.board, token=1, holder="me", connect=world.connect)
    with pytest.raises(RuntimeMissing, match="no python3"):
        session.client.status()
    session.close()
    world.close()


def test_somebody_who_takes_the_board_ends_the_push(session, bench, world, tmp_path):
    new = Combo(model=big(tmp_path))
    plan = plan_flash(new, session.client.status())
    other = BoardSession(bench.board, token=2, holder="other", connect=lambda _timeout_s: bench.connect())

    def take(progress):
        if progress.sent_bytes > progress.total_bytes // 2 and other._client is None:
            other.client.status()

    with pytest.raises(Fenced, match="token 2 of other"):
        flash(plan, session, on_progress=take)
    assert other.client.status().store == frozenset()
    transport = other.transport
    other.close()
    transport.close()


def test_pushers_of_one_bundle_do_not_disturb_each_other(session, bench, tmp_path):
    artifact = big(tmp_path)
    session.client.status()
    problems = []

    def send() -> None:
        try:
            push(session, artifact)
        except BoardError as problem:
            problems.append(problem)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert session.client.status().store == {artifact.digest}
    assert [path.name for path in (bench.edgehil / "store/sha256").iterdir()] == [artifact.digest[7:]]


def test_a_board_whose_slots_are_not_configured_is_not_guessed_at(bench, world, tmp_path):
    import dataclasses

    board = dataclasses.replace(bench.board, slots=None)
    session = BoardSession(board, token=1, holder="me", connect=world.connect)
    with pytest.raises(WrongTarget, match="add 'slots:'"):
        flashed(session, Combo(firmware=firmware_bundle(tmp_path)))
    session.close()


def test_a_reboot_that_never_happens_is_noticed(session, bench, tmp_path):
    bench.shim("reboot", "exit 0")
    with pytest.raises(FirmwareRejected, match="did not come up"):
        flashed(session, Combo(firmware=firmware_bundle(tmp_path)), boot_timeout_s=1.0)
    assert not (bench.root / "reboot-asked").exists()
