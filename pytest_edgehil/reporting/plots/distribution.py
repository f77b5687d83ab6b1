"""``distribution``: how long the inferences took, and where that leaves the quantile between its bounds and its budget.

An empirical distribution function: at 12 ms on the x axis, the line is as high as the share of inferences that took
12 ms or less. The gate asks whether it reaches the quantile's level before it reaches the budget.
"""

from __future__ import annotations

from typing import Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.model.quantity import format_duration
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.reporting.plots import canvas, thinning
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "distribution"


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:
    """Is there anything to draw?"""
    return isinstance(gate, LatencyQuantile) and verdict.observed is not None and gate.timings(sample).n >= 2


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    import numpy as np

    assert isinstance(gate, LatencyQuantile)
    timed = gate.timings(sample)
    latencies = timed.values_ns
    judged = latencies[: verdict.n] if 2 <= verdict.n <= latencies.shape[0] else latencies
    low, high = verdict.statistics.get("lower_bound"), verdict.statistics.get("upper_bound")
    scale, unit = _unit(max(float(np.median(judged)), float(gate.budget_ns)))
    level = 100.0 * gate.quantile
    budget = gate.budget_ns / scale

    right = _right_edge(judged, gate.budget_ns, high) / scale
    left = max(0.0, min(float(judged.min()), gate.budget_ns, low or np.inf) / scale)
    pad = 0.04 * (right - left)
    axes.set_xlim(left - pad, right + pad)
    axes.set_ylim(0.0, 104.0)

    decided = verdict.outcome in {Outcome.PASS, Outcome.FAIL}
    told = f"the {judged.shape[0]} {timed.unit} that decided" if decided else f"{judged.shape[0]} {timed.unit}"
    if judged.shape[0] < latencies.shape[0]:
        _steps(
            axes,
            latencies,
            scale,
            colour=canvas.QUIET,
            width=0.8,
            label=f"all {latencies.shape[0]} measured",
            gid="all",
        )
    _steps(axes, judged, scale, colour=canvas.BLUE, width=1.8, label=told, gid="judged")
    said = f"budget {_say(gate.budget_ns)}"
    axes.axvline(budget, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label=said, gid="budget")
    axes.axhline(level, color=canvas.QUIET, linewidth=0.8, linestyle=":")
    if verdict.observed is not None:
        _interval(axes, verdict, level, scale, low=low, high=high, right=right + pad)
    axes.set_xlabel(f"{timed.what}, {unit}")
    axes.set_ylabel(f"share of {timed.unit} at most as long, %")
    ticks = [one for one in (0, 25, 50, 75) if abs(one - level) > 4] + [level]
    axes.set_yticks(ticks, [f"p{one:g}" if one == level else f"{one:g}" for one in ticks])
    beyond = int((judged / scale > right + pad).sum())
    outside = f"{beyond} slower than shown, the slowest {_say(float(judged.max()))}" if beyond else ""
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=headline(verdict, what=f"p{level:g}"),
        note=note(verdict, outside),
        alt=(
            f"Distribution of the {timed.what} of {judged.shape[0]} {timed.unit}. {verdict.reason}. "
            f"The budget of {_say(gate.budget_ns)} is a vertical line, {level:g} % a horizontal one."
        ),
    )


def _steps(axes: Any, values: Any, scale: float, *, colour: str, width: float, label: str, gid: str) -> None:
    import numpy as np

    x, share = thinning.distribution(values)
    x, share = np.append(x[:1], x), np.append(0.0, share)
    axes.step(x / scale, 100.0 * share, where="post", color=colour, linewidth=width, label=label, gid=gid)


def _interval(
    axes: Any, verdict: Verdict, level: float, scale: float, *, low: float | None, high: float | None, right: float
) -> None:
    """The observed quantile as a dot, its bounds as a bar; a bound that is not known yet leaves the bar open."""
    assert verdict.observed is not None
    observed = verdict.observed / scale
    colour = canvas.OUTCOME_COLOUR[verdict.outcome]
    if low is not None and low > 0:
        end = right if high is None else high / scale
        bar = {"linewidth": 5.0, "alpha": 0.45, "solid_capstyle": "butt", "gid": "interval"}
        axes.plot([low / scale, end], [level, level], color=colour, **bar)
        closed = [low / scale] if high is None else [low / scale, end]
        axes.plot(closed, [level] * len(closed), "|", color=colour, markersize=13, markeredgewidth=1.8)
    told = f"p{level:g} {_say(verdict.observed)}"
    if low is not None and low > 0:
        told += f", {'at least ' + _say(low) if high is None else f'{_say(low)} to {_say(high)}'}"
    axes.plot([observed], [level], "o", color=colour, markersize=6.5, label=told, gid="observed")


def _right_edge(values: Any, budget_ns: float, high: float | None) -> float:
    """Far enough to see the budget and the bounds; a few stalls must not squeeze everything else to the left."""
    import numpy as np

    wanted = max(float(np.quantile(values, 0.985)), float(budget_ns), high or 0.0)
    return min(float(values.max()), 1.6 * wanted) if values.max() > wanted else 1.02 * wanted


def _unit(ns: float) -> tuple[float, str]:
    return (1e9, "s") if ns >= 2e9 else (1e6, "ms") if ns >= 2e5 else (1e3, "µs")


def _say(ns: float) -> str:
    return format_duration(ns, digits=4)
