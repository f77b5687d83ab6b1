"""What the second-stage bootloader decides: which partition to boot. Pure but for reading the disk.

Source: raspberrypi/documentation, config_txt/autoboot.adoc. ``autoboot.txt`` on the first partition (``/boot`` here)
holds sections ``[all]`` and ``[tryboot]`` with ``boot_partition``; ``[tryboot]`` counts for one boot after
``reboot "0 tryboot"``. The file may have 512 bytes; a longer one is ignored, as is a broken one, and the first
partition that boots is taken (the bootloader's PARTITION_WALK).

A partition N is the directory ``/partitions/N``; it boots when it holds a ``firmware.json`` with name and version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

MAX_AUTOBOOT_BYTES = 512


class UnbootablePartition(Exception):
    """A partition holds no firmware; the text says why. Never leaves this package: it becomes a line of the console."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoboot:
    """What autoboot.txt says: the usual partition, and the one to try."""

    default: int | None
    tryboot: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """Identity of a firmware tree."""

    name: str
    version: str


def parse_autoboot(data: bytes) -> Autoboot:
    r"""Read autoboot.txt.

    Raises:
        UnbootablePartition: too long, or a partition that is no number.

    >>> parse_autoboot(b"[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n")
    Autoboot(default=2, tryboot=3)
    """
    if len(data) > MAX_AUTOBOOT_BYTES:
        raise UnbootablePartition(f"autoboot.txt: {len(data)} bytes > {MAX_AUTOBOOT_BYTES}, ignored")
    section = "all"
    found: dict[str, int] = {}
    for raw in data.decode("ascii", errors="replace").splitlines():
        line = raw.partition("#")[0].strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif line.partition("=")[0].strip() == "boot_partition" and section in {"all", "tryboot"}:
            value = line.partition("=")[2].strip()
            if not value.isdigit():
                raise UnbootablePartition(f"autoboot.txt: boot_partition={value} in [{section}] is no number, ignored")
            found[section] = int(value)
    return Autoboot(default=found.get("all"), tryboot=found.get("tryboot", found.get("all")))


def read_firmware(partition: Path) -> Firmware:
    """Identity of the firmware in a partition.

    Raises:
        UnbootablePartition: there is none, or its firmware.json is malformed.
    """
    try:
        fields = json.loads((partition / "firmware.json").read_bytes())
    except FileNotFoundError:
        raise UnbootablePartition("no firmware.json") from None
    except (OSError, ValueError) as problem:
        raise UnbootablePartition(f"firmware.json cannot be read: {problem}") from problem
    name, version = (fields.get(key) if isinstance(fields, dict) else None for key in ("name", "version"))
    if not (isinstance(name, str) and isinstance(version, str) and name and version):
        raise UnbootablePartition("firmware.json lacks a name or a version")
    return Firmware(name=name, version=version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A partition to try, and whether it is the one-time try."""

    partition: int
    tryboot: bool


def candidates(boot: Path, partitions: Path, *, tryboot: bool) -> tuple[list[Candidate], str | None]:
    """Partitions in the order in which the bootloader tries them, and its complaint about autoboot.txt, if any.

    Args:
        boot: the first partition, where autoboot.txt is.
        partitions: directory of the partition directories.
        tryboot: whether the one-time flag is set.
    """
    complaint = None
    autoboot = Autoboot(default=None, tryboot=None)
    try:
        autoboot = parse_autoboot((boot / "autoboot.txt").read_bytes())
    except FileNotFoundError:
        complaint = "autoboot.txt: not found"
    except OSError as problem:
        complaint = f"autoboot.txt: {problem.strerror}"
    except UnbootablePartition as problem:
        complaint = str(problem)
    order: list[Candidate] = []
    if tryboot and autoboot.tryboot is not None:
        order.append(Candidate(partition=autoboot.tryboot, tryboot=True))
    if autoboot.default is not None:
        order.append(Candidate(partition=autoboot.default, tryboot=False))
    walk = sorted(int(entry.name) for entry in partitions.iterdir() if entry.name.isdigit())
    taken = {candidate.partition for candidate in order if not candidate.tryboot}
    order += [Candidate(partition=number, tryboot=False) for number in walk if number not in taken]
    return order, complaint
