"""One emulated board for all tests that can put it back: the start of one, and of the program on it, is most of a test.

A session on a board that nobody has used costs its program, compiled, and the import of a runtime: fifteen seconds of
a core, many times what a test does with it. What a test leaves behind (a slot, a clean file system, a temperature) it
puts back itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from support.emulated import START_S, emulated_board, image_directory

from pytest_edgehil.board.command import Command
from pytest_edgehil.board.console import Console
from pytest_edgehil.board.dut import Dut
from pytest_edgehil.board.power import open_power
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.emulated.farm import RunningBoard, start
from pytest_edgehil.model.artifact import Artifact, Combo
from pytest_edgehil.virtual.farm import board_directory

COMMAND_S = 300.0
BOOT_S = 600.0
HOME = "/data/edgehil"
LAB = "emulated"


@dataclasses.dataclass(slots=True, kw_only=True)
class Bench:
    """A board with its console and its power switch, and a session on it.

    Args:
        state: the EDGEHIL_STATE_DIR in which a lab of the name `LAB` finds this board running.
    """

    running: RunningBoard
    place: Path
    state: Path
    boot_id: str | None = None
    _open: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)
    _console: Console | None = None
    _session: BoardSession | None = None

    @property
    def console(self) -> Console:
        """Its console, which QEMU gives to one at a time."""
        if self._console is None:
            board = self.running.board
            assert board.console is not None
            console = Console.open(board.console, log_path=self.place / "console.log", board_id=board.id)
            self._console = self._open.enter_context(contextlib.closing(console))
        return self._console

    @property
    def session(self) -> BoardSession:
        """A session under a token above those of labs that have had the board: they count milliseconds, too."""
        if self._session is None:
            token = time.time_ns() // 10**6
            self._session = BoardSession(self.running.board, token=token, holder="test")
            self._open.callback(self._session.close)
        return self._session

    def lab_file(self) -> str:
        """Of a lab that finds this board running in our `state`."""
        board = self.running.board
        assert board.emulated is not None
        emulated = f"{{image: {board.emulated.image}, serial: {board.emulated.serial}}}"
        return (
            f"lab: {LAB}\nlease_expiry: 300 s\nboards:\n"
            f"  {board.id}: {{class: {board.cls}, environment: emulated, timing: {board.timing.value}, "
            f"power: {{backend: qmp}}, home: {HOME}, emulated: {emulated}}}\n"
        )

    def leave(self) -> None:
        """Close console and session, for somebody else; they are opened again when they are asked for."""
        self._open.close()
        self._console = self._session = None

    def dut(self, model: Artifact) -> Dut:
        """With that model, loaded."""
        power = open_power(self.running.board)
        dut = Dut.open(self.session, combo=Combo(model=model), console=self.console, power=power, boot_timeout_s=BOOT_S)
        self.boot_id = self.session.client.hello.boot_id
        return dut

    def shell(self, script: str) -> str:
        """What a script prints there, which must end well."""
        outcome = self.session.transport.run(Command(argv=("sh", "-c", script), timeout_s=COMMAND_S))
        assert outcome.exit_status == 0, outcome.stderr
        return outcome.stdout.decode()

    def happens_soon(self, script: str) -> None:
        """Something that happens a second from now, whatever we do meanwhile."""
        self.shell(f"(sleep 1; {script}) </dev/null >/dev/null 2>&1 &")

    def comes_back(self, combo: Combo) -> None:
        """The board has rebooted, and is on this combo and in its slot."""
        self.session.renew(old_boot_id=self.boot_id, timeout_s=BOOT_S)
        self.is_whole(combo)

    def is_whole(self, combo: Combo) -> None:
        """The board says that it is on this combo, in slot A, and what is there are its bytes."""
        status = self.session.client.status()
        assert dict(status.combo) == combo.digests
        assert (status.firmware.partition, status.firmware.default_partition) == (2, 2)
        for artifact in combo.artifacts:
            (file,) = artifact.manifest.files
            said = self.shell(f"sha256sum {self.session.board.home}/current/{artifact.manifest.track}/{file.path}")
            assert f"sha256:{said.split()[0]}" == file.digest


def settle(session: BoardSession) -> None:
    """The first session on a board, however slow this host is; later ones find program and runtimes known there."""
    session.renew(old_boot_id=None, timeout_s=BOOT_S)
    assert session.client.platform.machine == "aarch64"


@contextlib.contextmanager
def open_bench(place: Path, *, icount: bool = False) -> Iterator[Bench]:
    """Start the board; when this is left, it is gone.

    Args:
        place: for its files.
        icount: does it count instructions?
    """
    board = dataclasses.replace(emulated_board(image_directory(), icount=icount), home=HOME)
    state = place / "state"
    with start(board, directory=board_directory(state / "labs" / LAB, board.id), wait_s=START_S) as running:
        bench = Bench(running=running, place=place, state=state)
        try:
            settle(bench.session)
            yield bench
        finally:
            bench.leave()
