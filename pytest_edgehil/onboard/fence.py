"""The fencing token: the board itself refuses a holder whose lease has passed to somebody else.

The lab hands out a token that grows with every lease. The board remembers the highest one it has seen, on its disk,
and refuses every request that comes with a lower one. A holder that was thought dead and wakes up again is thereby
stopped by the board, whatever it believes itself (Kleppmann, "How to do distributed locking").

A check at the beginning does not stop what has begun already. So whoever comes in with a higher token also makes an end
of every program that was started under a lower one, and is told that it is in only when none of them is left. They are
found by EDGEHIL_LEASE in their environment, by the argument vector of their guard (see ``board/fenced.py`` on the
host), by the session that the guard is in, and as descendants of all these: ``sudo`` clears an environment and makes a
session. What runs as root cannot be ended by us: then nobody comes in, and the board's power has to be cycled. What
somebody hands over to the system itself (a unit of systemd, say) belongs to no lease and goes on.

``fence`` is one line of JSON, which the guard, a shell, reads and writes too: ``{"token": 5, "holder": "ci-841"}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from .durable import write_atomically
from .home import Home
from .problem import Problem

VARIABLE = "EDGEHIL_LEASE"
"""``<token>@<our directory on the board>`` in the environment of everything that runs under a lease."""
GUARD = re.compile(rb": edgehil-fence token=([0-9]+) home=([0-9a-f]+) \.")
"""The first line of a guard, in arguments or environment of the shell that runs it; the directory in hexadecimal."""

GRACE_S = 0.5
"""Programs are asked to end before they are killed."""
ANSWER_S = 5.0
"""So long those are waited for that hear the question: a session tells its host why, however busy the board is."""
GONE_S = 10.0
POLL_S = 0.03


class Fence:
    """The board's memory of the highest token."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def enter(self, token: int, holder: str, *, sweep: bool = True) -> None:
        """Come in with a token; the highest one so far becomes the limit for everybody else.

        Args:
            token, holder: of the lease.
            sweep: end what runs under lower tokens, which costs a look at every process of the board. Each session
                does it, also under a token that is known: a guard or a sink may have brought that one here.

        Raises:
            Problem: ``fenced`` when a higher token has been seen; ``occupied`` when programs of a lower one do not
                end.
        """
        with self._home.locked("fence.lock"):
            seen, by = self.read()
            if token < seen:
                raise self._refusal(token, seen, by)
            if (token, holder) != (seen, by):
                value = {"token": token, "holder": holder}
                write_atomically(self._home.fence, json.dumps(value).encode())
        if sweep:
            evict(self._home.root, below=token)

    def check(self, token: int) -> None:
        """Is this token still the highest?

        Raises:
            Problem: ``fenced``.
        """
        seen, by = self.read()
        if token < seen:
            raise self._refusal(token, seen, by)

    def read(self) -> tuple[int, str]:
        """The highest token and its holder; (0, "") on a fresh board."""
        try:
            text = self._home.fence.read_bytes()
        except FileNotFoundError:
            return 0, ""
        try:
            value = json.loads(text)
            token, holder = value["token"], value["holder"]
        except (ValueError, KeyError, TypeError) as exc:
            raise Problem("storage", f"the fence file {self._home.fence} cannot be read: {exc}; restore it") from exc
        if not isinstance(token, int) or not isinstance(holder, str):
            raise Problem("storage", f"the fence file {self._home.fence} does not hold a token and a holder")
        return token, holder

    @staticmethod
    def _refusal(token: int, seen: int, by: str) -> Problem:
        return Problem(
            "fenced", f"token {token} is refused: the board has seen token {seen} of {by or 'another holder'}"
        )


def evict(root: Path, *, below: int) -> None:
    """End every program that was started under a lower token on this board; return when none is left.

    Args:
        root: our directory; boards that share a kernel (virtual ones) are told apart by it.
        below: programs of this token and of higher ones stay.

    Raises:
        Problem: ``occupied``, when one does not end however it is asked.
    """
    started = time.monotonic()
    root = root.resolve()
    while found := _programs(root, below=below):
        waited_s = time.monotonic() - started
        if waited_s > GONE_S:
            shown = ", ".join(map(str, sorted(found)[:5]))
            raise Problem(
                "occupied",
                f"programs of an earlier holder do not end although they were killed (pid {shown}): "
                "cycle the board's power",
            )
        for pid in found:
            patience_s = GRACE_S if waited_s < GRACE_S or not _hears(pid, signal.SIGTERM) else ANSWER_S
            how = signal.SIGTERM if waited_s < patience_s else signal.SIGKILL
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, how)
        time.sleep(POLL_S)


def _hears(pid: int, number: int) -> bool:
    """Has a process a handler of its own for this signal? proc(5), ``SigCgt``."""
    try:
        status = _read(f"/proc/{pid}/status")
        caught = next(line.split()[1] for line in status.splitlines() if line.startswith(b"SigCgt:"))
    except (OSError, StopIteration):
        return False
    return bool(int(caught, 16) >> (number - 1) & 1)


def _programs(root: Path, *, below: int) -> set[int]:
    """Process ids of everything under a lower token, without zombies."""
    sessions: dict[int, int] = {}
    found, guards = set(), set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        token = _token_of(pid, root)
        if token is not None and token[0] < below:
            found.add(pid)
            if token[1]:
                guards.add(pid)
        sessions[pid] = -1
    if guards:
        # A guard, or the leash around it, leads a session of its own; whatever else is in there is that program's.
        own = os.getsid(0)
        for pid in sessions:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                sessions[pid] = os.getsid(pid)
        led = {sessions[pid] for pid in guards if sessions.get(pid) == pid} - {own}
        found |= {pid for pid, session in sessions.items() if session in led}
    if found:
        found |= _descendants(found, sessions)
    return {pid for pid in found if pid != os.getpid() and _stat(pid)[0] not in "ZX"}


def _descendants(of: set[int], among: Iterable[int]) -> set[int]:
    parents = {pid: _stat(pid)[1] for pid in among}
    reached, front = set(of), set(of)
    while front := {pid for pid, parent in parents.items() if parent in front} - reached:
        reached |= front
    return reached


def _token_of(pid: int, root: Path) -> tuple[int, bool] | None:
    """(token, is it a guard?) of a process that is under a lease of this board."""
    base = f"/proc/{pid}"
    try:
        arguments, environment = _read(f"{base}/cmdline"), _read(f"{base}/environ")
        if guard := GUARD.search(arguments) or GUARD.search(environment):
            home = os.fsdecode(bytes.fromhex(guard[2].decode()))
            if _same(Path(f"{base}/cwd").readlink() / home, root):
                return int(guard[1]), True
        prefix = f"{VARIABLE}=".encode()
        for word in environment.split(b"\0"):
            if word.startswith(prefix):
                token, _, home = os.fsdecode(word.removeprefix(prefix)).partition("@")
                return (int(token), False) if _same(Path(home), root) else None
    except (OSError, ValueError, IndexError):
        return None  # gone meanwhile, somebody else's, or not of our making
    return None


def _read(path: str) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - hundreds of them: without pathlib it is half the time
        return file.read()


def _same(path: Path, root: Path) -> bool:
    return path == root or path.resolve() == root


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process, proc(5); a dead one's when it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()[:2]
    except (OSError, ValueError):
        return "X", 0
    return state, int(parent)
