"""Detached measurements as a session sees them: start one, read what it has measured, make an end of it.

There is at most one at a time. Its files::

    ~/.edgehil/jobs/<name>/
      request.json    what to do: model, seconds, token, …
      items           what to feed, as ``stage`` frames
      spool.<number>  what it has measured (see `spool`)
      attended        when the host was here last, and how far it had read
      cancel          it shall end
      alive           locked as long as its process lives; holds the process id

A session that begins under the same fencing token (the host comes back after its link was lost) finds it going on. A
session under a higher one ends it first, and so does every other use of the board (`MAY_RUN_BESIDE`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import spool, tensors
from .durable import write_all
from .frames import Blob, Message, encode
from .home import Home, remove
from .problem import Problem, storage

MAY_RUN_BESIDE = frozenset({"status", "attest", "job-stage", "job-start", "job-read", "job-cancel"})
READ_BYTES = 2**20
LEASH = "EDGEHIL_RUN"
"""Programs that a session starts are found and killed by this variable; a detached one must outlive its session."""
_NAME = re.compile(r"[0-9a-f]{16}")
_END_S = 15.0


class Jobs:
    """See above.

    Args:
        home: our directory on the board.
        token: fencing token of this session.
        program: path of this zipapp.
        take_model: ends the loaded model's process and gives its ``digest``, ``runtime``, ``entry`` and ``threads``.
    """

    def __init__(self, home: Home, *, token: int, program: Path, take_model: Callable[[], Message]) -> None:
        self._home = home
        self._token = token
        self._program = program
        self._take_model = take_model
        self._started: subprocess.Popen[bytes] | None = None
        self.operations: dict[str, Callable[[Message, Blob], tuple[Message, Blob]]] = {
            "job-stage": self._stage,
            "job-start": self._start,
            "job-read": self._read,
            "job-cancel": self._cancel,
        }

    @property
    def any(self) -> bool:
        """Is a measurement going on?"""
        return any(_lives(one) for one in self._all())

    def come_in(self) -> None:
        """At the beginning of a session: end what was begun under another token, forget what is dead."""
        for one in self._all():
            try:
                ours = json.loads((one / "request.json").read_bytes())["token"] == self._token
            except (OSError, ValueError, KeyError):
                ours = False
            if not ours:
                self._end(one)

    def end_all(self) -> None:
        """Make an end of every measurement and of its files."""
        for one in self._all():
            self._end(one)

    # --- requests ------------------------------------------------------------------------------------

    def _stage(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        items, append = message.get("items"), message.get("append") is True
        if type(items) is not int or not 1 <= items <= 2**24:
            raise Problem("bad-request", f"items is {items!r}; expected a number of 1 or more")
        tensors.split(message.get("tensors"), blob, items=items)
        head, tail = encode(
            {"op": "stage", "id": 0, "tensors": message["tensors"], "items": items, "append": append}, blob
        )
        path = self._items
        with storage(str(path)):
            path.parent.mkdir(exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
            descriptor = os.open(path, flags, 0o600)
            try:
                for part in (head, tail):
                    write_all(descriptor, memoryview(part).cast("B"))
            finally:
                os.close(descriptor)
        return {"items": items}, b""

    def _start(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        asked = _checked(message)
        if not self._items.is_file():
            raise Problem("bad-request", "nothing is staged to be fed; stage it first")
        for one in self._all():
            self._end(one)
        model = self._take_model()
        name = secrets.token_hex(8)
        directory = self._home.jobs / name
        request = {
            **asked,
            "token": self._token,
            **{key: model[key] for key in ("digest", "runtime", "entry", "threads")},
        }
        with storage(str(directory)):
            directory.mkdir()
            self._items.rename(directory / "items")
            (directory / "request.json").write_text(json.dumps(request))
            self._attend(directory, 0)
            alive = os.open(directory / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(alive, fcntl.LOCK_EX)  # shared with the process that inherits it, and kept by that one alone
            environment = {key: value for key, value in os.environ.items() if key != LEASH}
            self._started = subprocess.Popen(
                [sys.executable, "-S", "-E", str(self._program), "detached", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(alive,),
                env=environment,
                cwd=self._home.root,
            )
            os.pwrite(alive, str(self._started.pid).encode(), 0)
        finally:
            os.close(alive)
        return {"job": name}, b""

    def _read(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        directory = self._directory(message)
        offset, wait_s, least = message.get("offset"), message.get("wait_s", 0.0), message.get("least", 1)
        if type(offset) is not int or offset < 0 or type(least) is not int or not 1 <= least <= READ_BYTES:
            raise Problem("bad-request", f"offset is {offset!r}, least is {least!r}; expected numbers")
        if type(wait_s) not in {int, float} or not 0 <= wait_s <= 60:
            raise Problem("bad-request", f"wait_s is {wait_s!r}; expected 0 … 60")
        self._attend(directory, offset)
        spool.forget(directory, before=offset)
        until, pause_s = time.monotonic() + wait_s, 0.002
        while True:
            lives = _lives(directory)  # before the size: what it wrote last must not be missed
            size = spool.size(directory)
            if size - offset >= least or not lives or time.monotonic() >= until:
                break
            time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
            pause_s = min(2 * pause_s, 0.1)
        if self._started is not None:
            self._started.poll()  # collects it once it is dead
        self._attend(directory, offset)
        data = spool.read(directory, offset=offset, at_most=READ_BYTES)
        return {"offset": offset, "lives": lives, "more": size > offset + len(data)}, data

    def _cancel(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._end(self._directory(message))
        return {}, b""

    # --- inside --------------------------------------------------------------------------------------

    @property
    def _items(self) -> Path:
        return self._home.jobs / "items"

    def _all(self) -> list[Path]:
        try:
            return [path for path in self._home.jobs.iterdir() if path.is_dir()]
        except FileNotFoundError:
            return []

    def _directory(self, message: Message) -> Path:
        name = message.get("job")
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise Problem("bad-request", f"job is {str(name)[:40]!r}; expected the name that starting it gave")
        directory = self._home.jobs / name
        if not directory.is_dir():
            raise Problem("no-job", f"the board has no measurement {name}: it was ended and forgotten")
        return directory

    def _attend(self, directory: Path, offset: int) -> None:
        beside = directory / ".attended"
        with storage(str(directory)):
            beside.write_text(json.dumps({"at_s": time.monotonic(), "offset": offset}))
            beside.replace(directory / "attended")

    def _end(self, directory: Path) -> None:
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(OSError):  # a full disk: then it is killed
            (directory / "cancel").touch()
        while _lives(directory):
            if time.monotonic() > deadline or not (directory / "cancel").exists():
                _kill(directory)
            time.sleep(0.01)
        if self._started is not None and self._started.poll() is not None:
            self._started = None
        remove(directory)


def _lives(directory: Path) -> bool:
    """Does its process live? The kernel gives its lock back when it dies."""
    try:
        descriptor = os.open(directory / "alive", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _kill(directory: Path) -> None:
    """Only while it lives, so that the number is still its own."""
    with contextlib.suppress(OSError, ValueError):
        os.killpg(int((directory / "alive").read_text()), signal.SIGKILL)


def _checked(message: Message) -> dict[str, Any]:
    seconds, unattended_s = message.get("seconds", 0.0), message.get("unattended_s", 600.0)
    warmup, warmup_s = message.get("warmup", 0), message.get("warmup_s", 0.0)
    for name, value in (("seconds", seconds), ("unattended_s", unattended_s)):
        if type(value) not in {int, float} or not 0 < value < 1e7:
            raise Problem("bad-request", f"{name} is {value!r}; expected more than 0")
    if type(warmup) is not int or warmup < 0 or type(warmup_s) not in {int, float} or not 0 <= warmup_s < 1e5:
        raise Problem("bad-request", f"warmup is {warmup!r} within {warmup_s!r} s; expected 0 or more")
    return {
        "seconds": float(seconds),
        "unattended_s": float(unattended_s),
        "warmup": warmup,
        "warmup_s": float(warmup_s),
        "restarts": message.get("restarts") is True,
    }
