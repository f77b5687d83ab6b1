"""Virtual boards for tests, reached with plain paramiko and a plain pty: nothing of ours is in between."""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
import tty
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from pytest_edgehil.model.board import Accelerator, Board, Environment, Fault, ThermalModel, VirtualSpec
from pytest_edgehil.virtual.farm import RunningBoard, start
from pytest_edgehil.virtual.journal import JournalLine, read_journal

DEADLINE_S = 90.0


def board(
    board_id: str = "vb-1",
    *,
    tags: tuple[str, ...] = (),
    accelerator: str | None = None,
    faults: tuple[Fault, ...] = (),
    runtimes: tuple[str, ...] = ("onnxruntime",),
    memory_bytes: int = 8 * 2**30,
    thermal: ThermalModel | None = None,
    **spec: object,
) -> Board:
    return Board(
        id=board_id,
        cls="pi5-8gb-hat2",
        environment=Environment.VIRTUAL,
        tags=frozenset(tags),
        accelerator=None if accelerator is None else Accelerator(kind=accelerator),
        virtual=VirtualSpec(
            serial="10000000deadbeef",
            faults=faults,
            runtimes=runtimes,
            memory_bytes=memory_bytes,
            thermal=thermal or ThermalModel(),
            **spec,
        ),
    )


def rebuilt(one: Board, **changes: object) -> Board:
    return replace(one, **changes)


@contextlib.contextmanager
def running(directory: Path, one: Board | None = None) -> Iterator[RunningBoard]:
    with start(one or board(), directory=directory, wait_s=DEADLINE_S) as up:
        yield up


@contextlib.contextmanager
def client(up: RunningBoard, **options: object) -> Iterator[paramiko.SSHClient]:
    """A connection; the board's pinned key is the only one that will do."""
    ssh = up.board.ssh
    kind, blob = ssh.host_key.split()
    one = paramiko.SSHClient()
    one.get_host_keys().add(f"[{ssh.host}]:{ssh.port}", kind, paramiko.Ed25519Key(data=_decoded(blob)))
    try:
        one.connect(
            ssh.host,
            port=ssh.port,
            username=options.pop("username", ssh.user),
            key_filename=str(options.pop("key_path", ssh.key_path)),
            allow_agent=False,
            look_for_keys=False,
            timeout=DEADLINE_S,
            banner_timeout=DEADLINE_S,
            auth_timeout=DEADLINE_S,
            **options,
        )
        yield one
    finally:
        one.close()


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text)


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


def run(one: paramiko.SSHClient, command: str, *, stdin: bytes = b"", timeout_s: float = DEADLINE_S) -> Result:
    channel = one.get_transport().open_session(timeout=timeout_s)
    channel.settimeout(timeout_s)
    channel.exec_command(command)
    if stdin:
        channel.sendall(stdin)
    channel.shutdown_write()
    out, err = channel.makefile("rb").read(), channel.makefile_stderr("rb").read()
    return Result(channel.recv_exit_status(), out.decode(), err.decode())


def run_on(up: RunningBoard, command: str, **options: object) -> Result:
    with client(up) as one:
        return run(one, command, **options)


def eventually(what: Callable[[], object], *, within_s: float = DEADLINE_S) -> object:
    """The first true value of a question that is asked again and again."""
    end = time.monotonic() + within_s
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < end, f"did not come true within {within_s} s: {what}"
        time.sleep(0.02)


def reconnect(up: RunningBoard, command: str = "true") -> Result:
    """Run a command as soon as the board lets us in (again)."""

    def attempt() -> Result | None:
        try:
            return run_on(up, command)
        except (OSError, paramiko.SSHException, EOFError):
            return None

    return eventually(attempt)


def events(up: RunningBoard, event: str) -> list[JournalLine]:
    return [line for line in read_journal(up.layout.journal) if line.event == event]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class Terminal:
    """The other end of a serial console."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._descriptor)
        self.raw = b""

    @property
    def text(self) -> str:
        return self.raw.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str, *, timeout_s: float = DEADLINE_S, start: int = 0) -> re.Match[str]:
        end = time.monotonic() + timeout_s
        while (match := re.compile(pattern).search(self.text, start)) is None:
            left_s = end - time.monotonic()
            assert left_s > 0, f"{pattern!r} did not come within {timeout_s} s; there was: …{self.text[-2000:]!r}"
            self.read(left_s)
        return match

    def read(self, timeout_s: float) -> None:
        if select.select([self._descriptor], [], [], timeout_s)[0]:
            self.raw += os.read(self._descriptor, 65536)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def close(self) -> None:
        os.close(self._descriptor)


@contextlib.contextmanager
def terminal(up: RunningBoard) -> Iterator[Terminal]:
    one = Terminal(up.endpoint.console)
    try:
        yield one
    finally:
        one.close()
