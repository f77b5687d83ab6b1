"""Limits, priorities and maintenance in lab.yaml: what is read, and what is said about mistakes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support.lab_files import FARM, make_lab

from pytest_edgehil.errors import LabFileError
from pytest_edgehil.lab.limits import Window


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("limits: {max_lease: 5 s}", "limits.max_lease: 5 s is less than lease_expiry: expected 10 s or more"),
        ("limits: {per_usr: 3}", "limits.per_usr: unknown key; did you mean 'per_user'"),
        ("limits: {extend: always}", "limits.extend: "),
        ("priorities: [{branch: main, priority: 101}]", "priority"),
        ("maintenance: [{start: 'Son 02:00', lasts: 1 h}]", "there is no day 'Son'"),
        ("maintenance: [{start: '25:00', lasts: 1 h}]", "'25:00' is no time"),
        ("maintenance: [{start: noon, lasts: 1 h}]", "expected 'Sun 02:00' each week"),
        ("maintenance: [{start: '02:00', lasts: 1 h, zone: Europe/Berln}]", "did you mean 'Europe/Berlin'"),
        (
            "maintenance: [{start: '02:00', lasts: 1 h, boards: [hat1]}]",
            "there is no board 'hat1'; did you mean 'hat-1'",
        ),
        ("maintenance: [{start: '02:00', lasts: 1 h, classes: [pi9]}]", "no board has the class 'pi9'"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(LabFileError) as wrong:
        make_lab(tmp_path, f"{FARM}{text}\n")

    assert told in "\n".join(wrong.value.problems)


def test_a_window_without_boards_or_classes_is_the_whole_lab_s(tmp_path: Path) -> None:
    lab = make_lab(tmp_path, f"{FARM}maintenance: [{{start: 'sun 02:00', lasts: 1 h}}]\n")

    assert lab.limits.windows[0].boards == {"hat-1", "hat-2", "bare-1", "bare-2"}
    assert (lab.limits.windows[0].every, lab.limits.windows[0].start.strftime("%a %H:%M")) == ("week", "Sun 02:00")


def test_an_hour_lasts_an_hour_also_when_the_clocks_change_in_it() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    window = Window(
        boards=frozenset({"a"}),
        start=dt.datetime(2026, 1, 1, 1, 30),
        every="day",
        duration_s=3600,
        drain_s=0,
        zone=berlin,
        reason="r",
    )
    begin = dt.datetime(2026, 3, 29, 1, 30, tzinfo=berlin).timestamp()  # at 02:00 it is 03:00

    assert window.current(begin - 1) is None
    assert window.current(begin + 3599) == (begin, begin + 3600)
    assert dt.datetime.fromtimestamp(begin + 3600, berlin).strftime("%H:%M") == "03:30"


def test_the_first_priority_that_fits_the_branch_counts(tmp_path: Path) -> None:
    rules = "priorities: [{branch: 'release/*', priority: 10}, {branch: '*', priority: -1}]"
    limits = make_lab(tmp_path, f"{FARM}{rules}\n").limits

    assert limits.priority({"GITHUB_REF_NAME": "release/2.1"}) == 10
    assert limits.priority({"CI_COMMIT_REF_NAME": "topic"}) == -1
    assert limits.priority({"EDGEHIL_BRANCH": "release/3", "GITHUB_REF_NAME": "topic"}) == 10
    assert limits.priority({}) == 0
