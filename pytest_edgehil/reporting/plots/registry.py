"""Which pictures there are, which of them a gate and a sample call for, and drawing them.

Whether there is something to draw is told without matplotlib: a worker promises pictures that the controller draws
later, when nothing is measured any more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting.plots import canvas, distribution, drift, evidence, items, memory, ratios, temperature


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Args: name: of the picture. applies: does a gate and its sample call for it? draw: on axes."""

    name: str
    applies: Callable[[Gate, Sample, Verdict], bool]
    draw: Callable[[Any, Gate, Sample, Verdict], canvas.Caption]


KINDS: Final = tuple(
    Kind(name=one.NAME, applies=one.applies, draw=one.draw)
    for one in (distribution, evidence, ratios, items, memory, drift, temperature)
)


def names(gate: Gate, sample: Sample, verdict: Verdict) -> tuple[str, ...]:
    """The pictures that this gate, its sample and its verdict call for."""
    return tuple(one.name for one in KINDS if one.applies(gate, sample, verdict))


def draw(name: str, gate: Gate, sample: Sample, *, file_format: str, verdict: Verdict | None = None) -> bytes:
    """One of them.

    Args:
        name: one of `names`.
        gate: judges the sample again; nothing in the picture comes from anywhere else.
        sample: the raw sample.
        file_format: ``svg`` or ``png``.
        verdict: what `gate` has just said of `sample`, if it was asked already.

    Raises:
        UserError: matplotlib is not installed.
    """
    kind = next(one for one in KINDS if one.name == name)
    said = gate.evaluate(sample) if verdict is None else verdict
    return canvas.render(lambda axes: kind.draw(axes, gate, sample, said), file_format=file_format)
