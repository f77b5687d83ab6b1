"""A template: a machine that has booted and waits for its seed, saved, so that boards start in a moment.

Its memory lies in a file that boards map privately: what none of them writes exists once. What else there is of the
machine is a few MB. Templates are made when they are first asked for and kept in the cache; one is good for one image,
one size of memory, and one version of QEMU.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_edgehil.board.qmp import Qmp
from pytest_edgehil.emulated.image.workplace import flush, workplace
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.machine import Machine, make_overlay
from pytest_edgehil.emulated.process import Process
from pytest_edgehil.emulated.seed import write_seed
from pytest_edgehil.emulated.sensors import Sensors
from pytest_edgehil.errors import BoardError, ConfigError, ConnectFailed
from pytest_edgehil.model.quantity import format_size
from pytest_edgehil.places import cache_directory

WAITS = "edgehil: waiting for a seed"
_log = logging.getLogger("edgehil.emulated")
_POLL_S = 0.05
_ROOM_BYTES = 64 * 2**20
"""With less left where a template is made, that is why it failed."""
Stamp = tuple[int, int]


class Unrestorable(BoardError):
    """A template that QEMU does not take: it is damaged.

    Args:
        stamp: which one it was, so that nobody removes one that has been made since.
    """

    def __init__(self, message: str, *, stamp: Stamp | None) -> None:
        super().__init__(message)
        self.stamp = stamp


def template_of(
    machine: Machine, *, deadline_s: float, cache: Path | None = None, instead_of: Unrestorable | None = None
) -> Layout:
    """The template of a machine, made now if it is not there, or not whole.

    Args:
        deadline_s: of `time.monotonic`.
        instead_of: make another one, unless somebody else has.

    Raises:
        BoardError: it does not boot, or cannot be saved.
        ConfigError: there is no room for it.
        ConnectFailed: not in time.
    """
    directory = (cache or cache_directory()) / "templates"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = machine.key()
    found = Layout(root=directory / key)
    bad = None if instead_of is None else instead_of.stamp
    if _trouble(found, machine, bad=bad) is None:
        return found
    lock = os.open(directory / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:  # somebody else may be making it
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise ConnectFailed(
                        f"somebody else has been making the template {found.root} for too long"
                    ) from None
                time.sleep(_POLL_S)
        trouble = _trouble(found, machine, bad=bad)
        if trouble is not None:
            if found.root.exists():
                _log.warning("the template %s is damaged (%s); it is made once more", found.root, trouble)
            shutil.rmtree(found.root, ignore_errors=True)  # boards that run of it have its files open
            with workplace(directory, prefix=".making-") as work:
                with _failing_in(work, kept=directory / f"{key}.failed"):
                    _make(machine, Layout(root=work), deadline_s=deadline_s)
                work.replace(found.root)
                flush(directory)
    finally:
        os.close(lock)
    return found


def stamp_of(template: Layout) -> Stamp | None:
    """Which of the templates that have been in this place it is; None where there is none."""
    try:
        facts = template.state.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _trouble(template: Layout, machine: Machine, *, bad: Stamp | None) -> str | None:
    """Why a template that is there is not to be used; None for a good one.

    QEMU waits for the end of a state that was cut off, and takes one that lacks its last pages.
    """
    try:
        if template.memory.stat().st_size != machine.memory_bytes:
            return f"its memory has {template.memory.stat().st_size} bytes, expected {machine.memory_bytes}"
        for path in (template.disk, template.device_tree):
            path.stat()
        if _digest(template.state).encode() != template.state_digest.read_bytes():
            return "its state is not what was saved"
    except OSError as problem:
        return f"{Path(problem.filename).name}: {problem.strerror}"
    return "QEMU does not take it" if stamp_of(template) == bad else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _failing_in(work: Path, *, kept: Path) -> Iterator[None]:
    """Whoever is told of a failure finds the logs where the message says, and is told when the disk is full."""
    shutil.rmtree(kept, ignore_errors=True)
    layout = Layout(root=work)
    try:
        yield
    except (BoardError, ConfigError, OSError) as problem:
        free_bytes = shutil.disk_usage(work).free
        with contextlib.suppress(OSError):  # no room for the directory either: then the message must do
            kept.mkdir(mode=0o700)
            for log in (layout.log, layout.console_log):
                if log.exists():
                    log.replace(kept / log.name)
        said = str(problem).replace(str(work), str(kept))
        if free_bytes < _ROOM_BYTES:
            raise ConfigError(
                f"no template can be made: only {format_size(free_bytes)} are left for it in {work.parent}: make room "
                f"with 'edgehil image prune', or have the cache elsewhere with EDGEHIL_CACHE_DIR ({said})"
            ) from problem
        if isinstance(problem, OSError):
            raise ConfigError(f"no template can be made in {work.parent}: {said}") from problem
        raise type(problem)(said) from problem


def _make(machine: Machine, layout: Layout, *, deadline_s: float) -> None:
    make_overlay(layout.disk, on=machine.image.disk, kind="raw")
    machine.write_device_tree(layout.device_tree)
    write_seed(layout.seed, b"")
    Sensors(layout.sensors)
    argv = machine.argv(layout, template=None, saving=True, ssh_port=0)
    process = Process(argv, layout, what=f"template of {machine.image.name}", deadline_s=deadline_s)
    written, failed = (layout.state.with_name(f"{layout.state.name}.{how}") for how in ("new", "failed"))
    new, bad, done = (shlex.quote(str(path)) for path in (written, failed, layout.state))
    try:
        with process.qmp() as qemu:
            process.wait_for_line(WAITS)
            qemu.do("stop")
            allow_shared(qemu)
            qemu.do("migrate", uri=f"exec:cat >{new} && mv {new} {done} || mv {new} {bad}")
            process.wait_for_migration(qemu)
            # QEMU has given everything away then; whoever writes it down may not have
            process.wait_until(lambda: layout.state.exists() or failed.exists(), "its state is still being written")
    finally:
        process.stop()
    if not layout.state.exists():
        raise BoardError(f"template of {machine.image.name}: its state cannot be written; see {layout.log}")
    layout.state_digest.write_text(_digest(layout.state))
    for path in (layout.memory, layout.state, layout.state_digest, layout.disk, layout.device_tree, layout.root):
        flush(path)  # else a power cut of this host leaves a whole directory of files with holes


def restore(qemu: Qmp, template: Layout, process: Process) -> None:
    """Have QEMU, which was started for it, take a template's state.

    Raises:
        Unrestorable: it does not take it.
        ConnectFailed: not in time.
    """
    stamp = stamp_of(template)
    try:
        allow_shared(qemu)
        qemu.do("migrate-incoming", uri=f"exec:cat {shlex.quote(str(template.state))}")
        process.wait_for_migration(qemu)
        process.wait_for_state(qemu, "paused")
    except ConnectFailed:
        raise
    except BoardError as problem:
        raise Unrestorable(
            f"the template {template.root} cannot be restored: {process.last_words() or problem}", stamp=stamp
        ) from problem


def allow_shared(qemu: Qmp) -> None:
    """Leave memory that is in a file where it is, instead of writing it into the state."""
    qemu.do("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
