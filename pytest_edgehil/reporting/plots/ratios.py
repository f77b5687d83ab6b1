"""``ratios``: how many times as slow as its baseline a model is, pair of blocks by pair, and what the looks make of it.

A pale dot is the ratio of one pair: noisy, and not what is judged. A dark one with a bar is the ratio over all pairs so
far, with its bounds at that look; the gate decides when a bar no longer reaches across the limit.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from pytest_edgehil.gates.against_baseline import AgainstBaseline
from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.series import BlockPair
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "ratios"


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:
    """Is there anything to draw?"""
    return isinstance(gate, AgainstBaseline) and verdict.observed is not None and len(_pairs(gate, sample)) >= 2


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    import numpy as np

    from pytest_edgehil.gates.stats.block_ratio import looks

    assert isinstance(gate, AgainstBaseline)
    pairs = _pairs(gate, sample)
    each = [
        float(np.quantile(one.candidate_ns, gate.quantile) / np.quantile(one.baseline_ns, gate.quantile))
        for one in pairs
    ]
    at = np.arange(1, len(pairs) + 1)
    axes.plot(at, each, "o", color=canvas.QUIET, markersize=4.0, alpha=0.55, label="one pair of blocks", gid="pairs")
    shown = [*each, gate.ratio]
    seen = [one for one in looks(gate.pairs, gate.block, gate.quantile) if one <= verdict.n // gate.block]
    said = [(k, gate.evaluate(_first(gate, sample, k))) for k in seen]
    colour = canvas.OUTCOME_COLOUR[verdict.outcome]
    for number, (k, one) in enumerate(said):
        if one.observed is None or one.interval is None:
            continue
        low, high = one.interval
        label = "all pairs so far, with bounds at a look" if number == 0 else None
        bar = {"marker": "D", "markersize": 5.0, "capsize": 5.0, "linewidth": 2.0, "label": label}
        errors = [[one.observed - low], [high - one.observed]]
        axes.errorbar([k], [one.observed], yerr=errors, color=colour, zorder=3, **bar)
        shown += [low, high]
    told = f"limit ×{gate.ratio:g}"
    axes.axhline(gate.ratio, color=canvas.INK, linewidth=1.4, linestyle=(0, (5, 2)), label=told, gid="limit")
    axes.axhline(1.0, color=canvas.QUIET, linewidth=0.8, linestyle=":")
    low, high = min(*shown, 1.0), max(*shown, 1.0)
    pad = 0.08 * (high - low) + 0.002
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0.3, max(len(pairs), 2) + 0.7)
    axes.set_xlabel(f"pairs of blocks of {gate.block} inferences")
    axes.set_ylabel(f"p{100 * gate.quantile:g} of the model / p{100 * gate.quantile:g} of {gate.baseline}, ratio")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=headline(verdict, what=f"p{100 * gate.quantile:g} against {gate.baseline}"),
        note=note(verdict, f"{len(said)} look{'' if len(said) == 1 else 's'}"),
        alt=f"Ratios of {len(pairs)} pairs of blocks and of all pairs at {len(said)} looks. {verdict.reason}.",
    )


def _pairs(gate: AgainstBaseline, sample: Sample) -> tuple[BlockPair, ...]:
    """The pairs that the gate judges: against its baseline, in blocks of its length."""
    for paired in sample.paired:
        if paired.baseline == gate.baseline:
            shapes = ((one, one.candidate_ns.shape, one.baseline_ns.shape) for one in paired.pairs)
            return tuple(one for one, ours, theirs in shapes if ours == theirs == (gate.block,))
    return ()


def _first(gate: AgainstBaseline, sample: Sample, count: int) -> Sample:
    """The sample as it was after so many pairs."""
    kept = _pairs(gate, sample)[:count]
    cut = (dataclasses.replace(one, pairs=kept) if one.baseline == gate.baseline else one for one in sample.paired)
    return sample.replace(paired=tuple(cut))
