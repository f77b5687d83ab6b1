"""What every gate can do.

A gate is a frozen value: what a person wrote in a marker, parsed, with every default filled in. Light on
purpose: the plugin imports this in every pytest run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Verdict


class Gate(Protocol):
    """A requirement on samples.

    `evaluate` and `demand` are pure functions of the sample: the same stored sample gives the same verdict again,
    offline and at any later time.
    """

    @property
    def name(self) -> str:
        """The marker's name, such as ``p95_latency``."""

    def evaluate(self, sample: Sample) -> Verdict:
        """What this gate says of the sample."""

    def demand(self, sample: Sample) -> Demand | None:
        """What is still needed before the next look; None when it has decided or its budget is spent."""

    def arguments(self) -> dict[str, Any]:
        """Every argument as plain JSON types, names carrying units; `registry.from_arguments` is the inverse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """What applies to every gate of a run unless its marker says otherwise.

    Args:
        alpha: error rate of each side of each gate.
        soak_ns: duration that replaces the declared one of soaks, or None; verdicts state that it was replaced.
        root: directory that files which markers name are relative to; None: the current one.
    """

    alpha: float = 0.05
    soak_ns: int | None = None
    root: Path | None = None


def statements(gate: Gate) -> int:
    """How many statements with an error rate a gate's verdict makes; what it only counts or weighs is none.

    A gate that makes several, or none although it takes an alpha, says so itself (``statements``).
    """
    own: int | None = getattr(gate, "statements", None)
    return own if own is not None else int(hasattr(gate, "alpha"))
