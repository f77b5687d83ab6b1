"""Each fault in the middle of a test: the run ends, the model is not blamed, the board is quarantined with its reason,
the test runs on another board, and exit status and summary tell the truth. All of them with three workers and leases
in PostgreSQL; alone and with leases in a file one that comes while a model runs, one while it is sent, one in a boot.

Every fault has a test of its own, all of them in one pytest run; the tests below look at what came of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random

import pytest
from support.farm import Farm, onnx_artifact
from support.standing_farm import Ran, StandingFarm, run_once

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

PRELUDE = """
    import time
    import numpy as np
    import pytest
    from pathlib import Path
    from pytest_edgehil.model import Demand, Fault

    X = {"image": np.zeros((1, 1, 8, 8), dtype=np.float32)}

    def once(request, board, kind, **options):
        '''Break the first board that comes along, and only that one.'''
        try:
            with Path(__file__).with_name(f"{request.node.name}.hit").open("x") as file:
                file.write(board.id)
        except FileExistsError:
            return False
        board.virtual.inject(Fault(kind=kind, **options))
        return True

    def test_bystander(rng):
        assert rng.random() < 1
"""

MEASURE = """
        dut = request.getfixturevalue("dut")
        dut.run(X)
        if once(request, board, KIND):
            end = time.monotonic() + 150
            while time.monotonic() < end:
                dut.run(X)
"""
OVERHEAT = """
        dut = request.getfixturevalue("dut")
        dut.run(X)
        if once(request, board, KIND):
            end = time.monotonic() + 150
            while time.monotonic() < end:
                dut.measure_more(Demand(seconds=0.2))
"""
# the board may have served a test before: then it has a link that goes on, and a login prompt in its log
FLASH = """
        if once(request, board, KIND):
            board.forget_link()
        dut = request.getfixturevalue("dut")
        dut.run(X)
"""
BOOT = """
        board.console.wait_for(r"login:", timeout_s=120, since=0)  # which greets who opens it, a moment later
        since = board.console.position
        if once(request, board, KIND):
            board.forget_link()
            board.power.cycle()
            board.console.wait_for(r"login:", timeout_s=15, since=since)
        dut = request.getfixturevalue("dut")
        dut.run(X)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A fault, when it comes (`body`), and a word of the reason that must be given."""

    fault: str
    body: str
    reason: str


CASES = {
    "link_cut": Case("'link-cut', after_bytes=2000", MEASURE, r"link|connection"),
    "link_stall": Case("'link-stall'", MEASURE, r"link|answer|stall|silent|deadline|within"),
    "power_cut": Case("'power-cut', after_bytes=2000", MEASURE, r"link|power|connection|reboot"),
    "panic": Case("'panic'", MEASURE, r"panic"),
    "out_of_memory": Case("'out-of-memory'", MEASURE, r"[Mm]emory"),
    "overheat": Case("'overheat'", OVERHEAT, r"°C|heat|temperature"),
    "ssh_refused": Case("'ssh-refused'", FLASH, r"refused|connect"),
    "disk_full": Case("'disk-full'", FLASH, r"space|disk|full"),
    "link_cut_while_flashing": Case("'link-cut', after_bytes=100000", FLASH, r"link|connection"),
    "power_cut_while_flashing": Case("'power-cut', after_bytes=100000", FLASH, r"link|power|connection"),
    "stuck_boot": Case("'stuck-boot'", BOOT, r"login"),
}


def victim(name: str, case: Case) -> str:
    body = case.body.replace("KIND", case.fault)
    return f"\n    @pytest.mark.combo(model={name!r})\n    def test_{name}(request, board):{body}"


ALONE = ("panic", "link_cut_while_flashing", "stuck_boot")
RUNS = {"alone with SQLite": ((), ALONE), "n3 with PostgreSQL": (("-n3",), tuple(CASES))}
"""Arguments of a run, and the faults in it."""
NEEDS = {"n3 with PostgreSQL": pytest.mark.needs("postgres")}


def prepare(farm: StandingFarm, names: tuple[str, ...]) -> None:
    farm.boards(len(names) + 2)
    for seed, name in enumerate(names):
        ballast = farm.path / f"{name}.bin"
        ballast.write_bytes(Random(seed).randbytes(300_000))
        onnx_artifact(farm.artifacts, name=name, ballast=ballast)  # there is something to send, whoever was here before
    farm.suite(PRELUDE + "".join(victim(name, CASES[name]) for name in names))


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    workers, names = RUNS[request.param]
    return run_once(
        tmp_path_factory,
        f"faults{''.join(workers)}",
        lambda farm: prepare(farm, names),
        "-rA",
        *workers,
        postgres=bool(workers),
    )


@pytest.mark.timeout(900)  # the first one waits for all of them
@pytest.mark.parametrize(
    ("ran", "name"),
    [
        pytest.param(run, name, id=f"{run}-{name}", marks=NEEDS.get(run, ()))
        for run, (_, names) in RUNS.items()
        for name in names
    ],
    indirect=["ran"],
)
def test_a_fault_costs_a_board_not_a_verdict(ran: Ran, name: str):
    hit = (ran.farm.path / f"test_{name}.hit").read_text()
    first, second = ran.attempts[f"test_{name}"]
    assert (first["status"], second["status"]) == ("infrastructure", "passed"), first["message"]
    assert first["requeued"]
    assert first["board"] is None or first["board"]["id"] == hit
    assert second["board"]["id"] != hit

    state = ran.states[hit]
    assert state["state"] == "quarantined"
    assert re.search(CASES[name].reason, state["reason"]), state["reason"]
    summary = ran.result.stdout.str()
    assert "quarantined" in summary.lower()
    assert re.search(rf"\b{hit}\b", summary)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("ran", [pytest.param(run, marks=NEEDS.get(run, ())) for run in RUNS], indirect=True)
def test_faults_cost_nothing_else(ran: Ran):
    faults = len(ran.states) - 2
    assert faults in {len(ALONE), len(CASES)}
    ran.result.assert_outcomes(passed=faults + 1)
    assert ran.result.ret == 0
    assert sum(one["state"] == "quarantined" for one in ran.states.values()) == faults
    assert {one["state"] for one in ran.states.values()} == {"quarantined", "free"}


ONE = (
    PRELUDE
    + """
    @pytest.mark.combo(model="digits")
    def test_victim(dut):
        dut.run(X)
"""
)


@WORKERS
@pytest.mark.timeout(450)
def test_when_no_board_is_left_it_is_an_infrastructure_error_and_no_failure_of_the_model(farm: Farm, workers):
    farm.boards(1, faults=[{"kind": "link-cut", "after_bytes": 150_000}])
    farm.pytester.makepyfile(ONE)
    result = farm.run(*(("-n1",) if workers else ()))
    result.assert_outcomes(passed=1, errors=1)
    assert result.ret == 1
    (attempt,) = [one for one in farm.results["tests"] if "test_victim" in one["nodeid"]]
    assert attempt["status"] == "infrastructure"
    assert farm.board_states()["b1"]["state"] == "quarantined"


def test_a_slow_link_is_slow_and_nothing_else(farm: Farm):
    farm.boards(1, faults=[{"kind": "slow-link", "options": {"rate_bytes_per_s": 600_000}}])
    farm.pytester.makepyfile(ONE)
    result = farm.run()
    result.assert_outcomes(passed=2)
    assert farm.board_states()["b1"]["state"] == "free"
