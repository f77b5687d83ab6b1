"""A transport that gives programs more environment. Imports nothing heavy: benchmarks measure memory beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pytest_edgehil.board.command import Command, Outcome
from pytest_edgehil.board.transport import Channel, Transport


class EnvTransport:
    """Another transport whose programs get more environment and a working directory."""

    def __init__(self, transport: Transport, env: dict[str, str], home: Path) -> None:
        self._transport = transport
        self._prefix = ("env", "-C", str(home), *(f"{name}={value}" for name, value in env.items()))

    def run(self, command: Command) -> Outcome:
        return self._transport.run(dataclasses.replace(command, argv=(*self._prefix, *command.argv)))

    def open(self, argv: tuple[str, ...], timeout_s: float) -> Channel:
        return self._transport.open((*self._prefix, *argv), timeout_s)

    def close(self) -> None:
        self._transport.close()
