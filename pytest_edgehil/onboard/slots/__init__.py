"""Firmware slots: two places for a firmware, of which one runs while the other is written and tried.

Two questions, kept apart. *Which slot boots* is what a bootloader decides, and each has its own way: a `Chooser`, in
`tryboot` (Raspberry Pi, and virtual boards, which imitate one) and `uboot` (U-Boot's environment, as RAUC keeps it).
*What a slot holds* depends on the firmware: a tree of files in a directory (`directories`) or images on devices
(`images`); see `firmware`, which uses both.

A slot is named by its partition's number everywhere outside of this package. The host says with ``--slots`` what
lab.yaml declares; without it a board is taken for a Pi with slots 2 and 3.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..home import sysroot
from ..problem import Problem

Told = Callable[[str, int, int], None]
"""Told ``write`` or ``verify``, the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the bootloader says.

    Args:
        running: the partition that booted; None: there is no way to tell.
        on_trial: was it booted once, to prove itself? Then the next boot is the default's, unless it is committed.
        default: the partition that the next boot takes if nothing is done; None: nothing says so.
        wears: the bootloader counts the boots of the default and would leave it soon: commit it again.
    """

    running: int | None
    on_trial: bool
    default: int | None
    wears: bool = False


class Chooser(Protocol):
    """What decides which slot boots. Each verb raises `Problem` (``storage``, ``disk-full``, ``slots-failed``)."""

    def state(self) -> State:
        """What booted, and what will."""

    def arm(self, partition: int) -> tuple[str, ...]:
        """Have the next reboot boot this slot once; returns the arguments which ``reboot`` needs for that."""

    def commit(self, partition: int) -> None:
        """Make a slot the default, in one step: whoever cuts the power gets the old or the new default."""

    def retire(self, partition: int) -> None:
        """No boot takes this slot by itself until it is armed: it failed, or it is about to be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The two slots of a board.

    Args:
        partitions: their numbers.
        chooser: which of them boots.
        devices: image → the device that it is written to, for each slot; empty: the slots are directories only.
    """

    partitions: tuple[int, int]
    chooser: Chooser
    devices: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def other(self, partition: int) -> int:
        """The other one of the pair.

        Raises:
            Problem: ``bad-request``: it is none of them.
        """
        if partition not in self.partitions:
            told = " and ".join(map(str, self.partitions))
            raise Problem("bad-request", f"partition {partition} is no slot of this board; its slots are {told}")
        first, second = self.partitions
        return second if partition == first else first

    def device(self, image: str, partition: int) -> Path:
        """Where an image of a slot is written.

        Raises:
            Problem: ``wrong-target``: the board has no such device.
        """
        if image not in self.devices:
            has = ", ".join(sorted(self.devices)) or "none"
            raise Problem(
                "wrong-target",
                f"the firmware has an image {image!r}, and the board's slots name no device for it (they name {has}); "
                "add it to 'slots: devices:' in lab.yaml",
            )
        self.other(partition)
        return sysroot() / self.devices[image][self.partitions.index(partition)].lstrip("/")


def chosen(declared: str | None) -> Slots:
    """The slots that lab.yaml declares.

    Args:
        declared: JSON with ``backend``, ``partitions``, ``names`` and ``devices``; None: a Pi with slots 2 and 3.

    Raises:
        Problem: ``bad-request``.
    """
    try:
        value = {} if declared is None else dict(json.loads(declared))
        first, second = (int(one) for one in value.get("partitions", (2, 3)))
        names = [str(one) for one in value.get("names", ("A", "B"))]
        devices = {str(image): _pair(pair) for image, pair in dict(value.get("devices", {})).items()}
    except (ValueError, TypeError, RecursionError) as exc:
        raise Problem("bad-request", f"the slots cannot be read: {exc}") from exc
    partitions = first, second
    match value.get("backend", "tryboot"):
        case "tryboot" | "virtual":
            from .tryboot import Tryboot

            return Slots(partitions=partitions, chooser=Tryboot(partitions), devices=devices)
        case "uboot":
            from .uboot import UBoot

            chooser = UBoot(dict(zip(names, partitions, strict=True)))
            return Slots(partitions=partitions, chooser=chooser, devices=devices)
        case other:
            told = f"unknown slot back-end {str(other)[:40]!r}; expected tryboot, virtual or uboot"
            raise Problem("bad-request", told)


def _pair(value: Any) -> tuple[str, str]:
    first, second = (str(one) for one in value)
    return first, second
