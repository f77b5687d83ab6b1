"""Which slot boots with U-Boot: ``BOOT_ORDER`` and ``BOOT_<name>_LEFT`` in its environment, as RAUC keeps them.

The boot script takes the first slot of ``BOOT_ORDER`` that has tries left, takes one of them away, saves the
environment and boots it with ``rauc.slot=<name>`` on the kernel's command line (RAUC's reference script; rauc.slot as
in its documentation, "U-Boot"). When no slot has tries left, it gives them to all and begins anew. Here a slot is

- committed: the first one of ``BOOT_ORDER`` that is not on trial. It has `TRIES` tries; a boot that comes up gives them
  back, by the board's own image or by us (`State.wears`). One that has failed so often is left for the other slot, if
  that is in ``BOOT_ORDER``;
- armed, and on trial once it has booted: named by ``BOOT_TRIAL``, in front, with one try, so that it runs with none
  left and the next boot takes the other one, unless it is committed. The variable is our own, since a committed slot
  may be at its last try, too;
- retired: not in ``BOOT_ORDER`` at all, or a boot script that gives everybody tries would take it.

The environment is read and written with ``fw_printenv`` and ``fw_setenv`` (u-boot-tools or libubootenv). All variables
of one change are set by one script in one write: with a redundant environment, a power cut leaves the old or the new.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence

from ..home import sysroot
from ..problem import Problem
from . import State

TRIES = 3
TRIAL, NONE = "BOOT_TRIAL", "none"
TOOL_TIMEOUT_S = 30.0

Run = Callable[[Sequence[str]], str]
"""Runs a program of the board and returns its standard output."""


class UBoot:
    """A `Chooser`.

    Args:
        names: name in ``BOOT_ORDER`` → partition, of both slots.
        run: how the tools are run.
    """

    def __init__(self, names: Mapping[str, int], *, run: Run | None = None) -> None:
        self._names = dict(names)
        self._run = run or tool

    def state(self) -> State:
        """See `Chooser`."""
        order, left, trial = self._read()
        running = self._running()
        committed = next((name for name in order if name != trial), None)
        default = next((name for name in order if name != trial and left[name] > 0), committed)
        on_trial = running is not None and running == trial and left[running] == 0
        return State(
            running=None if running is None else self._names[running],
            on_trial=on_trial,
            default=None if default is None else self._names[default],
            wears=running in {committed, default} and running is not None and left[running] < TRIES,
        )

    def arm(self, partition: int) -> tuple[str, ...]:
        """See `Chooser`."""
        name, other = self._pair(partition)
        tries = {f"BOOT_{name}_LEFT": "1", f"BOOT_{other}_LEFT": str(TRIES)}
        self._set({"BOOT_ORDER": f"{name} {other}", **tries, TRIAL: name})
        return ()

    def commit(self, partition: int) -> None:
        """See `Chooser`."""
        name, other = self._pair(partition)
        order, _, trial = self._read()
        kept = [other] if other in order and other != trial else []
        self._set({"BOOT_ORDER": " ".join([name, *kept]), f"BOOT_{name}_LEFT": str(TRIES), TRIAL: NONE})

    def retire(self, partition: int) -> None:
        """See `Chooser`."""
        name, other = self._pair(partition)
        tries = {f"BOOT_{name}_LEFT": "0", f"BOOT_{other}_LEFT": str(TRIES)}
        self._set({"BOOT_ORDER": other, **tries, TRIAL: NONE})

    # --- inside --------------------------------------------------------------------------------------

    def _pair(self, partition: int) -> tuple[str, str]:
        found = [name for name, number in self._names.items() if number == partition]
        if not found:
            raise Problem("bad-request", f"partition {partition} is no slot of this board: {self._names}")
        return found[0], next(name for name in self._names if name != found[0])

    def _running(self) -> str | None:
        try:
            line = (sysroot() / "proc/cmdline").read_text(errors="replace")
        except OSError:
            return None
        found = re.findall(r"(?:^|\s)rauc\.slot=(\S+)", line)
        return found[-1] if found and found[-1] in self._names else None

    def _read(self) -> tuple[list[str], dict[str, int], str | None]:
        """``BOOT_ORDER``, the tries that are left, and the slot that is armed or on trial."""
        variables = self._variables()
        order = [name for name in variables.get("BOOT_ORDER", "").split() if name in self._names]
        left = {name: _number(variables.get(f"BOOT_{name}_LEFT", str(TRIES))) for name in self._names}
        trial = variables.get(TRIAL)
        # without the variables the boot script takes the same defaults
        return order or list(self._names), left, trial if trial in self._names else None

    def _variables(self) -> dict[str, str]:
        lines = self._run(["fw_printenv"]).splitlines()
        return {name: value for name, equals, value in (line.partition("=") for line in lines) if equals}

    def _set(self, wanted: Mapping[str, str]) -> None:
        known = self._variables()
        if all(known.get(name) == value for name, value in wanted.items()):
            return
        with tempfile.NamedTemporaryFile("w", prefix="slots-", suffix=".env") as script:
            script.writelines(f"{name}={value}\n" for name, value in wanted.items())
            script.flush()
            self._run(["fw_setenv", "-s", script.name])
        found = self._variables()
        for name, value in wanted.items():
            if found.get(name) != value:
                told = f"{name} is {found.get(name)!r}, expected {value!r}"
                raise Problem("slots-failed", f"U-Boot's environment does not keep what is written: {told}")


def tool(argv: Sequence[str]) -> str:
    """Run one of U-Boot's tools; a login that is not root asks sudo, which must not ask back.

    Raises:
        Problem: ``slots-failed``: it is missing, takes too long or fails.
    """
    sudo = [] if os.geteuid() == 0 or "EDGEHIL_SYSROOT" in os.environ else ["sudo", "-n"]
    try:
        done = subprocess.run(
            [*sudo, *argv],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOOL_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Problem("slots-failed", f"U-Boot's environment cannot be reached with {argv[0]}: {exc}") from exc
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-200:]
        raise Problem("slots-failed", f"{argv[0]} ended with status {done.returncode}: {said or 'it said nothing'}")
    return done.stdout


def _number(text: str) -> int:
    """As U-Boot counts: what is no number is nothing."""
    return int(text) if re.fullmatch(r"[0-9]{1,3}", text.strip()) else 0
