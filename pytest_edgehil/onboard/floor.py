"""The downgrade floor: a board takes no firmware older than this, whoever asks.

It stands in ``firmware-floor`` in our directory: one version, written by whoever set the board up, or raised when a
firmware is committed whose manifest provides ``firmware.floor``. It only ever rises here. What the bootloader falls
back to by itself after a trial is not asked: a board that boots an old firmware is better than one that boots none.
"""

from __future__ import annotations

import re

from .durable import write_atomically
from .home import Home
from .manifest import Manifest, version_key
from .problem import Problem, storage

PROVIDES = "firmware.floor"
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*")


def floor(home: Home) -> str | None:
    """Oldest version that the board takes; None: any.

    Raises:
        Problem: ``storage``: the file does not hold a version; then no firmware is taken at all.
    """
    path = home.root / "firmware-floor"
    with storage(str(path)):
        try:
            text = path.read_text(errors="replace").strip()
        except FileNotFoundError:
            return None
    if _VERSION.fullmatch(text) is None:
        raise Problem("storage", f"{path} holds {text[:40]!r}, expected a version such as 2026.11; restore it")
    return text


def check(home: Home, manifest: Manifest) -> None:
    """Refuse a firmware below the floor.

    Raises:
        Problem: ``wrong-target``, ``storage``.
    """
    lowest = floor(home)
    if lowest is not None and version_key(manifest.version) < version_key(lowest):
        raise Problem(
            "wrong-target",
            f"{manifest.name} {manifest.version} is below the board's firmware floor {lowest}: a downgrade is refused",
        )


def raise_to(home: Home, manifest: Manifest) -> None:
    """A firmware has been committed: from now on nothing below what it names as the floor.

    Raises:
        Problem: ``corrupt-artifact``: it names no version, or one above itself; ``storage``, ``disk-full``.
    """
    wanted = manifest.provides.get(PROVIDES)
    if wanted is None:
        return
    check_named(manifest)
    lowest = floor(home)
    if lowest is None or version_key(wanted) > version_key(lowest):
        write_atomically(home.root / "firmware-floor", f"{wanted}\n".encode())


def check_named(manifest: Manifest) -> None:
    """Refuse a firmware that would lock itself out, or names a floor that is no version.

    Raises:
        Problem: ``corrupt-artifact``.
    """
    wanted = manifest.provides.get(PROVIDES)
    if wanted is None:
        return
    if _VERSION.fullmatch(wanted) is None or version_key(wanted) > version_key(manifest.version):
        raise Problem(
            "corrupt-artifact",
            f"{manifest.name} {manifest.version} provides {PROVIDES} {wanted!r}, expected a version up to its own",
        )
