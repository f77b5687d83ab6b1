"""`thermal`: does the board stay cool enough under this model, also when it has warmed up fully?

The limit is held against where the temperature *settles*, which an exponential approach predicts long before it is
reached (`stats.warming`); and against what was seen. A single reading does not fail: the sensor jitters by a step of
0.55 °C, so the mean of 30 s counts. "No throttling" is no statistic: a throttled bit that is set, or newly remembered,
while the model runs is a FAIL. Under-voltage is the power supply's fault, not the model's: INVALID.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.model.quantity import duration_ns, format_duration, format_number
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.leak import FloatArray
    from pytest_edgehil.gates.stats.warming import Warming

MARGIN_C = 3.0
"""A prediction must clear the limit by this much, for the curve is never quite exponential."""
MEAN_S = 30.0
PREDICT_AFTER_TAUS = 1.5
SETTLED_AFTER_TAUS = 3.0
FEWEST_READINGS = 20
"""Fewer say too little of the curve's bend to predict anything from it."""
SLICE_S = 15.0
LONG_S = 120.0
"""A measurement of this length survives a lost link."""
_UNDER_VOLTAGE = 0x1
_HOT_BITS = 0xE
_FEWEST_IN_MEAN = 10
_ABSURD_C = 150.0
"""No board lives at this temperature: a bound beyond it says that the readings bound nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thermal:
    """The marker's arguments.

    Args:
        alpha: error rate of each bound of the predicted temperature.
        max_c: limit, or None to look at throttling only.
        throttling: may the board throttle?
        duration_ns: no more seconds than this are asked for.
        override_ns: duration that the run put in its place, or None.
        settle_ns: readings from the first so many are left out of the fit: the die itself warms up within seconds.
    """

    alpha: float
    max_c: float | None
    throttling: bool = False
    duration_ns: int = 600 * 10**9
    override_ns: int | None = None
    settle_ns: int = 60 * 10**9
    name: ClassVar[str] = "thermal"
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    @property
    def statements(self) -> int:
        """See `gate.statements`: the limit; throttling is seen or not seen."""
        return int(self.max_c is not None)

    @property
    def _required_s(self) -> float:
        return (self.duration_ns if self.override_ns is None else self.override_ns) / 1e9

    def demand(self, sample: Sample) -> Demand | None:
        """Seconds, a slice at a time, up to the duration."""
        if self.evaluate(sample).decided:
            return None
        left = self._required_s - sample.duration_s
        return Demand(seconds=min(SLICE_S, left), horizon_s=left if self._required_s >= LONG_S else 0.0)

    @in_seconds("how the board warms up", "°C")
    def evaluate(self, sample: Sample) -> Verdict:
        """Decide as soon as the prediction allows; see ``docs/explanation/statistics.md``."""
        ended = sample.duration_s >= self._required_s
        temperatures = [(one.at_s, one.temperature_c) for one in sample.readings if one.temperature_c is not None]
        trouble = self._trouble(sample, [value for _, value in temperatures])
        if trouble is not None:
            reason = f"the temperatures are not usable: {trouble}"
            return self._verdict(
                Outcome.INVALID, sample, n=len(temperatures), reason=reason, would_change=outlook.AGAIN
            )
        bits = validity.throttled_series(sample)
        hot = None if self.throttling else _hot(bits)
        if hot is not None:
            return self._verdict(
                Outcome.FAIL,
                sample,
                n=len(temperatures),
                reason=f"{hot}, where it must not",
                unseen=self._unseen(sample, bits),
                would_change="better cooling or a lighter load: measuring on does not undo it",
            )
        if self.max_c is None:
            return self._only_throttling(sample, bits, ended=ended)
        if not temperatures:
            ran = bool(sample.readings) or ended
            said = "the board reports no temperature" if ran else "no temperature has been read yet"
            change = "a board with a sensor" if ran else "a measurement"
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                n=0,
                reason=said,
                decided=ran,
                unseen=self._unseen(sample, bits),
                would_change=f"{change}: without readings nothing can be told",
            )
        return self._temperature(sample, temperatures, self.max_c, bits, ended=ended)

    def _trouble(self, sample: Sample, values: list[float]) -> str | None:
        if not all(math.isfinite(value) for value in values):
            return "a temperature is no finite number"
        rebooted = validity.reboot(sample).trouble
        if rebooted is not None:
            return rebooted
        bits = validity.throttled_series(sample)
        dipped = any(one & _UNDER_VOLTAGE for one in bits)
        dipped = dipped or any((a ^ b) >> 16 & _UNDER_VOLTAGE for a, b in pairwise(bits))
        return "the board's supply had under-voltage during the measurement" if dipped else None

    def _only_throttling(self, sample: Sample, bits: tuple[int, ...], *, ended: bool) -> Verdict:
        n = len(bits)
        if not bits:
            ran = sample.conditions is not None
            said = validity.no_bits(sample) if ran else "nothing ran yet"
            change = "a board that reports its throttled bits" if ran else "a measurement"
            return self._verdict(
                Outcome.INCONCLUSIVE, sample, n=0, reason=said, decided=ran, would_change=f"{change}: nothing was seen"
            )
        if not ended:
            said = f"no throttling in {self._measured(sample)} of {self._declared()} so far"
            left = format_duration((self._required_s - sample.duration_s) * 1e9)
            change = f"another {left} without throttling would PASS; throttling once would FAIL"
            return self._verdict(Outcome.INCONCLUSIVE, sample, n=n, reason=said, decided=False, would_change=change)
        said = f"the board did not throttle in {self._measured(sample)}{self._overridden()}"
        change = "throttling once, however briefly; a longer duration or a warmer place may show it"
        return self._verdict(
            Outcome.PASS, sample, n=n, reason=said, unseen=self._unseen(sample, bits), would_change=change
        )

    def _temperature(
        self,
        sample: Sample,
        temperatures: list[tuple[float, float]],
        limit_c: float,
        bits: tuple[int, ...],
        *,
        ended: bool,
    ) -> Verdict:
        import numpy as np

        from pytest_edgehil.gates.stats.warming import fit

        times_s = np.array([at for at, _ in temperatures])
        times_s = np.concatenate(([0.0], np.cumsum(np.maximum(np.diff(times_s), 0.0))))
        values = np.array([value for _, value in temperatures])
        hottest = _hottest_mean(times_s, values)
        late = times_s >= self.settle_ns / 1e9
        found = fit(times_s[late], values[late], alpha=self.alpha) if late.sum() >= FEWEST_READINGS else None
        elapsed = float(times_s[late][-1] - times_s[late][0]) if late.any() else 0.0
        outcome, reason = self._decide(values, limit_c, hottest=hottest, found=found, elapsed_s=elapsed, ended=ended)
        decided = ended or outcome is not Outcome.INCONCLUSIVE
        predicted = found is not None and elapsed >= PREDICT_AFTER_TAUS * found.tau_s
        figures = {"hottest_c": float(values.max()), "elapsed_s": elapsed, "measured_s": sample.duration_s}
        if hottest is not None:
            figures["hottest_mean_c"] = hottest
        if found is not None and predicted:
            figures |= {"end_c": found.end_c, "tau_s": found.tau_s}
            until = found.seconds_until(limit_c)
            if until is not None:
                figures["seconds_to_limit"] = until
        if self._overridden():
            figures["override_s"] = self._required_s
        return self._verdict(
            outcome,
            sample,
            n=len(temperatures),
            observed=found.end_c if found is not None and predicted else float(values.max()),
            interval=(found.low_c, found.high_c) if found is not None and predicted else None,
            reason=reason,
            decided=decided,
            unseen=self._unseen(sample, bits),
            figures=figures,
            would_change=self._would_change(
                outcome, values, limit_c, hottest=hottest, found=found, elapsed_s=elapsed, ended=ended
            ),
        )

    def _would_change(
        self,
        outcome: Outcome,
        values: FloatArray,
        limit_c: float,
        *,
        hottest: float | None,
        found: Warming | None,
        elapsed_s: float,
        ended: bool,
    ) -> str:
        """Which other limits the same readings would have passed or missed, or what is missing to tell."""
        if hottest is not None and hottest > limit_c:
            return (
                f"better cooling, a lighter load, or a limit of at least {_c_at_least(hottest)}, if the temperature "
                f"also settles below that; measuring on does not undo a FAIL"
            )
        longer = f"a measurement longer than these {self._declared()}" if ended else "measuring on"
        if found is None:
            settle = format_duration(self.settle_ns)
            return f"{longer}: a prediction takes {FEWEST_READINGS} readings after the first {settle}"
        if elapsed_s < PREDICT_AFTER_TAUS * found.tau_s:
            missing = format_duration((PREDICT_AFTER_TAUS * found.tau_s - elapsed_s) * 1e9, digits=2)
            return f"{longer}, by about {missing} if the board goes on warming up as the readings so far suggest"
        if float(values.max()) == float(values.min()) and outcome is Outcome.INCONCLUSIVE:
            return "a sensor whose readings move"
        seen = -math.inf if hottest is None else hottest
        passes, fails = max(found.high_c + MARGIN_C, seen), max(found.low_c - MARGIN_C, seen)
        told = []
        if passes < _ABSURD_C and (outcome is not Outcome.PASS or passes < limit_c):
            told.append(f"a limit of at least {_c_at_least(passes)} would have passed")
        if outcome is not Outcome.FAIL:
            told.append(f"{'one' if told else 'a limit'} below {_c_at_most(fails)} would have failed")
        other = "better cooling, or a lighter load" if outcome is Outcome.FAIL else ""
        return "; ".join(one for one in (other, ", ".join(told)) if one)

    def _decide(
        self,
        values: FloatArray,
        limit_c: float,
        *,
        hottest: float | None,
        found: Warming | None,
        elapsed_s: float,
        ended: bool,
    ) -> tuple[Outcome, str]:
        limit = _c(limit_c)
        if hottest is not None and hottest > limit_c:
            return Outcome.FAIL, f"the temperature was {_c(hottest)} in the mean of {MEAN_S:.0f} s, above {limit}"
        seen = f"hottest reading {_c(float(values.max()))}"
        if found is None or elapsed_s < PREDICT_AFTER_TAUS * found.tau_s:
            after = f"the first {format_duration(self.settle_ns)}, in which the die itself warms up"
            covered = f"{format_duration(elapsed_s * 1e9)} after {after}, are too short"
            return Outcome.INCONCLUSIVE, (
                f"{seen}, but where the temperature settles cannot be told yet: "
                f"{covered if elapsed_s else f'nothing was read after {after}'}{self._overridden()}"
            )
        return self._predict(values, limit_c, found=found, elapsed_s=elapsed_s, ended=ended)

    def _predict(
        self, values: FloatArray, limit_c: float, *, found: Warming, elapsed_s: float, ended: bool
    ) -> tuple[Outcome, str]:
        limit, highest = _c(limit_c), float(values.max())
        bounds = f"between {_c(found.low_c)} and {_c(found.high_c)}; hottest reading {_c(highest)}"
        ends = f"the temperature settles at {_c(found.end_c)} ({bounds})"
        settled = elapsed_s >= SETTLED_AFTER_TAUS * found.tau_s
        if found.low_c - MARGIN_C > limit_c:
            until = found.seconds_until(limit_c)
            when = "" if until is None else f"; it reaches the limit in {format_duration(until * 1e9)}"
            return Outcome.FAIL, f"{ends}, above {limit}{when}"
        if highest == float(values.min()):
            return Outcome.INCONCLUSIVE, (
                f"all {values.shape[0]} readings are exactly {_c(highest)}: a stuck sensor cannot be told "
                f"from a steady board"
            )
        if found.high_c + MARGIN_C <= limit_c:
            return Outcome.PASS, f"{ends}, at least {_c(MARGIN_C)} below {limit}"
        if ended and settled and found.high_c <= limit_c:
            return Outcome.PASS, f"{ends} and has settled there, within {limit}"
        return Outcome.INCONCLUSIVE, f"{ends}, too close to {limit} to tell"

    def _measured(self, sample: Sample) -> str:
        return format_duration(sample.duration_s * 1e9)

    def _declared(self) -> str:
        return format_duration(self._required_s * 1e9)

    def _overridden(self) -> str:
        if self.override_ns is None or self.override_ns == self.duration_ns:
            return ""
        return f" (the run replaced the declared {format_duration(self.duration_ns)} by {self._declared()})"

    def _unseen(self, sample: Sample, bits: tuple[int, ...]) -> tuple[str, ...]:
        unseen = ["ambient temperature: the verdict holds for the one at the bench", "temperature of the accelerator"]
        if not bits and not self.throttling:
            unseen.insert(0, f"throttling: {validity.no_bits(sample)}")
        if self.max_c is None:
            unseen.insert(0, "temperature: no limit was given")
        return tuple(unseen)

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        n: int,
        reason: str,
        observed: float | None = None,
        interval: tuple[float, float] | None = None,
        decided: bool = True,
        unseen: tuple[str, ...] = (),
        figures: dict[str, float] | None = None,
        would_change: str = "",
    ) -> Verdict:
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=observed,
            budget=self.max_c,
            interval=interval,
            unit="°C",
            n=n,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=unseen,
            statistics={"alpha": self.alpha, **(figures or {})},
            would_change=would_change,
        )


def declare(
    max: object = None,  # noqa: A002 - the word that people expect in the marker
    *,
    throttling: object = False,
    duration: object = "10 min",
    settle: object = "60 s",
    alpha: object = None,
    settings: GateSettings,
) -> Thermal:
    """The marker's signature.

    Raises:
        MarkerError: it asks for nothing.
    """
    may_throttle = arguments.truth("throttling", throttling)
    if max is None and may_throttle:
        raise MarkerError("nothing is asked: give max='80 C', or throttling=False, or both")
    return Thermal(
        alpha=arguments.alpha(alpha, settings.alpha),
        max_c=None if max is None else arguments.degrees("max", max),
        throttling=may_throttle,
        duration_ns=arguments.duration("duration", duration),
        override_ns=settings.soak_ns,
        settle_ns=duration_ns(settle),
    )


def _hot(bits: tuple[int, ...]) -> str | None:
    """How the board throttled; None when it did not."""
    live = next((one & _HOT_BITS for one in bits if one & _HOT_BITS), 0)
    if live:
        return f"the board throttled: {validity.bit_names(live)} (throttled={live:#x})"
    for before, after in pairwise(bits):
        new = (after & ~before) >> 16 & _HOT_BITS
        if new:
            return (
                f"the board throttled between two readings: {validity.bit_names(new)} ({before:#x} became {after:#x})"
            )
    return None


def _hottest_mean(times_s: FloatArray, values: FloatArray) -> float | None:
    """The highest mean over `MEAN_S` that at least ten readings went into; None when there is none."""
    import numpy as np

    total = np.concatenate(([0.0], np.cumsum(values)))
    first = np.searchsorted(times_s, times_s - MEAN_S, side="right")
    counts = np.arange(1, times_s.shape[0] + 1) - first
    means = (total[1:] - total[first]) / counts
    enough = counts >= _FEWEST_IN_MEAN
    return float(means[enough].max()) if enough.any() else None


def _c(value: float) -> str:
    return f"{format_number(value)} °C"


def _c_at_least(value: float) -> str:
    return _c(math.ceil(10.0 * value) / 10.0)


def _c_at_most(value: float) -> str:
    return _c(math.floor(10.0 * value) / 10.0)
