"""A reservation is never given to a board that is off, does not answer, or is another one than the lab says."""

from __future__ import annotations

import json
import re

import pytest
from support.standing_farm import Ran, StandingFarm, run_once

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIVbXIN6Tdr0lmqHaVkbQ7pSLxGK2xXOJ0eOcX3Z9rVq"

UNFIT = {
    "off": ("virtual: {faults: [{kind: power-cut, after_s: 0}]}", r"nobody answers|refused|connect|no power"),
    "silent": ("virtual: {faults: [{kind: ssh-refused}]}", r"refused|nobody answers|connect"),
    "stuck": ("virtual: {faults: [{kind: stuck-boot}]}", r"refused|nobody answers|connect"),
    "other-key": (f"ssh: {{host_key: {OTHER_KEY}}}", r"host key"),
    "other-serial": ("serial: 10000000deadbeef", r"another board answers: its serial number is \w+, the lab says 1000"),
}
"""Board → what is wrong with it, and what must be said of it."""

SUITE = """
    def test_first(board):
        assert board.run("true").exit_status == 0

    def test_second(board):
        assert board.run("true").exit_status == 0
"""


def prepare(farm: StandingFarm) -> None:
    lines = ["lab: farm", "lease_expiry: 30 s", "health: {recheck: 1 d, longest_recheck: 1 d}", "boards:"]
    for name, (wrong, _) in UNFIT.items():
        lines.append(f"  {name}: {{class: pi5, environment: virtual, {wrong}}}")
    lines.append("  well: {class: pi5, environment: virtual}")
    farm.lab.write_text("\n".join(lines) + "\n")
    farm.suite(SUITE)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return run_once(tmp_path_factory, "unfit-boards", prepare, "-rA")


def test_the_tests_run_on_the_healthy_board_at_their_first_attempt(ran: Ran):
    ran.result.assert_outcomes(passed=2)
    assert ran.result.ret == 0
    for name in ("test_first", "test_second"):
        (only,) = ran.attempts[name]
        assert (only["status"], only["board"]["id"]) == ("passed", "well")


@pytest.mark.parametrize("name", UNFIT)
def test_the_others_are_quarantined_with_what_was_found(ran: Ran, name: str):
    state = ran.states[name]
    assert state["state"] == "quarantined"
    assert re.search(UNFIT[name][1], state["reason"]), state["reason"]
    told = json.dumps(ran.attempts["test_first"][0]["steps"])
    assert f"{name} did not pass its check and is quarantined" in told
