"""A combo onto a board: plan what differs, send it, try the firmware, switch to all of it at once.

The plan is a value and is made without touching the board, so it can be shown before anything happens. Order: every
bundle is on the board, verified and unpacked there, before anything is switched; a new firmware proves itself before;
then one request commits the firmware and switches the combo, with a journal on the board for the moment in between.
What the board already has is not sent, what it already runs is not flashed, what is active is not activated.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_edgehil.board.answers import BoardStatus
from pytest_edgehil.board.delivery import Delivery, Way, deliver
from pytest_edgehil.board.firmware_trial import BOOT_S, Trial, try_firmware
from pytest_edgehil.board.fit import check_fit
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import FlashError
from pytest_edgehil.model.artifact import Artifact, Combo

if TYPE_CHECKING:
    from pytest_edgehil.board.power import Power

FlashPhase = Literal["send", "write", "verify"]

INSTALL_S = 600.0
ACTIVATE_S = 120.0


class StepKind(enum.StrEnum):
    """What a step does."""

    PUSH = "push"
    INSTALL = "install"
    FIRMWARE = "firmware"
    ACTIVATE = "activate"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashStep:
    """One step; `artifact` is None for the switch, which concerns all of them."""

    kind: StepKind
    artifact: Artifact | None
    bytes_to_send: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashPlan:
    """What has to happen so that the board is on this combo; no steps when it already is."""

    combo: Combo
    steps: tuple[FlashStep, ...]
    held: frozenset[str] = frozenset()
    """Digests of what the board has: a delta may be made from it."""

    @property
    def bytes_to_send(self) -> int:
        """Of all steps."""
        return sum(step.bytes_to_send for step in self.steps)

    def describe(self) -> str:
        """For people, one line."""
        if not self.steps:
            return f"{self.combo.label} is on the board already"
        told = [f"{step.kind} {step.artifact.label}" if step.artifact else str(step.kind) for step in self.steps]
        return f"{', '.join(told)} ({self.bytes_to_send} bytes to send)"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashProgress:
    """How far one artifact is: sent to the board, written to a slot, or read back from it.

    Args:
        artifact: which.
        sent_bytes: of the bundle, with what was there from a push that was cut; of a delta, its share. In a slot: of
            what is written or read back.
        total_bytes: of the bundle, or of what goes into the slot.
        rate_bytes_per_s: of the link; None until it is known, and in a slot.
        phase: what is going on.
    """

    artifact: Artifact
    sent_bytes: int
    total_bytes: int
    rate_bytes_per_s: float | None = None
    phase: FlashPhase = "send"

    @property
    def label(self) -> str:
        """Of the artifact."""
        return self.artifact.label


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashReport:
    """What was done.

    Args:
        sent_bytes: of bundles and deltas.
        deliveries: how each bundle that was not there has got there.
        skipped: labels of artifacts that the board had already.
        activated: was the combo switched?
        firmware_rebooted: was a firmware tried and committed?
    """

    sent_bytes: int
    skipped: tuple[str, ...]
    duration_s: float
    activated: bool
    firmware_rebooted: bool
    deliveries: tuple[Delivery, ...] = ()


def plan_flash(combo: Combo, status: BoardStatus) -> FlashPlan:
    """What differs between a combo and what is on the board."""
    steps: list[FlashStep] = []
    active = dict(status.combo) == combo.digests
    new_firmware = combo.firmware is not None and status.firmware.digest != combo.firmware.digest
    if combo.artifacts and (not active or new_firmware):
        steps += [
            FlashStep(kind=StepKind.PUSH, artifact=artifact, bytes_to_send=artifact.size_bytes)
            for artifact in combo.artifacts
            if artifact.digest not in status.store
        ]
        steps += [FlashStep(kind=StepKind.INSTALL, artifact=artifact) for artifact in combo.artifacts]
        if new_firmware:
            steps.append(FlashStep(kind=StepKind.FIRMWARE, artifact=combo.firmware))
        steps.append(FlashStep(kind=StepKind.ACTIVATE, artifact=None))
    return FlashPlan(combo=combo, steps=tuple(steps), held=status.store)


def flash(
    plan: FlashPlan,
    session: BoardSession,
    *,
    power: Power | None = None,
    way: Way | None = None,
    on_progress: Callable[[FlashProgress], None] | None = None,
    boot_timeout_s: float = BOOT_S,
    clock: Callable[[], float] = time.monotonic,
) -> FlashReport:
    """Carry out a plan.

    Args:
        plan: from `plan_flash`.
        session: of the board; its client is another one afterwards if a firmware was tried.
        power: to bring back a board whose firmware does not come up.
        way: deltas, bandwidth, compression.
        on_progress: told how far the sending is, and the writing of a slot.
        boot_timeout_s: how long a boot may take.
        clock: monotonic seconds.

    Raises:
        WrongTarget: the combo does not fit the board; lists every clash.
        RuntimeMissing: the board lacks a runtime that its description promises.
        DiskFull, FirmwareRejected, FlashError: the board is on the combo that it was on before.
        BoardError: the link; the board is on the old or on the new combo, never between them.
    """
    started = clock()
    check_fit(plan.combo, session)
    trial: Trial | None = None
    pushed = {one.artifact.digest for one in plan.steps if one.kind is StepKind.PUSH and one.artifact}
    deliveries: list[Delivery] = []
    for step in plan.steps:
        match step.kind, step.artifact:
            case StepKind.PUSH, Artifact() as artifact:
                told = of_sending(artifact, on_progress)
                deliveries.append(deliver(session, artifact, held=plan.held, way=way, on_sent=told))
            case StepKind.INSTALL, Artifact() as artifact:
                asked = {"digest": artifact.digest, "just_pushed": artifact.digest in pushed}
                session.client.request("install", asked, timeout_s=INSTALL_S)
            case StepKind.FIRMWARE, Artifact() as artifact:
                trial = _try(session, artifact, power=power, boot_timeout_s=boot_timeout_s, told=on_progress)
            case StepKind.ACTIVATE, _:
                _activate(session, plan.combo, trial)
    return FlashReport(
        sent_bytes=sum(one.sent_bytes for one in deliveries),
        skipped=tuple(one.label for one in plan.combo.artifacts if one.digest not in pushed),
        duration_s=clock() - started,
        activated=any(step.kind is StepKind.ACTIVATE for step in plan.steps),
        firmware_rebooted=trial is not None,
        deliveries=tuple(deliveries),
    )


def _try(
    session: BoardSession,
    artifact: Artifact,
    *,
    power: Power | None,
    boot_timeout_s: float,
    told: Callable[[FlashProgress], None] | None,
) -> Trial:
    slots = session.board.slots
    if slots is None:
        raise FlashError(f"{session.board.id}: no firmware slots are configured; add 'slots:' to the board in lab.yaml")
    return try_firmware(
        session, artifact, slots, power=power, boot_timeout_s=boot_timeout_s, on_progress=_told_of_slot(artifact, told)
    )


def _activate(session: BoardSession, combo: Combo, trial: Trial | None) -> None:
    asked: dict[str, object] = {"combo": combo.digests, "board_class": session.board.cls}
    if trial is not None:
        asked |= {"partition": trial.partition}
    session.client.request("activate", asked, timeout_s=ACTIVATE_S)
    now = session.client.status()
    if dict(now.combo) != combo.digests:
        raise FlashError(f"{session.board.id}: the board says it is on {dict(now.combo)}, expected {combo.digests}")


def of_sending(
    artifact: Artifact, on_progress: Callable[[FlashProgress], None] | None
) -> Callable[[int, float | None], None] | None:
    """What `deliver` tells, as progress of one artifact."""
    if on_progress is None:
        return None

    def told(sent_bytes: int, rate: float | None) -> None:
        on_progress(
            FlashProgress(
                artifact=artifact, sent_bytes=sent_bytes, total_bytes=artifact.size_bytes, rate_bytes_per_s=rate
            )
        )

    return told


def _told_of_slot(
    artifact: Artifact, on_progress: Callable[[FlashProgress], None] | None
) -> Callable[[str, int, int], None] | None:
    if on_progress is None:
        return None

    def told(phase: str, done_bytes: int, total_bytes: int) -> None:
        known: FlashPhase = "verify" if phase == "verify" else "write"
        on_progress(FlashProgress(artifact=artifact, sent_bytes=done_bytes, total_bytes=total_bytes, phase=known))

    return told
