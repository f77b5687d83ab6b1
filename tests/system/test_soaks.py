"""Soaks of a real model on virtual boards whose links drop, stall and stay away, and whose memory runs out.

Each fault comes between two reads of what the board has measured, however long either side takes to get there.
"""

from __future__ import annotations

import re

import pytest
from support.farm import Farm

from pytest_edgehil.evidence.raw import read_sample

PRELUDE = """
    from itertools import dropwhile
    from pathlib import Path

    import numpy as np
    import pytest

    from pytest_edgehil.board import wire
    from pytest_edgehil.board.onboard_client import OnboardClient
    from pytest_edgehil.model import Fault

    X = {"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}
    HIT = Path(__file__).with_name("hit")
    pytestmark = pytest.mark.combo(model="digits")

    UNDER_WAY = "samples were read, and a row of the sampler after them"

    @pytest.fixture
    def faults(board, monkeypatch):
        '''Happen to the board one after the other, each before the host reads on.'''
        coming, read, frames, kinds = [], OnboardClient.read_detached, wire.FrameBuffer(board.id), []

        def read_on(client, name, **asked):
            if coming and coming[0] is not UNDER_WAY:
                board.virtual.inject(coming.pop(0))
            piece = read(client, name, **asked)
            frames.feed(piece.data)
            while (frame := frames.next()) is not None:
                kinds.append(frame[0]["type"])
            if coming and coming[0] is UNDER_WAY and "readings" in dropwhile("samples".__ne__, kinds):
                coming.pop(0)
            return piece

        monkeypatch.setattr(OnboardClient, "read_detached", read_on)
        return coming
"""
SUITE = (
    PRELUDE
    + """
    @pytest.mark.soak("8 s")
    def test_goes_on(faults, dut):
        dut.run(X)
        faults += [UNDER_WAY, Fault(kind="link-cut", options={"down_s": 1.0}), Fault(kind="link-stall")]

    @pytest.mark.soak("1 h")
    def test_runs_out_of_memory(faults, dut):
        dut.run(X)
        faults += [UNDER_WAY, Fault(kind="out-of-memory")]
"""
)
AWAY = (
    PRELUDE
    + """
    @pytest.mark.soak("2 s")
    def test_stays_away(faults, dut, board):
        dut.run(X)
        if not HIT.exists():
            HIT.write_text(board.id)
            faults += [Fault(kind="link-cut", options={"down_s": 3600.0})]
"""
)


def attempts_of(farm: Farm) -> dict[str, list[dict]]:
    attempts: dict[str, list[dict]] = {}
    for one in farm.results["tests"]:
        attempts.setdefault(one["nodeid"].rpartition("::test_")[2], []).append(one)
    return attempts


@pytest.mark.timeout(450)
def test_a_soak_survives_its_link_and_nothing_else(farm: Farm):
    farm.pytester.makepyfile(SUITE)
    result = farm.run("-rA")
    attempts = attempts_of(farm)

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
    result.assert_outcomes(passed=1, failed=1)


@pytest.mark.timeout(450)
def test_a_link_that_stays_away_costs_the_board_and_the_test_runs_on_another_one(farm: Farm):
    farm.pytester.makepyfile(AWAY)
    result = farm.run("--edgehil-reconnect=1 s", "-rA")
    first, second = attempts_of(farm)["stays_away"]
    assert (first["status"], first["requeued"], second["status"]) == ("infrastructure", True, "passed")
    hit = (farm.pytester.path / "hit").read_text()
    state = farm.board_states()[hit]
    assert state["state"] == "quarantined"
    assert "could not be reached again within 1 s" in state["reason"]
    result.assert_outcomes(passed=1)
