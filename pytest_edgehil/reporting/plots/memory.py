"""``memory``: what the model's process held during a soak, the fitted growth, and the growth that the budget allows.

The points are the smallest value of each minute: what is really held beneath the saw of allocator and collector. The
fan is what the bounds of the slope mean; the dashed line warms up as the fit does and then grows as fast as the budget
allows. Both cross the fit in the middle of what was looked at, for only their slopes are compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.soak import Soak
from pytest_edgehil.gates.soaking import growth
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.plots import canvas, thinning
from pytest_edgehil.reporting.plots.words import headline, note

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.leak import FloatArray, Slope

NAME: Final = "memory"
_MIB = 2.0**20


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:  # noqa: ARG001 - alike for all pictures
    """Is there anything to draw?"""
    asked = isinstance(gate, Soak) and (gate.leak_bytes_per_h is not None or gate.peak_rss_bytes is not None)
    return asked and sum(one.rss_bytes is not None for one in sample.readings) >= 2


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    from pytest_edgehil.gates.stats import leak

    assert isinstance(gate, Soak)
    at, held = growth.held_over_time(sample)
    x, y = thinning.line(at, held)
    axes.plot(x / 60.0, y / _MIB, color=canvas.BLUE, linewidth=0.7, alpha=0.55, label="held (RSS and swap)", gid="held")
    bottom, top = float(held.min()) / _MIB, float(held.max()) / _MIB
    said, told = "", headline(verdict)
    if gate.leak_bytes_per_h is not None:
        middles, minima = leak.window_minima(at, held)
        axes.plot(
            middles / 60.0, minima / _MIB, "o", color=canvas.INK, markersize=2.6, label="smallest of each minute",
            gid="minima",
        )  # fmt: skip
        required_s = gate.required_ns / 1e9
        found = growth.look(
            sample, gate.leak_bytes_per_h, duration_s=required_s, alpha=gate.alpha,
            ended=sample.duration_s >= required_s, early=not gate.full,
        )  # fmt: skip
        if found is not None:
            top = max(top, _fan(axes, middles, minima, found, gate.leak_bytes_per_h))
            grows, allowed = (fmt.quantity(one, "bytes/h") for one in (found.estimate, gate.leak_bytes_per_h))
            told = f"{verdict.outcome.value} {verdict.gate}: memory grows by {grows}, budget {allowed}"
            said = f"last look at minute {found.at_s / 60:.0f}"
    if gate.peak_rss_bytes is not None:
        ceiling = gate.peak_rss_bytes / _MIB
        line = f"ceiling {fmt.quantity(gate.peak_rss_bytes, 'bytes', digits=4)}"
        axes.axhline(ceiling, color=canvas.VERMILLION, linewidth=1.4, label=line, gid="ceiling")
        top = max(top, ceiling)
    pad = max(0.5, 0.08 * (top - bottom))
    axes.set_ylim(max(0.0, bottom - pad), top + pad)
    axes.set_xlim(0.0, max(float(at[-1]) / 60.0, 1e-3) * 1.01)
    axes.set_xlabel("time since the first reading, min")
    axes.set_ylabel("memory of the model's process, MiB")
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=told,
        note=note(verdict, said),
        alt=f"Memory over {at[-1] / 60:.0f} minutes, {held.shape[0]} readings. {verdict.reason}.",
    )


def _fan(axes: Any, middles: FloatArray, minima: FloatArray, found: Slope, budget_per_h: float) -> float:
    """The fit, what the bounds of its slope mean, and the allowed growth; returns how high they reach, in MiB."""
    import numpy as np

    from pytest_edgehil.gates.stats import leak

    seen = middles + leak.WINDOW_S / 2 <= found.at_s
    at, held = middles[seen], minima[seen]
    per_s = found.estimate / 3600.0
    curve = leak.fitted(at, held, per_s)
    # every slope shares the fit's warming up and goes through its middle; what was not looked at continues straight on
    whole = np.concatenate((curve, curve[-1] + per_s * (middles[~seen] - at[-1])))
    centre = float(at.mean())

    def through(per_h: float) -> FloatArray:
        return np.asarray((whole + (per_h - found.estimate) / 3600.0 * (middles - centre)) / _MIB)

    low, high, allowed = through(found.low), through(found.high), through(budget_per_h)
    told = f"bounds {fmt.quantity(found.low, 'bytes/h')} to {fmt.quantity(found.high, 'bytes/h')}"
    axes.fill_between(middles / 60.0, low, high, color=canvas.ORANGE, alpha=0.5, linewidth=0, label=told)
    told = f"fit: {fmt.quantity(found.estimate, 'bytes/h')}"
    axes.plot(at / 60.0, curve / _MIB, color=canvas.ORANGE, linewidth=1.8, label=told, gid="fit")
    told = f"budget {fmt.quantity(budget_per_h, 'bytes/h')}"
    axes.plot(middles / 60.0, allowed, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label=told, gid="budget")
    return float(max(allowed.max(), min(high.max(), 1.3 * held.max() / _MIB)))
