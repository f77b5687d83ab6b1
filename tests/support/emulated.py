"""Emulated boards for tests: the image, built once per machine, and a board of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pytest_edgehil.emulated.image import fetch, recipe
from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment, Slots, Timing
from pytest_edgehil.places import cache_directory

IMAGE = Path(__file__).parents[2] / "farm/images/edge-arm64"
START_S = 600.0


@contextlib.contextmanager
def turn(base: Path) -> Iterator[None]:
    """One of two places for tests with an emulated board, among all workers of a run.

    Args:
        base: pytest's temporary directory of this process.
    """
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context((shared / f"qemu-{number}.lock").open("wb")) for number in range(2)]
        while not any(_taken(place) for place in places):
            time.sleep(0.1)
        yield


def _taken(place: BinaryIO) -> bool:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def image_directory() -> Path:
    """The repository's image, built. Where a mirror has dropped a pinned version, the same image of newer ones.

    That is the mirror's doing and nobody's mistake, so it is said and no reason to fail. Of several workers one builds.
    """
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "tests.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _built()


def _built() -> Path:
    try:
        build_image(IMAGE, say=say)
    except ConfigError as gone:
        if "package sources any more" not in str(gone):
            raise
        say(f"{gone}; going on with an image of what there is")
        directory = cache_directory() / "newest" / IMAGE.name
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(IMAGE, directory)
        lock = fetch.pin(recipe.load_recipe(directory), cache_directory() / "packages", say=say)
        (directory / recipe.LOCK).write_text(recipe.lock_text(lock))
        build_image(directory, say=say)
        return directory
    return IMAGE


def emulated_board(image: Path, *, board_id: str = "emu-01", icount: bool = False) -> Board:
    return Board(
        id=board_id,
        cls="pi5-2gb-emulated",
        environment=Environment.EMULATED,
        slots=Slots(backend="uboot", partitions=(2, 3)),
        emulated=EmulatedSpec(image=image, serial="e000000000000001", memory_bytes=2**31),
        timing=Timing.ICOUNT if icount else Timing.WALL,
    )
