"""A board, how to reach it, and what a test may require of one.

These are the frozen values that `lab` makes out of lab.yaml and that everybody above reads. They hold no
connection and do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_edgehil.model.requirement import Environment, Requirement, Timing

__all__ = [
    "Accelerator",
    "Board",
    "CommandPower",
    "ConsoleAccess",
    "EmulatedSpec",
    "Environment",
    "Fault",
    "LabgridPower",
    "PowerAccess",
    "QmpPower",
    "Requirement",
    "Slots",
    "SshAccess",
    "ThermalModel",
    "Timing",
    "VirtualPower",
    "VirtualSpec",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SshAccess:
    """How to reach a board over SSH.

    Args:
        host: name or address.
        port: TCP port.
        user: login name.
        key_path: private key file of the client.
        host_key: the pinned host key as ``<type> <base64>``, as in a known_hosts line without its host.
    """

    host: str
    port: int
    user: str
    key_path: Path
    host_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleAccess:
    """The serial console: any URL that ``serial.serial_for_url`` takes, and the line speed in baud."""

    url: str
    baud: int = 115200


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPower:
    """Power through commands on the host (argument vectors, no shell). `cycle` defaults to off, wait, on."""

    on: tuple[str, ...]
    off: tuple[str, ...]
    status: tuple[str, ...] | None = None
    off_s: float = 2.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualPower:
    """Power of a virtual board: the Unix socket on which its supervisor listens."""

    socket: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LabgridPower:
    """Power through a network driver of labgrid, as its ``NetworkPowerPort`` names it.

    Args:
        python: an interpreter that has labgrid.
        model: name of the driver, such as ``rest``, ``netio`` or ``shelly_gen2``.
        host: what the model takes as host.
        index: which port of the switch.
        off_s: how long a cycle is off.
        timeout_s: limit for one switching.
    """

    python: Path
    model: str
    host: str
    index: str
    off_s: float = 2.0
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QmpPower:
    """Power of an emulated board: the Unix socket of its QEMU's machine protocol."""

    socket: Path


PowerAccess = CommandPower | LabgridPower | QmpPower | VirtualPower


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """The HAT: `kind` is ``hailo8``, ``hailo8l`` or ``hailo10h``."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """A/B firmware slots.

    Args:
        backend: ``tryboot`` (Pi 5), ``virtual`` (as virtual boards imitate it) or ``uboot``.
        partitions: the two partition numbers.
        names: of the two in U-Boot's ``BOOT_ORDER``; used by ``uboot`` only.
        devices: image of a firmware → the device that it is written to, for each slot; empty: no images, trees only.
    """

    backend: str
    partitions: tuple[int, int] = (2, 3)
    names: tuple[str, str] = ("A", "B")
    devices: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalModel:
    """First-order RC model of a virtual board's die.

    ``T∞ = ambient_c + resistance_c_per_w · (idle_w + busy_w · utilisation)``; T approaches T∞ with `tau_s`.
    Throttle bits follow the documented limits of a Pi 5 (80 °C soft, 85 °C hard).
    """

    ambient_c: float = 25.0
    idle_w: float = 2.7
    busy_w: float = 6.3
    resistance_c_per_w: float = 4.5
    tau_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to inject into a virtual board.

    Args:
        kind: one of `pytest_edgehil.virtual.faults.KINDS`.
        after_bytes: trigger once this many bytes have come in over the link (link and power cuts).
        after_s: trigger this long after it was armed.
        options: what the kind needs, for example ``{"rate_bytes_per_s": 20000}`` for a slow link.
    """

    kind: str
    after_bytes: int | None = None
    after_s: float | None = None
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualSpec:
    """What a virtual board imitates, and the faults that it starts with.

    Args:
        serial: the serial number in its device tree; identity in evidence.
        memory_bytes: memory of the whole board; its processes are killed beyond it.
        thermal: RC model.
        runtimes: runtimes that the board has; ``()`` gives a board that lacks the runtime.
        faults: faults armed at power-on.
        ssh_port: port on which the board's SSH server listens; 0 takes a free one.
        ssh_user: the login that the board's SSH server knows.
        ssh_host_key: a host key that lab.yaml pins, as in `SshAccess`; one that is not the board's own must lead to
            `HostKeyMismatch` on connect. None trusts the key that the board was made with.
    """

    serial: str
    memory_bytes: int = 8 * 2**30
    thermal: ThermalModel = field(default_factory=ThermalModel)
    runtimes: tuple[str, ...] = ("onnxruntime",)
    faults: tuple[Fault, ...] = ()
    ssh_port: int = 0
    ssh_user: str = "edge"
    ssh_host_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedSpec:
    """An emulated board that we start ourselves.

    Args:
        image: directory with ``image.yaml``, which must have been built.
        serial: the serial number in its device tree; identity in evidence.
        memory_bytes: memory of the board.
        cores: of its processor; one where its instructions are counted.
        ssh_port: port of this host that leads to the board's SSH server; 0 takes a free one.
        clean_for: what it is started anew for, as nobody has used it: each lease, or each test.
    """

    image: Path
    serial: str
    memory_bytes: int = 2 * 2**30
    cores: int = 1
    ssh_port: int = 0
    clean_for: Literal["lease", "test"] = "lease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One device of the lab.

    Args:
        id: unique within the lab.
        cls: board class such as ``pi5-8gb-hat2``.
        tags: free words that a requirement may ask for.
        environment: what the board really is.
        ssh: None only for a virtual or an emulated board of ours that has not been started yet (see
            `virtual.farm.start`, `emulated.farm.start`).
        home: directory for our files on the board; relative paths are below the login's home.
        pool: name of the pool whose limit counts this board, if any.
        serial: the serial number that it must have, where the lab says one.
        identity_key: PEM public key (ECDSA P-256) that the board's evidence must be signed with, if it is enrolled.
        place: the board's place in the labgrid lab that the lab file names, if it belongs to one.
        steady_state_s: so long a latency must have been watched on this board before it may pass; None: undeclared.
        timing: what its time is. Counted instructions are the same however busy the host of an emulated board is, and
            no measure of a real one.
    """

    id: str
    cls: str
    environment: Environment
    tags: frozenset[str] = frozenset()
    ssh: SshAccess | None = None
    console: ConsoleAccess | None = None
    power: PowerAccess | None = None
    accelerator: Accelerator | None = None
    slots: Slots | None = None
    pool: str | None = None
    home: str = ".edgehil"
    serial: str | None = None
    identity_key: Path | None = None
    virtual: VirtualSpec | None = None
    steady_state_s: float | None = None
    place: str | None = None
    emulated: EmulatedSpec | None = None
    timing: Timing = Timing.WALL
