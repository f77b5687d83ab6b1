"""``python -m pytest_edgehil.emulated.warden DIRECTORY STARTER_PID``: the parent of one QEMU.

An emulated board must never outlive whoever started it, however that one ends. The warden watches its starter and
kills QEMU when the starter is gone (its process ended, or it closed our stdin); when the warden itself is killed, the
kernel kills QEMU: the parent-death signal is asked for by QEMU's process itself, before it becomes QEMU, and is about
this process, which has one thread. QEMU starts no processes that would be left.

QEMU's command line comes as the first line of stdin, in JSON. One line of JSON is answered when it runs. Standard
library only, and small: there is one per board.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path

from pytest_edgehil.virtual.starter import first_line, hold_lock, report, silence_stdout

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LOCK_WAIT_S = 20.0
POLL_MS = 250


def main(arguments: list[str]) -> int:
    """Start QEMU, watch, and make an end of it; returns the exit status."""
    directory, starter = Path(arguments[0]), int(arguments[1])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    stop_reader, stop_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(stop_writer, warn_on_full_buffer=False)
    if not hold_lock(directory / "warden.lock", wait_s=LOCK_WAIT_S):
        report({"ok": False, "error": f"{directory} is already being served"})
        return 1
    pidfd = None
    with contextlib.suppress(OSError):  # none on old kernels and in some sandboxes: then it is asked for now and then
        pidfd = os.pidfd_open(starter)
    if os.getppid() != starter:
        return 0
    line = first_line()
    if not line:
        return 0
    qemu = _start(json.loads(line), directory)
    report({"ok": True, "pid": os.getpid()})
    silence_stdout()
    try:
        _watch(qemu, starter, pidfd, stop_reader)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(qemu, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(qemu, 0)
        for name in ("endpoint.json", "qmp.sock"):
            (directory / name).unlink(missing_ok=True)
    return 0


def _start(argv: list[str], directory: Path) -> int:
    """QEMU's process; it runs in the board's directory, where its sockets have short names."""
    libc = ctypes.CDLL(None, use_errno=True)
    warden = os.getpid()
    child = os.fork()
    if child != 0:
        return child
    try:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == warden:  # else it died before the kernel was asked
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.chdir(directory)
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1):
                os.dup2(null, descriptor)
            os.execv(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as problem:
        print(f"{argv[0]}: {problem}", file=sys.stderr, flush=True)
    finally:
        os._exit(127)


def _watch(qemu: int, starter: int, pidfd: int | None, stop_reader: int) -> None:
    """Return when QEMU has ended, or it is time for it to."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    poller.register(stop_reader, select.POLLIN)
    if pidfd is not None:
        poller.register(pidfd, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(None if pidfd is not None else POLL_MS)}
        if os.getppid() != starter or 0 in ready or pidfd in ready:
            return
        woken = os.read(stop_reader, 4096) if stop_reader in ready else b""
        if bytes([signal.SIGTERM]) in woken:
            return
        ended, status = os.waitpid(qemu, os.WNOHANG)
        if ended == qemu:
            if os.WIFSIGNALED(status):  # such as a bus error: the disk under its memory is full
                print(f"QEMU was killed: {signal.strsignal(os.WTERMSIG(status))}", file=sys.stderr, flush=True)
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
