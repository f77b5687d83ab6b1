"""Where everything of ours lives on a board.

::

    ~/.edgehil/
      bin/onboard-<hash>.pyz   this program
      store/sha256/<hex>       bundles as they came, named by their digest
      store/sha256/.<hex>.partial   what a push that was cut has left (see partial)
      trees/<hex>/             bundles unpacked and verified
      combos/<id>/             combo.json and one link per track into trees/
      current                  → combos/<id>, the active combo
      last-known-good          → combos/<id>, the last one whose model really loaded
      previous-good            → combos/<id>, the one before that; it may be gone when room was needed
      fence, fence.lock        the highest fencing token seen, and its holder (see fence)
      journal                  an activation that is under way
      setback                  the last combo that failed here, and why; gone once one has proven itself
      slots/<number>.json      which bundle a slot's devices were written from (see slots.images)
      firmware-floor           oldest version of a firmware that the board takes (see floor)
      board.json               {"class": …}, if whoever set the board up wrote it
      jobs/<name>/             a measurement that goes on without a link (see jobs)
      probe.json               what the board's Python can import, remembered per boot
      compiled/                this program's bytecode (see compiled)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from . import partial
from .durable import fsync_directory
from .problem import Problem, storage

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def sysroot() -> Path:
    """Below which the board's own files are read; ``/`` on real hardware."""
    return Path(os.environ.get("EDGEHIL_SYSROOT", "/"))


def hexadecimal(digest: object) -> str:
    """The hexadecimal part of a digest.

    Raises:
        Problem: ``bad-request``; a digest becomes a file name, so nothing else may pass.
    """
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise Problem("bad-request", f"expected a digest such as sha256:<64 hex digits>, got {str(digest)[:80]!r}")
    return digest.removeprefix("sha256:")


class Home:
    """Paths below our directory on the board."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store" / "sha256"
        self.trees = root / "trees"
        self.combos = root / "combos"
        self.current = root / "current"
        self.last_known_good = root / "last-known-good"
        self.previous_good = root / "previous-good"
        self.fence = root / "fence"
        self.journal = root / "journal"
        self.jobs = root / "jobs"
        self.slots = root / "slots"
        self.setback = root / "setback"
        self.probe = root / "probe.json"
        self.compiled = root / "compiled"

    def prepare(self) -> None:
        """Make the directories and clear away what an interrupted push or unpacking left behind."""
        with storage(str(self.root)):
            for directory in (self.store, self.trees, self.combos, self.jobs, self.slots):
                self._make(directory)
            self._sweep()
            partial.sweep(self.store, now_s=time.time())

    def _make(self, directory: Path) -> None:
        # A directory whose own name was never made to last takes everything in it along when the power goes.
        if directory.is_dir():
            return
        self._make(directory.parent)
        directory.mkdir(exist_ok=True)
        fsync_directory(directory.parent)

    def bundle(self, digest: str) -> Path:
        """Where the store keeps a bundle."""
        return self.store / hexadecimal(digest)

    def tree(self, digest: str) -> Path:
        """Where a bundle is unpacked."""
        return self.trees / hexadecimal(digest)

    @contextlib.contextmanager
    def locked(self, name: str = "lock") -> Iterator[None]:
        """Hold a lock against other instances of this program; the kernel releases it when we die."""
        with storage(str(self.root / name)):
            descriptor = os.open(self.root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        # A temporary file or directory is locked by whoever writes it: what can be locked is nobody's.
        for directory in (self.store, self.trees, self.combos, self.slots, self.root):
            for path in directory.glob(".*.tmp"):
                if path.is_symlink():
                    path.unlink(missing_ok=True)
                    continue
                try:
                    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                except OSError:
                    continue
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove(path)
                except BlockingIOError:
                    continue
                finally:
                    os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
