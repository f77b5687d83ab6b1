"""``edgehil deploy``: bring a combo onto a board by hand: plan, send, switch, prove, or go back.

The plan is shown first; ``--dry-run`` ends there. The model must load and pass its bundle's health check; if it does
not, the board goes back to its last-known-good combo by itself, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_edgehil.cli.board import board_arguments, held, say

if TYPE_CHECKING:
    from pytest_edgehil.board.flash import FlashProgress
    from pytest_edgehil.model.artifact import Combo

STEPS = 4
"""Progress is told at every quarter of a bundle: enough for people, little for logs."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser("deploy", help="bring a combo onto a board", description=__doc__)
    board_arguments(parser)
    for track in ("firmware", "model", "prompt"):
        parser.add_argument(f"--{track}", metavar="ARTIFACT", help=f"the {track}: path, name or digest")
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and do nothing")
    parser.set_defaults(run=_deploy)


def _deploy(options: argparse.Namespace) -> int:
    from pytest_edgehil.board.firmware_trial import BOOT_S, leave_trial
    from pytest_edgehil.board.flash import check_fit, flash, plan_flash
    from pytest_edgehil.errors import ModelError
    from pytest_edgehil.model.quantity import format_duration, format_size

    combo = _combo(options)
    with held(options) as holding:
        session = holding.session
        check_fit(combo, session)
        plan = plan_flash(combo, session.client.status())
        print(f"{holding.id}: {plan.describe()}")
        if options.dry_run:
            return 0
        leave_trial(session, boot_timeout_s=BOOT_S)
        power = holding.power if holding.board.power is not None else None
        done = flash(plan, session, power=power, on_progress=_Teller())
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


def _combo(options: argparse.Namespace) -> Combo:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.errors import UserError
    from pytest_edgehil.model.artifact import Combo, Track

    if options.firmware is None and options.model is None and options.prompt is None:
        raise UserError("nothing to deploy: pass --model, --prompt or --firmware")
    catalog = Catalog([options.artifacts])

    def found(track: Track) -> str | None:
        reference: str | None = getattr(options, track.value)
        return reference

    chosen = {
        track: None if (name := found(track)) is None else catalog.find(name, track)
        for track in (Track.FIRMWARE, Track.MODEL, Track.PROMPT)
    }
    return Combo(firmware=chosen[Track.FIRMWARE], model=chosen[Track.MODEL], prompt=chosen[Track.PROMPT])


class _Teller:
    """Tells how far sending is, at most `STEPS` times a bundle."""

    def __init__(self) -> None:
        self._told: tuple[str, int] = ("", 0)

    def __call__(self, progress: FlashProgress) -> None:
        step = STEPS * progress.sent_bytes // max(1, progress.total_bytes)
        if (progress.artifact.digest, step) > self._told or progress.artifact.digest != self._told[0]:
            if step:
                say(f"  {progress.artifact.label}: {100 * progress.sent_bytes // progress.total_bytes} % sent")
            self._told = (progress.artifact.digest, step)
