"""Plots through the whole stack: in the report directory, in results.json and among Allure's attachments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.everyday import BOTH
from support.farm import Farm
from support.standing_farm import Ran

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_fast(dut):
        dut.run(X)
"""
EXPECTED = {"plot p95_latency distribution", "plot p95_latency evidence"}


def results_of(directory: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(one.read_bytes()) for one in directory.glob("*-result.json")]
    return {one["name"]: one for one in found}


@BOTH
def test_plots_go_into_the_report_and_into_allure(everyday: Ran):
    pytest.importorskip("matplotlib")
    farm, allure = everyday.farm, everyday.farm.path / "allure"
    tests = [one for one in farm.results["tests"] if one["gates"]]
    files = [path for test in tests for purpose, path in test["files"].items() if purpose.startswith("plot ")]
    everyday.result.stdout.fnmatch_lines([f"plots ({len(files)}): *"])
    for test in tests:
        name = test["nodeid"].rpartition("::")[2]
        plots = {purpose: path for purpose, path in test["files"].items() if purpose.startswith("plot ")}
        assert set(plots) == EXPECTED or (name == "test_shared" and set(plots) > EXPECTED)
        outcome = test["verdicts"][0]["outcome"]
        for path in (plots[purpose] for purpose in EXPECTED):
            assert f"<title>{outcome} p95_latency" in (farm.report / path).read_text()
        attached = {one["name"]: one for one in results_of(allure)[name]["attachments"]}
        for purpose, path in plots.items():
            assert attached[purpose]["type"] == "image/svg+xml"
            assert (allure / attached[purpose]["source"]).read_bytes() == (farm.report / path).read_bytes()
        assert next(iter(attached)) in plots, "what a reviewer looks at comes first"


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
    result.assert_outcomes(passed=1)
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
        f"--edgehil-lab={farm.lab}", f"--edgehil-artifacts={farm.artifacts}", f"--alluredir={allure}",
        "--edgehil-plots=png",
    )  # fmt: skip
    result.assert_outcomes(passed=1)
    attached = {one["name"]: one for one in results_of(allure)["test_fast"]["attachments"]}
    assert set(attached) >= EXPECTED
    for name in EXPECTED:
        assert attached[name]["type"] == "image/png"
        assert (allure / attached[name]["source"]).read_bytes().startswith(b"\x89PNG")
