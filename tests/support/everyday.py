"""An everyday run that several files look at: gates that pass and one that fails, plots, Allure, an α of the suite.

One run for all of them costs what one costs. Alone and with two workers.
"""

from __future__ import annotations

import pytest
from support.farm import replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

BOTH = pytest.mark.parametrize("everyday", [(), ("-n2",)], ids=["alone", "n2"], indirect=True)
"""For tests that look at both runs with the fixture ``everyday``."""
SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    steady = pytest.mark.combo(model="steady")

    @steady
    @pytest.mark.p95_latency("12 ms")
    def test_fast(dut):
        dut.run(X)

    @pytest.mark.combo(model="slow")
    @pytest.mark.p95_latency("12 ms")
    def test_slow(dut):
        dut.run(X)

    @steady
    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.quantile_latency(0.9, "12 ms")
    @pytest.mark.size("1 MiB")
    def test_shared(dut):
        dut.run(X)

    @steady
    @pytest.mark.p95_latency("12 ms", alpha=0.01)
    @pytest.mark.peak_rss("128 MiB")
    def test_own(dut):
        dut.run(X)

    def test_without_a_board():
        pass
"""
ARGUMENTS = ("--edgehil-plots=svg", "--alluredir=allure", "--edgehil-suite-alpha=0.08")


def everyday_run(factory: pytest.TempPathFactory, workers: tuple[str, ...]) -> Ran:
    """The run, for every test that looks at it."""

    def prepare(farm: StandingFarm) -> None:
        farm.boards(2)
        replay_artifact(farm.artifacts, name="steady")
        replay_artifact(farm.artifacts, name="slow", p95_ms=30.0)
        farm.suite(SUITE)

    return run_once(factory, f"everyday{''.join(workers)}", prepare, *ARGUMENTS, *workers)
