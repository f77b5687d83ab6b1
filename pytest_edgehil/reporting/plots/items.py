"""``items``: the share of items that are as they should be, over the items taken, with its bounds and the limit.

What is drawn at a count is what the gate would have said then: bounds that hold at any time, until the whole set is
used up and one exact test has the last word.
"""

from __future__ import annotations

from typing import Any, Final

from pytest_edgehil.gates.accuracy import Accuracy
from pytest_edgehil.gates.cosine import CosineSimilarity
from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.quantity import format_count
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas
from pytest_edgehil.reporting.plots.words import headline, note

NAME: Final = "items"

_POINTS = 40


def applies(gate: Gate, sample: Sample, verdict: Verdict) -> bool:
    """Is there anything to draw?"""
    return _good(gate, sample) is not None and verdict.n >= 2 and verdict.observed is not None


def draw(axes: Any, gate: Gate, sample: Sample, verdict: Verdict) -> canvas.Caption:
    """Draw it."""
    import numpy as np

    from pytest_edgehil.gates.stats.binomial import whole_set_bounds
    from pytest_edgehil.gates.stats.eprocess import rate_interval
    from pytest_edgehil.gates.stats.sequential import looks

    good = _good(gate, sample)
    assert good is not None
    assert isinstance(gate, (Accuracy, CosineSimilarity))
    bad = ~np.asarray(good, dtype=bool)[: verdict.n]
    n = bad.shape[0]
    limit = gate.share if isinstance(gate, CosineSimilarity) else gate.agreement or gate.at_least or 1.0
    at = np.unique(np.geomspace(min(10, n), n, _POINTS).astype(int))
    counts = np.cumsum(bad)[at - 1]
    bounds = np.array([rate_interval(int(k), int(s), gate.alpha) for k, s in zip(at, counts, strict=True)])
    if sample.evaluated_of is not None and n >= sample.evaluated_of:
        bounds[-1] = whole_set_bounds(n, int(counts[-1]), gate.alpha, at=looks(n, also=n))
    colour = canvas.OUTCOME_COLOUR[verdict.outcome]
    axes.fill_between(
        at, 100 * (1 - bounds[:, 1]), 100 * (1 - bounds[:, 0]), color=colour, alpha=0.22, linewidth=0,
        label="bounds of the true share", gid="bounds",
    )  # fmt: skip
    axes.plot(at, 100 * (1 - counts / at), color=colour, linewidth=1.8, label="observed share", gid="observed")
    axes.axhline(
        100 * limit,
        color=canvas.INK,
        linewidth=1.4,
        linestyle=(0, (5, 2)),
        label=f"limit {100 * limit:g} %",
        gid="limit",
    )
    lowest = min(100 * limit, float(100 * (1 - counts / at).min()), float(100 * (1 - bounds[-1, 1])))
    axes.set_ylim(max(0.0, lowest - 0.35 * (100.0 - lowest) - 0.5), 100.5)
    axes.set_xlim(float(at[0]), float(at[-1]) if at[-1] > at[0] else float(at[0]) + 1.0)
    axes.set_xlabel("items taken")
    axes.set_ylabel("share of the items, %")
    return canvas.Caption(
        outcome=verdict.outcome,
        headline=headline(verdict),
        note=note(verdict, format_count(int(counts[-1]), "exceptions")),
        alt=f"The share over the first {n} items, with bounds, and the limit of {100 * limit:g} %. {verdict.reason}.",
    )


def _good(gate: Gate, sample: Sample) -> Any:
    """Which items are as they should be; None where the gate counts none."""
    import numpy as np

    if isinstance(gate, CosineSimilarity) and sample.cosines is not None:
        return np.nan_to_num(np.asarray(sample.cosines), nan=-1.0) >= gate.least
    if isinstance(gate, Accuracy) and gate.drop is None:
        return sample.correct if gate.at_least is not None else sample.agreed
    return None
