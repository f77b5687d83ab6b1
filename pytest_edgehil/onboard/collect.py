"""Making room: bundles that were not used for longest go first, and never one that the board may still need.

A bundle's last use is the modification time of its file in the store, which `used` sets. What is active, what is the
last known good combo, and what a journal is about to activate always stays. A tree is renamed before it is removed,
so a power cut leaves a temporary directory, which the next start sweeps away.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from . import combos
from .durable import fsync_directory
from .frames import Message
from .home import Home, remove
from .problem import storage


def used(home: Home, digest: str) -> None:
    """Note that a bundle is being used now."""
    with storage(digest):
        os.utime(home.bundle(digest))


def collect(home: Home, *, keep_bytes: int, spare: Collection[str] = ()) -> Message:
    """Remove bundles until no more than `keep_bytes` are kept, as far as that is allowed.

    Args:
        keep_bytes: of bundles and their unpacked trees together.
        spare: further digests that must stay.

    Returns:
        ``removed`` (digests), ``freed_bytes`` and ``kept_bytes``.

    Raises:
        Problem: ``storage``.
    """
    with home.locked(), storage(str(home.root)):
        needed = {*spare, *_needed(home)}
        sizes = {digest: _size(home, digest) for digest in _stored(home)}
        total = sum(sizes.values())
        removed = []
        for digest in sorted(sizes, key=lambda one: home.bundle(one).stat().st_mtime_ns):
            if total <= keep_bytes:
                break
            if digest not in needed:
                removed.append(digest)
                total -= sizes[digest]
        # Combos first: if the power goes in between, no combo is left that leads to a tree which is not there.
        _drop_combos(home, sizes.keys() - set(removed))
        for digest in removed:
            _drop(home, digest)
    return {"removed": removed, "freed_bytes": sum(sizes[one] for one in removed), "kept_bytes": total}


def _needed(home: Home) -> Iterator[str]:
    yield from combos.current(home).values()
    yield from (combos.last_known_good(home) or {}).values()
    yield from combos.intended(home).values()


def _stored(home: Home) -> list[str]:
    return [f"sha256:{path.name}" for path in home.store.iterdir() if not path.name.startswith(".")]


def _size(home: Home, digest: str) -> int:
    tree = home.tree(digest)
    unpacked = (path.lstat().st_size for path in tree.rglob("*") if path.is_file()) if tree.is_dir() else ()
    return home.bundle(digest).stat().st_size + sum(unpacked)


def _drop(home: Home, digest: str) -> None:
    tree = home.tree(digest)
    if tree.is_dir():
        _drop_directory(tree)
    home.bundle(digest).unlink(missing_ok=True)
    fsync_directory(home.store)


def _drop_combos(home: Home, stored: set[str]) -> None:
    """Combos that lack a part of theirs cannot be gone back to."""
    for combo in home.combos.iterdir():
        if combo.name.startswith("."):
            continue
        digests = combos.read(combo)
        if digests is not None and not stored.issuperset(digests.values()):
            _drop_directory(combo)


def _drop_directory(path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.rename(beside)
    fsync_directory(path.parent)
    remove(beside)
