"""Images and templates in the cache that no board has been started of for long: found, and removed.

Every change of an image, of QEMU or of this package makes new ones, a few hundred MB each, and the old ones are never
looked for again. A board's start marks what it uses; what has no mark of late can go. Whoever needs it after all has it
made again, of the packages that the cache keeps: those are small, and their sources may not have the old versions any
more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.emulated.image.built import DamagedImage, read_image
from pytest_edgehil.emulated.image.workplace import leftovers, workplace
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.virtual.starting import if_free

IMAGES, TEMPLATES = "images", "templates"
_MADE_IN = {IMAGES: ".build-", TEMPLATES: ".making-"}
_FAILED = ".failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something in the cache that can be made again.

    Args:
        what: what it is, for people.
        size_bytes: what it takes on this host's disk.
        unused_s: since when no board has been started of it, by the host's clock.
    """

    path: Path
    what: str
    size_bytes: int
    unused_s: float


def mark_used(directory: Path) -> None:
    """Say that a board is being started of an image or a template now."""
    with contextlib.suppress(OSError):  # a cache of somebody else's that may only be read: he prunes it
        os.utime(directory)


def unused(cache: Path, *, now_s: float, for_s: float) -> list[Kept]:
    """What has not been used for so long, the longest first, and what makers that were killed have left.

    Args:
        now_s: seconds since the epoch.
    """
    found = [one for one in _kept(cache, now_s) if one.unused_s >= for_s]
    for room, prefix in _MADE_IN.items():
        found += [_of(path, "what a killed process has left", now_s) for path in leftovers(cache / room, prefix=prefix)]
    return sorted(found, key=lambda one: (-one.unused_s, one.path))


def remove(one: Kept, *, now_s: float, for_s: float) -> bool:
    """Remove something that `unused` has found, unless somebody makes or uses it just now.

    Boards that run have what they need of it open and go on.

    Raises:
        ConfigError: this host does not let us.
    """
    room = one.path.parent
    making = workplace(room, prefix=_MADE_IN[room.name])  # who makes something there removes what was left before him
    try:
        if one.path.name.startswith(_MADE_IN[room.name]):
            with making:
                return not one.path.exists()
        with if_free(one.path.with_suffix(".lock")) as free, making as work:
            if not one.path.exists():
                return False  # somebody else has removed it
            if not free or _unused_s(one.path, now_s) < for_s:
                return False
            one.path.replace(work / "unused")  # nobody ever sees half of it
    except OSError as problem:
        raise ConfigError(f"{one.path} cannot be removed: {problem.strerror}") from problem
    return True


def _kept(cache: Path, now_s: float) -> Iterator[Kept]:
    for directory in _directories(cache / IMAGES):
        try:
            image = read_image(directory)
            what = "image" if image is None else f"image {image.name} {image.version}"
        except DamagedImage:
            what = "damaged image"
        yield _of(directory, what, now_s)
    for directory in _directories(cache / TEMPLATES):
        failed = directory.suffix == _FAILED
        yield _of(directory, "logs of a template that failed" if failed else "template", now_s)


def _directories(room: Path) -> Iterator[Path]:
    if room.is_dir():
        yield from (one for one in sorted(room.iterdir()) if one.is_dir() and not one.name.startswith("."))


def _of(path: Path, what: str, now_s: float) -> Kept:
    size_bytes = 0
    with contextlib.suppress(FileNotFoundError):  # it is being removed, or put in its place
        size_bytes = sum(one.lstat().st_blocks * 512 for one in (path, *path.rglob("*")))
    return Kept(path=path, what=what, size_bytes=size_bytes, unused_s=_unused_s(path, now_s))


def _unused_s(path: Path, now_s: float) -> float:
    try:
        return max(0.0, now_s - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0
