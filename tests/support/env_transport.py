"""A transport that gives programs more environment. Imports nothing heavy: benchmarks measure memory beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_edgehil.board.command import Command, Outcome, preceded
from pytest_edgehil.board.transport import Channel, Transport


class EnvTransport:
    """Another transport whose programs get more environment and a working directory."""

    def __init__(self, transport: Transport, env: dict[str, str], home: Path) -> None:
        self._transport = transport
        self._prefix = ("env", "-C", str(home), *(f"{name}={value}" for name, value in env.items()))

    def run(self, command: Command) -> Outcome:
        argv = (*self._prefix, *preceded(command.argv, command.prelude))
        return self._transport.run(dataclasses.replace(command, argv=argv, prelude=""))

    def open(self, argv: tuple[str, ...], timeout_s: float, *, prelude: str = "") -> Channel:
        return self._transport.open((*self._prefix, *preceded(argv, prelude)), timeout_s)

    def close(self) -> None:
        self._transport.close()
