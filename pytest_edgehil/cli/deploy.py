"""``edgehil deploy``: bring a combo onto a board by hand: plan, send, switch, prove, or go back.

The plan is shown first; ``--dry-run`` ends there. The model must load and pass its bundle's health check; if it does
not, the board goes back to its last-known-good combo by itself, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_edgehil.cli.board import board_arguments, held

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.model.artifact import Combo


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("deploy", help="bring a combo onto a board", description=__doc__)
    board_arguments(parser)
    for track in ("firmware", "model", "prompt"):
        parser.add_argument(f"--{track}", metavar="ARTIFACT", help=f"the {track}: path, name or digest")
    parser.add_argument("--limit", metavar="RATE", help="do not send faster than this, for example '10 MB/s'")
    parser.add_argument(
        "--delta",
        choices=("auto", "never", "always"),
        default="auto",
        help="send a delta made from what the board has: where it pays (default), never, wherever it can be made",
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.set_defaults(run=_deploy)


def _deploy(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.board.delivery import DeltaPolicy, Way
    from pytest_edgehil.board.firmware_trial import BOOT_S, leave_trial
    from pytest_edgehil.board.fit import check_fit, told_of
    from pytest_edgehil.board.flash import flash, plan_flash
    from pytest_edgehil.board.push import PushOptions
    from pytest_edgehil.errors import ModelError
    from pytest_edgehil.model.quantity import format_duration, format_size
    from pytest_edgehil.reporting.sending import Teller

    catalog = Catalog([options.artifacts])
    way = Way(
        policy=DeltaPolicy(options.delta),
        known=catalog,
        options=PushOptions(limit_bytes_per_s=_limit(options.limit)),
    )
    combo = _combo(options, catalog)
    with held(options, doing="deploying") as holding:
        session = holding.session
        check_fit(combo, session)
        plan = plan_flash(combo, session.client.status())
        print(f"{holding.id}: {plan.describe()}")
        if options.dry_run:
            print(f"  fits {told_of(holding.board, session.client.platform)}")
            return 0
        leave_trial(session, boot_timeout_s=BOOT_S)
        power = holding.power if holding.board.power is not None else None
        teller = Teller(sys.stderr, terminal=sys.stderr.isatty())
        done = flash(plan, session, power=power, way=way, on_progress=teller)
        if done.activated:
            holding.note_flash(combo.label, seconds=done.duration_s, sent_bytes=done.sent_bytes)
        for one in done.deliveries:
            print(f"  {one.describe()}")
        print(f"  sent {format_size(done.sent_bytes)} in {format_duration(done.duration_s * 1e9)}")
        if combo.model is not None:
            try:
                cold = session.client.load(combo.model.digest, timeout_s=300.0).cold
            except ModelError as problem:
                print(f"  {combo.model.label} does not prove itself: {problem}")
                return 1
            print(f"  {combo.model.label} is loaded and well ({format_duration(cold.load_ns)})")
            session.client.unload()
        print(f"{holding.id}: is on {combo.label}")
    return 0


def _limit(text: str | None) -> float | None:
    """A bandwidth in bytes per second.

    Raises:
        UserError: it is none.
    """
    from pytest_edgehil.errors import UserError
    from pytest_edgehil.model.quantity import byte_rate_per_second

    if text is None:
        return None
    try:
        return byte_rate_per_second(text)
    except ValueError as problem:
        raise UserError(f"--limit: {problem}") from problem


def _combo(options: argparse.Namespace, catalog: Catalog) -> Combo:
    from pytest_edgehil.errors import UserError
    from pytest_edgehil.model.artifact import Combo, Track

    if options.firmware is None and options.model is None and options.prompt is None:
        raise UserError("nothing to deploy: pass --model, --prompt or --firmware")

    def found(track: Track) -> str | None:
        reference: str | None = getattr(options, track.value)
        return reference

    chosen = {
        track: None if (name := found(track)) is None else catalog.find(name, track)
        for track in (Track.FIRMWARE, Track.MODEL, Track.PROMPT)
    }
    return Combo(firmware=chosen[Track.FIRMWARE], model=chosen[Track.MODEL], prompt=chosen[Track.PROMPT])
