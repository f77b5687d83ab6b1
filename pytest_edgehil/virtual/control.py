"""The control socket of a virtual board: what a lab's power strip, and a fault's cause, would be.

JSON lines over a Unix socket: ``{"do": "power-off"}`` is answered by ``{"ok": true, …}`` or by ``{"ok": false,
"error": "…"}``; a connection may carry any number of requests. Verbs: power-on, power-off, power-cycle, status,
inject (``fault``: kind, after_bytes, after_s, options), clear-faults, stop. Every answer carries the status, taken
after the verb was done.

A request may say under which lease it is made (``"token": 5, "holder": "ci-841"``): it is refused, with ``"code":
"fenced"``, when a higher token has been seen. One that does not say is an operator's, and obeyed.

Power verbs are answered when the power is on or off; a boot goes on afterwards, and may never end.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import ConfigError, Fenced, PowerError
from pytest_edgehil.model.board import Fault
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual.faults import check_fault

TIMEOUT_S = 20.0
VERBS = ("power-on", "power-off", "power-cycle", "status", "inject", "clear-faults", "stop")
LONGEST_SOCKET_PATH = 107  # sockaddr_un.sun_path without its NUL, unix(7)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualStatus:
    """What a virtual board is doing.

    Args:
        power: ``on`` or ``off``.
        state: ``off``, ``booting``, ``running``, ``stuck``, ``panicked`` or ``halted``.
        firmware: name and version of what was booted, or None.
        armed: kinds of the faults that have not triggered yet; `levels` of those that last.
    """

    board: str
    power: str
    state: str
    boot_id: str | None
    partition: int | None
    tryboot: bool
    firmware: str | None
    temperature_c: float
    throttled: int
    arm_hz: int
    processes: int
    connections: int
    bytes_in: int
    bytes_out: int
    armed: tuple[str, ...]
    levels: tuple[str, ...]
    pid: int

    @property
    def powered(self) -> bool:
        """Whether the power is on."""
        return self.power == "on"


class VirtualControl:
    """Client of a control socket. It holds no connection: each verb makes its own.

    Args:
        path: the socket.
        bearer: under which lease; None for an operator, who needs none.
        timeout_s: for one verb.

    Raises (all verbs):
        PowerError: nobody serves the socket, or the board refuses.
        Fenced: the board has seen a higher token than the lease's.
    """

    def __init__(self, path: Path, *, bearer: Bearer | None = None, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._bearer = {} if bearer is None else asdict(bearer)
        self._timeout_s = timeout_s

    def power_on(self) -> VirtualStatus:
        """Switch the power on; the board boots. On a board that has power it does nothing."""
        return self._do("power-on")

    def power_off(self) -> VirtualStatus:
        """Switch the power off: when this returns, no process of the board lives."""
        return self._do("power-off")

    def power_cycle(self) -> VirtualStatus:
        """Off, then on."""
        return self._do("power-cycle")

    def status(self) -> VirtualStatus:
        """What the board is doing."""
        return self._do("status")

    def inject(self, fault: Fault) -> VirtualStatus:
        """Arm a fault.

        Raises:
            ConfigError: the fault is none that a virtual board can do.
        """
        check_fault(fault)
        return self._do("inject", fault={**asdict(fault), "options": dict(fault.options)})

    def clear_faults(self) -> VirtualStatus:
        """Disarm every fault and end every level."""
        return self._do("clear-faults")

    def stop(self) -> None:
        """End the supervisor and with it the board; its disk stays."""
        self._do("stop")

    def _do(self, verb: str, **arguments: object) -> VirtualStatus:
        try:
            answer = self._exchange(json.dumps({"do": verb, **self._bearer, **arguments}).encode() + b"\n")
        except OSError as problem:
            raise PowerError(
                f"virtual board at {self.path}: {verb} got no answer: {problem}; is its supervisor running?"
            ) from problem
        try:
            reply: dict[str, Any] = json.loads(answer)
        except ValueError as problem:
            raise PowerError(f"virtual board at {self.path}: {verb} was cut off after {answer[:80]!r}") from problem
        if reply.get("code") == "fenced":
            raise Fenced(str(reply.get("error")))
        if not reply.get("ok"):
            raise PowerError(f"virtual board at {self.path}: {verb}: {reply.get('error')}")
        return status_from(reply)

    def _exchange(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection, connectable(self.path) as address:
            connection.settimeout(self._timeout_s)
            connection.connect(address)
            connection.sendall(line)
            answer = b""
            while not answer.endswith(b"\n"):
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
        return answer


def status_from(reply: Mapping[str, Any]) -> VirtualStatus:
    """The status in an answer."""
    values: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value := reply[field.name], list) else value
        for field in fields(VirtualStatus)
    }
    return VirtualStatus(**values)


@contextlib.contextmanager
def connectable(path: Path) -> Iterator[str]:
    """A name for a Unix socket that is short enough: its own, or one through a descriptor of its directory."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def fault_from(fields_: Mapping[str, Any]) -> Fault:
    """The fault in a request.

    Raises:
        ConfigError: malformed, or none that a virtual board can do.
    """
    try:
        fault = Fault(**fields_)
    except TypeError as problem:
        raise ConfigError(f"fault {dict(fields_)!r}: expected kind, after_bytes, after_s, options") from problem
    return check_fault(fault)
