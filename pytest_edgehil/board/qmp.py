"""QEMU's machine protocol: as much of it as switches a board on and off, and starts one.

JSON objects over a Unix socket, one per line; QEMU greets, commands are answered in order, and events come in between
(qemu/docs/interop/qmp-spec.rst). QEMU serves one client at a time: whoever is done closes.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.board.unix_socket import short_name
from pytest_edgehil.errors import PowerError

TIMEOUT_S = 60.0


class Qmp:
    """A connection to one QEMU; a context manager.

    Args:
        path: its socket.
        what: what to call it in messages.
        timeout_s: for each answer.

    Raises:
        PowerError: nobody answers there, or it is no QEMU; also of every verb.
    """

    def __init__(self, path: Path, *, what: str, timeout_s: float = TIMEOUT_S) -> None:
        self._what = what
        self._path = path
        self._timeout_s = timeout_s
        self._read = b""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.settimeout(timeout_s)
            with short_name(path) as name:
                self._socket.connect(name)
            greeting = self._line(Deadline(timeout_s))
            self._check(greeting)
            self.do("qmp_capabilities")
        except OSError as problem:
            self._socket.close()
            raise PowerError(
                f"{what}: no QEMU answers at {path}: {problem.strerror or problem}; is the board running?"
            ) from problem
        except BaseException:
            self._socket.close()
            raise

    def do(self, verb: str, /, **arguments: object) -> Any:
        """Have QEMU execute a command; returns what it returns."""
        asked: dict[str, object] = {"execute": verb}
        if arguments:
            asked["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        deadline = Deadline(self._timeout_s)
        try:
            self._socket.sendall(json.dumps(asked).encode() + b"\n")
            while True:
                answer = self._line(deadline)
                if "return" in answer:
                    return answer["return"]
                if "error" in answer:
                    error = answer["error"]
                    told = error.get("desc") if isinstance(error, Mapping) else error
                    raise PowerError(f"{self._what}: QEMU refuses {verb}: {told}")
        except OSError as problem:
            raise PowerError(
                f"{self._what}: {verb} at {self._path}: "
                + (f"no answer within {self._timeout_s:g} s" if isinstance(problem, TimeoutError) else str(problem))
            ) from problem

    def human(self, command: str) -> str:
        """What QEMU's monitor for people answers."""
        return str(self.do("human-monitor-command", command_line=command))

    def close(self) -> None:
        """Let the next client in."""
        self._socket.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _problem: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, greeting: Mapping[str, Any]) -> None:
        if "QMP" not in greeting:
            raise PowerError(f"{self._what}: whoever answers at {self._path} is no QEMU: {str(greeting)[:80]}")

    def _line(self, deadline: Deadline) -> Mapping[str, Any]:
        while b"\n" not in self._read:
            self._socket.settimeout(max(deadline.left_s(), 0.001))
            piece = self._socket.recv(65536)
            if not piece:
                raise PowerError(f"{self._what}: QEMU at {self._path} hung up; it has ended")
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError as problem:
            raise PowerError(f"{self._what}: the answer at {self._path} is no JSON: {line[:80]!r}") from problem
        return answer if isinstance(answer, Mapping) else {}
