"""What a gate's time must be: that of a clock, that of an earlier run, or whatever the board has.

On an emulated board a nanosecond may be one instruction (`Timing.ICOUNT`). Such a number is the same however busy the
emulating host is, and no time that anybody would ever wait. So whatever is held against seconds (a latency in
milliseconds, a rate, an hour of soak, how a board warms up) refuses it, and what is held against another model or an
earlier run takes it where both sides were counted alike. Most refusals happen before a board is reserved (see
`plugin.markers.requirement_for`); a gate refuses a sample all the same, wherever that comes from.

A gate says what it needs as ``timing``: a `Timing`, or nothing where it does not matter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Outcome, Verdict

_GateT = TypeVar("_GateT", bound=Gate)
_Rest = ParamSpec("_Rest")

INSTEAD = (
    "run it on a board with timing: wall, or hold it against a model or an earlier run there, as in "
    "p95_latency(baseline=…, ratio=1.01)"
)
COUNTED = "this board's time is counted instructions (timing: icount), which are no seconds"


def timing_of(gate: Gate) -> Timing | None:
    """What a board's time must be for this gate; None: either will do."""
    found: Timing | None = getattr(gate, "timing", None)
    return found


def common_timing(gates: Sequence[Gate]) -> tuple[Timing | None, str]:
    """What a board's time must be for all of these gates, and which of them asks for it.

    Raises:
        MarkerError: two of them ask for different ones.
    """
    asked = [(timing, gate.name) for gate in gates if (timing := timing_of(gate)) is not None]
    for timing, name in asked[1:]:
        if timing is not asked[0][0]:
            raise MarkerError(
                f"{asked[0][1]} needs a board with timing: {asked[0][0]} and {name} one with timing: {timing}; "
                "make two tests of it"
            )
    return asked[0] if asked else (None, "")


def clash(gate: str, needed: Timing, given: Timing) -> str:
    """Why a gate cannot be decided on boards of another time.

    >>> clash("p95_latency", Timing.WALL, Timing.ICOUNT)[:88]
    'p95_latency is held against seconds, and boards with timing: icount count instructions; '
    """
    if needed is Timing.WALL:
        return f"{gate} is held against seconds, and boards with timing: {given} count instructions; {INSTEAD}"
    return (
        f"{gate} is held against counted instructions, and these boards have a clock (timing: {given}); "
        f"run it on a board with timing: {needed}"
    )


def in_seconds(
    what: str, unit: str, *, better: str = "lower"
) -> Callable[
    [Callable[Concatenate[_GateT, Sample, _Rest], Verdict]], Callable[Concatenate[_GateT, Sample, _Rest], Verdict]
]:
    """Wrap the ``evaluate`` of a gate that is held against seconds: counted instructions are INVALID.

    Args:
        what: it judges, for the reason.
        unit: of its verdicts.
        better: as `Verdict.better`.
    """

    def wrapped(
        evaluate: Callable[Concatenate[_GateT, Sample, _Rest], Verdict],
    ) -> Callable[Concatenate[_GateT, Sample, _Rest], Verdict]:
        @functools.wraps(evaluate)
        def judged(gate: _GateT, sample: Sample, /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> Verdict:
            if sample.timing is Timing.WALL:
                return evaluate(gate, sample, *args, **kwargs)
            return Verdict(
                gate=gate.name,
                outcome=Outcome.INVALID,
                unit=unit,
                better=better,
                n=sample.n,
                reason=f"{what} is not usable: {COUNTED}; {INSTEAD}",
                would_change=INSTEAD,
            )

        return judged

    return wrapped


def differs(then: Timing, now: Timing) -> str | None:
    """Why two measurements cannot be compared; None if their times are of one kind."""
    if then is now:
        return None
    words: dict[Any, str] = {Timing.WALL: "on a clock", Timing.ICOUNT: "in counted instructions"}
    return f"the earlier one was timed {words[then]} (timing: {then}), this one {words[now]} (timing: {now})"
