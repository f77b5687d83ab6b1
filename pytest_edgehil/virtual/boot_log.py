"""What a Pi 5 says on its console, as far as anybody waits for it: text only.

Modelled on the log of a Pi 5 with ``uart_2ndstage=1`` and ``console=serial0,115200``. Kernel lines start with the
seconds since boot, which `Stamp` makes of a clock.
"""

from __future__ import annotations

from pytest_edgehil.virtual.bootloader import Firmware
from pytest_edgehil.virtual.processes import ProcessFacts
from pytest_edgehil.virtual.sysroot import KERNEL, MODEL


def bootloader_banner(serial: str) -> str:
    """The EEPROM bootloader starts."""
    return (
        "\n  0.00 RPi: BOOTLOADER release VERSION:5ac7c8a1 DATE: 2025/09/22 TIME: 14:53:59\n"
        f"  0.01 BOOTMODE: 0x06 partition 0 serial {serial}\n"
        "  0.02 Boot mode: SD (01) order f46\n"
    )


def bootloader_partition(partition: int, *, tryboot: bool) -> str:
    """The bootloader has chosen a partition."""
    return (
        f"  0.10 autoboot: tryboot {int(tryboot)} boot_partition {partition}\n"
        f"  0.12 Loading 'kernel_2712.img' from partition {partition}\n"
    )


def bootloader_complaint(text: str) -> str:
    """Something about a partition is wrong."""
    return f"  0.11 {text}\n"


def kernel(stamp: str, *, board_id: str, partition: int, firmware: Firmware, memory_bytes: int) -> str:
    """The kernel and the system start."""
    lines = (
        "Booting Linux on physical CPU 0x0000000000 [0x414fd0b1]",
        f"Linux version {KERNEL} (virtual board of pytest-edgehil)",
        f"Machine model: {MODEL}",
        f"Memory: {memory_bytes // 1024}K available",
        f"edgehil: root on partition {partition}, firmware {firmware.name} {firmware.version}",
        f"systemd[1]: Hostname set to <{board_id}>.",
    )
    return "".join(f"{stamp} {line}\n" for line in lines)


def login_banner(board_id: str) -> str:
    """The system is up."""
    return f"\nDebian GNU/Linux 13 {board_id} ttyAMA10\n\n{login_prompt(board_id)}"


def login_prompt(board_id: str) -> str:
    """What getty asks."""
    return f"{board_id} login: "


def restarting(stamp: str) -> str:
    """The kernel's last line before a reboot."""
    return f"{stamp} reboot: Restarting system\n"


def halted(stamp: str) -> str:
    """The kernel's last line after a poweroff."""
    return f"{stamp} reboot: Power down\n"


def critical_temperature(stamp: str, temperature_c: float) -> str:
    """The kernel shuts down because of heat (drivers/thermal/thermal_core.c)."""
    return (
        f"{stamp} thermal thermal_zone0: cpu-thermal: critical temperature reached ({temperature_c:.2f} C)\n"
        f"{stamp} reboot: HARDWARE PROTECTION shutdown (Temperature too high)\n"
    )


def killed_for_memory(stamp: str, victim: ProcessFacts) -> str:
    """The kernel killed a process (mm/oom_kill.c)."""
    return (
        f"{stamp} {victim.name} invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, "
        "oom_score_adj=0\n"
        f"{stamp} Out of memory: Killed process {victim.pid} ({victim.name}) "
        f"total-vm:{victim.virtual_bytes // 1024}kB, anon-rss:{victim.rss_bytes // 1024}kB, file-rss:0kB, "
        "shmem-rss:0kB, UID:1000 pgtables:512kB oom_score_adj:0\n"
    )


def kernel_panic(stamp: str) -> str:
    """The kernel panics (kernel/panic.c)."""
    lines = (
        "Unable to handle kernel paging request at virtual address ffff800081e00f00",
        "Internal error: Oops: 0000000096000047 [#1] PREEMPT SMP",
        f"CPU: 2 UID: 0 PID: 1 Comm: systemd Tainted: G         C          {KERNEL} #1",
        f"Hardware name: {MODEL} (DT)",
        "Call trace:",
        " panic+0x398/0x3d8",
        " do_exit+0x8ac/0x9d8",
        "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
        "Kernel Offset: disabled",
        "---[ end Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b ]---",
    )
    return "".join(f"{stamp} {line}\n" for line in lines)
