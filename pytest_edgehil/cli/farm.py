"""``edgehil farm``: keep the virtual and emulated boards of a lab running, look at them, and break them.

``up`` runs until Ctrl-C and takes the boards down with it. Whoever runs tests on the lab meanwhile joins its boards
instead of starting his own. The other actions talk to boards that run, whoever started them; faults are for virtual
boards, ``sense`` is for emulated ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import BoardUnavailable, ConfigError, PowerError
from pytest_edgehil.model.board import Environment, Fault

if TYPE_CHECKING:
    from pytest_edgehil.emulated.farm import RunningBoard as EmulatedBoard
    from pytest_edgehil.emulated.layout import Layout as EmulatedLayout
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.model.board import Board
    from pytest_edgehil.virtual.control import VirtualControl
    from pytest_edgehil.virtual.farm import RunningBoard


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "farm", help="virtual and emulated boards: run them, look at them, break them", description=__doc__
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    up = actions.add_parser("up", help="run virtual and emulated boards until Ctrl-C and print how to reach them")
    up.add_argument("lab", type=Path, metavar="LAB", help="lab file")
    up.add_argument(
        "boards", nargs="*", metavar="BOARD", help="only these (default: every board of the lab that can be started)"
    )
    up.set_defaults(run=_up)

    status = actions.add_parser("status", help="what a running board is doing, as JSON")
    status.set_defaults(run=_status)

    power = actions.add_parser("power", help="switch the power of a running board")
    power.set_defaults(run=_power)

    fault = actions.add_parser("fault", help="inject a fault into a running virtual board, now or later")
    fault.set_defaults(run=_fault)

    clear = actions.add_parser("clear", help="disarm and end every fault of a running virtual board")
    clear.set_defaults(run=_clear)

    sense = actions.add_parser("sense", help="set what a running emulated board measures of itself")
    sense.add_argument("--temperature", type=float, metavar="CELSIUS", help="of its die; 110 switches it off")
    sense.add_argument("--throttled", type=_bits, metavar="BITS", help="such as 0x50005")
    sense.set_defaults(run=_sense)

    for action in (status, power, fault, clear, sense):
        action.add_argument("board", metavar="BOARD")
        action.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    power.add_argument("verb", choices=("on", "off", "cycle"))
    fault.add_argument("kind", metavar="KIND", help="such as link-cut, panic, disk-full; an unknown one lists them all")
    fault.add_argument("--after-bytes", type=int, metavar="N", help="once so many bytes have come in over the link")
    fault.add_argument("--after-s", type=float, metavar="SECONDS", help="so long after it was armed")
    fault.add_argument(
        "--option", action="append", default=[], metavar="NAME=NUMBER", help="such as rate_bytes_per_s=20000"
    )


def _bits(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number: expected bits such as 0x50005") from None


def _up(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated import farm as emulated
    from pytest_edgehil.lab.inventory import load_lab
    from pytest_edgehil.virtual import farm as virtual

    lab = load_lab(options.lab)
    boards = _chosen(lab, options.boards)
    # all end like Ctrl-C: in an orderly way, from wherever we are; SIGINT too, which a shell's "&" makes us ignore
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        for board in boards:
            directory = virtual.board_directory(lab.state_dir, board.id)
            if board.emulated is None:
                print(_told(stack.enter_context(virtual.start(board, directory=directory))), flush=True)
            else:
                print(_told_emulated(stack.enter_context(emulated.start(board, directory=directory))), flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # whoever reads that line may press Ctrl-C at once
            print(f"{len(boards)} boards of {lab.name} are up; Ctrl-C takes them down", flush=True)
            while True:
                signal.pause()
        print("taking them down", file=sys.stderr)
    return 0


def _chosen(lab: Lab, names: Sequence[str]) -> list[Board]:
    ours = [board for board in lab.boards if board.environment is Environment.VIRTUAL or board.emulated is not None]
    if not names:
        if not ours:
            raise BoardUnavailable(f"{lab.path}: no board is virtual or emulated here, so there is nothing to start")
        return ours
    chosen = [lab.board(name) for name in names]
    for board in chosen:
        if board not in ours:
            raise BoardUnavailable(
                f"{lab.path}: boards.{board.id} is {board.environment}, not virtual or with 'emulated:': "
                "it cannot be started"
            )
    return chosen


def _told(running: RunningBoard) -> str:
    end = running.endpoint
    whose = "" if running.owned else " (joined: somebody else runs it)"
    return (
        f"{running.board.id}{whose}\n"
        f"  ssh      ssh -i {end.client_key} -o UserKnownHostsFile={running.layout.known_hosts} "
        f"-p {end.port} {end.user}@{end.host}\n"
        f"  console  {end.console}\n"
        f"  control  {end.socket}\n"
        f"  disk     {running.layout.disk}"
    )


def _told_emulated(running: EmulatedBoard) -> str:
    end = running.endpoint
    whose = "" if running.owned else " (joined: somebody else runs it)"
    return (
        f"{running.board.id}{whose}\n"
        f"  ssh      ssh -i {end.client_key} -o UserKnownHostsFile={running.layout.known_hosts} "
        f"-p {end.port} {end.user}@{end.host}\n"
        f"  console  {end.console}\n"
        f"  qmp      {end.qmp}\n"
        f"  log      {running.layout.console_log}"
    )


def _emulated(options: argparse.Namespace) -> EmulatedLayout | None:
    """The files of an emulated board that runs; None: the board is none that is emulated here."""
    from pytest_edgehil.cli.lab import chosen_lab
    from pytest_edgehil.emulated.layout import Layout
    from pytest_edgehil.emulated.process import is_served
    from pytest_edgehil.virtual.farm import board_directory

    lab = chosen_lab(options.lab)
    board = lab.board(options.board)
    if board.emulated is None:
        return None
    layout = Layout(root=board_directory(lab.state_dir, board.id))
    if not (layout.endpoint.exists() and is_served(layout)):  # a warden that was killed leaves its files
        raise PowerError(
            f"emulated board {board.id} is not running; start it with 'edgehil farm up {lab.path} {board.id}'"
        )
    return layout


def _sense(options: argparse.Namespace) -> int:
    from pytest_edgehil.emulated.sensors import Sensors

    if options.temperature is None and options.throttled is None:
        raise ConfigError(f"{options.board}: nothing to set: expected --temperature, --throttled or both")
    layout = _emulated(options)
    if layout is None:
        raise ConfigError(f"{options.board} is not emulated here: its sensors cannot be set")
    sensors = Sensors(layout.sensors)
    if options.temperature is not None:
        sensors.set_temperature(options.temperature)
    if options.throttled is not None:
        sensors.set_throttled(options.throttled)
    print(f"{options.board}: sensors set")
    return 0


def _control(options: argparse.Namespace) -> VirtualControl:
    from pytest_edgehil.cli.lab import chosen_lab
    from pytest_edgehil.virtual.control import VirtualControl
    from pytest_edgehil.virtual.farm import board_directory, served_endpoint

    lab = chosen_lab(options.lab)
    board = lab.board(options.board)
    if board.environment is not Environment.VIRTUAL:
        raise ConfigError(
            f"{lab.path}: boards.{board.id} is {board.environment}: only virtual boards have a supervisor"
        )
    endpoint = served_endpoint(board_directory(lab.state_dir, board.id))
    if endpoint is None:
        raise PowerError(
            f"virtual board {board.id} is not running; start it with 'edgehil farm up {lab.path} {board.id}'"
        )
    return VirtualControl(Path(endpoint.socket))


def _status(options: argparse.Namespace) -> int:
    from pytest_edgehil.board.power import QmpSwitch
    from pytest_edgehil.emulated.layout import Endpoint

    if (layout := _emulated(options)) is not None:
        power = "on" if QmpSwitch(layout.qmp, board_id=options.board).is_on() else "off"
        endpoint = Endpoint.read(layout.endpoint)
        reached = {} if endpoint is None else asdict(endpoint)  # it has ended just now
        print(json.dumps({"board": options.board, "power": power, **reached}, indent=2))
        return 0
    print(json.dumps(asdict(_control(options).status()), indent=2))
    return 0


def _power(options: argparse.Namespace) -> int:
    from pytest_edgehil.board.power import QmpSwitch

    if (layout := _emulated(options)) is not None:
        switch = QmpSwitch(layout.qmp, board_id=options.board)
        {"on": switch.on, "off": switch.off, "cycle": switch.cycle}[options.verb]()
        print(f"{options.board}: power is {'on' if switch.is_on() else 'off'}")
        return 0
    control = _control(options)
    verb = {"on": control.power_on, "off": control.power_off, "cycle": control.power_cycle}[options.verb]
    print(f"{options.board}: power is {verb().power}")
    return 0


def _fault(options: argparse.Namespace) -> int:
    from pytest_edgehil.virtual.faults import check_fault

    fault = check_fault(
        Fault(
            kind=options.kind,
            after_bytes=options.after_bytes,
            after_s=options.after_s,
            options=dict(_option(text) for text in options.option),
        )
    )
    status = _control(options).inject(fault)
    how = "armed" if fault.kind in status.armed else "in effect" if fault.kind in status.levels else "triggered"
    print(f"{options.board}: {fault.kind} {how}")
    return 0


def _option(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        if equals:
            return name, float(value)
    except ValueError:
        pass
    raise ConfigError(f"--option {text}: expected NAME=NUMBER, such as rate_bytes_per_s=20000")


def _clear(options: argparse.Namespace) -> int:
    _control(options).clear_faults()
    print(f"{options.board}: no faults")
    return 0
