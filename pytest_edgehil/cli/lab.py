"""``edgehil lab``: check a lab file, see who holds what, and take boards back.

The lab is ``--lab FILE``, else ``$EDGEHIL_LAB``, else ``lab.yaml`` in the current directory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.cli import lab_audit, lab_hands, lab_health, lab_metrics, lab_serve
from pytest_edgehil.cli.columns import ago, iso, print_table
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.quantity import format_duration

if TYPE_CHECKING:
    from pytest_edgehil.lab.health import LastCheck
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import BoardState, Holder
    from pytest_edgehil.model.board import Board


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("lab", help="the inventory, and who holds which board", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    schema = actions.add_parser("schema", help="print the JSON Schema of a lab file, for editors")
    schema.set_defaults(run=_schema)

    boards = actions.add_parser("boards", help="print each board's state, holder and reason")
    boards.add_argument("--json", action="store_true", help="as one JSON object")
    boards.set_defaults(run=_boards)

    release = actions.add_parser("release", help="take a board away from its holder")
    release.add_argument("board", metavar="BOARD")
    release.add_argument("--reason", required=True, help="why; the holder is told, and the audit trail keeps it")
    release.set_defaults(run=_release)

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

    lab_health.add(actions, chosen=chosen_lab)
    lab_hands.add(actions, chosen=chosen_lab)
    lab_audit.add(actions, chosen=chosen_lab)
    lab_metrics.add(actions, chosen=chosen_lab)
    lab_serve.add(actions, chosen=chosen_lab)

    for action in (boards, release, migrate):
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
        states, checks = store.boards(), store.checks()
    if options.json:
        described = [_described(lab.board(state.board_id), state, checks.get(state.board_id)) for state in states]
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
            ago(now - state.since) if state.since is not None else "",
            str(state.holder) if state.holder is not None else "",
            _why(state, now=now),
        )
        for state in states
    ]
    print_table(rows)
    return 0


def _why(state: BoardState, *, now: float) -> str:
    """Why it is not handed out, how often in a row, and what will be done about it."""
    from pytest_edgehil.lab.leases import BoardStatus

    told = state.reason or ""
    if state.state is BoardStatus.QUARANTINED and state.failures:
        times = "" if state.failures == 1 else f"{state.failures} failures in a row; "
        if state.next_check_at is None:
            told += f" ({times}a person has to restore it)"
        elif state.next_check_at <= now:
            told += f" ({times}to be looked at again by whoever wants it next)"
        else:
            told += f" ({times}to be looked at again in {format_duration((state.next_check_at - now) * 1e9)})"
    return told


def _described(board: Board, state: BoardState, last: LastCheck | None) -> dict[str, Any]:
    """One board for scripts; times are ISO 8601 in UTC."""
    holder = state.holder
    return {
        "id": board.id,
        "class": board.cls,
        "tags": sorted(board.tags),
        "environment": str(board.environment),
        "timing": str(board.timing),
        "pool": board.pool,
        "state": str(state.state),
        "since": iso(state.since),
        "reason": state.reason,
        "holder": None
        if holder is None
        else {"name": holder.name, "host": holder.host, "pid": holder.pid, "user": holder.user},
        "token": state.token,
        "expires_at": iso(state.expires_at),
        "failures": state.failures,
        "next_check_at": iso(state.next_check_at),
        "last_check": None
        if last is None
        else {
            "at": iso(last.at),
            "passed": last.checkup.passed,
            "complaint": last.checkup.complaint or None,
            "temperature_c": last.checkup.temperature_c,
            "disk_free_bytes": last.checkup.disk_free_bytes,
            "clock_offset_s": last.checkup.clock_offset_s,
        },
    }


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
