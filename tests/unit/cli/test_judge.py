"""`edgehil judge`: stored samples, judged again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.records import STARTED_AT
from support.samples import conditions
from support.signed_evidence import Bench
from support.stored_runs import gate, record_with, report, steady

from pytest_edgehil.cli import main
from pytest_edgehil.evidence.raw import evaluate_by_registry, write_sample
from pytest_edgehil.gates.gates_file import gates_schema, load_gates
from pytest_edgehil.model.record import GateUse, Status, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.reporting import results

P95 = gate("p95_latency", "12 ms")
SEEN = GateUse(name="size", arguments={"budget_bytes": 9})
FAST = "suites/test_a.py::test_fast"
SLOW = "suites/test_a.py::test_slow[digits-int8]"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one test that passed, one that failed and one that was skipped."""
    skipped = TestRecord(nodeid="suites/test_a.py::test_no", status=Status.SKIPPED, started_at=STARTED_AT, duration_s=0)
    tests = {FAST: ((P95, gate("peak_rss", "180 MiB")), steady(10.0)), SLOW: ((P95,), steady(20.0))}
    return report(tmp_path / "report", tests, more=[skipped])


def gates_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def judged(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    status = main(["judge", *map(str, words)])
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return status, told.out + told.err


def test_recorded_verdicts_are_reached_again_from_directory_and_file(run: Path, capsys: Any) -> None:
    for source in (run, run / "results.json"):
        status, text = judged(capsys, source)
        assert status == 1, "one of them is FAIL"
        assert "every recorded verdict of run run-1 is reached again; nothing is signed" in text
        assert "not judged, for they kept no sample: suites/test_a.py::test_no" in text
        assert text.index("FAIL") < text.index("PASS"), "the worst first"
        assert "figures: observed 20 ms > budget 12 ms" in text
    # a run in which everything passed
    only = report(run.parent / "good", {FAST: ((P95,), steady(10.0))})
    assert judged(capsys, only)[0] == 0


def test_a_verdict_that_was_recorded_otherwise_is_shown_loudly(run: Path, capsys: Any) -> None:
    found = results.read(run / "results.json")
    better = [
        record_with(one, verdicts=tuple(results_pass(verdict) for verdict in one.verdicts)) for one in found.records
    ]
    results.write(run, better, run=dict(found.run), quarantined={}, not_run=())
    status, text = judged(capsys, run)
    assert status == 1
    assert f"DIFFERENT from what was recorded: {SLOW}: p95_latency: it claims PASS, the raw results say FAIL" in text


def results_pass(verdict: Any) -> Any:
    import dataclasses

    from pytest_edgehil.model.verdict import Outcome

    return dataclasses.replace(verdict, outcome=Outcome.PASS)


def test_how_long_the_board_had_to_be_watched_is_judged_again_from_the_file(tmp_path: Path, capsys: Any) -> None:
    samples = {
        FAST: ((P95,), steady(10.0)),
        SLOW: ((P95,), steady(10.0, conditions=conditions(steady_state_s=5.0))),
        "suites/test_a.py::test_old": ((P95,), steady(10.0, conditions=conditions(steady_state_s=None))),
    }
    status, text = judged(capsys, report(tmp_path / "report", samples))
    assert status == 1
    assert "every recorded verdict of run run-1 is reached again" in text
    assert text.count("INCONCLUSIVE") >= 2
    assert "5 s that a PASS needs (the board's steady_state)" in text
    assert "30 s that a PASS needs (the default for a board whose lab declares no steady_state)" in text


def test_other_gates_judge_by_pattern_and_say_that_their_error_rate_is_void(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    path = gates_file(
        tmp_path,
        """
        gates:
          - gate: p95_latency
            arguments: {budget: 25 ms}
          - gate: quantile_latency
            arguments: {q: 0.9, budget: 15 ms, alpha: 0.01}
            tests: "*::test_slow[*"
          - gate: p95_latency
            arguments: {budget: 15 ms}
            tests: "*test_slow[digits-int8]"
        """,
    )
    status, text = judged(capsys, run, "--gates", path, "--json")
    told = json.loads(text)
    assert status == 1
    assert "chosen after the samples had been measured: their error rates do not hold" in told["note"]
    outcomes = {
        one["nodeid"]: [(verdict["gate"], verdict["outcome"]) for verdict in one["verdicts"]] for one in told["tests"]
    }
    assert outcomes == {
        FAST: [("p95_latency", "PASS")],
        SLOW: [("p95_latency", "PASS"), ("quantile_latency", "FAIL"), ("p95_latency", "FAIL")],
    }, "a bracket is a bracket"
    size = gates_file(tmp_path, "gates: [{gate: size, arguments: {budget: 9 MiB}}]")
    status, text = judged(capsys, run, "--gates", size)
    assert status == 0
    assert "note: these gates were chosen after" in text
    assert "nothing is signed" in text


def test_what_a_sample_cannot_tell_is_inconclusive_and_no_traceback(run: Path, tmp_path: Path, capsys: Any) -> None:
    path = gates_file(
        tmp_path,
        """
        gates:
          - {gate: accuracy, arguments: {agreement: 0.9}}
          - {gate: soak, arguments: {duration: 1 h, leak: 5 MiB/h}}
          - {gate: cold_start, arguments: {budget: 1 s}}
          - {gate: thermal, arguments: {max: 80 C}}
        """,
    )
    status, text = judged(capsys, run, "--gates", path, "--json")
    assert status == 1
    verdicts = [verdict for one in json.loads(text)["tests"] for verdict in one["verdicts"]]
    assert {one["outcome"] for one in verdicts} == {"INCONCLUSIVE"}
    assert all(one["reason"] for one in verdicts)
    assert any("a stored sample cannot be measured on" in one["reason"] for one in verdicts)


def test_a_lone_samples_file_is_judged_by_its_own_gates(run: Path, capsys: Any) -> None:
    status, text = judged(capsys, run / "samples" / "0.json.gz")
    assert status == 0
    assert "a samples file holds no verdicts, so there was nothing to compare with" in text


def test_bad_input_is_one_line_and_exit_status_2(run: Path, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "bad.yaml"
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.json").write_text("{}")
    (tmp_path / "broken.json.gz").write_bytes(b"\x1f\x8bnothing")
    cases: list[tuple[tuple[object, ...], str, str]] = [
        ((empty,), "", "pytest --edgehil-report=DIR"),
        ((tmp_path / "gone.json",), "", "cannot be read"),
        ((tmp_path / "text.json",), "", "schema_version is None"),
        ((tmp_path / "broken.json.gz",), "", "gzip stream is damaged"),
        ((), "", "name the report directory"),
        ((run, "--gates", file), "gates:\n- gate: p95_latency\n  arguments: {buget: 1 ms}\n",
         f"{file}:3: gates[0].arguments.buget: p95_latency: unknown argument 'buget' (did you mean 'budget'?)"),
        ((run, "--gates", file), "gates:\n- gate: p95latency\n", f"{file}:2: gates[0].gate: p95latency: no such gate"),
        ((run, "--gates", file), "gates:\n- gate: size\n  arguments: {budget: 12 ms}\n", "size: '12 ms' is no size"),
        ((run, "--gates", file), "gates: []\n", "expected at least 1"),
        ((run, "--gates", file), "gate: x\n", "unknown key"),
        ((run, "--gates", file), "gates:\n- {gate: size, arguments: {budget: 1 kB}, tests: '*nothing'}\n",
         "no pattern fits a test of"),
    ]  # fmt: skip
    for words, text, message in cases:
        file.write_text(text)
        status, told = judged(capsys, *words)
        assert status == 2, (words, told)
        assert message in told
        assert len(told.strip().splitlines()) == 1


def test_a_sample_that_is_gone_or_lies_elsewhere_is_refused(run: Path, capsys: Any) -> None:
    (run / "samples" / "0.json.gz").unlink()
    status, text = judged(capsys, run)
    assert (status, "cannot be read" in text) == (2, True)
    found = results.read(run / "results.json")
    outside = [record_with(one, files={"samples": "../x.json"}) for one in found.records]
    results.write(run, outside, run=dict(found.run), quarantined={}, not_run=())
    status, text = judged(capsys, run)
    assert (status, "lies outside" in text) == (2, True)


def test_an_altered_sample_is_not_the_one_that_the_board_signed(tmp_path: Path, capsys: Any) -> None:
    bench, measured = Bench(report_dir=tmp_path), steady(2.0)
    results.write(
        tmp_path,
        [bench.record(gates=(SEEN,), measured=measured, verdicts=(evaluate_by_registry(SEEN, measured),))],
        run={"id": "run-1"},
        quarantined={},
        not_run=(),
    )
    assert "is reached again" in judged(capsys, tmp_path)[1]
    write_sample(tmp_path / "samples" / "1.json", steady(1.0), (SEEN,))
    status, text = judged(capsys, tmp_path)
    assert (status, "it is not what the board signed" in text) == (2, True)


def test_the_schema_takes_what_the_reader_takes(tmp_path: Path, capsys: Any) -> None:
    status, text = judged(capsys, "--schema")
    assert status == 0
    assert json.loads(text) == gates_schema()
    schema = gates_schema()
    assert schema["required"] == ["gates"]
    assert schema["$defs"]["_Listed"]["required"] == ["gate"]
    good = {"alpha": 0.1, "gates": [{"gate": "size", "arguments": {"budget": "1 MiB"}, "tests": "*"}]}
    assert set(good) == set(schema["properties"])
    assert set(good["gates"][0]) == set(schema["$defs"]["_Listed"]["properties"])  # type: ignore[index,arg-type]
    path = gates_file(tmp_path, json.dumps(good))
    assert [one.gate.name for one in load_gates(path).listed] == ["size"]


def test_gates_of_the_file_get_its_alpha_unless_they_have_their_own(tmp_path: Path) -> None:
    path = gates_file(
        tmp_path,
        "alpha: 0.01\n"
        "gates:\n"
        "- {gate: p95_latency, arguments: {budget: 1 ms}}\n"
        "- {gate: p95_latency, arguments: {budget: 1 ms, alpha: 0.2}}\n",
    )
    assert [one.gate.arguments()["alpha"] for one in load_gates(path).listed] == [0.01, 0.2]


def test_an_empty_sample_is_undecided(tmp_path: Path, capsys: Any) -> None:
    path = report(tmp_path / "report", {FAST: ((P95,), Sample.empty())})
    status, text = judged(capsys, path)
    assert status == 1
    assert "INCONCLUSIVE" in text
