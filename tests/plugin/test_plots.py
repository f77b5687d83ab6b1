"""Plots through the whole stack: in the report directory, in results.json and among Allure's attachments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.farm import Farm

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_fast(dut):
        dut.run(X)

    @pytest.mark.combo(model="slow")
    @pytest.mark.p95_latency("12 ms")
    def test_slow(dut):
        dut.run(X)
"""
EXPECTED = {"plot p95_latency distribution", "plot p95_latency evidence"}


def results_of(directory: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(one.read_bytes()) for one in directory.glob("*-result.json")]
    return {one["name"]: one for one in found}


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_plots_go_into_the_report_and_into_allure(farm: Farm, workers):
    pytest.importorskip("matplotlib")
    farm.pytester.makepyfile(SUITE)
    allure = farm.pytester.path / "allure"
    result = farm.run("--edgehil-plots=svg", f"--alluredir={allure}", *workers)
    result.stdout.fnmatch_lines(["plots (4): *"])
    for test in farm.results["tests"]:
        plots = {purpose: path for purpose, path in test["files"].items() if purpose.startswith("plot ")}
        assert set(plots) == EXPECTED
        outcome = test["verdicts"][0]["outcome"]
        for path in plots.values():
            assert f"<title>{outcome} p95_latency" in (farm.report / path).read_text()
        name = test["nodeid"].rpartition("::")[2]
        attached = {one["name"]: one for one in results_of(allure)[name]["attachments"]}
        for purpose, path in plots.items():
            assert attached[purpose]["type"] == "image/svg+xml"
            assert (allure / attached[purpose]["source"]).read_bytes() == (farm.report / path).read_bytes()
        assert next(iter(attached)) in EXPECTED, "what a reviewer looks at comes first"


def test_without_matplotlib_nothing_fails_and_one_line_says_what_to_install(farm: Farm):
    farm.pytester.makepyfile(SUITE)
    farm.pytester.makeconftest(
        """
        import importlib.util

        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
        """
    )
    allure = farm.pytester.path / "allure"
    result = farm.run("--edgehil-plots=svg", f"--alluredir={allure}")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["note: no plots: matplotlib is not installed; run: pip install 'pytest-edgehil*plots*'"]
    )
    assert not (farm.report / "plots").exists()
    for one in results_of(allure).values():
        assert all((allure / attached["source"]).is_file() for attached in one["attachments"])


def test_allure_alone_gets_its_plots_too(farm: Farm):
    pytest.importorskip("matplotlib")
    farm.pytester.makepyfile(SUITE)
    allure = farm.pytester.path / "allure"
    result = farm.pytester.runpytest_subprocess(
        f"--edgehil-lab={farm.lab}", f"--edgehil-artifacts={farm.artifacts}", f"--alluredir={allure}", "-k", "fast",
        "--edgehil-plots=png",
    )  # fmt: skip
    result.assert_outcomes(passed=1, deselected=1)
    attached = {one["name"]: one for one in results_of(allure)["test_fast"]["attachments"]}
    assert set(attached) >= EXPECTED
    for name in EXPECTED:
        assert attached[name]["type"] == "image/png"
        assert (allure / attached[name]["source"]).read_bytes().startswith(b"\x89PNG")
