"""One error rate over the suite: split alike in every process, said in every report, and enforced at collection."""

from __future__ import annotations

import pytest
from support.everyday import BOTH
from support.farm import Farm
from support.standing_farm import Ran

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    pytestmark = pytest.mark.combo(model="steady")

    @pytest.mark.p95_latency("12 ms")
    @pytest.mark.quantile_latency(0.9, "12 ms")
    @pytest.mark.size("1 MiB")
    def test_shared(dut):
        dut.run(X)

    @pytest.mark.p95_latency("12 ms", alpha=0.01)
    def test_own(dut):
        raise AssertionError("is not selected")

    @pytest.mark.p95_latency("12 ms")
    def test_one_more(dut):
        dut.run(X)
"""


def alphas(farm: Farm) -> dict[str, list[float]]:
    """Test → the error rates that its gates were applied with."""
    return {
        one["nodeid"].rpartition("::test_")[2]: sorted(
            gate["arguments"]["alpha"] for gate in one["gates"] if "alpha" in gate["arguments"]
        )
        for one in farm.results["tests"]
    }


@BOTH
def test_the_suites_rate_is_split_over_the_statements_of_the_selected_tests(everyday: Ran):
    farm = everyday.farm
    told = (
        "α = 0.08 over the suite, split over the 4 statements of the 4 selected tests: 0.02 each; with an α of its "
        "own: p95_latency of test_suite.py::test_own with 0.01: the chance that at least one verdict is wrong is up "
        "to 9%"
    )
    assert alphas(farm) == {"fast": [0.02], "slow": [0.02], "shared": [0.02, 0.02], "own": [0.01]}
    run = farm.results["run"]
    assert (run["suite_alpha"], run["statements"], run["alpha"]) == (0.08, 4, 0.02)
    assert run["error_rate_at_most"] == pytest.approx(0.09)
    assert run["error_rate"] == told
    assert told in " ".join(" ".join(everyday.result.outlines).split())
    assert "split over the 4 statements" in (farm.report / "summary.md").read_text()
    environment = (farm.path / "allure/environment.properties").read_text()
    assert "split\\u0020over" in environment or "split over the 4 statements" in environment


def test_without_one_the_summary_says_what_many_gates_amount_to_and_k_counts_what_is_selected(farm: Farm):
    farm.pytester.makepyfile(SUITE)
    told = " ".join(" ".join(farm.run("-k", "not own").outlines).split())
    assert (
        "α = 0.05 a gate, 3 gates in the 2 selected tests: the chance that at least one verdict is wrong is up to 15%"
        in told
    )
    assert alphas(farm) == {"shared": [0.05, 0.05], "one_more": [0.05]}
    farm.pytester.makeini("[pytest]\nedgehil_suite_alpha = 0.04\n")
    assert farm.run("-k", "not own and not shared").ret == 0
    assert alphas(farm) == {"one_more": [0.04]}, "the only statement has it all"


@WORKERS
def test_a_soak_that_is_too_short_for_its_share_is_a_collection_error(pytester: pytest.Pytester, workers):
    pytester.makepyfile(
        """
        import pytest

        # without a crash, 50 min show a rate of 1 % at α = 0.05, and not at less
        @pytest.mark.soak("50 min", crash_rate=0.01)
        def test_soak(dut):
            pass

        @pytest.mark.p95_latency("1 ms")
        def test_other(dut):
            pass

        @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.p95_latency("12 parsecs"))])
        def test_marked_late(dut, x):
            pass
        """
    )
    result = pytester.runpytest_subprocess("--edgehil-suite-alpha=0.05", *workers)
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    assert result.ret not in {0, 5}
    result.stdout.fnmatch_lines(
        [
            (
                "*test_*.py:4: test_soak: soak: a crash rate of 0.01 per 10 s needs a soak of at least 1.022 h *"
                "it is declared to last 50 min (with α = 0.025, its share of the suite's)"
            ),
        ]
    )
    result.stdout.fnmatch_lines(["*test_marked_late*: p95_latency: *12 parsecs*"])
    assert output.count("its share of the suite's") < 4
    assert "2 errors" in output
    if not workers:
        alone = pytester.runpytest_subprocess("-k", "test_soak", "--edgehil-suite-alpha=0.05")
        alone.assert_outcomes(skipped=1, deselected=2)


@pytest.mark.parametrize("value", ["five", "0", "0.5", "nan", "-1"])
def test_what_is_no_error_rate_is_refused(pytester: pytest.Pytester, value):
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess(f"--edgehil-suite-alpha={value}", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "--edgehil-suite-alpha: " in result.stderr.str()
