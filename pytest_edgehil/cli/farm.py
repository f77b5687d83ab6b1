"""``edgehil farm``: keep the virtual boards of a lab running, look at them, and break them.

``up`` runs until Ctrl-C and takes the boards down with it. Whoever runs tests on the lab meanwhile joins its boards
instead of starting his own. The other actions talk to boards that run, whoever started them.
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
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.model.board import Board
    from pytest_edgehil.virtual.control import VirtualControl
    from pytest_edgehil.virtual.farm import RunningBoard


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser(
        "farm", help="virtual boards: run them, look at them, break them", description=__doc__
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    up = actions.add_parser("up", help="run virtual boards until Ctrl-C and print how to reach them")
    up.add_argument("lab", type=Path, metavar="LAB", help="lab file")
    up.add_argument("boards", nargs="*", metavar="BOARD", help="only these (default: every virtual board of the lab)")
    up.set_defaults(run=_up)

    status = actions.add_parser("status", help="what a running virtual board is doing, as JSON")
    status.set_defaults(run=_status)

    power = actions.add_parser("power", help="switch the power of a running virtual board")
    power.set_defaults(run=_power)

    fault = actions.add_parser("fault", help="inject a fault into a running virtual board, now or later")
    fault.set_defaults(run=_fault)

    clear = actions.add_parser("clear", help="disarm and end every fault of a running virtual board")
    clear.set_defaults(run=_clear)

    for action in (status, power, fault, clear):
        action.add_argument("board", metavar="BOARD")
        action.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    power.add_argument("verb", choices=("on", "off", "cycle"))
    fault.add_argument("kind", metavar="KIND", help="such as link-cut, panic, disk-full; an unknown one lists them all")
    fault.add_argument("--after-bytes", type=int, metavar="N", help="once so many bytes have come in over the link")
    fault.add_argument("--after-s", type=float, metavar="SECONDS", help="so long after it was armed")
    fault.add_argument(
        "--option", action="append", default=[], metavar="NAME=NUMBER", help="such as rate_bytes_per_s=20000"
    )


def _up(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.inventory import load_lab
    from pytest_edgehil.virtual.farm import board_directory, start

    lab = load_lab(options.lab)
    boards = _chosen(lab, options.boards)
    # all end like Ctrl-C: in an orderly way, from wherever we are; SIGINT too, which a shell's "&" makes us ignore
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        for board in boards:
            running = stack.enter_context(start(board, directory=board_directory(lab.state_dir, board.id)))
            print(_told(running), flush=True)
        print(f"{len(boards)} boards of {lab.name} are up; Ctrl-C takes them down", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                signal.pause()
        print("taking them down", file=sys.stderr)
    return 0


def _chosen(lab: Lab, names: Sequence[str]) -> list[Board]:
    virtual = [board for board in lab.boards if board.environment is Environment.VIRTUAL]
    if not names:
        if not virtual:
            raise BoardUnavailable(f"{lab.path}: no board is virtual, so there is nothing to start")
        return virtual
    chosen = [lab.board(name) for name in names]
    for board in chosen:
        if board not in virtual:
            raise BoardUnavailable(
                f"{lab.path}: boards.{board.id} is {board.environment}, not virtual: it cannot be started"
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


def _control(options: argparse.Namespace) -> VirtualControl:
    from pytest_edgehil.cli.lab import chosen_lab
    from pytest_edgehil.virtual.blueprint import Endpoint, Layout
    from pytest_edgehil.virtual.control import VirtualControl
    from pytest_edgehil.virtual.farm import board_directory

    lab = chosen_lab(options.lab)
    board = lab.board(options.board)
    endpoint = Endpoint.read(Layout(root=board_directory(lab.state_dir, board.id)).endpoint)
    if endpoint is None:
        raise PowerError(
            f"virtual board {board.id} is not running; start it with 'edgehil farm up {lab.path} {board.id}'"
        )
    return VirtualControl(Path(endpoint.socket))


def _status(options: argparse.Namespace) -> int:
    print(json.dumps(asdict(_control(options).status()), indent=2))
    return 0


def _power(options: argparse.Namespace) -> int:
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
