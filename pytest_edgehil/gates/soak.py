"""`soak`: does the model run for long, without crashing, without growing?

Up to four statements in one verdict: it ran for the whole duration; its process had to be restarted never, or at most
at a rate; its memory grows at most so fast; and it never held more than so much. A statement that is broken fails at
once. PASS needs the whole duration, whatever was clear before.

*Crash rate.* A trial is a stretch of the soak, 10 s long unless `crash_trial` says otherwise: ``crash_rate=0.01``
states that at most 1 % of such stretches contain a crash. Crashes are counted, not placed: two in one stretch count
twice.

*Overridden durations.* A run may replace the declared duration (``--edgehil-soak``). The verdict states both, and what
the shorter one cannot decide stays INCONCLUSIVE.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.memory import peak_bytes
from pytest_edgehil.model.quantity import (
    byte_rate_per_hour,
    format_duration,
    format_number,
    format_size,
    size_bytes,
)
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

SLICE_S = 60.0
LEAK_NEEDS_NS = 30 * 60 * 10**9
"""A leak within its budget can be told from warming up no earlier (see `stats.leak.FIRST_PASS_S`)."""
_WORST_FIRST = (Outcome.INVALID, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """One of the statements of a soak, as far as it is known.

    Args:
        hopeless: undecided, and no longer soak of this kind will change that.
        observed, budget, unit, interval: as in `Verdict`; None where the statement has no number.
    """

    outcome: Outcome
    said: str
    hopeless: bool = False
    observed: float | None = None
    budget: float | None = None
    unit: str = "s"
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """The marker's arguments.

    Args:
        duration_ns: declared duration.
        alpha: error rate of each side of the leak and of the crash rate.
        override_ns: duration that the run put in its place, or None.
        leak_bytes_per_h: largest growth of memory, or None.
        crash_rate: largest share of trials with a crash; None allows no crash in this soak and states no rate.
        crash_trial_ns: length of a trial.
        peak_rss_bytes: most memory at any time, or None.
    """

    duration_ns: int
    alpha: float
    override_ns: int | None = None
    leak_bytes_per_h: float | None = None
    crash_rate: float | None = None
    crash_trial_ns: int = 10 * 10**9
    peak_rss_bytes: int | None = None
    name: ClassVar[str] = "soak"

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    @property
    def statements(self) -> int:
        """See `gate.statements`: the leak and the crash rate; duration, memory and "no crash at all" are counted."""
        return sum(one is not None for one in (self.leak_bytes_per_h, self.crash_rate))

    @property
    def required_ns(self) -> int:
        """How long must be measured."""
        return self.duration_ns if self.override_ns is None else self.override_ns

    def demand(self, sample: Sample) -> Demand | None:
        """Seconds, a minute at a time, so that what goes wrong is noticed within a minute."""
        if self.evaluate(sample).decided:
            return None
        return Demand(seconds=min(SLICE_S, self.required_ns / 1e9 - sample.duration_s))

    def evaluate(self, sample: Sample) -> Verdict:
        """Put the statements together: the worst of them is the verdict; see ``docs/explanation/statistics.md``."""
        ended = sample.duration_s * 1e9 >= self.required_ns
        statements = [self._duration(sample, ended=ended), self._crashes(sample, ended=ended)]
        statements += [self._peak(sample, ended=ended)] if self.peak_rss_bytes is not None else []
        statements += (
            [self._leak(sample, self.leak_bytes_per_h, ended=ended)] if self.leak_bytes_per_h is not None else []
        )
        rebooted = validity.reboot(sample)
        if rebooted.trouble is not None:
            statements.append(_Statement(outcome=Outcome.INVALID, said=f"not usable: {rebooted.trouble}"))
        outcome = min((one.outcome for one in statements), key=_WORST_FIRST.index)
        deciding = [one for one in statements if one.outcome is outcome]
        shown = next((one for one in reversed(deciding) if one.observed is not None), statements[0])
        told = statements if outcome is Outcome.PASS else deciding
        reason = "; ".join(one.said for one in told if one.said)
        decided = outcome is not Outcome.INCONCLUSIVE or ended or any(one.hopeless for one in deciding)
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=shown.observed,
            budget=shown.budget,
            interval=shown.interval,
            unit=shown.unit,
            n=sample.n,
            reason=reason + self._overridden() + validity.provenance(sample),
            decided=decided,
            not_checked=self._unseen(sample, rebooted.unseen),
            statistics=self._figures(sample),
        )

    def _duration(self, sample: Sample, *, ended: bool) -> _Statement:
        ran = format_duration(sample.duration_s * 1e9)
        required = format_duration(self.required_ns)
        figures: dict[str, Any] = {"observed": sample.duration_s, "budget": self.required_ns / 1e9}
        if sample.conditions is None or sample.n == 0:
            return _Statement(outcome=Outcome.INCONCLUSIVE, said="nothing ran yet", **figures)
        if not ended:
            return _Statement(outcome=Outcome.INCONCLUSIVE, said=f"{ran} of {required} so far", **figures)
        return _Statement(outcome=Outcome.PASS, said=f"ran for {ran} ({sample.n} inferences)", **figures)

    def _crashes(self, sample: Sample, *, ended: bool) -> _Statement:
        crashes = 0 if sample.conditions is None else sample.conditions.restarts
        times = f"{crashes or 'no'} crash{'' if crashes == 1 else 'es'} of the model's process"
        if self.crash_rate is None:
            if crashes:
                ran = format_duration(sample.duration_s * 1e9)
                return _Statement(outcome=Outcome.FAIL, said=f"{times} within {ran}, where none may be")
            return _Statement(outcome=Outcome.PASS, said="without a crash")
        return self._crash_rate(sample, crashes, times, self.crash_rate, ended=ended)

    def _crash_rate(self, sample: Sample, crashes: int, times: str, rate: float, *, ended: bool) -> _Statement:
        from pytest_edgehil.gates.stats.binomial import clopper_pearson, last_chance
        from pytest_edgehil.gates.stats.eprocess import log_e_fail, rate_interval

        trials = max(int(sample.duration_s * 1e9 // self.crash_trial_ns), crashes)
        stretch = format_duration(self.crash_trial_ns)
        counted = f"{times} in {trials} stretches of {stretch}"
        allowed = f"{format_number(100 * rate)}% of the stretches"
        low, high = rate_interval(trials, crashes, self.alpha) if trials else (0.0, 1.0)
        if ended and trials:
            low, high = clopper_pearson(trials, crashes, self.alpha)
        figures: dict[str, Any] = {"unit": "fraction", "budget": rate, "interval": (low, high)}
        figures["observed"] = crashes / trials if trials else 0.0
        if trials and float(log_e_fail(trials, crashes, rate)) >= math.log(1.0 / self.alpha):
            return _Statement(outcome=Outcome.FAIL, said=f"{counted}, where {allowed} may contain a crash", **figures)
        if not ended:
            return _Statement(outcome=Outcome.INCONCLUSIVE, said=f"{counted} so far", **figures)
        # PASS is given at the end only, so the whole error rate goes into one exact test.
        most, _ = last_chance(trials, rate, self.alpha, at=()) if trials else (-1, 0)
        if crashes <= most:
            return _Statement(
                outcome=Outcome.PASS, said=f"{counted}, which shows a crash in at most {allowed}", **figures
            )
        return _Statement(
            outcome=Outcome.INCONCLUSIVE,
            said=f"{counted}, too few to show a crash in at most {allowed} (up to {format_number(100 * high)}% may)",
            **figures,
        )

    def _peak(self, sample: Sample, *, ended: bool) -> _Statement:
        assert self.peak_rss_bytes is not None
        peak = peak_bytes(sample)
        budget = format_size(self.peak_rss_bytes, digits=4)
        if peak is None:
            return _Statement(outcome=Outcome.INCONCLUSIVE, said="the board reported no memory", hopeless=sample.n > 0)
        figures: dict[str, Any] = {"unit": "bytes", "observed": float(peak), "budget": float(self.peak_rss_bytes)}
        held = format_size(peak, digits=4)
        if peak > self.peak_rss_bytes:
            return _Statement(outcome=Outcome.FAIL, said=f"peak RSS {held} exceeds {budget}", **figures)
        swapped = max((one.swap_bytes or 0 for one in sample.readings), default=0)
        if peak + swapped > self.peak_rss_bytes:
            said = f"peak RSS {held} is within {budget}, but {format_size(swapped)} were swapped out"
            return _Statement(outcome=Outcome.INCONCLUSIVE, said=said, **figures)
        outcome = Outcome.PASS if ended else Outcome.INCONCLUSIVE
        return _Statement(outcome=outcome, said=f"peak RSS {held} within {budget}", **figures)

    def _leak(self, sample: Sample, budget_per_h: float, *, ended: bool) -> _Statement:
        import numpy as np

        from pytest_edgehil.gates.stats import leak

        readings = [one for one in sample.readings if one.rss_bytes is not None]
        budget = f"{format_size(budget_per_h)}/h"
        figures: dict[str, Any] = {"unit": "bytes/h", "budget": budget_per_h}
        if sample.readings and not readings:
            return _Statement(
                outcome=Outcome.INCONCLUSIVE, said="a leak: the board reports no RSS", hopeless=True, **figures
            )
        if sample.conditions is not None and sample.conditions.restarts:
            return _Statement(
                outcome=Outcome.INCONCLUSIVE,
                said="a leak cannot be told, for the model's process was restarted in between",
                **figures,
            )
        at_s = np.array([one.at_s for one in readings])
        at_s = np.concatenate(([0.0], np.cumsum(np.maximum(np.diff(at_s), 0.0)))) if at_s.size else at_s
        held = np.array([(one.rss_bytes or 0) + (one.swap_bytes or 0) for one in readings], dtype=np.float64)
        found = leak.look(
            at_s,
            held,
            budget_per_h=budget_per_h,
            duration_s=self.required_ns / 1e9,
            alpha=self.alpha,
            resolution=16384.0 if sample.conditions is None else float(sample.conditions.page_size_bytes),
        )
        if found is None:
            ran = format_duration(float(at_s[-1]) * 1e9 if at_s.size else 0.0)
            said = (
                f"a leak cannot be told from warming up within {ran} (at least {format_duration(LEAK_NEEDS_NS)} needed)"
            )
            return _Statement(outcome=Outcome.INCONCLUSIVE, said=said, **figures)
        figures |= {"observed": found.estimate, "interval": (found.low, found.high)}
        when = f"at minute {found.at_s / 60:.0f}"
        grows = (
            f"memory grows by {_rate(found.estimate)} (between {_rate(found.low)} and {_rate(found.high)}, {when}, "
            f"error rate {format_number(100 * self.alpha)}%)"
        )
        if found.decision == "above":
            return _Statement(outcome=Outcome.FAIL, said=f"{grows}, more than {budget}", **figures)
        if found.decision == "below":
            return _Statement(outcome=Outcome.PASS, said=f"{grows}, at most {budget}", **figures)
        told = f", which does not tell whether it is at most {budget}" if ended else " so far"
        return _Statement(outcome=Outcome.INCONCLUSIVE, said=f"{grows}{told}", **figures)

    def _overridden(self) -> str:
        if self.override_ns is None or self.override_ns == self.duration_ns:
            return ""
        declared, override = format_duration(self.duration_ns), format_duration(self.override_ns)
        return f" (the run replaced the declared {declared} by {override})"

    def _unseen(self, sample: Sample, unseen: tuple[str, ...]) -> tuple[str, ...]:
        found = [*unseen, "latency drift over the soak", "throttling: declare thermal() beside it"]
        if self.leak_bytes_per_h is None:
            found.append("memory leak: no budget was given")
        elif all(one.swap_bytes is None for one in sample.readings):
            found.append("swap: no reading of it, so memory that was swapped out is not counted")
        if self.crash_rate is None:
            found.append("crash rate: without crash_rate no rate is stated, only that this soak saw no crash")
        else:
            found.append("crashes that come in clusters: crashes are taken as independent")
        return tuple(found)

    def _figures(self, sample: Sample) -> dict[str, float]:
        figures = {
            "alpha": self.alpha,
            "measured_s": sample.duration_s,
            "declared_s": self.duration_ns / 1e9,
            "required_s": self.required_ns / 1e9,
            "restarts": float(0 if sample.conditions is None else sample.conditions.restarts),
        }
        if self.override_ns is not None:
            figures["override_s"] = self.override_ns / 1e9
        return figures


def declare(
    duration: object,
    *,
    leak: object = None,
    crash_rate: object = None,
    crash_trial: object = "10 s",
    peak_rss: object = None,
    alpha: object = None,
    settings: GateSettings,
) -> Soak:
    """The marker's signature.

    Raises:
        MarkerError: the declared soak is too short for what it shall decide.
    """
    declared = arguments.duration("duration", duration)
    trial = arguments.duration("crash_trial", crash_trial)
    error = arguments.alpha(alpha, settings.alpha)
    rate = None if crash_rate is None else arguments.fraction("crash_rate", crash_rate)
    if leak is not None and declared < LEAK_NEEDS_NS:
        raise MarkerError(
            f"a leak cannot be told from warming up in less than {format_duration(LEAK_NEEDS_NS)}; "
            f"the soak is declared to last {format_duration(declared)}"
        )
    if rate is not None:
        needed = math.ceil(math.log(error) / math.log1p(-rate)) * trial
        if declared < needed:
            raise MarkerError(
                f"a crash rate of {rate:g} per {format_duration(trial)} needs a soak of at least "
                f"{format_duration(needed, digits=4)} without a crash; "
                f"it is declared to last {format_duration(declared)}"
            )
    return Soak(
        duration_ns=declared,
        alpha=error,
        override_ns=settings.soak_ns,
        leak_bytes_per_h=None if leak is None else byte_rate_per_hour(leak),
        crash_rate=rate,
        crash_trial_ns=trial,
        peak_rss_bytes=None
        if peak_rss is None
        else int(arguments.positive("peak_rss", size_bytes(peak_rss), peak_rss)),
    )


def _rate(bytes_per_h: float) -> str:
    return f"{format_size(bytes_per_h)}/h"
