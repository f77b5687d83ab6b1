from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.allure_project import make_project, run_project
from support.standing_farm import once

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.reporting.allure_sink import AllureSink

Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    make_project(tmp_path)
    return lambda *arguments, **environment: run_project(tmp_path, *arguments, **environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after two runs: `alone`, and then, as its next run, `together` with two workers."""

    def run_twice(directory: Path) -> None:
        make_project(directory)
        shutil.copytree(run_project(directory), directory / "alone")
        shutil.copytree(run_project(directory, "--clean-alluredir", "-n2"), directory / "together")

    return once(tmp_path_factory, "allure-project", run_twice)


@pytest.fixture(scope="module")
def alone(runs: Path) -> Path:
    """The results of a run in one process."""
    return runs / "alone"


@pytest.fixture(scope="module")
def together(runs: Path) -> Path:
    """The results of the next run, with two workers."""
    return runs / "together"


def results(directory: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(one.read_bytes()) for one in directory.glob("*-result.json")]
    return {one["name"]: one for one in found}


def labels(result: dict[str, Any], name: str) -> list[str]:
    return [one["value"] for one in result["labels"] if one["name"] == name]


def parameters(result: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    return {one["name"]: (one["value"], one.get("excluded", False)) for one in result.get("parameters", [])}


def test_every_ending_has_its_status_and_verdict_label(alone: Path) -> None:
    found = results(alone)
    told = {name: (one["status"], labels(one, "verdict")) for name, one in found.items()}
    assert told == {
        "test_digits": ("passed", ["pass"]),
        "test_coarse": ("failed", ["fail"]),
        "test_close_call": ("broken", ["inconclusive"]),
        "test_hot": ("broken", ["invalid"]),
        "test_survives": ("passed", ["pass"]),
        "test_nobody_left": ("broken", ["infrastructure"]),
        "test_typo": ("broken", ["error"]),
        "test_parity[8]": ("passed", ["pass"]),
        "test_parity[16]": ("failed", ["fail"]),  # its record says passed, pytest does not: never made better
        "test_without_a_board": ("passed", []),
        "test_dies[kill]": ("skipped", []),
    }


@pytest.mark.parametrize("status", ["skipped", "unknown"])
def test_an_undecided_gate_gets_the_status_that_was_asked_for(run: Run, status: str) -> None:
    assert results(run("-k", "test_close_call", INCONCLUSIVE=status))["test_close_call"]["status"] == status


def test_a_status_that_allure_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="edgehil_inconclusive: 'green' is no Allure status"):
        AllureSink(tmp_path, inconclusive="green")


def test_the_description_holds_the_docstring_and_the_verdict_table(alone: Path) -> None:
    found = results(alone)
    html = found["test_digits"]["descriptionHtml"]
    assert html.index("p95_latency") < html.index("keeps what was promised")
    for needed in ("p95_latency", "9.82 ms", "≤ 12 ms", "9.43–10.3 ms", "480", "PASS", "pi5-01", "virtual"):
        assert needed in html
    html = found["test_coarse"]["descriptionHtml"]
    assert "≤ 12 ms" in html
    assert "FAIL" in html


def test_messages_begin_so_that_allure_2_can_sort_them(alone: Path) -> None:
    found = results(alone)
    said = {name: one["statusDetails"]["message"] for name, one in found.items() if "statusDetails" in one}
    assert said["test_coarse"].startswith("gate missed: accuracy")
    assert said["test_close_call"].startswith("inconclusive: p95_latency")
    assert said["test_hot"].startswith("invalid measurement: ")
    assert said["test_nobody_left"].startswith("board or lab: no board")
    assert said["test_typo"].startswith("NameError")
    assert "trace" in found["test_typo"]["statusDetails"]


def test_the_timeline_has_a_panel_per_lab_and_a_lane_per_board(alone: Path) -> None:
    found = results(alone)
    assert labels(found["test_digits"], "host") == ["virtual-demo"]
    assert labels(found["test_digits"], "thread") == ["pi5-01"]
    assert labels(found["test_nobody_left"], "thread") == ["main"]
    assert labels(found["test_without_a_board"], "thread") != []


def test_the_behaviours_page_goes_from_the_model_to_the_board_class(alone: Path) -> None:
    found = results(alone)["test_coarse"]
    assert [labels(found, name) for name in ("epic", "feature", "story")] == [
        ["digits"], ["digits 1.0.1 int8-coarse"], ["pi5-8gb-hat2"],
    ]  # fmt: skip
    assert set(labels(found, "tag")) == {"accuracy", "p95_latency", "peak_rss"}


def test_identity_is_model_prompt_and_board_class_and_the_rest_is_shown(alone: Path) -> None:
    found = results(alone)
    assert parameters(found["test_digits"]) == {
        "model": ("digits int8-static", False),
        "board_class": ("pi5-8gb-hat2", False),
        "board": ("pi5-01", True),
        "firmware": ("edge-os 2026.11", True),
    }
    assert parameters(found["test_parity[8]"])["size"] == ("8", False)
    assert found["test_parity[8]"]["historyId"] != found["test_parity[16]"]["historyId"]


def test_the_same_test_has_the_same_history_in_the_next_run(alone: Path, together: Path) -> None:
    first, second = results(alone), results(together)
    assert {name: one["historyId"] for name, one in first.items()} == {
        name: one["historyId"] for name, one in second.items()
    }


def test_steps_have_their_real_times_and_a_missed_gate_is_red(alone: Path) -> None:
    steps = results(alone)["test_coarse"]["steps"]
    assert [one["name"].split(":")[0] for one in steps] == ["reserve", "flash", "warm-up", "measure", "judge"]
    assert [one["stop"] - one["start"] for one in steps] == [400, 1900, 500, 6500, 100]
    judge = steps[-1]
    assert judge["status"] == "failed"
    assert [(one["name"], one["status"]) for one in judge["steps"]] == [
        ("accuracy: 81.2 % < 98 % → FAIL", "failed"),
        ("p95_latency: 16.2 ms > 12 ms → FAIL", "failed"),
        ("peak_rss: 96.4 MiB ≤ 180 MiB → PASS", "passed"),
    ]


def test_a_result_lasts_as_long_as_the_board_was_busy(alone: Path) -> None:
    found = results(alone)["test_coarse"]
    assert found["stop"] - found["start"] == 9400
    assert found["start"] <= min(one["start"] for one in found["steps"])


def test_console_samples_and_figures_are_attached_and_a_missing_file_is_noted(alone: Path) -> None:
    found = results(alone)
    attached = {one["name"]: one for one in found["test_digits"]["attachments"]}
    assert {name: one["type"] for name, one in attached.items()} == {
        "figures": "text/csv", "samples": "application/json", "console": "text/plain",
    }  # fmt: skip
    assert b"Booting Linux" in (alone / attached["console"]["source"]).read_bytes()
    assert "p95_latency,observed,9820000.0,ns" in (alone / attached["figures"]["source"]).read_text()
    missing = {one["name"]: one for one in found["test_hot"]["attachments"]}["samples (not attached)"]
    assert "No such file" in (alone / missing["source"]).read_text()


def test_a_log_that_is_too_long_is_attached_with_its_end(tmp_path: Path) -> None:
    log = tmp_path / "report" / "console" / "long.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"first line\n" + b"x" * 63 + b"\n" + (b"y" * 63 + b"\n") * (9 * 2**14))
    sink = AllureSink(tmp_path / "report", allure_directory=tmp_path / "allure-results")
    body: list[bytes] = []
    sink._attach_bytes = lambda result, purpose, data, mime, suffix: body.append(data)  # type: ignore[method-assign]
    sink._attach_file(None, "console", log)
    (end,) = body
    assert len(end) <= 8 * 2**20
    assert end.startswith(b"yyy")
    assert end.endswith(b"yyy\n")


def test_metrics_carry_what_makes_numbers_incomparable(alone: Path) -> None:
    samples = [one for path in alone.glob("*-perf.json") for one in json.loads(path.read_bytes())]
    by_key = {one["key"]: one for one in samples}
    key = "p95_latency_ms|digits int8-static|pi5-8gb-hat2|virtual|test_digits"
    assert by_key[key]["value"] == pytest.approx(9.82)
    assert (by_key[key]["unit"], by_key[key]["better"]) == ("ms", "lower")
    assert not any("test_hot" in one for one in by_key), "an INVALID measurement is no metric"
    accuracy = by_key[key.replace("p95_latency_ms", "accuracy_percent")]
    assert (accuracy["value"], accuracy["better"]) == (pytest.approx(99.61), "higher")


def test_run_wide_files_are_written_once_by_the_controller(together: Path) -> None:
    directory = together
    categories = json.loads((directory / "categories.json").read_bytes())
    assert [one["name"] for one in categories][:2] == ["Gate or assertion missed", "Gate not decided"]
    configured = json.loads((directory / "allurerc.json").read_bytes())["categories"]
    assert [one["name"] for one in configured] == [one["name"] for one in categories]
    environment = (directory / "environment.properties").read_text()
    assert "lab=virtual-demo\n" in environment
    assert "board\\ classes=pi5-4gb, pi5-8gb-hat2\n" in environment
    assert json.loads((directory / "executor.json").read_bytes())["type"] == "local"
    (errors,) = [json.loads(one.read_bytes())["errors"] for one in directory.glob("*-globals.json")]
    assert errors[0]["message"].startswith("board pi5-04 is quarantined: link to pi5-04")


def test_two_workers_report_what_one_process_reports(alone: Path, together: Path) -> None:
    assert {name: one["status"] for name, one in results(together).items()} == {
        name: one["status"] for name, one in results(alone).items()
    }


def test_a_test_whose_worker_died_is_in_the_report_and_so_is_everything_before_it(run: Run) -> None:
    directory = run("-n1", "--clean-alluredir", WORKER_DIES="1")
    found = results(directory)
    assert len(found) == 11, "a replacement worker must not wipe what was there"
    dead = found["test_dies[kill]"]
    assert dead["status"] == "broken"
    assert dead["statusDetails"]["message"] == "worker gw0 died"
    assert dead["fullName"] == "suites.test_digits#test_dies"
    assert parameters(dead)["what"] == ("'kill'", False)
    assert labels(dead, "suite") == ["test_digits"]
    assert not (directory.parent / "report" / "allure-running").exists(), "what workers left for a crash is tidied up"


def test_the_ticket_that_ties_results_to_records_never_reaches_a_file(alone: Path) -> None:
    assert not any(labels(one, "edgehil-record") for one in results(alone).values())
