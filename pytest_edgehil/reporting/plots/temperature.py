"""``temperature``: the readings, where the fit says that they settle, and the limit.

The first minute is shaded: it is left out of the fit, because the die itself warms up within seconds. The fit goes on
as a dashed line beyond the last reading, which is the prediction; its end has bounds.
"""

from __future__ import annotations

from typing import Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.thermal import FEWEST_READINGS, PREDICT_AFTER_TAUS, Thermal
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas, thinning
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "temperature"

_AHEAD = 1.35
"""The prediction is drawn for so many times the length of the measurement."""


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:  # noqa: ARG001 - alike for all pictures
    """Is there anything to draw?"""
    return isinstance(gate, Thermal) and sum(one.temperature_c is not None for one in sample.readings) >= 2


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    import numpy as np

    from pytest_edgehil.gates.stats.warming import fit

    assert isinstance(gate, Thermal)
    readings = [(one.at_s, one.temperature_c) for one in sample.readings if one.temperature_c is not None]
    at = np.array([one for one, _ in readings])
    at = np.concatenate(([0.0], np.cumsum(np.maximum(np.diff(at), 0.0))))
    values = np.array([one for _, one in readings])
    late = at >= gate.settle_ns / 1e9
    found = fit(at[late], values[late], alpha=gate.alpha) if late.sum() >= FEWEST_READINGS else None
    elapsed = float(at[late][-1] - at[late][0]) if late.any() else 0.0
    predicted = found is not None and elapsed >= PREDICT_AFTER_TAUS * found.tau_s
    span = float(at[-1]) or 1.0
    scale, unit = (60.0, "min") if span >= 300.0 else (1.0, "s")
    right = _AHEAD * span if predicted else 1.04 * span
    axes.set_xlim(0.0, right / scale)

    left_out = min(gate.settle_ns / 1e9, right) / scale
    axes.axvspan(0.0, left_out, color=canvas.GRID, alpha=0.5, linewidth=0, label="left out of the fit")
    x, y = thinning.line(at, values, buckets=120)
    axes.plot(x / scale, y, ".", color=canvas.BLUE, markersize=3.0, alpha=0.75, label="readings", gid="readings")
    shown = [float(values.min()), float(values.max())]
    if predicted and found is not None:
        colour = canvas.OUTCOME_COLOUR[verdict.outcome]
        ahead = np.linspace(float(at[late][0]), right, 200)
        curve = found.end_c - (found.end_c - found.now_c) * np.exp(-(ahead - at[-1]) / found.tau_s)
        seen = ahead <= at[-1]
        axes.plot(ahead[seen] / scale, curve[seen], color=canvas.INK, linewidth=1.4, label="fit")
        axes.plot(ahead[~seen] / scale, curve[~seen], color=canvas.INK, linewidth=1.4, linestyle=(0, (2, 2)))
        end = f"settles at {found.end_c:.1f} °C ({found.low_c:.1f} to {found.high_c:.1f})"
        axes.axhspan(found.low_c, found.high_c, color=colour, alpha=0.3, linewidth=0)
        axes.axhline(found.end_c, color=colour, linewidth=1.2, label=end, gid="settles")
        shown += [found.end_c, min(found.high_c, found.end_c + 20.0), max(found.low_c, found.end_c - 20.0)]
    if gate.max_c is not None:
        axes.axhline(
            gate.max_c,
            color=canvas.INK,
            linewidth=1.4,
            linestyle=(0, (5, 2)),
            label=f"limit {gate.max_c:g} °C",
            gid="limit",
        )
        shown.append(gate.max_c)
    hot = [
        moment
        for moment, one in zip(at, (r for r in sample.readings if r.temperature_c is not None), strict=True)
        if one.throttled is not None and one.throttled & 0xE
    ]
    low, high = min(shown), max(shown)
    pad = max(1.0, 0.08 * (high - low))
    axes.set_ylim(low - pad, high + pad)
    if hot:
        axes.plot(
            [hot[0] / scale, hot[-1] / scale], [low - 0.6 * pad] * 2, color=canvas.VERMILLION, linewidth=4.0,
            label="throttled",
        )  # fmt: skip
    axes.set_xlabel(f"time since the first reading, {unit}")
    axes.set_ylabel("SoC temperature, °C")
    length = f"{span / scale:.3g} {unit} measured"
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=headline(verdict, what="settles at" if predicted else "hottest"),
        note=note(verdict, length, "" if predicted else "too short to predict where it settles"),
        alt=f"Temperature over time, {values.shape[0]} readings. {verdict.reason}.",
    )
