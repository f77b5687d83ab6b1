"""What came of tests on a board is in the lab's database, from whichever worker; a run does not depend on it."""

from __future__ import annotations

import pytest
from support.everyday import BOTH
from support.standing_farm import Ran

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.plugin.visits import console_end


@BOTH
def test_each_test_on_a_board_leaves_its_verdicts_with_the_board(everyday: Ran, monkeypatch: pytest.MonkeyPatch):
    everyday.result.assert_outcomes(passed=4, failed=1)
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(everyday.farm.state))
    with open_store(load_lab(everyday.farm.lab)) as store:
        visits = {one.test.rpartition("::test_")[2]: one for one in store.visits()}
        tokens = {line.token for line in store.audit()}
    assert set(visits) == {"fast", "slow", "shared", "own"}
    assert (visits["fast"].status, visits["fast"].verdicts) == ("passed", (("p95_latency", "PASS"),))
    assert (visits["slow"].status, visits["slow"].verdicts) == ("failed", (("p95_latency", "FAIL"),))
    assert "12 ms" in visits["slow"].message
    assert {one.token for one in visits.values()} <= tokens
    assert any("login:" in one.console for one in visits.values())


def test_the_end_of_a_console_is_plain_text_of_whole_lines(tmp_path):
    log = tmp_path / "b.log"
    assert console_end(log) == ""
    log.write_bytes(b"\x1b[32mgreen\x1b[0m\r\nb\xffd\x07\n")
    assert console_end(log) == "green\nb\ufffdd"
    log.write_bytes(b"x" * 5990 + b"\n" + b"last line\n" * 3)
    assert console_end(log) == "last line\nlast line\nlast line"
