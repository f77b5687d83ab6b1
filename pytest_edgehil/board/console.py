"""The serial console of a board: everything it says from the lease to the release, in a file and at hand for a test.

A thread reads all the time, for a UART has no memory: what is not read when it comes is lost. The log file gets the raw
bytes. A console whose other end goes away (an adapter that loses power together with its board, a terminal server that
restarts) is opened again until it is there again; it says nothing meanwhile, and that is no error until somebody waits.

A serial line carries no fencing token. So whoever types looks at his lease immediately before each few bytes, by clocks
that go on while a process is paused: a holder that wakes up after its lease types nothing more. Whoever reads looks at
it, too, and lets the line go when it is over; a device that only stopped processes have open is taken from them.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import serial

from pytest_edgehil.board.deadline import Deadline
from pytest_edgehil.errors import ConsoleError, LeaseError
from pytest_edgehil.model.board import ConsoleAccess

TAIL_CHARACTERS = 400
"""How much of the last output an error message shows."""

_READ_BYTES = 4096
_READ_SLICE_S = 0.05  # a read waits for so long to fill its buffer: the delay of what `wait_for` sees
_WRITE_TIMEOUT_S = 5.0
_WRITE_BYTES = 64  # between two looks at the lease: 6 ms at 115 200 baud
_REOPEN_S = 0.3
_LET_GO_S = 1.0
_KEPT_BYTES = 4 << 20  # in memory, for `wait_for` and `text`; the file has all

# What a Linux kernel says when it dies, the worst first: a panic is the reason even if an orderly reboot follows it.
_CRASHES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?<!end )Kernel panic.*",
        r"thermal .*critical temperature reached.*",
        r"Out of memory: Killed process.*",
        r"Internal error: Oops.*",
        r"watchdog: .*(?:LOCKUP|lockup).*",
        r"softdog: Initiating system reboot.*",
        r"Rebooting.*|reboot: Restarting system.*|reboot: HARDWARE PROTECTION.*",
        # Nobody said why: a watchdog of the hardware, a loss of power. These are a Pi's bootloader, U-Boot, Linux.
        r"RPi: BOOTLOADER release VERSION.*|U-Boot \d{4}\.\d{2}.*|Booting Linux on physical CPU.*",
    )
)

_log = logging.getLogger("edgehil.board.console")


class Console:
    """An open console. Made by `Console.open`; safe to use from several threads."""

    def __init__(
        self, port: Any, access: ConsoleAccess, *, log_path: Path, board_id: str, check: Callable[[], None]
    ) -> None:
        self._port = port
        self._access = access
        self._board_id = board_id
        self._check = check
        self._log_file = log_path.open("ab", buffering=0)
        self._changed = threading.Condition()
        self._kept = bytearray()
        self._dropped_bytes = 0
        self._gone = ""
        self._crashes_from = 0
        self._closing = threading.Event()
        self._letting_go = threading.Lock()
        self._reader = threading.Thread(target=self._read, name=f"edgehil-console-{board_id}", daemon=True)
        self._reader.start()

    @classmethod
    def open(
        cls, access: ConsoleAccess, *, log_path: Path, board_id: str, check: Callable[[], None] = lambda: None
    ) -> Console:
        """Opens the console and begins to log it.

        Args:
            access: any URL that pyserial takes: a device, ``socket://``, ``rfc2217://``; and the speed in baud.
            log_path: the raw bytes are appended to this file; its directory is made if it is missing.
            board_id: for messages.
            check: raises `LeaseLost` if the board is not ours any more; asked before every few bytes that are typed.

        Raises:
            ConsoleError: it cannot be opened, or somebody else has it open.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        port = _open_port(access, board_id=board_id)
        return cls(port, access, log_path=log_path, board_id=board_id, check=check)

    # --- reading -------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """How many bytes have come so far; what `wait_for`, `text` and `crash_reason` may begin from."""
        with self._changed:
            return self._position()

    def text(self, since: int = 0) -> str:
        """What has come since a position, lines ended by a newline alone; at most the last 4 MiB."""
        with self._changed:
            return self._text(since)

    def raw(self, since: int = 0) -> tuple[int, bytes]:
        """The position now, and the bytes that have come since another one; at most the last 4 MiB."""
        with self._changed:
            return self._position(), bytes(self._kept[max(0, since - self._dropped_bytes) :])

    def wait_for(self, pattern: str | re.Pattern[str], timeout_s: float, *, since: int | None = None) -> re.Match[str]:
        """Waits until the board has said something.

        Args:
            pattern: searched for (`re.search`) in everything since `since`; in a text, ``^`` and ``$`` are at lines.
            timeout_s: the longest to wait.
            since: a `position`; by default only what comes after this call counts.

        Raises:
            ConsoleError: it was not said in time; the message shows the end of what was.
        """
        wanted = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        deadline = Deadline(timeout_s)
        with self._changed:
            start = self._position() if since is None else since
            while True:
                seen = self._position()
                if match := wanted.search(self._text(start)):
                    return match
                if self._closing.is_set():
                    raise ConsoleError(f"console of {self._board_id}: closed while waiting for {wanted.pattern!r}")
                if not self._more_than(seen, deadline):
                    raise self._never_came(wanted, timeout_s, start)

    def crash_reason(self, since: int = 0) -> str | None:
        """What the kernel said of a crash since a position: panic, out of memory, overheating, reboot; the worst first.

        Last comes what a bootloader says when it begins: then the board has rebooted, and nobody said why. None if
        there is nothing of the kind. An intended reboot is told by `expect_reboot`, not counted as a crash.
        """
        with self._changed:
            lines = self._text(max(since, self._crashes_from)).splitlines()
        for crash in _CRASHES:
            for line in lines:
                if match := crash.search(line):
                    return match.group().strip()
        return None

    def expect_reboot(self) -> None:
        """What has been said up to now was intended (a reboot for a new firmware, say): no crash."""
        with self._changed:
            self._crashes_from = self._position()

    # --- writing, closing ----------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Types something.

        Raises:
            ConsoleError: the console is closed or gone, or takes nothing.
            LeaseLost: the board is not ours any more; what was not typed by then is not.
        """
        if self._closing.is_set():
            raise ConsoleError(f"console of {self._board_id}: cannot write, it is closed")
        self._check()
        if self._gone:
            raise ConsoleError(f"console of {self._board_id}: cannot write, it is gone: {self._gone}")
        try:
            for start in range(0, len(data), _WRITE_BYTES):
                self._check()
                self._port.write(data[start : start + _WRITE_BYTES])
        except (serial.SerialException, OSError) as exc:
            raise ConsoleError(f"console of {self._board_id}: {len(data)} bytes could not be written: {exc}") from exc

    def close(self) -> None:
        """Stops logging. May be called again."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        with self._letting_go:  # two threads that close one port at once close a descriptor that is not theirs
            self._reader.join()
            self._port.close()
            self._log_file.close()

    # --- inside --------------------------------------------------------------------------------------

    def _position(self) -> int:
        return self._dropped_bytes + len(self._kept)

    def _text(self, since: int) -> str:
        kept = bytes(self._kept[max(0, since - self._dropped_bytes) :])
        return kept.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "")

    def _more_than(self, seen: int, deadline: Deadline) -> bool:
        return self._changed.wait_for(lambda: self._position() != seen or self._closing.is_set(), deadline.left_s())

    def _never_came(self, wanted: re.Pattern[str], timeout_s: float, start: int) -> ConsoleError:
        said = self._text(start)[-TAIL_CHARACTERS:]
        state = f" (it is gone: {self._gone})" if self._gone else ""
        return ConsoleError(
            f"console of {self._board_id}{state}: {wanted.pattern!r} did not come within {timeout_s:g} s; "
            + (f"the last it said: {said!r}" if said else "it said nothing at all; is the board powered?")
        )

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                self._check()
            except LeaseError as lost:
                # what comes now is for the next holder, who also needs the device
                self._lose(str(lost))
                return
            try:
                data = self._port.read(_READ_BYTES)
            except (serial.SerialException, OSError, TypeError) as exc:
                # TypeError: pyserial's answer to a port that vanishes while it is being read.
                self._lose(str(exc))
                self._reopen()
                continue
            if data:
                self._take(data)

    def _take(self, data: bytes) -> None:
        self._log_file.write(data)
        with self._changed:
            self._kept += data
            excess = len(self._kept) - _KEPT_BYTES
            if excess > 0:
                del self._kept[:excess]
                self._dropped_bytes += excess
            self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        self._gone = reason
        _log.warning("console of %s is gone: %s", self._board_id, reason)
        with contextlib.suppress(serial.SerialException, OSError):  # it is broken already
            self._port.close()

    def _reopen(self) -> None:
        while not self._closing.wait(_REOPEN_S):
            try:
                self._port = _open_port(self._access, board_id=self._board_id)
            except ConsoleError as exc:
                self._gone = str(exc.__cause__ or exc)
                continue
            self._gone = ""
            _log.info("console of %s is back", self._board_id)
            return


def _open_port(access: ConsoleAccess, *, board_id: str) -> Any:
    """Open the console; a holder before us may need a moment to let it go."""
    deadline = Deadline(_LET_GO_S)
    while True:
        try:
            return _open(access, board_id=board_id, alone=True)
        except ConsoleError as exc:
            if "exclusively lock" not in str(exc):
                raise
            if _only_stopped_have(access.url):
                _log.warning("console of %s: %s is taken from a process that is stopped", board_id, access.url)
                return _open(access, board_id=board_id, alone=False)
            if deadline.passed():
                raise
        time.sleep(_READ_SLICE_S)


def _only_stopped_have(device: str) -> bool:
    """Is the device open in processes of ours that are all stopped (SIGSTOP, a debugger)?"""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/[0-9]*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if descriptor.readlink() == Path(device):
                state = (descriptor.parent.parent / "stat").read_text(encoding="utf-8", errors="replace")
                found.append(state.rpartition(") ")[2][:1])
    return bool(found) and all(state in "Tt" for state in found)


def _open(access: ConsoleAccess, *, board_id: str, alone: bool) -> Any:
    port = None
    try:
        # Exclusive: two readers of one line would each get some of its characters.
        port = serial.serial_for_url(
            access.url,
            do_not_open=True,
            baudrate=access.baud,
            timeout=_READ_SLICE_S,
            # pyserial's RFC 2217 client refuses the setting; its own socket has a limit of 5 s
            write_timeout=None if access.url.lower().startswith("rfc2217:") else _WRITE_TIMEOUT_S,
            exclusive=True if alone and "://" not in access.url else None,
        )
        if hasattr(port, "rfc2217_send_purge"):
            # pyserial purges while it opens: that would throw away what the board is saying, and some terminal servers
            # never answer it, so that opening fails after 3 s (labgrid#1779).
            port.rfc2217_send_purge = lambda _what: None
        with warnings.catch_warnings():
            # pyserial 3.5 starts its RFC 2217 thread in deprecated ways, which must not fail a suite run with -W error.
            warnings.filterwarnings("ignore", r"set(Daemon|Name)\(\) is deprecated", DeprecationWarning)
            port.open()
    except (serial.SerialException, OSError, ValueError) as exc:
        if port is not None:
            with contextlib.suppress(serial.SerialException, OSError):
                port.close()
        raise ConsoleError(
            f"console of {board_id}: {access.url} cannot be opened: {exc}; is it plugged in, does somebody else use "
            "it, and is 'console' right in the lab file?"
        ) from exc
    return port
