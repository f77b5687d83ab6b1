"""`size`: is the model's bundle small enough? A fact, not a statistic: the bytes are counted."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from pytest_edgehil.gates import arguments, outlook
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.quantity import format_size, size_bytes
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The marker's argument. Args: budget_bytes: limit of the bundle's size."""

    budget_bytes: int
    name: ClassVar[str] = "size"

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:  # noqa: ARG002 - nothing that is measured changes a size
        """Nothing."""
        return None

    def evaluate(self, sample: Sample) -> Verdict:
        """Compare the bundle's size with the budget; a bundle of exactly the budget is within it."""
        size = sample.artifact_size_bytes
        budget = format_size(self.budget_bytes, digits=4)
        if size is None:
            outcome, reason = Outcome.INCONCLUSIVE, "no model was flashed, so there is no artifact to weigh"
            change = "a model in the test's combo"
        elif not math.isfinite(size) or size <= 0:
            outcome, reason = (
                Outcome.INVALID,
                f"an artifact of {size} bytes is no artifact" if math.isfinite(size) else "the size is no number",
            )
            change = outlook.AGAIN
        elif size <= self.budget_bytes:
            outcome, reason = Outcome.PASS, f"the artifact has {format_size(size, digits=4)}, at most {budget}"
            change = f"a budget below {outlook.size_at_most(size)}"
        else:
            outcome = Outcome.FAIL
            reason = f"the artifact has {format_size(size, digits=4)}, {size - self.budget_bytes} bytes above {budget}"
            change = f"a smaller artifact, or a budget of at least {outlook.size_at_least(size)}"
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if size is None else float(size),
            budget=float(self.budget_bytes),
            unit="bytes",
            n=0 if size is None else 1,
            reason=reason,
            not_checked=("size unpacked on the board: the packed bundle is weighed",),
            would_change=change,
        )


def declare(budget: object, *, settings: GateSettings) -> Size:  # noqa: ARG001, D103 - the marker's signature
    return Size(budget_bytes=int(arguments.positive("budget", size_bytes(budget), budget)))
