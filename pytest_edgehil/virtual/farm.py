"""Starting virtual boards.

`start` either starts a board's supervisor or joins one that already serves its directory; two processes that start
the same board at the same moment end up with one supervisor, which belongs to the first. It dies with its owner: who
has joined a board loses it then.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from pytest_edgehil.errors import BoardError, ConfigError, PowerError
from pytest_edgehil.model.board import Board, ConsoleAccess, SshAccess, VirtualPower
from pytest_edgehil.model.fencing import Bearer
from pytest_edgehil.virtual import fence
from pytest_edgehil.virtual.blueprint import Blueprint, Endpoint, Layout, blueprint_of
from pytest_edgehil.virtual.control import VirtualControl
from pytest_edgehil.virtual.faults import check_fault
from pytest_edgehil.virtual.processes import marker_of, sweep
from pytest_edgehil.virtual.starting import POLL_S, check_same, exclusively, if_free, is_held, is_of_a_lease
from pytest_edgehil.virtual.warding import Warden

START_S = 180.0
"""A board starts in less than a second; several at once on a busy host may take a hundred times as long. One that
cannot start says so, or dies, and is not waited for."""


def board_directory(lab_state_dir: Path, board_id: str) -> Path:
    """Where a board of a lab keeps its disk, keys and journal."""
    return lab_state_dir / "boards" / board_id


def identity_key(directory: Path) -> Path:
    """The public key that a board of this directory signs evidence with; made when the board is first started."""
    return Layout(root=directory).keys / "identity.pub.pem"


@dataclass(slots=True, kw_only=True)
class RunningBoard:
    """A virtual board that is being served. A context manager: leaving it stops a board that is ours.

    Args:
        board: with ssh, console, power and identity key filled in.
        owned: whether we started it; one that was joined is left alone by `stop`.
    """

    board: Board
    control: VirtualControl
    owned: bool
    layout: Layout
    endpoint: Endpoint
    _warden: Warden | None = field(repr=False)

    def stop(self) -> None:
        """Stop the board if it is ours; when this returns, no process of it is left. Its disk stays. Idempotent."""
        warden, self._warden = self._warden, None
        if warden is not None:
            warden.stop()
            _sweep_unless_served(self.layout)

    def __enter__(self) -> RunningBoard:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _problem: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()


def start(board: Board, *, directory: Path, wait_s: float = START_S, for_lease: Bearer | None = None) -> RunningBoard:
    """Start a virtual board, or join whoever serves it already.

    Returns when the board runs, or will not by itself (a fault of its blueprint took its power, or it hangs in its
    boot): then the next attempt to reach it tells.

    Args:
        directory: see `board_directory`; made, private, when it is not there.
        wait_s: how long the start may take.
        for_lease: the caller holds the board's lease, this one. A supervisor that an earlier leaseholder started and
            has not ended yet is ended then and not joined: it would go down with a holder that has no right to it any
            more. Power and faults are asked for under this lease from then on.

    Raises:
        ConfigError: the board is not virtual, something that lab.yaml says of it cannot be, or it runs already and was
            started as something else than the lab file says.
        BoardError: the supervisor did not come up.
        ConnectFailed: not within `wait_s`.
        Fenced: somebody with a later lease has started the board, or switched its power.
    """
    blueprint = blueprint_of(board)
    for fault in blueprint.faults:
        check_fault(fault)
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    layout = Layout(root=directory)
    deadline_s = time.monotonic() + wait_s
    with exclusively(layout.start_lock, what=f"virtual board {board.id}", log=layout.log, deadline_s=deadline_s):
        if for_lease is not None:
            fence.enter(layout, for_lease, board_id=board.id)
        while True:
            joined = _join(board, layout, for_lease)
            if joined is not None:
                if for_lease is None or not is_of_a_lease(layout.leased, joined.endpoint.pid):
                    _check_joined(board, joined.endpoint, wanted=blueprint)
                    return joined
                with contextlib.suppress(PowerError):  # it is ending by itself
                    joined.control.stop()
                time.sleep(POLL_S)
            started = _launch(board, blueprint, layout, for_lease, deadline_s=deadline_s)
            if started is not None:
                if for_lease is not None:
                    layout.leased.write_text(str(started.endpoint.pid))
                return started


def served_endpoint(directory: Path) -> Endpoint | None:
    """How to reach the board of this directory, None when nobody serves it.

    Raises:
        ConfigError: whoever serves it is of another version, or its endpoint is damaged.
    """
    layout = Layout(root=directory.absolute())
    return Endpoint.read(layout.endpoint) if layout.endpoint.exists() and is_held(layout.lock) else None


def running_control(directory: Path) -> VirtualControl | None:
    """The control of a board that somebody runs from this directory, None when nobody does; for looking only."""
    endpoint = served_endpoint(directory)
    if endpoint is None:
        return None
    control = VirtualControl(Path(endpoint.socket))
    try:
        control.status()
    except PowerError:
        return None
    return control


def _sweep_unless_served(layout: Layout) -> None:
    """End what a killed warden may have left; nothing if somebody else serves the board by now."""
    with if_free(layout.lock) as free:
        if free:
            sweep(marker_of(layout.root))


def _join(board: Board, layout: Layout, bearer: Bearer | None) -> RunningBoard | None:
    endpoint = served_endpoint(layout.root)
    if endpoint is None:
        return None
    control = VirtualControl(Path(endpoint.socket), bearer=bearer)
    try:
        control.status()
    except PowerError:
        return None  # it is just ending, or was killed: the warden removes the endpoint
    return _running(board, layout, endpoint, control, warden=None)


def _check_joined(board: Board, endpoint: Endpoint, *, wanted: Blueprint) -> None:
    """Refuse a board that is not what the lab file says: a gate on its memory would judge another board's.

    Raises:
        ConfigError: it is not.
    """
    check_same(f"virtual board {board.id}", endpoint.blueprint.words(), wanted.words(), process=endpoint.warden_pid)


def _launch(
    board: Board, blueprint: Blueprint, layout: Layout, bearer: Bearer | None, *, deadline_s: float
) -> RunningBoard | None:
    """Start warden and supervisor; None when somebody else was quicker without taking the start lock."""
    warden = Warden("pytest_edgehil.virtual.warden", layout.root, log=layout.log, order=blueprint.to_json())
    try:
        answer = warden.report(what=f"virtual board {board.id}", deadline_s=deadline_s)
        if answer["ok"]:
            endpoint = Endpoint.from_json(answer["endpoint"])
            control = VirtualControl(Path(endpoint.socket), bearer=bearer)
            return _running(board, layout, endpoint, control, warden=warden)
    except BaseException:
        warden.stop()
        raise
    warden.stop()
    if answer["kind"] == "busy" and time.monotonic() < deadline_s:
        return None
    if answer["kind"] == "config":
        raise ConfigError(answer["error"])
    raise BoardError(f"virtual board {board.id} did not start: {answer['error']}; see {layout.log}")


def _running(
    board: Board,
    layout: Layout,
    endpoint: Endpoint,
    control: VirtualControl,
    *,
    warden: Warden | None,
) -> RunningBoard:
    pinned = None if board.virtual is None else board.virtual.ssh_host_key
    ssh = board.ssh or SshAccess(
        host=endpoint.host,
        port=endpoint.port,
        user=endpoint.user,
        key_path=Path(endpoint.client_key),
        host_key=pinned or endpoint.host_key,
    )
    power = board.power if board.power is not None and not isinstance(board.power, VirtualPower) else None
    complete = replace(
        board,
        ssh=replace(ssh, port=endpoint.port),
        console=board.console or ConsoleAccess(url=endpoint.console),
        power=power or VirtualPower(socket=Path(endpoint.socket)),
        identity_key=board.identity_key or Path(endpoint.identity_key),
    )
    return RunningBoard(
        board=complete, control=control, owned=warden is not None, layout=layout, endpoint=endpoint, _warden=warden
    )
