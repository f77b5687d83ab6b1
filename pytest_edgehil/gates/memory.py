"""`peak_rss`: did the model's process stay within its memory?

The kernel keeps the high-water mark itself (VmHWM), so no poll can miss a spike; the model runs in a fresh process,
so the mark is this model's. The mark is set back once the model is loaded, so the load's own spike and the steady
state are told apart; the larger of them is judged.

``of="model"`` judges what the model itself costs: the peak less what the process held before it loaded the model (the
interpreter and the runtime's code). That share is not exact: memory that was free inside the process may be used again.

*Swap.* What was swapped out is missing in VmHWM. Memory and swap of one moment together fail when they exceed the
budget; and as much as was ever seen in swap is added to the peak before the gate says PASS.

*Control groups.* ``memory.peak`` of the model's own control group is told where there is one, and not judged: it holds
page cache too.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.quantity import format_count, format_size, quoted, size_bytes
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

OF = ("process", "model")
_UNSEEN = (
    "page cache, shared pages of other processes and accelerator memory: VmHWM counts this process only",
    "variance between processes: this is the largest peak of the processes that ran, not a bound for the next one",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakRss:
    """The marker's arguments.

    Args:
        budget_bytes: limit of the process's VmHWM.
        of: ``process``, or ``model``: less what the process held before it loaded the model.
    """

    budget_bytes: int
    of: str = "process"
    name: ClassVar[str] = "peak_rss"

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:
        """One inference, when none ran: a model that was only loaded has not shown its peak."""
        return None if self.evaluate(sample).decided else Demand(inferences=1)

    def evaluate(self, sample: Sample) -> Verdict:
        """Compare the peak with the budget; exactly the budget is within it."""
        whole, before = peak_bytes(sample), _before_bytes(sample) if self.of == "model" else 0
        peak = None if whole is None or before is None else whole - before
        swapped = max((one.swap_bytes for one in sample.readings if one.swap_bytes is not None), default=0)
        budget = format_size(self.budget_bytes, digits=4)
        held = "" if peak is None else f"peak RSS {self._of()}{format_size(peak, digits=4)}"
        unseen = validity.reboot(sample).unseen + _UNSEEN
        decided, change = True, ""
        if sample.n == 0 and (peak is None or peak <= self.budget_bytes):
            outcome, decided, reason = Outcome.INCONCLUSIVE, False, "no inference ran yet, only loading did at most"
            change = "an inference"
        elif whole is None:
            outcome, reason = Outcome.INCONCLUSIVE, "the board reported no VmHWM of the model's process"
            change = "a board that reports it"
        elif (nothing := no_memory(sample)) is not None:
            outcome, reason, change = Outcome.INVALID, f"not usable: {nothing}", outlook.AGAIN
        elif peak is None:
            outcome = Outcome.INCONCLUSIVE
            reason = "what the process held before it loaded the model is not known (a recording does not tell)"
            change = "of='process'"
        elif (trouble := validity.reboot(sample).trouble) is not None:
            outcome, reason = Outcome.INVALID, f"not usable: {trouble}"
        elif peak > self.budget_bytes:
            outcome, reason = Outcome.FAIL, f"{held} exceeds {budget}"
            change = f"a budget of at least {format_size(peak, digits=4)}"
        elif sample.peak_rss_bytes is None:
            outcome = Outcome.INCONCLUSIVE
            reason = f"{held} is within {budget}, but the board reported no VmHWM, and readings now and then miss peaks"
            change = "a board that reports it"
        elif peak + swapped > self.budget_bytes:
            outcome = Outcome.INCONCLUSIVE
            reason = (
                f"{held} is within {budget}, but {format_size(swapped)} were swapped out and may have been part of "
                "the peak"
            )
            change = f"a board that does not swap, or a budget of at least {format_size(peak + swapped, digits=4)}"
        else:
            outcome = Outcome.PASS
            reason = f"{held} is within {budget} (VmHWM over {sample.n} inferences)"
            change = f"a budget of less than {format_size(peak, digits=4)}"
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if peak is None else float(peak),
            budget=float(self.budget_bytes),
            unit="bytes",
            n=sample.n,
            reason=reason + _apart(sample) + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else unseen + _not_apart(sample),
            statistics=_figures(sample, swapped, before),
            would_change=change,
        )

    def _of(self) -> str:
        return "of the model alone " if self.of == "model" else ""


def peak_bytes(sample: Sample) -> int | None:
    """The most memory any process of this model is known to have held; swap of the same moment counts."""
    known = [one.peak_rss_bytes for one in sample.cold_starts]
    known += [one.rss_bytes + (one.swap_bytes or 0) for one in sample.readings if one.rss_bytes is not None]
    known += [one for one in (sample.peak_rss_bytes, sample.steady_peak_rss_bytes) if one is not None]
    return max(known, default=None)


def no_memory(sample: Sample) -> str | None:
    """Why these numbers cannot be what a process held; None when they can."""
    read = [one.rss_bytes for one in sample.readings if one.rss_bytes is not None]
    marks = [one for one in (sample.peak_rss_bytes, sample.steady_peak_rss_bytes) if one is not None]
    held = [*read, *marks, *(one.peak_rss_bytes for one in sample.cold_starts)]
    swapped = [one.swap_bytes for one in sample.readings if one.swap_bytes is not None]
    broken = sum(not math.isfinite(one) for one in held) + sum(not math.isfinite(one) or one < 0 for one in swapped)
    if broken:
        return f"{format_count(broken, 'amounts')} of memory are negative or no numbers"
    least = min(held, default=1)
    return f"a process that holds {least} bytes is none" if least <= 0 else None


def _before_bytes(sample: Sample) -> int | None:
    """The least that any of its processes held before it loaded the model; None where that is not known."""
    known = [one.rss_before_bytes for one in sample.cold_starts if one.rss_before_bytes > 0]
    return min(known) if known and len(known) == len(sample.cold_starts) else None


def _apart(sample: Sample) -> str:
    """The load's spike beside the steady state, and the control group, in words."""
    steady, load = sample.steady_peak_rss_bytes, max((one.peak_rss_bytes for one in sample.cold_starts), default=0)
    told = []
    if steady is not None and load:
        told.append(f"{format_size(load, digits=4)} while loading, {format_size(steady, digits=4)} since")
    if sample.cgroup_peak_bytes is not None:
        told.append(f"its control group peaked at {format_size(sample.cgroup_peak_bytes, digits=4)} with page cache")
    return f" ({'; '.join(told)})" if told else ""


def _not_apart(sample: Sample) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    if sample.n and sample.steady_peak_rss_bytes is None:
        found += ("the load's spike apart from the steady state: the mark could not be set back after the load",)
    if sample.n and sample.cgroup_peak_bytes is None:
        found += ("memory.peak: the model's process has no control group of its own",)
    return found


def _figures(sample: Sample, swapped: int, before: int | None) -> dict[str, float]:
    figures = {"swapped_bytes": float(swapped)}
    if before:
        figures["before_load_bytes"] = float(before)
    if sample.cold_starts:
        figures["load_peak_bytes"] = float(max(one.peak_rss_bytes for one in sample.cold_starts))
    if sample.steady_peak_rss_bytes is not None:
        figures["steady_peak_bytes"] = float(sample.steady_peak_rss_bytes)
    if sample.cgroup_peak_bytes is not None:
        figures["cgroup_peak_bytes"] = float(sample.cgroup_peak_bytes)
    return figures


def declare(budget: object, *, of: object = "process", settings: GateSettings) -> PeakRss:  # noqa: ARG001
    """The marker's signature.

    Raises:
        MarkerError: `of` is neither of the two.
    """
    if of not in OF:
        raise MarkerError(f"of must be one of {', '.join(OF)}, not {quoted(of)}")
    return PeakRss(budget_bytes=int(arguments.positive("budget", size_bytes(budget), budget)), of=str(of))
