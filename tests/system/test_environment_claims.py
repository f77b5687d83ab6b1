"""What the lab file claims of a board is not believed: a virtual board can never speak as hardware."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.farm import Farm, lab_text

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.virtual.farm import board_directory, start

SUITE = """
    import numpy as np
    import pytest

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_it(dut):
        dut.run({"image": np.ones((1, 4), dtype=np.float32)})
"""


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "n1"])
def test_a_virtual_board_that_the_lab_calls_hardware_is_refused_and_signs_nothing(farm: Farm, tmp_path: Path, workers):
    (tmp_path / "virtual.yaml").write_text(lab_text(name="disguise", boards=1))
    lab = load_lab(tmp_path / "virtual.yaml")
    farm.pytester.makepyfile(SUITE)
    with start(lab.boards[0], directory=board_directory(lab.state_dir, "b1")) as running:
        ssh = running.board.ssh
        assert ssh is not None
        access = {
            "host": ssh.host,
            "port": ssh.port,
            "user": ssh.user,
            "key": str(ssh.key_path),
            "host_key": ssh.host_key,
        }
        board = {
            "class": "pi5-8gb-hat2",
            "environment": "hardware",
            "ssh": access,
            "identity_key": str(running.board.identity_key),
        }
        farm.lab.write_text(json.dumps({"lab": "farm", "boards": {"rack-1": board}}))  # JSON is YAML
        result = farm.run(*workers)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*boards.rack-1.environment: the lab says hardware, but*say environment: virtual*"])
    assert not (farm.report / "evidence").exists()
    assert farm.results["tests"][0]["attestations"] == []
