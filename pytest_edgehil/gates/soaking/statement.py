"""What one statement of a soak has come to so far."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_edgehil.model.verdict import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One of the statements of a soak, as far as it is known.

    Args:
        outcome: PASS only where it is certain: shown with its error rate, or the soak is over.
        said: for the verdict's reason.
        holding: not certain, and it never can be before the end, but true over all that was measured so far.
        shown: PASS with a stated error rate.
        hopeless: undecided, and no longer soak of this kind will change that.
        would_change: as in `Verdict`.
        observed, budget, unit, interval: as in `Verdict`; None where the statement has no number.
    """

    outcome: Outcome
    said: str
    holding: bool = False
    shown: bool = False
    hopeless: bool = False
    would_change: str = ""
    observed: float | None = None
    budget: float | None = None
    unit: str = "s"
    interval: tuple[float, float] | None = None
