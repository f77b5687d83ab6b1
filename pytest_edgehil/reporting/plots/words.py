"""The few words above a picture: the verdict in short, and the figures that belong to it."""

from __future__ import annotations

from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting import format as fmt


def headline(verdict: Verdict, *, what: str = "") -> str:
    """The verdict in one short line.

    Args:
        what: what was observed, if the gate's name does not say it.

    >>> headline(Verdict(gate="p95_latency", outcome=Outcome.FAIL, unit="ns", n=30, reason="", observed=16.2e6,
    ...     budget=12e6))
    'FAIL p95_latency: 16.2 ms, budget 12 ms'
    """
    observed, budget = fmt.observed_and_budget(verdict)
    told = f"{what} {observed}".strip() if verdict.observed is not None else what
    if verdict.budget is not None:
        told = f"{told}, budget {budget}" if told else f"budget {budget}"
    return f"{verdict.outcome.value} {verdict.gate}" + (f": {told}" if told else "")


def note(verdict: Verdict, *more: str) -> str:
    """A quieter line: how much was measured and how sure the verdict is, or why there is none."""
    told = []
    if verdict.outcome is Outcome.INVALID:
        return verdict.reason
    if verdict.n:
        told.append(f"n = {verdict.n}")
    effective, inflation = (verdict.statistics.get(one) for one in ("effective_n", "variance_inflation"))
    if effective is not None and inflation is not None and inflation > 1.0:
        told[-1] += f" (counts as {effective:.0f}: V = {inflation:.2f})"
    alpha = verdict.statistics.get("alpha")
    if alpha is not None:
        told.append(f"α = {fmt.quantity(alpha, 'fraction')} a side")
    told += [one for one in more if one]
    return "; ".join(told)
