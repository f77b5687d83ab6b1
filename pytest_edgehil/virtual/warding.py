"""The process that a board lives and dies with, as whoever starts the board holds it.

The same for virtual and emulated boards; what the process itself does is in each one's ``warden``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest_edgehil
from pytest_edgehil.errors import BoardError, ConnectFailed

STOP_S = 20.0


class Warden:
    """A warden that was started.

    Args:
        module: its program.
        directory: the board's.
        log: gets what it complains about; readable by the owner only.
        order: what it is to start, one line.
    """

    def __init__(self, module: str, directory: Path, *, log: Path, order: str) -> None:
        package = str(Path(pytest_edgehil.__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        with log.open("ab") as complaints:
            log.chmod(0o600)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(directory), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=os.environ | {"PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the starter, which then stops us in its own time
            )
        self._log = log
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once: its report, or the absence of one, says so
                self._process.stdin.write(order.encode() + b"\n")
                self._process.stdin.flush()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def report(self, *, what: str, deadline_s: float) -> dict[str, Any]:
        """How the start went, as it tells once.

        Args:
            what: the board, for people.
            deadline_s: of `time.monotonic`.

        Raises:
            ConnectFailed: it has not told by then.
            BoardError: it died instead.
        """
        assert self._process.stdout is not None
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN)
        line = b""
        while not line.endswith(b"\n"):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not poller.poll(left_s * 1000):
                raise ConnectFailed(f"{what} did not start in time; see {self._log}")
            piece = os.read(self._process.stdout.fileno(), 65536)
            if not piece:
                raise BoardError(f"{what} died while it started; see {self._log}")
            line += piece
        self._process.stdout.close()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """End it, and the board with it; when this returns, both are gone. Idempotent."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
