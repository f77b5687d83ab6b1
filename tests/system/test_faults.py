"""Each fault in the middle of a test: the run ends, the model is not blamed, the board is quarantined with its reason,
the test runs on another board, and exit status and summary tell the truth. Alone and with two workers."""

from __future__ import annotations

import re

import pytest
from support.farm import Farm, onnx_artifact

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

SUITE = """
    import re
    import numpy as np
    import pytest
    from pathlib import Path
    from pytest_edgehil.model import Demand, Fault

    X = {"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}
    HIT = Path(__file__).with_name("hit")

    def once(board, *faults, **options):
        '''Break the first board that comes along, and only that one.'''
        try:
            with HIT.open("x") as file:
                file.write(board.id)
        except FileExistsError:
            return False
        for fault in faults:
            board.virtual.inject(Fault(kind=fault, **options))
        return True

    @pytest.mark.combo(model="digits")
    def test_victim(request, board):
        BODY

    def test_bystander(rng):
        assert rng.random() < 1
"""

MEASURE = """
        dut = request.getfixturevalue("dut")
        dut.run(X)
        once(board, "KIND", OPTIONS)
        for _ in range(400):
            dut.run(X)
"""
FLASH = """
        once(board, "KIND", OPTIONS)
        dut = request.getfixturevalue("dut")
        dut.run(X)
"""
BOOT = """
        if once(board, "KIND", OPTIONS):
            board.forget_link()
            board.power.cycle()
        board.console.wait_for(r"login:", timeout_s=15, since=0)
        dut = request.getfixturevalue("dut")
        dut.run(X)
"""

# fault, its options, the test's body, a word of the reason that must be given
CASES = [
    pytest.param(("link-cut", "after_bytes=2000", MEASURE, r"link|connection"), id="link-cut"),
    pytest.param(("link-stall", "", MEASURE, r"link|answer|stall|silent|deadline|within"), id="link-stall"),
    pytest.param(("power-cut", "after_bytes=2000", MEASURE, r"link|power|connection|reboot"), id="power-cut"),
    pytest.param(("panic", "", MEASURE, r"panic"), id="panic"),
    pytest.param(("out-of-memory", "", MEASURE, r"[Mm]emory"), id="out-of-memory"),
    pytest.param(("overheat", "", MEASURE + "            time_passes(dut)\n", r"°C|heat|temperature"), id="overheat"),
    pytest.param(("ssh-refused", "", FLASH, r"refused|connect"), id="ssh-refused"),
    pytest.param(("disk-full", "", FLASH, r"space|disk|full"), id="disk-full"),
    pytest.param(("link-cut", "after_bytes=100000", FLASH, r"link|connection"), id="link-cut-while-flashing"),
    pytest.param(("power-cut", "after_bytes=100000", FLASH, r"link|power|connection"), id="power-cut-while-flashing"),
    pytest.param(("stuck-boot", "", BOOT, r"login"), id="stuck-boot"),
]


@WORKERS
@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(240)
def test_a_fault_costs_a_board_not_a_verdict(farm: Farm, workers, case):
    kind, options, body, reason = case
    text = SUITE.replace("\n        BODY", body).replace("KIND", kind).replace("OPTIONS", options)
    text = text.replace("time_passes(dut)", "dut.measure_more(Demand(seconds=0.2))")
    farm.pytester.makepyfile(text)
    result = farm.run("-rA", *workers)

    result.assert_outcomes(passed=2)
    assert result.ret == 0
    hit = (farm.pytester.path / "hit").read_text()
    attempts = [one for one in farm.results["tests"] if "test_victim" in one["nodeid"]]
    assert [one["status"] for one in attempts] == ["infrastructure", "passed"]
    assert attempts[0]["requeued"]
    assert attempts[0]["board"] is None or attempts[0]["board"]["id"] == hit
    assert attempts[1]["board"]["id"] != hit

    state = farm.board_states()[hit]
    assert state["state"] == "quarantined"
    assert re.search(reason, state["reason"]), state["reason"]
    summary = result.stdout.str()
    assert "quarantined" in summary.lower()
    assert hit in summary


@WORKERS
@pytest.mark.timeout(240)
def test_when_no_board_is_left_it_is_an_infrastructure_error_and_no_failure_of_the_model(farm: Farm, workers):
    farm.boards(1, faults=[{"kind": "link-cut", "after_bytes": 150_000}])
    farm.pytester.makepyfile(
        SUITE.replace("\n        BODY", FLASH.replace('        once(board, "KIND", OPTIONS)\n', ""))
    )
    result = farm.run(*(("-n1",) if workers else ()))
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == 1
    (attempt,) = [one for one in farm.results["tests"] if "test_victim" in one["nodeid"]]
    assert attempt["status"] == "infrastructure"
    assert farm.board_states()["b1"]["state"] == "quarantined"


def test_a_slow_link_is_slow_and_nothing_else(farm: Farm):
    onnx_artifact(farm.artifacts)
    farm.boards(1, faults=[{"kind": "slow-link", "options": {"rate_bytes_per_s": 600_000}}])
    farm.pytester.makepyfile(
        SUITE.replace("\n        BODY", FLASH.replace('        once(board, "KIND", OPTIONS)\n', ""))
    )
    result = farm.run()
    result.assert_outcomes(passed=2)
    assert farm.board_states()["b1"]["state"] == "free"
