"""Why a gate on a quantile of durations is undecided, in words: for whoever has to do something about it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_edgehil.gates.durations import in_ms, observed_quantile
from pytest_edgehil.gates.timings import Timings
from pytest_edgehil.model.quantity import format_count, format_duration, format_number, format_rate

if TYPE_CHECKING:
    from pytest_edgehil.gates.latency import LatencyQuantile
    from pytest_edgehil.gates.stats.sequential import Look

_CLOSE = 0.1
"""An observed quantile that differs from the budget by no more than this share of it is called close to it."""


def why(
    gate: LatencyQuantile, timed: Timings, look: Look | None, *, missing_ns: int, change: Callable[[Look], str]
) -> tuple[str, str]:
    """Why it is undecided, and what would change it.

    Args:
        timed: what is judged.
        look: the last one; None before the first.
        missing_ns: for so much longer a PASS must be watched.
        change: what would change the verdict after such a look, as far as the figures tell.
    """
    from pytest_edgehil.gates.stats.projection import fewest_to_pass

    n, unit = timed.n, timed.unit
    fewest = fewest_to_pass(gate.allowed, gate.alpha)
    if look is None:
        said = f"{n} of at least 30 {unit} so far" if n else f"no {unit} have been timed yet"
        return said, f"{format_count(30 - n, f'more {unit}')} for a first look; a PASS takes at least {fewest}"
    if timed.overloaded(n):
        return _cannot_keep_up(timed), "a faster model, or a lower rate"
    if missing_ns > 0:
        said = (
            f"the {n} {unit} cover less than the {format_duration(gate.least_ns(timed))} that a PASS needs "
            f"({_who_asks(gate, timed)}), and they do not show that the budget is missed"
        )
        return said, f"{unit} over another {format_duration(missing_ns)}{_or_declare(gate)}"
    would = change(look)
    if n < fewest:
        said = f"{look.exceedances} of {look.n} {unit} took longer than {in_ms(gate.budget_ns)}, too few {unit} to tell"
        return f"{said} (a PASS takes at least {fewest})", would
    stall = timed.stall_cluster(n, gate.budget_ns)
    if stall > 1.0 and not look.ruled_out_at and look.log_e_pass >= math.log(1.0 / gate.alpha):
        longest = format_duration(max(timed.stall_ns, float(timed.services_ns.max())))  # type: ignore[union-attr]
        said = (
            f"{look.exceedances} of {look.n} {unit} took longer than {in_ms(gate.budget_ns)}, but at this load one "
            f"stall of {longest} makes about {stall:.0f} of them slow, and so few {unit} do not exclude one (stall)"
        )
        return (
            said,
            f"about {math.ceil(stall * fewest)} {unit} without a stall, or a shorter stall=… if none is longer",
        )
    return _held_back(gate, timed, look) or _too_close(gate, timed, look), would


def _too_close(gate: LatencyQuantile, timed: Timings, look: Look) -> str:
    """Neither enough of them are slow nor few enough."""
    observed_ns = observed_quantile(timed.values_ns, gate.quantile)
    observed, budget = in_ms(observed_ns), in_ms(gate.budget_ns)
    at_error = f"to tell at an error rate of {format_number(100 * gate.alpha)}%"
    if abs(observed_ns - gate.budget_ns) <= _CLOSE * gate.budget_ns:
        said = f"after {timed.n} {timed.unit} the observed {gate.label} of {observed} is too close to the budget"
        return f"{said} of {budget} {at_error}"
    counted = f"{look.exceedances} of {look.n} {timed.unit} ({look.exceedances / look.n:.1%}) took longer than"
    allowed = f"{format_number(100 * gate.allowed)}%"
    return f"{counted} {budget}, too close to {allowed} {at_error} (observed {gate.label} {observed})"


def _held_back(gate: LatencyQuantile, timed: Timings, look: Look) -> str | None:
    """Why these counts do not decide although independent ones would; None where those would not either."""
    from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, most_exceedances_to_pass

    n, unit = look.n, timed.unit
    if look.exceedances <= most_exceedances_to_pass(n, gate.allowed, gate.alpha):
        would = "PASS"
    elif look.exceedances >= fewest_exceedances_to_fail(n, gate.allowed, gate.alpha):
        would = "FAIL"
    else:
        return None
    counted = f"{look.exceedances} of {n} {unit} took longer than {in_ms(gate.budget_ns)}"
    if would == "PASS" and look.ruled_out_at:
        seen = int((timed.values_ns[: look.ruled_out_at] > gate.budget_ns).sum())
        return (
            f"{counted}; {seen} of the first {look.ruled_out_at} did, which alone would show that the budget is "
            f"missed, so that these {unit} cannot PASS any more"
        )
    count = f"count as {n / look.inflation:.0f}"
    alike = f"neighbours are so alike that they {count}"
    return f"{counted}; that would {would} if each of them told something new, but {alike}"


def _who_asks(gate: LatencyQuantile, timed: Timings) -> str:
    """Who says how long a PASS must be watched."""
    if gate.min_duration_ns is not None:
        return "min_duration"
    conditions = timed.board.conditions
    declares = conditions is not None and conditions.steady_state_s is not None
    return "the board's steady_state" if declares else "the default for a board whose lab declares no steady_state"


def _or_declare(gate: LatencyQuantile) -> str:
    """What a user may declare instead of waiting."""
    if gate.min_duration_ns is not None:
        return ", which a PASS needs (min_duration)"
    return (
        "; or declare how long this board takes to show what comes and goes on it: steady_state: in lab.yaml, or "
        "min_duration= in this marker"
    )


def _cannot_keep_up(timed: Timings) -> str:
    assert timed.services_ns is not None
    assert timed.interval_ns is not None
    mean, interval = format_duration(timed.services_ns.mean(), digits=4), format_duration(timed.interval_ns, digits=4)
    return (
        f"the model cannot keep up with {format_rate(1e9 / timed.interval_ns)}: an inference takes {mean} on average, "
        f"one is due every {interval}, so the queue and the response times grow for as long as one measures"
    )
