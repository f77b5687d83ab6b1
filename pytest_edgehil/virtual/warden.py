"""``python -m pytest_edgehil.virtual.warden DIRECTORY STARTER_PID``: the parent of a supervisor, and its executor.

A board must never outlive whoever started it, however that one or the supervisor dies. The warden watches both and
does nothing else: when the starter is gone (its process ended, or it closed our stdin) the supervisor is told to end;
when the supervisor is gone, everything that it left behind is killed. It can do so because it is a subreaper: the
orphans of the supervisor, daemons included, become its own children. When the warden itself is killed, the supervisor
notices and ends. When both are killed at once, so that neither can, the *sweeper* is left: a fork of the warden that
waits for the end of the two and then kills what carries the board's marker. It holds the board's lock meanwhile, so
that it never hits a board that is being started anew.

The starter is watched through a pidfd and not by PR_SET_PDEATHSIG, which would fire when the *thread* that started us
ends. The blueprint comes as the first line of stdin. Standard library only, and small: there is one per board.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path

from pytest_edgehil.virtual.processes import (
    become_subreaper,
    end_descendants,
    look,
    marker_of,
    reap,
    signal_process,
    sweep,
)
from pytest_edgehil.virtual.starter import first_line, hold_lock, report, silence_stdout

ORDERLY_END_S = 5.0
FORCED_END_S = 10.0
STARTER_POLL_MS = 250
LOCK_WAIT_S = 5.0


def main(arguments: list[str]) -> int:
    """Start the supervisor, watch, and make an end of it; returns the exit status."""
    directory, starter = Path(arguments[0]), int(arguments[1])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # our starter's mask is none of the board's business
    stop_reader, stop_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGTERM, lambda *_: os.write(stop_writer, b"t"))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(stop_writer, warn_on_full_buffer=False)
    become_subreaper()
    if not hold_lock(directory / "supervisor.lock", wait_s=LOCK_WAIT_S):
        report({"ok": False, "kind": "busy", "error": f"{directory} is already being served"})
        return 1
    watch = _Starter(starter)
    if watch.gone():
        return 0
    marker = marker_of(directory)
    sweep(marker)  # strays of a supervisor and a warden that were killed at the same moment
    blueprint = first_line()
    if not blueprint:
        return 0
    lifeline, held = os.pipe2(os.O_CLOEXEC)
    supervisor = os.fork()
    if supervisor == 0:
        _become_supervisor(directory, blueprint, lifeline=lifeline, drop=(held, stop_reader, stop_writer))
    os.close(lifeline)
    warden = os.getpid()
    if os.fork() == 0:
        _become_sweeper(warden, supervisor, marker, drop=(held, stop_reader, stop_writer))
    silence_stdout()  # so that the starter reads end of file when the supervisor dies before it could report
    try:
        _watch(supervisor, watch, stop_reader)
    finally:
        os.close(held)
        _end(supervisor)
        end_descendants(deadline_s=FORCED_END_S)
        sweep(marker)
        _tidy(directory)
    return 0


class _Starter:
    """Whoever started us."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd: int | None = None
        with contextlib.suppress(OSError):  # none on old kernels and in some sandboxes: then it is asked now and then
            self.pidfd = os.pidfd_open(pid)

    def gone(self) -> bool:
        """Whether it has died; our parent is then another."""
        return os.getppid() != self.pid


def _become_supervisor(directory: Path, blueprint: bytes, *, lifeline: int, drop: tuple[int, ...]) -> None:
    """The rest of the forked child's life."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in drop:
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        # only here, so that the warden stays small
        from pytest_edgehil.virtual.blueprint import Blueprint, Layout
        from pytest_edgehil.virtual.supervisor import supervise

        def tell(line: str) -> None:
            with contextlib.suppress(BrokenPipeError):
                os.write(1, line.encode() + b"\n")
            silence_stdout()

        supervise(Blueprint.from_json(blueprint.decode()), Layout(root=directory), lifeline=lifeline, report=tell)
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of this process: the log is all there is
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _become_sweeper(warden: int, supervisor: int, marker: str, *, drop: tuple[int, ...]) -> None:
    """The rest of another forked child's life; an orderly end of the warden kills it like every other descendant."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in drop:  # above all the lifeline of the supervisor, and the pipes to the starter
            os.close(descriptor)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(null, descriptor)
        with contextlib.suppress(KeyboardInterrupt):
            _outlive(warden)
            _outlive(supervisor)
            sweep(marker)
    finally:
        os._exit(0)


def _outlive(pid: int) -> None:
    """Return when a process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except OSError:  # none on old kernels and in some sandboxes
        while (facts := look(pid)) is not None and facts.state != "Z":
            time.sleep(STARTER_POLL_MS / 1000)
        return
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


def _watch(supervisor: int, starter: _Starter, stop_reader: int) -> None:
    """Return when the supervisor has died, or it is time for it to."""
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    poller.register(stop_reader, select.POLLIN)
    if starter.pidfd is not None:
        poller.register(starter.pidfd, select.POLLIN)
    timeout_ms = None if starter.pidfd is not None else STARTER_POLL_MS
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(timeout_ms)}
        if starter.gone() or 0 in ready or starter.pidfd in ready:
            return
        woken = os.read(stop_reader, 4096) if stop_reader in ready else b""
        if bytes([signal.SIGTERM]) in woken:
            return
        # adopted orphans are collected along the way
        if any(pid == supervisor for pid, _ in reap()):
            return


def _end(supervisor: int) -> None:
    """Let the supervisor end in an orderly way, within limits."""
    signal_process(supervisor, signal.SIGTERM)
    end = time.monotonic() + ORDERLY_END_S
    while time.monotonic() < end:
        try:
            if os.waitpid(supervisor, os.WNOHANG)[0] == supervisor:
                return
        except ChildProcessError:
            return  # it has been collected already
        time.sleep(0.002)
    signal_process(supervisor, signal.SIGKILL)


def _tidy(directory: Path) -> None:
    """Remove what a killed supervisor could not."""
    endpoint = directory / "endpoint.json"
    try:
        socket_path = Path(json.loads(endpoint.read_bytes())["socket"])
    except FileNotFoundError:
        return
    except (ValueError, LookupError, TypeError):  # it is damaged: its socket is where most have it
        socket_path = directory / "control.sock"
    socket_path.unlink(missing_ok=True)
    if socket_path.parent != directory:
        with contextlib.suppress(OSError):
            socket_path.parent.rmdir()
    endpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
