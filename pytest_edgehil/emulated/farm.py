"""Starting emulated boards.

`start` makes a board of its image's template, boots it if asked, or joins one that runs already; two processes that
start the same board at the same moment end up with one board, which belongs to the first and dies with it. Whoever
starts a board gets a clean one: what an earlier one had written is gone. A power cut and a reboot keep the disk.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from pytest_edgehil.board.qmp import Qmp
from pytest_edgehil.emulated.image.built import find_image
from pytest_edgehil.emulated.layout import Endpoint, Layout, StartedAs
from pytest_edgehil.emulated.machine import QEMU, Machine, make_overlay, qemu_version, require
from pytest_edgehil.emulated.process import Process, end_another, is_served
from pytest_edgehil.emulated.pruning import mark_used
from pytest_edgehil.emulated.seed import Seed, write_seed
from pytest_edgehil.emulated.sensors import Sensors
from pytest_edgehil.emulated.template import Unrestorable, restore, template_of
from pytest_edgehil.errors import BoardError, ConfigError
from pytest_edgehil.model.board import Board, ConsoleAccess, EmulatedSpec, QmpPower, SshAccess
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.virtual.blueprint import write_private
from pytest_edgehil.virtual.keys import BoardKeys, board_keys
from pytest_edgehil.virtual.starting import check_same, exclusively, is_of_a_lease

_log = logging.getLogger("edgehil.emulated")
HOST = "127.0.0.1"
USER = "root"
START_S = 300.0
"""A board starts in a second, and a template in five; a busy host may take many times as long."""


def identity_key(directory: Path) -> Path:
    """The public key that a board of this directory signs evidence with; made when the board is first started."""
    return Layout(root=directory).keys / "identity.pub.pem"


@dataclass(slots=True, kw_only=True)
class RunningBoard:
    """An emulated board that runs. A context manager: leaving it stops a board that is ours.

    Args:
        board: with ssh, console, power and identity key filled in.
        owned: whether we started it; one that was joined is left alone by `stop`.
        sensors: what the board measures, to be changed while it runs.
    """

    board: Board
    owned: bool
    layout: Layout
    endpoint: Endpoint
    sensors: Sensors
    _process: Process | None = field(repr=False)

    def stop(self) -> None:
        """Stop the board if it is ours; when this returns, its QEMU is gone. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()

    def __enter__(self) -> RunningBoard:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _problem: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    board: Board,
    *,
    directory: Path,
    wait_s: float = START_S,
    for_lease: bool = False,
    cold: bool = False,
    disk: Path | None = None,
    write_log: Path | None = None,
) -> RunningBoard:
    """Start an emulated board, or join the one that runs already. Returns when it can be reached.

    Args:
        directory: for its files; made, private, when it is not there.
        wait_s: how long the start may take.
        for_lease: the caller holds the board's lease. A board that an earlier leaseholder started and has not ended
            yet is ended then and not joined: it would go down with a holder that has no right to it any more.
        cold: boot it, through bootloader and kernel, instead of making it of a template.
        disk: what it boots instead of the image's disk, such as what an earlier board has left: ``.qcow2``, or raw.
            It is not changed; a board with a disk of its own is always booted.
        write_log: a file that gets everything that the board writes to its disk and flushes, in order.

    Raises:
        ConfigError: QEMU is not installed, the image has not been built, the board is none of ours, or it runs already
            and was started as something else than the lab file says, or is to be booted, with a disk or a log.
        BoardError: it does not start.
        ConnectFailed: not within `wait_s`.
    """
    spec = board.emulated
    if spec is None:
        raise ConfigError(f"board {board.id} has no 'emulated' section, so there is nothing to start")
    require(QEMU)
    image = find_image(spec.image)
    mark_used(image.directory)
    machine = Machine(
        image=image, memory_bytes=spec.memory_bytes, cores=spec.cores, icount=board.timing is Timing.ICOUNT
    )
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    layout = Layout(root=directory)
    deadline_s = time.monotonic() + wait_s
    with exclusively(layout.start_lock, what=f"emulated board {board.id}", log=layout.log, deadline_s=deadline_s):
        while (endpoint := _served(layout)) is not None:
            if not (for_lease and is_of_a_lease(layout.leased, endpoint.warden_pid)):
                _check_joined(board, endpoint, wanted=_started_as(board, spec, machine))
                if cold or disk is not None or write_log is not None:
                    raise ConfigError(
                        f"emulated board {board.id} runs already, so it can be given neither a boot nor a disk or "
                        f"a log of its own: end it where it was started (process {endpoint.starter_pid})"
                    )
                return _running(board, layout, endpoint, process=None)
            end_another(
                layout, warden_pid=endpoint.warden_pid, what=f"emulated board {board.id}", deadline_s=deadline_s
            )
        process, endpoint = _launch(
            board, spec, machine, layout, deadline_s=deadline_s, cold=cold, disk=disk, write_log=write_log
        )
        if for_lease:
            layout.leased.write_text(str(endpoint.warden_pid))
        return _running(board, layout, endpoint, process=process)


def _served(layout: Layout) -> Endpoint | None:
    """The endpoint, if a warden lives that serves it."""
    if not layout.endpoint.exists():
        return None
    if is_served(layout):
        return Endpoint.read(layout.endpoint)
    layout.endpoint.unlink(missing_ok=True)  # its warden was killed, and QEMU with it
    return None


def _started_as(board: Board, spec: EmulatedSpec, machine: Machine) -> StartedAs:
    return StartedAs(
        machine=machine.key(),
        timing=board.timing.value,
        image=f"{machine.image.name} {machine.image.version} ({machine.image.key[:8]})",
        memory_bytes=spec.memory_bytes,
        cores=spec.cores,
        serial=spec.serial,
        qemu=qemu_version(),
    )


def _check_joined(board: Board, endpoint: Endpoint, *, wanted: StartedAs) -> None:
    """Refuse a board that is not what the lab file says: its instructions would be certified as milliseconds.

    Raises:
        ConfigError: it is not.
    """
    runs, said = endpoint.started_as.words(), wanted.words()
    if runs == said and endpoint.started_as != wanted:
        runs["device tree"], said["device tree"] = "of another version of pytest-edgehil", "of this one"
    check_same(f"emulated board {board.id}", runs, said, process=endpoint.starter_pid)


def _launch(
    board: Board,
    spec: EmulatedSpec,
    machine: Machine,
    layout: Layout,
    *,
    deadline_s: float,
    cold: bool,
    disk: Path | None,
    write_log: Path | None,
) -> tuple[Process, Endpoint]:
    launch = functools.partial(
        _launch_of, board, spec, machine, layout, deadline_s=deadline_s, disk=disk, write_log=write_log
    )
    if cold or disk is not None:
        return launch(template=None)
    try:
        template = template_of(machine, deadline_s=deadline_s)
        mark_used(template.root)
        return launch(template=template)
    except Unrestorable as problem:
        _log.warning("emulated board %s: %s", board.id, problem)
        return launch(template=template_of(machine, deadline_s=deadline_s, instead_of=problem))


def _launch_of(
    board: Board,
    spec: EmulatedSpec,
    machine: Machine,
    layout: Layout,
    *,
    template: Layout | None,
    deadline_s: float,
    disk: Path | None,
    write_log: Path | None,
) -> tuple[Process, Endpoint]:
    keys = board_keys(layout.keys)
    for old in (layout.console_log, layout.sensors, layout.seed, layout.leased, layout.qmp):
        old.unlink(missing_ok=True)
    sensors = Sensors(layout.sensors)
    sensors.set_throttled(0)
    if template is None:
        below = disk or machine.image.disk
        make_overlay(layout.disk, on=below.absolute(), kind="qcow2" if below.suffix == ".qcow2" else "raw")
        machine.write_device_tree(layout.device_tree)
    else:
        make_overlay(layout.disk, on=template.disk, kind="qcow2")
    write_seed(layout.seed, b"")
    seed = _seed(board, spec, keys)
    if write_log is not None:
        write_log.write_bytes(b"")
    argv = machine.argv(layout, template=template, saving=False, ssh_port=spec.ssh_port, write_log=write_log)
    process = Process(argv, layout, what=f"emulated board {board.id}", deadline_s=deadline_s)
    try:
        with process.qmp() as qemu:
            if template is not None:
                restore(qemu, template, process)
                qemu.do("cont")
            write_seed(layout.seed, seed.pack(epoch_ns=time.time_ns()))
            endpoint = _endpoint(
                board, qemu, keys, layout,
                warden_pid=process.warden_pid, started_as=_started_as(board, spec, machine),
            )  # fmt: skip
        process.wait_for_line(f"edgehil: {re.escape(board.id)} is ready")
        write_private(layout.known_hosts, f"[{HOST}]:{endpoint.port} {keys.host_key}\n".encode())
        endpoint.write(layout.endpoint)
    except BaseException:
        process.stop()
        raise
    return process, endpoint


def _seed(board: Board, spec: EmulatedSpec, keys: BoardKeys) -> Seed:
    return Seed(
        hostname=board.id,
        serial=spec.serial,
        host_key=keys.client_path.with_name("host_ed25519"),
        identity_key=keys.identity_public_path.with_name("identity.pem"),
        authorized_keys=(keys.client_public.export_public_key().decode().strip(),),
    )


def _endpoint(
    board: Board, qemu: Qmp, keys: BoardKeys, layout: Layout, *, warden_pid: int, started_as: StartedAs
) -> Endpoint:
    """The ports that QEMU has taken, which were free when it asked."""
    network = qemu.human("info usernet")
    ssh = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", network)
    console = next(one["filename"] for one in qemu.do("query-chardev") if one["label"] == "console")
    port = re.search(r"tcp:127\.0\.0\.1:(\d+)", console)
    if ssh is None or port is None:
        raise BoardError(f"emulated board {board.id}: QEMU does not tell its ports: {network!r}, {console!r}")
    return Endpoint(
        board_id=board.id,
        host=HOST,
        port=int(ssh[1]),
        user=USER,
        host_key=keys.host_key,
        client_key=str(keys.client_path),
        console=f"socket://{HOST}:{port[1]}",
        qmp=str(layout.qmp),
        identity_key=str(keys.identity_public_path),
        warden_pid=warden_pid,
        starter_pid=os.getpid(),
        started_as=started_as,
    )


def _running(board: Board, layout: Layout, endpoint: Endpoint, *, process: Process | None) -> RunningBoard:
    complete = replace(
        board,
        ssh=SshAccess(
            host=endpoint.host,
            port=endpoint.port,
            user=endpoint.user,
            key_path=Path(endpoint.client_key),
            host_key=endpoint.host_key,
        ),
        console=ConsoleAccess(url=endpoint.console),
        power=QmpPower(socket=Path(endpoint.qmp)),
        identity_key=board.identity_key or Path(endpoint.identity_key),
    )
    return RunningBoard(
        board=complete, owned=process is not None, layout=layout, endpoint=endpoint, sensors=Sensors(layout.sensors),
        _process=process,
    )  # fmt: skip
