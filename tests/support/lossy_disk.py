"""A disk that loses what was not fsynced, and that fills up, breaks or turns read-only at any operation.

Inside `LossyDisk.watching` the functions of `os` that change a file system below a directory are counted and noted.
At any of them a *crash image* can be made: a copy of the directory as a power cut at that moment may leave it. The
model is what POSIX promises and no more:

- of a file that was written since its last fsync, any prefix may be there, or its length in zeros, or all of it;
- of the changes to a directory since its last fsync (create, rename, unlink, mkdir, symlink), the first few may have
  survived and the rest not; fsyncing a file says nothing about its name, fsyncing a directory nothing about another.

ext4 loses less. What survives this survives that. `os.fsync` itself is not called: it costs and the copy needs it not.
Format of the model: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), without reordering within
one directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHANGING = ("open", "write", "ftruncate", "rename", "replace", "symlink", "unlink", "remove", "mkdir", "rmdir", "fsync")
SYNCING = ("fsync", "fdatasync")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change to a directory, and what is needed to undo it.

    Args:
        directory: inode of the directory.
        kind: ``create``, ``rename`` or ``remove``.
        name: of the entry that is new or gone.
        before: name of the entry that was renamed.
        held: what `name` was before: bytes of a file, target of a link, inode of a directory, None: nothing.
    """

    directory: int
    kind: str
    name: str
    before: str = ""
    held: bytes | str | int | None = None


class LossyDisk:
    """Watches everything below `root`.

    Args:
        root: the directory.
        at: called before each operation with its number (from 1) and its name; what it raises, the operation raises.
        short_writes: `os.write` writes at most so many bytes; None: all of them.
        honest: False: the disk answers `os.fsync` at once and does nothing, as some do (and as if nobody had called).
    """

    def __init__(
        self, root: Path, *, at: Callable[[int, str], None], short_writes: int | None = None, honest: bool = True
    ) -> None:
        self._root = root
        self._honest = honest
        self._at = at
        self._short_writes = short_writes
        self._number = 0
        self._quiet = False
        self._pending: list[Change] = []
        self._synced: dict[int, bytes] = {}  # inode → what is surely on the medium; only of files written since
        self._real = {name: getattr(os, name) for name in (*CHANGING, "fdatasync")}

    @contextlib.contextmanager
    def watching(self) -> Iterator[LossyDisk]:
        """Replace the functions of `os` for as long as this lasts."""
        for name in self._real:
            setattr(os, name, getattr(self, f"_{name}"))
        try:
            yield self
        finally:
            for name, real in self._real.items():
                setattr(os, name, real)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Nothing is watched meanwhile: what the test does itself."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def image(self, into: Path, chance: random.Random | None) -> None:
        """Copy the directory as a power cut leaves it now; without `chance` as SIGKILL does, which loses nothing."""
        with self.aside():
            shutil.copytree(self._root, into, symlinks=True)
            if chance is not None:
                _Loss(self._root, into, chance).apply(self._pending, self._synced)

    # --- the functions -------------------------------------------------------------------------------

    def _step(self, name: str) -> None:
        self._number += 1
        with self.aside():
            self._at(self._number, name)

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        where = self._ours(path, dir_fd)
        if where is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        self._step("open")
        known = where.is_file()
        if known and flags & os.O_TRUNC:
            self._soil(where)
        descriptor = int(self._real["open"](path, flags, mode, dir_fd=dir_fd))
        if not known:
            self._note(where, "create")
            self._synced[os.fstat(descriptor).st_ino] = b""
        return descriptor

    def _write(self, descriptor: int, data: Any) -> int:
        where = self._file(descriptor)
        if where is None:
            return int(self._real["write"](descriptor, data))
        self._step("write")
        self._soil(where)
        if self._short_writes is not None:
            data = memoryview(data)[: self._short_writes]
        return int(self._real["write"](descriptor, data))

    def _ftruncate(self, descriptor: int, length: int) -> None:
        where = self._file(descriptor)
        if where is not None:
            self._step("ftruncate")
            self._soil(where)
        self._real["ftruncate"](descriptor, length)

    def _fsync(self, descriptor: int) -> None:
        if self._quiet:
            return
        self._flush("fsync", descriptor)

    def _fdatasync(self, descriptor: int) -> None:
        if not self._quiet:
            self._flush("fdatasync", descriptor)

    def _flush(self, name: str, descriptor: int) -> None:
        self._step(name)
        if not self._honest:
            return
        inode = os.fstat(descriptor).st_ino
        self._synced.pop(inode, None)
        self._pending = [one for one in self._pending if one.directory != inode]

    def _rename(self, source: Any, target: Any, **at: Any) -> None:
        self._renamed("rename", source, target, at)

    def _replace(self, source: Any, target: Any, **at: Any) -> None:
        self._renamed("replace", source, target, at)

    def _renamed(self, name: str, source: Any, target: Any, at: dict[str, Any]) -> None:
        where = self._ours(target, None)
        if where is None:
            self._real[name](source, target, **at)
            return
        self._step(name)
        old = Path(os.fspath(source))
        assert old.parent == where.parent, "only renames within one directory are modelled, and are atomic anyway"
        held = _held(where)
        self._real[name](source, target, **at)
        self._note(where, "rename", before=old.name, held=held)

    def _symlink(self, target: Any, path: Any, *more: Any, **named: Any) -> None:
        self._made("symlink", path, lambda: self._real["symlink"](target, path, *more, **named))

    def _mkdir(self, path: Any, *more: Any, **named: Any) -> None:
        self._made("mkdir", path, lambda: self._real["mkdir"](path, *more, **named))

    def _made(self, name: str, path: Any, make: Callable[[], None]) -> None:
        where = self._ours(path, None)
        if where is None:
            make()
            return
        self._step(name)
        make()
        self._note(where, "create")

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _remove(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("remove", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, name: str, path: Any, dir_fd: int | None) -> None:
        where = self._ours(path, dir_fd)
        if where is None or not os.path.lexists(where):
            self._real[name](path, dir_fd=dir_fd)
            return
        self._step(name)
        held = _held(where)
        self._real[name](path, dir_fd=dir_fd)
        self._note(where, "remove", held=held)

    # --- what is known -------------------------------------------------------------------------------

    def _note(self, where: Path, kind: str, **more: Any) -> None:
        directory = where.parent.stat().st_ino
        self._pending.append(Change(directory=directory, kind=kind, name=where.name, **more))

    def _soil(self, where: Path) -> None:
        inode = where.stat().st_ino
        if inode not in self._synced:
            self._synced[inode] = where.read_bytes()

    def _file(self, descriptor: int) -> Path | None:
        return None if self._quiet else self._ours(Path(f"/proc/self/fd/{descriptor}").readlink(), None)

    def _ours(self, path: Any, dir_fd: int | None) -> Path | None:
        if self._quiet or isinstance(path, int):
            return None
        where = Path(os.fspath(path))
        if dir_fd is not None:
            where = Path(f"/proc/self/fd/{dir_fd}").readlink() / where
        return where if where.is_relative_to(self._root) else None


class _Loss:
    """Takes from a copy what was not yet on the medium."""

    def __init__(self, root: Path, copy: Path, chance: random.Random) -> None:
        self._chance = chance
        self._where = {
            path.lstat().st_ino: copy / path.relative_to(root)
            for path in (root, *root.rglob("*"))
            if not path.is_symlink()
        }

    def apply(self, pending: list[Change], synced: dict[int, bytes]) -> None:
        for inode, before in synced.items():
            path = self._where.get(inode)
            if path is not None and path.is_file():
                now = path.read_bytes()
                left = self._remains(before, now)
                if path.parent.name == "dev":  # a device keeps its size: what did not arrive is what was there before
                    left = left[: len(now)] + before[len(left) : len(now)]
                path.write_bytes(left)
        kept = {one.directory: 0 for one in pending}
        for directory in kept:
            kept[directory] = self._chance.randint(0, sum(one.directory == directory for one in pending))
        lost = []
        for one in pending:
            kept[one.directory] -= 1
            if kept[one.directory] < 0:
                lost.append(one)
        for one in reversed(lost):
            self._undo(one)

    def _remains(self, before: bytes, now: bytes) -> bytes:
        match self._chance.randrange(4):
            case 0:
                return before
            case 1:
                return bytes(len(now))
            case 2:
                return now[: self._chance.randint(0, len(now))]
            case _:
                return now

    def _undo(self, change: Change) -> None:
        directory = self._where.get(change.directory)
        if directory is None or not directory.is_dir():
            return  # it is gone itself, with everything in it
        path = directory / change.name
        if change.kind == "create":
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if change.kind == "rename" and os.path.lexists(path):
            old = directory / change.before
            path.rename(old)
            for inode, known in self._where.items():
                if known.is_relative_to(path):
                    self._where[inode] = old / known.relative_to(path)
        if change.kind in {"rename", "remove"}:
            match change.held:
                case bytes() as content:
                    path.write_bytes(content)
                case str() as target:
                    path.symlink_to(target)
                case int() as inode:
                    path.mkdir()
                    self._where[inode] = path


def _held(path: Path) -> bytes | str | int | None:
    if path.is_symlink():
        return str(path.readlink())
    if path.is_dir():
        return path.stat().st_ino
    return path.read_bytes() if path.exists() else None


def failing(number: int, code: int, *, forever: bool = True) -> Callable[[int, str], None]:
    """For `at`: from an operation on (or at it alone) everything that needs the medium fails with an error number."""

    def at(now: int, name: str) -> None:
        if now == number or (forever and now > number):
            if code == errno.ENOSPC and name in {"unlink", "remove", "rmdir", *SYNCING}:
                return  # a full disk does not refuse to become emptier
            raise OSError(code, os.strerror(code))

    return at
