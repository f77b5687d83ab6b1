"""Arming faults, noticing when they are due, and making them happen. What each is: see `faults`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Protocol

from pytest_edgehil.model.board import Fault
from pytest_edgehil.virtual.faults import LEVELS, check_fault, option
from pytest_edgehil.virtual.journal import Journal
from pytest_edgehil.virtual.link import Link, Tripwire, Wire
from pytest_edgehil.virtual.processes import ProcessFacts
from pytest_edgehil.virtual.table import ProcessTable
from pytest_edgehil.virtual.thermal import Die


class Victim(Protocol):
    """What a fault does things to: the machine."""

    link: Link
    table: ProcessTable
    die: Die
    link_down: bool

    @property
    def powered(self) -> bool:
        """Whether the power is on."""

    @property
    def kernel_runs(self) -> bool:
        """Whether there is a kernel that could panic."""

    def cut(self, *, reason: str) -> None:
        """Take the power away, at once."""

    async def power_on(self) -> None:
        """Switch the power on."""

    def panic(self, *, reboot_s: float) -> None:
        """Panic."""

    async def listen(self) -> None:
        """Accept connections again."""

    def kill_for_memory(self, victim: ProcessFacts) -> None:
        """Kill a process for want of memory."""

    def later(self, work: Coroutine[None, None, None]) -> None:
        """Run a coroutine in the background."""


@dataclass(slots=True, eq=False)
class _Armed:
    fault: Fault
    timer: asyncio.TimerHandle | None = None
    tripwire: Tripwire | None = None
    due: bool = False  # only waits for something to hit
    release: list[asyncio.TimerHandle] = field(default_factory=list)


class Injector:
    """The faults of one board."""

    def __init__(self, victim: Victim, journal: Journal) -> None:
        self._victim = victim
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._armed: list[_Armed] = []
        self._levels: dict[str, Fault] = {}
        self._recoveries: dict[asyncio.TimerHandle, Callable[[], None]] = {}

    @property
    def armed(self) -> tuple[str, ...]:
        """Kinds that have not triggered yet."""
        return tuple(armed.fault.kind for armed in self._armed)

    @property
    def levels(self) -> tuple[str, ...]:
        """Kinds that last."""
        return tuple(self._levels)

    def level(self, kind: str) -> Fault | None:
        """The fault of this kind that lasts, if it does."""
        return self._levels.get(kind)

    def arm(self, fault: Fault) -> None:
        """Arm a fault; one that is due at once happens before this returns.

        Raises:
            ConfigError: the fault is none that a virtual board can do.
        """
        armed = _Armed(check_fault(fault))
        self._armed.append(armed)
        self._journal.write(
            "fault-armed",
            kind=fault.kind,
            after_bytes=fault.after_bytes,
            after_s=fault.after_s,
            **{name: float(value) for name, value in fault.options.items()},
        )
        if fault.after_s:
            armed.timer = self._loop.call_later(fault.after_s, self._time_is_up, armed)
        else:
            self._time_is_up(armed)

    def clear(self) -> None:
        """Disarm everything, end every level and everything that a fault had left behind."""
        for armed in tuple(self._armed):
            self._disarm(armed)
        for handle, recover in tuple(self._recoveries.items()):
            handle.cancel()
            recover()
        self._recoveries.clear()
        for kind in tuple(self._levels):
            del self._levels[kind]
            self._end_level(kind)
            self._journal.write("fault-ended", kind=kind)
        self._journal.write("faults-cleared")

    def tick(self) -> None:
        """Look after faults that wait for something to hit; some times a second."""
        for armed in tuple(self._armed):
            if armed.due:
                self._try(armed)
        if "disk-full" in self._levels:
            self._victim.table.relimit()

    # --- when

    def _time_is_up(self, armed: _Armed) -> None:
        armed.timer = None
        after_bytes = armed.fault.after_bytes
        if after_bytes is None:
            self._try(armed)
            return
        armed.tripwire = Tripwire(after_bytes, lambda: self._try(armed))
        self._victim.link.tripwires.append(armed.tripwire)

    def _try(self, armed: _Armed) -> None:
        """Trigger, unless there is nothing to hit yet."""
        victim, kind = self._victim, armed.fault.kind
        armed.due = True
        if kind in {"link-cut", "link-stall"} and not victim.link.wires:
            armed.due = False
            armed.tripwire = Tripwire(0, lambda: self._try(armed))  # the first byte of the next connection
            victim.link.tripwires.append(armed.tripwire)
            return
        if (kind == "panic" and not victim.kernel_runs) or (kind == "power-cut" and not victim.powered):
            return
        if kind == "out-of-memory":
            biggest = max(victim.table.alive(), key=lambda facts: facts.rss_bytes, default=None)
            if biggest is None or biggest.rss_bytes < option(armed.fault, "min_rss_bytes"):
                return
            self._trigger(armed)
            victim.kill_for_memory(biggest)
            return
        self._trigger(armed)
        if kind in LEVELS:
            self._levels[kind] = armed.fault
            self._begin_level(armed.fault)
        else:
            self._strike(armed.fault)

    def _trigger(self, armed: _Armed) -> None:
        self._disarm(armed)
        self._journal.write("fault-triggered", kind=armed.fault.kind, bytes_in=self._victim.link.bytes_in)

    def _disarm(self, armed: _Armed) -> None:
        if armed.timer is not None:
            armed.timer.cancel()
        if armed.tripwire is not None and armed.tripwire in self._victim.link.tripwires:
            self._victim.link.tripwires.remove(armed.tripwire)
        if armed in self._armed:
            self._armed.remove(armed)

    # --- what

    def _strike(self, fault: Fault) -> None:
        victim = self._victim
        if fault.kind == "link-cut":
            victim.link.reset()
            down_s = option(fault, "down_s")
            if down_s > 0:
                victim.link_down = True
                victim.link.refuse()
                self._recover_after(down_s, self._link_up)
        elif fault.kind == "link-stall":
            hit = victim.link.stall()
            for_s = option(fault, "for_s")
            if for_s > 0:
                self._recover_after(for_s, lambda: self._resume(hit))
        elif fault.kind == "power-cut":
            victim.cut(reason="fault power-cut")
            off_s = option(fault, "off_s")
            if off_s > 0:
                self._recover_after(off_s, lambda: victim.later(victim.power_on()))
        else:
            victim.panic(reboot_s=option(fault, "reboot_s"))

    def _begin_level(self, fault: Fault) -> None:
        victim = self._victim
        if fault.kind == "slow-link":
            victim.link.set_rate(option(fault, "rate_bytes_per_s"))
        elif fault.kind == "ssh-refused":
            victim.link.refuse()
        elif fault.kind == "disk-full":
            victim.table.limit_files(int(option(fault, "free_bytes")))
        elif fault.kind == "overheat":
            victim.die.runaway = (option(fault, "rate_c_per_s"), option(fault, "limit_c"))
        # stuck-boot has nothing to begin: the next boot asks for it

    def _end_level(self, kind: str) -> None:
        victim = self._victim
        if kind == "slow-link":
            victim.link.set_rate(None)
        elif kind == "ssh-refused":
            victim.later(victim.listen())
        elif kind == "disk-full":
            victim.table.limit_files(None)
        elif kind == "overheat":
            victim.die.runaway = None

    def _recover_after(self, seconds: float, recover: Callable[[], None]) -> None:
        def now() -> None:
            del self._recoveries[handle]
            recover()

        handle = self._loop.call_later(seconds, now)
        self._recoveries[handle] = recover

    def _link_up(self) -> None:
        self._victim.link_down = False
        self._victim.later(self._victim.listen())

    def _resume(self, hit: tuple[Wire, ...]) -> None:
        self._victim.link.resume(hit)
