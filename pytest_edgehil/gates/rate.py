"""`throughput` and `tokens_per_second`: how many a second, at least?

Null hypothesis: on average an inference (a token after the first of its generation) takes longer than one over the
rate. It is about a mean, which a sum of time over a sum of counts estimates, decided by `stats.mean`: the error of each
side is at most α over all looks. One inference after the other, each timed on the board; the time between two of them
does not count. What a model delivers when requests come at a rate of their own is `p95_latency(rate=…)`.

`tokens_per_second` leaves the time to the first token out (`time_to_first_token` is a gate of its own); a generation
is one observation, because its tokens are not independent.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.gates import arguments, outlook, timings, validity
from pytest_edgehil.gates.durations import in_ms
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.model.quantity import format_count, format_number, format_rate, rate_per_second
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.mean import MeanLook
    from pytest_edgehil.gates.timings import Timings
    from pytest_edgehil.model.arrays import Int64Array

THROUGHPUT, TOKENS = "throughput", "tokens_per_second"
_FIRST = {THROUGHPUT: 60, TOKENS: 20}
"""Observations at the first look: a generation is many steps, and slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRate:
    """The marker's arguments.

    Args:
        name: ``throughput`` or ``tokens_per_second``.
        at_least_hz: least number a second.
        alpha: error rate of each side.
        max_samples: no more inferences (generations) than this are asked for.
        max_duration_ns: no more are asked for after so long a measurement.
    """

    at_least_hz: float
    alpha: float
    name: str = THROUGHPUT
    max_samples: int = 1000
    max_duration_ns: int = 600 * 10**9
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}

    def extended(self, by: Sample) -> MeanRate:
        """See `continued.Sequential`."""
        timed = self._timings(by)
        return dataclasses.replace(
            self,
            max_samples=self.max_samples + timed.n,
            max_duration_ns=self.max_duration_ns + int(timed.duration_s * 1e9),
        )

    def demand(self, sample: Sample) -> Demand | None:
        """Inferences (or generations) up to the next look."""
        if self.evaluate(sample).decided:
            return None
        from pytest_edgehil.gates.stats.mean import next_look

        n = self._timings(sample).n
        more = next_look(n, first=_FIRST[self.name]) - n
        return Demand(inferences=more) if self.name == THROUGHPUT else Demand(generations=more)

    @in_seconds("a rate", "1/s", better="higher")
    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it."""
        timed = self._timings(sample)
        if timed.n == 0:
            return self._open(timed, None, f"no {timed.unit} have been timed yet")
        times, counts = _amounts(sample, timed)
        trouble = _no_times(timed, times, counts) or validity.of_timing(timed.board).trouble
        if trouble is not None:
            reason = f"{self._what} is not usable: {trouble}"
            return self._verdict(Outcome.INVALID, timed, None, reason=reason, would_change=outlook.AGAIN)
        found = self._walk(times, counts)
        if found is not None and found.high <= self._limit_ns:
            return self._decided(Outcome.PASS, timed, found)
        if found is not None and found.low > self._limit_ns:
            return self._decided(Outcome.FAIL, timed, found)
        if found is None:
            said = f"{timed.n} of at least {_FIRST[self.name]} {timed.unit} so far, or all of them alike"
        else:
            said = (
                f"after {found.n} {timed.unit} the observed {format_rate(1e9 / found.mean, digits=4)} is too close to "
                f"{self._limit} to tell at an error rate of {format_number(100 * self.alpha)}%"
            )
        return self._open(timed, found, said)

    @property
    def _what(self) -> str:
        return "throughput" if self.name == THROUGHPUT else "the rate of tokens"

    @property
    def _limit(self) -> str:
        return format_rate(self.at_least_hz, digits=4)

    @property
    def _limit_ns(self) -> float:
        return 1e9 / self.at_least_hz

    def _timings(self, sample: Sample) -> Timings:
        return timings.latencies(sample) if self.name == THROUGHPUT else timings.generations(sample)

    def _walk(self, times: Int64Array, counts: Int64Array) -> MeanLook | None:
        """The first look that decides, or the last one."""
        from pytest_edgehil.gates.stats.mean import UNSEEN_STALL, look, looks

        last = None
        for number, n in enumerate(looks(times.shape[0], first=_FIRST[self.name]), start=1):
            if not counts[:n].any():
                continue
            found = look(times[:n], counts[:n], alpha=self.alpha, number=number, unseen=UNSEEN_STALL)
            last = found or last
            if found is not None and not found.low <= self._limit_ns < found.high:
                return found
        return last

    def _decided(self, outcome: Outcome, timed: Timings, found: MeanLook) -> Verdict:
        observed, low, high = (format_rate(1e9 / one, digits=4) for one in (found.mean, found.high, found.low))
        each = "an inference" if self.name == THROUGHPUT else "a token"
        if outcome is Outcome.PASS:
            said = f"{self._what} is at least {self._limit}: {observed} over {found.n} {timed.unit}, at least {low}"
            change = f"a requirement of more than {low}"
        else:
            said = f"{self._what} is below {self._limit}: {observed} over {found.n} {timed.unit}, at most {high}"
            change = f"a faster model, or a requirement of at most {low}; more {timed.unit} do not undo a FAIL"
        reason = f"{said} ({each} takes {in_ms(found.mean)} on average; error rate {format_number(100 * self.alpha)}%)"
        return self._verdict(outcome, timed, found, reason=reason, would_change=change)

    def _open(self, timed: Timings, found: MeanLook | None, said: str) -> Verdict:
        from pytest_edgehil.gates.stats.mean import next_look

        following = next_look(timed.n, first=_FIRST[self.name])
        out_of_samples = following > self.max_samples
        out_of_time = timed.duration_s * 1e9 >= self.max_duration_ns
        spent, change = "", f"{format_count(following - timed.n, f'more {timed.unit}')} for the next look"
        if out_of_samples:
            spent = f"; the next look takes {following} {timed.unit}, no more than {self.max_samples} may be made"
        elif out_of_time:
            spent = "; the time for measuring is spent (max_duration)"
        if found is not None:
            slowest = format_rate(1e9 / found.high, digits=4) if found.high > 0 else "none"
            change += f"; a requirement of at most {slowest} would PASS"
        return self._verdict(
            Outcome.INCONCLUSIVE,
            timed,
            found,
            reason=f"{self._what} is undecided: {said}{spent}",
            decided=out_of_samples or out_of_time,
            would_change=change,
        )

    def _verdict(
        self,
        outcome: Outcome,
        timed: Timings,
        found: MeanLook | None,
        *,
        reason: str,
        would_change: str,
        decided: bool = True,
    ) -> Verdict:
        figures = {"alpha": self.alpha, "samples_available": float(timed.n)}
        if found is not None:
            figures |= {
                "looks": float(found.number),
                "variance_inflation": found.inflation,
                "effective_n": found.n / found.inflation,
                "mean_ns": found.mean,
                "lower_bound": 1e9 / found.high,
            }
            if found.low > 0:
                figures["upper_bound"] = 1e9 / found.low
        unseen = validity.of_timing(timed.board).unseen if timed.n else ()
        tail = "stalls of more than ten times the mean that are rarer than what was measured"
        if found is not None:
            unseen = (*unseen, validity.slow_regimes(int(timed.elapsed_ns()[found.n - 1])))
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if found is None else 1e9 / found.mean,
            budget=self.at_least_hz,
            interval=None if found is None or found.low <= 0 else (1e9 / found.high, 1e9 / found.low),
            unit="1/s",
            better="higher",
            n=timed.n if found is None else found.n,
            reason=reason + validity.provenance(timed.board),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else (*unseen, tail),
            statistics=figures,
            would_change=would_change,
        )


def declare_throughput(  # noqa: D103 - the marker's signature
    at_least: object,
    *,
    alpha: object = None,
    max_samples: object = 1000,
    max_duration: object = "10 min",
    settings: GateSettings,
) -> MeanRate:
    return _declare(
        THROUGHPUT, at_least, alpha=alpha, max_samples=max_samples, max_duration=max_duration, settings=settings
    )


def declare_tokens(  # noqa: D103 - see above
    at_least: object,
    *,
    alpha: object = None,
    max_samples: object = 160,
    max_duration: object = "30 min",
    settings: GateSettings,
) -> MeanRate:
    return _declare(
        TOKENS, at_least, alpha=alpha, max_samples=max_samples, max_duration=max_duration, settings=settings
    )


def _declare(
    name: str, at_least: object, *, alpha: object, max_samples: object, max_duration: object, settings: GateSettings
) -> MeanRate:
    return MeanRate(
        name=name,
        at_least_hz=rate_per_second(at_least),
        alpha=arguments.alpha(alpha, settings.alpha),
        max_samples=arguments.whole("max_samples", max_samples, least=_FIRST[name]),
        max_duration_ns=arguments.duration("max_duration", max_duration),
    )


def _amounts(sample: Sample, timed: Timings) -> tuple[Int64Array, Int64Array]:
    """Time in ns and how many it was for, observation by observation."""
    import numpy as np

    made = sample.generations
    if timed.unit == "inferences" or made is None:
        return timed.values_ns, np.ones_like(timed.values_ns)
    return np.asarray(made.total_ns) - np.asarray(made.first_token_ns), np.asarray(made.new_tokens) - 1


def _no_times(timed: Timings, times: Int64Array, counts: Int64Array) -> str | None:
    import numpy as np

    from pytest_edgehil.gates.durations import no_measurement

    if timed.unit == "inferences":
        return no_measurement(times)
    broken = int((~np.isfinite(times) | (times < 0) | (counts < 0) | ((counts > 0) & (times <= 0))).sum())
    return f"{broken} generations took no time, or have fewer tokens than one" if broken else None
