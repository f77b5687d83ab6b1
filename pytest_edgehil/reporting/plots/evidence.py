"""``evidence``: how the evidence for PASS and for FAIL grew with the inferences, look by look.

Both e-processes start at 1, which says nothing. The first that reaches 1/α decides; were the opposite true, it would
get there in at most a share α of all runs, however often one looks. What is computed at a look uses V of that look, so
a line may fall although nothing slow happened: correlation was noticed.
"""

from __future__ import annotations

import math
from typing import Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.latency import LatencyQuantile
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "evidence"

_LOWEST, _HIGHEST = 1e-3, 1e4
"""What lies beyond is drawn at the edge, as an arrow: 10^18 against 20 says no more than "clear"."""


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:  # noqa: ARG001 - alike for all pictures
    """Is there anything to draw?"""
    return isinstance(gate, LatencyQuantile) and "log_e_pass" in verdict.statistics


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    assert isinstance(gate, LatencyQuantile)
    steps = gate.trace(sample)
    unit = gate.timings(sample).unit
    last = max((one.n for one in steps), default=verdict.n)
    threshold = 1.0 / gate.alpha
    axes.set_yscale("log")
    axes.set_ylim(_LOWEST / 1.6, _HIGHEST * 1.6)
    axes.set_xlim(0, 1.06 * max(last, 60))
    axes.axhline(threshold, gid="threshold", color=canvas.INK, linewidth=1.2, linestyle=(0, (5, 2)))
    axes.axhline(1.0, color=canvas.QUIET, linewidth=0.8, linestyle=":")
    at = [0, *(one.n for one in steps)]
    for name, marker, colour, values in (
        ("PASS", "o", canvas.BLUE, [0.0, *(one.log_e_pass for one in steps)]),
        ("FAIL", "s", canvas.VERMILLION, [0.0, *(one.log_e_fail for one in steps)]),
    ):
        shown = [min(max(math.exp(min(one, 300.0)), _LOWEST), _HIGHEST) for one in values]
        told = f"evidence for {name}"
        axes.plot(
            at,
            shown,
            color=colour,
            linewidth=1.6,
            marker=marker,
            markersize=4.0,
            markevery=slice(1, None),
            label=told,
            gid=f"evidence-{name}",
        )
        cut = [(n, y) for n, y, e in zip(at, shown, values, strict=True) if e > math.log(_HIGHEST)]
        if cut:
            axes.plot(*zip(*cut, strict=True), "^", color=colour, markersize=7.0, clip_on=False)
            n, y = cut[-1]
            axes.annotate(
                f"10^{max(values) / math.log(10):.0f}", (n, y), (6, -4), textcoords="offset points", color=colour
            )
    decides, above = f"1/α = {threshold:g} decides", (0.008, 1.25 * threshold)
    axes.text(*above, decides, transform=axes.get_yaxis_transform(), ha="left", color=canvas.INK, fontsize=8.5)
    axes.set_xlabel(f"{unit} looked at (a mark for every look)")
    axes.set_ylabel("evidence (1 says nothing)")
    axes.set_yticks(
        [1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 1e4], ["0.001", "0.01", "0.1", "1", "10", "100", "1000", "10 000"]
    )
    axes.minorticks_off()
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=headline(verdict, what=f"p{100 * gate.quantile:g}"),
        note=note(verdict, f"{len(steps)} look{'' if len(steps) == 1 else 's'}"),
        alt=(
            f"Evidence for PASS and for FAIL over the number of {unit}, at {len(steps)} looks. "
            f"{verdict.reason}. The threshold 1/α = {threshold:g} is a horizontal line."
        ),
    )
