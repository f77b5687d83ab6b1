"""The machine that QEMU emulates: cores of a Cortex-A76, a serial console, two disks, a network card, sensors.

The guest sees nothing of this host and of its networks but the port that leads to its SSH server. Its memory has two
parts: a small one at the beginning that this host shares (`sensors`), and the rest. QEMU's own description of the
machine is taken as it is and gets what a Pi has beside it: a temperature sensor, a serial number.

The same command line makes a template and the boards that are made of it: QEMU restores into the same machine only.
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.emulated import sensors
from pytest_edgehil.emulated.image.built import Image
from pytest_edgehil.emulated.image.device_tree import cells, parse, phandles, serialise, text, wide
from pytest_edgehil.emulated.layout import Layout
from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.requirement import Timing

QEMU = "qemu-system-aarch64"
INSTALL = "apt-get install --no-install-recommends qemu-system-arm qemu-utils"
RAM_AT = 0x40000000
SOFT_C, CRITICAL_C = 80, 110
_TRANSLATED_MIB = 256  # QEMU keeps so much translated code; a gigabyte by default
_TIMEOUT_S = 60.0
_UNUSED_INTERRUPTS = (100, 101)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine.

    Args:
        cores: more than one cannot be counted: which of them runs is then the host's choice.
        icount: whether its time is the number of its instructions, one nanosecond each.
    """

    image: Image
    memory_bytes: int
    cores: int = 1
    icount: bool

    def key(self) -> str:
        """Of everything that a template depends on."""
        hardware = f"{self._hardware(Path(), '')} {_without_seeds(self._tree())}"
        whole = f"{self.image.key} {self.memory_bytes} {self.icount} {qemu_version()} {hardware}"
        return hashlib.sha256(whole.encode()).hexdigest()[:32]

    def argv(
        self, layout: Layout, *, template: Layout | None, saving: bool, ssh_port: int, write_log: Path | None = None
    ) -> list[str]:
        """QEMU's command line.

        Args:
            layout: the board's files.
            template: what the board is made of, else it boots.
            saving: whether the board is to become a template: its memory is then kept in a file.
            ssh_port: of this host; 0 takes a free one.
            write_log: an empty file that gets what is written to the disk; see `_disk`.
        """
        memory = template.memory if template is not None else layout.memory
        if saving:
            backend = f"memory-backend-file,id=ram,size={self.memory_bytes},mem-path={_path(memory)},share=on"
        elif template is not None:
            backend = f"memory-backend-file,id=ram,size={self.memory_bytes},mem-path={_path(memory)},share=off"
        else:
            backend = f"memory-backend-ram,id=ram,size={self.memory_bytes}"
        argv = [require("qemu-system-aarch64"), *self._hardware(layout.sensors, backend)]
        argv += ["-display", "none", "-no-shutdown", "-dtb", str((template or layout).device_tree)]
        argv += ["-bios", str(self.image.bootloader)]
        argv += ["-drive", f"if=pflash,index=1,format=raw,readonly=on,file={_path(self.image.flash)}"]
        argv += ["-drive", _disk(layout.disk, write_log)]
        argv += ["-drive", f"if=none,id=seed,format=raw,read-only=on,file.locking=off,file={_path(layout.seed)}"]
        log = f"logfile={_path(layout.console_log)},logappend=on"
        argv += ["-chardev", f"socket,id=console,host=127.0.0.1,port=0,server=on,wait=off,{log}"]
        argv += ["-qmp", f"unix:{layout.qmp.name},server=on,wait=off"]
        argv += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"]
        if template is not None:
            argv += ["-incoming", "defer"]
        return argv

    def write_device_tree(self, path: Path) -> None:
        """Describe the machine to whatever boots on it."""
        path.write_bytes(self._tree())

    def _tree(self) -> bytes:
        hardware = tuple(self._hardware(Path("/dev/zero"), ""))
        return _device_tree(hardware, self.memory_bytes, Timing.ICOUNT if self.icount else Timing.WALL)

    def _hardware(self, shared: Path, backend: str) -> list[str]:
        """What the guest can tell, and with it what a template can be restored into."""
        if self.icount:
            time = ["-accel", f"tcg,thread=single,tb-size={_TRANSLATED_MIB}"]
            time += ["-icount", "shift=0,sleep=on,align=off"]
        else:
            time = ["-accel", f"tcg,thread=multi,tb-size={_TRANSLATED_MIB}"]
        megabytes = (self.memory_bytes + sensors.SHARED_BYTES) // 2**20
        page = f"memory-backend-file,id=shared,size={sensors.SHARED_BYTES},mem-path={_path(shared)},share=on"
        argv = ["-M", "virt,acpi=off", "-cpu", "cortex-a76", "-smp", str(self.cores), "-m", f"{megabytes}M"]
        argv += ["-nodefaults", "-no-user-config", *time]
        # U-Boot takes the first memory of the device tree, which is the last node's
        argv += ["-object", page, "-object", backend, "-numa", "node,nodeid=0,memdev=shared"]
        argv += ["-numa", f"node,nodeid=1,cpus=0-{self.cores - 1},memdev=ram"]
        for device in ("virtio-blk-pci,drive=disk", "virtio-blk-pci,drive=seed", "virtio-net-pci,netdev=net"):
            argv += ["-device", f"{device},romfile="]
        return [*argv, "-serial", "chardev:console"]


def require(program: str) -> str:
    """Path of a program of QEMU's.

    Raises:
        ConfigError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise ConfigError(f"{program} is not installed, and emulated boards need it; run '{INSTALL}'")
    return found


@functools.cache
def qemu_version() -> str:
    """As ``7.2.22``, with the distribution's own version behind it."""
    done = _run([require(QEMU), "--version"])
    found = re.search(r"version (.+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise ConfigError(
            f"{require(QEMU)} does not tell its version (exit status {done.returncode}): "
            f"{(done.stderr or done.stdout).strip()[-200:] or 'it says nothing'}; run '{INSTALL}'"
        )
    return found[1]


def make_overlay(path: Path, *, on: Path, kind: str) -> None:
    """A disk that is another one until it is written to; `kind` is the other one's: ``raw`` or ``qcow2``.

    Raises:
        ConfigError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    done = _run([require("qemu-img"), "create", "-q", "-f", "qcow2", "-b", str(on), "-F", kind, str(path)])
    if done.returncode != 0:
        raise ConfigError(f"{path} cannot be made: {done.stderr.strip()[-200:]}")


def _run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S)
    except OSError as problem:
        raise ConfigError(f"{argv[0]} cannot be run: {problem.strerror}; run '{INSTALL}'") from problem
    except subprocess.TimeoutExpired as problem:
        raise ConfigError(f"{' '.join(argv[:2])} was not done within {_TIMEOUT_S:g} s") from problem


def _without_seeds(blob: bytes) -> str:
    """Digest of a device tree, without what QEMU draws anew each time."""
    root = parse(blob)
    for node in root.walk():
        for name in ("rng-seed", "kaslr-seed"):
            node.properties.pop(name, None)
    return hashlib.sha256(serialise(root)).hexdigest()


@functools.cache
def _device_tree(hardware: tuple[str, ...], memory_bytes: int, timing: Timing) -> bytes:
    with tempfile.TemporaryDirectory(prefix="edgehil-") as name:
        dumped = Path(name) / "base.dtb"
        argv = list(hardware[: hardware.index("-device")])
        argv[argv.index("-M") + 1] += f",dumpdtb={dumped}"
        for at, one in enumerate(argv):
            if one.startswith("memory-backend") or not one:
                size = memory_bytes if not one else sensors.SHARED_BYTES
                argv[at] = f"memory-backend-ram,id={'shared' if one else 'ram'},size={size}"
        done = _run([require(QEMU), *argv, "-display", "none"])
        if not dumped.exists():
            raise ConfigError(f"{QEMU} does not describe its machine: {done.stderr.strip()[-300:]}")
        root = parse(dumped.read_bytes())
    handle = max(phandles(root)) + 1
    reserved = root.child("reserved-memory")
    reserved.properties |= {"#address-cells": cells(2), "#size-cells": cells(2), "ranges": b""}
    region = reserved.child(f"shared@{RAM_AT:x}")
    region.properties |= {"reg": wide(RAM_AT) + wide(sensors.SHARED_BYTES), "no-map": b""}
    sensor_at = RAM_AT + sensors.AT
    # the kernel's driver of the HiKey 960's sensor reads plain registers and needs neither clock nor interrupt to do so
    # (drivers/thermal/hisi_thermal.c)
    first, second = _UNUSED_INTERRUPTS
    root.child(f"tsensor@{sensor_at:x}").properties |= {
        "compatible": text("hisilicon,hi3660-tsensor"),
        "reg": wide(sensor_at) + wide(0x1000),
        "interrupts": cells(0, first, 4, 0, second, 4),
        "interrupt-names": text("tsensor_a73") + text("tsensor_a53"),
        "#thermal-sensor-cells": cells(1),
        "phandle": cells(handle),
    }
    zone = root.child("thermal-zones").child("cpu-thermal")
    zone.properties |= {
        "polling-delay": cells(1000),
        "polling-delay-passive": cells(250),
        "thermal-sensors": cells(handle, 1),
    }
    trips = zone.child("trips")
    for name, kind, limit in (("soft", "passive", SOFT_C), ("critical", "critical", CRITICAL_C)):
        trips.child(name).properties |= {
            "temperature": cells(limit * 1000),
            "hysteresis": cells(1000),
            "type": text(kind),
        }
    root.child("edgehil-sensors").properties["throttled"] = wide(sensor_at + sensors.THROTTLED)
    root.properties["model"] = text("edgehil emulated board (QEMU virt, Cortex-A76)")
    root.properties["edgehil-timing"] = text(timing.value)  # so that the board itself can contradict a lab file
    root.properties["serial-number"] = text("0000000000000000")  # each board lays its own over it
    return serialise(root)


def _disk(path: Path, write_log: Path | None) -> str:
    """The board's disk; with a log, each write and flush of it is also kept there, as dm-log-writes keeps them
    (linux/Documentation/admin-guide/device-mapper/log-writes.rst; QEMU's driver ``blklogwrites``).
    """
    if write_log is None:
        return f"if=none,id=disk,format=qcow2,cache=unsafe,file={_path(path)}"
    quick = "cache.no-flush=on"  # the flushes are to be known, and this host needs not carry them out
    return (
        "if=none,id=disk,driver=blklogwrites,cache=writeback,"
        f"file.driver=qcow2,file.{quick},file.file.driver=file,file.file.{quick},file.file.filename={_path(path)},"
        f"log.driver=file,log.{quick},log.filename={_path(write_log.absolute())}"
    )


def _path(path: Path) -> str:
    """A path within an option of QEMU's, in which commas separate."""
    return str(path).replace(",", ",,")
