"""Does the memory of the model's process grow?

The slope of RSS plus swap against a budget, with warming up modelled; see `stats.leak` for the method. What counts is
the longest stretch in one process: memory begins anew with a restart. A leak is called at once, at looks every 5 min
from minute 25. That there is none is shown from minute 30 on, or at the end alone (``full=True``).
"""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pytest_edgehil.gates import outlook
from pytest_edgehil.gates.soaking import crashes
from pytest_edgehil.gates.soaking.statement import Statement
from pytest_edgehil.model.quantity import format_count, format_duration, format_number, format_size
from pytest_edgehil.model.sample import Sample, SensorReading
from pytest_edgehil.model.verdict import Outcome

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.leak import FloatArray, Slope

NEEDS_NS = 30 * 60 * 10**9
"""A leak within its budget can be told from warming up no earlier (see `stats.leak.FIRST_PASS_S`)."""


def leak(
    sample: Sample, budget_per_h: float, *, duration_s: float, alpha: float, ended: bool, early: bool
) -> Statement:
    """The statement "memory grows by at most so much".

    Args:
        sample: what was measured.
        budget_per_h: bytes per hour.
        duration_s: of the whole soak; the error is spread over it.
        alpha: error rate of either side.
        ended: the soak's duration is over.
        early: may it be shown before the end?
    """
    known = [one for one in sample.readings if one.rss_bytes is not None]
    readings = longest_stretch(known)
    budget = f"{format_size(budget_per_h)}/h"
    figures: dict[str, Any] = {"unit": "bytes/h", "budget": budget_per_h}
    nothing = _nothing_to_tell(sample, known, readings, figures)
    if nothing is not None:
        return nothing
    at_s, _ = held_over_time(sample)
    found = look(sample, budget_per_h, duration_s=duration_s, alpha=alpha, ended=ended, early=early)
    stretch = "" if len(readings) == len(known) else ", in the longest stretch without a restart"
    if found is None:
        ran = format_duration(float(at_s[-1]) * 1e9 if at_s.size else 0.0)
        said = (
            f"a leak cannot be told from warming up within {ran}{stretch} (at least {format_duration(NEEDS_NS)} needed)"
        )
        return Statement(outcome=Outcome.INCONCLUSIVE, said=said, would_change="a longer soak", **figures)
    figures |= {"observed": found.estimate, "interval": (found.low, found.high)}
    grows = (
        f"memory grows by {_rate(found.estimate)} (between {_rate(found.low)} and {_rate(found.high)}, "
        f"at minute {found.at_s / 60:.0f}{stretch}, error rate {format_number(100 * alpha)}%)"
    )
    if found.decision == "above":
        change = f"a leak budget of more than {_rate(found.low)}"
        return Statement(outcome=Outcome.FAIL, said=f"{grows}, more than {budget}", would_change=change, **figures)
    if found.decision == "below":
        change = f"a leak budget of less than {_rate(found.high)}"
        return Statement(
            outcome=Outcome.PASS, said=f"{grows}, at most {budget}", shown=True, would_change=change, **figures
        )
    end = f", which does not tell whether it is at most {budget}" if ended else " so far"
    change = f"a longer soak, or a leak budget of {_rate(found.high)} or more"
    return Statement(outcome=Outcome.INCONCLUSIVE, said=f"{grows}{end}", would_change=change, **figures)


def _nothing_to_tell(
    sample: Sample, known: list[SensorReading], readings: list[SensorReading], figures: dict[str, Any]
) -> Statement | None:
    """Why these readings cannot tell of a leak at all; None when they may."""
    if sample.readings and not readings:
        return Statement(
            outcome=Outcome.INCONCLUSIVE,
            said="a leak: the board reports no RSS",
            hopeless=True,
            would_change="a board that reports the RSS of the model's process",
            **figures,
        )
    if crashes.count(sample) and len({one.process for one in known}) <= 1:
        return Statement(
            outcome=Outcome.INCONCLUSIVE,
            said="a leak cannot be told, for the model's process was restarted in between",
            would_change="a soak without a restart",
            **figures,
        )
    broken = int(sum(not math.isfinite(one) or one < 0 for one in held_over_time(sample)[1]))
    if broken:
        said = f"a leak cannot be told: {format_count(broken, 'readings')} of memory are negative or no numbers"
        return Statement(outcome=Outcome.INVALID, said=said, would_change=outlook.AGAIN, **figures)
    return None


def look(
    sample: Sample, budget_per_h: float, *, duration_s: float, alpha: float, ended: bool, early: bool
) -> Slope | None:
    """The look at the slope that counts; None before the first. Arguments as in `leak`."""
    from pytest_edgehil.gates.stats import leak as fit

    at_s, held = held_over_time(sample)
    return fit.look(
        at_s,
        held,
        budget_per_h=budget_per_h,
        duration_s=duration_s,
        alpha=alpha,
        resolution=16384.0 if sample.conditions is None else float(sample.conditions.page_size_bytes),
        early_pass=early,
        ended=ended,
    )


def held_over_time(sample: Sample) -> tuple[FloatArray, FloatArray]:
    """Seconds since the first reading and bytes held (RSS and swap), each shape (n,), of the longest stretch."""
    import numpy as np

    readings = longest_stretch([one for one in sample.readings if one.rss_bytes is not None])
    at_s = np.array([one.at_s for one in readings], dtype=np.float64)
    at_s = np.concatenate(([0.0], np.cumsum(np.maximum(np.diff(at_s), 0.0)))) if at_s.size else at_s
    return at_s, np.array([(one.rss_bytes or 0) + (one.swap_bytes or 0) for one in readings], dtype=np.float64)


def longest_stretch(readings: list[SensorReading]) -> list[SensorReading]:
    """The readings of that one process of the model that was watched for longest.

    >>> rows = [SensorReading(at_s=at, process=at > 2) for at in range(9)]
    >>> [row.at_s for row in longest_stretch(rows)]
    [3, 4, 5, 6, 7, 8]
    """
    stretches = [list(rows) for _, rows in groupby(readings, key=lambda one: one.process)]
    return max(stretches, key=lambda rows: rows[-1].at_s - rows[0].at_s, default=[])


def _rate(bytes_per_h: float) -> str:
    return f"{format_size(bytes_per_h)}/h"
