"""`cold_start`: does the model load in time, in every one of several fresh processes?

Starts differ between processes more than inferences do within one, so one start says little. Every start must be
within the budget. A handful of starts states no error rate, and the verdict says how little they exclude.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.durations import in_ms
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.model.quantity import format_count, format_duration
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStartTime:
    """The marker's arguments.

    Args:
        budget_ns: limit of the time from starting the process to the model being ready.
        starts: how many fresh processes are tried.
    """

    budget_ns: int
    starts: int = 3
    name: ClassVar[str] = "cold_start"
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:
        """The starts that are missing."""
        if self.evaluate(sample).decided:
            return None
        return Demand(cold_starts=self.starts - len(sample.cold_starts))

    @in_seconds("a cold start", "ns")
    def evaluate(self, sample: Sample) -> Verdict:
        """Compare the slowest start with the budget; exactly the budget is within it."""
        loads = [one.load_ns for one in sample.cold_starts]
        n = len(loads)
        slowest = max(loads, default=None)
        budget = format_duration(self.budget_ns, digits=4)
        valid = validity.of_loading(sample)
        unseen = valid.unseen
        decided, change = True, outlook.AGAIN
        if not all(math.isfinite(one) and one > 0 for one in loads):
            outcome, reason = Outcome.INVALID, "a start took no time at all: the clock did not tick or went backwards"
        elif n > 1 and len(set(loads)) == 1 and not sample.replayed:
            outcome = Outcome.INVALID
            reason = f"all {n} starts took exactly {loads[0]} ns: a clock that does not tick is no measurement"
        elif valid.trouble is not None:
            outcome, reason = Outcome.INVALID, f"not usable: {valid.trouble}"
        elif slowest is not None and slowest > self.budget_ns:
            over = sum(1 for one in loads if one > self.budget_ns)
            outcome = Outcome.FAIL
            reason = f"{over} of {n} cold starts took longer than {budget}, {_between(loads)}"
            enough = outlook.duration_at_least(slowest)
            change = f"a faster load, or a budget of at least {enough}; more starts do not undo a FAIL"
        elif slowest is None or n < self.starts:
            outcome, decided = Outcome.INCONCLUSIVE, False
            reason = f"{n} of {self.starts} cold starts so far"
            more = format_count(self.starts - n, "more cold starts")
            change = f"{more} within {budget} would PASS; one beyond it would FAIL"
        else:
            outcome = Outcome.PASS
            reason = f"all {n} cold starts took at most {budget}, {_between(loads)}"
            change = f"a budget below {outlook.duration_at_most(slowest)}, or one slower start: each must be within it"
            missed = 1.0 - 0.05 ** (1.0 / n)
            unseen += (f"rate of slow starts: {n} starts leave open that up to {missed:.0%} of all exceed the budget",)
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if slowest is None else float(slowest),
            budget=float(self.budget_ns),
            unit="ns",
            n=n,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else (*unseen, "page cache: files may have been read before"),
            statistics=_figures(loads) | {"starts": float(self.starts)},
            would_change=change,
        )


def declare(budget: object, *, starts: object = 3, settings: GateSettings) -> ColdStartTime:  # noqa: ARG001, D103
    return ColdStartTime(
        budget_ns=arguments.duration("budget", budget),
        starts=arguments.whole("starts", starts, least=1),
    )


def _between(loads: list[int]) -> str:
    """How much the processes differ, in words."""
    if len(loads) < 2:
        return f"the only one {in_ms(loads[0])}"
    spread = statistics.stdev(loads)
    return (
        f"the fastest {in_ms(min(loads))} and the slowest {in_ms(max(loads))} (standard deviation between "
        f"processes {in_ms(spread)}, {spread / statistics.mean(loads):.1%} of the mean)"
    )


def _figures(loads: list[int]) -> dict[str, float]:
    """What the processes took, and how much they differ; one process tells nothing of that."""
    if not loads or not all(math.isfinite(one) and one > 0 for one in loads):
        return {}
    figures = {"fastest_ns": float(min(loads)), "mean_ns": float(statistics.mean(loads))}
    if len(loads) > 1:
        spread = statistics.stdev(loads)
        figures |= {"between_process_sd_ns": spread, "between_process_sd_share": spread / figures["mean_ns"]}
    return figures
