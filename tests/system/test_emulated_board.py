"""An emulated board, the whole way: image, template, kernel, SSH, power cuts, parity, evidence."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.emulated import START_S, emulated_board, image_directory

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.power import open_power
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import RunningBoard, start

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(1800)]

COMMAND_S = 300.0
BOOT_S = 600.0
SUITE = """
import pytest

@pytest.mark.combo(model="digits-int8")
@pytest.mark.size("2 MiB")
def test_size(dut, heldout):
    dut.run({"image": heldout("digits").inputs["image"][:1]})
"""


@pytest.fixture(scope="module")
def image() -> Path:
    return image_directory()


@pytest.fixture(scope="module")
def running(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBoard]:
    board = emulated_board(image)
    with start(board, directory=tmp_path_factory.mktemp("emulated") / "board", wait_s=START_S) as running:
        yield running


@pytest.fixture(scope="module")
def session(running: RunningBoard) -> Iterator[BoardSession]:
    session = BoardSession(running.board, token=1, holder="test")
    yield session
    session.close()


def shell(session: BoardSession, script: str) -> str:
    outcome = session.transport.run(Command(argv=("sh", "-c", script), timeout_s=COMMAND_S))
    assert outcome.exit_status == 0, outcome.stderr
    return outcome.stdout.decode().strip()


def test_it_is_an_arm_board_with_an_identity_of_its_own(session: BoardSession) -> None:
    said = shell(session, "uname -m; hostname; cat /proc/device-tree/serial-number | tr -d '\\0'; echo; date +%s")
    machine, name, serial, _ = said.splitlines()
    assert (machine, name, serial) == ("aarch64", "emu-01", "e000000000000001")


def test_its_sensors_say_what_the_host_writes(running: RunningBoard, session: BoardSession) -> None:
    running.sensors.set_temperature(65.5)
    running.sensors.set_throttled(0x50005)
    said = shell(session, "cat /sys/class/thermal/thermal_zone0/temp; vcgencmd measure_temp; vcgencmd get_throttled")
    assert said.splitlines() == ["65575", "temp=65.5'C", "throttled=0x50005"]
    running.sensors.set_throttled(0)
    running.sensors.set_temperature(45.0)


def test_a_port_of_this_host_is_beyond_its_network(session: BoardSession) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        tried = f"import socket; socket.create_connection(('10.0.2.2', {port}), 5)"
        outcome = session.transport.run(Command(argv=("python3", "-c", tried), timeout_s=COMMAND_S))
        assert outcome.exit_status != 0
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_power_cut_boots_it_anew_and_keeps_what_was_on_the_disk(running: RunningBoard, session: BoardSession) -> None:
    before = session.client.hello.boot_id
    shell(session, "echo kept >/data/kept && sync && echo lost >/tmp/lost")
    open_power(running.board).cycle()
    session.renew(old_boot_id=before, timeout_s=BOOT_S)
    assert shell(session, "cat /data/kept; ls /tmp") == "kept"
    assert session.client.status().firmware.partition == 2


def test_the_same_bundles_agree_with_this_host_and_evidence_says_emulated(
    image: Path, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "lab.yaml").write_text(
        "lab: emulated\nlease_expiry: 300 s\nboards:\n"
        "  emu-01: {class: pi5-2gb-emulated, environment: emulated, power: {backend: qmp}, "
        f"emulated: {{image: {image}}}}}\n"
    )
    (tmp_path / "test_gate.py").write_text(SUITE)
    names = ("fp32", "int8", "int8-dynamic", "per-tensor-int8", "mlp-int8", "mlp-per-tensor-int8")
    recipes = [f"suites/models/digits/digits-{name}.yaml" for name in names]
    edgehil(repository, "build", "--out", str(tmp_path / "artifacts"), *recipes)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--edgehil-lab", str(tmp_path / "lab.yaml")]
    argv += ["--edgehil-artifacts", str(tmp_path / "artifacts"), f"--edgehil-report={tmp_path / 'report'}"]
    argv += ["--edgehil-policy", "farm/policy-hardware.yaml", "suites/parity", str(tmp_path / "test_gate.py")]
    done = subprocess.run(argv, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    results = json.loads((tmp_path / "report/results.json").read_text())
    assert [test["status"] for test in results["tests"]] == ["passed"] * 7
    assert {test["board"]["environment"] for test in results["tests"]} == {"emulated"}
    edgehil(repository, "evidence", "verify", str(tmp_path / "report/evidence"))
    (bundle,) = (tmp_path / "artifacts").glob("digits-1.0.0-*int8-static.tar.gz")
    place = ["--repo", str(tmp_path / "repository"), "--keys", str(tmp_path / "keys")]
    edgehil(repository, "release", "init", *place)
    refused = subprocess.run(
        [
            *(sys.executable, "-m", "pytest_edgehil", "release", "publish", str(bundle), *place),
            *("--evidence", str(tmp_path / "report/evidence"), "--policy", "farm/policy-hardware.yaml"),
        ],
        cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "emulated" in refused.stderr


def edgehil(repository: Path, *arguments: str) -> None:
    argv = [sys.executable, "-m", "pytest_edgehil", *arguments]
    done = subprocess.run(argv, cwd=repository, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
