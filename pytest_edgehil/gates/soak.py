"""`soak`: does the model run for long, without crashing, without growing, without getting slower?

Statements, each on its own (`gates.soaking`): its process died never, or at most at a rate (`crash_rate`); its memory
grows at most so fast (`leak`); its latency grows at most so much (`drift`); it never held more than so much
(`peak_rss`); and it ran. The worst of them is the verdict.

*FAIL* as soon as one is broken, with the minute.

*PASS* early, when nothing that was asked for can change any more: at least one of `crash_rate`, `leak` and `drift` is
declared, and each of those is shown with its error rate. What has no error rate (no crash where no rate is declared,
the ceiling) then holds for the time that ran, and the verdict says how long that was. A soak that declares none of the
three has its duration as its only aim, and so has one with ``full=True``: both run to the end. An early PASS cannot
see what begins later; a release policy that asks for an hour of soak looks at the real duration, so it needs
``full=True``.

*Overridden durations.* A run may replace the declared duration (``--edgehil-soak``). The verdict states both, and what
the shorter one cannot decide stays INCONCLUSIVE.

*Lost links.* A soak is measured by a program of its own on the board, which goes on without a link; the verdict says
how often and how long the link was gone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.memory import no_memory, peak_bytes
from pytest_edgehil.gates.soaking import crashes, growth, slowing
from pytest_edgehil.gates.soaking.statement import Statement
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.model.quantity import (
    byte_rate_per_hour,
    format_duration,
    format_number,
    format_size,
    quoted,
    size_bytes,
)
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

SLICE_S = 60.0
DRIFT_OF = "median"
_WORST_FIRST = (Outcome.INVALID, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """The marker's arguments.

    Args:
        duration_ns: declared duration.
        alpha: error rate of each side of the leak, of the drift and of the crash rate.
        override_ns: duration that the run put in its place, or None.
        leak_bytes_per_h: largest growth of memory, or None.
        drift: largest growth of the latency over the soak, 0.1 for a tenth, or None.
        drift_of: ``median`` or ``p95``.
        crash_rate: largest share of trials with a crash; None allows no crash in this soak and states no rate.
        crash_trial_ns: length of a trial.
        peak_rss_bytes: most memory at any time, or None.
        full: no PASS before the end.
    """

    duration_ns: int
    alpha: float
    override_ns: int | None = None
    leak_bytes_per_h: float | None = None
    drift: float | None = None
    drift_of: str = DRIFT_OF
    crash_rate: float | None = None
    crash_trial_ns: int = 10 * 10**9
    peak_rss_bytes: int | None = None
    full: bool = False
    name: ClassVar[str] = "soak"
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    @property
    def statements(self) -> int:
        """See `gate.statements`: leak, drift, crash rate; duration, memory and "no crash at all" are only counted."""
        return sum(one is not None for one in (self.leak_bytes_per_h, self.drift, self.crash_rate))

    @property
    def required_ns(self) -> int:
        """How long must be measured."""
        return self.duration_ns if self.override_ns is None else self.override_ns

    def demand(self, sample: Sample) -> Demand | None:
        """Seconds, a minute at a time, so that what goes wrong is noticed within a minute."""
        if self.evaluate(sample).decided:
            return None
        left = self.required_ns / 1e9 - sample.duration_s
        return Demand(seconds=min(SLICE_S, left), horizon_s=left, restarts=True)

    @in_seconds("a soak", "s")
    def evaluate(self, sample: Sample) -> Verdict:
        """Put the statements together: the worst of them is the verdict; see ``docs/explanation/statistics.md``."""
        ended = sample.duration_s * 1e9 >= self.required_ns
        rebooted = validity.reboot(sample)
        statements = self._statements(sample, ended=ended)
        for trouble in (rebooted.trouble, no_memory(sample)):
            if trouble is not None:
                statements.append(Statement(outcome=Outcome.INVALID, said=f"not usable: {trouble}"))
        certain = [one for one in statements if one.shown]
        early = not ended and certain and all(one.holding or one.outcome is Outcome.PASS for one in statements)
        outcome = Outcome.PASS if early else min((one.outcome for one in statements), key=_WORST_FIRST.index)
        telling = statements if outcome is Outcome.PASS else [one for one in statements if one.outcome is outcome]
        shown = next((one for one in reversed(telling) if one.observed is not None), statements[0])
        hopeless = any(one.hopeless for one in telling)
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=shown.observed,
            budget=shown.budget,
            interval=shown.interval,
            unit=shown.unit,
            n=sample.n,
            reason="; ".join(one.said for one in telling if one.said)
            + self._when(sample, outcome, ended=ended)
            + self._overridden()
            + _without_link(sample)
            + validity.provenance(sample),
            decided=outcome is not Outcome.INCONCLUSIVE or ended or hopeless,
            not_checked=self._unseen(sample, rebooted.unseen, early=bool(early)),
            statistics=self._figures(sample),
            would_change=_would_change([one for one in telling if not (early and one.holding)]),
        )

    def _statements(self, sample: Sample, *, ended: bool) -> list[Statement]:
        early = not self.full
        found = [self._ran(sample, ended=ended)]
        if self.crash_rate is None:
            found.append(crashes.none_allowed(sample, ended=ended))
        else:
            found.append(
                crashes.at_rate(
                    sample, self.crash_rate, trial_ns=self.crash_trial_ns, alpha=self.alpha, ended=ended, early=early
                )
            )
        if self.peak_rss_bytes is not None:
            found.append(_ceiling(sample, self.peak_rss_bytes, ended=ended))
        duration_s = self.required_ns / 1e9
        if self.drift is not None:
            found.append(
                slowing.drift(
                    sample,
                    self.drift,
                    of=self.drift_of,
                    duration_s=duration_s,
                    alpha=self.alpha,
                    ended=ended,
                    early=early,
                )
            )
        if self.leak_bytes_per_h is not None:
            found.append(
                growth.leak(
                    sample, self.leak_bytes_per_h, duration_s=duration_s, alpha=self.alpha, ended=ended, early=early
                )
            )
        return found

    def _ran(self, sample: Sample, *, ended: bool) -> Statement:
        ran = format_duration(sample.duration_s * 1e9)
        figures: dict[str, Any] = {"observed": sample.duration_s, "budget": self.required_ns / 1e9}
        if sample.conditions is None or sample.n == 0:
            said = "nothing ran yet"
            return Statement(outcome=Outcome.INCONCLUSIVE, said=said, would_change="a soak that runs", **figures)
        if not ended:
            said = f"{ran} of {format_duration(self.required_ns)} so far"
            return Statement(
                outcome=Outcome.INCONCLUSIVE, said=said, holding=True, would_change="a longer soak", **figures
            )
        return Statement(outcome=Outcome.PASS, said=f"ran for {ran} ({sample.n} inferences)", **figures)

    def _when(self, sample: Sample, outcome: Outcome, *, ended: bool) -> str:
        if ended or outcome is Outcome.INCONCLUSIVE:
            return ""
        minute = sample.duration_s / 60.0
        certain = "certain" if outcome is Outcome.PASS else "decided"
        return f" ({certain} at minute {format_number(minute)} of {format_number(self.required_ns / 6e10)})"

    def _overridden(self) -> str:
        if self.override_ns is None or self.override_ns == self.duration_ns:
            return ""
        declared, override = format_duration(self.duration_ns), format_duration(self.override_ns)
        return f" (the run replaced the declared {declared} by {override})"

    def _unseen(self, sample: Sample, unseen: tuple[str, ...], *, early: bool) -> tuple[str, ...]:
        found = [*unseen, "throttling: declare thermal() beside it"]
        if early:
            found.append("what begins later: it ended early; full=True runs the whole duration")
        if self.drift is None:
            found.append("latency drift: no budget was given")
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
            "restarts": float(crashes.count(sample)),
            "link_drops": float(len(sample.link_drops)),
            "without_link_s": sum(one.lasted_s for one in sample.link_drops),
        }
        if self.override_ns is not None:
            figures["override_s"] = self.override_ns / 1e9
        return figures


def _ceiling(sample: Sample, most_bytes: int, *, ended: bool) -> Statement:
    peak = peak_bytes(sample)
    budget = format_size(most_bytes, digits=4)
    if peak is None:
        return Statement(
            outcome=Outcome.INCONCLUSIVE,
            said="the board reported no memory",
            hopeless=sample.n > 0,
            would_change="a board that reports the memory of the model's process",
        )
    figures: dict[str, Any] = {"unit": "bytes", "observed": float(peak), "budget": float(most_bytes)}
    held = format_size(peak, digits=4)
    change = f"a ceiling of {'at least' if peak > most_bytes else 'less than'} {held}"
    if peak > most_bytes:
        said = f"peak RSS {held} exceeds {budget}"
        return Statement(outcome=Outcome.FAIL, said=said, would_change=change, **figures)
    swapped = max((one.swap_bytes or 0 for one in sample.readings), default=0)
    if peak + swapped > most_bytes:
        said = f"peak RSS {held} is within {budget}, but {format_size(swapped)} were swapped out"
        change = f"a board that does not swap, or a ceiling of at least {format_size(peak + swapped, digits=4)}"
        return Statement(outcome=Outcome.INCONCLUSIVE, said=said, would_change=change, **figures)
    if sample.peak_rss_bytes is None:
        said = f"readings of the RSS are within {budget}, but the board reported no VmHWM, and readings miss peaks"
        return Statement(outcome=Outcome.INCONCLUSIVE, said=said, would_change="a board that reports it", **figures)
    outcome = Outcome.PASS if ended else Outcome.INCONCLUSIVE
    return Statement(
        outcome=outcome, said=f"peak RSS {held} within {budget}", holding=not ended, would_change=change, **figures
    )


def _would_change(statements: list[Statement]) -> str:
    return "; ".join(dict.fromkeys(one.would_change for one in statements if one.would_change))


def _without_link(sample: Sample) -> str:
    drops = sample.link_drops
    if not drops:
        return ""
    gone = format_duration(sum(one.lasted_s for one in drops) * 1e9)
    often = "once" if len(drops) == 1 else f"{len(drops)} times"
    return f" (the link was lost {often}, for {gone} in all; the board went on and nothing is missing)"


def declare(
    duration: object,
    *,
    leak: object = None,
    drift: object = None,
    drift_of: object = DRIFT_OF,
    crash_rate: object = None,
    crash_trial: object = "10 s",
    peak_rss: object = None,
    full: object = False,
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
    if drift_of not in slowing.QUANTILES:
        raise MarkerError(f"drift_of must be one of {', '.join(slowing.QUANTILES)}, not {quoted(drift_of)}")
    if drift is None and drift_of != DRIFT_OF:
        raise MarkerError(f'drift_of={quoted(drift_of)} means nothing without drift=…, such as drift="10 %"')
    if leak is not None and declared < growth.NEEDS_NS:
        raise MarkerError(
            f"a leak cannot be told from warming up in less than {format_duration(growth.NEEDS_NS)}; "
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
        drift=None if drift is None else arguments.share("drift", drift),
        drift_of=str(drift_of),
        crash_rate=rate,
        crash_trial_ns=trial,
        peak_rss_bytes=None
        if peak_rss is None
        else int(arguments.positive("peak_rss", size_bytes(peak_rss), peak_rss)),
        full=arguments.truth("full", full),
    )
