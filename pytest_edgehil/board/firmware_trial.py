"""Putting a firmware on trial: write the other slot, boot it once, have it prove itself; else the old one runs again.

Nothing here changes what the board boots by default. That happens together with the switch of the combo (`flash`),
after the trial, so that a power cut at any moment leaves the board on one whole combo.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_edgehil.board.answers import FirmwareState
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardError, DeadlineExceeded, FirmwareRejected, FlashError, LinkLost
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.model.board import Slots

if TYPE_CHECKING:
    from pytest_edgehil.board.power import Power

WRITE_S = 900.0
PROVE_S = 120.0
BOOT_S = 180.0
"""A Pi 5 boots in about 30 s; a virtual board on a loaded host may take longer than its few seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A firmware that runs on trial and has proven itself, and its partition."""

    partition: int


def try_firmware(
    session: BoardSession,
    artifact: Artifact,
    slots: Slots,
    *,
    power: Power | None = None,
    boot_timeout_s: float = BOOT_S,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Trial:
    """Write a firmware that is in the board's store to the inactive slot, boot it once and have it prove itself.

    Args:
        session: of the board; renewed on the way.
        artifact: the firmware.
        slots: of the board.
        power: to bring back a board that does not come up at all.
        boot_timeout_s: how long a boot may take.
        on_progress: told ``write`` or ``verify``, the bytes done and the bytes in all.

    Raises:
        FirmwareRejected: it did not come up or is not well; the board runs the old one again.
        FlashError: the board's slots are not as described, or it would not reboot.
        DeadlineExceeded, LinkLost: the board did not come back at all.
    """
    board_id = session.board.id
    before = session.client.status().firmware
    if before.partition not in slots.partitions:
        raise FlashError(
            f"{board_id}: partition {before.partition} is running, but lab.yaml says the slots are {slots.partitions}"
        )
    if before.partition != before.default_partition:
        raise FlashError(f"{board_id}: partition {before.partition} is on trial; leave the trial first")
    running = before.partition
    trial = next(one for one in slots.partitions if one != running)
    asked = {"digest": artifact.digest, "partition": trial}
    session.client.request("firmware-write", asked, timeout_s=WRITE_S, on_progress=on_progress)
    try:
        _reboot(session, trial=trial, timeout_s=boot_timeout_s)
    except DeadlineExceeded as problem:
        _revive(session, power, boot_timeout_s, artifact, cause=problem)
        raise FirmwareRejected(
            f"{board_id}: {artifact.label} did not come up within {boot_timeout_s:g} s; after a power cycle "
            f"{_says(session.client.status().firmware)} runs again"
        ) from problem
    proof = session.client.request("firmware-prove", asked, timeout_s=PROVE_S)
    reasons = [str(one) for one in proof.items("reasons")]
    if reasons:
        if proof.integer_or_none("partition") != running:
            _reboot(session, trial=None, timeout_s=boot_timeout_s)
        now = session.client.status().firmware
        raise FirmwareRejected(
            f"{board_id}: {artifact.label} was tried on partition {trial} and rejected: {'; '.join(reasons)}; "
            f"{_says(now)} runs again"
        )
    return Trial(partition=trial)


def leave_trial(session: BoardSession, *, boot_timeout_s: float = BOOT_S) -> bool:
    """If the board runs a firmware on trial that nobody ever committed, go back to the one that boots by default.

    Returns:
        Was there such a trial? (Its pusher died, or lost the link.)
    """
    firmware = session.client.status().firmware
    if firmware.default_partition is None or firmware.partition in {None, firmware.default_partition}:
        return False
    _reboot(session, trial=None, timeout_s=boot_timeout_s)
    return True


def _reboot(session: BoardSession, *, trial: int | None, timeout_s: float) -> None:
    boot_id = session.client.hello.boot_id
    with contextlib.suppress(LinkLost, DeadlineExceeded):  # the board may be gone before it has answered
        session.client.request("reboot", {"trial": trial}, timeout_s=60.0)
    session.renew(old_boot_id=boot_id, timeout_s=timeout_s)


def _revive(
    session: BoardSession, power: Power | None, timeout_s: float, artifact: Artifact, *, cause: BoardError
) -> None:
    if power is None:
        raise FirmwareRejected(
            f"{session.board.id}: {artifact.label} did not come up, and there is no power switch to go back with; "
            "cut the power by hand: the board then boots the old firmware"
        ) from cause
    power.cycle()
    session.renew(old_boot_id=None, timeout_s=timeout_s)


def _says(state: FirmwareState) -> str:
    what = f"{state.name} {state.version}" if state.name else "an unnamed firmware"
    return f"{what} on partition {state.partition}"
