"""The power switch of a board: whatever hangs, this ends it.

Four back-ends. `command` runs what the lab file says on this host (a PDU's tool, snmpset, uhubctl): an argument
vector, no shell, with a deadline. `labgrid` has a network driver of labgrid do it, in labgrid's own interpreter. `qmp`
holds and resets the machine that a QEMU emulates. `virtual` talks to the control socket of a virtual board: one JSON
object per line, ``{"do": "power-off"}`` is answered by ``{"ok": true, "power": "off", …}`` or ``{"ok": false,
"error": "…"}``.

Where the state can be asked for, `on` and `off` check that it has come about: some hubs switch on again by themselves.

A relay knows no lease. So a switch that is given one (`Right`) asks the lab's books before each command, and the
command itself looks at the clock before it becomes the tool: whoever is paused between the two switches nothing. The
command finds board, token and holder in its environment (EDGEHIL_BOARD, EDGEHIL_TOKEN, EDGEHIL_HOLDER) for a power
server that can refuse a lower token; a virtual board does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.qmp import Qmp
from pytest_edgehil.board.redact import show_argv, tail
from pytest_edgehil.board.unix_socket import short_name
from pytest_edgehil.errors import Fenced, LabgridError, LeaseLost, PowerError
from pytest_edgehil.labgrid.conversation import ask_once
from pytest_edgehil.model.board import Board, CommandPower, LabgridPower, QmpPower, VirtualPower
from pytest_edgehil.model.fencing import Right

VIRTUAL_TIMEOUT_S = 30.0

# $0 is the end of the lease, in the hundredths of a second that the kernel counts from its start (proc(5), uptime).
_IN_TIME = """
read -r up _ </proc/uptime && [ "${up%.*}${up#*.}" -lt "$0" ] || { echo "the lease was over before it began"; exit 75; }
exec "$@"
"""
_TOO_LATE = 75

_STATES = {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}
_log = logging.getLogger("edgehil.board.power")


class Power(Protocol):
    """The power switch of one board.

    Every verb ends in bounded time and raises PowerError if it has not worked, LeaseLost or Fenced if the board is not
    ours any more.
    """

    def on(self) -> None:
        """Switches the power on; the board begins to boot. Nothing happens if it is on."""

    def off(self) -> None:
        """Cuts the power, without asking the board to shut down."""

    def cycle(self) -> None:
        """Off, long enough for the board to lose its state, and on."""

    def is_on(self) -> bool | None:
        """Whether the power is on; None if the back-end cannot tell."""


def open_power(board: Board, *, right: Right | None = None, sleep: Callable[[float], None] = time.sleep) -> Power:
    """The power switch that the lab file names for a board.

    Args:
        board: the board.
        right: to the board, looked at before each switch; None: nobody's business but the caller's.
        sleep: waits between off and on; injected by tests.

    Raises:
        PowerError: the lab file names none.
    """
    match board.power:
        case CommandPower():
            return CommandSwitch(board.power, board_id=board.id, right=right, sleep=sleep)
        case QmpPower():
            return QmpSwitch(board.power.socket, board_id=board.id, right=right)
        case VirtualPower():
            return VirtualSwitch(board.power.socket, board_id=board.id, right=right)
        case LabgridPower():
            return LabgridSwitch(board.power, board_id=board.id, right=right)
        case None:
            raise PowerError(f"{board.id} has no power back-end; add 'power:' to it in the lab file")


class _TooLateError(PowerError):
    """The lease was over before the command could begin."""


class CommandSwitch:
    """Power through commands on this host.

    The status command must end with 0, and the last word that it prints must be on, 1 or true, or off, 0 or false.
    """

    def __init__(
        self,
        access: CommandPower,
        *,
        board_id: str,
        right: Right | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._access = access
        self._board_id = board_id
        self._right = right
        self._sleep = sleep

    def on(self) -> None:
        """See `Power.on`."""
        self._switch(self._access.on, wanted=True)

    def off(self) -> None:
        """See `Power.off`."""
        self._switch(self._access.off, wanted=False)

    def cycle(self) -> None:
        """See `Power.cycle`."""
        self.off()
        self._sleep(self._access.off_s)
        try:
            self.on()
        except LeaseLost as lost:
            raise LeaseLost(f"{lost}; it was left without power, between off and on of a cycle") from lost

    def is_on(self) -> bool | None:
        """See `Power.is_on`."""
        if self._access.status is None:
            return None
        said = self._run(self._access.status)
        words = said.split()
        state = _STATES.get(words[-1].lower()) if words else None
        if state is None:
            raise PowerError(
                f"power of {self._board_id}: {show_argv(self._access.status)} said {said.strip()[-100:]!r}; "
                f"its last word must be one of {', '.join(_STATES)}"
            )
        return state

    def _switch(self, argv: tuple[str, ...], *, wanted: bool) -> None:
        if self._right is None:
            self._run(argv)
        else:
            self._right.check()
            self._run_in_time(argv, self._right)
        if self.is_on() is (not wanted):
            raise PowerError(
                f"power of {self._board_id}: {show_argv(argv)} ended well, but the board is still "
                f"{'off' if wanted else 'on'} by {show_argv(self._access.status or ())}"
            )

    def _run_in_time(self, argv: tuple[str, ...], right: Right) -> None:
        """Run a command that must have begun before the lease ends, however long we are paused from here on."""
        end = int((_uptime_s() + right.left_s()) * 100)
        program = shutil.which(argv[0])
        if program is None:
            self._run(argv)  # tells why it cannot be started
        try:
            self._run(("/bin/sh", "-c", _IN_TIME, str(max(end, 0)), *argv), shown=argv)
        except _TooLateError:
            right.check()  # says how it was lost, and to whom
            raise

    def _run(self, argv: tuple[str, ...], *, shown: tuple[str, ...] | None = None) -> str:
        what = f"power of {self._board_id}: {show_argv(shown or argv)}"
        _log.debug("%s", what)
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                start_new_session=True,  # so that the command can be killed together with what it starts
            )
        except OSError as exc:
            raise PowerError(f"{what} cannot be started: {exc.strerror}; is it installed on this host?") from exc
        with process:
            try:
                stdout, stderr = process.communicate(timeout=self._access.timeout_s)
            except subprocess.TimeoutExpired as exc:
                _kill_group(process)
                said = tail(exc.stderr or b"") or tail(exc.stdout or b"")
                raise PowerError(
                    f"{what} took longer than {self._access.timeout_s:g} s and was killed"
                    + (f": {said}" if said else "")
                ) from exc
            except BaseException:
                _kill_group(process)
                raise
        if process.returncode == _TOO_LATE and shown is not None:
            raise _TooLateError(f"{what} was not run: the lease was over before it could begin")
        if process.returncode != 0:
            said = tail(stderr) or tail(stdout) or "nothing"
            raise PowerError(f"{what} ended with exit status {process.returncode}, expected 0; it said: {said}")
        return stdout.decode("utf-8", "replace")

    def _environment(self) -> dict[str, str]:
        told = {"EDGEHIL_BOARD": self._board_id}
        if self._right is not None:
            told |= {"EDGEHIL_TOKEN": str(self._right.bearer.token), "EDGEHIL_HOLDER": self._right.bearer.holder}
        return os.environ | told


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # A daemon in a session of its own may still hold the pipes: they are closed, not read to their end.
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    process.wait()


class LabgridSwitch:
    """Power through a network driver of labgrid: one process of its interpreter for each verb, about a second."""

    def __init__(self, access: LabgridPower, *, board_id: str, right: Right | None = None) -> None:
        self._access = access
        self._board_id = board_id
        self._right = right

    def on(self) -> None:
        """See `Power.on`."""
        self._switch("on", wanted=True)

    def off(self) -> None:
        """See `Power.off`."""
        self._switch("off", wanted=False)

    def cycle(self) -> None:
        """See `Power.cycle`."""
        self._switch("cycle", wanted=True)

    def is_on(self) -> bool | None:
        """See `Power.is_on`."""
        return self._ask("get")

    def _switch(self, verb: str, *, wanted: bool) -> None:
        if self._right is not None:
            self._right.check()
        if self._ask(verb, right=self._right) is (not wanted):
            raise PowerError(
                f"power of {self._board_id}: labgrid's {self._access.model} did '{verb}', but the board is still "
                f"{'off' if wanted else 'on'}"
            )

    def _ask(self, verb: str, *, right: Right | None = None) -> bool | None:
        access = self._access
        what = f"power of {self._board_id}: {verb} by labgrid's {access.model} at {access.host}"
        words = ["--model", access.model, "--host", access.host, "--index", access.index, "--off-s", f"{access.off_s}"]
        if right is not None:
            words += ["--until", f"{_uptime_s() + right.left_s():.2f}"]
        try:
            answer = ask_once(access.python, "power", verb, *words, timeout_s=access.timeout_s + access.off_s)
        except LabgridError as wrong:
            raise PowerError(f"{what}: {wrong}") from wrong
        if answer.get("late") and right is not None:
            right.check()  # says how the lease was lost, and to whom
            raise _TooLateError(f"{what} was not done: the lease was over before it could begin")
        if not answer["ok"]:
            raise PowerError(f"{what} failed: {answer['error']}")
        state: bool | None = answer["on"]
        return state


def _uptime_s() -> float:
    """What whoever switches looks at: it goes on while a process is paused, and while the machine sleeps."""
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])


class VirtualSwitch:
    """Power of a virtual board, by its supervisor. Each verb makes a connection of its own."""

    def __init__(
        self, path: Path, *, board_id: str, right: Right | None = None, timeout_s: float = VIRTUAL_TIMEOUT_S
    ) -> None:
        self._path = path
        self._board_id = board_id
        self._right = right
        self._timeout_s = timeout_s

    def on(self) -> None:
        """See `Power.on`."""
        self._switch("power-on", wanted=True)

    def off(self) -> None:
        """See `Power.off`."""
        self._switch("power-off", wanted=False)

    def cycle(self) -> None:
        """See `Power.cycle`."""
        self._switch("power-cycle", wanted=True)

    def is_on(self) -> bool:
        """See `Power.is_on`."""
        return self._ask("status")

    def _switch(self, verb: str, *, wanted: bool) -> None:
        if self._right is not None:
            self._right.check()
        if self._ask(verb) is not wanted:
            raise PowerError(
                f"power of {self._board_id}: {verb} was answered, but the board is {'off' if wanted else 'on'}"
            )

    def _ask(self, verb: str) -> bool:
        """Sends one request; whether the power is on after it."""
        what = f"power of {self._board_id}: {verb} at {self._path}"
        _log.debug("%s", what)
        deadline = Deadline(self._timeout_s)
        under = {} if self._right is None or verb == "status" else dataclasses.asdict(self._right.bearer)
        try:
            line = self._exchange(json.dumps({"do": verb, **under}).encode() + b"\n", deadline)
        except TimeoutError as exc:
            raise PowerError(f"{what}: no answer within {self._timeout_s:g} s; its supervisor hangs") from exc
        except OSError as exc:
            raise PowerError(f"{what}: {exc.strerror or exc}; is the virtual board running?") from exc
        try:
            answer: Any = json.loads(line)
        except ValueError as exc:
            raise PowerError(f"{what}: the answer is no JSON line: {line[:80]!r}") from exc
        if isinstance(answer, dict) and answer.get("code") == "fenced":
            raise Fenced(str(answer.get("error")))
        if not isinstance(answer, dict) or answer.get("ok") is not True:
            raise PowerError(f"{what} was refused: {answer.get('error') if isinstance(answer, dict) else answer!r}")
        if answer.get("power") not in {"on", "off"}:
            raise PowerError(f"{what}: the answer does not say whether the power is on or off: {line[:80]!r}")
        return bool(answer["power"] == "on")

    def _exchange(self, request: bytes, deadline: Deadline) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection, short_name(self._path) as address:
            connection.settimeout(max(deadline.left_s(), 0.001))
            connection.connect(address)
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\n"):
                connection.settimeout(max(deadline.left_s(), 0.001))
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        return answer


class QmpSwitch:
    """Power of an emulated board, by QEMU itself. Each verb makes a connection of its own.

    A board that is off is a machine that has been reset and does not run: nothing of its memory counts any more, and
    nothing that it had not given to its disk is there. On is to let it run, from its bootloader.
    """

    def __init__(
        self, path: Path, *, board_id: str, right: Right | None = None, timeout_s: float = VIRTUAL_TIMEOUT_S
    ) -> None:
        self._path = path
        self._right = right
        self._what = f"power of {board_id}"
        self._timeout_s = timeout_s

    def on(self) -> None:
        """See `Power.on`."""
        with self._rightly() as qemu:
            if not _runs(qemu):
                qemu.do("system_reset")  # it may have ended by itself, and QEMU lets such a machine not go on
                qemu.do("cont")

    def off(self) -> None:
        """See `Power.off`."""
        with self._rightly() as qemu:
            _cut(qemu)

    def cycle(self) -> None:
        """See `Power.cycle`."""
        with self._rightly() as qemu:
            _cut(qemu)
            qemu.do("cont")

    def is_on(self) -> bool:
        """See `Power.is_on`."""
        with self._open() as qemu:
            return _runs(qemu)

    def _rightly(self) -> Qmp:
        """A connection for whoever has the board now; QEMU itself knows no lease."""
        if self._right is not None:
            self._right.check()
        return self._open()

    def _open(self) -> Qmp:
        return Qmp(self._path, what=self._what, timeout_s=self._timeout_s)


def _runs(qemu: Qmp) -> bool:
    return bool(qemu.do("query-status")["running"])


def _cut(qemu: Qmp) -> None:
    qemu.do("stop")
    qemu.do("system_reset")
