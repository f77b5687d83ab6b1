"""The board as a whole: power, boot, reboot, panic, and the clockwork that keeps its sensors going.

States::

    off ──power-on──▶ booting ──▶ running ──poweroff, 110 °C──▶ halted
     ▲                   │           │ ▲──reboot───┐
     └──power-off────────┴──stuck    ├─┴───────────┘
           (from any)                └──panic──▶ panicked

Whatever ends a state does its first part at once, without waiting for anything: a power cut must not let one more
byte out. Only then is it waited for that every process is gone.
"""

from __future__ import annotations

import asyncio
import enum
import random
import signal
import time
import traceback
import uuid
from collections.abc import Callable, Coroutine

from pytest_edgehil.virtual import boot_log, bootloader, sysroot
from pytest_edgehil.virtual.blueprint import Blueprint, Layout
from pytest_edgehil.virtual.bootloader import Candidate, Firmware, UnbootablePartition
from pytest_edgehil.virtual.console import Console
from pytest_edgehil.virtual.health import health_complaint
from pytest_edgehil.virtual.injector import Injector
from pytest_edgehil.virtual.journal import Journal
from pytest_edgehil.virtual.link import Link
from pytest_edgehil.virtual.processes import MARKER, ProcessFacts, marker_of, pss_bytes, signal_process
from pytest_edgehil.virtual.requests import Requests
from pytest_edgehil.virtual.sensors import Sensors
from pytest_edgehil.virtual.table import ProcessTable
from pytest_edgehil.virtual.thermal import CORES, CRITICAL_C, Die, power_w

TICK_S = 0.1
TICKS_PER_SENSOR_READING = 2
SHUTDOWN_GRACE_S = 0.3
ASKER_GRACE_S = 10.0
HOST_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class State(enum.StrEnum):
    """What the board is doing."""

    OFF = "off"
    BOOTING = "booting"
    RUNNING = "running"
    STUCK = "stuck"
    PANICKED = "panicked"
    HALTED = "halted"


class Machine:
    """One virtual board inside its supervisor."""

    def __init__(
        self,
        *,
        blueprint: Blueprint,
        layout: Layout,
        link: Link,
        console: Console,
        journal: Journal,
        sign: Callable[[bytes], bytes],
        public_key: bytes,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._blueprint = blueprint
        self._layout = layout
        self._console = console
        self._journal = journal
        self.link = link
        self.table = ProcessTable(self._loop)
        self.die = Die.settled(blueprint.thermal)
        self.injector = Injector(self, journal)
        self._requests = Requests(layout.disk, self._loop, self, journal, sign=sign, public_key=public_key)
        self._sensors = Sensors(layout.disk, fan="cooled" in blueprint.tags)
        self._marker = marker_of(layout.root)
        self.state = State.OFF
        self.settled = asyncio.Event()  # set while the state will not change by itself
        self.settled.set()
        self.boot_id: str | None = None
        self.partition: int | None = None
        self.tryboot = False
        self.firmware: Firmware | None = None
        self.link_down = False
        self._power = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None
        self._clock: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._booted_at_s = time.monotonic()
        self._off_since_s: float | None = time.monotonic()

    # --- power

    @property
    def powered(self) -> bool:
        """Whether the power is on."""
        return self.state is not State.OFF

    @property
    def kernel_runs(self) -> bool:
        """Whether there is a kernel that could panic."""
        return self.state in {State.BOOTING, State.RUNNING}

    async def power_on(self) -> None:
        """Switch the power on; returns when the boot has begun."""
        async with self._power:
            if self.powered:
                return
            if self._off_since_s is not None:
                self.die.cool_off(dt_s=time.monotonic() - self._off_since_s)
                self._off_since_s = None
            self._journal.write("power-on")
            self._enter(State.BOOTING)
            self._clock = self._start_work(self._tick())
            self._work = self._start_work(self._boot(tryboot=False))

    async def power_off(self, *, reason: str = "switched off") -> None:
        """Switch the power off; returns when every process is gone."""
        if self.powered:
            self.cut(reason=reason)
        async with self._power:
            await self.table.end_all()

    def cut(self, *, reason: str) -> None:
        """Take the power away, at once."""
        if not self.powered:
            return
        self._enter(State.OFF)
        self.boot_id, self.partition, self.firmware, self.tryboot = None, None, None, False
        self._off_since_s = time.monotonic()
        self._go_dark(silent=True)
        self.link.reset()
        if self._clock is not None:
            self._clock.cancel()
        self._journal.write("power-off", reason=reason)
        self.later(self._settle())

    async def _settle(self) -> None:
        async with self._power:
            await self.table.end_all()

    def _go_dark(self, *, silent: bool) -> None:
        """Nothing runs any more: the part of a power cut, a panic and a halt that is the same."""
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()
        self.table.powered = False
        self.link.refuse()
        self._requests.close()
        if silent:
            self._console.silence()
        else:
            self._console.prompt(None)
        self.table.kill_now()

    def panic(self, *, reboot_s: float = 0.0) -> None:
        """The kernel panics: everything stops dead, and nobody on the other end of the link is told."""
        if not self.kernel_runs:
            return
        self._enter(State.PANICKED)
        self.link.stall()
        self._go_dark(silent=False)
        self._console.write("\n" + boot_log.kernel_panic(self._stamp()))
        self._journal.write("panic")
        self.later(self._settle())
        if reboot_s > 0:
            self._console.write(f"{self._stamp()} Rebooting in {reboot_s:g} seconds..\n")
            self._loop.call_later(reboot_s, self._reboot_after_panic, self.boot_id)

    def _reboot_after_panic(self, boot_id: str | None) -> None:
        if self.state is State.PANICKED and self.boot_id == boot_id:
            self.link.reset()
            self._enter(State.BOOTING)
            self._work = self._start_work(self._boot(tryboot=False))

    # --- what the board's own programs ask for

    def reboot(self, *, tryboot: bool, asker: int) -> None:
        """Reboot in an orderly way; the try flag counts for one boot."""
        if self.state is State.RUNNING:
            self._journal.write("reboot", tryboot=tryboot)
            self._enter(State.BOOTING)
            self._work = self._start_work(self._shut_down_and_boot(tryboot=tryboot, asker=asker))

    def halt(self, *, reason: str, asker: int | None = None) -> None:
        """Shut down; the board stays down until its power is cycled."""
        if self.state is State.RUNNING:
            self._journal.write("halt", reason=reason)
            self._enter(State.BOOTING)
            self._work = self._start_work(self._shut_down_and_halt(asker=asker))

    async def _shut_down_and_boot(self, *, tryboot: bool, asker: int) -> None:
        await self._shut_down(asker)
        self._console.write(boot_log.restarting(self._stamp()))
        await self._boot(tryboot=tryboot)

    async def _shut_down_and_halt(self, *, asker: int | None) -> None:
        await self._shut_down(asker)
        self._console.write(boot_log.halted(self._stamp()))
        self._enter(State.HALTED)

    async def _shut_down(self, asker: int | None) -> None:
        """Let who asked come to his end, however busy this host is; SIGTERM to everybody, a moment's grace, the end."""
        self._console.prompt(None)
        self._console.write(f"\n{self._stamp()} systemd[1]: Stopping all services...\n")
        self.link.refuse()
        deadline_s = self._loop.time() + ASKER_GRACE_S
        while asker is not None and self.table.lives(asker) and self._loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        await asyncio.sleep(TICK_S)  # lets its exit status reach the client
        deadline_s = self._loop.time() + SHUTDOWN_GRACE_S
        for facts in self.table.alive():
            signal_process(facts.pid, signal.SIGTERM)
        while self.table.alive() and self._loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        self.table.powered = False
        self._requests.close()
        self.link.reset()
        await self.table.end_all()

    # --- boot

    async def _boot(self, *, tryboot: bool) -> None:
        failed: set[tuple[int, bool]] = set()
        while True:
            candidate = await self._start_kernel(tryboot=tryboot, failed=failed)
            if candidate is None:
                self._enter(State.STUCK)
                return
            complaint = await health_complaint(
                self.table,
                self._layout.disk / f"partitions/{candidate.partition}",
                environment=self.environment(),
                what=f"firmware {self.firmware_text} on partition {candidate.partition}",
            )
            if complaint is None:
                break
            self._console.write(f"{self._stamp()} edgehil-health: {complaint}; falling back\n")
            self._journal.write("boot-failed", partition=candidate.partition, reason=complaint)
            await self.table.end_all()
            self._console.write(boot_log.restarting(self._stamp()))
            failed.add((candidate.partition, candidate.tryboot))
            tryboot = False  # the flag has been used up
        self._enter(State.RUNNING)
        await self.listen()
        self._journal.write("running", partition=self.partition, tryboot=self.tryboot, firmware=self.firmware_text)
        self._console.write(boot_log.login_banner(self._blueprint.board_id))
        self._console.prompt(lambda: boot_log.login_prompt(self._blueprint.board_id))

    async def _start_kernel(self, *, tryboot: bool, failed: set[tuple[int, bool]]) -> Candidate | None:
        """One run of the bootloader: what it has started, None when it hangs or finds nothing."""
        await self.table.end_all()
        self._requests.close()
        self.boot_id = str(uuid.uuid4())
        self.partition, self.firmware, self.tryboot = None, None, False
        self._booted_at_s = time.monotonic()
        self.die.reset_sticky()
        sysroot.fresh_boot(self._layout, boot_id=self.boot_id)
        self._sensors.boot(self.die, order=random.randrange(1000))  # noqa: S311 - an order, not a secret
        self._console.write(boot_log.bootloader_banner(self._blueprint.serial))
        self._journal.write("boot", boot_id=self.boot_id, tryboot=tryboot)
        if self.injector.level("stuck-boot") is not None:
            self._journal.write("boot-failed", partition=None, reason="stuck")
            return None
        disk = self._layout.disk
        order, complaint = bootloader.candidates(disk / "boot", disk / "partitions", tryboot=tryboot)
        if complaint is not None:
            self._console.write(boot_log.bootloader_complaint(complaint))
        for candidate in order:
            if (candidate.partition, candidate.tryboot) in failed:
                continue
            try:
                self.firmware = bootloader.read_firmware(disk / f"partitions/{candidate.partition}")
            except UnbootablePartition as problem:
                reason = f"partition {candidate.partition} does not boot: {problem}"
                self._console.write(boot_log.bootloader_complaint(f"{reason}; falling back"))
                self._journal.write("boot-failed", partition=candidate.partition, reason=reason)
                continue
            self._launch(candidate, self.firmware)
            return candidate
        self._console.write(boot_log.bootloader_complaint("no bootable partition: halted"))
        return None

    def _launch(self, candidate: Candidate, firmware: Firmware) -> None:
        self.partition, self.tryboot = candidate.partition, candidate.tryboot
        sysroot.mark_partition(self._layout, partition=candidate.partition, tryboot=candidate.tryboot)
        self._console.write(boot_log.bootloader_partition(candidate.partition, tryboot=candidate.tryboot))
        self._console.write(
            boot_log.kernel(
                self._stamp(),
                board_id=self._blueprint.board_id,
                partition=candidate.partition,
                firmware=firmware,
                memory_bytes=self._blueprint.memory_bytes,
            )
        )
        self.table.powered = True
        self._requests.open()

    async def listen(self) -> None:
        """Accept connections if everything is such that a board would."""
        if self.state is State.RUNNING and not self.link_down and self.injector.level("ssh-refused") is None:
            await self.link.open()

    # --- what runs on it

    def environment(self) -> dict[str, str]:
        """Environment of a command on the board."""
        disk = self._layout.disk
        return {
            "HOME": str(self._layout.home),
            "USER": self._blueprint.ssh_user,
            "LOGNAME": self._blueprint.ssh_user,
            "SHELL": "/bin/sh",
            "PATH": f"{disk / 'usr/bin'}:{HOST_PATH}",
            "LANG": "C",
            "TMPDIR": str(disk / "tmp"),
            "EDGEHIL_SYSROOT": str(disk),
            MARKER: self._marker,
        }

    def free_bytes(self) -> int | None:
        """How large a file may become, None for no limit."""
        return self.table.file_limit_bytes

    @property
    def firmware_text(self) -> str | None:
        """Name and version of the firmware that runs."""
        return None if self.firmware is None else f"{self.firmware.name} {self.firmware.version}"

    def kill_for_memory(self, victim: ProcessFacts) -> None:
        """Kill a process as the kernel does when memory is out."""
        self._console.write("\n" + boot_log.killed_for_memory(self._stamp(), victim))
        self._journal.write("out-of-memory", pid=victim.pid, name=victim.name, rss_bytes=victim.rss_bytes)
        signal_process(victim.pid, signal.SIGKILL)

    # --- clockwork

    async def _tick(self) -> None:
        last_s, last_cpu_s, count = time.monotonic(), self.table.census().cpu_s, 0
        while True:
            await asyncio.sleep(TICK_S)
            self._console.poll()
            self.injector.tick()
            count += 1
            if count % TICKS_PER_SENSOR_READING or not self.powered:
                continue
            now_s, census = time.monotonic(), self.table.census()
            # bookkeeping lags when a process dies between two looks, so time used can seem to shrink for a moment
            used = max(census.cpu_s - last_cpu_s, 0.0) / max(now_s - last_s, 1e-6) / CORES
            self.die.step(dt_s=now_s - last_s, utilisation=used)
            last_s, last_cpu_s = now_s, max(census.cpu_s, last_cpu_s)
            if self.boot_id is not None:
                self._sensors.update(self.die, power_w=power_w(self.die.model, used))
            self._mind_memory(census.living)
            self._mind_heat()

    def _mind_memory(self, processes: tuple[ProcessFacts, ...]) -> None:
        limit = self._blueprint.memory_bytes
        # RSS counts shared pages in every process: only when its sum is too high is the dearer, exact PSS asked for
        if sum(facts.rss_bytes for facts in processes) > limit and sum(pss_bytes(facts) for facts in processes) > limit:
            self.kill_for_memory(max(processes, key=lambda facts: facts.rss_bytes))

    def _mind_heat(self) -> None:
        if self.die.temperature_c >= CRITICAL_C and self.state is State.RUNNING:
            self._console.write("\n" + boot_log.critical_temperature(self._stamp(), self.die.temperature_c))
            self.halt(reason="critical temperature")

    def _stamp(self) -> str:
        return f"[{time.monotonic() - self._booted_at_s:12.6f}]"

    def _enter(self, state: State) -> None:
        self.state = state
        if state is State.BOOTING:
            self.settled.clear()
        else:
            self.settled.set()

    def later(self, work: Coroutine[None, None, None]) -> None:
        """Run something in the background, to its end."""
        task = self._loop.create_task(self._guard(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _start_work(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        return self._loop.create_task(self._guard(work))

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """A bug of ours must show in the log and leave a board that is visibly stuck, not silently half alive."""
        try:
            await work
        except Exception:
            traceback.print_exc()
            self._journal.write("supervisor-error", reason=traceback.format_exc(limit=1))
            self._enter(State.STUCK)
            raise
