"""Each verdict of each gate, through the whole stack on virtual boards with recorded models, alone and with workers."""

import pytest
from support.farm import Farm, replay_artifact

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
MIB = 2**20

FEEDS = """
    import numpy as np
    import pytest

    X = {"image": np.ones((1, 4), dtype=np.float32)}
"""


def suite(*tests: str) -> str:
    return FEEDS + "\n".join(tests)


def gate_test(name: str, *decorators: str, model: str = "steady", body: str = "dut.run(X)") -> str:
    marks = "".join(f"    @pytest.mark.{one}\n" for one in decorators)
    return f'\n    @pytest.mark.combo(model="{model}")\n{marks}    def test_{name}(dut):\n        {body}\n'


def verdicts(farm: Farm) -> dict[str, list[str]]:
    """Test name → its outcomes."""
    return {
        one["nodeid"].rpartition("::test_")[2]: [verdict["outcome"] for verdict in one["verdicts"]]
        for one in farm.results["tests"]
    }


@WORKERS
def test_every_verdict_of_every_gate(farm: Farm, workers):
    replay_artifact(farm.artifacts, name="hot", temperature_c=tuple(60.0 + i for i in range(40)))
    replay_artifact(farm.artifacts, name="throttling", throttled=(0,) * 3 + (0x40004,) * 100, period_s=0.1)
    replay_artifact(farm.artifacts, name="edge", p95_ms=10.0)
    farm.pytester.makepyfile(
        suite(
            gate_test("p95_pass", 'p95_latency("12 ms")'),
            gate_test("p95_fail", 'p95_latency("12 ms")', model="slow"),
            gate_test("p95_inconclusive", 'p95_latency("10 ms", max_samples=60)', model="edge"),
            gate_test("p95_invalid", 'p95_latency("12 ms")', model="throttling"),
            gate_test("rss_pass", 'peak_rss("128 MiB")'),
            gate_test("rss_fail", 'peak_rss("64 MiB")'),
            gate_test("size_pass", 'size("1 MiB")'),
            gate_test("size_fail", 'size("1 kB")'),
            gate_test("cold_pass", 'cold_start("100 ms", starts=3)'),
            gate_test("cold_fail", 'cold_start("10 ms", starts=3)'),
            gate_test("thermal_fail", 'thermal(max="80 C", throttling=False)', 'soak("10 min")', model="hot"),
            gate_test(
                "thermal_throttling", 'thermal(max="80 C", throttling=False)', 'soak("2 min")', model="throttling"
            ),
        )
    )
    result = farm.run(*workers)
    assert result.ret == 1
    told = verdicts(farm)
    assert told["p95_pass"] == ["PASS"]
    assert told["p95_fail"] == ["FAIL"]
    assert told["p95_inconclusive"] == ["INCONCLUSIVE"]
    assert told["p95_invalid"] == ["INVALID"]
    assert told["rss_pass"] == ["PASS"]
    assert told["rss_fail"] == ["FAIL"]
    assert told["size_pass"] == ["PASS"]
    assert told["size_fail"] == ["FAIL"]
    assert told["cold_pass"] == ["PASS"]
    assert told["cold_fail"] == ["FAIL"]
    assert "FAIL" in told["thermal_fail"]
    assert "FAIL" in told["thermal_throttling"]


@WORKERS
def test_nothing_but_a_pass_passes(farm: Farm, workers):
    replay_artifact(farm.artifacts, name="edge", p95_ms=10.0)
    farm.pytester.makepyfile(
        suite(
            gate_test("passes", 'p95_latency("12 ms")'),
            gate_test("misses", 'p95_latency("12 ms")', model="slow"),
            gate_test("undecided", 'p95_latency("10 ms", max_samples=60)', model="edge"),
        )
    )
    result = farm.run("-v", *workers)
    result.assert_outcomes(passed=1, failed=2)
    for name, letters in (("undecided", "INCONCLUSIVE"), ("misses", "FAILED"), ("passes", "PASSED")):
        assert any(f"test_{name}" in line and letters in line for line in result.outlines)
    assert "Traceback" not in result.stdout.str()
    status = {one["nodeid"].rpartition("::")[2]: one["status"] for one in farm.results["tests"]}
    assert status == {"test_passes": "passed", "test_misses": "failed", "test_undecided": "inconclusive"}


@WORKERS
def test_the_summary_names_board_combo_gate_numbers_and_verdict(farm: Farm, workers):
    farm.pytester.makepyfile(suite(gate_test("misses", 'p95_latency("12 ms")', model="slow")))
    result = farm.run(*workers)
    text = result.stdout.str()
    for word in ("b1", "slow 1.0.0", "p95_latency", "12 ms", "FAIL"):
        assert word in text


def test_a_gate_without_anything_to_measure_is_no_pass(farm: Farm):
    farm.pytester.makepyfile(suite(gate_test("idle", 'p95_latency("12 ms")', body="assert dut is not None")))
    result = farm.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*fed*nothing*"])


def test_a_failed_assertion_is_a_failure_of_the_test_and_is_not_judged(farm: Farm):
    farm.pytester.makepyfile(
        suite(gate_test("wrong", 'p95_latency("12 ms")', body='assert dut.run(X)["logits"].sum() == 99'))
    )
    result = farm.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert*99*"])
    assert verdicts(farm)["wrong"] == []


def test_junit_carries_the_numbers(farm: Farm):
    farm.pytester.makepyfile(suite(gate_test("passes", 'p95_latency("12 ms")')))
    farm.run("--junitxml=junit.xml", "-o", "junit_family=xunit2")
    text = (farm.pytester.path / "junit.xml").read_text()
    for word in ("p95_latency", "PASS", "b1", "steady 1.0.0"):
        assert word in text


@WORKERS
def test_replayed_evidence_is_signed_and_says_that_it_was_replayed(farm: Farm, workers):
    farm.pytester.makepyfile(suite(gate_test("passes", 'p95_latency("12 ms")')))
    assert farm.run(*workers).ret == 0
    told = farm.edgehil("evidence", "verify", str(farm.report / "evidence"))
    assert "1 statement" in told.stdout
    assert "replay" in (told.stdout + (farm.report / "results.json").read_text())


def test_combos_can_be_parametrised(farm: Farm):
    farm.pytester.makepyfile(
        FEEDS
        + """
    @pytest.mark.parametrize("combo", ["steady", "slow"], indirect=True)
    @pytest.mark.p95_latency("12 ms")
    def test_it(dut):
        dut.run(X)
    """
    )
    farm.run().assert_outcomes(passed=1, failed=1)


def test_markers_of_classes_and_modules_count_and_the_closest_wins(farm: Farm):
    farm.pytester.makepyfile(
        FEEDS
        + """
    pytestmark = [pytest.mark.combo(model="slow"), pytest.mark.p95_latency("12 ms")]

    class TestRelaxed:
        pytestmark = pytest.mark.p95_latency("50 ms")

        def test_relaxed(self, dut):
            dut.run(X)

        @pytest.mark.combo(model="steady")
        def test_other_model(self, dut):
            dut.run(X)

    def test_strict(dut):
        dut.run(X)
    """
    )
    farm.run().assert_outcomes(passed=2, failed=1)
