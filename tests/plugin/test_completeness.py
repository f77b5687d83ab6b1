"""Every collected test has a result, or is listed and makes the run fail; what is not a run on boards is left alone."""

from __future__ import annotations

import json

import pytest
from support.farm import Farm

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])


def not_run(farm: Farm) -> set[str]:
    return {one.rpartition("::")[2] for one in farm.results["not_run"]}


STOPS = """
    import pytest

    @pytest.fixture(params=range(6))
    def number(request):
        return request.param

    def test_first(board):
        HOW

    def test_later(number, board):
        pass
"""


@pytest.mark.parametrize(
    ("how", "arguments", "status"),
    [
        pytest.param("assert 0", ("-x",), 1, id="-x"),  # which is --maxfail=1
        pytest.param("pytest.exit('enough', returncode=0)", (), 1, id="exit-0"),
        pytest.param("raise KeyboardInterrupt", (), 2, id="interrupt"),
    ],
)
def test_tests_that_did_not_run_are_listed_and_the_run_is_no_success(farm: Farm, how, arguments, status):
    farm.pytester.makepyfile(STOPS.replace("HOW", how))
    result = farm.run(*arguments)
    assert result.ret == status
    missing = {f"test_later[{number}]" for number in range(6)}
    if "assert" not in how:
        missing.add("test_first")
    assert not_run(farm) == missing
    result.stdout.fnmatch_lines([f"NOT RUN: {len(missing)} collected tests without a result", "*test_later?0?*"])
    assert {one["state"] for one in farm.board_states().values()} == {"free"}


def test_a_run_that_a_worker_s_death_ended_lists_what_did_not_run(farm: Farm):
    farm.pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", range(12))
        def test_it(number, board):
            os._exit(7)
        """
    )
    result = farm.run("-n2", "--max-worker-restart=0", "--alluredir=allure")
    assert result.ret not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    crashed = {one["nodeid"].rpartition("::")[2] for one in farm.results["tests"]}
    assert crashed
    assert all(one["status"] == "error" and "died" in one["message"] for one in farm.results["tests"])
    assert not_run(farm) == {f"test_it[{number}]" for number in range(12)} - crashed
    assert not_run(farm)
    result.stdout.fnmatch_lines([f"NOT RUN: {len(not_run(farm))} collected tests without a result"])
    shown = [json.loads(path.read_text()) for path in (farm.pytester.path / "allure").glob("*-result.json")]
    assert {one["name"] for one in shown} == crashed
    assert {one["status"] for one in shown} == {"broken"}
    assert {one["state"] for one in farm.board_states().values()} == {"free"}


SUITE = """
    def test_on_a_board(board):
        pass

    def test_on_the_host():
        pass
"""


@WORKERS
def test_collecting_does_not_touch_the_results_of_the_run_before(farm: Farm, workers):
    farm.pytester.makepyfile(SUITE)
    assert farm.run(*workers).ret == 0
    before = {path.name: path.stat().st_mtime_ns for path in farm.report.iterdir()}
    assert "results.json" in before
    listing = () if workers else (("--markers",), ("--fixtures", "-q"))  # no worker is ever started for these
    for arguments in (*listing, ("--collect-only", "-q")):
        result = farm.run(*arguments, *workers)
        assert result.ret == 0
        assert {path.name: path.stat().st_mtime_ns for path in farm.report.iterdir()} == before
    result.stdout.fnmatch_lines(["*test_on_a_board", "*test_on_the_host"])
    assert "edgehil" not in result.stdout.str().replace(str(farm.pytester.path), "")


@WORKERS
def test_a_run_without_a_lab_is_as_if_the_plugin_were_not_there(pytester, tmp_path_factory, monkeypatch, workers):
    temporary = tmp_path_factory.mktemp("tmp")
    monkeypatch.setenv("TMPDIR", str(temporary))
    summary = temporary / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    pytester.makepyfile(
        """
        import os

        def test_passes():
            assert not [name for name in os.listdir(os.environ["TMPDIR"]) if "edgehil" in name] or WORKERS

        def test_fails():
            assert 0
        """.replace("WORKERS", repr(bool(workers)))
    )
    result = pytester.runpytest_subprocess("-x", *workers)
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str().replace("edgehil-0.1.0", "")
    assert "edgehil" not in text
    assert "NOT RUN" not in text
    assert not summary.exists()
    assert [name for name in temporary.iterdir() if "edgehil" in name.name] == []


def test_a_board_that_nobody_needs_any_more_is_given_back_before_the_next_test(farm: Farm):
    farm.boards(1)
    farm.pytester.makepyfile(
        """
        import json
        import subprocess
        import sys
        from pathlib import Path

        def test_on_a_board(board):
            pass

        def test_on_the_host():
            told = subprocess.run(
                [sys.executable, "-m", "pytest_edgehil", "lab", "boards", "--json", "--lab", "lab.yaml"],
                capture_output=True, check=True, cwd=Path(__file__).parent,
            )
            assert [one["state"] for one in json.loads(told.stdout)["boards"]] == ["free"]

        def test_on_a_board_again(board):
            pass
        """
    )
    farm.run().assert_outcomes(passed=3)
