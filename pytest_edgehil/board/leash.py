"""How a program is started on a board so that it can be killed later, together with everything that it started.

An SSH server does not kill a program when its channel or connection ends, and its process number is not told to the
client. So a program runs below a small shell, the *leader*, which carries a random name:

- The leader leads a session of its own (`setsid` unless the SSH server did that already) and has the name in its
  argument vector; its descendants inherit the name in the variable EDGEHIL_RUN. The killer, run over a second channel,
  looks for the session and for the name, so neither a child in another process group nor a daemon in another session
  escapes, and neither does one with a cleared environment. It returns once nothing is left (zombies do not count).
- The leader stays until the program ends and reports a signal as 128 + n, whichever SSH server is there.
- Commands with a deadline also get a limit on the board itself, somewhat beyond the deadline: a program must end even
  if the link or this host is dead by then. A *watchdog*, forked by the leader, sleeps until then beside the program
  and becomes the killer; the leader ends it together with itself.

Each program that has to be loaded before the one that was asked for makes every command later by .5 to 1 ms, so there
is none that can be done without: a login shell that is bash is the leader itself (every other one becomes /bin/sh), the
prelude of a lease (see `fenced`) is lines of the leader, and the watchdog's `sleep` is loaded beside the program.

Needs /bin/sh, grep, and from coreutils and util-linux env, sleep and setsid. Every Linux on a Pi has them.
"""

from __future__ import annotations

import math
import re
import secrets
import shlex

NAME_PREFIX = "edgehil-run-"

# The leader. $@ is the program; what `read` and `[` do costs no process. Field 6 of /proc/PID/stat is the session
# (proc(5)); field 2 is "(sh)" or "(bash)", without blanks. Traps keep a leader alive whose program ends its whole
# process group; a trap, unlike an ignored signal, is not inherited. `exec` in a subshell never runs a builtin, a
# function or an alias, and takes "a=b" for a program. What the shell says of killed children ("Killed") is nobody's
# output, hence descriptor 8. `set` and `unset`: what a start-up file of bash may have left. bash takes 50 ns for a
# character, so nothing is said twice: in EDGEHIL_LEADER a leader that has to be another process finds itself again, and
# EDGEHIL_KILLER is not looked into before the limit has come.
_BEGIN = """
set +eufvx; unset IFS
read -r _ _ _ _ _ eh_session _ </proc/$$/stat
[ "$eh_session" = $$ ] || exec setsid -w /bin/sh -c 'eval "$EDGEHIL_LEADER"' edgehil-run-$eh_name "$@"
eh_killer=$EDGEHIL_KILLER; unset EDGEHIL_LEADER EDGEHIL_KILLER
"""
_RUN = """
EDGEHIL_RUN=edgehil-run-$eh_name; export EDGEHIL_RUN
trap : TERM HUP INT QUIT
exec 8>&2 2>/dev/null
"""
# The watchdog is told by SIGUSR1 that it is all over. The trap comes before the sleep: a watchdog that dies earlier
# leaves no sleep behind. A sleep that somebody else has killed is no reason to kill anything. The killer that it
# becomes spares the leader, which is to tell how the program ended, and neither the session nor the variable may make
# it kill itself.
_WATCHDOG = """
(
  trap '' TERM HUP INT QUIT
  trap 'kill -KILL $! 2>/dev/null; exit 0' USR1
  exec </dev/null >/dev/null 8>&-
  sleep $eh_limit &
  wait $! || exit 0
  trap '' USR1; unset EDGEHIL_RUN
  exec setsid /bin/sh -c "$eh_killer" edgehil-kill $eh_name edgehil-run- $$
) & eh_watchdog=$!
(exec "$@" 2>&8 8>&-); eh_status=$?
kill -USR1 $eh_watchdog
exit $eh_status
"""
_NO_WATCHDOG = """
(exec "$@" 2>&8 8>&-)
exit $?
"""

# The system takes no argument above 128 KiB, and the line is one: longer words than this are in there once, not twice.
_LONGEST_TWICE = 32_768

# $1 is the name without its prefix, and its first character is put into brackets, so that neither this shell nor its
# grep finds itself. Only a process that leads a session may name one: a waiting `setsid -w` has the name too, but
# belongs to the session of the SSH server. The first rounds may come before the program has even been started. $3 is
# a process to be spared, or empty.
_KILLER = """
rest=${1#?} sessions=' ' round=0 seen= spared=$3
pattern="$2[${1%"$rest"}]$rest"
while :; do
  found=
  for file in $(grep -ls -- "$pattern" /proc/[0-9]*/cmdline /proc/[0-9]*/environ); do
    pid=${file#/proc/}; pid=${pid%/*}
    [ "$pid" = "$spared" ] || found="$found $pid"
    read -r line 2>/dev/null <"/proc/$pid/stat" || continue
    set -- ${line##*) }
    [ "$4" = "$pid" ] && case $file in */cmdline) sessions="$sessions$pid ";; esac
  done
  if [ "$sessions" != ' ' ]; then
    for file in /proc/[0-9]*/stat; do
      read -r line 2>/dev/null <"$file" || continue
      set -- ${line##*) }
      case $1 in Z|X) continue;; esac
      case $sessions in *" $4 "*) [ "${line%% *}" = "$spared" ] || found="$found ${line%% *}";; esac
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


def start_line(argv: tuple[str, ...], name: str, *, limit_s: float | None, prelude: str = "") -> str:
    """The line for the board's login shell that runs `argv` on a leash; nothing in `argv` is interpreted by a shell.

    Args:
        argv: program and arguments.
        name: from `new_name`.
        limit_s: the board itself kills the program after this long; None for no such limit.
        prelude: lines of /bin/sh that run before it, see `command.Command`.
    """
    if argv[0].startswith("-"):
        argv = ("env", "--", *argv)  # `exec` would take it for an option of its own
    leader = f"eh_name={name}{_BEGIN}{prelude}{_RUN}"
    if limit_s is None:
        leader += _NO_WATCHDOG
    else:
        leader = f"eh_limit={math.ceil(limit_s)} {leader}{_WATCHDOG}"
    # What is said here outside of quotes is understood by every login shell: bash, sh, zsh and fish.
    begin, words = f"export EDGEHIL_LEADER={shlex.quote(_terse(leader))}; ", shlex.join(argv)
    if limit_s is not None:
        begin = f"export EDGEHIL_KILLER={shlex.quote(_terse(_KILLER))}; {begin}"
    elsewhere = f"""exec /bin/sh -c 'eval "$EDGEHIL_LEADER"' {NAME_PREFIX}{name} {words}"""
    if len(words) > _LONGEST_TWICE:
        return begin + elsewhere
    return f"""{begin}test -n "$BASH_VERSION" || {elsewhere}; set -- {words}; eval "$EDGEHIL_LEADER\""""


def _terse(lines: str) -> str:
    """A script without indentation and empty lines."""
    return re.sub(r"\n\s+", "\n", lines)


def kill_line(name: str) -> str:
    """The line that kills the program of this name and all that it started; ends with 0 when nothing is left of it."""
    return "exec " + shlex.join(("/bin/sh", "-c", _KILLER, "edgehil-kill", name, NAME_PREFIX))
