"""How a program is started on a board so that it can be killed later, together with everything that it started.

An SSH server does not kill a program when its channel or connection ends, and its process number is not told to the
client. So a program runs below a small shell, the *leader*, which carries a random name:

- The leader leads a session of its own (`setsid` unless the SSH server did that already) and has the name in its
  argument vector; its descendants inherit the name in the variable EDGEHIL_RUN. The killer, run over a second channel,
  looks for the session and for the name, so neither a child in another process group nor a daemon in another session
  escapes, and neither does one with a cleared environment. It returns once nothing is left (zombies do not count).
- The leader stays until the program ends and reports a signal as 128 + n, whichever SSH server is there.
- Commands with a deadline also get a limit on the board itself, by coreutils' `timeout`, somewhat beyond the deadline:
  a program must end even if the link or this host is dead by then.

Needs /bin/sh, grep, and from coreutils and util-linux env, sleep, timeout and setsid. Every Linux on a Pi has them.
"""

from __future__ import annotations

import math
import secrets
import shlex

NAME_PREFIX = "edgehil-run-"

# `read` and `[` are built into the shell: finding out whether we lead a session costs no process. Field 6 of
# /proc/PID/stat is the session (proc(5)); field 2 is "(sh)", without blanks. The closing `exit $?` keeps the shell from
# replacing itself by the program, which would take the name out of the argument vector.
_RUN = 'EDGEHIL_RUN=$0; export EDGEHIL_RUN; "$@"; exit $?'
_LEADER = (
    "read -r _ _ _ _ _ session _ </proc/$$/stat; "
    f'[ "$session" = $$ ] || exec setsid -w /bin/sh -c {shlex.quote(_RUN)} "$0" "$@"; {_RUN}'
)

# $1 is the name without its prefix, and its first character is put into brackets, so that neither this shell nor its
# grep finds itself. Only a process that leads a session may name one: a waiting `setsid -w` has the name too, but
# belongs to the session of the SSH server. The first rounds may come before the program has even been started.
_KILLER = """
rest=${1#?} sessions=' ' round=0 seen=
pattern="$2[${1%"$rest"}]$rest"
while :; do
  found=
  for file in $(grep -ls -- "$pattern" /proc/[0-9]*/cmdline /proc/[0-9]*/environ); do
    pid=${file#/proc/}; pid=${pid%/*}; found="$found $pid"
    read -r line 2>/dev/null <"/proc/$pid/stat" || continue
    set -- ${line##*) }
    [ "$4" = "$pid" ] && case $file in */cmdline) sessions="$sessions$pid ";; esac
  done
  if [ "$sessions" != ' ' ]; then
    for file in /proc/[0-9]*/stat; do
      read -r line 2>/dev/null <"$file" || continue
      set -- ${line##*) }
      case $1 in Z|X) continue;; esac
      case $sessions in *" $4 "*) found="$found ${line%% *}";; esac
    done
  fi
  round=$((round + 1))
  if [ -z "$found" ]; then
    [ -n "$seen" ] || [ $round -ge 5 ] && exit 0
  else
    seen=1
    kill -KILL $found 2>/dev/null
    [ $round -lt 60 ] || { echo "still alive:$found"; exit 1; }
  fi
  sleep 0.05
done
"""


def new_name() -> str:
    """A name that no other program on any board has."""
    return secrets.token_hex(8)


def start_line(argv: tuple[str, ...], name: str, *, limit_s: float | None) -> str:
    """The line for the board's login shell that runs `argv` on a leash; nothing in `argv` is interpreted by a shell.

    Args:
        argv: program and arguments.
        name: from `new_name`.
        limit_s: the board itself kills the program after this long; None for no such limit.
    """
    runner: tuple[str, ...]
    if limit_s is None:
        # `env` keeps "exit", "cd" and the like from being the leader's own; it takes what holds "=" for a variable.
        runner = ("env",) if "=" not in argv[0] else ("timeout", "0")
    else:
        runner = ("timeout", "-s", "KILL", str(math.ceil(limit_s)))
    return "exec " + shlex.join(("/bin/sh", "-c", _LEADER, NAME_PREFIX + name, *runner, *argv))


def kill_line(name: str) -> str:
    """The line that kills the program of this name and all that it started; ends with 0 when nothing is left of it."""
    return "exec " + shlex.join(("/bin/sh", "-c", _KILLER, "edgehil-kill", name, NAME_PREFIX))
