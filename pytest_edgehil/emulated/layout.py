"""Where an emulated board's files are, and how it is reached while it runs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict

from pytest_edgehil.model.quantity import format_size
from pytest_edgehil.virtual.blueprint import write_private
from pytest_edgehil.virtual.starting import read_endpoint

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A board's directory."""

    root: Path

    @property
    def keys(self) -> Path:
        """Host key, client key and identity key; kept."""
        return self.root / "keys"

    @property
    def disk(self) -> Path:
        """What the board has written since it was started, on top of the image."""
        return self.root / "disk.qcow2"

    @property
    def seed(self) -> Path:
        """The second disk, which tells the board who it is."""
        return self.root / "seed.raw"

    @property
    def memory(self) -> Path:
        """The board's memory, of a board that is made a template of."""
        return self.root / "memory.bin"

    @property
    def state(self) -> Path:
        """Everything else of a template's machine."""
        return self.root / "state.bin"

    @property
    def state_digest(self) -> Path:
        """SHA-256 of `state`, in hexadecimal."""
        return self.root / "state.sha256"

    @property
    def sensors(self) -> Path:
        """Memory that this host shares with the board."""
        return self.root / "sensors.bin"

    @property
    def device_tree(self) -> Path:
        """What hardware the board finds."""
        return self.root / "board.dtb"

    @property
    def qmp(self) -> Path:
        """Socket of QEMU's machine protocol."""
        return self.root / "qmp.sock"

    @property
    def console_log(self) -> Path:
        """What the board has said since it was started, also while nobody was listening."""
        return self.root / "console.log"

    @property
    def log(self) -> Path:
        """What QEMU and its warden have to complain about."""
        return self.root / "qemu.log"

    @property
    def endpoint(self) -> Path:
        """How to reach the board, while it runs."""
        return self.root / "endpoint.json"

    @property
    def known_hosts(self) -> Path:
        """For OpenSSH's ``UserKnownHostsFile``, while it runs."""
        return self.root / "known_hosts"

    @property
    def leased(self) -> Path:
        """Pid of the warden that a leaseholder started last."""
        return self.root / "leased"

    @property
    def lock(self) -> Path:
        """Held by the warden as long as it lives."""
        return self.root / "warden.lock"

    @property
    def start_lock(self) -> Path:
        """Held by whoever is starting the board right now."""
        return self.root / "start.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedAs:
    """What a board was started as. Whoever joins it must want the same: what it measures is taken for what he wants.

    Args:
        machine: `Machine.key`: of all that the guest can tell.
        timing: ``wall`` or ``icount``.
        image: name, version, and the beginning of its key.
        serial: the serial number that it signs evidence with.
        qemu: QEMU's version.
    """

    __pydantic_config__ = _STRICT

    machine: str
    timing: str
    image: str
    memory_bytes: int
    cores: int
    serial: str
    qemu: str

    def words(self) -> dict[str, str]:
        """For people; of the machine's key nothing that is not told by what it is made of."""
        return {
            "timing": self.timing,
            "image": self.image,
            "memory": format_size(self.memory_bytes, digits=12),
            "cores": str(self.cores),
            "serial": self.serial,
            "QEMU": self.qemu,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to reach a board that runs.

    Args:
        host_key: the board's real one, ``ssh-ed25519 AAAA…``.
        client_key: private key file that may log in.
        console: URL, as pyserial takes it.
        warden_pid: of the process that QEMU lives and dies with.
        starter_pid: of the process that the warden lives and dies with.
    """

    __pydantic_config__ = _STRICT

    board_id: str
    host: str
    port: int
    user: str
    host_key: str
    client_key: str
    console: str
    qmp: str
    identity_key: str
    warden_pid: int
    starter_pid: int
    started_as: StartedAs

    def write(self, path: Path) -> None:
        """Write atomically, readable by the owner only."""
        write_private(path, json.dumps(asdict(self), indent=2).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> Endpoint | None:
        """The endpoint, None when the board does not run.

        Raises:
            ConfigError: the file is damaged, or another version has written it.
        """
        return read_endpoint(cls, path)
