"""Each verdict of each gate, through the whole stack on virtual boards with recorded models, alone and with workers.

All of it in one run each; the tests look at what came of it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from support.farm import MS, latencies, replay_artifact
from support.standing_farm import Ran, StandingFarm, run_once

from pytest_edgehil.artifacts.replay import TensorShape
from pytest_edgehil.gates.golden import Golden, from_bytes, to_bytes

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


def against(baseline: str) -> str:
    return f'p95_latency(baseline="{baseline}", ratio=1.1, pairs=6)'


def golden(ratio: float, *, across: str = "('board_class', 'firmware')", **changes: object) -> str:
    more = "".join(f", {name}={value!r}" for name, value in changes.items())
    return f'p95_latency(golden="goldens/steady.json", ratio={ratio}, across={across}, session_spread=0.01{more})'


GATES = suite(
    gate_test("golden_pass", golden(1.1)),
    gate_test("golden_fail", golden(1.1), model="slow"),
    gate_test("golden_inconclusive", golden(1.0)),
    gate_test("golden_invalid", golden(1.1), model="throttling"),
    gate_test("golden_refused", golden(1.1, across="('firmware',)")),
    gate_test("against_pass", against("slow")),
    gate_test("against_fail", against("steady"), model="slow"),
    gate_test("against_inconclusive", against("steady"), model="tenth-more"),
    gate_test("against_invalid", against("throttling")),
    gate_test("against_unknown", against("staedy")),
    gate_test("against_other_inputs", against("wide")),
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
    gate_test("thermal_throttling", 'thermal(max="80 C", throttling=False)', 'soak("2 min")', model="throttling"),
    gate_test("rss_unknown", 'peak_rss("128 MiB", of="model")'),
    gate_test("soak_pass", 'soak("2 min")'),
    gate_test("soak_invalid", 'soak("2 min")', model="massless"),
    gate_test("soak_drift_pass", 'soak("2 min", drift="10 %")'),
    gate_test("soak_drift_fail", 'soak("2 min", drift="10 %")', model="slowing"),
    gate_test("soak_drift_inconclusive", 'soak("2 min", drift="10 %", drift_of="p95")', model="rare"),
    gate_test("soak_crash_pass", 'soak("10 min", crash_rate=0.3)', model="crashing"),
    gate_test("soak_crash_fail", 'soak("10 min")', model="crashing"),
    gate_test("soak_crash_inconclusive", 'soak("10 min", crash_rate=0.1)', model="crashing"),
    gate_test("soak_leak_pass", 'soak("35 min", leak="5 MiB/h")', model="rare"),
    gate_test("soak_leak_fail", 'soak("35 min", leak="5 MiB/h", full=True)', model="leaking"),
    gate_test("idle", 'p95_latency("12 ms")', body="assert dut is not None"),
    gate_test("wrong", 'p95_latency("12 ms")', body='assert dut.run(X)["logits"].sum() == 99'),
)
BODIES = {"X": "dut.run(X)", "tokens": "dut.generate(np.array([[1, 2, 3]]), max_new_tokens=9)"}
RATES_AND_METERS = [  # name, marker, model, body, outcome
    ("rate", 'p95_latency("12 ms", rate="20/s")', "metered", "X", "PASS"),
    ("rate", 'p95_latency("12 ms", rate="100/s")', "stalling", "X", "FAIL"),
    ("rate", 'p95_latency("1 h", rate="20/s", max_samples=60)', "sluggish", "X", "INCONCLUSIVE"),
    ("rate", 'p95_latency("12 ms", rate="20/s")', "metered-hot", "X", "INVALID"),
    ("throughput", 'throughput("80/s")', "metered", "X", "PASS"),
    ("throughput", 'throughput("200/s")', "metered", "X", "FAIL"),
    ("throughput", 'throughput("141.5/s", max_samples=100)', "metered", "X", "INCONCLUSIVE"),
    ("throughput", 'throughput("80/s")', "metered-hot", "X", "INVALID"),
    ("tokens", 'tokens_per_second("12/s")', "metered", "tokens", "PASS"),
    ("tokens", 'tokens_per_second("40/s")', "metered", "tokens", "FAIL"),
    ("tokens", 'tokens_per_second("22.7/s", max_samples=20)', "metered", "tokens", "INCONCLUSIVE"),
    ("tokens", 'tokens_per_second("12/s")', "metered-hot", "tokens", "INVALID"),
    ("first", 'time_to_first_token("300 ms")', "metered", "tokens", "PASS"),
    ("first", 'time_to_first_token("100 ms")', "metered", "tokens", "FAIL"),
    ("first", 'time_to_first_token("200 ms", max_samples=60)', "metered", "tokens", "INCONCLUSIVE"),
    ("first", 'time_to_first_token("300 ms")', "metered-hot", "tokens", "INVALID"),
    ("npu", "npu_utilisation(at_least=0.4, max=0.9)", "metered", "X", "PASS"),
    ("npu", "npu_utilisation(max=0.5)", "metered", "X", "FAIL"),
    ("npu", "npu_utilisation(at_least=0.1)", "steady", "X", "INCONCLUSIVE"),
    ("npu", "npu_utilisation(at_least=0.1)", "metered-hot", "X", "INVALID"),
    ("energy", 'energy("60 mJ")', "metered", "X", "PASS"),
    ("energy", 'energy("20 mJ")', "metered", "X", "FAIL"),
    ("energy", 'energy("60 mJ")', "steady", "X", "INCONCLUSIVE"),
    ("energy", 'energy("60 mJ")', "metered-hot", "X", "INVALID"),
]
RATES = suite(
    *(
        gate_test(f"{name}_{outcome}", marker, model=model, body=BODIES[body])
        for name, marker, model, body, outcome in RATES_AND_METERS
    )
)
HANGING = (
    FEEDS
    + """
    STOP = r'''
        for one in /proc/[0-9]*; do
            tr "\\0" "\\n" <$one/cmdline | tail -n 1 | grep -qx child || continue
            tr "\\0" "\\n" <$one/environ | grep -qxF "HOME=$HOME" && kill -STOP ${one#/proc/} && echo stopped
        done 2>/dev/null
        true
    '''

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_hanging(board, dut):
        dut.run(X)
        assert board.run("sh", "-c", STOP).stdout.count(b"stopped") == 1
        dut.run(X, timeout_s=6.0)  # the board goes on telling twice a second that it is alive
"""
)
PARAMETRISED = (
    FEEDS
    + """
    @pytest.mark.parametrize("combo", ["steady", "slow"], indirect=True)
    @pytest.mark.p95_latency("12 ms")
    def test_any(dut):
        dut.run(X)
"""
)
MODULE = (
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


GOLDEN = Golden(
    run="a run",
    test="t.py::t",
    measured_at=0.0,
    samples="sha256:0",
    board_id="b7",
    board_class="pi9",
    environment="virtual",
    serial="7",
    firmware=None,
    runtime="replay",
    runtime_version="1",
    artifact="steady 0.9.0 recorded",
    artifact_digest="sha256:1",
    latencies_ns=latencies(p95_ms=8.0, n=1000, seed=3),
)


def prepare(farm: StandingFarm) -> None:
    farm.boards(2)
    replay_artifact(farm.artifacts, name="steady")
    replay_artifact(farm.artifacts, name="slow", p95_ms=30.0)
    replay_artifact(farm.artifacts, name="hot", temperature_c=tuple(60.0 + i for i in range(40)))
    replay_artifact(farm.artifacts, name="throttling", throttled=(0,) * 3 + (0x40004,) * 100, period_s=0.1)
    replay_artifact(farm.artifacts, name="edge", p95_ms=10.0)
    replay_artifact(farm.artifacts, name="slowing", latencies_ns=tuple(range(30 * MS, 60 * MS, 10_000)))
    replay_artifact(farm.artifacts, name="rare", p95_ms=200.0)
    replay_artifact(farm.artifacts, name="crashing", p95_ms=50.0, crash_after_s=95.0)
    growing = tuple(100 * MIB + second * 20 * MIB // 3600 for second in range(2200))
    replay_artifact(farm.artifacts, name="leaking", p95_ms=200.0, rss_bytes=growing, peak_rss_bytes=growing[-1])
    replay_artifact(farm.artifacts, name="massless", rss_bytes=(0,))
    replay_artifact(farm.artifacts, name="tenth-more", latencies_ns=latencies(p95_ms=8.8, seed=2))
    replay_artifact(farm.artifacts, name="wide", inputs={"image": TensorShape(dtype="float32", shape=(1, 5))})
    meters = {
        "power_w": (4.9, 5.1, 5.0, 4.95, 5.05),
        "npu_percent": (58.0, 62.0, 60.0, 61.0, 59.5),
        "first_token_ns": latencies(p95_ms=200.0),
        "token_ns": latencies(p95_ms=50.0),
    }
    hot = (0,) * 3 + (0x40004,) * 100
    stalls = tuple(8 * MS + 500 * MS * (at % 250 == 100) + at * 7919 % 1000 for at in range(1000))
    replay_artifact(farm.artifacts, name="metered", **meters)
    replay_artifact(farm.artifacts, name="metered-hot", throttled=hot, period_s=0.1, **meters)
    replay_artifact(farm.artifacts, name="stalling", latencies_ns=stalls)
    replay_artifact(farm.artifacts, name="sluggish", p95_ms=60.0)
    (farm.path / "goldens").mkdir()
    (farm.path / "goldens/steady.json").write_bytes(to_bytes(GOLDEN))
    farm.suite(GATES, "test_gates.py")
    farm.suite(RATES, "test_rates.py")
    farm.suite(HANGING, "test_hanging.py")
    farm.suite(PARAMETRISED, "test_parametrised.py")
    farm.suite(MODULE, "test_module.py")


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    arguments = ("-v", "--edgehil-progress=1 ms", "--junitxml=junit.xml", "-o", "junit_family=xunit2", *request.param)
    return run_once(tmp_path_factory, f"gates{''.join(request.param)}", prepare, *arguments)


def verdicts(ran: Ran) -> dict[str, list[str]]:
    """Test name → its outcomes."""
    return {
        name.removeprefix("test_"): [verdict["outcome"] for verdict in one["verdicts"]]
        for name, (one,) in ran.attempts.items()
    }


def statuses(ran: Ran) -> dict[str, str]:
    return {name.removeprefix("test_"): one["status"] for name, (one,) in ran.attempts.items()}


def test_every_verdict_of_every_gate(ran: Ran):
    assert ran.result.ret == 1
    told = verdicts(ran)
    assert told["against_pass"] == ["PASS"]
    assert told["against_fail"] == ["FAIL"]
    assert told["against_inconclusive"] == ["INCONCLUSIVE"]
    assert told["against_invalid"] == ["INVALID"]
    assert told["golden_pass"] == ["PASS"]
    assert told["golden_fail"] == ["FAIL"]
    assert told["golden_inconclusive"] == ["INCONCLUSIVE"]
    assert told["golden_invalid"] == ["INVALID"]
    assert told["p95_pass"] == ["PASS"]
    assert told["p95_fail"] == ["FAIL"]
    assert told["p95_inconclusive"] == ["INCONCLUSIVE"]
    assert told["p95_invalid"] == ["INVALID"]
    assert told["rss_pass"] == ["PASS"]
    assert told["rss_fail"] == ["FAIL"]
    assert told["rss_unknown"] == ["INCONCLUSIVE"]
    for name in ("soak", "soak_drift", "soak_crash", "soak_leak"):
        for outcome in ("pass", "fail", "inconclusive"):
            assert told.get(f"{name}_{outcome}", [outcome.upper()]) == [outcome.upper()], (name, outcome)
    assert told["soak_invalid"] == ["INVALID"]
    assert told["size_pass"] == ["PASS"]
    assert told["size_fail"] == ["FAIL"]
    assert told["cold_pass"] == ["PASS"]
    assert told["cold_fail"] == ["FAIL"]
    assert "FAIL" in told["thermal_fail"]
    assert "FAIL" in told["thermal_throttling"]


def test_every_verdict_of_the_gates_on_rates_tokens_and_meters(ran: Ran):
    expected = {f"{name}_{outcome}": [outcome] for name, *_, outcome in RATES_AND_METERS}
    told = verdicts(ran)
    assert {name: told[name] for name in expected} == expected


def test_nothing_but_a_pass_passes(ran: Ran):
    passing = {name for name, outcomes in verdicts(ran).items() if outcomes and set(outcomes) == {"PASS"}}
    named = {"against_pass", "golden_pass", "p95_pass", "rss_pass", "size_pass", "cold_pass"}
    named |= {f"{name}_PASS" for name, *_, outcome in RATES_AND_METERS if outcome == "PASS"}
    named |= {"soak_pass", "soak_drift_pass", "soak_crash_pass", "soak_leak_pass"}
    assert passing == {*named, "any[steady]", "relaxed", "other_model"}
    told = statuses(ran)
    assert {name for name, status in told.items() if status == "passed"} == passing
    assert (told["p95_fail"], told["p95_inconclusive"]) == ("failed", "inconclusive")
    ran.result.assert_outcomes(passed=len(passing), failed=len(told) - len(passing) - 2, errors=2)
    for name, letters in (("p95_inconclusive", "INCONCLUSIVE"), ("p95_fail", "FAILED"), ("p95_pass", "PASSED")):
        assert any(f"test_{name}" in line and letters in line for line in ran.result.outlines)
    assert "Traceback" not in ran.result.stdout.str()


def test_a_soak_says_at_what_minute_it_was_decided_and_how_far_it_is_before(ran: Ran):
    reasons = {name: one["verdicts"][0]["reason"] for name, (one,) in ran.attempts.items() if "soak" in name}
    assert "a process that holds 0 bytes is none (decided at minute " in reasons["test_soak_invalid"]
    assert "decided at minute 1.58 of 10" in reasons["test_soak_crash_fail"]
    assert "the recording says" in reasons["test_soak_crash_fail"]
    assert "(certain at minute 30" in reasons["test_soak_leak_pass"]
    ran.result.stdout.re_match_lines_random(
        [r"edgehil: test_soak_leak_pass on b[12]: minute 12\S*: \d+ inferences, 50.0 °C, .*no crash; soak: .*so far.*"]
    )
    steps = [one for one in ran.attempts["test_soak_leak_pass"][0]["steps"] if one["name"] == "progress"]
    assert 1 <= len(steps) <= 31


def test_the_summary_names_board_combo_gate_numbers_and_verdict(ran: Ran):
    ran.result.stdout.re_match_lines([r"b[12] +slow 1\.0\.0 .*p95_latency .*ms +≤ 12 ms +FAIL"])


def test_a_gate_without_anything_to_measure_is_no_pass(ran: Ran):
    assert statuses(ran)["idle"] not in {"passed", "skipped"}
    ran.result.stdout.fnmatch_lines(["*fed*nothing*"])


def test_a_baseline_on_the_board_is_looked_up_before_a_board_is_reserved(ran: Ran):
    assert statuses(ran)["against_unknown"] == "error"
    ran.result.stdout.fnmatch_lines(["*no model artifact answers to 'staedy'*did you mean steady*"])
    assert "reserve" not in {one["name"] for one in ran.attempts["test_against_unknown"][0]["steps"]}


def test_a_golden_of_another_kind_of_board_is_refused_before_anything_is_measured(ran: Ran):
    assert statuses(ran)["golden_refused"] == "error"
    ran.result.stdout.fnmatch_lines(["*goldens/steady.json was measured with board_class pi9, board b? has pi5-*"])
    assert "measure" not in {one["name"] for one in ran.attempts["test_golden_refused"][0]["steps"]}


def test_what_a_test_measured_can_be_stored_as_a_golden(ran: Ran):
    (record,) = ran.attempts["test_golden_pass"]
    asked = ("golden", "store", str(ran.farm.report), "--test", record["nodeid"], "--out", "new.json", "--force")
    assert "steady 1.0.0" in ran.farm.edgehil(*asked).stdout
    stored = from_bytes((ran.farm.path / "new.json").read_bytes(), what="new.json")
    assert (stored.board_class, stored.backend) == (record["board"]["cls"], record["board"]["runtime"])
    assert len(stored.latencies_ns) == 1000


def test_a_baseline_that_takes_other_inputs_is_named(ran: Ran):
    assert statuses(ran)["against_other_inputs"] == "error"
    ran.result.stdout.fnmatch_lines(["*the baseline takes *must take what the test feeds the model*"])


def test_a_failed_assertion_is_a_failure_of_the_test_and_is_not_judged(ran: Ran):
    assert statuses(ran)["wrong"] == "failed"
    ran.result.stdout.fnmatch_lines(["*assert*99*"])
    assert verdicts(ran)["wrong"] == []


def test_a_model_that_hangs_on_a_board_that_is_alive_fails_and_is_not_tried_elsewhere(ran: Ran):
    assert statuses(ran)["hanging"] == "error"
    assert len(ran.attempts["test_hanging"]) == 1
    assert verdicts(ran)["hanging"] == []
    ran.result.stdout.fnmatch_lines(
        ["*b?: the model did not answer: run took longer than 6 s, while the board is alive*"]
    )


def test_junit_carries_the_numbers(ran: Ran):
    (case,) = [
        one for one in ET.parse(ran.farm.path / "junit.xml").iter("testcase") if one.get("name") == "test_p95_pass"
    ]
    text = ET.tostring(case, encoding="unicode")
    for word in ("p95_latency", "PASS", ran.attempts["test_p95_pass"][0]["board"]["id"], "steady 1.0.0"):
        assert word in text


def test_replayed_evidence_is_signed_and_says_that_it_was_replayed(ran: Ran):
    told = ran.farm.edgehil("evidence", "verify", str(ran.farm.report / "evidence"))
    judged = sum(bool(outcomes) for outcomes in verdicts(ran).values())
    assert f"{judged} statement" in told.stdout
    assert "replay" in (told.stdout + (ran.farm.report / "results.json").read_text())


def test_combos_can_be_parametrised(ran: Ran):
    assert (statuses(ran)["any[steady]"], statuses(ran)["any[slow]"]) == ("passed", "failed")


def test_markers_of_classes_and_modules_count_and_the_closest_wins(ran: Ran):
    told = statuses(ran)
    assert (told["relaxed"], told["other_model"], told["strict"]) == ("passed", "passed", "failed")
