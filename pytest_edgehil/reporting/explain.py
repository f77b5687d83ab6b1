"""Why a verdict is what it is: one sentence, the figures behind it, and what would change it.

Every report explains through this module, so the terminal, Allure, the CI summary and ``edgehil judge`` say the same.
The sentence and what would change the verdict come from the gate, which knows what it asked; the figures are
those of `Verdict`, in the order in which a reviewer asks for them: what was seen and what was allowed, how sure that
is, how much was measured, at which error rate, how strong the evidence is. A figure that no one here has heard of is
shown under its own name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from pytest_edgehil.model.quantity import format_number
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting import format as fmt

_SPOKEN_FOR: Final = frozenset(
    {
        "alpha",
        "looks",
        "lower_bound",
        "upper_bound",
        "variance_inflation",
        "effective_n",
        "exceedances",
        "log_e_pass",
        "log_e_fail",
        "quantile",
        "samples_available",
    }
)
"""Statistics that have a place of their own in the figures, or are in the sentence anyway."""

_UNITS: Final[Mapping[str, str]] = {
    # end of a statistic's name → unit of its value
    "_ns": "ns",
    "_bytes": "bytes",
    "_bytes_per_h": "bytes/h",
    "_s": "s",
    "_c": "°C",
    "_seconds": "s",
    "_share": "fraction",
    "_hz": "/s",
}


def explain(verdict: Verdict) -> tuple[str, ...]:
    """A verdict in full, for people: what it says and why, its figures, what would change it.

    Returns:
        One to three lines without line ends, none of them wrapped: the gate's sentence; ``figures: …``, unless there
        are none; ``would change it: …``, unless the gate names nothing.

    >>> from pytest_edgehil.model.verdict import Outcome
    >>> for line in explain(Verdict(gate="size", outcome=Outcome.FAIL, unit="bytes", n=1, observed=2048.0,
    ...     budget=1024.0, reason="the artifact has 2 KiB", would_change="a budget of at least 2 KiB")):
    ...     print(line)
    FAIL size: the artifact has 2 KiB
    figures: observed 2 KiB > budget 1 KiB; n = 1
    would change it: a budget of at least 2 KiB
    """
    told = [f"{verdict.outcome.value} {verdict.gate}: {verdict.reason}"]
    numbers = figures(verdict)
    if numbers:
        told.append(f"figures: {numbers}")
    if verdict.would_change:
        told.append(f"would change it: {verdict.would_change}")
    return tuple(told)


def figures(verdict: Verdict) -> str:
    """The figures behind a verdict in one line, groups parted by semicolons; empty when there are none.

    >>> from pytest_edgehil.model.verdict import Outcome
    >>> print(figures(Verdict(gate="p95_latency", outcome=Outcome.PASS, unit="ns", n=126, observed=9.1e6, budget=12e6,
    ...     reason="", interval=(8.2e6, 11.9e6), statistics={"alpha": 0.05, "looks": 12.0, "effective_n": 78.75,
    ...     "variance_inflation": 1.6, "exceedances": 0.0, "log_e_pass": 3.4, "log_e_fail": -2.0})))
    observed 9.1 ms ≤ budget 12 ms; between 8.2 and 11.9 ms; n = 126 (counts as 78.8: V = 1.6), 0 beyond the budget; \
α = 5 % a side, 12 looks; evidence for PASS 30, for FAIL 0.135 (20 decides)
    """
    groups = (
        _seen(verdict),
        _bounds(verdict),
        _counted(verdict),
        _error_rate(verdict),
        _evidence(verdict),
        _others(verdict),
    )
    return "; ".join(one for one in groups if one)


def _seen(verdict: Verdict) -> str:
    observed, budget = fmt.observed_and_budget(verdict)
    if verdict.observed is None:
        return "" if verdict.budget is None else f"budget {budget}"
    if verdict.budget is None:
        return f"observed {observed}"
    return f"observed {observed} {fmt.relation(verdict)} budget {budget}"


def _bounds(verdict: Verdict) -> str:
    if verdict.interval is not None:
        low, high = verdict.interval
        if math.isinf(low) or math.isinf(high):
            return "" if math.isinf(low) and math.isinf(high) else fmt.interval(verdict)
        return f"between {fmt.interval(verdict).replace('–', ' and ')}"
    low_only = verdict.statistics.get("lower_bound")
    high_only = verdict.statistics.get("upper_bound")
    told = []
    if low_only is not None and low_only > 0:
        told.append(f"at least {fmt.quantity(low_only, verdict.unit)}")
    if high_only is not None:
        told.append(f"at most {fmt.quantity(high_only, verdict.unit)}")
    return ", ".join(told)


def _counted(verdict: Verdict) -> str:
    if verdict.n == 0:
        return ""
    told = f"n = {verdict.n}"
    inflation, effective = (verdict.statistics.get(name) for name in ("variance_inflation", "effective_n"))
    if inflation is not None and effective is not None and inflation > 1.0:
        told += f" (counts as {format_number(effective)}: V = {format_number(inflation)})"
    beyond = verdict.statistics.get("exceedances")
    if beyond is not None:
        told += f", {beyond:.0f} beyond the budget"
    return told


def _error_rate(verdict: Verdict) -> str:
    alpha, looks = (verdict.statistics.get(name) for name in ("alpha", "looks"))
    told = []
    if alpha is not None:
        told.append(f"α = {fmt.quantity(alpha, 'fraction')} a side")
    if looks is not None:
        told.append(fmt.counted(round(looks), "look"))
    return ", ".join(told)


def _evidence(verdict: Verdict) -> str:
    """Of an e-process: the e-values themselves, for their logarithms say nothing to most readers."""
    told = [
        f"for {name} {_e_value(verdict.statistics[key])}"
        for key, name in (("log_e_pass", "PASS"), ("log_e_fail", "FAIL"))
        if key in verdict.statistics
    ]
    alpha = verdict.statistics.get("alpha")
    if not told or not alpha:
        return ""
    return f"evidence {', '.join(told)} ({format_number(1.0 / alpha)} decides)"


def _e_value(logarithm: float) -> str:
    power = logarithm / math.log(10.0)
    if math.isinf(logarithm) or power < -4:
        return "0" if logarithm < 0 else "∞"
    return f"10^{power:.0f}" if power > 5 else format_number(math.exp(logarithm))


def _others(verdict: Verdict) -> str:
    return ", ".join(
        f"{_words(name)} {fmt.quantity(value, unit)}"
        for name, value in verdict.statistics.items()
        if name not in _SPOKEN_FOR
        for unit in [_unit(name)]
    )


def _unit(name: str) -> str:
    return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "")


def _words(name: str) -> str:
    """A statistic's name without its unit.

    >>> _words("hottest_mean_c"), _words("cores")
    ('hottest mean', 'cores')
    """
    end = next((end for end in sorted(_UNITS, key=len, reverse=True) if name.endswith(end)), "")
    return name.removesuffix(end).replace("_", " ")
