"""Boards to be cut, and what must hold of one afterwards; shared by the tests and by ``benchmarks/flash/cuts.py``."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from support.boards import bundle, model_bundle
from support.deploying import Deployment, Plan
from support.lossy_disk import LossyDisk, failing
from support.slot_boards import SlotBoard

from pytest_edgehil.model import Artifact, Track
from pytest_edgehil.onboard import combos
from pytest_edgehil.onboard.problem import Problem

FAULTS = {"disk full": errno.ENOSPC, "read-only": errno.EROFS, "i/o error": errno.EIO}


def firmware_bundle(directory: Path, *, version: str = "2.0", **manifest: object) -> Artifact:
    """A firmware of two files."""
    return bundle(
        directory,
        {"firmware.json": f'{{"name":"edge-os","version":"{version}"}}'.encode(), "kernel": b"k" * 2000},
        track=Track.FIRMWARE,
        kind="firmware-tree",
        runtime=None,
        entry="firmware.json",
        name="edge-os",
        version=version,
        change=manifest,
    )


DEVICE_BYTES = 6000


def _firmware_image(directory: Path) -> Artifact:
    """A firmware of one image; see `support.slot_boards`."""
    identity = b'{"name": "edge-os", "version": "2.0"}'
    files = {"firmware.json": identity, "root.img": identity + b"\n" + b"k" * 5000}
    return bundle(
        directory,
        files,
        track=Track.FIRMWARE,
        kind="firmware-image",
        runtime=None,
        entry="firmware.json",
        name="edge-os",
        version="2.0",
    )


class Stand:
    """A board that is made once and copied for every cut.

    Args:
        directory: for everything.
        fresh: nothing of ours is on the board yet; else it is on a proven combo.
        kind: of its slots; what is not ``virtual`` gets a firmware only, in an image.
    """

    def __init__(self, directory: Path, *, fresh: bool, kind: str = "virtual") -> None:
        directory.mkdir()
        self._directory = directory
        self._made = 0
        old, new, unwell = (model_bundle(directory, seed=seed) for seed in (1, 2, 3))
        system = firmware_bundle(directory) if kind == "virtual" else _firmware_image(directory)
        if kind == "virtual":
            self.plan = Plan(
                old={} if fresh else {"model": old.digest},
                new={"model": new.digest, "firmware": system.digest},
                unwell={"model": unwell.digest, "firmware": system.digest},
                artifacts={one.digest: one for one in (old, new, unwell, system)},
            )
        else:
            self.plan = Plan(
                old={} if fresh else {"model": old.digest},
                new={"model": old.digest, "firmware": system.digest},
                unwell={},
                artifacts={one.digest: one for one in (old, system)},
                kind=kind,
            )
        self._template = directory / "template"
        SlotBoard(self._template, kind, device_bytes=DEVICE_BYTES)
        if not fresh:
            deployment = Deployment(self._template, self.plan)
            deployment.enter()
            deployment.come_up()
            deployment.to(self.plan.old)
            combos.mark_good(deployment.home)

    @contextlib.contextmanager
    def place(self) -> Iterator[Path]:
        """Where a board or its image may lie; nothing is there yet, and nothing will be."""
        self._made += 1
        path = self._directory / f"board-{self._made}"
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def board(self) -> Iterator[Deployment]:
        """A board like the template."""
        with self.place() as path:
            shutil.copytree(self._template, path, symlinks=True)
            deployment = Deployment(path, self.plan)
            deployment.enter()
            yield deployment

    def steps(self) -> list[str]:
        """The operations of a deployment that nothing disturbs."""
        names: list[str] = []
        with self.board() as board, LossyDisk(board.root, at=lambda _number, name: names.append(name)).watching():
            board.run()
        return names

    def recovered(self, board: Deployment) -> list[str]:
        """What is wrong after the power has come back, and after the next run has done it all; empty when all is well.

        The next run must come to its end from whatever was left.
        """
        board.enter()
        if board.slots.chooser.state().default is None:
            return ["the board does not boot any more"]
        found = []
        try:
            board.boot()
            board.come_up()
            found += board.faults()
            before = board.status()
            board.come_up()
            if board.status() != before:
                found.append(f"coming up again changes the status: {before} {board.status()}")
            board.run()
            found += [f"after the next run: {one}" for one in board.faults()]
            if board.status()["combo"] != self.plan.new:
                found.append(f"the next run ends on {board.status()['combo']}")
        except (Problem, OSError, AssertionError, LookupError, ValueError) as exc:
            found.append(f"the next run fails: {type(exc).__name__}: {exc}")
        return found

    def cut(self, chosen: Callable[[int], list[random.Random | None]], *, honest: bool = True) -> dict[str, list[str]]:
        """One deployment; at the operations that `chosen` answers for, the power goes (None: the process is killed).

        Args:
            chosen: operation's number → what decides about the loss, once for each cut that is to be made there.
            honest: does the disk do what `os.fsync` asks it to?

        Returns:
            What was cut → what was wrong afterwards.
        """
        found: dict[str, list[str]] = {}

        def at(number: int, name: str) -> None:
            for chance in chosen(number):
                with self.place() as image:
                    disk.image(image, chance)
                    how = "killed" if chance is None else "power cut"
                    found[f"{how} {len(found) + 1} before operation {number} ({name})"] = self.recovered(
                        Deployment(image, self.plan)
                    )
            board.enter()

        with self.board() as board:
            disk = LossyDisk(board.root, at=at, honest=honest)
            with disk.watching():
                board.run()
        return found

    def fail(self, number: int, fault: str) -> list[str]:
        """From an operation on the medium fails; the program must say so in one line, and recover once it works."""
        with self.board() as board:
            found = []
            try:
                with LossyDisk(board.root, at=failing(number, FAULTS[fault])).watching():
                    board.run()
            except Problem as problem:
                if "\n" in problem.message or not problem.message:
                    found.append(f"no line: {problem.message!r}")
                if problem.code not in {"disk-full", "storage", "digest-mismatch"}:  # the last: nor can it be read back
                    found.append(f"{problem.code}: {problem.message}")
            except OSError as exc:
                found.append(f"{exc!r} was not translated")
            else:
                if fault != "disk full":  # the last operations of a deployment need no room
                    found.append("nobody noticed")
            return found + self.recovered(board)

    def unplug(self, chance: random.Random) -> list[str]:
        """The link is cut, or the pusher killed, at any byte of a push; then the next one comes."""
        with self.board() as board:
            board.come_up()
            digest = chance.choice(sorted({*self.plan.new.values()} - {*self.plan.old.values()}))
            size = self.plan.artifacts[digest].size_bytes
            found = []
            try:
                board.receive(digest, cut_at=chance.randrange(size))
            except Problem as problem:
                if problem.code != "truncated":
                    found.append(f"{problem.code}: {problem.message}")
            else:
                found.append("a push that was cut was taken for a whole one")
            return found + self.recovered(board)


def in_memory() -> str | None:
    """Where `tempfile` should make directories of many small files; None: where it likes."""
    place = "/dev/shm"
    return place if os.access(place, os.W_OK) else None
