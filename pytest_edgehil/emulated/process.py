"""One QEMU under its warden: started, talked to until it is up, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pytest_edgehil.board.qmp import TIMEOUT_S as QMP_S
from pytest_edgehil.board.qmp import Qmp
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.errors import BoardError, ConnectFailed, PowerError
from pytest_edgehil.virtual.starting import is_held
from pytest_edgehil.virtual.warding import STOP_S, Warden

POLL_S = 0.01
ASK_S, WARDEN_S = 2.0, 5.0
"""So long a QEMU of somebody else that is to end is asked, and then its warden, before it is made to."""
_WARDEN = "pytest_edgehil.emulated.warden"


class Process:
    """A QEMU that runs.

    Args:
        argv: its command line.
        layout: its files.
        what: what to call it in messages.
        deadline_s: of `time.monotonic`; until then it must have come up.

    Raises:
        BoardError: it does not start.
        ConnectFailed: not in time.
    """

    def __init__(self, argv: list[str], layout: Layout, *, what: str, deadline_s: float) -> None:
        self._layout = layout
        self._what = what
        self._deadline_s = deadline_s
        layout.log.write_bytes(b"")
        self._warden = Warden(_WARDEN, layout.root, log=layout.log, order=json.dumps(argv))
        try:
            answer = self._warden.report(what=what, deadline_s=deadline_s)
        except BaseException:
            self.stop()
            raise
        if not answer["ok"]:
            self.stop()
            raise BoardError(f"{what} did not start: {answer['error']}")

    @property
    def warden_pid(self) -> int:
        """Of the process that QEMU lives and dies with."""
        return self._warden.pid

    def qmp(self) -> Qmp:
        """A connection to QEMU, which may have been started just now."""
        while True:
            try:
                left_s = self._deadline_s - time.monotonic()
                return Qmp(self._layout.qmp, what=self._what, timeout_s=min(max(left_s, ASK_S), QMP_S))
            except PowerError:
                self._go_on("QEMU does not answer")

    def wait_for_state(self, qemu: Qmp, state: str) -> None:
        """Wait until QEMU is in a run state, as ``query-status`` tells it."""
        while (found := qemu.do("query-status")["status"]) != state:
            self._go_on(f"QEMU is {found}, not {state}")

    def wait_for_migration(self, qemu: Qmp) -> None:
        """Wait until the machine's state has been saved or restored."""
        while (found := qemu.do("query-migrate").get("status")) != "completed":
            if found == "failed":
                raise BoardError(f"{self._what}: QEMU cannot move its state; see {self._layout.log}")
            self._go_on("its state is still being moved")

    def wait_until(self, happens: Callable[[], bool], why: str) -> None:
        """Wait until something has happened; `why` says what has not, for people."""
        while not happens():
            self._go_on(why)

    def last_words(self) -> str:
        """What QEMU and its warden have said, as far as it fits into a message; empty where they have not."""
        return " ".join(self._layout.log.read_text(errors="replace").split())[-300:]

    def wait_for_line(self, pattern: str) -> None:
        """Wait until the board has said something on its console, since it was started."""
        while True:
            said = self._layout.console_log.read_bytes() if self._layout.console_log.exists() else b""
            if re.search(pattern.encode(), said):
                return
            tail = said[-300:].decode("utf-8", "replace").strip()
            self._go_on(f"its console has not said {pattern!r}; the last it said: {tail!r}")

    def stop(self) -> None:
        """End QEMU; when this returns, it is gone. Idempotent."""
        self._warden.stop()

    def _go_on(self, why: str) -> None:
        if not self._warden.lives:
            said = self.last_words() or "it said nothing"
            raise BoardError(f"{self._what}: QEMU ended: {said}; see {self._layout.log}")
        if time.monotonic() > self._deadline_s:
            raise ConnectFailed(f"{self._what} did not come up in time: {why}; see {self._layout.console_log}")
        time.sleep(POLL_S)


def end_another(layout: Layout, *, warden_pid: int, what: str, deadline_s: float) -> None:
    """End a QEMU that somebody else has started: it is asked to, then its warden is, then both are killed.

    Args:
        warden_pid: as that one wrote it down; a process that is no warden of these files is left alone.
        deadline_s: of `time.monotonic`.

    Raises:
        ConnectFailed: it still runs then.
    """
    asked = False
    ask_s = max(min(deadline_s - time.monotonic(), ASK_S), POLL_S)
    with contextlib.suppress(PowerError), Qmp(layout.qmp, what=what, timeout_s=ask_s) as qemu:  # else it hangs, or ends
        qemu.do("quit")
        asked = True
    if asked and _ends(layout, until_s=min(time.monotonic() + ASK_S, deadline_s)):
        return
    for number, patience_s in ((signal.SIGTERM, WARDEN_S), (signal.SIGKILL, STOP_S)):
        _signal_warden(layout, warden_pid, number)
        if _ends(layout, until_s=min(time.monotonic() + patience_s, deadline_s)):
            return
    raise ConnectFailed(
        f"{what}: the QEMU of whoever had the board before hangs and did not end in time; kill its warden, process "
        f"{warden_pid}, and look at {layout.log}"
    )


def _ends(layout: Layout, *, until_s: float) -> bool:
    while is_served(layout):
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)
    return True


def is_served(layout: Layout) -> bool:
    """Whether a warden lives that serves these files."""
    return is_held(layout.lock)


def _signal_warden(layout: Layout, pid: int, number: signal.Signals) -> None:
    """Signal the warden of these files, and no process that has got its number since."""
    descriptor = None
    with contextlib.suppress(OSError):  # none on old kernels and in some sandboxes; or it is gone
        descriptor = os.pidfd_open(pid)
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if _WARDEN.encode() not in arguments or os.fsencode(layout.root) not in arguments:
            return
        if descriptor is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(descriptor, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        if descriptor is not None:
            os.close(descriptor)
