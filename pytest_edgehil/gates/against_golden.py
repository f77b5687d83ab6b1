"""`p95_latency(golden=…, ratio=…)`: is the model no more than so many times as slow as in an earlier, stored run?

A baseline that is measured again on the same board (`against_baseline`) decides more closely and assumes less; a golden
is for where the old model cannot run any more, or not on this board.

Two sessions differ even where nothing changed: another boot, another day, another board of the class. How much, no
number of inferences within one session can tell, so the marker has to say (``session_spread=0.03``: a standard
deviation of 3 %, which is the default; 0.2 % where instructions were counted), and 2·spread² is added to the squared
standard error. Left out, "not more than 1.10 times" passes and fails 31 % of the time each at exactly 1.10
(``benchmarks/statistics/against_baseline.py``).

Each side's own error comes from its blocks of consecutive inferences: a jackknife that leaves one block out at a time,
which takes the correlation within a block into account. The bounds are those of a t distribution with the degrees of
freedom of Welch and Satterthwaite, in which the session spread counts as known. There is one look, at
`max_samples` inferences: most of the uncertainty is the spread between sessions, which looking often does not reduce.
It comes later where the board's steady state takes longer (`validity.steady_state_ns`): pairs with a baseline meet what
comes and goes on a board alike, a golden was measured at another time. What is judged then are as many blocks, longer.

When the test is run again (`continued`), another *session* is another boot: its mean with those before it is held
against the golden, with the spread of so many sessions, and 5 % of α are reserved for all further ones together. A run
of the same boot adds nothing to what is uncertain, so it is not counted.

The golden's figures that go into the verdict are among the recorded arguments, beside the digest of its file, so a
verdict can be computed again from the raw sample alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.errors import MarkerError, UserError
from pytest_edgehil.gates import arguments, outlook, timings, validity
from pytest_edgehil.gates.against_baseline import BLOCK, limit, refuse_few, times
from pytest_edgehil.gates.durations import no_measurement
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.golden import read_golden
from pytest_edgehil.gates.time_base import differs
from pytest_edgehil.model.quantity import format_count, format_duration, format_number, quoted
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.block_ratio import LogRatio
    from pytest_edgehil.model.record import BoardRef

SPREAD = 0.03
COUNTED_SPREAD = 0.002
"""Of counted instructions: the standard deviation of p50 between starts of a board is below this
(``benchmarks/emulated/determinism.py``)."""
KINDS = ("board_class", "environment", "firmware", "runtime")
"""What must be alike in both runs, unless the marker says ``across=``."""

_NOTHING = "none"
_MEASURE_AGAIN = "a baseline that is measured again on this board (baseline=… instead of golden=…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstGolden:
    """The marker's arguments, and the golden's figures.

    Args:
        name: ``p95_latency`` or ``quantile_latency``.
        quantile: which quantile of the latency, 0 < quantile < 1.
        ratio: how many times the golden's quantile the model's may be.
        alpha: error rate of each side.
        session_spread: relative standard deviation between sessions, as the marker says.
        across: which of `KINDS` may differ.
        max_samples: how many inferences are judged; more where the board's steady state takes longer.
        block: consecutive inferences in each block, of the golden too; longer where more inferences are judged.
        max_duration_ns: no more inferences are asked for after so long a measurement.
        max_drift_c: INVALID when the temperature moved by more than this while measuring; None does not look.
        golden: path of the file, as the marker says.
        golden_digest: of the file.
        golden_artifact: label of the model that it was measured with.
        golden_board_class, golden_environment, golden_firmware, golden_runtime: what it was measured on.
        golden_blocks: number of its blocks.
        golden_log_quantile_ns: natural logarithm of its quantile in ns.
        golden_error: standard error of that.
        golden_timing: what its nanoseconds are, as a `Timing`.
    """

    golden: str
    golden_digest: str
    golden_artifact: str
    golden_board_class: str
    golden_environment: str
    golden_firmware: str | None
    golden_runtime: str
    golden_blocks: int
    golden_log_quantile_ns: float
    golden_error: float
    ratio: float
    alpha: float
    name: str = "p95_latency"
    quantile: float = 0.95
    session_spread: float = SPREAD
    across: tuple[str, ...] = ()
    max_samples: int = 1000
    block: int = BLOCK
    max_duration_ns: int = 600 * 10**9
    max_drift_c: float | None = None
    golden_timing: str = Timing.WALL.value

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        known = {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}
        return {**known, "across": list(self.across)}

    @property
    def _label(self) -> str:
        return f"p{self.quantile * 100:g}"

    @property
    def timing(self) -> Timing:
        """What the board's time must be: nothing can be held against nanoseconds of another kind."""
        return Timing(self.golden_timing)

    @property
    def _blocks(self) -> int:
        return self.max_samples // self.block

    def require_comparable(self, board: BoardRef) -> None:
        """Refuse to compare what was measured on another kind of board, before anything is measured.

        Raises:
            UserError: it differs in something that the marker does not allow to differ.
        """
        told = {
            "board_class": (self.golden_board_class, board.cls),
            "environment": (self.golden_environment, board.environment.value),
            "firmware": (self.golden_firmware or _NOTHING, board.firmware or _NOTHING),
            "runtime": (self.golden_runtime, board.runtime or _NOTHING),
        }
        if board.timing is not self.timing:
            raise UserError(
                f"{self.name}: {self.golden} cannot be compared with board {board.id}: "
                f"{differs(self.timing, board.timing)}; store a golden there"
            )
        for kind, (then, now) in told.items():
            if then != now and kind not in self.across:
                raise UserError(
                    f"{self.name}: {self.golden} was measured with {kind} {then}, board {board.id} has {now}: "
                    f"store a golden there, or allow it with across=({kind!r},)"
                )

    def demand(self, sample: Sample) -> Demand | None:
        """Inferences up to the one look."""
        if self.evaluate(sample).decided:
            return None
        more = self._blocks * self.block - sample.n
        if more > 0:
            return Demand(inferences=more)
        # at the pace so far, but no more than there are: the pace may change
        needed = math.ceil(sample.n * validity.steady_state_ns(sample) / max(1, _covered_ns(sample)))
        return Demand(inferences=max(self._blocks, min(needed - sample.n + self._blocks, sample.n)))

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide once so many inferences are there; what was measured after them changes nothing."""
        import numpy as np

        latencies = np.asarray(sample.latencies_ns)
        trouble = no_measurement(latencies, timing=sample.timing) if latencies.shape[0] else None
        trouble = differs(self.timing, sample.timing) or trouble
        unseen: tuple[str, ...] = ()
        if trouble is None:
            valid = validity.of_timing(sample)
            drift = validity.temperature_drift(sample, self.max_drift_c)
            troubles = (valid.trouble, drift.trouble, self._other_runtime(sample))
            trouble = "; ".join(one for one in troubles if one is not None)
            unseen = (*valid.unseen, *drift.unseen, self._believed)
        if trouble:
            return self._unusable(sample, trouble)
        if self._looked_at(sample) is None:
            return self._too_few(sample)
        return self._judged((sample,), unseen=unseen)

    def _looked_at(self, sample: Sample) -> int | None:
        """How many inferences the one look judges: whole blocks; None while they are not there yet.

        It depends on how long they took and on nothing else that was measured.
        """
        import numpy as np

        wanted = self._blocks * self.block
        if sample.n < wanted:
            return None
        enough = timings.latencies(sample).elapsed_ns() >= validity.steady_state_ns(sample)
        if not enough.any():
            return None
        at = max(wanted, -(-(int(np.argmax(enough)) + 1) // self._blocks) * self._blocks)
        return at if at <= sample.n else None

    def over(self, runs: Sequence[Sample]) -> Verdict:
        """See `continued.BySession`."""
        last = runs[-1]
        complete = [one for one in runs if self._looked_at(one) is not None]
        if not complete or complete[-1] is not last:
            return self._too_few(last)
        boots = [_boot(one) for one in complete]
        if None in boots or boots[-1] in boots[:-1]:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                last,
                reason=f"{self._label} latency is undecided: the board has not booted since an earlier run, or does "
                "not tell, so this is no other session and adds nothing to what is uncertain between sessions",
                would_change=f"a run after another boot or on another board, or {_MEASURE_AGAIN}",
            )
        sessions = [one for number, one in enumerate(complete) if boots[number] not in boots[:number]]
        return self._judged(sessions, unseen=(self._believed,))

    def _judged(self, sessions: Sequence[Sample], *, unseen: tuple[str, ...]) -> Verdict:
        """The mean of sessions, each of which is valid and long enough, against the golden."""
        import numpy as np

        from pytest_edgehil.gates.stats.block_ratio import log_quantile, session_critical, stored_ratio

        judged = [self._looked_at(one) or 0 for one in sessions]
        quantiles = [
            log_quantile(np.asarray(one.latencies_ns)[:n].reshape(self._blocks, n // self._blocks), self.quantile)
            for one, n in zip(sessions, judged, strict=True)
        ]
        ratios = [
            stored_ratio(
                quantiles[:count],
                then_value=self.golden_log_quantile_ns,
                then_error=self.golden_error,
                then_blocks=self.golden_blocks,
                spread=self.session_spread,
                may_be_alike=self.timing is Timing.ICOUNT,
            )
            for count in range(1, len(quantiles) + 1)
        ]
        found = ratios[-1]
        if found.error == 0.0 and self.timing is Timing.WALL:
            return self._unusable(sessions[-1], f"all {self._blocks} blocks are exactly alike, which no measurement is")
        critical = session_critical(ratios, self.alpha) if found.error else 0.0
        return self._conclude(sessions[-1], found, critical=critical, judged=judged, unseen=unseen)

    @property
    def _believed(self) -> str:
        return (
            f"spread between sessions: {self.session_spread:.2%} is what the marker says; one session on either side "
            "cannot show it"
        )

    def _other_runtime(self, sample: Sample) -> str | None:
        if sample.conditions is None or "runtime" in self.across:
            return None
        now = f"{sample.conditions.runtime} {sample.conditions.runtime_version}"
        if now == self.golden_runtime:
            return None
        return f"the golden was measured with the runtime {self.golden_runtime}, this sample with {now}"

    def _unusable(self, sample: Sample, trouble: str) -> Verdict:
        return self._verdict(
            Outcome.INVALID,
            sample,
            reason=f"{self._label} latency against {self.golden} is not usable: {trouble}",
            would_change=outlook.AGAIN,
        )

    def _too_few(self, sample: Sample) -> Verdict:
        wanted = self._blocks * self.block
        out_of_time = sample.duration_s * 1e9 >= self.max_duration_ns
        spent = f"; the {format_duration(self.max_duration_ns)} for measuring are spent" if out_of_time else ""
        if sample.n < wanted:
            so_far, change = f"{sample.n} of {wanted} inferences", format_count(wanted - sample.n, "more inferences")
        else:
            least, covered = validity.steady_state_ns(sample), _covered_ns(sample)
            so_far = f"{sample.n} inferences over {format_duration(covered)} of the board's steady_state of "
            so_far += format_duration(least)
            change = f"{format_duration(max(1, least - covered))} more of measuring"
        return self._verdict(
            Outcome.INCONCLUSIVE,
            sample,
            reason=f"{self._label} latency is undecided: {so_far} so far{spent}",
            decided=out_of_time,
            would_change=change,
        )

    def _conclude(
        self, sample: Sample, found: LogRatio, *, critical: float, judged: Sequence[int], unseen: tuple[str, ...]
    ) -> Verdict:
        sessions = len(judged)
        low, high = found.bounds(critical)
        allowed = math.log(self.ratio)
        observed = (
            f"observed {times(math.exp(found.value))} over {sum(judged)} inferences"
            f"{'' if sessions == 1 else f' in {sessions} sessions'}, with a spread between sessions of "
            f"{self.session_spread:.1%}; error rate {format_number(100 * self.alpha)}%"
        )
        other = f"that of {self.golden} ({self.golden_artifact}), where {times(self.ratio)} is allowed"
        if found.value + critical * found.error <= allowed:
            outcome, said = Outcome.PASS, f"{self._label} latency is at most {times(high)} {other}"
            change = f"a limit below ×{math.floor(high * 1e4) / 1e4:g}"
        elif found.value - critical * found.error > allowed:
            outcome, said = Outcome.FAIL, f"{self._label} latency is at least {times(low)} {other}"
            change = f"a limit of at least ×{math.ceil(low * 1e4) / 1e4:g}"
        else:
            outcome = Outcome.INCONCLUSIVE
            said = (
                f"{self._label} latency is undecided: it is between {times(low)} and {times(high)} that of "
                f"{self.golden} ({self.golden_artifact}), which does not tell whether {times(self.ratio)} is kept"
            )
            change = (
                f"{_MEASURE_AGAIN}: the spread between sessions alone makes "
                f"±{critical * math.sqrt(1.0 + 1.0 / sessions) * self.session_spread:.1%} of this, whatever is measured"
            )
        return self._verdict(
            outcome,
            sample,
            reason=f"{said} ({observed})",
            found=found,
            critical=critical,
            judged=judged,
            unseen=unseen,
            would_change=change,
        )

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        reason: str,
        found: LogRatio | None = None,
        critical: float = math.nan,
        judged: Sequence[int] = (),
        unseen: tuple[str, ...] = (),
        decided: bool = True,
        would_change: str = "",
    ) -> Verdict:
        figures = {
            "alpha": self.alpha,
            "quantile": self.quantile,
            "block": float(self.block),
            "samples_available": float(sample.n),
            "session_spread_share": self.session_spread,
            "golden_quantile_ns": math.exp(self.golden_log_quantile_ns),
        }
        interval = None
        if found is not None:
            interval = found.bounds(critical)
            figures |= {
                "looks": float(len(judged)),
                "standard_error": found.error,
                "df": found.df,
                "critical_t": critical,
                "lower_bound": interval[0],
                "upper_bound": interval[1],
            }
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if found is None else math.exp(found.value),
            budget=self.ratio,
            interval=interval,
            unit="ratio",
            n=sample.n if found is None else sum(judged),
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else unseen,
            statistics=figures,
            would_change=would_change,
        )


def declare(
    name: str,
    quantile: float,
    *,
    golden: object,
    ratio: object,
    session_spread: object,
    across: object,
    alpha: object,
    max_samples: object,
    block: object,
    max_duration: object,
    max_drift: object,
    settings: GateSettings,
) -> AgainstGolden:
    """What a marker with ``golden=`` asks for.

    Raises:
        MarkerError: an argument cannot be used, the file is no golden, or so few inferences cannot show this quantile.
    """
    if not isinstance(golden, str) or not golden.strip():
        raise MarkerError(f"golden must be the path of a file that 'edgehil golden store' wrote, not {quoted(golden)}")
    spread: float | None = None
    if session_spread is not None:
        spread = 0.0 if session_spread == 0 else arguments.fraction("session_spread", session_spread)
    size, most = arguments.whole("block", block, least=10), arguments.whole("max_samples", max_samples, least=60)
    if most // size < 6:
        raise MarkerError(f"max_samples={most} are {most // size} blocks of {size}; at least 6 are needed")
    refuse_few("max_samples // block", most // size, size, quantile)
    path = Path(golden) if settings.root is None else settings.root / golden
    stored, digest = read_golden(path)
    if spread is None:
        spread = SPREAD if stored.timing is Timing.WALL else COUNTED_SPREAD
    number = len(stored.latencies_ns) // size
    if number < 6:
        raise MarkerError(
            f"{golden}: its {len(stored.latencies_ns)} latencies are {number} blocks of {size}; 6 are needed"
        )
    refuse_few(golden, number, size, quantile)
    value, error = _figures(stored.latencies_ns, number, size, quantile)
    if error == 0.0 and stored.timing is Timing.WALL:
        raise MarkerError(f"{golden}: all {number} blocks are exactly alike, which no measurement is")
    return AgainstGolden(
        name=name,
        quantile=quantile,
        golden=golden,
        golden_digest=digest,
        golden_artifact=stored.artifact,
        golden_board_class=stored.board_class,
        golden_environment=stored.environment,
        golden_firmware=stored.firmware,
        golden_runtime=stored.backend,
        golden_blocks=number,
        golden_log_quantile_ns=value,
        golden_error=error,
        golden_timing=stored.timing.value,
        ratio=limit(ratio, "golden"),
        alpha=arguments.alpha(alpha, settings.alpha),
        session_spread=spread,
        across=_across(across),
        max_samples=most,
        block=size,
        max_duration_ns=arguments.duration("max_duration", max_duration),
        max_drift_c=None if max_drift is None else arguments.degrees("max_drift", max_drift),
    )


def _boot(sample: Sample) -> str | None:
    return None if sample.conditions is None else sample.conditions.boot_id_before


def _covered_ns(sample: Sample) -> int:
    """How long its inferences are spread over."""
    return int(timings.latencies(sample).elapsed_ns()[-1])


def _figures(latencies_ns: tuple[int, ...], blocks: int, block: int, quantile: float) -> tuple[float, float]:
    """Logarithm of the golden's quantile and its standard error."""
    import numpy as np  # only where a golden is really used: markers are read in every pytest run

    from pytest_edgehil.gates.stats.block_ratio import jackknife_error, log_quantile

    found = log_quantile(np.array(latencies_ns[: blocks * block]).reshape(blocks, block), quantile)
    return found.value, jackknife_error(found.without)


def _across(value: object) -> tuple[str, ...]:
    kinds = (value,) if isinstance(value, str) else value
    if not isinstance(kinds, (tuple, list)) or not all(one in KINDS for one in kinds):
        raise MarkerError(f"across must be some of {', '.join(KINDS)}, not {quoted(value)}")
    return tuple(str(one) for one in kinds)
