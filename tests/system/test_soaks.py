"""Soaks of a real model on virtual boards whose links drop, stall and stay away, and whose memory runs out."""

from __future__ import annotations

import re

import pytest
from support.farm import Farm

from pytest_edgehil.evidence.raw import read_sample

SUITE = """
    import numpy as np
    import pytest
    from pathlib import Path
    from pytest_edgehil.model import Fault

    X = {"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}
    HIT = Path(__file__).with_name("hit")
    pytestmark = pytest.mark.combo(model="digits")

    @pytest.mark.soak("8 s")
    def test_goes_on(dut, board):
        dut.run(X)
        board.virtual.inject(Fault(kind="link-cut", after_s=2.0, options={"down_s": 1.0}))
        board.virtual.inject(Fault(kind="link-stall", after_s=6.0))

    @pytest.mark.soak("1 h")
    def test_runs_out_of_memory(dut, board):
        dut.run(X)
        board.virtual.inject(Fault(kind="out-of-memory", after_s=1.5))

    @pytest.mark.soak("6 s")
    def test_stays_away(dut, board):
        dut.run(X)
        if not HIT.exists():
            HIT.write_text(board.id)
            board.virtual.inject(Fault(kind="link-cut", after_s=1.0, options={"down_s": 3600.0}))
"""


@pytest.mark.timeout(450)
def test_a_soak_survives_its_link_and_nothing_else(farm: Farm):
    farm.pytester.makepyfile(SUITE)
    result = farm.run("--edgehil-reconnect=4 s", "-rA")
    attempts: dict[str, list[dict]] = {}
    for one in farm.results["tests"]:
        attempts.setdefault(one["nodeid"].rpartition("::test_")[2], []).append(one)

    # dropped and stalled: picked up, and nothing is lost or counted twice
    (record,) = attempts["goes_on"]
    assert record["status"] == "passed", record
    assert "the link was lost 2 times" in record["verdicts"][0]["reason"]
    sample = read_sample(farm.report / record["files"]["samples"])
    assert len(sample.link_drops) == 2
    assert sample.crashes_at_s == ()
    starts, ends = sample.starts_ns[1:], (sample.starts_ns + sample.latencies_ns)[1:]  # the first is the body's own
    assert (starts[1:] >= ends[:-1]).all()
    assert sample.duration_s >= 8.0
    for drop in sample.link_drops:  # the board went on meanwhile: without a link there would be a hole
        assert ((starts / 1e9 > drop.at_s) & (starts / 1e9 < drop.at_s + drop.lasted_s)).any(), drop

    # the kernel killed the model: a crash, with the kernel's word for it, on a board that is well
    (record,) = attempts["runs_out_of_memory"]
    assert record["status"] == "failed"
    assert "1 crash of the model's process" in record["message"]
    assert re.search(r"console shows: .*[Oo]ut of memory", record["message"]), record["message"]

    # a link that stays away: the board is put away, the test runs on another one
    first, second = attempts["stays_away"]
    assert (first["status"], first["requeued"], second["status"]) == ("infrastructure", True, "passed")
    hit = (farm.pytester.path / "hit").read_text()
    state = farm.board_states()[hit]
    assert state["state"] == "quarantined"
    assert "could not be reached again within 4 s" in state["reason"]
    result.assert_outcomes(passed=2, failed=1)
