"""``edgehil lab audit``: every lease and every change of a board's state: when, who, from where, and why."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.cli.columns import iso, print_table
from pytest_edgehil.errors import ConfigError, QuantityError
from pytest_edgehil.model.quantity import duration_ns, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import AuditLine


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser], *, chosen: Callable[[Path | None], Lab]) -> None:
    """Add the action.

    Args:
        actions: those of ``edgehil lab``.
        chosen: which lab a command line means.
    """
    audit = actions.add_parser("audit", help="print what happened to the boards", description=__doc__)
    audit.add_argument("--board", metavar="BOARD", help="only what happened to this board")
    audit.add_argument(
        "--since", metavar="WHEN", help="only from then on: how long ago ('2 h'), or a date or time in ISO 8601 (UTC)"
    )
    audit.add_argument("--json", action="store_true", help="one JSON object for each line")
    audit.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    audit.set_defaults(run=lambda options: _audit(options, chosen(options.lab)))


def _audit(options: argparse.Namespace, lab: Lab) -> int:
    from pytest_edgehil.lab.store import open_store

    board_id = None if options.board is None else lab.board(options.board).id
    since = None if options.since is None else moment(options.since, now=time.time())
    with open_store(lab) as store:
        lines = store.audit(board_id=board_id, since=since)
    if options.json:
        for line in lines:
            print(json.dumps(_plain(line), ensure_ascii=False))
        return 0
    rows = [("WHEN (UTC)", "BOARD", "WHAT", "WHO", "FROM", "TOKEN", "WHY")]
    rows += [
        (
            dt.datetime.fromtimestamp(line.at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S"),
            line.board_id,
            str(line.event),
            line.by.name,
            f"{line.by.user}@{line.by.host}, pid {line.by.pid}",
            "" if line.token is None else str(line.token),
            line.reason or ("" if not line.waited_s else f"waited {format_duration(line.waited_s * 1e9)}"),
        )
        for line in lines
    ]
    print_table(rows)
    return 0


def moment(text: str, *, now: float) -> float:
    """Seconds since the epoch of ``2 h`` (ago), ``2026-11-21`` or ``2026-11-21T08:30``; without a zone it is UTC.

    Raises:
        ConfigError: it is neither.

    >>> moment("2 h", now=10_000.0)
    2800.0
    >>> moment("1970-01-02", now=0.0)
    86400.0
    """
    try:
        return now - duration_ns(text) / 1e9
    except QuantityError:
        pass
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError as wrong:
        raise ConfigError(f"--since: {text!r} is no time; expected for example '2 h' or 2026-11-21T08:30") from wrong
    return (when if when.tzinfo is not None else when.replace(tzinfo=dt.UTC)).timestamp()


def _plain(line: AuditLine) -> dict[str, object]:
    by = line.by
    return {
        "at": iso(line.at),
        "board": line.board_id,
        "event": str(line.event),
        "by": {"name": by.name, "host": by.host, "pid": by.pid, "user": by.user},
        "token": line.token,
        "reason": line.reason,
        "waited_s": line.waited_s,
    }
