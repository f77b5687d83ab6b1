"""What a gate asks for, and what it says.

`GateSpec + Sample → Verdict`. A spec is what a person wrote in a marker, parsed; a verdict is the answer with the
numbers that led to it. A verdict has no truth value on purpose: `if verdict:` would let INCONCLUSIVE pass.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn


class Outcome(enum.StrEnum):
    """The four things a gate can say."""

    PASS = "PASS"  # noqa: S105 - no password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"

    def __bool__(self) -> NoReturn:
        raise TypeError("an outcome has no truth value: compare it, for example outcome is Outcome.PASS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one gate says of one sample, with the numbers that led to it.

    Args:
        gate: the gate's name, such as ``p95_latency``.
        outcome: what it says.
        observed: the number that was held against the budget, in `unit`; None when there is none.
        budget: the limit, in `unit`; None when the gate has none.
        interval: (low, high) confidence bounds of `observed`, in `unit`; None when the gate states no error rate.
        unit: ``ns``, ``bytes``, ``°C``, ``bytes/h``, ``1/s``, ``J``, ``fraction``, ``ratio`` or ``s``.
        better: ``lower`` or ``higher``.
        n: how many samples went into it (what is counted says the gate's docs).
        reason: one sentence that a QA reviewer understands.
        decided: may more samples still change it? False only while it is INCONCLUSIVE and the budget is not spent.
        not_checked: what this gate did not look at, in plain words; never empty talk.
        statistics: further figures by name, such as ``log_e_pass``, ``alpha``, ``looks``.
        would_change: what would change the verdict, as one sentence; empty where nothing would.
    """

    gate: str
    outcome: Outcome
    unit: str
    n: int
    reason: str
    observed: float | None = None
    budget: float | None = None
    interval: tuple[float, float] | None = None
    better: str = "lower"
    decided: bool = True
    not_checked: tuple[str, ...] = ()
    statistics: Mapping[str, float] = field(default_factory=dict)
    would_change: str = ""

    def __bool__(self) -> NoReturn:
        raise TypeError("a verdict has no truth value: compare its outcome, or use gates.require()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a gate still needs before its next look. Zero: nothing of that kind.

    Args:
        inferences: so many more timed inferences.
        seconds: so many more seconds of measuring.
        cold_starts: so many more loads in a fresh process.
        evaluations: so many more items of the held-out set.
        horizon_s: not 0: so many seconds at most, this demand's among them, will be asked for in all. The measuring may
            then go on on the board between two demands, and survive a lost link.
        restarts: a model's process that dies meanwhile is counted (`Sample.crashes_at_s`) and started again.
        rate_hz: not 0: the inferences are due at this rate (`Sample.open_loop`), and nothing else is asked for.
        pairs: so many more pairs of blocks against `baseline`, and nothing else is asked for.
        block: inferences in each block of a pair.
        baseline: which artifact the pairs compare with, as the marker names it.
        generations: so many more runs that produce tokens.
    """

    inferences: int = 0
    seconds: float = 0.0
    cold_starts: int = 0
    evaluations: int = 0
    horizon_s: float = 0.0
    restarts: bool = False
    rate_hz: float = 0.0
    pairs: int = 0
    block: int = 0
    baseline: str = ""
    generations: int = 0
