"""What would change a verdict, in words: `Verdict.would_change`.

Two kinds of statement, kept apart. Which *budget* this very sample would have passed or missed is a fact about it, and
holds at any time as the verdict does. How many *more inferences* would decide is a projection: it takes what was
observed for the truth, and says so.

Budgets that are quoted here are rounded to the safe side: whoever copies one into a marker gets what was promised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_edgehil.model.quantity import (
    duration_ns,
    format_count,
    format_duration,
    format_number,
    format_size,
    size_bytes,
)
from pytest_edgehil.model.verdict import Outcome

AGAIN = "a new measurement without this; adding samples to this one does not make it usable"
"""Of an INVALID verdict, whatever the gate."""


def duration_at_least(ns: float) -> str:
    """A duration as text that does not read as less than it is.

    >>> duration_at_least(11_912_345), duration_at_least(12_000_000)
    ('11.92 ms', '12 ms')
    """
    return _rounded(ns, lambda value: format_duration(value, digits=4), duration_ns, up=True)


def duration_at_most(ns: float) -> str:
    """A duration as text that does not read as more than it is.

    >>> duration_at_most(11_918_345)
    '11.91 ms'
    """
    return _rounded(ns, lambda value: format_duration(value, digits=4), duration_ns, up=False)


def size_at_least(size: float) -> str:
    """A size as text that does not read as less than it is.

    >>> size_at_least(1_048_577)
    '1.001 MiB'
    """
    return _rounded(size, lambda value: format_size(value, digits=4), size_bytes, up=True)


def size_at_most(size: float) -> str:
    """A size as text that does not read as more than it is.

    >>> size_at_most(1_048_577)
    '1 MiB'
    """
    return _rounded(size, lambda value: format_size(value, digits=4), size_bytes, up=False)


def _rounded(value: float, write: Callable[[float], str], read: Callable[[str], int], *, up: bool) -> str:
    for nudge in range(8):
        text = write(value * (1.0 + (nudge if up else -nudge) * 2.5e-4))
        back = read(text)
        if back >= value if up else back <= value:
            return text
    return write(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLook:
    """What a gate on a latency's quantile knows at the look that decided, or at the last one.

    Args:
        budget_ns: its limit.
        rate: share of exceedances that the budget allows.
        alpha: error rate of each side.
        n, exceedances: inferences at that look, and how many of them were beyond the budget.
        inflation: V at that look.
        fails_below_ns: budgets below this would have failed on these inferences; 0 when none would.
        passes_from_ns: budgets from this on would have passed on the first `passes_n` inferences; None when no budget
            is known to.
        passes_n: see above.
        ruled_out: a stretch of these inferences had shown that the budget is missed, so that they cannot pass any more.
        unit: what the durations are of.
    """

    budget_ns: int
    rate: float
    alpha: float
    n: int
    exceedances: int
    inflation: float
    fails_below_ns: float
    passes_from_ns: float | None
    passes_n: int
    ruled_out: bool = False
    unit: str = "inferences"


def of_quantile(outcome: Outcome, look: QuantileLook) -> str:
    """What would change the verdict PASS, FAIL or INCONCLUSIVE of such a gate at this look."""
    from pytest_edgehil.gates.stats.projection import fewest_to_pass

    budget = format_duration(look.budget_ns, digits=4)
    passes = None if look.passes_from_ns is None else duration_at_least(look.passes_from_ns)
    fails = duration_at_most(look.fails_below_ns) if look.fails_below_ns > 0 else None
    if outcome is Outcome.PASS:
        told = [] if fails is None else [f"a budget below {fails} would have failed on these {look.n} {look.unit}"]
        if look.passes_from_ns is not None and look.passes_from_ns < look.budget_ns:
            told.append(f"one of {passes} would have passed as well ({look.passes_n} {look.unit})")
        return "; ".join(told)
    if outcome is Outcome.FAIL:
        final = f"more {look.unit} of this model do not undo a FAIL"
        if passes is not None:
            return (
                f"a faster model, or a budget of at least {passes}, which the first {look.passes_n} {look.unit} "
                f"would have passed; {final}"
            )
        return (
            f"a faster model, or a larger budget: none below {fails} would have passed, and which one would takes at "
            f"least {fewest_to_pass(look.rate, look.alpha)} {look.unit} to tell; {final}"
        )
    told = []
    if passes is not None:
        told.append(f"of at least {passes} (passed by the first {look.passes_n} {look.unit})")
    if fails is not None:
        told.append(f"below {fails} (missed by these {look.n})")
    budgets = [f"a budget {' or '.join(told)}"] if told else []
    return "; ".join([*budgets, _more(look, budget)])


def _more(look: QuantileLook, budget: str) -> str:
    """How many more inferences would decide, if they went on like these."""
    from pytest_edgehil.gates.stats.projection import project

    share = f"{format_number(100.0 * look.exceedances / look.n, digits=2)}%"
    if_so = f"if the true share of slower ones is the observed {share} (a projection, no promise)"
    found = project(look.n, look.exceedances, p0=look.rate, alpha=look.alpha, inflation=look.inflation)
    if found is None:
        return f"at {budget} not even a million {look.unit} would decide, {if_so}"
    if found.below and look.ruled_out:
        return "a new measurement: a slow stretch of this one had shown the opposite, so it cannot PASS any more"
    if found.trials <= look.n:  # the evidence is there, and yet it does not count
        return f"60 {look.unit} at least, however fast they are"
    would = "PASS" if found.below else "FAIL"
    return (
        f"at {budget} about {format_count(_about(found.trials - look.n), f'more {look.unit}')} would {would}, {if_so}"
    )


def _about(count: int) -> str:
    """A projected count with no more digits than it deserves.

    >>> _about(7), _about(234), _about(31_846)
    ('7', '230', '32000')
    """
    keep = max(0, len(str(count)) - 2)
    return str(round(count, -keep))
