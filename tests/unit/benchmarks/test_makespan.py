"""The makespan of the real scheduler in the simulation, in a short form: deterministic, so nothing here can flake."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest

AREA = Path(__file__).parents[3] / "benchmarks/scheduler"


@pytest.fixture(scope="module")
def area():
    before = list(sys.path)
    sys.path.insert(0, str(AREA))
    yield importlib.import_module("workloads"), importlib.import_module("simulation")
    sys.path[:] = before
    for name in ("workloads", "simulation"):
        sys.modules.pop(name, None)


def ratio(area, workload) -> float:
    """Makespan / lower bound; every test ran once, and on a board that is fit for it."""
    outcome = area[1].simulate(workload, "affine")
    assert set(outcome.ran) <= {1}
    assert outcome.misplaced == 0
    return outcome.makespan_s / outcome.bound_s(workload)


@pytest.mark.parametrize("shuffled", [False, True], ids=["grouped", "shuffled"])
@pytest.mark.parametrize("row", [(8, 1000, 10, 4), (32, 1000, 10, 8), (32, 2000, 50, 0)])
def test_the_rows_of_the_table_are_kept(area, row, shuffled):
    workloads, _ = area
    made = {**dict(zip(("boards", "tests", "combos", "soaks"), row, strict=True)), "shuffled": shuffled}
    plain = workloads.drawn(**made)
    known = workloads.known(plain, sigma=0.25)
    assert ratio(area, known) <= 1.05
    assert ratio(area, plain) <= 1.2
    assert ratio(area, workloads.known(plain, sigma=1.0)) <= 1.16
    assert ratio(area, workloads.known(workloads.drawn(**made, classes=2), sigma=0.25)) <= 1.1
    assert ratio(area, workloads.dying(known, part=0.1)) <= 1.13


def test_it_is_faster_than_any_scheduler_of_xdist_s(area):
    workloads, simulation = area
    plain = workloads.drawn(boards=8, tests=400, combos=10, soaks=2, shuffled=True)
    ours = simulation.simulate(workloads.known(plain, sigma=0.25), "affine")
    for peer in ("load", "worksteal", "loadgroup"):
        theirs = simulation.simulate(plain, peer)
        assert set(theirs.ran) == {1}, peer
        assert ours.makespan_s < 0.9 * theirs.makespan_s, peer


def test_no_test_starves(area):
    """Whatever its lane, every test begins before the least possible time of the whole run is over."""
    workloads, simulation = area
    plain = workloads.drawn(boards=16, tests=800, combos=20, soaks=2, classes=2)
    outcome = simulation.simulate(workloads.known(plain, sigma=0.25), "affine")
    assert max(outcome.began_s) <= plain.bound_s


def case(area, name, boards, tests, **more):
    workloads, _ = area
    made = [
        workloads.Test(nodeid=f"t.py::t{at}@{combo}", combo=combo, took_s=took_s, need=need, family=f"f{at}")
        for at, (combo, took_s, need) in enumerate(tests)
    ]
    return workloads.known(workloads.of(name, boards, made, **more), sigma=0.25)


def test_other_suites_come_near_the_bound_as_well(area):
    draw = random.Random(7)
    took = [20.0 * draw.lognormvariate(0.0, 1.0) for _ in range(1200)]
    pareto = [10.0 * draw.paretovariate(1.5) for _ in range(1200)]
    cases = [
        (1.05, case(area, "heavy tail", "a" * 16, [(f"c{at % 10}", one, "any") for at, one in enumerate(pareto)])),
        (1.05, case(area, "one combo", "a" * 16, [("c", one, "any") for one in took])),
        (
            1.10,
            case(
                area,
                "one giant",
                "a" * 16,
                [("g" if at > 80 else f"c{at % 20}", one, "any") for at, one in enumerate(took)],
            ),
        ),
        (1.05, case(area, "tiny combos", "a" * 16, [(f"c{at // 2}", one, "any") for at, one in enumerate(took)])),
        (
            1.05,
            case(area, "boards galore", "a" * 200, [(f"c{at % 10}", one, "any") for at, one in enumerate(took[:60])]),
        ),
        (
            1.25,
            case(
                area,
                "nobody fits",
                "a" * 16,
                [(f"c{at % 10}", one, "any" if at % 2 else "z") for at, one in enumerate(took)],
            ),
        ),
        (
            1.15,
            case(
                area,
                "scarce",
                "bb" + "a" * 14,
                [(f"c{at % 10}", one, "any" if at % 8 else "b") for at, one in enumerate(took)],
            ),
        ),
        (
            1.05,
            case(
                area,
                "hosts",
                "a" * 16,
                [(f"c{at % 5}", one, "any") if at % 2 else ("", one, "none") for at, one in enumerate(took)],
            ),
        ),
        (
            1.10,
            case(
                area,
                "dear flash",
                "a" * 8,
                [(f"c{at % 20}", one, "any") for at, one in enumerate(took[:600])],
                flash_s=300.0,
            ),
        ),
        (1.00, case(area, "one test", "a" * 4, [("c", 5.0, "any")])),
    ]
    told = {workload.name: (ratio(area, workload), most) for most, workload in cases}
    assert {name: found for name, found in told.items() if found[0] > found[1] + 1e-9} == {}
