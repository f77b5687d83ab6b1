"""A link and a session on one leased board, and how to get both again after a reboot that we asked for.

Whoever opened the link closes it: with a `connect` of the caller, the links are the caller's, and it is asked for a
fresh one when the board comes back; without one the links are opened and closed here.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from pytest_edgehil.board.conversation import COUNTED_SILENCE_S
from pytest_edgehil.board.fenced import FencedTransport
from pytest_edgehil.board.onboard_client import OnboardClient
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.errors import BoardError, ConnectFailed, DeadlineExceeded, Fenced, HostKeyMismatch, LabFileError
from pytest_edgehil.model.board import Board, Environment, Timing
from pytest_edgehil.model.fencing import Bearer

Connect = Callable[[float], Transport]
"""Opens a fresh link to the board within so many seconds."""

CONNECT_S = 30.0
START_S = 180.0
RETRY_S = 0.5

log = logging.getLogger("edgehil.board.session")


class BoardSession:
    """Link and client of one board.

    Args:
        board: which.
        token: fencing token of the lease.
        holder: who holds it.
        connect: how to open a link; None: over SSH as the board's description says, and it is closed here.
        check: raises `LeaseLost` when the board is not ours any more; asked before everything that is done with it.
        clock: monotonic seconds.
        wait: sleeps so many seconds.
    """

    def __init__(
        self,
        board: Board,
        *,
        token: int,
        holder: str,
        connect: Connect | None = None,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.board = board
        self._token = token
        self._holder = holder
        self.check = check
        self._owns_links = connect is None
        self._connect = connect if connect is not None else self._ssh
        self._clock = clock
        self._wait = wait
        self._transport: Transport | None = None
        self._client: OnboardClient | None = None
        self.rate_bytes_per_s: float | None = None
        """What the link carried when that was last measured."""

    @property
    def token(self) -> int:
        """The fencing token."""
        return self._token

    @property
    def holder(self) -> str:
        """Who holds the lease."""
        return self._holder

    @property
    def transport(self) -> Transport:
        """The link, under our lease; opened when it is first asked for."""
        self.check()
        if self._transport is None:
            self._transport = self._fenced(CONNECT_S)
        return self._transport

    @property
    def client(self) -> OnboardClient:
        """The session with the on-board program; started when it is first asked for."""
        self.check()
        if self._client is None:
            self._client = self._start(self.transport, START_S)
        return self._client

    def renew(self, *, old_boot_id: str | None, timeout_s: float) -> OnboardClient:
        """Wait until the board has rebooted and a session works again.

        Args:
            old_boot_id: the kernel's boot id before; an answer with the same one comes from before the reboot.
            timeout_s: give up after so long.

        Raises:
            DeadlineExceeded: it did not come back in time; the cause is the last failure.
        """
        deadline = self._clock() + timeout_s
        last: BoardError | None = None
        self.drop()
        while (left := deadline - self._clock()) > 0:
            self.check()
            try:
                self._transport = self._fenced(min(left, CONNECT_S))
                self._client = self._start(self._transport, min(left, START_S))
                boot_id = self._client.hello.boot_id
                if boot_id is None or boot_id != old_boot_id:
                    return self._client
                last = ConnectFailed(f"{self.board.id}: the board has not rebooted yet (boot id {boot_id})")
            except (Fenced, HostKeyMismatch):
                raise  # waiting does not help
            except BoardError as problem:
                last = problem
            self.drop()
            self._wait(RETRY_S)
        raise DeadlineExceeded(f"{self.board.id}: the board did not come back within {timeout_s:g} s: {last}") from last

    def drop_if_dead(self) -> None:
        """Forget link and client unless they answer: the board may have rebooted since they were last used."""
        if self._client is not None:
            try:
                self._client.status()
            except BoardError as problem:
                log.debug("%s: opening a new link: %s", self.board.id, problem)
                self.drop()

    def drop(self) -> None:
        """Forget link and client."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        transport, self._transport = self._transport, None
        if transport is not None and self._owns_links:
            with contextlib.suppress(BoardError):  # it may be dead already: that is why it is dropped
                transport.close()

    def close(self) -> None:
        """End the session, and the link if it is ours. Safe to call twice."""
        self.drop()

    def _start(self, transport: Transport, timeout_s: float) -> OnboardClient:
        client = OnboardClient.start(
            transport,
            board_id=self.board.id,
            home=self.board.home,
            token=self._token,
            holder=self._holder,
            slots=self.board.slots,
            timeout_s=timeout_s,
            silence_s=None if self.board.timing is Timing.WALL else COUNTED_SILENCE_S,
        )
        if client.hello.timing is not None and self.board.environment is Environment.HARDWARE:
            client.close()
            raise LabFileError(
                f"boards.{self.board.id}.environment: the lab says hardware, but the board that answers is emulated "
                "(it has /proc/device-tree/edgehil-timing): say environment: emulated"
            )
        if client.hello.imitated and self.board.environment is Environment.HARDWARE:
            client.close()
            raise LabFileError(
                f"boards.{self.board.id}.environment: the lab says hardware, but the board reads its sensors and its "
                "identity below a directory of another system: it imitates a board; say environment: virtual"
            )
        told = client.hello.timing
        if told is not None and told != self.board.timing.value:
            client.close()
            raise LabFileError(
                f"boards.{self.board.id}.timing: the lab says {self.board.timing.value}, but the board that answers "
                f"was started with timing {told}: what it measures would be taken for something else; end it, or say "
                f"timing: {told}"
            )
        return client

    def _fenced(self, timeout_s: float) -> Transport:
        bearer = Bearer(token=self._token, holder=self._holder)
        return FencedTransport(self._connect(timeout_s), bearer, home=self.board.home, board_id=self.board.id)

    def _ssh(self, timeout_s: float) -> Transport:
        from pytest_edgehil.board.ssh import connect

        if self.board.ssh is None:
            raise ConnectFailed(
                f"{self.board.id}: the board has no SSH access yet: start it or give it 'ssh:' in lab.yaml"
            )
        return connect(self.board.ssh, board_id=self.board.id, timeout_s=timeout_s)
