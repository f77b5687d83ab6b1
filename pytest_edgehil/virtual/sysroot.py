"""The board's disk: what is on it from the factory, and what a boot puts there anew.

``/proc``, ``/sys`` and ``/run`` of the board are directories on the disk that the supervisor keeps up to date; its
processes find them below ``$EDGEHIL_SYSROOT``. Everything else of the host is visible to them too: a virtual board
imitates a Pi, it does not contain anything.
"""

from __future__ import annotations

import os
import shutil
import struct
import sys
from pathlib import Path

from pytest_edgehil.virtual import shims
from pytest_edgehil.virtual.blueprint import Blueprint, Layout

MODEL = "Raspberry Pi 5 Model B Rev 1.0"
KERNEL = "6.12.47+rpt-rpi-2712"
FACTORY_FIRMWARE = '{"name": "edge-os", "version": "factory"}\n'
EMPTIED_AT_BOOT = ("run", "tmp")


def put(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write a file atomically, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.chmod(mode)
    temporary.replace(path)


def provision(blueprint: Blueprint, layout: Layout) -> None:
    """Make the disk, or bring the files of ours on it up to date; what the board wrote stays."""
    disk = layout.disk
    for directory in (
        layout.home,
        disk / "boot",
        disk / "partitions",
        disk / "usr/bin",
        disk / "var/log",
        disk / "dev",
    ):
        directory.mkdir(parents=True, exist_ok=True)
    first, second = blueprint.partitions
    if not (disk / "boot/autoboot.txt").exists():
        put(
            disk / "boot/autoboot.txt",
            f"[all]\ntryboot_a_b=1\nboot_partition={first}\n[tryboot]\nboot_partition={second}\n",
        )
    for number in blueprint.partitions:
        (disk / f"partitions/{number}").mkdir(exist_ok=True)
    if not any((disk / f"partitions/{number}/firmware.json").exists() for number in blueprint.partitions):
        put(disk / f"partitions/{first}/firmware.json", FACTORY_FIRMWARE)
    put(disk / "etc/hostname", f"{blueprint.board_id}\n")
    put(
        disk / "etc/os-release",
        'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\nID=debian\n'
        "VERSION_CODENAME=trixie\nVARIANT_ID=edgehil-virtual\n",
    )
    put(disk / "proc/device-tree/model", f"{MODEL}\0")
    put(disk / "proc/device-tree/serial-number", f"{blueprint.serial}\0")
    put(disk / "proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    put(disk / "proc/version", f"Linux version {KERNEL} (virtual board of pytest-edgehil)\n")
    total_kib = blueprint.memory_bytes // 1024
    put(
        disk / "proc/meminfo",
        "".join(f"{name + ':':<16}{total_kib:>8} kB\n" for name in ("MemTotal", "MemFree", "MemAvailable")),
    )
    _put_accelerator(blueprint.accelerator, disk)
    _put_programs(blueprint, disk)


def _put_accelerator(accelerator: str | None, disk: Path) -> None:
    device = disk / f"sys/bus/pci/devices/{shims.BDF}"
    if accelerator is None:
        shutil.rmtree(device, ignore_errors=True)
        (disk / "dev/hailo0").unlink(missing_ok=True)
        return
    hat = shims.HATS[accelerator]
    put(device / "vendor", "0x1e60\n")
    put(device / "device", f"{hat.pci_device}\n")
    put(device / "current_link_speed", "8.0 GT/s PCIe\n")
    put(disk / "dev" / hat.node, "")


def _put_programs(blueprint: Blueprint, disk: Path) -> None:
    interpreter = sys.executable if "onnxruntime" in blueprint.runtimes else str(_bare_python(disk))
    programs = {
        "vcgencmd": shims.vcgencmd(disk),
        "hailortcli": shims.hailortcli(blueprint.accelerator),
        "rpi-eeprom-update": shims.rpi_eeprom_update(),
        "rpi-fw-crypto": shims.rpi_fw_crypto(disk),
        "reboot": shims.reboot(disk),
        "poweroff": shims.poweroff(disk),
        "sudo": shims.sudo(),
        "python3": shims.python3(interpreter),
    }
    for name, text in programs.items():
        put(disk / "usr/bin" / name, text, mode=0o755)


def _bare_python(disk: Path) -> Path:
    """An interpreter that has the standard library and nothing else: an environment with no packages in it.

    An environment and not ``-S``, so that a program which starts `sys.executable` again gets the same.
    """
    base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
    root = disk / "usr/lib/python-bare"
    put(root / "pyvenv.cfg", f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (root / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages").mkdir(
        parents=True, exist_ok=True
    )
    link = root / "bin/python3"
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink() or link.readlink() != base:
        link.unlink(missing_ok=True)
        link.symlink_to(base)
    return link


def fresh_boot(layout: Layout, *, boot_id: str) -> None:
    """What a boot makes anew: empty /run and /tmp, a new boot id, the fifo for requests."""
    disk = layout.disk
    for name in EMPTIED_AT_BOOT:
        shutil.rmtree(disk / name, ignore_errors=True)
        (disk / name).mkdir()
    put(disk / "proc/sys/kernel/random/boot_id", f"{boot_id}\n")
    fifo = disk / shims.REQUEST_FIFO
    fifo.parent.mkdir()
    os.mkfifo(fifo, 0o600)


def mark_partition(layout: Layout, *, partition: int, tryboot: bool) -> None:
    """Tell the board which partition it runs from: the bootloader's device-tree nodes (u32 big-endian)."""
    node = layout.disk / "proc/device-tree/chosen/bootloader"
    put(node / "partition", struct.pack(">I", partition))
    put(node / "tryboot", struct.pack(">I", int(tryboot)))
    link = layout.disk / "boot/firmware"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / "partitions" / str(partition))
