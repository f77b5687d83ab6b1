"""``edgehil lab check|quarantine|restore``: is the lab file right, are its boards well, and who is out.

``check`` looks at a lab file; with ``--boards`` at the boards, too, those that nobody holds: each is leased for a
moment, as by a test run, and one that does not pass is quarantined. ``--watch`` goes on and looks at quarantined
boards when their time has come, so that they return also while no test run wants them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.cli.columns import print_table
from pytest_edgehil.errors import ConfigError, LabFileError
from pytest_edgehil.model.quantity import duration_ns, format_duration, format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.handout import HandOut
    from pytest_edgehil.lab.health import Checkup
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import BoardState, Holder, LabStore


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: Callable[[Path | None], Lab]) -> None:
    """Add the actions.

    Args:
        actions: those of ``edgehil lab``.
        chosen: which lab a command line means.
    """
    check = actions.add_parser(
        "check",
        help="check a lab file and the key files that it names, and with --boards the boards; prints every problem",
        description=__doc__,
    )
    check.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)"
    )
    check.add_argument(
        "--no-keys", action="store_true", help="check the lab file only: the keys that it names are on another host"
    )
    check.add_argument("--boards", action="store_true", help="look at every board that nobody holds")
    check.add_argument(
        "--board", action="append", default=[], metavar="BOARD", help="look at this board; may be given again"
    )
    check.add_argument(
        "--watch", action="store_true", help="go on, and look at quarantined boards when their time has come"
    )
    check.add_argument(
        "--every", default="10 s", metavar="TIME", help="with --watch: how often to see who is due (default: 10 s)"
    )
    check.set_defaults(run=lambda options: _check(options, chosen))

    quarantine = actions.add_parser("quarantine", help="stop handing a board out; whoever holds it keeps it")
    quarantine.add_argument("board", metavar="BOARD")
    quarantine.add_argument("--reason", required=True, help="why; 'edgehil lab boards' and the audit trail show it")
    quarantine.set_defaults(run=lambda options: _quarantine(options, chosen(options.lab)))

    restore = actions.add_parser("restore", help="hand a quarantined board out again")
    restore.add_argument("board", metavar="BOARD")
    restore.add_argument("--reason", default="", help="what was mended; the audit trail keeps it")
    restore.set_defaults(run=lambda options: _restore(options, chosen(options.lab)))
    for action in (quarantine, restore):
        action.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")


# --- check -----------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace, chosen: Callable[[Path | None], Lab]) -> int:
    from pytest_edgehil.lab.files import check_files

    every_s = duration_ns(options.every) / 1e9
    if every_s <= 0:
        raise ConfigError(f"--every: {options.every!r} is no time to wait; expected for example '10 s'")
    try:
        lab = chosen(options.file)
        if not options.no_keys:
            check_files(lab)
        _check_faults(lab)
    except LabFileError as wrong:
        for problem in wrong.problems:
            print(f"edgehil: {problem}", file=sys.stderr)
        return 2
    wanted = [board.id for board in lab.boards] if options.boards else options.board
    for board_id in wanted:
        lab.board(board_id)  # a name that is wrong is said before anything is done
    _describe(lab)
    status = _look_at(lab, wanted) if wanted else 0
    if options.watch:
        _watch(lab, every_s=every_s)
    return status


def _describe(lab: Lab) -> None:
    classes = Counter(board.cls for board in lab.boards)
    environments = Counter(str(board.environment) for board in lab.boards)
    print(f"{lab.path}: ok")
    print(f"  lab:     {lab.name}")
    print(f"  boards:  {len(lab.boards)} ({_counted(environments)})")
    print(f"  classes: {_counted(classes)}")
    print(f"  leases:  {lab.lease_url}, expiry {format_duration(lab.lease_expiry_s * 1e9)}", flush=True)


def _check_faults(lab: Lab) -> None:
    """Ask the virtual boards, which know what options each fault has, about the faults of the lab file."""
    from pytest_edgehil.documents.reading import read_document
    from pytest_edgehil.lab.schema import LAB_FILE
    from pytest_edgehil.virtual.faults import check_fault

    document = read_document(lab.path, LAB_FILE)
    problems = []
    for board in lab.boards:
        for index, fault in enumerate(board.virtual.faults if board.virtual is not None else ()):
            try:
                check_fault(fault)
            except ConfigError as wrong:
                where = ("boards", board.id, "virtual", "faults", index)
                problems.append(document.problem(where, str(wrong)))
    if problems:
        raise document.refuse(problems)


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _look_at(lab: Lab, board_ids: list[str]) -> int:
    """Look at boards and print what was found; exit status 1 if one is not fit."""
    from pytest_edgehil.lab.store import open_store

    rows: list[tuple[str, ...]] = [("BOARD", "CHECK", "TEMPERATURE", "FREE", "CLOCK", "STATE", "WHAT")]
    unfit = 0
    with open_store(lab) as store:
        handing_out = _handing_out(lab, store)
        for board_id in board_ids:
            checkup = handing_out.check(board_id)
            state = next(one for one in store.boards() if one.board_id == board_id)
            unfit += checkup is not None and not checkup.passed
            rows.append(_row(board_id, checkup, state))
    print_table(rows)
    return 1 if unfit else 0


def _row(board_id: str, checkup: Checkup | None, state: BoardState) -> tuple[str, ...]:
    if checkup is None:
        return board_id, "", "", "", "", str(state.state), f"held by {state.holder}: not looked at"
    hot, free, clock = checkup.temperature_c, checkup.disk_free_bytes, checkup.clock_offset_s
    return (
        board_id,
        "passed" if checkup.passed else "failed",
        "" if hot is None else f"{hot:.1f} °C",
        "" if free is None else format_size(free),
        "" if clock is None else f"{clock:+.1f} s",
        str(state.state),
        checkup.complaint or state.reason or "",
    )


def _watch(lab: Lab, *, every_s: float) -> None:
    """Look at quarantined boards when their time has come, until Ctrl-C."""
    from pytest_edgehil.lab.store import open_store

    print(f"{lab.name}: looking at quarantined boards when their time has come; Ctrl-C ends it", flush=True)
    with open_store(lab) as store, contextlib.suppress(KeyboardInterrupt):
        handing_out = _handing_out(lab, store)
        while True:
            for board_id in store.due():
                checkup = handing_out.check(board_id, only_due=True)
                if checkup is not None:
                    said = "handed out again" if checkup.passed else f"still unfit: {checkup.complaint}"
                    print(f"{board_id}: {said}", flush=True)
            time.sleep(every_s)


def _handing_out(lab: Lab, store: LabStore) -> HandOut:
    from pytest_edgehil.handout import HandOut
    from pytest_edgehil.holding import Holding

    return HandOut(
        lab,
        store,
        _operator(),
        hold=lambda reservation: Holding(lab=lab, reservation=reservation, console_log=None),
    )


# --- quarantine and restore --------------------------------------------------------------------------------


def _operator() -> Holder:
    from pytest_edgehil.lab.leases import default_holder

    return default_holder()


def _quarantine(options: argparse.Namespace, lab: Lab) -> int:
    from pytest_edgehil.lab.store import open_store

    board = lab.board(options.board)
    with open_store(lab) as store:
        store.quarantine(board.id, reason=options.reason, by=_operator())
        holder = next(state.holder for state in store.boards() if state.board_id == board.id)
    kept = f"; {holder} keeps it until it is returned" if holder is not None else ""
    print(f"{board.id}: not handed out any more{kept}; 'edgehil lab restore {board.id}' ends that")
    return 0


def _restore(options: argparse.Namespace, lab: Lab) -> int:
    from pytest_edgehil.lab.store import open_store

    board = lab.board(options.board)
    with open_store(lab) as store:
        restored = store.restore(board.id, by=_operator(), reason=options.reason)
    print(f"{board.id}: handed out again" if restored else f"{board.id}: it was not quarantined")
    return 0
