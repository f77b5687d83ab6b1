"""The decision: promote, hold or roll back, and why.

Any hard rule broken or any metric Failed → roll back. Every metric Successful, and the pause over → promote. Anything
else → hold: no data, too little data, NaN. Telemetry counts from the beginning of the present step, so that what led
to one promotion cannot lead to the next.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_edgehil.errors import RolloutError
from pytest_edgehil.model import quantity
from pytest_edgehil.rollout.analysis import MetricResult, Phase, analyse, hard_rules
from pytest_edgehil.rollout.plan import Plan
from pytest_edgehil.rollout.telemetry import Telemetry


class Move(enum.StrEnum):
    """Where the rollout goes."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True, kw_only=True)
class PastDecision:
    """What a later decision needs to know of an earlier one.

    Args:
        complete: the artifact is on all devices that the plan reaches.
    """

    number: int
    plan: str
    seq: int
    plan_digest: str
    artifact: str
    move: Move
    complete: bool
    decided_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision with everything that led to it.

    Args:
        weight_from, weight_to: percent of the devices before and after.
        complete: a promotion beyond the last step.
        telemetry: file name → digest.
        devices: how many reported in this step: (canaries, controls).
        actor: who asked for the decision.
        decided_at: Unix time, seconds.
    """

    move: Move
    reasons: tuple[str, ...]
    plan: Plan
    artifact: str
    baseline: str | None
    weight_from: int
    weight_to: int
    complete: bool
    metrics: tuple[MetricResult, ...]
    hard: tuple[str, ...]
    telemetry: Mapping[str, str]
    devices: tuple[int, int]
    actor: str
    decided_at: float


def decide(
    plan: Plan,
    telemetry: Telemetry,
    *,
    artifact: str,
    baseline: str | None,
    history: Sequence[PastDecision],
    now: float,
    actor: str,
) -> Decision:
    """Decide on the next step.

    Args:
        plan: the plan.
        telemetry: what the devices reported (see `telemetry.read_telemetry`).
        artifact: digest of what is rolled out.
        baseline: digest of what it is compared with, if known.
        history: every earlier decision of the ledger.
        now: Unix time, seconds.
        actor: who asks.

    Raises:
        RolloutError: the plan is older than one that was decided on, was changed without a new seq, or is over for
            this artifact.
    """
    past = _own_history(plan, artifact, history)
    promotions = [one for one in past if one.move is Move.PROMOTE]
    step = plan.steps[len(promotions)]
    if promotions:
        began_at = promotions[-1].decided_at
        telemetry = telemetry.since(began_at)
    else:
        began_at = min((one.started_at for one in telemetry.reports), default=now)
    metrics = analyse(plan, telemetry.reports)
    hard = hard_rules(plan, telemetry.reports)
    failed = [one for one in metrics if one.phase is Phase.FAILED]
    undecided = [one for one in metrics if one.phase is Phase.INCONCLUSIVE]
    left_s = began_at + step.pause_s - now
    last = len(promotions) == len(plan.steps) - 1
    if hard or failed:
        move, weight_to = Move.ROLL_BACK, 0
        reasons = [*hard, *(f"{one.name}: {one.reason}" for one in failed)]
    elif undecided or left_s > 0:
        move, weight_to = Move.HOLD, step.weight_percent
        reasons = [f"{one.name}: {one.reason}" for one in undecided]
        if left_s > 0:
            reasons.append(f"the pause of this step lasts another {quantity.format_duration(left_s * 1e9)}")
    else:
        move = Move.PROMOTE
        weight_to = 100 if last else plan.steps[len(promotions) + 1].weight_percent
        reasons = [f"{one.name}: {one.reason}" for one in metrics]
    groups = {"canary": set[str](), "control": set[str]()}
    for one in telemetry.reports:
        groups[one.group].add(one.device)
    return Decision(
        move=move,
        reasons=tuple(reasons),
        plan=plan,
        artifact=artifact,
        baseline=baseline,
        weight_from=step.weight_percent,
        weight_to=weight_to,
        complete=move is Move.PROMOTE and last,
        metrics=metrics,
        hard=hard,
        telemetry=telemetry.digests,
        devices=(len(groups["canary"]), len(groups["control"])),
        actor=actor,
        decided_at=now,
    )


def _own_history(plan: Plan, artifact: str, history: Sequence[PastDecision]) -> list[PastDecision]:
    for one in history:
        if one.plan != plan.name:
            continue
        if one.seq > plan.seq:
            raise RolloutError(
                f"plan {plan.name}: its seq is {plan.seq}, but decision {one.number} was made on seq {one.seq}; "
                f"this is an old plan"
            )
        if one.seq == plan.seq and one.plan_digest != plan.digest:
            raise RolloutError(f"plan {plan.name}: it was changed since decision {one.number}; raise its seq")
    past = [one for one in history if one.plan_digest == plan.digest and one.artifact == artifact]
    for one in past:
        if one.move is Move.ROLL_BACK:
            raise RolloutError(
                f"plan {plan.name}: decision {one.number} rolled {artifact[:19]}… back; "
                f"to try it again raise the plan's seq"
            )
        if one.complete:
            raise RolloutError(f"plan {plan.name}: decision {one.number} has brought {artifact[:19]}… to all devices")
    return past
