"""A link whose every program carries the lease: the board refuses to start one under a token that is too low.

The on-board program looks at the token before each request. A plain command (``board.run("dd", …)``) would not: its
holder may have been paused between the look at its lease and the command. So each program is preceded by a *guard*, a
few lines for the shell that starts it on the board (see `command.Command`), which

- refuse when the board has seen a higher token than ours (`Fenced`),
- write ours down when it is the highest so far,
- put EDGEHIL_LEASE into the environment of the program.

A token that is known already costs no process, no write and hardly any time. Programs that were started under lower
tokens are ended when somebody comes in with a higher one (``onboard/fence.py``), and it is by the guard, which is in
the argument vector or the environment of that shell, and by that variable that they are found. Needs flock from
util-linux, and mv and sync from coreutils.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable

from pytest_edgehil.board.command import Command, Outcome
from pytest_edgehil.board.transport import SEND_TIMEOUT_S, Channel, Transport
from pytest_edgehil.board.trouble import next_step
from pytest_edgehil.errors import BoardError, DiskFull, Fenced
from pytest_edgehil.model.fencing import Bearer

ANOTHER = 96
REFUSED = 97
FAILED = 98
_SAYS = "edgehil-fence: "
LAST_WORDS_S = 5.0

# The first line is for whoever looks for guards among the board's processes, whatever quoting it has gone through by
# then: the directory is in hexadecimal digits. What `read` and the patterns see is the one line that is written here or
# by onboard/fence.py. 18 digits are what every shell can compare.
_GUARD = """
: edgehil-fence token=%(token)d home=%(hex)s .
eh_token=%(token)d eh_home=%(home)s eh_line=%(line)s
case $eh_home in /*) ;; *) eh_home=$PWD/$eh_home;; esac
read -r eh_seen 2>/dev/null <"$eh_home/fence"
[ "$eh_seen" = "$eh_line" ] || {
eh_say() { echo "edgehil-fence: $1" >&2; }
eh_look() {
  eh_seen=; read -r eh_seen 2>/dev/null <"$eh_home/fence"; eh_now=0 eh_by=
  [ -n "$eh_seen" ] || return 0
  eh_now=${eh_seen#*'"token": '}; eh_now=${eh_now%%%%[!0-9]*}
  eh_by=${eh_seen#*'"holder": "'}; eh_by=${eh_by%%%%'"'*}
  [ -n "$eh_now" ] && [ ${#eh_now} -le 18 ] || {
    eh_say "the fence file $eh_home/fence cannot be read; restore it"; exit 98
  }
}
eh_look
if [ "$eh_now" -lt "$eh_token" ]; then
  mkdir -p "$eh_home" && exec 9>>"$eh_home/fence.lock" && flock 9 || {
    eh_say "$eh_home/fence.lock cannot be had"; exit 98
  }
  eh_look
  if [ "$eh_now" -lt "$eh_token" ]; then
    eh_beside=$eh_home/.fence.$$.tmp
    printf '%%s' "$eh_line" >"$eh_beside" && sync "$eh_beside" && mv -f "$eh_beside" "$eh_home/fence" &&
      sync "$eh_home" || { rm -f "$eh_beside"; eh_say "$eh_home/fence cannot be written"; exit 98; }
    eh_now=$eh_token
  fi
  exec 9>&-
fi
if [ "$eh_now" -gt "$eh_token" ]; then
  eh_say "token $eh_token is refused: the board has seen token $eh_now of ${eh_by:-another holder}"
  exit 97
fi
}
EDGEHIL_LEASE=$eh_token@$eh_home; export EDGEHIL_LEASE
"""


# The same, for a token that this link has seen the board write down: whatever else is there is left to the whole guard.
_KNOWN = """
: edgehil-fence token=%(token)d home=%(hex)s .
eh_home=%(home)s
case $eh_home in /*) ;; *) eh_home=$PWD/$eh_home;; esac
read -r eh_seen 2>/dev/null <"$eh_home/fence"
[ "$eh_seen" = %(line)s ] || { echo edgehil-fence: another token >&2; exit 96; }
EDGEHIL_LEASE=%(token)d@$eh_home; export EDGEHIL_LEASE
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
        told = {
            "token": bearer.token,
            "hex": home.encode().hex(),
            "home": shlex.quote(home),
            "line": shlex.quote(json.dumps({"token": bearer.token, "holder": bearer.holder})),
        }
        self._guard, self._known_guard = _GUARD % told, _KNOWN % told
        self._known = False

    def run(self, command: Command) -> Outcome:
        """See `transport.Transport.run`.

        Raises:
            Fenced: the board has seen a higher token than ours; nothing was started.
        """
        if self._known:
            outcome = self._link.run(dataclasses.replace(command, prelude=self._known_guard + command.prelude))
            if outcome.exit_status != ANOTHER or outcome.stderr_text != f"{_SAYS}another token":
                return outcome
        outcome = self._link.run(dataclasses.replace(command, prelude=self._guard + command.prelude))
        self._known = outcome.exit_status not in {REFUSED, FAILED}
        if outcome.exit_status in {REFUSED, FAILED}:
            self._refuse(outcome.exit_status, outcome.stderr_text)
        return outcome

    def open(self, argv: tuple[str, ...], timeout_s: float, *, prelude: str = "") -> Channel:
        """See `transport.Transport.open`. A refusal is told by `Channel.receive` and `Channel.wait`."""
        return _FencedChannel(self._link.open(argv, timeout_s, prelude=self._guard + prelude), self._refuse)

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
        kind = DiskFull if "No space left" in said else BoardError
        raise kind(told + next_step(kind, said, board_id=self._board_id))


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
