"""Where a virtual board's files are, what its supervisor is told, and what it tells the world.

Three values cross between processes as JSON: the *blueprint* (starter → supervisor), the *endpoint* (supervisor →
everybody) and requests on the control socket (see `control`).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Board, Fault, ThermalModel
from pytest_edgehil.model.quantity import format_size
from pytest_edgehil.virtual.starting import read_endpoint

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A board's directory: ``disk/`` is what the board sees, everything else is the world around it."""

    root: Path

    @property
    def disk(self) -> Path:
        """Root of the board's file system; survives power cuts and restarts."""
        return self.root / "disk"

    @property
    def home(self) -> Path:
        """Home of the login."""
        return self.disk / "home" / "edge"

    @property
    def keys(self) -> Path:
        """Host key, client key and identity key."""
        return self.root / "keys"

    @property
    def endpoint(self) -> Path:
        """How to reach the board, while a supervisor serves it."""
        return self.root / "endpoint.json"

    @property
    def known_hosts(self) -> Path:
        """For OpenSSH's ``UserKnownHostsFile``, while a supervisor serves the board."""
        return self.root / "known_hosts"

    @property
    def journal(self) -> Path:
        """What happened to the board."""
        return self.root / "journal.jsonl"

    @property
    def log(self) -> Path:
        """What the supervisor and its warden have to complain about."""
        return self.root / "supervisor.log"

    @property
    def lock(self) -> Path:
        """Held by warden and supervisor as long as either lives."""
        return self.root / "supervisor.lock"

    @property
    def leased(self) -> Path:
        """Pid of the supervisor that a leaseholder started last."""
        return self.root / "leased"

    @property
    def fence(self) -> Path:
        """The highest fencing token that the supervisor has seen."""
        return self.root / "fence"

    @property
    def start_lock(self) -> Path:
        """Held by whoever is starting the board right now."""
        return self.root / "start.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What a supervisor needs to know of its board.

    Args:
        authorized_key: private or public key file of a client that may log in besides the board's own client key.
    """

    __pydantic_config__ = _STRICT

    board_id: str
    board_class: str
    tags: tuple[str, ...]
    accelerator: str | None
    partitions: tuple[int, int]
    ssh_user: str
    ssh_port: int
    authorized_key: str | None
    serial: str
    memory_bytes: int
    thermal: ThermalModel
    runtimes: tuple[str, ...]
    faults: tuple[Fault, ...]

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Blueprint:
        """Inverse of `to_json`."""
        return TypeAdapter(cls).validate_json(text)

    def words(self) -> dict[str, str]:
        """For people, by the lab file's names; two boards with the same words behave alike."""
        return {
            "id": self.board_id,
            "class": self.board_class,
            "tags": _listed(self.tags),
            "accelerator": self.accelerator or "none",
            "slots.partitions": _listed(map(str, self.partitions)),
            "ssh.user": self.ssh_user,
            "ssh_port": str(self.ssh_port),
            "ssh.key": self.authorized_key or "none",
            "serial": self.serial,
            "memory": format_size(self.memory_bytes, digits=12),
            "thermal": json.dumps(asdict(self.thermal)),
            "runtimes": _listed(self.runtimes),
            "faults": json.dumps([asdict(fault) for fault in self.faults], sort_keys=True),
        }


def blueprint_of(board: Board) -> Blueprint:
    """What the supervisor of this board is told.

    Raises:
        ConfigError: the board is not virtual.
    """
    spec = board.virtual
    if spec is None:
        raise ConfigError(f"board {board.id} is not virtual: it has no 'virtual' section, so there is nothing to start")
    return Blueprint(
        board_id=board.id,
        board_class=board.cls,
        tags=tuple(sorted(board.tags)),
        accelerator=None if board.accelerator is None else board.accelerator.kind,
        partitions=(2, 3) if board.slots is None else board.slots.partitions,
        ssh_user=spec.ssh_user if board.ssh is None else board.ssh.user,
        ssh_port=spec.ssh_port if board.ssh is None else board.ssh.port,
        authorized_key=None if board.ssh is None else str(board.ssh.key_path),
        serial=spec.serial,
        memory_bytes=spec.memory_bytes,
        thermal=spec.thermal,
        runtimes=spec.runtimes,
        faults=tuple(
            Fault(kind=fault.kind, after_bytes=fault.after_bytes, after_s=fault.after_s, options=dict(fault.options))
            for fault in spec.faults
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to reach a board that is being served.

    Args:
        host_key: the board's real one, ``ssh-ed25519 AAAA…``.
        client_key: private key file that may log in.
        console: path of the pty.
        identity_key: PEM public key that the board signs evidence with.
        pid: the supervisor's; `warden_pid` its warden's.
        blueprint: what the board was started as.
    """

    __pydantic_config__ = _STRICT

    board_id: str
    host: str
    port: int
    user: str
    host_key: str
    client_key: str
    console: str
    socket: str
    identity_key: str
    pid: int
    warden_pid: int
    blueprint: Blueprint

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Endpoint:
        """Inverse of `to_json`."""
        return TypeAdapter(cls).validate_json(text)

    def write(self, path: Path) -> None:
        """Write atomically, readable by the owner only."""
        write_private(path, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Endpoint | None:
        """The endpoint, None when nobody serves the board.

        Raises:
            ConfigError: the file is damaged, or another version has written it.
        """
        return read_endpoint(cls, path)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def write_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a reader sees either the old or the new one, with its mode set from the start."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
