"""The plan of a rollout: in which steps, and by which numbers it goes on.

The shape is that of an Argo Rollouts canary, so that people who know one can read the other::

    plan: digits-canary
    seq: 4                                # grows with every edit; a plan with a lower one is refused
    environment: virtual                  # telemetry from elsewhere is refused
    artifact: sha256:…                    # optional here, then given when deciding
    baseline: sha256:…                    # likewise
    strategy:
      canary:
        steps:
          - setWeight: 10                 # percent of the devices
          - pause: {duration: 1 h}        # stay here at least so long
          - setWeight: 100
        analysis:
          minDevices: 5                   # per group; with fewer, bounds are inconclusive
          minInferences: 200              # per group
          confidence: 0.95                # of the bounds, one-sided
          metrics:
            - name: latency
              measure: p95-ratio-upper    # see `analysis`
              interval: 1 h               # optional: one measurement per hour; default: one over everything
              count: 1                    # so many measurements must be good
              successCondition: result < 2
              failureCondition: result >= 2
              failureLimit: 0
              inconclusiveLimit: 0
    rollback: {p95Ratio: 2.0, crashRate: 0.01}   # hard rules; they can be tightened, not loosened

What Argo does and we do not: a metric without conditions succeeds; a run without measurements succeeds; NaN passes a
``failureCondition`` that stands alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import FileKind, first_only, read_document
from pytest_edgehil.errors import RolloutError
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.model import quantity
from pytest_edgehil.model.board import Environment
from pytest_edgehil.rollout.condition import Condition, parse

_KIND = FileKind(
    noun="rollout plan", expected="'plan:', 'seq:' and 'strategy:'", refusal=first_only(RolloutError), anchors=True
)

HARD_P95_RATIO = 2.0
HARD_CRASH_RATE = 0.01

Measure = Literal[
    "p95-ratio",
    "p95-ratio-upper",
    "crash-rate",
    "crash-rate-upper",
    "crashes-per-hour",
    "crashes-per-hour-upper",
    "shadow-disagreement",
    "shadow-disagreement-upper",
]
"""What can be measured; see `analysis`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A share of the devices, and how long it stays at least."""

    weight_percent: int
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number that is watched; see the module's text for the fields."""

    name: str
    measure: Measure
    success: Condition
    failure: Condition | None
    interval_s: float | None
    count: int
    failure_limit: int
    inconclusive_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan, read. `digest` is that of the file's bytes."""

    name: str
    seq: int
    digest: str
    environment: Environment
    artifact: str | None
    baseline: str | None
    steps: tuple[Step, ...]
    metrics: tuple[Metric, ...]
    min_devices: int
    min_inferences: int
    confidence: float
    hard_p95_ratio: float
    hard_crash_rate: float


def _duration(text: str) -> str:
    quantity.duration_ns(text)
    return text


def _condition(text: str) -> str:
    parse(text)
    return text


_Duration = Annotated[str, AfterValidator(_duration)]
_ConditionText = Annotated[str, AfterValidator(_condition)]
_Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Pause(Section):
    duration: _Duration


class _StepEntry(Section):
    set_weight: int | None = Field(default=None, alias="setWeight", ge=1, le=100)
    pause: _Pause | None = None

    @model_validator(mode="after")
    def _one(self) -> _StepEntry:
        if (self.set_weight is None) == (self.pause is None):
            raise ValueError("a step is either setWeight or pause")
        return self


class _MetricEntry(Section):
    name: str = Field(min_length=1)
    measure: Measure
    # not optional as in Argo: a metric that cannot succeed would hold forever, one that cannot fail proves nothing
    success_condition: _ConditionText = Field(alias="successCondition")
    failure_condition: _ConditionText | None = Field(default=None, alias="failureCondition")
    interval: _Duration | None = None
    count: int = Field(default=1, ge=1)
    failure_limit: int = Field(default=0, alias="failureLimit", ge=0)
    inconclusive_limit: int = Field(default=0, alias="inconclusiveLimit", ge=0)

    @model_validator(mode="after")
    def _measurable(self) -> _MetricEntry:
        if self.interval is not None and quantity.duration_ns(self.interval) == 0:
            raise ValueError("the interval must be longer than nothing")
        if self.interval is None and self.count > 1:
            raise ValueError("count > 1 needs an interval: without one there is one measurement over everything")
        return self


class _Analysis(Section):
    min_devices: int = Field(default=5, alias="minDevices", ge=2)
    min_inferences: int = Field(default=200, alias="minInferences", ge=20)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    metrics: list[_MetricEntry] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_once(self) -> _Analysis:
        names = [one.name for one in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError("two metrics have the same name")
        return self


class _Canary(Section):
    steps: list[_StepEntry] = Field(min_length=1)
    analysis: _Analysis

    @model_validator(mode="after")
    def _rising(self) -> _Canary:
        if self.steps[0].set_weight is None:
            raise ValueError("the first step must be a setWeight")
        weights = [one.set_weight for one in self.steps if one.set_weight is not None]
        if any(later <= earlier for earlier, later in itertools.pairwise(weights)):
            raise ValueError(f"the weights {weights} must rise from step to step")
        return self


class _Strategy(Section):
    canary: _Canary


class _Rollback(Section):
    p95_ratio: float = Field(default=HARD_P95_RATIO, alias="p95Ratio", gt=1, le=HARD_P95_RATIO)
    crash_rate: float = Field(default=HARD_CRASH_RATE, alias="crashRate", gt=0, le=HARD_CRASH_RATE)


class _PlanFile(Section):
    plan: str = Field(min_length=1)
    seq: int = Field(ge=1)
    environment: Literal["hardware", "emulated", "virtual"]
    artifact: _Digest | None = None
    baseline: _Digest | None = None
    strategy: _Strategy
    rollback: _Rollback = Field(default_factory=_Rollback)


def load_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        RolloutError: missing or malformed; names file, line and path.
    """
    document = read_document(path, _KIND)
    found = checked(document, _PlanFile)
    analysis = found.strategy.canary.analysis
    return Plan(
        name=found.plan,
        seq=found.seq,
        digest=digest_of(document.raw),
        environment=Environment(found.environment),
        artifact=found.artifact,
        baseline=found.baseline,
        steps=_steps(found.strategy.canary.steps),
        metrics=tuple(_metric(one) for one in analysis.metrics),
        min_devices=analysis.min_devices,
        min_inferences=analysis.min_inferences,
        confidence=analysis.confidence,
        hard_p95_ratio=found.rollback.p95_ratio,
        hard_crash_rate=found.rollback.crash_rate,
    )


def _steps(entries: list[_StepEntry]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for entry in entries:
        if entry.set_weight is not None:
            steps.append(Step(weight_percent=entry.set_weight, pause_s=0.0))
        else:
            assert entry.pause is not None
            last = steps.pop()
            pause_s = last.pause_s + quantity.duration_ns(entry.pause.duration) / 1e9
            steps.append(Step(weight_percent=last.weight_percent, pause_s=pause_s))
    return tuple(steps)


def _metric(entry: _MetricEntry) -> Metric:
    return Metric(
        name=entry.name,
        measure=entry.measure,
        success=parse(entry.success_condition),
        failure=None if entry.failure_condition is None else parse(entry.failure_condition),
        interval_s=None if entry.interval is None else quantity.duration_ns(entry.interval) / 1e9,
        count=entry.count,
        failure_limit=entry.failure_limit,
        inconclusive_limit=entry.inconclusive_limit,
    )
