"""Measuring on until every gate has decided, or the budget of samples and time is spent.

The gates say what they need (`Gate.demand`), whoever holds the DUT measures it (`measure`), and time is injected:
nothing here waits, and nothing here knows a board.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pytest_edgehil.gates import continued
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
        verdicts = tuple(continued.evaluate(gate, sample) for gate in gates)
        if on_look is not None:
            on_look(sample, verdicts)
        wanted = union(
            continued.demand(gate, sample) for gate, verdict in zip(gates, verdicts, strict=True) if not verdict.decided
        )
        if wanted is None or clock() >= deadline:
            return sample, verdicts
        longer = measure(wanted)
        if _extent(longer) == _extent(sample):  # the held-out set or the recording is used up: asking again is no use
            return longer, tuple(continued.evaluate(gate, longer) for gate in gates)
        sample = longer


def union(demands: Iterable[Demand | None]) -> Demand | None:
    """What to measure next, so that all demands are met in the end; None when nothing is needed.

    What spoils another measurement is done alone: fresh processes first, because one in the middle of a soak would
    hide a leak; then pairs of blocks against one baseline, then inferences at one rate, then all the rest together,
    and in the end what goes on for long (`Demand.horizon_s`).

    >>> union([Demand(inferences=30), None, Demand(seconds=5.0)]).seconds
    5.0
    >>> union([Demand(inferences=30), Demand(cold_starts=3)]) == Demand(cold_starts=3)
    True
    >>> union([Demand(inferences=30, rate_hz=20.0), Demand(inferences=99)]) == Demand(inferences=30, rate_hz=20.0)
    True
    """
    wanted = [one for one in demands if one is not None]
    if not wanted:
        return None
    cold_starts = max(one.cold_starts for one in wanted)
    if cold_starts:
        return Demand(cold_starts=cold_starts)
    paired = [one for one in wanted if one.pairs]
    if paired:
        alike = [one for one in paired if (one.baseline, one.block) == (paired[0].baseline, paired[0].block)]
        pairs = max(one.pairs for one in alike)
        return Demand(pairs=pairs, block=paired[0].block, baseline=paired[0].baseline)
    at_rate = [one for one in wanted if one.rate_hz]
    if at_rate:
        rate_hz = at_rate[0].rate_hz
        return Demand(inferences=max(one.inferences for one in at_rate if one.rate_hz == rate_hz), rate_hz=rate_hz)
    long = [one for one in wanted if one.horizon_s]
    if len(long) == len(wanted):
        return Demand(
            seconds=max(one.seconds for one in long),
            horizon_s=max(one.horizon_s for one in long),
            restarts=any(one.restarts for one in long),
        )
    wanted = [one for one in wanted if not one.horizon_s]
    return Demand(
        inferences=max(one.inferences for one in wanted),
        seconds=max(one.seconds for one in wanted),
        evaluations=max(one.evaluations for one in wanted),
        generations=max(one.generations for one in wanted),
    )


def _extent(sample: Sample) -> tuple[float, ...]:
    """How much was measured, in every way in which a sample can grow."""
    compared = (sample.agreed, sample.correct, sample.baseline_correct)
    return (
        sample.n,
        sample.duration_s,
        len(sample.cold_starts),
        len(sample.crashes_at_s),
        len(sample.readings),
        *(0 if one is None else one.shape[0] for one in compared),
        sum(one.latencies_ns.shape[0] for one in sample.open_loop),
        sum(len(one.pairs) for one in sample.paired),
        0 if sample.generations is None else sample.generations.starts_ns.shape[0],
        0 if sample.token_scores is None else sample.token_scores.prompt.shape[0],
    )
