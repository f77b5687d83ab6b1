"""``edgehil delta``: what would be sent to a board that has OLD so that it has NEW.

Prints how the new bundle is made of the old ones, file by file, and how large the delta is beside a full push. With
``--out`` the delta is written to be published: beside NEW, or in any directory or store where artifacts are looked up,
flashing finds it and sends it to boards that have OLD. A board takes it only if the result has NEW's digest.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.delta.create import Delta

MOST_FILES = 12
"""A firmware tree has thousands."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "delta", help="what must be sent to turn one bundle into another", description=__doc__
    )
    parser.add_argument("old", nargs="+", metavar="OLD", help="bundles that the board has: paths, names or digests")
    parser.add_argument("new", metavar="NEW", help="the bundle that it shall have")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), metavar="DIR", help="where names are looked up"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the delta, X.ehdelta")
    parser.set_defaults(run=_delta)


def _delta(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.artifacts.delta.create import create
    from pytest_edgehil.artifacts.delta.published import SUFFIX, publish
    from pytest_edgehil.errors import UserError

    if options.out is not None and options.out.suffix != SUFFIX:
        raise UserError(f"--out: {options.out} does not end in {SUFFIX}, by which published deltas are found")
    catalog = Catalog([options.artifacts])
    new = catalog.find(options.new)
    old = [catalog.find(one) for one in options.old]
    delta = create(new, old)
    if delta is None:
        raise UserError(
            f"{new.path}: was not packed by 'edgehil build', so no delta can make its very bytes; push it whole"
        )
    print(_explained(delta, [one.label for one in old]))
    if options.out is not None:
        made = publish(new, delta.head, delta.pieces(), options.out)
        print(f"written: {made.path}")
    return 0


def _explained(delta: Delta, old: list[str]) -> str:
    from pytest_edgehil.artifacts.delta.document import Copy, Difference, Literal
    from pytest_edgehil.model.quantity import format_size

    told = [f"{delta.new.label} from {', '.join(old)}"]
    for kind, said in ((Copy, "the board has"), (Difference, "differs a little"), (Literal, "is new")):
        made, sent = delta.made_by(kind)
        share = made / delta.head.stream_bytes
        told.append(f"  {said:<17} {format_size(made):>10} ({share:.1%}), {format_size(sent)} to send")
    told.append(
        f"  {'delta':<17} {format_size(delta.size_bytes):>10}, {delta.share:.2%} "
        f"of the {format_size(delta.new.size_bytes)} of a full push"
    )
    for one in sorted(delta.files, key=lambda one: one.near_bytes + one.new_bytes, reverse=True)[:MOST_FILES]:
        parts = ((one.copied_bytes, "there"), (one.near_bytes, "differs"), (one.new_bytes, "new"))
        shares = ", ".join(f"{part / max(1, one.size_bytes):.1%} {said}" for part, said in parts if part)
        told.append(f"  {one.path}: {format_size(one.size_bytes)}, {shares or 'empty'}")
    if len(delta.files) > MOST_FILES:
        told.append(f"  … and {len(delta.files) - MOST_FILES} more files, of which less is to be sent")
    if not delta.head.sources:
        told.append("  the bundles have nothing in common: a full push is as good")
    return "\n".join(told)
