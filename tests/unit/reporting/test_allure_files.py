from __future__ import annotations

import doctest
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support import records as make

from pytest_edgehil.model.board import Environment
from pytest_edgehil.reporting import allure_files, allure_html


def write(directory: Path, *, environ: dict[str, str] | None = None, **run: str) -> dict[str, str]:
    allure_files.write_run_files(directory, make.farm_run(), lab="rack-1", run=run, environ=environ or {})
    return {one.name: one.read_text(encoding="utf-8") for one in directory.iterdir()}


@pytest.mark.parametrize("module", [allure_files, allure_html])
def test_the_examples_hold(module: object) -> None:
    failures, examples = doctest.testmod(module)  # type: ignore[arg-type]
    assert examples > 0
    assert failures == 0


def test_the_environment_page_names_lab_boards_and_software(tmp_path: Path) -> None:
    lines = write(tmp_path, python="3.11.2")["environment.properties"].splitlines()
    assert lines[0] == "lab=rack-1"
    assert "boards=pi5-01, pi5-02, pi5-03, pi5-04" in lines
    assert "environments=virtual" in lines
    assert "python=3.11.2" in lines


def test_properties_stay_on_their_line_and_in_ascii(tmp_path: Path) -> None:
    written = write(tmp_path, **{"a=b: c": "one\ntwo \\ é 🙂"})["environment.properties"]
    assert written.splitlines()[-1] == "a\\=b\\:\\ c=one two \\\\ \\u00e9 \\ud83d\\ude42"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"name": "pytest", "type": "local", "buildName": "r-7"}),
        (
            {
                "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b",
                "GITHUB_RUN_ID": "99", "GITHUB_RUN_NUMBER": "12", "GITHUB_WORKFLOW": "gates",
            },
            {
                "name": "GitHub Actions", "type": "github", "buildName": "gates #12", "buildOrder": 12,
                "buildUrl": "https://github.com/a/b/actions/runs/99",
            },
        ),
        (
            {"GITLAB_CI": "true", "CI_JOB_NAME": "hil", "CI_PIPELINE_IID": "5", "CI_JOB_URL": "https://g/1"},
            {"name": "GitLab CI", "type": "gitlab", "buildName": "hil #5", "buildOrder": 5, "buildUrl": "https://g/1"},
        ),
        (
            {"JENKINS_URL": "https://j", "BUILD_TAG": "j-3", "BUILD_NUMBER": "3", "BUILD_URL": "https://j/3"},
            {"name": "Jenkins", "type": "jenkins", "buildName": "j-3", "buildOrder": 3, "buildUrl": "https://j/3"},
        ),
    ],
)  # fmt: skip
def test_the_executor_is_the_ci_system_that_ran_it(
    tmp_path: Path, environ: dict[str, str], expected: dict[str, object]
) -> None:
    assert json.loads(write(tmp_path, environ=environ, run="r-7")["executor.json"]) == expected


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    assert set(write(tmp_path)) == {"allurerc.json", "categories.json", "environment.properties", "executor.json"}


def test_put_back_attempts_and_numbers_that_are_none_are_no_metrics(tmp_path: Path) -> None:
    assert allure_files.write_metrics(tmp_path, replace(make.passed(), requeued=True)) is None
    assert allure_files.write_metrics(tmp_path, make.unbounded()) is None
    assert allure_files.write_metrics(tmp_path, make.invalid()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_real_board_and_a_virtual_one_never_share_a_metric(tmp_path: Path) -> None:
    def keys(record: object) -> set[str]:
        path = allure_files.write_metrics(tmp_path, record)  # type: ignore[arg-type]
        assert path is not None
        return {one["key"] for one in json.loads(path.read_bytes())}

    virtual, real = make.passed(), replace(make.passed(), board=make.board(1, environment=Environment.HARDWARE))
    assert keys(virtual).isdisjoint(keys(real))
    newer = replace(
        virtual, combo=(make.FIRMWARE, replace(make.GOOD, version="2.0.0", label="digits 2.0.0 int8-static"))
    )
    assert keys(virtual) == keys(newer), "a new version continues the history"


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("record", make.farm_run(), ids=lambda one: f"{one.nodeid.rsplit('::')[-1]}-{one.attempt}")
def test_every_description_is_balanced_html(record: object) -> None:
    parser = Balanced()
    parser.feed(allure_html.description_html(record))  # type: ignore[arg-type]
    parser.close()
    assert parser.open == []


def test_what_a_board_says_cannot_become_html() -> None:
    nasty = replace(make.put_back(), message="<img src=x onerror=alert(1)>", quarantined="<script>alert(1)</script>")
    parser = Balanced()
    parser.feed(allure_html.description_html(nasty))
    assert {"img", "script"}.isdisjoint(parser.seen)


def test_a_put_back_attempt_says_that_it_does_not_count() -> None:
    assert "this attempt was put back and does not count" in allure_html.description_html(make.put_back())
