"""lab.yaml as frozen values: which boards exist, how to reach them, and where their leases are kept.

`load_lab` reads the file once and reports every problem in it, each with file, line and path. What needs two sections
is checked here: two boards that share an address, a console, a power switch or an identity would be in two hands at
once although each lease is exclusive, so that is an error and not a matter of taste.

Paths in the file are relative to the file, ``~`` is the home directory. Whether key files exist is a question about
the host, not about the file, and is asked by `files.check_files` (``edgehil lab check``).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from pytest_edgehil.documents.checking import checked
from pytest_edgehil.documents.near_miss import listed, suggest
from pytest_edgehil.documents.reading import Document, KeyPath, Problem, read_document
from pytest_edgehil.errors import BoardUnavailable
from pytest_edgehil.lab.health import HealthRules
from pytest_edgehil.lab.limits import Limits
from pytest_edgehil.lab.limits_file import limits_of
from pytest_edgehil.lab.schema import (
    LAB_FILE,
    BoardSection,
    CommandPowerSection,
    LabgridPowerSection,
    LabSection,
    QmpPowerSection,
    SlotsSection,
    SshSection,
    VirtualPowerSection,
    lab_schema,
)
from pytest_edgehil.lab.values import IDENTIFIER
from pytest_edgehil.labgrid.conversation import Coordinator
from pytest_edgehil.model.board import (
    Accelerator,
    Board,
    CommandPower,
    ConsoleAccess,
    EmulatedSpec,
    Environment,
    Fault,
    LabgridPower,
    PowerAccess,
    QmpPower,
    Slots,
    SshAccess,
    ThermalModel,
    Timing,
    VirtualSpec,
)
from pytest_edgehil.places import state_directory

__all__ = ["Lab", "lab_schema", "load_lab"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SQLITE = "sqlite:///"
_T = TypeVar("_T")
_SQLITE_FORM = "sqlite:////absolute/path.db"
_POSTGRES = "postgresql+psycopg"
_POSTGRES_FORM = "postgresql+psycopg://user@host/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """The inventory.

    Args:
        name: labs of one name share a state directory, and with it their leases.
        path: the file, as it was given.
        boards: in the order of the file; ids are unique.
        lease_url: SQLAlchemy URL of the lease database.
        lease_expiry_s: a holder that is silent for so long has lost its boards.
        labgrid: the labgrid lab that boards with a place belong to.
        pool_limits: at most so many boards of a pool are leased at once.
        state_dir: where leases and virtual boards are kept; not created by loading.
        health: what is looked at before a board is handed out.
        limits: how long a lease may last, how many boards somebody may have, when boards are not handed out.
    """

    name: str
    path: Path
    boards: tuple[Board, ...]
    lease_url: str
    lease_expiry_s: float
    pool_limits: Mapping[str, int]
    state_dir: Path
    labgrid: Coordinator | None = None
    limits: Limits = field(default_factory=Limits)
    health: HealthRules = field(default_factory=HealthRules)

    def board(self, board_id: str) -> Board:
        """The board with this id.

        Raises:
            BoardUnavailable: the lab has no such board.
        """
        for board in self.boards:
            if board.id == board_id:
                return board
        ids = [board.id for board in self.boards]
        raise BoardUnavailable(
            f"{self.path} has no board {board_id!r}{suggest(board_id, ids, f'its boards are {listed(ids)}')}"
        )


def load_lab(path: Path) -> Lab:
    """Read a lab file.

    Raises:
        LabFileError: the file is missing, malformed or contradicts itself; `problems` lists everything that is wrong.
    """
    document = read_document(path, LAB_FILE)
    section = checked(document, LabSection)
    state_dir = _below(path, section.state_dir) if section.state_dir else state_directory() / "labs" / section.lab
    problems: list[Problem] = []
    lease_url = _lease_url(section, document, state_dir, problems)
    boards = tuple(_board(section, board_id, document, problems) for board_id in section.boards)
    problems.extend(_shared(boards, document))
    limits = limits_of(section, boards, document, problems)
    if problems:
        raise document.refuse(problems)
    health = section.health
    return Lab(
        name=section.lab,
        path=path,
        boards=boards,
        lease_url=lease_url,
        lease_expiry_s=section.lease_expiry,
        pool_limits={name: pool.limit for name, pool in section.pools.items()},
        state_dir=state_dir,
        health=HealthRules(
            check=health.check,
            fresh_s=health.fresh,
            min_disk_bytes=health.disk,
            max_temperature_c=health.temperature_c,
            max_clock_offset_s=health.clock,
            runtimes=tuple(health.runtimes),
            recheck_s=health.recheck,
            longest_recheck_s=health.longest_recheck,
            give_up=health.give_up,
        ),
        limits=limits,
        labgrid=None
        if section.labgrid is None
        else Coordinator(address=section.labgrid.coordinator, python=_labgrid_python(section, path)),
    )


def _below(lab_path: Path, text: str) -> Path:
    return (lab_path.absolute().parent / Path(text).expanduser()).absolute()


def _lease_url(section: LabSection, document: Document, state_dir: Path, problems: list[Problem]) -> str:
    if section.leases is None:
        return f"{_SQLITE}{state_dir / 'leases.db'}"
    scheme, _, rest = section.leases.partition("://")
    wrong = None
    if scheme == "sqlite":
        if not rest.startswith("/") or rest in ("/", "/:memory:") or rest.endswith("/"):
            wrong = f"expected {_SQLITE_FORM}: leases must be in a file that every process of this host can open"
        url = f"{_SQLITE}{_below(document.source, rest.removeprefix('/'))}"
    elif scheme == _POSTGRES:
        parts = urlsplit(section.leases)
        if parts.password or "password" in parse_qs(parts.query):
            wrong = (
                "a password in a lab file is known to all who read the file: leave it out, and write it to ~/.pgpass "
                "or $PGPASSWORD"
            )
        elif not parts.path.strip("/"):
            wrong = f"expected {_POSTGRES_FORM}: the name of the database is missing"
        url = section.leases
    else:
        known = suggest(scheme, ["sqlite", _POSTGRES], f"expected {_SQLITE_FORM} or {_POSTGRES_FORM}")
        wrong = f"unknown database {scheme!r}{known}"
        url = section.leases
    if wrong is not None:
        problems.append(document.problem(("leases",), wrong))
    return url


def _board(section: LabSection, board_id: str, document: Document, problems: list[Problem]) -> Board:
    board = section.boards[board_id]
    where: KeyPath = ("boards", board_id)

    def wrong(path: KeyPath, what: str) -> None:
        problems.append(document.problem((*where, *path), what))

    if not IDENTIFIER.fullmatch(board_id):
        wrong((), "no name for a board: expected letters, digits, '.', '_' and '-', at most 64 characters")
    if board.pool is not None and board.pool not in section.pools:
        names = list(section.pools)
        known = f"the pools are {listed(names)}" if names else "the file has no pools: add 'pools:' to it"
        wrong(("pool",), f"there is no pool {board.pool!r}{suggest(board.pool, names, known)}")
    if board.slots is not None and len(set(board.slots.partitions)) != 2:
        wrong(("slots", "partitions"), "the two slots must be two partitions")
    if board.slots is not None:
        _check_slots(board.slots, environment=board.environment, wrong=wrong)
    if board.place is not None and section.labgrid is None:
        wrong(("place",), "the file names no labgrid lab: add 'labgrid: {coordinator: HOST:PORT}' to it")
    environment = Environment(board.environment)
    virtual = _virtual(section.lab, board_id, board, wrong) if environment is Environment.VIRTUAL else None
    if environment is not Environment.VIRTUAL:
        if board.virtual is not None:
            wrong(("virtual",), f"only a board with 'environment: virtual' has this; the board is {board.environment}")
        if isinstance(board.power, VirtualPowerSection):
            wrong(("power", "backend"), f"only a virtual board has virtual power; the board is {board.environment}")
    emulated = _emulated(section.lab, board_id, board, document.source, wrong)
    if board.timing != "wall" and environment is not Environment.EMULATED:
        wrong(("timing",), f"only an emulated board's instructions are counted; the board is {board.environment}")
    return Board(
        id=board_id,
        cls=board.cls,
        environment=environment,
        tags=frozenset(board.tags),
        ssh=_ssh(board, environment, document.source, wrong),
        console=ConsoleAccess(url=board.console.url, baud=board.console.baud) if board.console else None,
        power=_power(board, document.source, _labgrid_python(section, document.source)),
        accelerator=Accelerator(kind=board.accelerator) if board.accelerator else None,
        slots=_slots(board.slots) if board.slots else None,
        pool=board.pool,
        home=board.home,
        serial=board.serial,
        identity_key=_below(document.source, board.identity_key) if board.identity_key else None,
        place=board.place,
        virtual=virtual,
        steady_state_s=board.steady_state,
        emulated=emulated,
        timing=Timing(board.timing),
    )


def _check_slots(slots: SlotsSection, *, environment: str, wrong: Callable[[KeyPath, str], None]) -> None:
    if slots.backend == "virtual" and environment != "virtual":
        wrong(("slots", "backend"), f"only a virtual board has virtual slots; the board is {environment}")
    if slots.backend == "uboot" and environment == "virtual":
        wrong(("slots", "backend"), "a virtual board imitates a Pi's bootloader: expected virtual or tryboot")
    if environment == "virtual" and slots.devices:
        wrong(("slots", "devices"), "a virtual board's slots are directories: it has no devices to write images to")
    if slots.backend != "uboot" and slots.names is not None:
        wrong(("slots", "names"), "only slots of U-Boot have names: they are those in its BOOT_ORDER")
    if slots.names is not None and len(set(slots.names)) != 2:
        wrong(("slots", "names"), "the two slots must have two names")
    for image, pair in slots.devices.items():
        if len(set(pair)) != 2:
            wrong(("slots", "devices", image), "the two slots must be two devices")


def _slots(slots: SlotsSection) -> Slots:
    return Slots(
        backend=slots.backend,
        partitions=_pair(slots.partitions),
        names=_pair(slots.names or ["A", "B"]),
        devices={image: _pair(pair) for image, pair in slots.devices.items()},
    )


def _pair(values: Sequence[_T]) -> tuple[_T, _T]:
    first, second = values
    return first, second


def _labgrid_python(section: LabSection, source: Path) -> Path:
    named = section.labgrid.python if section.labgrid is not None else None
    return _below(source, named) if named else Path(sys.executable)


def _power(board: BoardSection, source: Path, labgrid_python: Path) -> PowerAccess | None:
    power = board.power
    if isinstance(power, LabgridPowerSection):
        return LabgridPower(
            python=labgrid_python,
            model=power.model,
            host=power.host,
            index=str(power.index),
            off_s=power.off_for,
            timeout_s=power.timeout,
        )
    if isinstance(power, QmpPowerSection) and power.socket is not None:
        return QmpPower(socket=_below(source, power.socket))
    if not isinstance(power, CommandPowerSection):
        return None  # power without an address yet: starting the board gives it one
    return CommandPower(
        on=tuple(power.on),
        off=tuple(power.off),
        status=tuple(power.status) if power.status else None,
        off_s=power.off_for,
        timeout_s=power.timeout,
    )


_SSH_HELP: Mapping[str, str] = {
    "host": "name or address of the board",
    "user": "login name on the board",
    "key": "private key file",
    "host_key": "what 'ssh-keyscan HOST' prints behind the host",
}


def _ssh(board: BoardSection, environment: Environment, source: Path, wrong: Any) -> SshAccess | None:
    """SSH access; a virtual board has one only when everything about it is given."""
    ssh = board.ssh
    virtual = environment is Environment.VIRTUAL
    if board.emulated is not None:
        return None
    if ssh is None:
        if not virtual:
            wrong(("ssh",), f"missing: a board that is {board.environment} is reached over SSH")
        return None
    if virtual:
        if ssh.host is not None and ssh.host not in _LOOPBACK:
            wrong(("ssh", "host"), f"a virtual board listens on this host only: expected 127.0.0.1, found {ssh.host!r}")
        if not (ssh.key and ssh.host_key and ssh.port):
            if ssh.key:
                wrong(("ssh", "key"), "a virtual board makes its own key, unless port, key and host_key are all given")
            return None
    else:
        for key, meaning in _SSH_HELP.items():
            if getattr(ssh, key) is None:
                wrong(("ssh", key), f"missing: {meaning}")
        if ssh.port == 0:
            wrong(("ssh", "port"), "0 takes a free port, which only a virtual board can: expected 1 to 65535")
    return SshAccess(
        host=ssh.host or "127.0.0.1",
        port=22 if ssh.port is None else ssh.port,
        user=ssh.user or "edge",
        key_path=_below(source, ssh.key or ""),
        host_key=ssh.host_key or "",
    )


def _virtual(lab_name: str, board_id: str, board: BoardSection, wrong: Any) -> VirtualSpec:
    if isinstance(board.power, CommandPowerSection | LabgridPowerSection):
        wrong(("power", "backend"), "a virtual board is switched by its supervisor: expected 'virtual', or no 'power:'")
    ssh = board.ssh or SshSection()
    spec = board.virtual
    made_up = _made_up_serial(lab_name, board_id)
    if spec is None:
        return VirtualSpec(
            serial=made_up, ssh_port=ssh.port or 0, ssh_user=ssh.user or "edge", ssh_host_key=ssh.host_key
        )
    return VirtualSpec(
        serial=spec.serial or made_up,
        memory_bytes=spec.memory,
        thermal=ThermalModel(**dict(spec.thermal)),
        runtimes=tuple(spec.runtimes),
        faults=tuple(
            Fault(kind=fault.kind, after_bytes=fault.after_bytes, after_s=fault.after_s, options=dict(fault.options))
            for fault in spec.faults
        ),
        ssh_port=ssh.port or 0,
        ssh_user=ssh.user or "edge",
        ssh_host_key=ssh.host_key,
    )


def _emulated(lab_name: str, board_id: str, board: BoardSection, source: Path, wrong: Any) -> EmulatedSpec | None:
    spec, power = board.emulated, board.power
    if isinstance(power, QmpPowerSection) and (power.socket is None) is (spec is None):
        expected = "'socket'" if spec is None else "no 'socket': starting the board makes it"
        wrong(
            ("power",),
            f"power by qmp on a board {'without' if spec is None else 'with'} 'emulated': expected {expected}",
        )
    if spec is None:
        return None
    if board.environment != Environment.EMULATED.value:
        wrong(("emulated",), f"only a board with 'environment: emulated' has this; the board is {board.environment}")
    for key in ("host", "user", "key", "host_key"):
        if board.ssh is not None and getattr(board.ssh, key) is not None:
            wrong(("ssh", key), "an emulated board that is started here makes its own; only 'port' may be given")
    if isinstance(power, CommandPowerSection):
        wrong(("power", "backend"), "an emulated board is switched by its QEMU: expected 'qmp', or no 'power:'")
    if board.timing != "wall" and spec.cores != 1:
        wrong(("emulated", "cores"), f"{spec.cores} with 'timing: icount': expected 1, more cannot be counted alike")
    return EmulatedSpec(
        image=_below(source, spec.image),
        serial=spec.serial or _made_up_serial(lab_name, board_id),
        memory_bytes=spec.memory,
        cores=spec.cores,
        clean_for=spec.clean_for,
        ssh_port=(board.ssh.port or 0) if board.ssh is not None else 0,
    )


def _made_up_serial(lab_name: str, board_id: str) -> str:
    return hashlib.sha256(f"{lab_name}/{board_id}".encode()).hexdigest()[:16]


def _shared(boards: tuple[Board, ...], document: Document) -> Iterator[Problem]:
    """What two boards must not share: whoever leases one of them would have the other one in hand, too."""
    seen: dict[tuple[str, object], str] = {}
    for board in boards:
        for kind, path, value in _exclusive(board):
            other = seen.setdefault((kind, value), board.id)
            if other != board.id:
                yield document.problem(("boards", board.id, *path), f"{kind} is already that of board {other}")


def _exclusive(board: Board) -> Iterator[tuple[str, KeyPath, object]]:
    if board.ssh is not None:
        yield "this address", ("ssh", "host"), (board.ssh.host.lower(), board.ssh.port)
    elif board.emulated is not None and board.emulated.ssh_port:
        yield "this address", ("ssh", "port"), ("127.0.0.1", board.emulated.ssh_port)
    elif board.virtual is not None and board.virtual.ssh_port:
        yield "this address", ("ssh", "port"), ("127.0.0.1", board.virtual.ssh_port)
    if board.console is not None and not board.console.url.startswith("loop://"):
        yield "this console", ("console",), board.console.url
    if isinstance(board.power, CommandPower):
        yield "this power switch", ("power", "on"), board.power.on
        yield "this power switch", ("power", "off"), board.power.off
    if isinstance(board.power, LabgridPower):
        yield "this power switch", ("power", "index"), (board.power.model, board.power.host, board.power.index)
    if board.place is not None:
        yield "this place", ("place",), board.place
    if board.serial is not None:
        yield "this serial number", ("serial",), board.serial
    if isinstance(board.power, QmpPower):
        yield "this power switch", ("power", "socket"), board.power.socket
    if board.virtual is not None:
        yield "this serial number", ("virtual", "serial"), board.virtual.serial
    if board.emulated is not None:
        yield "this serial number", ("emulated", "serial"), board.emulated.serial
    if board.identity_key is not None:
        yield "this identity key", ("identity_key",), board.identity_key
