"""What every power back-end does: one by commands on the host, one by the control socket of a virtual board."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import alive, until

from pytest_edgehil.board.power import CommandSwitch, Power, open_power
from pytest_edgehil.errors import PowerError
from pytest_edgehil.model.board import Board, CommandPower, Environment, VirtualPower

SWITCH = """\
import pathlib, sys
state, verb = pathlib.Path(sys.argv[1]), sys.argv[2]
if state.with_name("broken").exists():
    sys.exit("relay 3: no route to host")
if verb == "status":
    print("relay 3:", state.read_text())
elif not state.with_name("stuck").exists():
    state.write_text(verb)
    with state.with_name("journal").open("a") as journal:
        journal.write(verb + "\\n")
"""


class FakeSupervisor:
    """The control socket as a virtual board serves it, so deep that its path does not fit into sockaddr_un."""

    def __init__(self, directory: Path) -> None:
        deep = directory / ("d" * 100) / "e"
        deep.mkdir(parents=True)
        self.path = deep / "control"
        assert len(os.fsencode(self.path)) > 108
        self.state = "off"
        self.journal: list[str] = []
        self.broken = ""
        self.stuck = False
        self.answer: bytes | None = None
        descriptor = os.open(deep, os.O_PATH)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"/proc/self/fd/{descriptor}/control")
        os.close(descriptor)
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client, client.makefile("rw") as lines:
                lines.write(self._reply(json.loads(lines.readline())["do"]))

    def _reply(self, verb: str) -> str:
        if self.answer is not None:
            return self.answer.decode()
        if self.broken:
            return json.dumps({"ok": False, "error": self.broken}) + "\n"
        if verb != "status" and not self.stuck:
            self.journal += ["off", "on"] if verb == "power-cycle" else [verb.removeprefix("power-")]
            self.state = self.journal[-1]
        return json.dumps({"ok": True, "power": self.state}) + "\n"

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


class Rig:
    def __init__(
        self, power: Power, journal: Callable[[], list[str]], break_it: Callable[[], None], jam: Callable
    ) -> None:
        self.power = power
        self.journal = journal
        self.break_it = break_it
        self.jam = jam


def board(power: CommandPower | VirtualPower | None) -> Board:
    return Board(id="pi5-01", cls="pi5-8gb-hat2", environment=Environment.HARDWARE, power=power)


@pytest.fixture(params=["command", "virtual"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param == "command":
        (tmp_path / "switch.py").write_text(SWITCH)
        (tmp_path / "state").write_text("off")
        argv = (sys.executable, "-S", "-E", str(tmp_path / "switch.py"), str(tmp_path / "state"))
        access = CommandPower(on=(*argv, "on"), off=(*argv, "off"), status=(*argv, "status"), off_s=2.0)
        yield Rig(
            open_power(board(access), sleep=lambda _: None),
            lambda: (tmp_path / "journal").read_text().split(),
            (tmp_path / "broken").touch,
            (tmp_path / "stuck").touch,
        )
        return
    supervisor = FakeSupervisor(tmp_path)

    def break_it() -> None:
        supervisor.broken = "relay 3: no route to host"

    yield Rig(
        open_power(board(VirtualPower(socket=supervisor.path))),
        lambda: supervisor.journal,
        break_it,
        lambda: setattr(supervisor, "stuck", True),
    )
    supervisor.close()


def test_on_and_off_are_seen_by_is_on(rig: Rig) -> None:
    assert rig.power.is_on() is False
    rig.power.on()
    assert rig.power.is_on() is True
    rig.power.off()
    assert rig.power.is_on() is False


def test_cycle_is_off_and_then_on(rig: Rig) -> None:
    rig.power.on()
    rig.power.cycle()
    assert rig.journal() == ["on", "off", "on"]
    assert rig.power.is_on() is True


def test_failure_carries_what_the_back_end_said(rig: Rig) -> None:
    rig.break_it()
    for verb in (rig.power.on, rig.power.off, rig.power.cycle, rig.power.is_on):
        with pytest.raises(PowerError, match=r"power of pi5-01: .*relay 3: no route to host"):
            verb()


def test_a_switch_that_does_not_switch_is_found_out(rig: Rig) -> None:
    rig.jam()
    with pytest.raises(PowerError, match=r"the board is (still )?off"):
        rig.power.on()


# --- the command back-end ----------------------------------------------------------------------------


def command(**fields: object) -> CommandSwitch:
    return CommandSwitch(CommandPower(**{"on": ("true",), "off": ("true",), **fields}), board_id="pi5-01")


def test_cycle_waits_between_off_and_on(tmp_path: Path) -> None:
    waits: list[float] = []
    CommandSwitch(CommandPower(on=("true",), off=("true",), off_s=7.5), board_id="b", sleep=waits.append).cycle()
    assert waits == [7.5]


def test_without_a_status_command_nobody_knows() -> None:
    power = command()
    power.on()
    assert power.is_on() is None


@pytest.mark.parametrize(("said", "state"), [("on", True), ("port 3: OFF", False), ("x = 1", True), ("0\n", False)])
def test_status_is_the_last_word(said: str, state: bool) -> None:
    assert command(status=("printf", "%s", said)).is_on() is state


@pytest.mark.parametrize("said", ["", "maybe", "on fire"])
def test_status_that_says_neither_is_an_error(said: str) -> None:
    with pytest.raises(PowerError, match="its last word must be one of on, 1, true, off, 0, false"):
        command(status=("printf", "%s", said)).is_on()


def test_arguments_are_not_seen_by_a_shell(tmp_path: Path) -> None:
    target = tmp_path / "$(touch oops); *"
    command(on=("touch", str(target))).on()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_missing_program_is_a_power_error() -> None:
    with pytest.raises(PowerError, match="no-such-tool cannot be started: No such file or directory; is it installed"):
        command(on=("no-such-tool",)).on()


def deadline_begins_with(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that a busy host has not let begin would be killed before it has shown anything."""
    communicate = subprocess.Popen.communicate

    def patient(process: subprocess.Popen[bytes], *arguments: object, **options: object) -> object:
        until(lambda: note.exists() and note.read_text().endswith("\n"))
        return communicate(process, *arguments, **options)

    monkeypatch.setattr(subprocess.Popen, "communicate", patient)


def test_command_that_hangs_is_killed_with_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "trap '' TERM; echo 'relay is warming up' >&2; sleep 100 & echo $! >\"$1\"; wait"
    deadline_begins_with(tmp_path / "child", monkeypatch)
    with pytest.raises(PowerError, match=r"took longer than 1 s and was killed: relay is warming up"):
        command(on=("sh", "-c", script, "sh", str(tmp_path / "child")), timeout_s=1.0).on()
    child = int((tmp_path / "child").read_text())
    until(lambda: not alive(child))


def test_daemon_that_keeps_the_pipes_open_does_not_hang_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadline_begins_with(tmp_path / "daemon", monkeypatch)
    # it says so itself, when it has left its group: until then it would be killed with it
    script = """setsid sh -c 'echo $$ >"$1"; exec sleep 600' sh "$1" & wait"""
    power = command(on=("sh", "-c", script, "sh", str(tmp_path / "daemon")), timeout_s=1.0)
    with pytest.raises(PowerError, match="took longer than 1 s"):
        power.on()
    daemon = int((tmp_path / "daemon").read_text())
    assert alive(daemon)  # it left its group and holds the pipes, and still we came back
    os.kill(daemon, signal.SIGKILL)


# --- the virtual back-end ----------------------------------------------------------------------------


def test_virtual_board_that_is_not_running_is_a_power_error(tmp_path: Path) -> None:
    with pytest.raises(PowerError, match="is the virtual board running"):
        open_power(board(VirtualPower(socket=tmp_path / "nobody" / "control"))).on()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "c"))
    dead.close()
    assert stat.S_ISSOCK((tmp_path / "c").stat().st_mode)
    with pytest.raises(PowerError, match="is the virtual board running"):
        open_power(board(VirtualPower(socket=tmp_path / "c"))).is_on()


@pytest.mark.parametrize("answer", [b"", b"[1]\n", b"gibberish\n", b'{"ok": true}\n', b'{"ok": true, "power": 1}\n'])
def test_garbage_from_a_supervisor_is_a_power_error(answer: bytes, tmp_path: Path) -> None:
    supervisor = FakeSupervisor(tmp_path)
    supervisor.answer = answer
    with pytest.raises(PowerError, match="power of pi5-01"):
        open_power(board(VirtualPower(socket=supervisor.path))).on()
    supervisor.close()


def test_board_without_power_says_what_to_add() -> None:
    with pytest.raises(PowerError, match="pi5-01 has no power back-end; add 'power:'"):
        open_power(board(None))
