"""A link whose every program carries the lease: the board refuses to start one under a token that is too low.

The on-board program looks at the token before each request. A plain command (``board.run("dd", …)``) would not: its
holder may have been paused between the look at its lease and the command. So each program is started by a *guard*, a
few lines of /bin/sh on the board, which

- refuses when the board has seen a higher token than ours (`Fenced`),
- writes ours down when it is the highest so far,
- puts EDGEHIL_LEASE into the environment and becomes the program.

A token that is known already costs no process and no write. Programs that were started under lower tokens are ended
when somebody comes in with a higher one (``onboard/fence.py``), and it is by the guard's arguments and by that variable
that they are found. Needs flock from util-linux, and mv and sync from coreutils.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

from pytest_edgehil.board.command import Command, Outcome
from pytest_edgehil.board.transport import SEND_TIMEOUT_S, Channel, Transport
from pytest_edgehil.errors import BoardError, DiskFull, Fenced
from pytest_edgehil.model.fencing import Bearer

REFUSED = 97
FAILED = 98
_SAYS = "edgehil-fence: "
LAST_WORDS_S = 5.0

# $2 token, $4 our directory, $6 the line to write, the program behind "--". What `read` and the patterns see is the one
# line that is written here or by onboard/fence.py. 18 digits are what every shell can compare.
_GUARD = """
token=$2 home=$4 line=$6 holder=$8; shift 9
case $home in /*) ;; *) home=$PWD/$home;; esac
say() { echo "edgehil-fence: $1" >&2; }
look() {
  seen=; read -r seen 2>/dev/null <"$home/fence"; now=0 by=
  [ -n "$seen" ] || return 0
  now=${seen#*'"token": '}; now=${now%%[!0-9]*}
  by=${seen#*'"holder": "'}; by=${by%%'"'*}
  [ -n "$now" ] && [ ${#now} -le 18 ] || { say "the fence file $home/fence cannot be read; restore it"; exit 98; }
}
look
if [ "$now" -lt "$token" ]; then
  mkdir -p "$home" && exec 9>>"$home/fence.lock" && flock 9 || { say "$home/fence.lock cannot be had"; exit 98; }
  look
  if [ "$now" -lt "$token" ]; then
    beside=$home/.fence.$$.tmp
    printf '%s' "$line" >"$beside" && sync "$beside" && mv -f "$beside" "$home/fence" && sync "$home" || {
      rm -f "$beside"; say "$home/fence cannot be written"; exit 98
    }
    now=$token
  fi
  exec 9>&-
fi
if [ "$now" -gt "$token" ]; then
  say "token $token is refused: the board has seen token $now of ${by:-another holder}"
  exit 97
fi
EDGEHIL_LEASE=$token@$home; export EDGEHIL_LEASE
exec "$@"
"""


class FencedTransport:
    """A `transport.Transport` over another one, under a lease.

    Args:
        link: the link itself.
        bearer: under which lease.
        home: our directory on the board, see `Board.home`.
        board_id: for messages.
    """

    def __init__(self, link: Transport, bearer: Bearer, *, home: str, board_id: str) -> None:
        self._link = link
        self._board_id = board_id
        line = json.dumps({"token": bearer.token, "holder": bearer.holder})
        self._guard = (
            "/bin/sh", "-c", _GUARD, "edgehil-fence",
            "--token", str(bearer.token), "--home", home, "--line", line, "--holder", bearer.holder, "--",
        )  # fmt: skip

    def run(self, command: Command) -> Outcome:
        """See `transport.Transport.run`.

        Raises:
            Fenced: the board has seen a higher token than ours; nothing was started.
        """
        guarded = dataclasses.replace(command, argv=(*self._guard, *command.argv), label=str(command))
        outcome = self._link.run(guarded)
        if outcome.exit_status in {REFUSED, FAILED}:
            self._refuse(outcome.exit_status, outcome.stderr_text)
        return outcome

    def open(self, argv: tuple[str, ...], timeout_s: float) -> Channel:
        """See `transport.Transport.open`. A refusal is told by `Channel.receive` and `Channel.wait`."""
        return _FencedChannel(self._link.open((*self._guard, *argv), timeout_s), self._refuse)

    def close(self) -> None:
        """See `transport.Transport.close`."""
        self._link.close()

    def _refuse(self, status: int, said: str) -> None:
        """Raise what the guard complains of, if it is the guard that complains."""
        line = said.strip().rpartition("\n")[2]
        if not line.startswith(_SAYS):
            return
        told = f"{self._board_id}: {line.removeprefix(_SAYS)}"
        if status == REFUSED:
            raise Fenced(told)
        raise DiskFull(told) if "No space left" in said else BoardError(told)


class _FencedChannel:
    """A channel to a program behind a guard."""

    def __init__(self, channel: Channel, refuse: Callable[[int, str], None]) -> None:
        self._channel = channel
        self._refuse = refuse

    def send(self, data: bytes | memoryview, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """See `transport.Channel.send`."""
        self._channel.send(data, timeout_s)

    def receive(self, max_bytes: int, timeout_s: float) -> bytes:
        """See `transport.Channel.receive`.

        Raises:
            Fenced: the board has seen a higher token than ours; nothing was started.
        """
        data = self._channel.receive(max_bytes, timeout_s)
        if not data:
            self.wait(LAST_WORDS_S)
        return data

    def close_input(self) -> None:
        """See `transport.Channel.close_input`."""
        self._channel.close_input()

    def wait(self, timeout_s: float) -> int:
        """See `transport.Channel.wait`. Raises as `receive`."""
        status = self._channel.wait(timeout_s)
        if status in {REFUSED, FAILED}:
            self._refuse(status, self._channel.stderr_tail)
        return status

    def close(self) -> None:
        """See `transport.Channel.close`."""
        self._channel.close()

    @property
    def stderr_tail(self) -> str:
        """See `transport.Channel.stderr_tail`."""
        return self._channel.stderr_tail
