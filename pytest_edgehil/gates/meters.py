"""`npu_utilisation` and `energy`: gates on what the board's own meters say once a second while it infers.

Both are about a mean over time, decided by `stats.mean` over the readings that were taken while inferences ran (30, 60,
120, … of them). A board without the meter is INCONCLUSIVE and says so: no data is no PASS. A meter whose readings never
move measures nothing, and is INCONCLUSIVE too.

Energy per inference is the mean power while inferring times the mean time of an inference, each bounded at α/2. It is
gross: what the board draws anyway is in it. On a Pi 5 the meter is the PMIC (``vcgencmd pmic_read_adc``), whose rails
leave out the 5 V rail, and with it the HAT; the on-board program reports W = 1.1451·(sum of the rails) + 0.5879, a fit
published by others [jfikar/RPi5-power] and not checked by us on a board.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.time_base import in_seconds
from pytest_edgehil.model.quantity import energy_j, format_duration, format_energy, format_number
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample, SensorReading
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.mean import MeanLook

FIRST_READINGS = 30
SEARCH_S = 5.0
"""After so long a measurement without one reading of a meter, the board is taken to have none."""
_PMIC = (
    "power: the board's own meter only; a Pi 5's leaves out the 5 V rail (HAT, USB, NVMe) and is scaled by a published "
    "fit, W = 1.1451·sum + 0.5879"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuUtilisation:
    """The marker's arguments.

    Args:
        at_least, at_most: limits of the mean utilisation, 0 … 1; None: no limit on that side.
        alpha: error rate of each side.
        max_duration_ns: no more is measured after so long.
    """

    at_least: float | None
    at_most: float | None
    alpha: float
    max_duration_ns: int = 300 * 10**9
    name: ClassVar[str] = "npu_utilisation"
    timing: ClassVar[Timing] = Timing.WALL

    @property
    def statements(self) -> int:
        """One for each limit."""
        return (self.at_least is not None) + (self.at_most is not None)

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:
        """Seconds up to the next look."""
        return None if self.evaluate(sample).decided else _more_readings(len(_npu(sample)))

    @in_seconds("a share of the time", "fraction")
    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it."""
        values = [one.npu_percent / 100.0 for one in _npu(sample) if one.npu_percent is not None]
        open_ = _open_or_missing(
            sample, values, self.max_duration_ns, "accelerator that reports its utilisation (HAILO_MONITOR)"
        )
        if any(not 0.0 <= one <= 1.0 for one in values):
            return self._verdict(Outcome.INVALID, sample, None, "a utilisation is no number from 0 to 100 %")
        trouble = validity.of_timing(sample).trouble
        if values and trouble is not None:
            return self._verdict(Outcome.INVALID, sample, None, f"NPU utilisation is not usable: {trouble}")
        from pytest_edgehil.gates.stats.mean import look, looks

        found = None
        for number, n in enumerate(looks(len(values), first=FIRST_READINGS), start=1):
            now = look(values[:n], alpha=self.alpha, number=number)
            if now is None:
                continue
            found, outcome = now, self._outcome(now)
            if outcome is not Outcome.INCONCLUSIVE:
                return self._verdict(outcome, sample, found, self._said(found, outcome))
        said, decided = open_
        if found is not None:
            between = f"between {_percent(found.low)} and {_percent(found.high)}"
            spent = said if decided else ""
            said = f"{_percent(found.mean)} ({between}) is too close to {self._limits()} to tell{spent}"
        reason = f"NPU utilisation is undecided: {said}"
        return self._verdict(Outcome.INCONCLUSIVE, sample, found, reason, decided=decided)

    def _outcome(self, found: MeanLook) -> Outcome:
        below = self.at_least is not None and found.high < self.at_least
        above = self.at_most is not None and found.low > self.at_most
        if below or above:
            return Outcome.FAIL
        enough = self.at_least is None or found.low >= self.at_least
        not_too_much = self.at_most is None or found.high <= self.at_most
        return Outcome.PASS if enough and not_too_much else Outcome.INCONCLUSIVE

    def _limits(self) -> str:
        told = [f"at least {_percent(self.at_least)}"] if self.at_least is not None else []
        told += [f"at most {_percent(self.at_most)}"] if self.at_most is not None else []
        return " and ".join(told)

    def _said(self, found: MeanLook, outcome: Outcome) -> str:
        verb = "is" if outcome is Outcome.PASS else "is not"
        return (
            f"NPU utilisation {verb} {self._limits()}: {_percent(found.mean)} on average over {found.n} readings while "
            f"inferring, between {_percent(found.low)} and {_percent(found.high)} "
            f"(error rate {format_number(100 * self.alpha)}%)"
        )

    def _verdict(
        self, outcome: Outcome, sample: Sample, found: MeanLook | None, reason: str, *, decided: bool = True
    ) -> Verdict:
        budget, better = (self.at_least, "higher") if self.at_least is not None else (self.at_most, "lower")
        if found is not None and self.at_least is not None and self.at_most is not None and found.low > self.at_most:
            budget, better = self.at_most, "lower"
        change = {
            Outcome.INVALID: outlook.AGAIN,
            Outcome.INCONCLUSIVE: "more readings while inferring, on a board that has the meter",
        }.get(outcome, "")
        if not change and found is not None:
            change = f"limits on the other side of {_percent(found.low)} to {_percent(found.high)}"
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if found is None else found.mean,
            budget=budget,
            interval=None if found is None else (found.low, found.high),
            unit="fraction",
            better=better,
            n=0 if found is None else found.n,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else (*validity.of_timing(sample).unseen, *_slow(found)),
            statistics=_figures(self.alpha, found),
            would_change=change,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyPerInference:
    """The marker's arguments.

    Args:
        budget_j: limit of the mean energy of an inference, in joules.
        alpha: error rate of each side.
        max_duration_ns: no more is measured after so long.
    """

    budget_j: float
    alpha: float
    max_duration_ns: int = 300 * 10**9
    name: ClassVar[str] = "energy"
    timing: ClassVar[Timing] = Timing.WALL

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def demand(self, sample: Sample) -> Demand | None:
        """Seconds up to the next look."""
        return None if self.evaluate(sample).decided else _more_readings(len(_metered(sample)))

    @in_seconds("energy, power times time,", "J")
    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; exactly the budget is within it."""
        import numpy as np

        from pytest_edgehil.gates.durations import no_measurement

        readings = _metered(sample)
        powers = np.array([one.power_w for one in readings], dtype=np.float64)
        if powers.shape[0]:
            trouble = no_measurement(np.asarray(sample.latencies_ns)) or validity.of_timing(sample).trouble
            if not np.isfinite(powers).all() or (powers <= 0).any():
                trouble = "a power is zero, negative or no number"
            if trouble is not None:
                return self._verdict(Outcome.INVALID, sample, f"energy is not usable: {trouble}", change=outlook.AGAIN)
        last: _Energy | None = None
        for number, n in enumerate(_mean_looks(powers.shape[0]), start=1):
            last = self._look(sample, readings[:n], number) or last
            if last is not None and not last.low_j <= self.budget_j < last.high_j:
                return self._decided(sample, last)
        said, decided = _open_or_missing(sample, powers.tolist(), self.max_duration_ns, "meter of its power")
        said = said or "the inferences are too few, or all alike"
        change = "more readings while inferring, on a board that has a meter"
        if last is not None:
            spent = said if decided else ""
            said = f"{_energy(last.mean_j)} an inference is too close to {_energy(self.budget_j)} to tell{spent}"
            change = f"a budget of at least {_energy(last.high_j)} or below {_energy(last.low_j)}; {change}"
        reason = f"energy is undecided: {said}"
        return self._verdict(Outcome.INCONCLUSIVE, sample, reason, found=last, decided=decided, change=change)

    def _look(self, sample: Sample, readings: Sequence[SensorReading], number: int) -> _Energy | None:
        """Bounds from what had been measured by the last of these readings."""
        import numpy as np

        from pytest_edgehil.gates.stats.mean import UNSEEN_STALL, look

        ends = np.asarray(sample.starts_ns) + np.asarray(sample.latencies_ns)
        seen = np.asarray(sample.latencies_ns)[ends <= readings[-1].at_s * 1e9]
        if seen.shape[0] < FIRST_READINGS:
            return None
        power = look([one.power_w or 0.0 for one in readings], alpha=self.alpha / 2, number=number)
        took = look(seen, alpha=self.alpha / 2, number=number, unseen=UNSEEN_STALL)
        if power is None or took is None:
            return None
        return _Energy(power=power, took=took, inferences=int(seen.shape[0]))

    def _decided(self, sample: Sample, found: _Energy) -> Verdict:
        passed = found.high_j <= self.budget_j
        verb = "is within" if passed else "exceeds"
        bound = f"at most {_energy(found.high_j)}" if passed else f"at least {_energy(found.low_j)}"
        reason = (
            f"energy of an inference {verb} {_energy(self.budget_j)}: {_energy(found.mean_j)} on average, {bound} "
            f"({format_number(found.power.mean)} W over {found.power.n} readings times "
            f"{format_duration(found.took.mean, digits=4)} over {found.inferences} inferences; "
            f"error rate {format_number(100 * self.alpha)}%)"
        )
        enough = _energy(found.high_j)
        change = f"a budget below {enough}" if passed else f"a budget of at least {enough}; more does not undo a FAIL"
        outcome = Outcome.PASS if passed else Outcome.FAIL
        return self._verdict(outcome, sample, reason, found=found, change=change)

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        reason: str,
        *,
        change: str,
        found: _Energy | None = None,
        decided: bool = True,
    ) -> Verdict:
        figures = _figures(self.alpha, None if found is None else found.power)
        if found is not None:
            figures |= {"power_w": found.power.mean, "mean_ns": found.took.mean, "inferences": float(found.inferences)}
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if found is None else found.mean_j,
            budget=self.budget_j,
            interval=None if found is None else (found.low_j, found.high_j),
            unit="J",
            n=0 if found is None else found.power.n,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=()
            if outcome is Outcome.INVALID
            else (
                *validity.of_timing(sample).unseen,
                _PMIC,
                *_slow(None if found is None else found.power),
            ),
            statistics=figures,
            would_change=change,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Energy:
    """Power in W and time in ns, each with its bounds, and their products in J."""

    power: MeanLook
    took: MeanLook
    inferences: int

    @property
    def mean_j(self) -> float:
        return self.power.mean * self.took.mean / 1e9

    @property
    def low_j(self) -> float:
        return max(0.0, self.power.low) * max(0.0, self.took.low) / 1e9

    @property
    def high_j(self) -> float:
        return self.power.high * self.took.high / 1e9


def declare_npu(  # noqa: D103 - the marker's signature
    *,
    at_least: object = None,
    max: object = None,  # noqa: A002 - the word that people write
    alpha: object = None,
    max_duration: object = "5 min",
    settings: GateSettings,
) -> NpuUtilisation:
    if at_least is None and max is None:
        raise MarkerError("at least one of at_least and max is needed, for example at_least=0.6")
    low = None if at_least is None else arguments.fraction("at_least", at_least)
    high = None if max is None else arguments.fraction("max", max)
    if low is not None and high is not None and low >= high:
        raise MarkerError(f"at_least must be below max, not {low:g} and {high:g}")
    return NpuUtilisation(
        at_least=low,
        at_most=high,
        alpha=arguments.alpha(alpha, settings.alpha),
        max_duration_ns=arguments.duration("max_duration", max_duration),
    )


def declare_energy(  # noqa: D103 - the marker's signature
    budget: object, *, alpha: object = None, max_duration: object = "5 min", settings: GateSettings
) -> EnergyPerInference:
    return EnergyPerInference(
        budget_j=arguments.positive("budget", energy_j(budget), budget),
        alpha=arguments.alpha(alpha, settings.alpha),
        max_duration_ns=arguments.duration("max_duration", max_duration),
    )


def _npu(sample: Sample) -> list[SensorReading]:
    return [one for one in validity.busy_readings(sample) if one.npu_percent is not None]


def _metered(sample: Sample) -> list[SensorReading]:
    return [one for one in validity.busy_readings(sample) if one.power_w is not None]


def _mean_looks(upto: int) -> tuple[int, ...]:
    from pytest_edgehil.gates.stats.mean import looks

    return looks(upto, first=FIRST_READINGS)


def _more_readings(have: int) -> Demand:
    """As many seconds as readings are missing, at one a second; a few only as long as no meter has been seen."""
    from pytest_edgehil.gates.stats.mean import next_look

    if not have:
        return Demand(seconds=SEARCH_S)
    return Demand(seconds=float(next_look(have, first=FIRST_READINGS) - have))


def _open_or_missing(sample: Sample, values: Sequence[float], max_duration_ns: int, meter: str) -> tuple[str, bool]:
    """What to say of a sample that does not decide, and whether that is final."""
    if not values and sample.duration_s >= SEARCH_S:
        return f"the board has no {meter}, or none of its readings fell into the measurement", True
    spent = sample.duration_s * 1e9 >= max_duration_ns
    told = f"; no more than {format_duration(max_duration_ns)} may be measured (max_duration)" if spent else ""
    if len(values) >= FIRST_READINGS:
        return (told if len(set(values)) > 1 else f"all {len(values)} readings are alike: no measurement{told}"), spent
    return f"{len(values)} of at least {FIRST_READINGS} readings so far{told}", spent


def _figures(alpha: float, found: MeanLook | None) -> dict[str, float]:
    if found is None:
        return {"alpha": alpha}
    return {
        "alpha": alpha,
        "looks": float(found.number),
        "variance_inflation": found.inflation,
        "effective_n": found.n / found.inflation,
    }


def _slow(found: MeanLook | None) -> tuple[str, ...]:
    """A reading a second."""
    return () if found is None else (validity.slow_regimes(found.n * 10**9),)


def _percent(share: float) -> str:
    return f"{format_number(100 * share)} %"


def _energy(joules: float) -> str:
    return format_energy(joules, digits=4)
