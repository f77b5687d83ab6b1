"""A board in this process's hands: its lease, its console, its link.

What the fixture ``board`` returns, and what the command line holds while it works on a board.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import BoardError, ConfigError, DeadlineExceeded, LabFileError, LeaseError, LeaseLost
from pytest_edgehil.model.board import Board, EmulatedSpec, Environment
from pytest_edgehil.model.fencing import Bearer, Right
from pytest_edgehil.model.record import BoardRef

if TYPE_CHECKING:
    from pytest_edgehil.board.command import Outcome
    from pytest_edgehil.board.console import Console
    from pytest_edgehil.board.power import Power
    from pytest_edgehil.board.session import BoardSession
    from pytest_edgehil.emulated.farm import RunningBoard as EmulatedBoard
    from pytest_edgehil.emulated.sensors import Sensors
    from pytest_edgehil.lab.health import Checkup
    from pytest_edgehil.lab.inventory import Lab
    from pytest_edgehil.lab.leases import Lease
    from pytest_edgehil.lab.reservation import Reservation, Share
    from pytest_edgehil.virtual.control import VirtualControl
    from pytest_edgehil.virtual.farm import RunningBoard

SIGNALLED = 128
"""Exit status of a program above which it was killed by a signal."""

log = logging.getLogger("edgehil.holding")


class Holding:
    """One leased board, as a test sees it.

    Args:
        lab: the lab that it belongs to.
        reservation: the lease; its heartbeat keeps running until `close`.
        console_log: where the console is written from now until `close`; None: the console is not opened.
    """

    def __init__(self, *, lab: Lab, reservation: Reservation | Share, console_log: Path | None) -> None:
        self._lab = lab
        self._reservation = reservation
        self._console_log = console_log
        self._running: RunningBoard | None = None
        self._emulated: EmulatedBoard | None = None
        self._session: BoardSession | None = None
        self._console: Console | None = None
        self._board = reservation.boards[0]
        self._broken: BoardError | None = None
        self._right = Right(
            bearer=Bearer(token=self.token, holder=self.holder), check=self.check_now, left_s=reservation.left_s
        )

    # --- what a test may ask -------------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """The board's frozen description."""
        return self._board

    @property
    def id(self) -> str:
        """The board's id in the lab."""
        return self._board.id

    @property
    def cls(self) -> str:
        """The board's class."""
        return self._board.cls

    @property
    def environment(self) -> Environment:
        """What the board really is."""
        return self._board.environment

    @property
    def ref(self) -> BoardRef:
        """What the lab says of the board; `Dut.ref` adds what the board says of itself."""
        return BoardRef(
            id=self.id,
            cls=self.cls,
            environment=self.environment,
            serial="",
            hardware_model="",
            accelerator=None if self._board.accelerator is None else self._board.accelerator.kind,
            timing=self._board.timing,
        )

    @property
    def token(self) -> int:
        """The lease's fencing token."""
        return self._reservation.leases[0].token

    @property
    def holder(self) -> str:
        """Who holds it, as the lab knows us."""
        return self._reservation.leases[0].holder.name

    @property
    def lease(self) -> Lease:
        """The lease, as last renewed."""
        return self._reservation.leases[0]

    @property
    def console(self) -> Console:
        """The serial console, logged since the board was reserved.

        Raises:
            LabFileError: the lab names no console for this board.
        """
        if self._console is None:
            raise LabFileError(
                f"{self._lab.path}: boards.{self.id}: no console is configured; add 'console: <pyserial URL>'"
            )
        return self._console

    @property
    def console_log(self) -> Path | None:
        """The log file of the console, if there is a console."""
        return None if self._console is None else self._console_log

    @property
    def power(self) -> Power:
        """The power switch.

        Raises:
            LabFileError: the lab names no power back-end for this board.
        """
        from pytest_edgehil.board.power import open_power

        if self._board.power is None:
            raise LabFileError(f"{self._lab.path}: boards.{self.id}: no power back-end is configured; add 'power:'")
        return open_power(self._board, right=self._right)

    @property
    def virtual(self) -> VirtualControl:
        """The supervisor of a virtual board: faults, status.

        Raises:
            LabFileError: this is no virtual board.
        """
        if self._running is None:
            raise LabFileError(f"{self._lab.path}: boards.{self.id}: {self.environment} boards have no supervisor")
        return self._running.control

    @property
    def sensors(self) -> Sensors:
        """What an emulated board measures of itself, to be changed while it runs.

        Raises:
            LabFileError: this is no emulated board, or none that was started here.
        """
        if self._emulated is None:
            raise LabFileError(
                f"{self._lab.path}: boards.{self.id}: only the sensors of an emulated board with 'emulated:' can be set"
            )
        return self._emulated.sensors

    @property
    def session(self) -> BoardSession:
        """Link to the board and session with its on-board program; each is opened when it is first asked for."""
        from pytest_edgehil.board.session import BoardSession

        if self._session is None:
            self._session = BoardSession(self._board, token=self.token, holder=self.holder, check=self.check)
        return self._session

    def run(self, *argv: str, timeout_s: float = 30.0) -> Outcome:
        """Run a command on the board.

        Args:
            argv: program and arguments; no shell is in between.
            timeout_s: deadline in seconds; the remote process is killed when it passes.

        Raises:
            LeaseLost: the board is not ours any more.
            Fenced: the board has seen a higher token than ours.
        """
        from pytest_edgehil.board.command import Command

        try:
            outcome = self.session.transport.run(Command(argv=argv, timeout_s=timeout_s))
        except DeadlineExceeded:  # of the command: the board may be as well as ever
            raise
        except BoardError as problem:
            self._broken = problem
            raise
        self._broken = None
        if outcome.exit_status > SIGNALLED:
            self.check_now()  # whoever has leased the board since ends what is left of us
        return outcome

    # --- what the plugin does ------------------------------------------------------------------------

    @property
    def broken(self) -> BoardError | None:
        """Why the last command did not reach the board, also where the test caught that error itself.

        None again as soon as one does, or the test forgets the link: somebody who switches a board off and waits for
        it to come back has to try.
        """
        return self._broken

    def open(self) -> None:
        """Bring the board up as far as it is ours to do: start a virtual or emulated one, open the console."""
        if self._board.environment is Environment.VIRTUAL and self._board.virtual is not None:
            from pytest_edgehil.virtual.farm import board_directory, start

            directory = board_directory(self._lab.state_dir, self.id)
            self._running = start(self._board, directory=directory, for_lease=self._right.bearer)
            self._board = self._running.board
        if self._board.emulated is not None:
            self._emulated = self._started(self._board.emulated)
            self._board = self._emulated.board
        self._open_console()

    def _started(self, spec: EmulatedSpec) -> EmulatedBoard:
        from pytest_edgehil.emulated import farm
        from pytest_edgehil.virtual.farm import board_directory

        directory = board_directory(self._lab.state_dir, self.id)
        running = farm.start(self._board, directory=directory, for_lease=True)
        if spec.clean_for == "test" and not running.owned:
            raise ConfigError(
                f"{self._lab.path}: boards.{self.id}.emulated.clean_for: each test is to have it anew, and somebody "
                f"else runs it (process {running.endpoint.starter_pid}): end it there, or say 'lease'"
            )
        return running

    def _open_console(self) -> None:
        from pytest_edgehil.board.console import Console

        if self._board.console is not None and self._console_log is not None:
            try:
                self._console_log.parent.mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                where = problem.filename or self._console_log.parent
                raise ConfigError(f"--edgehil-report: {where} cannot be written: {problem.strerror}") from problem
            self._console = Console.open(
                self._board.console, log_path=self._console_log, board_id=self.id, check=self.check
            )

    def note_flash(self, label: str, *, seconds: float, sent_bytes: int) -> None:
        """Write down in the lab's books how long a flash took. A book that does not open is no reason to fail."""
        try:
            self._reservation.store.note_flash(self.lease, label=label, seconds=seconds, sent_bytes=sent_bytes)
        except LeaseError as problem:
            log.warning("the flash of %s is not in the lab's books: %s", self.id, problem)

    def check_up(self) -> Checkup:
        """Look at the board afresh: one round trip to its on-board program.

        Raises:
            BoardError: it is not reached, or another one answers under its address.
        """
        from pytest_edgehil.lab.health import Vitals, clock_offset_s, judge

        self.forget_link()
        asked_at_s = time.time()
        told = self.session.client.platform
        answered_at_s = time.time()
        vitals = Vitals(
            serial=told.serial,
            runtimes=told.runtimes,
            accelerator=told.accelerator,
            disk_free_bytes=told.disk_free_bytes,
            temperature_c=told.temperature_c,
            clock_offset_s=None
            if told.time_s is None
            else clock_offset_s(told.time_s, asked_at_s=asked_at_s, answered_at_s=answered_at_s),
        )
        return judge(self._board, vitals, self._lab.health)

    def check(self) -> None:
        """Raise `LeaseLost` if the board is not ours any more, as far as the last heartbeat could tell."""
        self._reservation.check()

    def check_now(self) -> None:
        """Raise `LeaseLost` if the board is not ours any more; asks the lab's books."""
        self._reservation.beat()
        self._reservation.check()

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Tell whatever breaks in here as the loss of the lease, if the lease is lost: the board has not broken then.

        Args:
            what: behind "while", for example "flashing".

        Raises:
            LeaseLost: the board is not ours any more; the message says since when, and whose it is now.
        """
        try:
            yield
            self.check()
        except BoardError as problem:
            lost = problem if isinstance(problem, LeaseLost) else self._lost()
            if lost is None:
                raise
            raise lost.during(what) from problem

    def _lost(self) -> LeaseLost | None:
        try:
            self.check_now()
        except LeaseLost as lost:
            return lost
        return None

    def between_tests(self) -> None:
        """Before the next test: one before it may have rebooted the board, and that is no fault of anybody.

        A board that its lab file wants clean for each test is started anew, as nobody has used it.

        Raises:
            BoardError: it does not start.
        """
        spec = self._board.emulated
        if spec is not None and spec.clean_for == "test":
            self._end_what_runs()
            self.open()
        elif self._session is not None:
            self._session.drop_if_dead()

    def _end_what_runs(self) -> None:
        self.forget_link()
        console, self._console = self._console, None
        if console is not None:
            console.close()
        emulated, self._emulated = self._emulated, None
        if emulated is not None:
            emulated.stop()

    def forget_link(self) -> None:
        """Close the link; the next use opens a new one."""
        session, self._session, self._broken = self._session, None, None
        if session is not None:
            session.close()

    def crash_reason(self) -> str | None:
        """What the console says of a crash, or None."""
        return None if self._console is None else self._console.crash_reason()

    def close(self) -> None:
        """Let go of everything, the lease last and in any case. Safe to call twice."""
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._give_back)
            if self._running is not None:
                last_first.callback(self._running.stop)
            if self._emulated is not None:
                last_first.callback(self._emulated.stop)
            if self._console is not None:
                last_first.callback(self._console.close)
            last_first.callback(self.forget_link)

    def _give_back(self) -> None:
        try:
            self._reservation.release()
        except BoardError as problem:
            # the lease expires by itself; the next holder gets a higher token, so nothing can go wrong
            log.warning("the lease on %s could not be given back: %s", self.id, problem)
