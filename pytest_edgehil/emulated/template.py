"""A template: a machine that has booted and waits for its seed, saved, so that boards start in a moment.

Its memory lies in a file that boards map privately: what none of them writes exists once. What else there is of the
machine is a few MB. Templates are made when they are first asked for and kept in the cache; one is good for one image,
one size of memory, and one version of QEMU.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import time
from pathlib import Path

from pytest_edgehil.board.qmp import Qmp
from pytest_edgehil.emulated.image.workplace import workplace
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.emulated.machine import Machine, make_overlay
from pytest_edgehil.emulated.process import Process
from pytest_edgehil.emulated.seed import write_seed
from pytest_edgehil.emulated.sensors import Sensors
from pytest_edgehil.errors import ConnectFailed
from pytest_edgehil.places import cache_directory

WAITS = "edgehil: waiting for a seed"
_POLL_S = 0.05


def template_of(machine: Machine, *, deadline_s: float, cache: Path | None = None) -> Layout:
    """The template of a machine, made now if it is not there.

    Args:
        deadline_s: of `time.monotonic`.

    Raises:
        BoardError: it does not boot, or cannot be saved.
        ConnectFailed: not in time.
    """
    directory = (cache or cache_directory()) / "templates"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = machine.key()
    found = Layout(root=directory / key)
    if found.state.exists():
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
        if not found.state.exists():
            with workplace(directory, prefix=".making-") as work:
                _make(machine, Layout(root=work), deadline_s=deadline_s)
                work.replace(found.root)
    finally:
        os.close(lock)
    return found


def _make(machine: Machine, layout: Layout, *, deadline_s: float) -> None:
    make_overlay(layout.disk, on=machine.image.disk, kind="raw")
    machine.write_device_tree(layout.device_tree)
    write_seed(layout.seed, b"")
    Sensors(layout.sensors)
    argv = machine.argv(layout, template=None, saving=True, ssh_port=0)
    process = Process(argv, layout, what=f"template of {machine.image.name}", deadline_s=deadline_s)
    try:
        with process.qmp() as qemu:
            process.wait_for_line(WAITS)
            qemu.do("stop")
            allow_shared(qemu)
            qemu.do("migrate", uri=f"exec:cat >{shlex.quote(f'{layout.state}.new')}")
            process.wait_for_migration(qemu)
    finally:
        process.stop()
    layout.state.with_name(f"{layout.state.name}.new").replace(layout.state)


def restore(qemu: Qmp, template: Layout) -> None:
    """Have QEMU, which was started for it, take a template's state."""
    allow_shared(qemu)
    qemu.do("migrate-incoming", uri=f"exec:cat {shlex.quote(str(template.state))}")


def allow_shared(qemu: Qmp) -> None:
    """Leave memory that is in a file where it is, instead of writing it into the state."""
    qemu.do("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
