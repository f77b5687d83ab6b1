from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.canary import NEW, NOW, OLD, fleet, line, write

from pytest_edgehil.errors import RolloutError
from pytest_edgehil.model.board import Environment
from pytest_edgehil.rollout.telemetry import Telemetry, read_telemetry


def read(directory: Path, *, baseline: str | None = OLD) -> Telemetry:
    return read_telemetry(directory, artifact=NEW, baseline=baseline, environment=Environment.VIRTUAL, now=NOW)


def test_reports_are_read_with_the_digests_of_their_files(tmp_path: Path) -> None:
    found = read(write(tmp_path, fleet(devices=2)))
    assert [one.device for one in found.reports] == ["c0", "c1", "d0", "d1"]
    assert set(found.digests) == {"c0.jsonl", "c1.jsonl", "d0.jsonl", "d1.jsonl"}


def test_an_emulated_device_with_a_clock_counts_for_a_plan_that_is_for_such(tmp_path: Path) -> None:
    write(tmp_path, [{**line("c0", "canary"), "environment": "emulated", "timing": "wall"}])
    found = read_telemetry(tmp_path, artifact=NEW, baseline=OLD, environment=Environment.EMULATED, now=NOW)
    assert [one.device for one in found.reports] == ["c0"]


def test_no_files_are_no_data_and_no_error(tmp_path: Path) -> None:
    assert read(tmp_path).reports == ()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="there is no such directory"):
        read(tmp_path / "none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifact": "sha256:" + "cc" * 32}, r"c0.jsonl:2: the canary c0 ran sha256:cccccc.*, expected sha256:aa"),
        ({"environment": "hardware"}, r"c0.jsonl:2: c0 is hardware, the plan is for virtual"),
        ({"group": "control"}, "c0.jsonl:2: the control c0 ran sha256:aaaa"),
        ({"latencies_ns": [0]}, "c0.jsonl:2: latencies_ns: a latency is not positive"),
        ({"latencies_ns": [1.5]}, r"c0.jsonl:2: latencies_ns.0: "),
        ({"latencies_ns": [1] * 101}, "101 latencies of 100 inferences"),
        ({"crashes": 21}, "crashes: more than there were sessions"),
        ({"crashes": -1}, "c0.jsonl:2: crashes: "),
        ({"crashes": True}, "c0.jsonl:2: crashes: "),
        ({"shadow_disagreements": 51}, "more than were compared"),
        ({"started_at": NOW + 3600}, "in the future"),
        ({"extra": 1}, "c0.jsonl:2: extra: "),
        ({"timing": "icount"}, "c0.jsonl:2: timing: counted instructions .icount. are no seconds"),
        ({"timing": "icount", "environment": "emulated", "latencies_ns": []}, "are no seconds"),
        ({"environment": "emulated"}, "c0.jsonl:2: timing: an emulated device must say whether its time is wall or"),
        ({"timing": "cycles"}, "c0.jsonl:2: timing: "),
    ],
)  # fmt: skip
def test_a_report_that_is_off_is_an_error_with_file_and_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path, [line("c0", "canary"), {**line("c0", "canary"), **changes}])
    with pytest.raises(RolloutError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "c0.jsonl:2: this is no JSON"),
        (json.dumps(line("c0", "canary", device_hours=float("nan"))), "c0.jsonl:2: NaN is no JSON number"),
        ('{"device": "c0", "device": "c1"}', "appears twice"),
        ("{}", "c0.jsonl:2: device: "),
        ("[]", "c0.jsonl:2: "),
    ],
)
def test_a_line_that_is_no_report_is_an_error_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, [line("c0", "canary")])
    with (tmp_path / "c0.jsonl").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(RolloutError, match=message):
        read(tmp_path)


def test_a_device_that_reports_twice_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [line("c0", "canary")])
    (tmp_path / "c9.jsonl").write_text(json.dumps(line("c0", "canary")) + "\n")
    with pytest.raises(RolloutError, match=r"c9.jsonl:1: device c0 reports in c0.jsonl already"):
        read(tmp_path)


def test_a_device_in_both_groups_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [line("c0", "canary"), line("c0", "control")])
    with pytest.raises(RolloutError, match=r"c0.jsonl:2: device c0 is in both groups"):
        read(tmp_path)


def test_without_a_named_baseline_the_controls_must_agree_on_one(tmp_path: Path) -> None:
    write(tmp_path, [line("d0", "control"), line("d1", "control", artifact="sha256:" + "cc" * 32)])
    with pytest.raises(RolloutError, match=r"d1.jsonl:1: the control d1 ran sha256:cccc"):
        read(tmp_path, baseline=None)
