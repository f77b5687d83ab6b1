"""``edgehil board`` and ``edgehil deploy``: work on one board by hand, through a lease like everybody else.

The board is reserved for as long as the command takes; ``--wait`` says how long to wait for it. A virtual board is
started for the command and stopped after it; what is on its disk stays.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.cli.lab import chosen_lab

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.board.answers import BoardStatus
    from pytest_edgehil.holding import Holding


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("board", help="what is on a board; go back; make room", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    status = actions.add_parser("status", help="print what a board is on, what it keeps, and what failed last")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)

    rollback = actions.add_parser(
        "rollback", help="switch a board back to its last-known-good combo, or the one before"
    )
    rollback.add_argument("--reason", default="somebody asked for it", help="why; the board keeps it")
    rollback.set_defaults(run=_rollback)

    gc = actions.add_parser("gc", help="remove bundles that a board has not used for longest")
    gc.add_argument("--keep", default="1 GiB", metavar="SIZE", help="down to so much (default: 1 GiB)")
    gc.set_defaults(run=_gc)

    for action in (status, rollback, gc):
        board_arguments(action)


def board_arguments(parser: argparse.ArgumentParser) -> None:
    """What every command on a board takes."""
    parser.add_argument("board", metavar="BOARD", help="its id in the lab")
    parser.add_argument("--lab", type=Path, metavar="FILE", help="lab file (default: $EDGEHIL_LAB, or lab.yaml)")
    parser.add_argument("--wait", default="0 s", metavar="TIME", help="how long to wait for the board (default: 0 s)")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="where artifacts are looked up"
    )


@contextlib.contextmanager
def held(options: argparse.Namespace, *, doing: str = "working on it") -> Iterator[Holding]:
    """The board of a command line, reserved and up; one that is quarantined as well.

    Args:
        options: with those of `board_arguments`.
        doing: what to say if the lease is lost meanwhile, behind "while".

    Raises:
        UserError: there is no such board.
        LeaseTimeout: somebody else has it.
        BoardError: it cannot be reached.
    """
    from pytest_edgehil.handout import HandOut
    from pytest_edgehil.holding import Holding
    from pytest_edgehil.lab.leases import BoardStatus, default_holder
    from pytest_edgehil.lab.reservation import reserve
    from pytest_edgehil.lab.store import open_store
    from pytest_edgehil.model.board import Requirement
    from pytest_edgehil.model.quantity import duration_ns

    lab = chosen_lab(options.lab)
    board = lab.board(options.board)
    wait_s = duration_ns(options.wait) / 1e9
    with open_store(lab) as store:
        handing_out = HandOut(
            lab, store, default_holder(), hold=lambda one: Holding(lab=lab, reservation=one, console_log=None)
        )
        state = next(one for one in store.boards() if one.board_id == board.id)
        reservation = None
        if state.state is BoardStatus.QUARANTINED:
            reservation = handing_out.closed(board.id)  # who works on a board by hand may be mending it
            if reservation is not None:
                say(f"{board.id} is quarantined ({state.reason}): nobody else gets it meanwhile")
        if reservation is None:
            reservation = reserve(
                lab,
                [Requirement(among=frozenset({board.id}))],
                store=store,
                holder=default_holder(),
                wait_s=wait_s,
                on_wait=say,
            )
        holding = Holding(lab=lab, reservation=reservation, console_log=None)
        with contextlib.closing(holding), holding.doing(doing):
            holding.open()
            yield holding


def say(line: str) -> None:
    """Progress for people, on stderr: stdout carries results."""
    print(line, file=sys.stderr, flush=True)


def labels(catalog: Catalog, combo: Mapping[str, str]) -> str:
    """A combo for people: the labels of what is known here, the digests of the rest."""
    from pytest_edgehil.errors import ArtifactError

    told = []
    for track, digest in sorted(combo.items()):
        try:
            told.append(catalog.find(digest).label)
        except ArtifactError:
            told.append(f"{track} {digest[:19]}…")
    return " + ".join(told) or "nothing"


def _catalog(options: argparse.Namespace) -> Catalog:
    from pytest_edgehil.artifacts.catalog import Catalog

    return Catalog([options.artifacts])


def _status(options: argparse.Namespace) -> int:
    with held(options) as holding:
        client = holding.session.client
        status, platform = client.status(), client.platform
        if options.json:
            print(json.dumps(_plain(holding.id, status), indent=2))
            return 0
        catalog = _catalog(options)
        good = status.last_known_good
        firmware = status.firmware
        print(f"{holding.id} ({holding.cls}, {holding.environment}): {platform.hardware_model}")
        print(f"  active      {labels(catalog, status.combo)}")
        print(f"  known good  {'none yet' if good is None else labels(catalog, good)}")
        running = f"{firmware.name} {firmware.version}" if firmware.name else "unknown"
        print(f"  firmware    {running}, partition {firmware.partition}{' (on trial)' if firmware.tryboot else ''}")
        if status.wrong_firmware is not None:
            print(f"  wrong       {status.wrong_firmware}")
        print(f"  store       {len(status.store)} bundles, {platform.disk_free_bytes / 2**20:.0f} MiB free")
        if status.setback is not None:
            when = dt.datetime.fromtimestamp(status.setback.at, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
            print(f"  failed      {labels(catalog, status.setback.combo)}, {when}: {status.setback.reason}")
    return 0


def _plain(board_id: str, status: BoardStatus) -> dict[str, object]:
    failed, firmware = status.setback, status.firmware
    return {
        "board": board_id,
        "combo": dict(status.combo),
        "last_known_good": None if status.last_known_good is None else dict(status.last_known_good),
        "firmware": {
            "name": firmware.name,
            "version": firmware.version,
            "digest": firmware.digest,
            "partition": firmware.partition,
            "on_trial": firmware.tryboot,
            "wrong": status.wrong_firmware,
        },
        "store": sorted(status.store),
        "setback": None if failed is None else {"combo": dict(failed.combo), "reason": failed.reason, "at": failed.at},
    }


def _rollback(options: argparse.Namespace) -> int:
    with held(options) as holding:
        client = holding.session.client
        before = dict(client.status().combo)
        client.request("revert", {"reason": options.reason}, timeout_s=60.0)
        now = dict(client.status().combo)
        catalog = _catalog(options)
        print(f"{holding.id}: from {labels(catalog, before)} back to {labels(catalog, now)}")
    return 0


def _gc(options: argparse.Namespace) -> int:
    from pytest_edgehil.board.answers import collected
    from pytest_edgehil.model.quantity import format_size, size_bytes

    keep_bytes = size_bytes(options.keep)
    with held(options) as holding:
        found = collected(holding.session.client.request("collect", {"keep_bytes": keep_bytes}, timeout_s=300.0))
        print(
            f"{holding.id}: removed {len(found.removed)} bundles, {format_size(found.freed_bytes)}; "
            f"{format_size(found.kept_bytes)} are kept"
        )
        if found.kept_bytes > keep_bytes:
            print("  the active and the last-known-good combo always stay")
    return 0
