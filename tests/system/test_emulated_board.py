"""An emulated board, the whole way: image, template, kernel, SSH, sensors, network, parity, evidence."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.emulated_bench import Bench

from pytest_edgehil.emulated.farm import start
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.requirement import Timing

pytestmark = [pytest.mark.needs("qemu"), pytest.mark.timeout(1800)]

LOOKS_FOR_A_WAY_OUT = """
import socket
query = bytes.fromhex("123401000001000000000000076578616d706c6503636f6d0000010001")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.settimeout(3)
    try:
        one.sendto(query, ("10.0.2.3", 53))
        print("a name server answers", one.recv(512))
    except OSError:
        pass
for address in (("10.0.2.2", {port}), ("10.0.2.2", 22), ("10.0.2.2", 53), ("10.0.2.3", 53), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, 2).close()
        print(address, "can be reached")
    except OSError:
        pass
print("looked")
"""
SUITE = """
import pytest

@pytest.mark.combo(model="digits-int8")
@pytest.mark.size("2 MiB")
def test_size(dut, heldout):
    dut.run({"image": heldout("digits").inputs["image"][:1]})
"""


def test_it_is_an_arm_board_with_an_identity_of_its_own(bench: Bench) -> None:
    said = bench.shell("uname -m; hostname; cat /proc/device-tree/serial-number | tr -d '\\0'; echo; date +%s")
    machine, name, serial, _ = said.splitlines()
    assert (machine, name, serial) == ("aarch64", "emu-01", "e000000000000001")
    assert bench.session.client.hello.timing == "wall"


def test_whoever_wants_a_board_that_counts_does_not_get_this_one(bench: Bench) -> None:
    counting = dataclasses.replace(bench.running.board, timing=Timing.ICOUNT)
    with pytest.raises(ConfigError, match="runs already, with timing wall; the lab file says timing icount"):
        start(counting, directory=bench.running.layout.root)
    joined = start(bench.running.board, directory=bench.running.layout.root)
    assert (joined.owned, joined.endpoint) == (False, bench.running.endpoint)


def test_its_sensors_say_what_the_host_writes(bench: Bench) -> None:
    bench.running.sensors.set_temperature(65.5)
    bench.running.sensors.set_throttled(0x50005)
    said = bench.shell("cat /sys/class/thermal/thermal_zone0/temp; vcgencmd measure_temp; vcgencmd get_throttled")
    assert said.splitlines() == ["65575", "temp=65.5'C", "throttled=0x50005"]
    bench.running.sensors.set_throttled(0)
    bench.running.sensors.set_temperature(45.0)


def test_it_reaches_neither_this_host_nor_a_name_server_nor_anybody_else(bench: Bench) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert bench.shell(f"python3 -c '{LOOKS_FOR_A_WAY_OUT.format(port=port)}'") == "looked\n"
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_same_bundles_agree_with_this_host_and_evidence_says_emulated(
    bench: Bench, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.leave()
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(bench.state))
    (tmp_path / "lab.yaml").write_text(bench.lab_file())
    (tmp_path / "test_gate.py").write_text(SUITE)
    names = ("fp32", "int8", "int8-dynamic", "per-tensor-int8", "mlp-int8", "mlp-per-tensor-int8")
    recipes = [f"suites/models/digits/digits-{name}.yaml" for name in names]
    edgehil(repository, "build", "--out", str(tmp_path / "artifacts"), *recipes)
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--edgehil-lab", str(tmp_path / "lab.yaml")]
    argv += ["--edgehil-artifacts", str(tmp_path / "artifacts"), f"--edgehil-report={tmp_path / 'report'}"]
    argv += ["--edgehil-policy", "farm/policy-hardware.yaml", str(tmp_path / "test_gate.py"), "suites/parity"]
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
