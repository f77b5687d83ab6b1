"""``edgehil store``: keep bundles and deltas by digest, in a directory or at a URL, each once, verified on every read.

The place comes from ``--store`` or ``$EDGEHIL_STORE``. ``--artifacts PLACE`` of other commands takes a directory of
this kind as it takes a directory of bundles.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.store import Store


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its actions."""
    parser = subparsers.add_parser("store", help="keep bundles and deltas by digest", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    put = actions.add_parser("add", help="keep bundles and deltas")
    put.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="as 'edgehil build' and 'edgehil delta --out' write them"
    )
    put.set_defaults(run=_add)

    get = actions.add_parser("get", help="copy bundles and deltas out, verified")
    get.add_argument("digests", nargs="+", metavar="DIGEST", help="sha256:… as 'edgehil store list' prints it")
    get.add_argument("--out", type=Path, default=Path("artifacts"), metavar="DIR", help="where to (default: artifacts)")
    get.set_defaults(run=_get)

    listing = actions.add_parser("list", help="say what is kept")
    listing.set_defaults(run=_list)

    verify = actions.add_parser("verify", help="read everything and say what is damaged; exit status 1 if something is")
    verify.set_defaults(run=_verify)

    gc = actions.add_parser("gc", help="remove what has been there for longest")
    gc.add_argument("--keep", default="10 GiB", metavar="SIZE", help="down to so much (default: 10 GiB)")
    gc.add_argument("--never", action="append", default=[], metavar="DIGEST", help="stays in any case; may be repeated")
    gc.set_defaults(run=_gc)

    for action in (put, get, listing, verify, gc):
        action.add_argument("--store", metavar="PLACE", help="directory or URL (default: $EDGEHIL_STORE)")


def _store(options: argparse.Namespace) -> Store:
    from pytest_edgehil.artifacts.store import Store
    from pytest_edgehil.errors import UserError

    place = options.store or os.environ.get("EDGEHIL_STORE")
    if not place:
        raise UserError("no store is named: pass --store PLACE or set EDGEHIL_STORE")
    return Store.open(place)


def _add(options: argparse.Namespace) -> int:
    store = _store(options)
    for path in options.files:
        added = store.add(path)
        print(f"{added.digest}  {added.label}{'' if added.new else '  (was there already)'}")
    return 0


def _get(options: argparse.Namespace) -> int:
    store = _store(options)
    for digest in options.digests:
        print(store.get(digest, options.out))
    return 0


def _list(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.delta.published import SUFFIX
    from pytest_edgehil.errors import ArtifactError
    from pytest_edgehil.model.quantity import format_size

    store = _store(options)
    entries = store.entries()
    for one in entries:
        try:
            label = store.label(one.digest)
        except ArtifactError as problem:
            label = f"unreadable: {problem}"
        print(f"{one.digest}  {format_size(one.size_bytes):>9}  {label}")
    deltas = sum(one.suffix == SUFFIX for one in entries)
    counted = f"{len(entries) - deltas} bundles" + (f", {deltas} deltas" if deltas else "")
    print(f"{counted}, {format_size(sum(one.size_bytes for one in entries))} in {store.place}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from pytest_edgehil.errors import UserError

    checked = damaged = 0
    store = _store(options)
    if store.local is not None and not store.local.is_dir():
        raise UserError(f"{store.place}: there is no such store, so nothing can be said of it")
    for _, problem in store.verify():
        checked += 1
        if problem:
            damaged += 1
            print(problem)
    print(f"{checked} files read, {damaged} damaged")
    return 1 if damaged else 0


def _gc(options: argparse.Namespace) -> int:
    from pytest_edgehil.model.quantity import format_size, size_bytes

    removed = _store(options).sweep(keep_bytes=size_bytes(options.keep), never=options.never)
    for one in removed:
        print(f"removed {one.digest}  {format_size(one.size_bytes)}")
    print(f"{len(removed)} files removed, {format_size(sum(one.size_bytes for one in removed))}")
    return 0
