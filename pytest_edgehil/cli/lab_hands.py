"""``edgehil lab console|power``: hands on one board, under a lease like everybody else's, also while it is quarantined.

Whoever else holds the board is not disturbed: it must be free. A virtual board is started for the command and stopped
after it, unless somebody keeps it running (``edgehil farm up``).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import LeaseTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.board.console import Console
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import AuditEvent, LabStore

ESCAPE = b"\x1d"
"""Ctrl-] as in telnet: no board wants it typed."""
TICK_S = 0.1


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: Callable[[Path | None], Lab]) -> None:
    """Add the actions.

    Args:
        actions: those of ``edgehil lab``.
        chosen: which lab a command line means.
    """
    console = actions.add_parser(
        "console",
        help="a board's serial console on this terminal; Ctrl-] leaves it",
        description="Show a board's serial console on this terminal and type on it; Ctrl-] leaves it. The board is "
        "leased for so long. Without a terminal it only shows, until the input ends.",
    )
    console.add_argument("board", metavar="BOARD")
    console.add_argument(
        "--log", type=Path, metavar="FILE", help="write what it says there, too (default: in the lab's state directory)"
    )
    console.set_defaults(run=lambda options: _console(options, chosen(options.lab)))

    power = actions.add_parser(
        "power",
        help="switch a board on or off, or tell whether it has power",
        description="Switch a board on or off, or off and on (cycle), under a lease; or tell whether it has power, for "
        "which nobody needs one.",
    )
    power.add_argument("board", metavar="BOARD")
    power.add_argument("do", choices=("on", "off", "cycle", "status"))
    power.add_argument("--reason", default="", help="why; the audit trail keeps it")
    power.set_defaults(run=lambda options: _power(options, chosen(options.lab)))

    for action in (console, power):
        action.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")


@contextlib.contextmanager
def _in_hand(lab: Lab, store: LabStore, board_id: str, *, console_log: Path | None, doing: str) -> Iterator[Holding]:
    """The board, leased and up.

    Raises:
        LeaseTimeout: somebody holds it.
        LeaseLost: it was lost meanwhile.
        BoardError: it cannot be brought up.
    """
    from pytest_edgehil.handout import HandOut
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.leases import default_holder

    handing_out = HandOut(
        lab,
        store,
        default_holder(),
        hold=lambda reservation: Holding(lab=lab, reservation=reservation, console_log=console_log),
    )
    reservation = handing_out.closed(board_id)
    if reservation is None:
        holder = next(state.holder for state in store.boards() if state.board_id == board_id)
        raise LeaseTimeout(
            f"{board_id} is held by {holder or 'somebody'}: wait until it is returned, or take it away with 'edgehil "
            f"lab release {board_id} --reason …'"
        )
    holding = Holding(lab=lab, reservation=reservation, console_log=console_log)
    with contextlib.closing(holding), holding.doing(doing):
        holding.open()
        yield holding


def _note(store: LabStore, holding: Holding, event: AuditEvent, reason: str) -> None:
    lease = holding.lease
    store.note(holding.id, event, by=lease.holder, token=lease.token, reason=reason)


# --- power -------------------------------------------------------------------------------------------------


def _power(options: argparse.Namespace, lab: Lab) -> int:
    from pytest_edgehil.lab.leases import AuditEvent
    from pytest_edgehil.lab.store import open_store

    board = lab.board(options.board)
    if options.do == "status":
        print(f"{board.id}: {_has_power(lab, board.id)}")
        return 0
    with (
        open_store(lab) as store,
        _in_hand(lab, store, board.id, console_log=None, doing="switching its power") as holding,
    ):
        getattr(holding.power, options.do)()
        _note(store, holding, AuditEvent.POWER, f"{options.do}: {options.reason}" if options.reason else options.do)
        on = holding.power.is_on()
    told = "" if on is None else f"; it is {'on' if on else 'off'} now"
    print(f"{board.id}: power {options.do}, done{told}")
    return 0


def _has_power(lab: Lab, board_id: str) -> str:
    """What the power switch says; looking needs no lease."""
    from pytest_edgehil.board.power import open_power
    from pytest_edgehil.model.board import Environment
    from pytest_edgehil.virtual.farm import board_directory, running_control

    board = lab.board(board_id)
    if board.environment is Environment.VIRTUAL:
        control = running_control(board_directory(lab.state_dir, board_id))
        return "off (a virtual board that nobody runs)" if control is None else control.status().power
    on = open_power(board).is_on()
    return "its power switch cannot tell" if on is None else "on" if on else "off"


# --- the console -------------------------------------------------------------------------------------------


def _console(options: argparse.Namespace, lab: Lab) -> int:
    from pytest_edgehil.lab.leases import AuditEvent
    from pytest_edgehil.lab.store import open_store

    board = lab.board(options.board)
    log = options.log or lab.state_dir / "console" / f"{board.id}.log"
    with (
        open_store(lab) as store,
        _in_hand(lab, store, board.id, console_log=log, doing="on its console") as holding,
    ):
        console = holding.console
        _note(store, holding, AuditEvent.CONSOLE, f"opened, logged to {log}")
        interactive = sys.stdin.isatty()
        how = "Ctrl-] leaves it" if interactive else "it is only shown: the input is no terminal"
        print(f"edgehil: console of {board.id}, logged to {log}; {how}", file=sys.stderr, flush=True)
        with _raw(sys.stdin.fileno()) if interactive else contextlib.nullcontext():
            _talk(console, check=holding.check, typing=interactive)
        print("\nedgehil: the console is left, and the board returned", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """Every key is the board's, Ctrl-C too; whatever happens, the terminal is as it was afterwards."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _talk(console: Console, *, check: Callable[[], None], typing: bool) -> None:
    """Show what the board says and type what is typed, until it is left or the input ends.

    Raises:
        LeaseLost: the board is not ours any more.
    """
    position, keyboard, screen = 0, sys.stdin.fileno(), sys.stdout.fileno()
    ended = False
    while True:
        check()
        position, said = console.raw(position)
        if said:
            os.write(screen, said)
        if ended:
            return
        if not select.select([keyboard], [], [], TICK_S)[0]:
            continue
        typed = os.read(keyboard, 1024)
        if not typed or (typing and ESCAPE in typed):
            typed, ended = typed.partition(ESCAPE)[0], True
        if typing and typed:
            console.write(typed)
