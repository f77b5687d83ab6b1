"""`p95_latency` and `quantile_latency` with a budget: is a quantile of the latency within it?

"The p95 is at most 12 ms" is the same statement as "at most 5 % of all inferences take longer than 12 ms". The second
form is about a rate, and a rate is decided by the e-process of `stats.eprocess`, corrected for correlated latencies
by `stats.autocorrelation`. An inference that takes exactly the budget is within it.

With ``rate="20/s"`` the same is asked of response times in an open loop (`timings`). There one stall delays a whole
queue: slow responses count by busy periods, and a PASS must be able to exclude stalls of `stall` (`stats.queueing`).
`time_to_first_token` asks it of generations.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, timings, undecided, validity
from pytest_edgehil.gates.durations import in_ms, no_measurement, observed_quantile
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.gates.timings import Timings
from pytest_edgehil.model.quantity import (
    duration_ns,
    format_duration,
    format_number,
    rate_per_second,
)
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_edgehil.gates.stats.sequential import Decision, Look

    class Judge(Protocol):
        """From a budget in ns to what these durations say of it, or the first `upto` of them."""

        def __call__(
            self, budget_ns: float, upto: int | None = None, *, only_below: bool = False
        ) -> tuple[Decision, Look | None]:
            """As `sequential.walk` says it; `only_below` as there."""


MAX_SAMPLES = 1000
SLOW_SEEN = 10
"""By default as many inferences are allowed as hold so many slow ones of a model at its budget, if that is more."""
DUE_S = 180
"""At a rate no fewer inferences are allowed by default than are due in so long."""
STALL_NS = 250_000_000
"""At a rate, the longest stall that a PASS excludes by default; or twice the budget, if that is more."""

FIRST_TOKEN = "time_to_first_token"  # noqa: S105 - no password
_CYCLES = 10
"""So many cycles of what comes and goes must be seen for a sample to stand for them."""
_LOOKED_AT = 100_000
"""Where the test made more inferences than `max_samples`, looks go on up to so many: they cost the host about 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyQuantile:
    """The marker's arguments.

    Args:
        name: ``p95_latency``, ``quantile_latency`` or ``time_to_first_token``.
        quantile: which quantile of the latency, 0 < quantile < 1.
        budget_ns: its limit.
        alpha: error rate of each side.
        max_samples: no more inferences than this are asked for.
        max_duration_ns: no more are asked for after so long a measurement.
        min_duration_ns: no PASS before inferences were spread over so long a time; None: as long as the board needs
            to show what it does (`validity.steady_state_ns`).
        max_drift_c: INVALID when the temperature moved by more than this while measuring; None: by what no board that
            has warmed up moves, see `validity.plateau`.
        rate_hz: so many inferences are due in a second, and times count from when each was due; None: closed loop.
        stall_ns: at a rate, the longest stall that a PASS must be able to exclude.
    """

    budget_ns: int
    alpha: float
    name: str = "p95_latency"
    quantile: float = 0.95
    max_samples: int = 1000
    max_duration_ns: int = 600 * 10**9
    min_duration_ns: int | None = None
    max_drift_c: float | None = None
    rate_hz: float | None = None
    stall_ns: int = 0
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}

    @property
    def label(self) -> str:
        """Such as ``p95``."""
        return f"p{self.quantile * 100:g}"

    @property
    def allowed(self) -> float:
        """The share of exceedances that the budget allows; 1 − 0.95 is not 0.05 in binary, hence the rounding."""
        return round(1.0 - self.quantile, 12)

    def extended(self, by: Sample) -> LatencyQuantile:
        """See `continued.Sequential`."""
        timed = self.timings(by)
        return dataclasses.replace(
            self,
            max_samples=self.max_samples + timed.n,
            max_duration_ns=self.max_duration_ns + int(timed.duration_s * 1e9),
        )

    def timings(self, sample: Sample) -> Timings:
        """What is judged: latencies, responses at the rate, or times to the first token."""
        if self.rate_hz is not None:
            return timings.responses(sample, self.rate_hz, stall_ns=self.stall_ns)
        return timings.first_tokens(sample) if self.name == FIRST_TOKEN else timings.latencies(sample)

    def least_ns(self, timed: Timings) -> int:
        """How long a PASS must have been watched."""
        return validity.steady_state_ns(timed.board) if self.min_duration_ns is None else self.min_duration_ns

    def demand(self, sample: Sample) -> Demand | None:
        """Inferences (or generations) up to the next look."""
        if self._evaluate(sample, explain=False).decided:
            return None
        from pytest_edgehil.gates.stats.sequential import next_look

        n = self.timings(sample).n
        more = next_look(n, also=self.max_samples) - n
        if self.name == FIRST_TOKEN:
            return Demand(generations=more)
        return Demand(inferences=more, rate_hz=self.rate_hz or 0.0)

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; see ``docs/explanation/statistics.md``."""
        return self._evaluate(sample, explain=True)

    @in_seconds("latency", "ns")
    def _evaluate(self, sample: Sample, *, explain: bool) -> Verdict:
        """With what would change the verdict, which takes longer than the rest of it, or without."""
        timed = self.timings(sample)
        if timed.values_ns.ndim != 1:
            raise ValueError(f"{timed.what}: durations must have shape (n,), not {timed.values_ns.shape}")
        if timed.n == 0:
            return self._open(timed)
        trouble = no_measurement(timed.values_ns)
        if trouble is not None:
            return self._verdict(
                Outcome.INVALID,
                timed,
                n=timed.n,
                reason=f"{self.label} {timed.what} is not usable: {trouble}",
                would_change=outlook.AGAIN,
            )
        valid = validity.of_timing(timed.board)
        drift = validity.plateau(timed.board, self.max_drift_c)
        trouble = "; ".join(one for one in (valid.trouble, drift.trouble) if one is not None)
        if trouble:
            return self._verdict(
                Outcome.INVALID,
                timed,
                n=timed.n,
                observed=observed_quantile(timed.values_ns, self.quantile),
                reason=f"{self.label} {timed.what} is not usable: {trouble}",
                would_change=outlook.AGAIN,
            )
        judge = self._judge(timed)
        decision, look = judge(self.budget_ns)
        unseen = (*valid.unseen, *drift.unseen)
        return self._conclude(timed, decision, look, judge=judge if explain else None, unseen=unseen)

    def trace(self, sample: Sample) -> tuple[Look, ...]:
        """Every look up to the one that decided, or up to the last one that there was."""
        from pytest_edgehil.gates.stats.sequential import looks

        timed = self.timings(sample)
        judge = self._judge(timed)
        _, last = judge(self.budget_ns)
        counts = () if last is None else looks(last.n, also=self.max_samples)
        found = (judge(self.budget_ns, n)[1] for n in counts)
        return tuple(one for one in found if one is not None)

    def _judge(self, timed: Timings) -> Judge:
        """Judge these durations by any budget; most of V, which is the costly part, does not depend on it."""
        import numpy as np

        from pytest_edgehil.gates.stats.autocorrelation import variance_inflation
        from pytest_edgehil.gates.stats.sequential import GROWTH, looks, walk

        rate, values = self.allowed, timed.values_ns
        inflation = functools.cache(lambda n: variance_inflation(values[:n], rate))
        elapsed_ns = timed.elapsed_ns()
        highest = np.maximum.accumulate(values)
        lowest = np.minimum.accumulate(values)
        least_ns = self.least_ns(timed)
        # A fast model makes many inferences in the time that a PASS needs: look at least once beyond it.
        covered = math.ceil(GROWTH * (1 + int(np.searchsorted(elapsed_ns, least_ns))))
        most = max(self.max_samples, _LOOKED_AT, covered)

        def may_pass(n: int, budget_ns: float) -> bool:
            if elapsed_ns[n - 1] < least_ns:
                return False
            return timed.outlasts_a_stall(n, budget_ns, inflation=inflation(n), p0=rate, alpha=self.alpha)

        def judge(
            budget_ns: float, upto: int | None = None, *, only_below: bool = False
        ) -> tuple[Decision, Look | None]:
            available = timed.n if upto is None else min(upto, timed.n)
            return walk(
                values[:available] > budget_ns,
                p0=rate,
                alpha=self.alpha,
                at=looks(min(available, most), also=self.max_samples),
                inflation=lambda n: max(inflation(n), timed.cluster(n, budget_ns)),
                watch_at=looks(available, also=self.max_samples),
                may_decide=lambda n: bool(highest[n - 1] > lowest[n - 1]),
                may_pass=lambda n: may_pass(n, budget_ns),
                only_below=only_below,
            )

        return judge

    def _conclude(
        self,
        timed: Timings,
        decision: Decision,
        look: Look | None,
        *,
        judge: Judge | None,
        unseen: tuple[str, ...],
    ) -> Verdict:
        from pytest_edgehil.gates.stats.sequential import Decision

        if decision is Decision.OPEN or look is None:
            return self._open(timed, look, judge=judge, unseen=unseen)
        part = timed.values_ns[: look.n]
        observed = observed_quantile(part, self.quantile)
        passed = decision is Decision.BELOW
        bounds = self._bounds(part, look.inflation)
        budget, rate = in_ms(self.budget_ns), format_number(100 * self.allowed)
        counted = f"{look.exceedances} of {look.n} {timed.unit} ({look.exceedances / look.n:.1%}) took longer"
        if passed:
            said = f"{self.label} {timed.what} is within {budget}: {counted}, which shows that fewer than {rate}% do"
            at_most = "" if bounds[1] is None else f", at most {in_ms(bounds[1])}"
            figures = f"observed {self.label} {in_ms(observed)}{at_most}"
        else:
            said = f"{self.label} {timed.what} exceeds {budget}: {counted}, where {rate}% may"
            figures = f"observed {self.label} {in_ms(observed)}, at least {in_ms(bounds[0])}"
        reason = f"{said} ({figures}; error rate {format_number(100 * self.alpha)}%)"
        outcome = Outcome.PASS if passed else Outcome.FAIL
        if passed:
            watched_ns = int(timed.elapsed_ns()[look.n - 1])
            told = f"what comes and goes more slowly than every {format_duration(watched_ns / _CYCLES)}"
            unseen = (
                *unseen,
                f"slow regimes: {told} was not seen {_CYCLES} times (min_duration)",
                *timed.blind(look.n),
            )
        return self._verdict(
            outcome,
            timed,
            n=look.n,
            observed=observed,
            bounds=bounds,
            reason=reason,
            look=look,
            unseen=unseen,
            would_change="" if judge is None else outlook.of_quantile(outcome, self._around(timed, look, judge)),
        )

    def _open(
        self,
        timed: Timings,
        look: Look | None = None,
        *,
        judge: Judge | None = None,
        unseen: tuple[str, ...] = (),
    ) -> Verdict:
        # beyond the last look that may be, nothing has been looked at
        beyond = look is not None and timed.n > max(self.max_samples, _LOOKED_AT)
        n = look.n if look is not None and beyond else timed.n
        values = timed.values_ns[:n]
        elapsed_ns = int(timed.elapsed_ns()[-1]) if timed.n else 0
        missing_ns = self.least_ns(timed) - elapsed_ns
        out_of_samples = timed.n >= self.max_samples and missing_ns <= 0
        out_of_time = timed.duration_s * 1e9 >= self.max_duration_ns
        spent = ""
        if beyond:
            spent = f"; this gate looks at the first {n} of the {timed.n} that were made, and asks for no more"
        elif out_of_samples:
            spent = f"; no more than {self.max_samples} {timed.unit} are asked for (max_samples)"
        elif out_of_time:
            spent = f"; no more than {format_duration(self.max_duration_ns)} may be measured (max_duration)"
        final = out_of_samples or out_of_time
        said, change = undecided.why(
            self,
            timed,
            look,
            missing_ns=missing_ns,
            change=lambda seen: outlook.of_quantile(
                Outcome.INCONCLUSIVE, self._around(timed, seen, judge if final else None)
            ),
        )
        return self._verdict(
            Outcome.INCONCLUSIVE,
            timed,
            n=n,
            observed=observed_quantile(values, self.quantile) if n else None,
            bounds=None if look is None else self._bounds(values, look.inflation),
            reason=f"{self.label} {timed.what} is undecided: {said}{spent}",
            look=look,
            unseen=unseen,
            decided=final,
            would_change=change,
        )

    def _around(self, timed: Timings, look: Look, judge: Judge | None) -> outlook.QuantileLook:
        """Which other budgets these durations would have passed or missed; none is known to pass without `judge`."""
        from pytest_edgehil.gates.stats.projection import least_to_pass

        values = timed.values_ns
        low, _ = self._bounds(values[: look.n], look.inflation)
        passes = None if judge is None else least_to_pass(values, functools.partial(judge, only_below=True))
        low = 0.0 if judge is None else self._surely_fails_below(low, values[: look.n], judge)
        return outlook.QuantileLook(
            budget_ns=self.budget_ns,
            rate=self.allowed,
            alpha=self.alpha,
            n=look.n,
            exceedances=look.exceedances,
            inflation=look.inflation,
            fails_below_ns=low,
            passes_from_ns=None if passes is None else passes[0],
            passes_n=0 if passes is None else passes[1],
            ruled_out=look.ruled_out_at > 0,
            unit=timed.unit,
        )

    def _surely_fails_below(self, low_ns: float, part: npt.NDArray[np.int64], judge: Judge) -> float:
        """A budget just below which these durations fail, at or below `low_ns`; 0 where none is found.

        V depends on the budget, so another one must be judged to be known.
        """
        from pytest_edgehil.gates.stats.sequential import Decision

        for _ in range(4):
            if low_ns <= 0.0:
                return 0.0
            decision, look = judge(low_ns - 1.0, part.shape[0])
            if decision is Decision.ABOVE or look is None:
                return low_ns if decision is Decision.ABOVE else 0.0
            lower, _ = self._bounds(part, look.inflation)
            low_ns = lower if lower < low_ns else 0.0
        return 0.0

    def _bounds(self, latencies: npt.NDArray[np.int64], inflation: float) -> tuple[float, float | None]:
        """The budgets that would have been neither passed nor failed: an interval for the quantile, at any time valid.

        The upper bound does not exist as long as not even zero exceedances would pass.
        """
        import numpy as np

        from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, most_exceedances_to_pass

        n = latencies.shape[0]
        ordered = np.sort(latencies)
        most = most_exceedances_to_pass(n, self.allowed, self.alpha, inflation=inflation)
        fewest = fewest_exceedances_to_fail(n, self.allowed, self.alpha, inflation=inflation)
        low = float(ordered[n - fewest]) if fewest <= n else 0.0
        high = float(ordered[n - 1 - most]) if 0 <= most < n else None
        return low, high

    def _verdict(
        self,
        outcome: Outcome,
        timed: Timings,
        *,
        n: int,
        reason: str,
        observed: float | None = None,
        bounds: tuple[float, float | None] | None = None,
        look: Look | None = None,
        unseen: tuple[str, ...] = (),
        decided: bool = True,
        would_change: str = "",
    ) -> Verdict:
        figures = {"alpha": self.alpha, "quantile": self.quantile, "samples_available": float(timed.n)}
        if look is not None:
            figures |= {
                "log_e_pass": look.log_e_pass,
                "log_e_fail": look.log_e_fail,
                "looks": float(look.number),
                "exceedances": float(look.exceedances),
                "variance_inflation": look.inflation,
                "effective_n": look.n / look.inflation,
            }
            if look.ruled_out_at:
                figures["ruled_out_at"] = float(look.ruled_out_at)
        if timed.interval_ns is not None and timed.services_ns is not None and n:
            figures["rate_hz"] = 1e9 / timed.interval_ns
            figures["load_share"] = float(timed.services_ns[:n].mean() / timed.interval_ns)
            figures["stall_cluster"] = timed.stall_cluster(n, self.budget_ns)
        if bounds is not None:
            figures["lower_bound"] = bounds[0]
            if bounds[1] is not None:
                figures["upper_bound"] = bounds[1]
        figures = {key: value for key, value in figures.items() if abs(value) != float("inf")}
        not_checked = () if outcome is Outcome.INVALID else (*unseen, *self._own_fault(timed))
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=observed,
            budget=float(self.budget_ns),
            interval=None if bounds is None or bounds[1] is None else (bounds[0], bounds[1]),
            unit="ns",
            n=n,
            reason=reason + validity.provenance(timed.board),
            decided=decided,
            not_checked=not_checked,
            statistics=figures,
            would_change=would_change,
        )

    def _own_fault(self, timed: Timings) -> tuple[str, ...]:
        """What of the durations is the measuring's and not the model's, where it is too much."""
        return (*validity.clock_cost(timed.board, self.budget_ns), *timed.lateness(self.quantile, self.budget_ns))


def declare_quantile(  # noqa: D103 - the form of the marker with a budget, see `latency_forms`
    q: object,
    budget: object,
    *,
    alpha: object = None,
    max_samples: object = None,
    max_duration: object = "10 min",
    min_duration: object = None,
    max_drift: object = None,
    rate: object = None,
    stall: object = None,
    settings: GateSettings,
    name: str = "quantile_latency",
) -> LatencyQuantile:
    budget_ns = arguments.duration("budget", budget)
    rate_hz = None if rate is None else rate_per_second(rate)
    if rate_hz is None and stall is not None:
        raise MarkerError('stall means nothing without rate=…: the longest stall to exclude at a rate such as "20/s"')
    stall_ns = 0 if rate_hz is None else max(STALL_NS, 2 * budget_ns)
    quantile = arguments.quantile(q)
    # a p99.9 cannot pass before some 3600 inferences
    most = max(MAX_SAMPLES, math.ceil(round(SLOW_SEEN / (1.0 - quantile), 6)))
    most = most if rate_hz is None else max(most, math.ceil(rate_hz * DUE_S))
    return LatencyQuantile(
        name=name,
        quantile=quantile,
        budget_ns=budget_ns,
        alpha=arguments.alpha(alpha, settings.alpha),
        max_samples=most if max_samples is None else arguments.whole("max_samples", max_samples, least=30),
        max_duration_ns=arguments.duration("max_duration", max_duration),
        min_duration_ns=None if min_duration is None else duration_ns(min_duration),
        max_drift_c=None if max_drift is None else arguments.degrees("max_drift", max_drift),
        rate_hz=rate_hz,
        stall_ns=stall_ns if stall is None else arguments.duration("stall", stall),
    )


def declare_first_token(  # noqa: D103 - the marker's signature
    budget: object,
    *,
    q: object = 0.95,
    alpha: object = None,
    max_samples: object = 300,
    max_duration: object = "30 min",
    min_duration: object = None,
    settings: GateSettings,
) -> LatencyQuantile:
    return declare_quantile(
        q,
        budget,
        alpha=alpha,
        max_samples=max_samples,
        max_duration=max_duration,
        min_duration=min_duration,
        settings=settings,
        name=FIRST_TOKEN,
    )


def restore(name: str, **recorded: Any) -> LatencyQuantile:
    """The gate whose `Gate.arguments` these are.

    Earlier versions wrote ``unwatched_ns`` as well: 0 where the marker gave a `min_duration`.
    """
    if recorded.pop("unwatched_ns", 0):
        recorded["min_duration_ns"] = None
    return LatencyQuantile(name=name, **recorded)
