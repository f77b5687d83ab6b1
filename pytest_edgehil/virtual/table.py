"""Starting and reaping the board's processes inside the supervisor.

Everything that runs on the board is started here. The supervisor is a subreaper, so it must also reap what it
adopts: one loop of waitpid(-1) on SIGCHLD does both. Nothing else in the supervisor may wait for children.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.virtual.processes import ProcessFacts, descendants, look, reap, signal_process

KILL_POLL_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The board's processes at one moment.

    Args:
        cpu_s: since the supervisor started; of living, dead and adopted processes.
    """

    living: tuple[ProcessFacts, ...]
    cpu_s: float


class ProcessTable:
    """The processes of one board."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started: dict[int, tuple[subprocess.Popen[bytes], Callable[[int], None] | None]] = {}
        self.powered = False
        self.file_limit_bytes: int | None = None
        loop.add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        stdin: int,
        stdout: int,
        stderr: int,
        on_exit: Callable[[int], None] | None = None,
    ) -> int:
        """Start a process in a session of its own.

        Args:
            on_exit: called with the wait status once it has exited.

        Returns:
            Its process id, which is that of its process group too.

        Raises:
            OSError: it cannot be started; EHOSTDOWN when the board has no power.
        """
        if not self.powered:
            raise OSError(errno.EHOSTDOWN, os.strerror(errno.EHOSTDOWN))
        if self.file_limit_bytes is not None:
            # a full disk from its first instruction on; -S because a soft limit can be lifted again
            blocks = self.file_limit_bytes // 512
            argv = ["/bin/sh", "-c", f'ulimit -S -f {blocks}; exec "$@"', "sh", *argv]
        process = subprocess.Popen(
            argv, cwd=cwd, env=dict(environment), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )
        self._started[process.pid] = (process, on_exit)
        return process.pid

    def census(self) -> Census:
        """Every process of the board, and the CPU time that all of them, the dead included, have used so far."""
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = [facts for pid in descendants(os.getpid()) if (facts := look(pid)) is not None]
        return Census(
            living=tuple(facts for facts in found if facts.state != "Z"),
            cpu_s=reaped.ru_utime + reaped.ru_stime + sum(facts.cpu_s for facts in found),
        )

    def alive(self) -> tuple[ProcessFacts, ...]:
        """Every process of the board, zombies left out."""
        return self.census().living

    def lives(self, pid: int) -> bool:
        """Whether this is a process of the board, and no zombie."""
        return any(facts.pid == pid for facts in self.alive())

    def limit_files(self, size_bytes: int | None) -> None:
        """Limit the size of files that the board's processes, present and future, may write; None lifts the limit."""
        self.file_limit_bytes = size_bytes
        self.relimit()

    def relimit(self) -> None:
        """Set the present limit on every process: one may have been forked while the limit was being set."""
        for fact in self.alive():
            try:
                _, hard = resource.prlimit(fact.pid, resource.RLIMIT_FSIZE)
                soft = hard if self.file_limit_bytes is None else self.file_limit_bytes
                resource.prlimit(fact.pid, resource.RLIMIT_FSIZE, (soft, hard))
            except ProcessLookupError:
                continue

    async def end_all(self, *, deadline_s: float = 10.0) -> int:
        """Kill every process, now and until none is left; returns how many there were."""
        end = self._loop.time() + deadline_s
        seen: set[int] = set()
        while True:
            living = [fact.pid for fact in self.alive()]
            for pid in living:
                signal_process(pid, signal.SIGKILL)
            seen.update(living)
            self._reap()
            if not living or self._loop.time() > end:
                return len(seen)
            await asyncio.sleep(KILL_POLL_S)

    def kill_now(self) -> None:
        """Kill every process that there is, without waiting for its end."""
        for pid in descendants(os.getpid()):
            signal_process(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid, status in reap():
            started = self._started.pop(pid, None)
            if started is not None:
                process, on_exit = started
                # Popen must not wait for a process that has been waited for
                process.returncode = os.waitstatus_to_exitcode(status)
                if on_exit is not None:
                    on_exit(status)
