"""Places of a real labgrid lab: who may have one, and that a dead holder gives it back."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.labgrid_lab import LabgridLab, labgrid_lab
from support.processes import until

from pytest_edgehil.board.power import Power, open_power
from pytest_edgehil.cli import main
from pytest_edgehil.errors import LabFileError, LabgridError, PlaceTaken, PowerError
from pytest_edgehil.lab.inventory import load_lab
from pytest_edgehil.labgrid.conversation import Conversation, Coordinator
from pytest_edgehil.labgrid.places import hold, places
from pytest_edgehil.model.board import Board, Environment, LabgridPower

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

pytestmark = [pytest.mark.needs("labgrid"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabgridLab]:
    with labgrid_lab(tmp_path_factory.mktemp("labgrid")) as lab:
        yield lab


@pytest.fixture
def coordinator(theirs: LabgridLab) -> Coordinator:
    return Coordinator(address=theirs.address, python=theirs.python)


@pytest.fixture(scope="module")
def survey(theirs: LabgridLab) -> Iterator[Conversation]:
    at = Coordinator(address=theirs.address, python=theirs.python)
    with Conversation(at, host="elsewhere", user="survey") as conversation:
        yield conversation


@pytest.fixture
def held(survey: Conversation) -> Callable[[], dict[str, str | None]]:
    """Who holds what now, asked at the coordinator."""
    return lambda: {place["name"]: place["acquired"] for place in survey.ask("places")["places"]}


def test_places_come_with_what_is_exported_for_them(coordinator):
    first, second = places(coordinator)
    assert (first.name, first.acquired, first.tags) == ("rpi5-01", None, {"board": "rpi5"})
    found = {one.cls: one.params for one in first.resources}
    assert found["NetworkService"] == {"address": "127.0.0.1", "username": "edge", "port": 2201}
    assert found["NetworkPowerPort"]["index"] == 3
    assert [one.cls for one in second.resources] == ["NetworkService"]


def test_a_place_is_held_until_it_is_given_back_and_labgrid_shows_by_whom(coordinator, theirs, held):
    ours = hold(coordinator, ["rpi5-01", "rpi5-02"], lab="rack 1/b", who="ci-841")
    assert held() == dict.fromkeys(("rpi5-01", "rpi5-02"), "edgehil-rack-1-b/ci-841")
    refused = theirs.client("acquire", place="rpi5-01")
    assert refused.returncode != 0
    assert "ci-841" in refused.stderr + refused.stdout
    assert ours.lost() is None
    ours.release()
    ours.release()
    assert held() == dict.fromkeys(("rpi5-01", "rpi5-02"))


def test_what_a_colleague_holds_is_taken_and_nothing_is_kept_of_the_request(coordinator, theirs, held):
    assert theirs.client("acquire", place="rpi5-02").returncode == 0
    with pytest.raises(PlaceTaken, match="elsewhere/colleague holds the place rpi5-02 in labgrid") as refused:
        hold(coordinator, ["rpi5-01", "rpi5-02"], lab="rack", who="ci")
    assert refused.value.place == "rpi5-02"
    assert held() == {"rpi5-01": None, "rpi5-02": "elsewhere/colleague"}
    assert theirs.client("release", place="rpi5-02").returncode == 0


def test_a_killed_holder_gives_its_place_back(coordinator, theirs, held):
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pytest_edgehil.labgrid.conversation import Coordinator\nfrom pytest_edgehil.labgrid.places import hold\n"
        "hold(Coordinator(address=sys.argv[1], python=Path(sys.argv[2])), ['rpi5-01'], lab='rack', who='ci')\n"
        "print('held', flush=True)\ntime.sleep(600)\n"
    )
    argv = [sys.executable, "-c", program, theirs.address, str(theirs.python)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert held()["rpi5-01"] == "edgehil-rack/ci"
        os.kill(holder.pid, signal.SIGKILL)
    until(lambda: held()["rpi5-01"] is None, timeout_s=120)


def test_what_our_own_lab_left_behind_is_taken_over(coordinator, theirs, held):
    left = hold(coordinator, ["rpi5-01"], lab="rack", who="on-a-host-that-burned")
    ours = hold(coordinator, ["rpi5-01"], lab="rack", who="ci")
    assert held()["rpi5-01"] == "edgehil-rack/ci"
    until(lambda: left.lost() is not None, timeout_s=120)
    left.release()
    assert held()["rpi5-01"] == "edgehil-rack/ci"
    ours.release()


def test_a_place_that_somebody_kicks_us_from_is_lost(coordinator, theirs, held):
    ours = hold(coordinator, ["rpi5-01"], lab="rack", who="ci")
    kicked = theirs.client("release", "--kick", place="rpi5-01")
    assert kicked.returncode == 0, kicked.stderr
    assert theirs.client("acquire", place="rpi5-01").returncode in {0, 1}  # we may have been quicker
    if theirs.holder("rpi5-01") == "elsewhere/colleague":
        until(lambda: ours.lost() is not None, timeout_s=120)
        assert "colleague" in (ours.lost() or "")
        assert theirs.client("release", place="rpi5-01").returncode == 0
    ours.release()
    assert held()["rpi5-01"] is None


def test_after_a_restart_of_the_coordinator_the_place_is_ours_again(coordinator, theirs, held):
    ours = hold(coordinator, ["rpi5-02"], lab="rack", who="ci")
    theirs.stop("coordinator")
    theirs.stop("exporter")
    theirs.start("coordinator")
    until(lambda: theirs.client("places").returncode == 0, timeout_s=120)
    theirs.start("exporter")
    until(theirs.exported, timeout_s=120)
    theirs.make_places()
    until(lambda: held()["rpi5-02"] == "edgehil-rack/ci" or ours.lost() is not None, timeout_s=120)
    assert ours.lost() is None
    ours.release()
    assert held()["rpi5-02"] is None


def test_a_place_whose_exporter_is_away_is_not_given(coordinator, theirs):
    theirs.stop("exporter")
    until(lambda: not places(coordinator)[0].resources, timeout_s=120)
    with pytest.raises(PlaceTaken, match=r"nothing that is exported now matches lab1/rpi5-01/\* of the place rpi5-01"):
        hold(coordinator, ["rpi5-01"], lab="rack", who="ci")
    theirs.start("exporter")
    until(theirs.exported, timeout_s=120)


def test_a_place_without_a_match_is_not_given(coordinator, theirs):
    assert theirs.client("create", place="bare").returncode == 0
    try:
        with pytest.raises(PlaceTaken, match=r"no resource belongs to the place bare"):
            hold(coordinator, ["bare"], lab="rack", who="ci")
    finally:
        assert theirs.client("delete", place="bare").returncode == 0


def test_a_place_that_is_not_there_is_named_with_those_that_are(coordinator):
    with pytest.raises(LabgridError, match=r"no place 'rpi5-11'; its places are rpi5-01, rpi5-02"):
        hold(coordinator, ["rpi5-11"], lab="rack", who="ci")


def test_nobody_at_the_address_is_one_line(theirs):
    with pytest.raises(LabgridError, match=r"no labgrid coordinator answers at 127\.0\.0\.1:1$"):
        places(Coordinator(address="127.0.0.1:1", python=theirs.python))


def test_an_interpreter_without_labgrid_is_named(theirs):
    with pytest.raises(LabgridError, match=r"it has no labgrid: install it there"):
        places(Coordinator(address=theirs.address, python=Path(sys.executable)))


def test_its_drivers_switch_the_power(theirs):
    def power(**changes: object) -> Power:
        access = LabgridPower(
            python=theirs.python,
            model="rest",
            host=f"http://127.0.0.1:{theirs.relay_port}/relay/{{index}}/value",
            index="3",
            off_s=0.0,
            timeout_s=120.0,
        )
        board = Board(id="rpi5-01", cls="pi5", environment=Environment.HARDWARE, power=replace(access, **changes))
        return open_power(board)

    switch = power()
    switch.on()
    assert theirs.relays["/relay/3/value"] == b"1"
    assert switch.is_on() is True
    switch.off()
    assert theirs.relays["/relay/3/value"] == b"0"
    switch.cycle()
    assert theirs.relays["/relay/3/value"] == b"1"
    with pytest.raises(PowerError, match=r"power of rpi5-01: on by labgrid's reset at .* failed: ModuleNotFoundError"):
        power(model="reset").on()


def test_its_places_are_the_beginning_of_a_lab_file(theirs, coordinator, tmp_path, capsys):
    assert main(["lab", "labgrid", theirs.address, "--python", str(theirs.python)]) == 0
    text = capsys.readouterr().out
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(LabFileError) as wrong:
        load_lab(path)
    assert {problem.partition(": boards.")[2].partition(":")[0] for problem in wrong.value.problems} == {
        "rpi5-01.ssh.key", "rpi5-01.ssh.host_key", "rpi5-02.ssh.key", "rpi5-02.ssh.host_key",
    }  # fmt: skip
    path.write_text(re.sub(r"host_key: .*", f"host_key: {HOST_KEY}", re.sub(r"\bkey: .*", "key: id_ed25519", text)))
    lab = load_lab(path)
    assert lab.labgrid == coordinator
    board = lab.board("rpi5-01")
    assert (board.cls, board.place) == ("rpi5", "rpi5-01")
    assert (board.ssh.host, board.ssh.port, board.ssh.user) == ("127.0.0.1", 2201, "edge")
    assert board.console.url == "rfc2217://127.0.0.1:4001"
    assert isinstance(board.power, LabgridPower)
    assert (board.power.model, board.power.index) == ("rest", "3")
    assert lab.board("rpi5-02").power is None
