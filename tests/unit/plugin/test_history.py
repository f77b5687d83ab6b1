"""Durations kept from run to run: robust against damage and against two runs at once, and forgetful."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from pytest_edgehil.plugin.scheduling.history import (
    FORGOTTEN_AFTER_S,
    FORMAT,
    History,
    Took,
    add_to_history,
    read_history,
)

NOW = 1_800_000_000.0


def took(nodeid: str, duration_s: float, *, combo: str = "model=a", cls: str = "pi5") -> Took:
    return Took(nodeid=nodeid, combo=combo, cls=cls, duration_s=duration_s)


def test_what_one_run_saw_the_next_one_expects(tmp_path):
    path = tmp_path / "state" / "durations.json"
    add_to_history(path, [took("t::a", 3.0), took("t::a", 9.0, cls="pi4"), took("", 30.0)], now=NOW)
    history = read_history(path)
    assert history.expected_s("t::a", "model=a", ["pi5"]) == 3.0
    assert history.expected_s("t::a", "model=a", ["pi4", "pi5"]) == 6.0
    assert history.expected_s("t::a", "model=a", ["another"]) == 6.0
    assert history.expected_s("t::a", "model=b", ["pi5"]) is None
    assert history.flash_s("model=a") == 30.0
    assert history.flash_s("model=b") is None


def test_the_latest_runs_weigh_most():
    history = History({})
    for duration_s in [10.0] * 50 + [20.0] * 5:
        history = history.with_more([took("t::a", duration_s)], now=NOW)
    expected_s = history.expected_s("t::a", "model=a", ["pi5"])
    assert expected_s is not None
    assert 17.0 < expected_s < 20.0


def test_what_has_not_been_seen_for_long_is_forgotten():
    history = History({}).with_more([took("t::old", 1.0)], now=NOW)
    later = history.with_more([took("t::new", 1.0)], now=NOW + FORGOTTEN_AFTER_S + 1)
    assert (len(history), len(later)) == (1, 1)
    assert later.expected_s("t::old", "model=a", ["pi5"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "[1, 2]",
        "null",
        "[" * 100_000,
        json.dumps({"format": FORMAT + 1, "took": [["t::a", "", "", 1.0, 1, NOW]]}),
        json.dumps({"format": FORMAT, "took": {"t::a": 1}}),
        json.dumps({"format": FORMAT, "took": [["t::a"], 7, None, ["t::a", "", "", "long", 1, 1]]}),
        '{"format": 1, "took": [["a", "", "", NaN, 1, 1], ["a", "", "", -1.0, 1, 1], ["a", "", "", 1e300, 1, 1]]}',
    ],
)
def test_a_damaged_file_counts_as_empty_and_is_replaced(tmp_path, text):
    path = tmp_path / "durations.json"
    path.write_text(text)
    assert len(read_history(path)) == 0
    add_to_history(path, [took("t::b", 2.0)], now=NOW)
    assert read_history(path).expected_s("t::b", "model=a", ["pi5"]) == 2.0


def test_a_row_that_is_damaged_does_not_take_the_others_with_it(tmp_path):
    path = tmp_path / "durations.json"
    path.write_text(json.dumps({"format": FORMAT, "took": [["bad"], ["t::a", "", "", 4, 1, NOW]]}))
    assert read_history(path).expected_s("t::a", "", []) == 4.0


def test_nonsense_is_not_learned():
    history = History({}).with_more([took("t::a", math.nan), took("t::b", -1.0), took("t::c", 1e12)], now=NOW)
    assert len(history) == 0


def test_runs_that_end_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "durations.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: add_to_history(path, [took(f"t::{at}", 1.0)], now=NOW), range(24)))
    assert len(read_history(path)) == 24
    assert sorted(one.name for one in tmp_path.iterdir()) == [".durations.json.lock", "durations.json"]
