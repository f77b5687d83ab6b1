"""What is asked of a board and what came of it: a command is a description, an outcome a result.

The argument vector is never interpreted by a shell; whoever wants one says ``("sh", "-c", "…")``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_edgehil.board.redact import redact, show_argv, tail
from pytest_edgehil.errors import BoardError


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One program to run on a board.

    Args:
        argv: program and arguments; passed on as they are, whatever characters they hold.
        timeout_s: the longest that the whole of it may take; on expiry its processes are killed on the board.
        stdin: what the program reads, followed by end of file.
        secrets: values that must not be seen in logs and errors; each has at least three characters.
        prelude: lines of /bin/sh that run on the board before the program, in the shell that starts it, with stdin,
            standard error and working directory of the program. They may export variables for it, `exit` instead of
            starting it, and take names that begin with ``eh_``; the positional parameters are not theirs.
    """

    argv: tuple[str, ...]
    timeout_s: float
    stdin: bytes = field(default=b"", repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    prelude: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        check_argv(self.argv)
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; a command needs a deadline above 0 s")
        redact("", self.secrets)  # refuses a secret that cannot be hidden now, not while an error is being told

    def __str__(self) -> str:
        return show_argv(self.argv, self.secrets)

    def __repr__(self) -> str:
        # Not the generated one: it would show argv with its secrets, also in pytest's tracebacks.
        return f"Command({self}, timeout_s={self.timeout_s:g}, stdin={len(self.stdin)} B)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a command ended. A non-zero status is an outcome, not an error: see `require_success`.

    Args:
        exit_status: 0–255; 128 + n when signal n ended the program.
        stdout: everything it wrote there.
        stderr: everything it wrote there.
        duration_s: from asking to having everything, on the host's clock.
    """

    exit_status: int
    stdout: bytes = field(repr=False)
    stderr: bytes = field(repr=False)
    duration_s: float

    @property
    def stdout_text(self) -> str:
        """Standard output as UTF-8 (undecodable bytes replaced), without white space around it."""
        return self.stdout.decode("utf-8", "replace").strip()

    @property
    def stderr_text(self) -> str:
        """Standard error as UTF-8 (undecodable bytes replaced), without white space around it."""
        return self.stderr.decode("utf-8", "replace").strip()


def check_argv(argv: tuple[str, ...]) -> None:
    """Refuses an argument vector that no system can run.

    Raises:
        ValueError: it is empty, or an argument holds a NUL character.
    """
    if not argv or not argv[0]:
        raise ValueError("argv is empty; a command needs a program to run")
    for position, argument in enumerate(argv):
        if "\0" in argument:
            raise ValueError(f"argv[{position}] holds a NUL character, which no program can be given")


def preceded(argv: tuple[str, ...], prelude: str) -> tuple[str, ...]:
    """An argument vector that runs a prelude (see `Command`) and then `argv`, where no shell starts programs anyway.

    >>> preceded(("true",), "")
    ('true',)
    """
    return ("/bin/sh", "-c", f'{prelude}\nexec "$@"', "edgehil-prelude", *argv) if prelude else argv


def require_success(command: Command, outcome: Outcome, *, board_id: str) -> Outcome:
    """Returns the outcome of a command that must have ended with status 0.

    Raises:
        BoardError: it did not; the message carries the end of its standard error.
    """
    if outcome.exit_status == 0:
        return outcome
    said = tail(outcome.stderr, command.secrets) or tail(outcome.stdout, command.secrets) or "nothing"
    raise BoardError(
        f"{command} on {board_id} ended with exit status {outcome.exit_status}, expected 0; it said: {said}"
    )
