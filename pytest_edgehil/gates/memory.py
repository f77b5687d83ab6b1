"""`peak_rss`: did the model's process stay within its memory?

The kernel keeps the high-water mark itself (VmHWM), so no poll can miss a spike; the model runs in a fresh process,
so the mark is this model's. What was swapped out is missing in it: as much as was seen in swap is added before the
gate says PASS.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.gates import arguments, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.quantity import format_size, size_bytes
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

_UNSEEN = (
    "page cache, shared pages of other processes and accelerator memory: VmHWM counts this process only",
    "variance between processes: this is the largest peak of the processes that ran, not a bound for the next one",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakRss:
    """The marker's argument. Args: budget_bytes: limit of the process's VmHWM."""

    budget_bytes: int
    name: ClassVar[str] = "peak_rss"

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:
        """One inference, when none ran: a model that was only loaded has not shown its peak."""
        return None if self.evaluate(sample).decided else Demand(inferences=1)

    def evaluate(self, sample: Sample) -> Verdict:
        """Compare the peak with the budget; exactly the budget is within it."""
        peak = peak_bytes(sample)
        swapped = max((one.swap_bytes for one in sample.readings if one.swap_bytes is not None), default=0)
        budget = format_size(self.budget_bytes, digits=4)
        unseen = validity.reboot(sample).unseen + _UNSEEN
        decided = True
        if sample.n == 0 and (peak is None or peak <= self.budget_bytes):
            outcome, decided, reason = Outcome.INCONCLUSIVE, False, "no inference ran yet, only loading did at most"
        elif peak is None:
            outcome, reason = Outcome.INCONCLUSIVE, "the board reported no VmHWM of the model's process"
        elif peak <= 0:
            outcome, reason = Outcome.INVALID, f"a peak of {peak} bytes is no measurement"
        elif (trouble := validity.reboot(sample).trouble) is not None:
            outcome, reason = Outcome.INVALID, f"not usable: {trouble}"
        elif peak > self.budget_bytes:
            outcome, reason = Outcome.FAIL, f"peak RSS {format_size(peak, digits=4)} exceeds {budget}"
        elif peak + swapped > self.budget_bytes:
            outcome = Outcome.INCONCLUSIVE
            reason = (
                f"peak RSS {format_size(peak, digits=4)} is within {budget}, but {format_size(swapped)} were swapped "
                f"out and may have been part of the peak"
            )
        else:
            outcome = Outcome.PASS
            reason = f"peak RSS {format_size(peak, digits=4)} is within {budget} (VmHWM over {sample.n} inferences)"
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if peak is None else float(peak),
            budget=float(self.budget_bytes),
            unit="bytes",
            n=sample.n,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else unseen,
            statistics={"swapped_bytes": float(swapped)},
        )


def peak_bytes(sample: Sample) -> int | None:
    """The largest memory any process of this model is known to have held."""
    known = [one.peak_rss_bytes for one in sample.cold_starts]
    known += [one.rss_bytes for one in sample.readings if one.rss_bytes is not None]
    if sample.peak_rss_bytes is not None:
        known.append(sample.peak_rss_bytes)
    elif not any(one.rss_bytes is not None for one in sample.readings):
        return None if not known else max(known)
    return max(known)


def declare(budget: object, *, settings: GateSettings) -> PeakRss:  # noqa: ARG001, D103 - the marker's signature
    return PeakRss(budget_bytes=int(arguments.positive("budget", size_bytes(budget), budget)))
