"""Cuts the power at every line of an operation of the on-board program.

A process that dies leaves what is on the disk, and nothing of what it still meant to do: no ``finally``, no buffers
flushed. So the operation runs once, stands still at each of its lines, and the disk is copied as a cut right there
would leave it. Where nothing on the disk has changed since the line before, that one's copy stands for both. On each
copy the program then starts as it does after a boot, and says what the board is on.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from pytest_edgehil.onboard import combos, fence, firmware
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.slots import chosen
from pytest_edgehil.onboard.unpack import altered, read_manifest

UNPACKING = ("unpack.py", "problem.py")
"""Not cut line by line: what they do happens in a temporary directory only, and is many lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the program finds when it starts after a cut, and which firmware boots.

    Args:
        lines: at how many lines, one after the other, a cut leaves this.
        combo: that the board is on.
        default: partition that boots.
        recovered_twice: was there anything left to recover after a recovery?
        store: size of each stored bundle.
        broken_trees: trees that are not what their manifest says.
        leftovers: temporary files.
        token: of the leaseholder, in the fence.
        identity: of the firmware in the third partition.
    """

    lines: int
    combo: dict[str, str]
    default: int | None
    recovered_twice: bool
    store: dict[str, int]
    broken_trees: tuple[str, ...]
    leftovers: tuple[str, ...]
    token: int
    identity: dict[str, Any] | None


def states(root: Path, operation: Callable[[Home], object]) -> Iterator[State]:
    """What a cut leaves, line by line; the last one is after the end of the operation.

    Args:
        root: of a prepared board; the operation is done to it. Copies are made beside it.
        operation: gets the board's home.
    """
    cuts: list[tuple[Path, int]] = []
    known: list[tuple[str, bytes | str | None]] = []

    def look() -> None:
        nonlocal known
        if (now := list(_disk(str(root)))) != known:
            copy = root.with_name(f"{root.name}-{len(cuts) + 1}")
            shutil.copytree(root, copy, symlinks=True)
            cuts.append((copy, 0))
            known = now
        cuts[-1] = (cuts[-1][0], cuts[-1][1] + 1)

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        name = frame.f_code.co_filename
        if "pytest_edgehil/onboard" not in name or name.endswith(UNPACKING):
            return None
        if event == "line":
            look()
        return trace

    # what is cut off is this process and not the machine
    with mock.patch.object(os, "fsync", return_value=None):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            operation(Home(root / "home/.edgehil"))
        finally:
            sys.settrace(before)
        look()
        for copy, lines in cuts:
            with mock.patch.dict(os.environ, EDGEHIL_SYSROOT=str(copy)):
                yield _state(copy, lines)
            shutil.rmtree(copy)


def _disk(directory: str) -> Iterator[tuple[str, bytes | str | None]]:
    """Each path below with the bytes in the file, where the link points, or None for a directory."""
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                yield entry.path, str(Path(entry.path).readlink())
            elif entry.is_dir():
                yield entry.path, None
                yield from _disk(entry.path)
            else:
                descriptor = os.open(entry.path, os.O_RDONLY)
                try:
                    yield entry.path, os.read(descriptor, 2**20)
                finally:
                    os.close(descriptor)


def _state(copy: Path, lines: int) -> State:
    place, slots = Home(copy / "home/.edgehil"), chosen(None)
    place.prepare()
    default = slots.chooser.state().default
    combos.recover(place, slots)
    again = combos.recover(place, slots)
    trees = {path.name: altered(read_manifest(path), path) for path in place.trees.iterdir()}
    return State(
        lines=lines,
        combo=combos.current(place),
        default=default,
        recovered_twice=again is not None,
        store={path.name: path.stat().st_size for path in place.store.iterdir() if path.suffix != ".partial"},
        broken_trees=tuple(name for name, wrong in trees.items() if wrong),
        leftovers=tuple(path.name for path in place.root.rglob(".*.tmp")),
        token=fence.Fence(place).read()[0],
        identity=firmware.identity(place, 3),
    )
