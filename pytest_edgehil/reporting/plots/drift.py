"""``drift``: does the model get slower over a soak? The latency of each minute, its trend, and the trend allowed.

The axis of time goes to the declared end of the soak: where it was stopped early, the rest is a straight line's word.
"""

from __future__ import annotations

from typing import Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.soak import Soak
from pytest_edgehil.gates.soaking import slowing
from pytest_edgehil.model.quantity import format_number
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "drift"


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:  # noqa: ARG001 - alike for all pictures
    """Is there anything to draw?"""
    if not isinstance(gate, Soak) or gate.drift is None or sample.n == 0:
        return False
    return bool((sample.latencies_ns > 0).all()) and _blocks(gate, sample)[0].shape[0] >= 2


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    import numpy as np

    from pytest_edgehil.gates.stats import drift

    assert isinstance(gate, Soak)
    assert gate.drift is not None
    required_s = gate.required_ns / 1e9
    middles, values = _blocks(gate, sample)
    values = values / 1e6
    length = drift.block_s(required_s)
    found = drift.look(
        slowing.started_s(sample), np.asarray(sample.latencies_ns, dtype=np.float64), budget=gate.drift,
        duration_s=required_s, alpha=gate.alpha, quantile=slowing.QUANTILES[gate.drift_of], early_pass=not gate.full,
        ended=sample.duration_s >= required_s,
    )  # fmt: skip
    told = f"{gate.drift_of} of {length:.0f} s each"
    axes.plot(middles / 60.0, values, "o", color=canvas.BLUE, markersize=3.2, label=told, gid="blocks")
    said, head = "", headline(verdict)
    if found is not None:
        seen = middles + length / 2 <= found.at_s + 1e-9
        centre, level = float(middles[seen].mean()), float(np.exp(np.log(values[seen]).mean()))
        ends = np.linspace(0.0, required_s, 60)

        def through(growth: float) -> Any:
            return level * np.exp(np.log1p(max(growth, -0.99)) * (ends - centre) / required_s)

        told = f"bounds {_percent(found.low)} to {_percent(found.high)}"
        edges = through(found.low), through(found.high)
        axes.fill_between(ends / 60.0, *edges, color=canvas.ORANGE, alpha=0.4, linewidth=0, label=told)
        told = f"trend: {_percent(found.estimate)} over the soak"
        axes.plot(ends / 60.0, through(found.estimate), color=canvas.ORANGE, linewidth=1.8, label=told, gid="trend")
        told = f"budget {_percent(gate.drift)}"
        dashed = {"linewidth": 1.4, "linestyle": (0, (5, 2)), "label": told, "gid": "budget"}
        axes.plot(ends / 60.0, through(gate.drift), color=canvas.INK, **dashed)
        moved = f"the {gate.drift_of} changes by {_percent(found.estimate)}, budget {_percent(gate.drift)}"
        head = f"{verdict.outcome.value} {verdict.gate}: {moved}"
        said = f"last look at minute {found.at_s / 60:.0f}"
    low, high = float(values.min()), float(values.max())
    pad = max(0.02 * high, 0.25 * (high - low))
    axes.set_ylim(max(0.0, low - pad), high + pad)
    axes.set_xlim(0.0, required_s / 60.0)
    axes.set_xlabel("time since the first inference, min")
    axes.set_ylabel(f"{gate.drift_of} latency, ms")
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=head,
        note=note(verdict, said),
        alt=f"The {gate.drift_of} of the latency over the soak, {values.shape[0]} stretches. {verdict.reason}.",
    )


def _blocks(gate: Soak, sample: Sample) -> tuple[Any, Any]:
    import numpy as np

    from pytest_edgehil.gates.stats import drift

    required_s = gate.required_ns / 1e9
    return drift.block_quantiles(
        slowing.started_s(sample),
        np.asarray(sample.latencies_ns, dtype=np.float64),
        quantile=slowing.QUANTILES[gate.drift_of],
        length_s=drift.block_s(required_s),
        skip_s=min(drift.LONGEST_SKIP_S, required_s / 20.0),
    )


def _percent(share: float) -> str:
    return f"{'+' if share >= 0 else ''}{format_number(100.0 * share)} %"
