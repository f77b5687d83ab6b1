"""What came of tests on a board is in the lab's database, from whichever worker; a run does not depend on it."""

from __future__ import annotations

import pytest
from support.farm import Farm

from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.lab.store import open_store
from pytest_edgehil.plugin.visits import console_end

SUITE = """
    import numpy as np
    import pytest

    X = {"image": np.zeros((1, 4), dtype=np.float32)}

    @pytest.mark.combo(model="steady")
    @pytest.mark.p95_latency("12 ms")
    def test_fast_enough(dut):
        dut.run(X)

    @pytest.mark.combo(model="slow")
    @pytest.mark.p95_latency("12 ms")
    def test_too_slow(dut):
        dut.run(X)

    def test_without_a_board():
        pass
"""


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_each_test_on_a_board_leaves_its_verdicts_with_the_board(farm: Farm, workers: tuple[str, ...]):
    farm.pytester.makepyfile(SUITE)
    farm.run(*workers).assert_outcomes(passed=2, failed=1)
    with open_store(load_lab(farm.lab)) as store:
        visits = {one.test.rpartition("::test_")[2]: one for one in store.visits()}
        tokens = {line.token for line in store.audit()}
    assert set(visits) == {"fast_enough", "too_slow"}
    assert (visits["fast_enough"].status, visits["fast_enough"].verdicts) == ("passed", (("p95_latency", "PASS"),))
    assert (visits["too_slow"].status, visits["too_slow"].verdicts) == ("failed", (("p95_latency", "FAIL"),))
    assert "12 ms" in visits["too_slow"].message
    assert {one.token for one in visits.values()} <= tokens
    assert any("login:" in one.console for one in visits.values())


def test_the_end_of_a_console_is_plain_text_of_whole_lines(tmp_path):
    log = tmp_path / "b.log"
    assert console_end(log) == ""
    log.write_bytes(b"\x1b[32mgreen\x1b[0m\r\nb\xffd\x07\n")
    assert console_end(log) == "green\nb\ufffdd"
    log.write_bytes(b"x" * 5990 + b"\n" + b"last line\n" * 3)
    assert console_end(log) == "last line\nlast line\nlast line"
