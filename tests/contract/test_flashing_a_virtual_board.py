"""Flashing over SSH onto a virtual board whose bootloader, power and console are real ones for the host."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from support.boards import bundle, firmware_bundle, model_bundle
from support.virtual_boards import eventually

from pytest_edgehil.board.console import Console
from pytest_edgehil.board.delivery import deliver
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.fit import check_fit
from pytest_edgehil.board.power import open_power
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardError, DiskFull, EvidenceError, FirmwareRejected, WrongTarget
from pytest_edgehil.model import Artifact, Board, Combo, Environment, Fault, Slots, Track, VirtualSpec
from pytest_edgehil.virtual import farm

X = {"x": np.zeros((1, 4), dtype=np.float32)}
SERIAL = "00000000000000f1"


class Rack:
    """A running board with everything attached to it."""

    def __init__(self, running, tmp_path) -> None:
        self.board = running.board
        self.control = running.control
        self.power = open_power(running.board)
        self.console = Console.open(running.board.console, log_path=tmp_path / "console.log", board_id="v1")
        self.session = BoardSession(running.board, token=1, holder="me")

    def open(self, combo: Combo, **options) -> Dut:
        return Dut.open(self.session, combo=combo, console=self.console, power=self.power, **options)


@pytest.fixture
def rack(tmp_path):
    board = Board(
        id="v1",
        cls="pi5-8gb",
        environment=Environment.VIRTUAL,
        slots=Slots(backend="tryboot"),
        virtual=VirtualSpec(serial=SERIAL),
    )
    with farm.start(board, directory=tmp_path / "v1") as running:
        rack = Rack(running, tmp_path)
        yield rack
        rack.session.close()
        rack.console.close()


def test_a_good_firmware_is_committed_and_a_bad_one_is_left_with_its_reason(rack, tmp_path):
    model = model_bundle(tmp_path)
    good = firmware_bundle(tmp_path, version="2.0", change={"artifact_provides": {"firmware.floor": "2.0"}})
    bad = firmware_bundle(tmp_path, version="3.0", health=b"#!/bin/sh\necho no modem\nexit 4\n")
    with rack.open(Combo(model=model, firmware=good)) as dut:
        assert dut.flashed.firmware_rebooted
        assert dut.ref.firmware == "edge-os 2.0"
        assert dut.run(X)["logits"].shape == (1, 3)
    with pytest.raises(FirmwareRejected, match=r"edge-os 2\.0 on partition 3 runs again.*no modem"):
        rack.open(Combo(model=model, firmware=bad))
    with rack.open(Combo(model=model, firmware=good)) as dut:
        assert (dut.flashed.sent_bytes, dut.flashed.firmware_rebooted, dut.flashed.activated) == (0, False, False)
    a_downgrade_is_refused_by_host_and_board(rack.session, tmp_path)


def a_downgrade_is_refused_by_host_and_board(session: BoardSession, tmp_path) -> None:
    """Part of the test above, which has committed a firmware that raises the floor."""
    assert session.client.platform.firmware_floor == "2.0"
    old = firmware_bundle(tmp_path, version="1.9", change={"artifact_depends": {"board.bootloader": [">=2030-01-01"]}})
    told = dataclasses.replace(old.manifest, depends={"board.bootloader": (">=2030-01-01",)})
    before = session.client.status()
    with pytest.raises(WrongTarget) as refused:
        check_fit(Combo(firmware=dataclasses.replace(old, manifest=told)), session)
    for clash in (
        "edge-os 1.9 needs board.bootloader >=2030-01-01, but it is 2025-09-22",
        "edge-os 1.9 is below the board's firmware floor 2.0: a downgrade is refused",
    ):
        assert clash in str(refused.value)
    assert session.client.status() == before
    deliver(session, old)  # a host that does not ask
    with pytest.raises(WrongTarget, match=r"below the board's firmware floor 2\.0"):
        session.client.request("firmware-write", {"digest": old.digest, "partition": 2}, timeout_s=60.0)
    with pytest.raises(WrongTarget, match=r"board\.bootloader >=2030-01-01, but it is 2025-09-22"):
        session.client.request("activate", {"combo": {"firmware": old.digest}}, timeout_s=60.0)
    assert session.client.status().combo == before.combo


def test_a_firmware_that_hangs_in_its_boot_is_ended_by_the_power_switch(rack, tmp_path):
    good = firmware_bundle(tmp_path, version="2.0", health=b"#!/bin/sh\nexit 0\n")
    with rack.open(Combo()) as dut:
        assert dut.ref.serial == SERIAL
    rack.control.inject(Fault(kind="stuck-boot"))

    class Revived:
        """The fault goes away with the power, as a hang that a firmware caused does."""

        def cycle(self) -> None:
            rack.control.clear_faults()
            rack.power.cycle()
            eventually(lambda: rack.control.status().state == "running")  # a power switch may take its time

        def is_on(self) -> bool | None:
            return rack.power.is_on()

    with pytest.raises(FirmwareRejected, match="after a power cycle"):
        Dut.open(rack.session, combo=Combo(firmware=good), power=Revived(), boot_timeout_s=8.0)
    assert rack.session.client.status().firmware.partition == 2


def test_the_board_signs_for_each_artifact_of_its_combo(rack, tmp_path):
    model = model_bundle(tmp_path)
    system = firmware_bundle(tmp_path, version="2.0", health=b"#!/bin/sh\nexit 0\n")
    say = bundle(
        tmp_path, {"p.yaml": b"x"}, track=Track.PROMPT, kind="prompt-bundle", runtime=None, entry="p.yaml", name="say"
    )
    with rack.open(Combo(model=model, firmware=system, prompt=say)) as dut:
        for artifact in (model, system, say):
            signature, pem = dut.attest(statement(artifact))
            assert signature
            assert pem.startswith("-----BEGIN PUBLIC KEY-----")
        other = model_bundle(tmp_path, seed=5)
        with pytest.raises(EvidenceError):
            dut.attest(statement(other))
        assert dut.broken is None


def statement(artifact: Artifact) -> bytes:
    subject = [{"name": artifact.manifest.name, "digest": {"sha256": artifact.digest.removeprefix("sha256:")}}]
    return json.dumps({"subject": subject, "predicate": {"environment": {"boardSerial": SERIAL}}}).encode()


@pytest.mark.parametrize("kind", ["disk-full", "link-cut", "power-cut"])
def test_a_fault_while_flashing_leaves_the_old_combo(rack, tmp_path, kind):
    old = Combo(model=model_bundle(tmp_path))
    weights = np.random.default_rng(1).bytes(3_000_000)
    new = Combo(model=bundle(tmp_path, {"model.onnx": weights}, name="big"))
    with rack.open(old):
        pass
    after = None if kind == "disk-full" else 1_000_000
    rack.control.inject(Fault(kind=kind, after_bytes=after))
    with pytest.raises(BoardError) as caught:
        rack.open(new)
    assert isinstance(caught.value, DiskFull) == (kind == "disk-full")
    rack.control.clear_faults()
    rack.power.on()
    rack.console.wait_for("login:", timeout_s=60, since=0)
    rack.session.drop()
    status = rack.session.renew(old_boot_id=None, timeout_s=60).status()
    assert status.combo == old.digests
    assert status.store == {old.model.digest}
