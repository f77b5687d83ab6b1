"""The link to a board, as everybody above sees it: run a command, or open a channel to a program.

Rules that every implementation keeps (tests/contract/test_transport.py):

- Every operation has a deadline. When it expires, the program and everything that it started are dead on the board
  before `DeadlineExceeded` is raised; when the link is dead too, the error says so and still comes in bounded time.
- A disconnect never looks like an end of file. ``b""`` from `Channel.receive` means that the far side has ended its
  output and that its exit status is known; anything else is `LinkLost`.
- `Transport.run` and `Transport.open` may be called from several threads at once. One channel is for one receiving
  thread and one sending thread; both may work at the same time.
"""

from __future__ import annotations

from typing import Protocol

from pytest_edgehil.board.command import Command, Outcome

SIGNALLED = 255
"""Exit status when the leader of a program was itself killed and the server told no number; `ssh` says the same."""

SLICE_BYTES = 32_704
"""Largest slice that goes into one SSH packet of 32 KiB together with its header; bigger writes split badly."""

SEND_TIMEOUT_S = 60.0
"""What `Channel.send` is given unless it is told otherwise: enough for 1 MiB on a link of 20 kB/s."""


class Channel(Protocol):
    """A running program: bytes to its standard input, bytes from its standard output."""

    def send(self, data: bytes | memoryview, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Sends all of `data` to the program's standard input; blocks while the program does not read.

        Raises:
            DeadlineExceeded: it was not all taken within `timeout_s`; the program has been killed.
            LinkLost: the connection broke off, or the program has ended or closed its input (then `wait` tells how).
        """

    def receive(self, max_bytes: int, timeout_s: float) -> bytes:
        """Returns what the program wrote next, at least one byte, at most `max_bytes`; ``b""`` at its end.

        Raises:
            DeadlineExceeded: nothing came within `timeout_s`; the program has been killed.
            LinkLost: the connection broke off before the program ended.
        """

    def close_input(self) -> None:
        """Ends the program's standard input; it reads end of file."""

    def wait(self, timeout_s: float) -> int:
        """Waits for the program to end; output that nobody has received is thrown away.

        Returns:
            Its exit status, 128 + n when signal n ended it; SIGNALLED when whatever had started it was killed too.

        Raises:
            DeadlineExceeded: it did not end within `timeout_s`; it has been killed.
            LinkLost: the connection broke off before the program ended.
        """

    def close(self) -> None:
        """Ends the channel; a program that still runs is killed. May be called again."""

    @property
    def stderr_tail(self) -> str:
        """The last few KiB that the program wrote to standard error so far."""


class Transport(Protocol):
    """A link to one board."""

    def run(self, command: Command) -> Outcome:
        """Runs a program to its end.

        Raises:
            DeadlineExceeded: it took longer than `Command.timeout_s`; it and its children have been killed.
            LinkLost: the connection broke off.
        """

    def open(self, argv: tuple[str, ...], timeout_s: float, *, prelude: str = "") -> Channel:
        """Starts a program and returns a channel to it; `timeout_s` is for the start alone.

        What a `prelude` is, `command.Command` says.

        Raises:
            DeadlineExceeded: the board did not start it in time.
            LinkLost: the connection broke off.
        """

    def close(self) -> None:
        """Ends the link and everything that is open on it. May be called again."""
