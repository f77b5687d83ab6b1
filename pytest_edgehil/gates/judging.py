"""Measuring on until every gate has decided, or the budget of samples and time is spent.

The gates say what they need (`Gate.demand`), whoever holds the DUT measures it (`measure`), and time is injected:
nothing here waits, and nothing here knows a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Verdict


def judge(
    gates: Sequence[Gate],
    *,
    sample: Sample,
    measure: Callable[[Demand], Sample],
    clock: Callable[[], float],
    max_seconds: float,
    on_look: Callable[[Sample, tuple[Verdict, ...]], None] | None = None,
) -> tuple[Sample, tuple[Verdict, ...]]:
    """Evaluate the gates, measuring on as long as one of them asks for more.

    Verdicts are returned as the gates gave them on the last sample, so that they can be computed again from the
    stored sample. A gate that could not decide in time says INCONCLUSIVE with ``decided=False``.

    Args:
        gates: what to decide.
        sample: what has been measured already; it counts.
        measure: measures at least what is demanded and returns the *whole* sample, longer than before.
        clock: monotonic time in seconds.
        max_seconds: no further measuring is started after this long.
        on_look: called after every evaluation, for progress.

    Returns:
        The final sample, and one verdict per gate in their order.
    """
    deadline = clock() + max_seconds
    while True:
        verdicts = tuple(gate.evaluate(sample) for gate in gates)
        if on_look is not None:
            on_look(sample, verdicts)
        wanted = union(
            gate.demand(sample) for gate, verdict in zip(gates, verdicts, strict=True) if not verdict.decided
        )
        if wanted is None or clock() >= deadline:
            return sample, verdicts
        if wanted.cold_starts:  # alone and first: a fresh process in the middle of a soak would hide a leak
            wanted = Demand(cold_starts=wanted.cold_starts)
        longer = measure(wanted)
        if _extent(longer) == _extent(sample):  # the held-out set or the recording is used up: asking again is no use
            return longer, tuple(gate.evaluate(longer) for gate in gates)
        sample = longer


def union(demands: Iterable[Demand | None]) -> Demand | None:
    """The smallest demand that satisfies all of them; None when nothing is needed.

    >>> union([Demand(inferences=30), None, Demand(seconds=5.0)])
    Demand(inferences=30, seconds=5.0, cold_starts=0, evaluations=0)
    """
    wanted = [one for one in demands if one is not None]
    if not wanted:
        return None
    return Demand(
        inferences=max(one.inferences for one in wanted),
        seconds=max(one.seconds for one in wanted),
        cold_starts=max(one.cold_starts for one in wanted),
        evaluations=max(one.evaluations for one in wanted),
    )


def _extent(sample: Sample) -> tuple[float, ...]:
    """How much was measured, in every way in which a sample can grow."""
    compared = (sample.agreed, sample.correct, sample.baseline_correct)
    return (
        sample.n,
        sample.duration_s,
        len(sample.cold_starts),
        len(sample.readings),
        *(0 if one is None else one.shape[0] for one in compared),
    )
