"""Running again goes on from the run before, through the whole stack: no FAIL becomes a PASS by another try."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.farm import Farm, replay_artifact
from support.records import BAD, FIRMWARE, GOOD, board
from support.stored_runs import gate, record_of, report, steady

from pytest_edgehil.errors import BoardError, EvidenceError, LeaseLost, UserError
from pytest_edgehil.gates.continued import evaluate
from pytest_edgehil.model import Combo, EarlierRun, Outcome, Requirement, Sample, Timing
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import GateUse, Status, TestRecord
from pytest_edgehil.plugin.attempt import Attempt
from pytest_edgehil.plugin.rerun import NOT_THERE, Reruns, difference, read_earlier
from pytest_edgehil.reporting import results

SUITE = """
    import numpy as np
    import pytest

    from pytest_edgehil.model import Fault

    X = {"image": np.ones((1, 4), dtype=np.float32)}
    pytestmark = [pytest.mark.combo(model="steady"), pytest.mark.board("pi5-8gb-*")]

    @pytest.mark.size("1 MiB")
    @pytest.mark.p95_latency("12 ms", max_samples=60)
    def test_undecided(dut):
        dut.run(X)

    @pytest.mark.p95_latency("12 ms")
    def test_lucky(dut):
        dut.run(X)
"""
BREAKS = """
    from pathlib import Path

    @pytest.fixture
    def breaks_at_the_end(request, board):
        yield
        if not (Path(__file__).parent / "broke").exists():
            (Path(__file__).parent / "broke").touch()
            board.virtual.inject(Fault(kind="panic"))
            board.power.off()
            board.run("true")

    @pytest.mark.p95_latency("12 ms", max_samples=60)
    def test_breaks_after_its_verdict(breaks_at_the_end, dut):
        dut.run(X)
"""


ON_ANOTHER_CLASS = """
    from pathlib import Path

    import pytest

    from pytest_edgehil.model import Fault

    HERE = Path(__file__).parent

    @pytest.fixture
    def breaks_at_the_end(board):
        yield
        if not (HERE / "broke").exists():
            (HERE / "broke").touch()
            board.virtual.inject(Fault(kind="panic"))
            board.power.off()
            board.run("true")

    @pytest.mark.combo(model="zero")
    @pytest.mark.accuracy(at_least=0.5)
    def test_fails_first(breaks_at_the_end, dut, heldout):
        dut.evaluate(heldout("right" if (HERE / "broke").exists() else "wrong"))
"""


def told(farm: Farm) -> dict[str, dict[str, Any]]:
    """Test name → its record that counts."""
    return {one["nodeid"].rpartition("::")[2]: one for one in farm.results["tests"] if not one["requeued"]}


def outcomes(record: dict[str, Any]) -> list[str]:
    return [one["outcome"] for one in record["verdicts"]]


def test_an_undecided_gate_goes_on_and_a_fail_stands(farm: Farm) -> None:
    farm.boards(3)
    farm.pytester.makepyfile(SUITE + BREAKS)
    first = farm.pytester.path / "first"
    farm.report = first
    assert farm.run("-k", "test_undecided or test_breaks").ret == 1
    undecided = told(farm)["test_undecided"]
    assert outcomes(undecided) == ["INCONCLUSIVE", "PASS"]
    assert (undecided["reruns"], undecided["continued"]) == (0, "")
    # its board broke when the verdict was known: that attempt is not another chance
    broke = told(farm)["test_breaks_after_its_verdict"]
    assert broke["attempt"] == 2
    assert ", attempt 1 on " in broke["continued"]
    assert outcomes(broke) == ["PASS"], "60 + 60 inferences"

    second = farm.report = farm.pytester.path / "second"
    result = farm.run("-k", "test_undecided", f"--edgehil-rerun={first}", "-n2")
    assert result.ret == 0
    passed = told(farm)["test_undecided"]
    run = json.loads((first / "results.json").read_text())["run"]["id"]
    assert outcomes(passed) == ["PASS", "PASS"]
    assert passed["reruns"] == 1
    assert passed["verdicts"][0]["n"] > 60
    assert passed["verdicts"][0]["statistics"]["reruns"] == 1
    assert f"goes on from 1 earlier run ({run})" in passed["verdicts"][0]["reason"]
    shown = " ".join(" ".join(result.outlines).split())
    assert "run again: " in shown
    assert f"::test_undecided: goes on from run {run} on b" in shown
    assert "Run again" in (second / "summary.md").read_text()
    assert (
        "every signature, digest and verdict holds"
        in farm.edgehil("evidence", "verify", str(second / "evidence")).stdout
    )
    assert "is reached again" in farm.edgehil("judge", str(second)).stdout

    # a run in which the same model on the same kind of board missed its budget, and now it would not
    record = next(one for one in results.read(second / "results.json").records if one.reruns)
    nodeid = record.nodeid.replace("test_undecided", "test_lucky")
    failed = {nodeid: ((gate("p95_latency", "12 ms"),), steady(20.0, n=40, readings=()))}
    before = report(farm.pytester.path / "before", failed, run="unlucky", board=record.board, combo=record.combo)
    farm.report = farm.pytester.path / "third"
    result = farm.run("-k", "test_lucky", f"--edgehil-rerun={before}")
    assert result.ret == 1
    lucky = told(farm)["test_lucky"]
    assert outcomes(lucky) == ["FAIL"]
    assert "decided in run unlucky on b" in lucky["message"]
    assert "Traceback" not in result.stdout.str()

    # what was not measured by that run, or was altered since, is one line
    (before / "samples" / "0.json.gz").write_bytes(b"\x1f\x8bno")
    result = farm.run("-k", "test_lucky", f"--edgehil-rerun={before}")
    assert result.ret == 1
    assert "gzip stream is damaged" in result.stdout.str()
    assert "Traceback" not in result.stdout.str()
    result = farm.run("-k", "test_undecided", f"--edgehil-rerun={before}")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"edgehil: --edgehil-rerun: no test of this run was judged in that of {before}"])


def test_a_fail_stands_when_its_board_breaks_and_the_next_one_is_of_another_class_and_signatures_are_checked(
    farm: Farm,
) -> None:
    replay_artifact(farm.artifacts, name="zero", outputs={"logits": np.eye(4)[np.zeros(100, dtype=int)].tolist()})
    for name, label in (("right", 0), ("wrong", 1)):
        np.savez(
            farm.pytester.path / f"{name}.npz", image=np.ones((100, 4), dtype=np.float32), labels=np.full(100, label)
        )
    farm.pytester.makeini("[pytest]\nedgehil_datasets = .\n")
    farm.pytester.makepyfile(ON_ANOTHER_CLASS)
    first = farm.report = farm.pytester.path / "first"
    result = farm.run()
    assert result.ret == 1
    found = told(farm)["test_fails_first"]
    assert (found["attempt"], found["board"]["cls"], outcomes(found)) == (2, "pi5-4gb", ["FAIL"])
    assert "the board's class was pi5-8gb-hat2, and is pi5-4gb now; but what failed there stays" in found["continued"]
    assert "decided in run" in found["message"]
    assert (
        "every signature, digest and verdict holds"
        in farm.edgehil("evidence", "verify", str(first / "evidence")).stdout
    )

    farm.report = farm.pytester.path / "second"
    result = farm.run(f"--edgehil-rerun={first}")
    assert result.ret == 1
    assert outcomes(told(farm)["test_fails_first"]) == ["FAIL"]

    document = json.loads((first / "results.json").read_text())
    (signed,) = (one["attestations"][0] for one in document["tests"] if not one["requeued"])
    signed["signature"] = signed["signature"][:-2] + ("00" if signed["signature"][-2:] != "00" else "01")
    (first / "results.json").write_text(json.dumps(document))
    result = farm.run(f"--edgehil-rerun={first}")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*statement: the signature of board b2 does not verify: it or what it signed*"])
    assert "Traceback" not in result.stdout.str()


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path / "gone", "is no directory; pass the --edgehil-report directory of a run"),
        (lambda path: path, "there is no such file; pass a directory that 'pytest --edgehil-report=DIR' has written"),
        (lambda path: written(path, "{"), "this is no JSON"),
        (lambda path: written(path, '{"schema_version": 99}'), "schema_version is 99, expected 1"),
        (lambda path: written(path, '{"schema_version": 1}'), "this is no results file of schema version 1"),
    ],
)
def test_a_directory_that_is_of_no_run_is_one_line_before_anything_runs(
    pytester: pytest.Pytester, tmp_path: Path, make: Any, line: str
) -> None:
    source = make(tmp_path)
    with pytest.raises(UserError, match=r"^--edgehil-rerun: "):
        read_earlier(source)
    pytester.makepyfile("def test_it(): pass")
    result = pytester.runpytest_inprocess(f"--edgehil-rerun={source}", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert line in result.stderr.str()


def written(path: Path, text: str) -> Path:
    (path / "results.json").write_text(text)
    return path


def test_the_report_must_not_replace_what_is_gone_on_from(pytester: pytest.Pytester, tmp_path: Path) -> None:
    both = (f"--edgehil-rerun={tmp_path}", f"--edgehil-report={tmp_path}")
    result = pytester.runpytest_inprocess(*both, "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "name another directory for the report of this run" in result.stderr.str()


LOOPS = """
    import pytest

    def pytest_addoption(parser):
        parser.addoption("--reruns", type=int, default=0)

    def pytest_runtest_protocol(item, nextitem):  # as pytest-rerunfailures does
        from _pytest.runner import runtestprotocol
        for _ in range(item.config.getoption("--reruns") + 1):
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            if all(one.passed for one in reports):
                break
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        return True
"""


def test_a_plugin_that_runs_failures_again_gives_a_gate_no_second_chance_and_that_is_said(farm: Farm) -> None:
    farm.pytester.makeconftest(LOOPS)
    farm.pytester.makepyfile(SUITE)
    result = farm.run("-p", "no:rerunfailures", "--reruns=3", "-k", "test_undecided")
    assert result.ret == 1
    assert len(farm.results["tests"]) == 1
    result.stdout.fnmatch_lines(["edgehil: --reruns does not run tests on boards again*--edgehil-rerun"])


# --- what counts as the same question ----------------------------------------------------------------

P95 = gate("p95_latency", "12 ms")
TEST = "test_a.py::test_a"


class Measured:
    """As much of a DUT as has measured."""

    broken = None

    def __init__(self, sample: Sample) -> None:
        self.sample = sample


def attempt_of(*gates: Any, sample: Sample | None = None, **changes: Any) -> Attempt:
    made = Attempt(nodeid=TEST, number=1, worker="main", gates=gates, requirement=Requirement(), directory=Path())
    record = record_of(TEST, (), Sample.empty(), **changes)
    made.board, made.combo = record.board, Combo()
    made.dut = Measured(sample or steady(8.0))  # type: ignore[assignment]
    made.record = lambda: dataclasses.replace(  # type: ignore[method-assign]
        record, gates=tuple(GateUse(name=one.name, arguments=one.arguments()) for one in made.gates)
    )
    return made


def go_on(reruns: Reruns, attempt: Attempt, *, own: frozenset[str] = frozenset(), digest: str = "d") -> Attempt:
    reruns.go_on(attempt, own_alphas=own, baselines=lambda _: digest)
    return attempt


@pytest.fixture
def earlier(tmp_path: Path) -> Reruns:
    """A run that judged at an error rate of 0.01."""
    gates = (gate("p95_latency", "12 ms", alpha=0.01), gate("peak_rss", "200 MiB"))
    before = report(tmp_path / "before", {TEST: (gates, steady(8.0, n=60))}, run="run-0")
    return Reruns(before, run_id="run-1")


def test_the_same_question_goes_on_with_the_error_rate_of_the_first_run(earlier: Reruns) -> None:
    found = go_on(earlier, attempt_of(P95, gate("peak_rss", "200 MiB")))
    assert found.continued == "goes on from run run-0 on pi5-01; what it measured is signed by no board"
    (run,) = found.earlier
    assert (run.run, run.board, run.sample.n, run.changed) == ("run-0", "pi5-01", 60, ())
    assert found.gates[0].arguments()["alpha"] == 0.01, "a plan is made once"


def test_other_arguments_start_that_gate_again(earlier: Reruns) -> None:
    found = go_on(earlier, attempt_of(gate("p95_latency", "13 ms"), gate("peak_rss", "200 MiB"), gate("size", "1 MiB")))
    assert found.earlier[0].changed == ("p95_latency", "size")
    assert found.continued.endswith("judged anew, for other arguments or baselines: p95_latency, size")
    assert found.gates[0].arguments()["alpha"] == 0.05
    own = go_on(earlier, attempt_of(P95), own=frozenset({"p95_latency"}))
    assert own.earlier[0].changed == ("p95_latency",), "the marker says 0.05, and means it"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"combo": (BAD,)}, "the model was sha256:a1a1a1a1a1a1…, and is sha256:b2b2b2b2b2b2… now"),
        ({"combo": (GOOD, FIRMWARE)}, "the firmware was none, and is sha256:c3"),
        ({"board": board(3)}, "the board's class was pi5-8gb-hat2, and is pi5-4gb now"),
        ({"board": board(1, environment=Environment.HARDWARE)}, "the board was virtual, and is hardware now"),
        ({"board": dataclasses.replace(board(1), firmware="x")}, "the firmware was edge-os 2026.11, and is x now"),
        ({"board": dataclasses.replace(board(1), runtime=None)}, "the runtime was onnxruntime 1.23.2, and is none now"),
        ({"board": board(2)}, ""),
    ],
)
def test_another_model_kind_of_board_firmware_or_runtime_is_another_question(
    earlier: Reruns, changes: dict[str, Any], reason: str
) -> None:
    found = go_on(earlier, attempt_of(P95, **changes))
    if reason:
        assert found.earlier == ()
        assert found.continued.startswith("starts again instead of going on from run run-0: ")
        assert reason in found.continued
    else:
        assert len(found.earlier) == 1, "another board of the same kind"


ANOTHER = {"board": board(3)}
MENDED = {"board": dataclasses.replace(board(3), runtime="onnxruntime 9")}


@pytest.mark.parametrize(
    ("changes", "ms", "carried"),
    [(ANOTHER, 20.0, True), (ANOTHER, 8.0, False), (MENDED, 20.0, False), ({**ANOTHER, "combo": (BAD,)}, 20.0, False)],
)
def test_what_failed_on_another_kind_of_board_stays_failed_unless_something_was_mended(
    tmp_path: Path, changes: dict[str, Any], ms: float, carried: bool
) -> None:
    directory = report(tmp_path / "r", {TEST: ((P95, gate("peak_rss", "200 MiB")), steady(ms))}, run="run-0")
    found = go_on(Reruns(directory, run_id="run-1"), attempt_of(P95, gate("peak_rss", "200 MiB"), **changes))
    assert found.continued.startswith("starts again instead of going on from run run-0: ")
    assert found.continued.endswith("; but what failed there stays failed: p95_latency") is carried
    assert [bool(one.apart) for one in found.earlier] == [True] * carried


def test_within_one_run_nothing_was_mended() -> None:
    reruns = Reruns(None, run_id="run-1")
    broke = attempt_of(P95, sample=steady(20.0), **MENDED)
    broke.verdicts, broke.error = record_of(TEST, (P95,), steady(20.0)).verdicts, BoardError("died while signing")
    reruns.note(broke)
    found = go_on(reruns, attempt_of(P95, sample=steady(8.0)))
    assert evaluate(found.gates[0], found.sample).outcome is Outcome.FAIL


def test_of_several_attempts_in_a_run_the_last_with_a_verdict_counts_unless_its_lease_was_lost(tmp_path: Path) -> None:
    broke = {"status": Status.INFRASTRUCTURE, "requeued": True}
    nothing = record_of(TEST, (), Sample.empty(), attempt=2, status=Status.INFRASTRUCTURE)
    for quarantined, counts in (("it panicked", True), ("", False)):
        directory = report(
            tmp_path / f"r{counts}",
            {TEST: ((P95,), steady(20.0))},
            run="run-0",
            more=[nothing],
            quarantined=quarantined,
            **broke,
        )
        found = go_on(Reruns(directory, run_id="run-1"), attempt_of(P95))
        assert bool(found.earlier) is counts, found.continued
    assert found.continued == f"{NOT_THERE} run-0"


def test_a_test_that_the_run_does_not_know_starts_again_and_a_board_is_needed(tmp_path: Path) -> None:
    reruns = Reruns(report(tmp_path / "r", {"other": ((P95,), steady(8.0))}, run="run-0"), run_id="run-1")
    assert go_on(reruns, attempt_of(P95)).continued == f"{NOT_THERE} run-0"
    assert go_on(Reruns(None, run_id="run-1"), attempt_of(P95)).continued == ""
    one = record_of(TEST, (P95,), steady(8.0))
    assert difference(one, dataclasses.replace(one, board=None)) == "one of them had no board"
    assert one.board is not None
    counted = dataclasses.replace(one, board=dataclasses.replace(one.board, timing=Timing.ICOUNT))
    assert difference(one, counted) == "the board's timing was icount, and is wall now"


def test_a_run_that_went_on_itself_hands_over_all_before_it(tmp_path: Path) -> None:
    first = EarlierRun(run="run-0", board="pi5-02", sample=steady(8.0, n=60), changed=("soak",))
    sample = steady(8.0, n=60).replace(earlier=(first,))
    reruns = Reruns(report(tmp_path / "r", {TEST: ((P95,), sample)}, run="run-1"), run_id="run-2")
    found = go_on(reruns, attempt_of(P95))
    assert [(one.run, one.changed) for one in found.earlier] == [("run-0", ("soak",)), ("run-1", ())]
    assert all(one.sample.earlier == () for one in found.earlier)


def test_of_an_attempt_whose_board_broke_only_a_known_verdict_counts() -> None:
    reruns = Reruns(None, run_id="run-1")
    cases: list[tuple[tuple[Any, ...], BaseException, bool]] = [
        ((), BoardError("died while measuring"), False),
        (record_of(TEST, (P95,), steady(20.0)).verdicts, LeaseLost("taken away"), False),
        (record_of(TEST, (P95,), steady(20.0)).verdicts, BoardError("died while signing"), True),
    ]
    for verdicts, error, counts in cases:
        broke = attempt_of(P95, sample=steady(20.0))
        broke.verdicts, broke.error = verdicts, error
        reruns.note(broke)
        found = go_on(reruns, attempt_of(P95))
        assert bool(found.earlier) is counts
    assert found.continued == "goes on from run run-1, attempt 1 on pi5-01"


def test_an_altered_sample_is_refused(tmp_path: Path) -> None:
    reruns = Reruns(report(tmp_path / "r", {TEST: ((P95,), steady(8.0))}), run_id="run-2")
    (tmp_path / "r" / "samples" / "0.json.gz").unlink()
    with pytest.raises(EvidenceError, match="the samples cannot be read"):
        go_on(reruns, attempt_of(P95))
    assert TestRecord.from_json(record_of(TEST, (P95,), steady(8.0)).to_json()).reruns == 0
