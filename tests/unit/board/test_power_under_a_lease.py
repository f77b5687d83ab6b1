"""A relay knows no lease: so the lease is looked at right before, and the command itself looks at the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_edgehil.board.power import CommandSwitch
from pytest_edgehil.errors import LeaseLost, PowerError
from pytest_edgehil.model.board import CommandPower
from pytest_edgehil.model.fencing import Bearer, Right


class Lease:
    """A lease that ends when the test says so."""

    def __init__(self) -> None:
        self.lost = False
        self.asked = 0
        self.left_s = 1000.0

    def check(self) -> None:
        self.asked += 1
        if self.lost:
            raise LeaseLost("lease on pi5-01 expired 12 s ago; it is held by ci-841 now")

    @property
    def right(self) -> Right:
        return Right(bearer=Bearer(token=7, holder="ci-5"), check=self.check, left_s=lambda: self.left_s)


@pytest.fixture
def lease() -> Lease:
    return Lease()


def switch(tmp_path: Path, lease: Lease, *, sleep: Callable[[float], None] = lambda _: None) -> CommandSwitch:
    def does(word: str) -> tuple[str, ...]:
        line = f'echo "{word} $EDGEHIL_BOARD $EDGEHIL_TOKEN $EDGEHIL_HOLDER" >>{tmp_path}/journal'
        return ("/bin/sh", "-c", line)

    access = CommandPower(on=does("on"), off=does("off"))
    return CommandSwitch(access, board_id="pi5-01", right=lease.right, sleep=sleep)


def journal(tmp_path: Path) -> list[str]:
    path = tmp_path / "journal"
    return path.read_text().splitlines() if path.exists() else []


def test_the_command_is_told_under_which_lease_it_switches(tmp_path, lease):
    switch(tmp_path, lease).on()
    assert journal(tmp_path) == ["on pi5-01 7 ci-5"]
    assert lease.asked == 1


def test_without_the_lease_nothing_is_switched(tmp_path, lease):
    lease.lost = True
    for verb in ("on", "off", "cycle"):
        with pytest.raises(LeaseLost, match="held by ci-841"):
            getattr(switch(tmp_path, lease), verb)()
    assert journal(tmp_path) == []


def test_whoever_is_paused_between_the_look_and_the_switch_switches_nothing(tmp_path, lease):
    # as after SIGCONT: the books said yes, and by the time the command starts the lease has ended
    lease.left_s = 0.0
    with pytest.raises(PowerError, match="was not run: the lease was over before it could begin"):
        switch(tmp_path, lease).off()
    assert journal(tmp_path) == []
    assert lease.asked == 2  # once more after it: the books may say by now who has the board


def test_a_lease_that_is_lost_in_a_cycle_leaves_the_board_to_the_next_holder_and_says_so(tmp_path, lease):
    def sleep(_: float) -> None:
        lease.lost = True

    with pytest.raises(LeaseLost, match="held by ci-841 now; it was left without power, between off and on"):
        switch(tmp_path, lease, sleep=sleep).cycle()
    assert journal(tmp_path) == ["off pi5-01 7 ci-5"]


def test_a_missing_tool_is_still_named(lease):
    access = CommandPower(on=("no-such-tool", "on"), off=("no-such-tool", "off"))
    with pytest.raises(PowerError, match=r"no-such-tool on cannot be started: .*is it installed on this host"):
        CommandSwitch(access, board_id="pi5-01", right=lease.right).on()
