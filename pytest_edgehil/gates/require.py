"""Enforcing a verdict: the one place where a verdict becomes an exception."""

from __future__ import annotations

from pytest_edgehil.errors import GateFailure, Inconclusive, InvalidMeasurement
from pytest_edgehil.model.verdict import Outcome, Verdict


def require(verdict: Verdict) -> None:
    """Do nothing when the verdict is PASS, raise otherwise.

    Raises:
        GateFailure: the verdict is FAIL.
        Inconclusive: the gate could not be decided within its budget.
        InvalidMeasurement: the measurement must not be used.
    """
    if verdict.outcome is Outcome.PASS:
        return
    message = f"{verdict.gate}: {verdict.outcome.value}: {' '.join(verdict.reason.split())}"
    if verdict.outcome is Outcome.FAIL:
        raise GateFailure(message)
    if verdict.outcome is Outcome.INCONCLUSIVE:
        raise Inconclusive(message)
    raise InvalidMeasurement(message)
