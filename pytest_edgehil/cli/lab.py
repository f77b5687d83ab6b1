"""``edgehil lab``: check a lab file, see who holds what, and take boards back.

The lab is ``--lab FILE``, else ``$EDGEHIL_LAB``, else ``lab.yaml`` in the current directory.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.cli import lab_serve
from pytest_edgehil.errors import ConfigError, LabFileError
from pytest_edgehil.model.quantity import format_duration

if TYPE_CHECKING:
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import BoardState, Holder
    from pytest_edgehil.model.board import Board


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("lab", help="the inventory, and who holds which board", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="check a lab file and the key files that it names; prints every problem")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--no-keys", action="store_true", help="check the lab file only: the keys that it names are on another host"
    )
    check.set_defaults(run=_check)

    schema = actions.add_parser("schema", help="print the JSON Schema of a lab file, for editors")
    schema.set_defaults(run=_schema)

    boards = actions.add_parser("boards", help="print each board's state, holder and reason")
    boards.add_argument("--json", action="store_true", help="as one JSON object")
    boards.set_defaults(run=_boards)

    release = actions.add_parser("release", help="take a board away from its holder")
    release.add_argument("board", metavar="BOARD")
    release.add_argument("--reason", required=True, help="why; the holder is told, and the audit trail keeps it")
    release.set_defaults(run=_release)

    restore = actions.add_parser("restore", help="hand a quarantined board out again")
    restore.add_argument("board", metavar="BOARD")
    restore.add_argument("--reason", default="", help="what was mended; the audit trail keeps it")
    restore.set_defaults(run=_restore)

    survey = actions.add_parser("labgrid", help="print the beginning of a lab file from the places of a labgrid lab")
    survey.add_argument("coordinator", metavar="HOST:PORT", help="its coordinator")
    survey.add_argument(
        "--python", type=Path, metavar="FILE", help="an interpreter that has labgrid (default: this one)"
    )
    survey.set_defaults(run=_labgrid)

    migrate = actions.add_parser(
        "migrate",
        help="make or update the tables of the lease database",
        description="Make the tables of the lab's lease database, or update those of an older edgehil. To be run once "
        "after an update by somebody who may create a schema in PostgreSQL; again does no harm. A database in SQLite "
        "updates itself.",
    )
    migrate.set_defaults(run=_migrate)

    lab_serve.add(actions, chosen=chosen_lab)

    for action in (boards, release, restore, migrate):
        action.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")


def chosen_lab(path: Path | None) -> Lab:
    """The lab that a command line means.

    Raises:
        ConfigError: it does not say, and nothing else does.
    """
    from pytest_edgehil.lab.inventory import load_lab

    if path is not None:
        return load_lab(path)
    if os.environ.get("EDGEHIL_LAB"):
        return load_lab(Path(os.environ["EDGEHIL_LAB"]))
    if Path("lab.yaml").exists():
        return load_lab(Path("lab.yaml"))
    raise ConfigError("which lab? pass --lab FILE, set EDGEHIL_LAB, or run this where lab.yaml is")


def _lab(options: argparse.Namespace) -> Lab:
    return chosen_lab(options.lab)


def _operator() -> Holder:
    from pytest_edgehil.lab.leases import default_holder

    return default_holder()


def _check(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.files import check_files
    from pytest_edgehil.lab.inventory import load_lab

    try:
        lab = load_lab(options.file)
        if not options.no_keys:
            check_files(lab)
        _check_faults(lab)
    except LabFileError as wrong:
        for problem in wrong.problems:
            print(f"edgehil: {problem}", file=sys.stderr)
        return 2
    classes = Counter(board.cls for board in lab.boards)
    environments = Counter(str(board.environment) for board in lab.boards)
    print(f"{options.file}: ok")
    print(f"  lab:     {lab.name}")
    print(f"  boards:  {len(lab.boards)} ({_counted(environments)})")
    print(f"  classes: {_counted(classes)}")
    print(f"  leases:  {lab.lease_url}, expiry {format_duration(lab.lease_expiry_s * 1e9)}")
    return 0


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


def _schema(options: argparse.Namespace) -> int:  # noqa: ARG001 -- every action takes the options
    from pytest_edgehil.lab.schema import lab_schema

    print(json.dumps(lab_schema(), indent=2, ensure_ascii=False))
    return 0


def _labgrid(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.from_labgrid import lab_file
    from pytest_edgehil.labgrid.conversation import Coordinator
    from pytest_edgehil.labgrid.places import places

    at = Coordinator(address=options.coordinator, python=options.python or Path(sys.executable))
    found = places(at)
    if not found:
        raise ConfigError(
            f"the labgrid coordinator at {at.address} has no places: make one with 'labgrid-client create'"
        )
    print(lab_file(found, coordinator=at.address, python=str(options.python) if options.python else None), end="")
    print("# complete what is empty, then run: edgehil lab check FILE")
    return 0


def _boards(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.store import open_store

    lab = _lab(options)
    with open_store(lab) as store:
        states = store.boards()
    if options.json:
        described = [_described(lab.board(state.board_id), state) for state in states]
        print(json.dumps({"lab": lab.name, "file": str(lab.path), "boards": described}, indent=2, ensure_ascii=False))
        return 0
    now = time.time()
    rows = [("BOARD", "CLASS", "ENVIRONMENT", "STATE", "SINCE", "HOLDER", "REASON")]
    rows += [
        (
            state.board_id,
            lab.board(state.board_id).cls,
            str(lab.board(state.board_id).environment),
            str(state.state),
            f"{format_duration(max(0.0, now - state.since) * 1e9)} ago" if state.since is not None else "-",
            str(state.holder) if state.holder is not None else "-",
            state.reason or "-",
        )
        for state in states
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _described(board: Board, state: BoardState) -> dict[str, Any]:
    """One board for scripts; times are ISO 8601 in UTC."""
    holder = state.holder
    return {
        "id": board.id,
        "class": board.cls,
        "tags": sorted(board.tags),
        "environment": str(board.environment),
        "pool": board.pool,
        "state": str(state.state),
        "since": _iso(state.since),
        "reason": state.reason,
        "holder": None
        if holder is None
        else {"name": holder.name, "host": holder.host, "pid": holder.pid, "user": holder.user},
        "token": state.token,
        "expires_at": _iso(state.expires_at),
    }


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).isoformat(timespec="milliseconds")


def _migrate(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.store import migrate_store

    lab = _lab(options)
    done = migrate_store(lab)
    for step in done:
        print(f"{lab.name}: {step.number} {step.name}")
    print(f"{lab.name}: {lab.lease_url} is up to date")
    return 0


def _release(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.store import open_store

    lab = _lab(options)
    board = lab.board(options.board)
    with open_store(lab) as store:
        lease = store.force_release(board.id, by=_operator(), reason=options.reason)
    if lease is None:
        print(f"{board.id}: nobody holds it")
    else:
        print(f"{board.id}: taken away from {lease.holder}; commands that carry its token are refused by the board")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from pytest_edgehil.lab.store import open_store

    lab = _lab(options)
    board = lab.board(options.board)
    with open_store(lab) as store:
        restored = store.restore(board.id, by=_operator(), reason=options.reason)
    print(f"{board.id}: handed out again" if restored else f"{board.id}: it was not quarantined")
    return 0
