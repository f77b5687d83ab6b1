"""Canary analysis: what the groups show, held against a plan's conditions.

Measures (canary against control where there is a ratio):

==========================  ==========================================================================================
``p95-ratio``               p95 of the canaries' latency over that of the controls, every device weighing the same
``p95-ratio-upper``         its one-sided upper confidence bound, by a bootstrap over *devices*
``crash-rate[-upper]``      crashes per session of the canaries; upper: Clopper-Pearson
``crashes-per-hour[-upper]``  crashes per device-hour of the canaries; upper: exact Poisson
``shadow-disagreement[-upper]``  answers that differ from the other artifact's; upper: Clopper-Pearson
==========================  ==========================================================================================

Devices, not requests, are resampled: requests of one device are alike. A test over requests (Mann-Whitney as in
Kayenta) rejected 27 to 63 % of rollouts in which nothing had changed, and missed most slow tails. Percentile
bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap, ch. 13; with few devices its bounds are too narrow,
hence ``minDevices``. Zero crashes in 299 sessions are needed to show a rate below 1 % at 95 %.

A measurement is `ok`, `failure`, `inconclusive` (NaN, or neither condition true) or `error` (no data). A metric:
more failures than its limit → Failed; else any error, too many inconclusive or too few ok → Inconclusive; else
Successful.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # not `stats`, which takes most of a second to import

from pytest_edgehil.rollout.plan import Measure, Metric, Plan
from pytest_edgehil.rollout.telemetry import Report

RESAMPLES = 2000
_SEED = 20260  # fixed: the same telemetry must always give the same decision
_POINTS_PER_DEVICE = 1000
_CHUNK = 50


class Phase(enum.StrEnum):
    """What became of a metric, in Argo's words."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


class Grade(enum.StrEnum):
    """What one measurement counts as."""

    OK = "ok"
    FAILURE = "failure"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number. `value` is None when there was no data, NaN when there was too little."""

    value: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricResult:
    """What became of one metric, and why."""

    name: str
    measure: str
    phase: Phase
    reason: str
    measurements: tuple[Measurement, ...]
    grades: tuple[Grade, ...]


def analyse(plan: Plan, reports: Sequence[Report]) -> tuple[MetricResult, ...]:
    """Every metric of the plan."""
    return tuple(
        judge(one, [measure(one.measure, window, plan) for window in _windows(reports, one.interval_s)])
        for one in plan.metrics
    )


def judge(metric: Metric, measurements: Sequence[Measurement]) -> MetricResult:
    """Grade the measurements and count them."""
    grades = tuple(_grade(metric, one) for one in measurements)
    count = {grade: grades.count(grade) for grade in Grade}
    if count[Grade.FAILURE] > metric.failure_limit:
        phase = Phase.FAILED
    elif count[Grade.ERROR] or count[Grade.INCONCLUSIVE] > metric.inconclusive_limit or count[Grade.OK] < metric.count:
        phase = Phase.INCONCLUSIVE
    else:
        phase = Phase.SUCCESSFUL
    return MetricResult(
        name=metric.name,
        measure=metric.measure,
        phase=phase,
        reason=_reason(metric, measurements, grades),
        measurements=tuple(measurements),
        grades=grades,
    )


def hard_rules(plan: Plan, reports: Sequence[Report]) -> tuple[str, ...]:
    """Reasons to roll back whatever the plan's metrics say: on point estimates, erring towards safety."""
    reasons = []
    ratio = measure("p95-ratio", reports, plan).value
    if ratio is not None and ratio > plan.hard_p95_ratio:
        reasons.append(f"p95 latency is {ratio:.3g} times the baseline's, more than {plan.hard_p95_ratio:g}")
    rate = measure("crash-rate", reports, plan).value
    if rate is not None and rate > plan.hard_crash_rate:
        crashes, sessions = _sum(reports, "crashes"), _sum(reports, "sessions")
        reasons.append(f"{crashes} of {sessions} sessions crashed, more than {plan.hard_crash_rate:.3g} of them")
    return tuple(reasons)


def measure(name: Measure, reports: Sequence[Report], plan: Plan) -> Measurement:
    """Take one measurement of the canaries (and the controls, where there is a ratio)."""
    if name.startswith("p95-ratio"):
        return _p95_ratio(reports, plan, upper=name.endswith("-upper"))
    if name.startswith("crashes-per-hour"):
        crashes = _sum(reports, "crashes")
        hours = sum(one.device_hours for one in reports if one.group == "canary")
        if hours <= 0:
            return Measurement(value=None, note="the canaries ran for no time")
        value = poisson_upper(crashes, hours, plan.confidence) if name.endswith("-upper") else crashes / hours
        return Measurement(value=value, note=f"{crashes} crashes in {hours:.3g} device-hours")
    hit, of = ("shadow_disagreements", "shadow_compared") if name.startswith("shadow") else ("crashes", "sessions")
    k, n = _sum(reports, hit), _sum(reports, of)
    if n == 0:
        return Measurement(value=None, note=f"the canaries report no {of.replace('_', ' ')}")
    value = binomial_upper(k, n, plan.confidence) if name.endswith("-upper") else k / n
    return Measurement(value=value, note=f"{k} of {n}")


def binomial_upper(k: int, n: int, confidence: float) -> float:
    """Clopper-Pearson one-sided upper bound of a probability.

    >>> binomial_upper(0, 299, 0.95) < 0.01 < binomial_upper(0, 298, 0.95)
    True
    """
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, confidence))


def poisson_upper(k: int, exposure: float, confidence: float) -> float:
    """Exact one-sided upper bound of a Poisson rate (Garwood 1936).

    >>> round(poisson_upper(0, 300, 0.95), 5)
    0.00999
    """
    return float(special.gammaincinv(k + 1, confidence) / exposure)


def p95_ratio(canary: Sequence[npt.NDArray[np.int64]], control: Sequence[npt.NDArray[np.int64]]) -> float:
    """p95 of the canaries over that of the controls, every device weighing the same.

    Args:
        canary: latencies per device, each of shape (n,), int64, not empty.
        control: likewise.
    """
    one, other = _Group(canary), _Group(control)
    return float(one.p95(np.ones((1, len(canary))))[0] / other.p95(np.ones((1, len(control))))[0])


def p95_ratio_upper(
    canary: Sequence[npt.NDArray[np.int64]], control: Sequence[npt.NDArray[np.int64]], confidence: float
) -> float:
    """One-sided upper confidence bound of `p95_ratio`, by resampling devices in both groups."""
    rng = np.random.default_rng(_SEED)
    ratios = _Group(canary).resampled_p95(rng) / _Group(control).resampled_p95(rng)
    return float(np.quantile(ratios, confidence, method="higher"))


class _Group:
    """The latencies of a group's devices, sorted once, for weighted quantiles of many resamples."""

    def __init__(self, devices: Sequence[npt.NDArray[np.int64]]) -> None:
        # order statistics of a device, evenly spaced: as good for a p95, and bounded in size
        points = [np.sort(one)[_evenly(one.size)] for one in devices]
        values = np.concatenate(points)
        order = np.argsort(values, kind="stable")
        self._values = values[order].astype(np.float64)
        self._device = np.repeat(np.arange(len(points)), [one.size for one in points])[order]
        self._share = np.array([1.0 / one.size for one in points])
        self._devices = len(points)

    def p95(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Args: weights: shape (b, devices). Returns: shape (b,)."""
        cumulated = np.cumsum((weights * self._share)[:, self._device], axis=1)
        reached = cumulated >= 0.95 * cumulated[:, -1:] - 1e-9
        return np.asarray(self._values[np.argmax(reached, axis=1)], dtype=np.float64)

    def resampled_p95(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        picks = rng.multinomial(self._devices, np.full(self._devices, 1 / self._devices), size=RESAMPLES)
        chunks = [self.p95(picks[i : i + _CHUNK].astype(np.float64)) for i in range(0, RESAMPLES, _CHUNK)]
        return np.concatenate(chunks)


def _evenly(size: int) -> npt.NDArray[np.intp]:
    if size <= _POINTS_PER_DEVICE:
        return np.arange(size)
    return np.round(np.linspace(0, size - 1, _POINTS_PER_DEVICE)).astype(np.intp)


def _p95_ratio(reports: Sequence[Report], plan: Plan, *, upper: bool) -> Measurement:
    canary, control = _per_device(reports, "canary"), _per_device(reports, "control")
    for name, group in (("canaries", canary), ("controls", control)):
        if not group:
            return Measurement(value=None, note=f"no latencies of {name}")
    for name, group in (("canaries", canary), ("controls", control)):
        n = sum(one.size for one in group)
        if n < plan.min_inferences:
            return Measurement(value=math.nan, note=f"{n} latencies of {name}, {plan.min_inferences} are needed")
        if upper and len(group) < plan.min_devices:
            return Measurement(value=math.nan, note=f"{len(group)} {name}, {plan.min_devices} are needed for a bound")
    ratio = p95_ratio(canary, control)
    if not upper:
        return Measurement(value=ratio, note=f"{len(canary)} canaries, {len(control)} controls")
    bound = p95_ratio_upper(canary, control, plan.confidence)
    return Measurement(value=bound, note=f"ratio {ratio:.3g}, {len(canary)} canaries, {len(control)} controls")


def _per_device(reports: Sequence[Report], group: str) -> list[npt.NDArray[np.int64]]:
    found: dict[str, list[npt.NDArray[np.int64]]] = {}
    for one in reports:
        if one.group == group and one.latencies_ns.size:
            found.setdefault(one.device, []).append(one.latencies_ns)
    return [np.concatenate(found[device]) for device in sorted(found)]


def _sum(reports: Sequence[Report], name: str) -> int:
    return sum(int(getattr(one, name)) for one in reports if one.group == "canary")


def _windows(reports: Sequence[Report], interval_s: float | None) -> Iterator[Sequence[Report]]:
    if interval_s is None or not reports:
        yield reports
        return
    begin = min(one.started_at for one in reports)
    numbers = [int((one.started_at - begin) // interval_s) for one in reports]
    for window in range(max(numbers) + 1):
        # an empty window in between yields no data, which is an error, not a success
        yield [one for one, number in zip(reports, numbers, strict=True) if number == window]


def _grade(metric: Metric, one: Measurement) -> Grade:
    if one.value is None:
        return Grade.ERROR
    if math.isnan(one.value):  # before any condition: "not (result > 2)" is true of NaN
        return Grade.INCONCLUSIVE
    if metric.failure is not None and metric.failure.holds(one.value):
        return Grade.FAILURE
    return Grade.OK if metric.success.holds(one.value) else Grade.INCONCLUSIVE


def _reason(metric: Metric, measurements: Sequence[Measurement], grades: Sequence[Grade]) -> str:
    if len(measurements) == 1:
        one = measurements[0]
        value = "no data" if one.value is None else "too little data" if math.isnan(one.value) else f"{one.value:.4g}"
        asked = {
            Grade.OK: f"as asked: {metric.success.text}",
            Grade.FAILURE: f"a failure: {metric.failure.text}" if metric.failure else "a failure",
            Grade.INCONCLUSIVE: f"asked: {metric.success.text}",
            Grade.ERROR: f"asked: {metric.success.text}",
        }[grades[0]]
        note = f" ({one.note})" if one.note else ""
        return f"{metric.measure} {value}{note}; {asked}"
    counts = ", ".join(f"{grades.count(grade)} {grade}" for grade in Grade if grades.count(grade))
    return f"{metric.measure} measured {len(measurements)} times: {counts}; {metric.count} ok are needed"
