"""The board's processes: who they are, what they use, and making an end of all of them.

A board's processes are the descendants of its supervisor, which is a *child subreaper* (prctl(2)): a process that
daemonises is adopted by it and not by init, so it can neither escape a power cut nor be left out of the board's CPU
time. When the supervisor is killed itself, its warden, a subreaper too, inherits them. A marker in their environment
finds strays in the one case left, both killed at once: the warden's sweeper makes an end of them, and if that is gone
too, whoever starts or stops the board next.

Standard library only: the warden stays small.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

MARKER = "EDGEHIL_VIRTUAL_BOARD"
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def marker_of(directory: Path) -> str:
    """The marker that processes of the board in this directory carry in their environment."""
    return hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:32]


def become_subreaper() -> None:
    """Adopt descendants whose parent dies, instead of init.

    Raises:
        OSError: the kernel refuses (it never does since Linux 3.4).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What ``/proc/PID/stat`` says of a process; CPU time includes the children it has reaped."""

    pid: int
    parent: int
    name: str
    state: str
    cpu_s: float
    virtual_bytes: int
    rss_bytes: int


def look(pid: int) -> ProcessFacts | None:
    """Facts about a process, None when it is gone. Format: proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # the name stands in parentheses and may hold any character, parentheses and spaces included
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return ProcessFacts(
        pid=pid,
        parent=int(fields[1]),
        name=head.partition("(")[2],
        state=fields[0],
        cpu_s=sum(int(field) for field in fields[11:15]) / TICKS_PER_S,
        virtual_bytes=int(fields[20]),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
    )


def pss_bytes(facts: ProcessFacts) -> int:
    """Proportional set size of a process: shared pages count in shares. Its RSS when the kernel does not tell."""
    try:
        lines = Path(f"/proc/{facts.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return facts.rss_bytes
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), facts.rss_bytes)


def children(pid: int) -> list[int]:
    """Children of a process, of all its threads; empty when it is gone."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - several times a second; names are all it needs
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        return []
    return found


def _parents() -> dict[int, list[int]]:
    tree: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit() and (facts := look(int(entry))) is not None:
            tree.setdefault(facts.parent, []).append(facts.pid)
    return tree


HAS_CHILDREN_FILE = Path(f"/proc/self/task/{os.getpid()}/children").exists()
"""Whether the kernel lists children (CONFIG_PROC_CHILDREN); else all of /proc is read."""


def descendants(root: int) -> list[int]:
    """Every descendant of a process, parents first, without itself. Zombies are among them."""
    tree = None if HAS_CHILDREN_FILE else _parents()
    found: list[int] = []
    front = [root]
    while front:
        pid = front.pop()
        below = children(pid) if tree is None else tree.get(pid, [])
        found += below
        front += below
    return found


def signal_process(pid: int, number: int) -> None:
    """Send a signal; a process that is gone needs none."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def signal_group(group: int, number: int) -> None:
    """Send a signal to a process group; one that is gone needs none."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap() -> list[tuple[int, int]]:
    """Collect every dead child: process id and wait status."""
    dead: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return dead
        if pid == 0:
            return dead
        dead.append((pid, status))


def end_descendants(*, deadline_s: float, keep: frozenset[int] = frozenset()) -> list[int]:
    """Kill every descendant of this process, which must be a subreaper, until none is left.

    Args:
        deadline_s: how long to wait for them to be gone (a process in uninterruptible sleep takes its time).
        keep: processes to spare (their descendants are not).

    Returns:
        Those that are still there at the deadline; empty unless the kernel holds on to one.
    """
    end = time.monotonic() + deadline_s
    while True:
        living = [pid for pid in descendants(os.getpid()) if pid not in keep]
        for pid in living:
            signal_process(pid, signal.SIGKILL)
        reap()
        if not living or time.monotonic() > end:
            return living
        time.sleep(0.001)


def marked(marker: str) -> list[int]:
    """Processes of this host that carry a marker, wherever in the tree they are; never this one."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                environment = Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue  # gone, a kernel thread, or somebody else's: then it is not ours either
            if wanted in environment.split(b"\0"):
                found.append(int(entry))
    return found


def sweep(marker: str, *, deadline_s: float = 5.0) -> int:
    """Kill every process that carries a marker; returns how many there were."""
    end = time.monotonic() + deadline_s
    seen: set[int] = set()
    while True:
        strays = [pid for pid in marked(marker) if (facts := look(pid)) is not None and facts.state != "Z"]
        seen.update(strays)
        for pid in strays:
            signal_process(pid, signal.SIGKILL)
        if not strays or time.monotonic() > end:
            return len(seen)
        time.sleep(0.002)
