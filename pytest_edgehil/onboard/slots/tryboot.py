"""Which slot boots on a Pi 5: ``autoboot.txt`` and ``tryboot``.

``autoboot.txt`` names the partition that boots by default and the one that boots once after ``reboot "0 tryboot"``;
the flag clears itself, so a firmware that never comes up is left by the next power cycle. Committing is rewriting
``autoboot.txt`` with the two swapped (config_txt/autoboot.adoc). What really booted, the bootloader tells in
``/proc/device-tree/chosen/bootloader/{tryboot,partition}``: with ``PARTITION_WALK`` it may be another one.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..durable import write_atomically
from ..home import sysroot
from ..problem import Problem
from ..sensors import cell_of
from . import State

MAX_AUTOBOOT_BYTES = 512
_NODES = "proc/device-tree/chosen/bootloader"


class Tryboot:
    """A `Chooser`.

    Args:
        partitions: of the two slots.
    """

    def __init__(self, partitions: tuple[int, int]) -> None:
        self._partitions = partitions

    def state(self) -> State:
        """See `Chooser`."""
        return State(
            running=cell_of(f"{_NODES}/partition"),
            on_trial=cell_of(f"{_NODES}/tryboot") == 1,
            default=_named().get("all"),
        )

    def arm(self, partition: int) -> tuple[str, ...]:
        """See `Chooser`; the flag itself is set by the reboot."""
        named = _named()
        if named.get("tryboot") != partition:
            default = named.get("all")
            if default is None or default == partition:
                raise Problem(
                    "slots-failed",
                    f"{_autoboot()} names partition {default} as the default, so {partition} cannot be tried; "
                    "expected the other slot there",
                )
            _rewrite(default, partition)
        return ("0 tryboot",)

    def commit(self, partition: int) -> None:
        """See `Chooser`. The old file is still there after a `Problem`."""
        first, second = self._partitions
        _rewrite(partition, second if partition == first else first)

    def retire(self, partition: int) -> None:
        """See `Chooser`: nothing boots a slot on trial but the flag, which a boot clears.

        Raises:
            Problem: ``slots-failed``: it is the default.
        """
        if _named().get("all") == partition:
            raise Problem("slots-failed", f"partition {partition} boots by default and cannot be retired")


def _autoboot() -> Path:
    return sysroot() / "boot" / "autoboot.txt"


def _named() -> dict[str, int]:
    """Section → partition, from ``autoboot.txt``; what cannot be read there says nothing."""
    try:
        text = _autoboot().read_text(errors="replace")
    except OSError:
        return {}
    section, found = "all", dict[str, int]()
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*\[(\w+)\]\s*", line):
            section = match[1]
        elif match := re.fullmatch(r"\s*boot_partition\s*=\s*(\d{1,3})\s*", line):
            found.setdefault(section, int(match[1]))
    return found


def _rewrite(default: int, tried: int) -> None:
    text = f"[all]\ntryboot_a_b=1\nboot_partition={default}\n[tryboot]\nboot_partition={tried}\n".encode()
    assert len(text) <= MAX_AUTOBOOT_BYTES  # a longer file is ignored by the bootloader
    write_atomically(_autoboot(), text)
