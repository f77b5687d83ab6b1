"""What a gate on a quantile looks at: latencies, responses at a given rate, or times to the first token.

All three are durations in the order of time, and are judged alike. They differ in what they count from:

- a *latency* counts from the start of an inference, which begins when the one before has ended (closed loop);
- a *response* at a rate counts from the moment that the inference was due (open loop), so that a stall is charged to
  everything that fell into it;
- a *time to first token* counts from the start of a generation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_edgehil.model.quantity import format_duration, format_rate
from pytest_edgehil.model.sample import Sample

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Float64Array, Int64Array

TOUCHING = 0.01
"""Waiting for less than this share of an interval is no queue, but how exactly a clock and a loop can meet a moment."""

LATE_SHARE = 0.001
"""Beginning later than due by more than this share of the budget, by our own fault, is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Durations in the order of time.

    Args:
        values_ns: shape (n,).
        begun_ns: shape (n,): when each is counted from.
        what: such as ``latency``.
        unit: what each is one of, such as ``inferences``.
        board: the sample, cut down to the time in which these were measured; says whether they are valid.
        duration_s: how long that took.
        services_ns: at a rate, shape (n,): how long each inference itself took; else None.
        late_ns: at a rate, shape (n,), where known: how much of the value is the measuring's fault; else None.
        interval_ns: at a rate: from one moment that an inference is due to the next; else None.
        stall_ns: at a rate: the longest stall that a PASS must be able to exclude.
    """

    values_ns: Int64Array
    begun_ns: Int64Array
    what: str
    unit: str
    board: Sample
    duration_s: float
    services_ns: Int64Array | None = None
    late_ns: Int64Array | None = None
    interval_ns: float | None = None
    stall_ns: float = 0.0

    @property
    def n(self) -> int:
        """How many there are."""
        return int(self.values_ns.shape[0])

    def cluster(self, n: int, budget_ns: float) -> float:
        """In how many slow ones of the first n a slow one finds itself, see `stats.queueing`.

        1 in a closed loop, and in an overload: where the queue grows without end slow responses must be able to FAIL,
        and a PASS is ruled out by `overloaded`.
        """
        if self.interval_ns is None or self.overloaded(n):
            return 1.0
        from pytest_edgehil.gates.stats.queueing import cluster_size

        return cluster_size(self._clusters(n, budget_ns))

    def overloaded(self, n: int) -> bool:
        """Does the queue grow without end? Then what was measured says nothing good of what comes."""
        return math.isinf(self.stall_cluster(n, 0.0))

    def stall_cluster(self, n: int, budget_ns: float) -> float:
        """How many the longest stall to be excluded would make slow; 1 in a closed loop, infinite in an overload."""
        if self.services_ns is None or self.interval_ns is None:
            return 1.0
        from pytest_edgehil.gates.stats.queueing import drained

        return drained(self.services_ns[:n], interval_ns=self.interval_ns, budget_ns=budget_ns, stall_ns=self.stall_ns)

    def outlasts_a_stall(self, n: int, budget_ns: float, *, inflation: float, p0: float, alpha: float) -> bool:
        """Would the first n have passed also if such a stall had been missed by chance? Always in a closed loop."""
        if self.interval_ns is None:
            return True
        from pytest_edgehil.gates.stats.queueing import outlasts

        stall = self.stall_cluster(n, budget_ns)
        return outlasts(n, self._clusters(n, budget_ns), stall=stall, inflation=inflation, p0=p0, alpha=alpha)

    def blind(self, n: int) -> tuple[str, ...]:
        """Which stalls the first n do not exclude, at a rate: by the rule of three those rarer than one in n/3."""
        if self.interval_ns is None or self.services_ns is None:
            return ()
        longest = max(self.stall_ns, float(self.services_ns[:n].max()))
        often = format_duration(n / 3 * self.interval_ns)
        return (f"stalls: longer than {format_duration(longest)} and rarer than every {often} they may come (stall)",)

    def _clusters(self, n: int, budget_ns: float) -> Float64Array:
        """Slow responses in each busy period; one begins where nothing but the measuring itself made it wait."""
        import numpy as np

        from pytest_edgehil.gates.stats.queueing import clusters

        assert self.services_ns is not None
        assert self.interval_ns is not None
        values, services = self.values_ns[:n], self.services_ns[:n]
        own = np.zeros(n) if self.late_ns is None else np.maximum(self.late_ns[:n], 0)
        idle = values - services <= own + TOUCHING * self.interval_ns
        return clusters(values > budget_ns, idle)

    def elapsed_ns(self) -> Int64Array:
        """Shape (n,): the time that the first 1, 2, … of them cover; at a rate only when they were due counts."""
        import numpy as np

        if self.begun_ns.shape != self.values_ns.shape:
            return np.cumsum(self.values_ns)
        gaps = np.maximum(np.diff(self.begun_ns), 0)  # a recording's clock starts again at 0 in every fresh process
        covered = np.concatenate(([0], np.cumsum(gaps)))
        return np.asarray(covered if self.interval_ns is not None else covered + self.values_ns)

    def lateness(self, quantile: float, budget_ns: float) -> tuple[str, ...]:
        """A warning when we began later than due by more than `LATE_SHARE` of the budget, at that quantile."""
        import numpy as np

        if self.interval_ns is None or self.n == 0:
            return ()
        if self.late_ns is None:
            return ("lateness: how late the inferences began by the measuring's own fault is not recorded",)
        late = float(np.quantile(self.late_ns, quantile, method="inverted_cdf"))
        if late <= LATE_SHARE * budget_ns:
            return ()
        warning = (
            f"lateness: the p{quantile * 100:g} of how late inferences began by the measuring's own fault is "
            f"{format_duration(late)}, {late / budget_ns:.2%} of the budget, and is part of every response "
            f"(more than {LATE_SHARE:.1%} is too much)"
        )
        return (warning,)


def latencies(sample: Sample) -> Timings:
    """In a closed loop: `Sample.latencies_ns`."""
    import numpy as np

    return Timings(
        values_ns=np.asarray(sample.latencies_ns),
        begun_ns=np.asarray(sample.starts_ns),
        what="latency",
        unit="inferences",
        board=sample,
        duration_s=sample.duration_s,
    )


def responses(sample: Sample, rate_hz: float, *, stall_ns: float = 0.0) -> Timings:
    """At a given rate: `Sample.open_loop`; empty when nothing was measured at that rate."""
    import numpy as np

    nothing = np.empty(0, dtype=np.int64)
    series = next((one for one in sample.open_loop if one.rate_hz == rate_hz), None)
    starts = nothing if series is None else np.asarray(series.starts_ns)
    services = nothing if series is None else np.asarray(series.latencies_ns)
    intended = nothing if series is None else np.asarray(series.intended_ns)
    values = nothing if series is None else np.asarray(series.responses_ns)
    duration_s = float((np.maximum(np.diff(intended), 0).sum() + values[-1]) / 1e9) if values.shape[0] else 0.0
    return Timings(
        values_ns=values,
        begun_ns=intended,
        what=f"response time at {format_rate(rate_hz)}",
        unit="inferences",
        board=_while_measured(sample, starts, services),
        duration_s=duration_s,
        services_ns=services,
        late_ns=None if series is None or series.late_ns is None else np.asarray(series.late_ns),
        interval_ns=1e9 / rate_hz,
        stall_ns=stall_ns,
    )


def first_tokens(sample: Sample) -> Timings:
    """Of the generations: `Sample.generations`."""
    import numpy as np

    made = sample.generations
    nothing = np.empty(0, dtype=np.int64)
    starts = nothing if made is None else np.asarray(made.starts_ns)
    totals = nothing if made is None else np.asarray(made.total_ns)
    return Timings(
        values_ns=nothing if made is None else np.asarray(made.first_token_ns),
        begun_ns=starts,
        what="time to first token",
        unit="generations",
        board=_while_measured(sample, starts, totals),
        duration_s=float(totals.sum()) / 1e9,
    )


def generations(sample: Sample) -> Timings:
    """The generations as a whole: `Sample.generations`."""
    import dataclasses

    import numpy as np

    firsts = first_tokens(sample)
    totals = firsts.values_ns if sample.generations is None else np.asarray(sample.generations.total_ns)
    return dataclasses.replace(firsts, values_ns=totals, what="generation")


def _while_measured(sample: Sample, starts_ns: Int64Array, latencies_ns: Int64Array) -> Sample:
    """The sample with these inferences only, and the readings from their first start to a second after their end.

    The bits and the boot id around the whole measurement stay: what happened between counts as well.
    """
    readings = sample.readings
    if starts_ns.shape[0] and not sample.replayed:  # the clock of a recording starts again in every process
        begin_s = float(starts_ns.min()) / 1e9
        end_s = float((starts_ns + latencies_ns).max()) / 1e9 + 1.0
        readings = tuple(one for one in readings if begin_s <= one.at_s <= end_s)
    return sample.replace(latencies_ns=latencies_ns, starts_ns=starts_ns, readings=readings)
