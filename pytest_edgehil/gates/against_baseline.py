"""`p95_latency(baseline=…, ratio=…)`: is the model no more than so many times as slow as another one, on this board?

Both models are measured on the same board in pairs of blocks, one right after the other and in random order, so that
whatever the board does (warms up, clocks down, serves others) meets both alike. Measuring one model first and the other
afterwards cannot tell a slower model from a slower board.

The null hypotheses are "the ratio is more than `ratio`" (refused by a PASS) and "the ratio is at most `ratio`" (refused
by a FAIL), each at the error rate α over all looks together. The ratio is that of the two quantiles, estimated and
bounded by `stats.block_ratio`; one looks at 30, 40, 60, 80 and 100 % of the pairs that may be measured. When the test
is run again (`continued`), the pairs of all its runs are pooled, and one looks after each further budget of pairs; 5 %
of α are reserved for that, so that all runs together err in at most α.

What is assumed: blocks are long against the correlation of latencies, and pairs are alike but for chance. In
simulations (``benchmarks/statistics/against_baseline.py``) the error at the boundary is between 4 and 6.4 % of a side
at the default of 5 %, for correlations up to 0.8: the t approximation is no exact test. What it cannot see: a
difference that shows only after hours, or only in a process of its own that is alone on the board; and how much
the two models differ from one start of their processes to the next, because each is loaded once.

Where a board counts its instructions (`Timing.ICOUNT`) all this holds too, and little is left to be uncertain about:
two pairs differ by what the kernel did in between. They may be exactly alike, which on a clock would be no measurement;
then the ratio is known as it is.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.durations import no_measurement
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.quantity import format_duration, format_number, quoted
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.series import BlockPair, Paired
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pytest_edgehil.gates.stats.block_ratio import LogRatio

PAIRS = 20
BLOCK = 50

_UNSEEN = "between processes: each model was loaded once, and a process of its own may be a little faster or slower"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstBaseline:
    """The marker's arguments.

    Args:
        name: ``p95_latency`` or ``quantile_latency``.
        quantile: which quantile of the latency, 0 < quantile < 1.
        baseline: the other model, as it is looked up among the artifacts.
        ratio: how many times its quantile the model's may be.
        alpha: error rate of each side.
        pairs: no more pairs of blocks than this are asked for.
        block: inferences in each block.
        max_duration_ns: no more pairs are asked for after so long a time in inferences.
        max_drift_c: INVALID when the temperature moved by more than this while measuring; None does not look.
        pooled: pairs that earlier runs of the test have measured, beside which `pairs` more may be; no argument of
            the marker.
    """

    baseline: str
    ratio: float
    alpha: float
    name: str = "p95_latency"
    quantile: float = 0.95
    pairs: int = PAIRS
    block: int = BLOCK
    max_duration_ns: int = 600 * 10**9
    max_drift_c: float | None = None
    pooled: int = 0

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in {"name", "pooled"}}

    @property
    def on_board(self) -> str:
        """The artifact that must be on the board beside the model under test."""
        return self.baseline

    @property
    def _label(self) -> str:
        return f"p{self.quantile * 100:g}"

    @property
    def _allowed(self) -> int:
        """Pairs that may be measured over all runs: up to a look."""
        return math.ceil((self.pooled + self.pairs) / self.pairs) * self.pairs

    def _looks(self) -> tuple[int, ...]:
        from pytest_edgehil.gates.stats.block_ratio import looks

        return looks(self.pairs, self.block, self.quantile, upto=self._allowed)

    def extended(self, by: Sample) -> AgainstBaseline:
        """See `continued.Sequential`."""
        pairs = self._of(by)[1]
        spent_ns = sum(int(one.candidate_ns.sum()) + int(one.baseline_ns.sum()) for one in pairs)
        return dataclasses.replace(
            self, pooled=self.pooled + len(pairs), max_duration_ns=self.max_duration_ns + spent_ns
        )

    def demand(self, sample: Sample) -> Demand | None:
        """Pairs up to the next look."""
        if self.evaluate(sample).decided:
            return None
        have = len(self._of(sample)[1])
        wanted = next(one for one in self._looks() if one > have)
        return Demand(pairs=wanted - have, block=self.block, baseline=self.baseline)

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; what was measured after it changes nothing."""
        import numpy as np

        paired, pairs = self._of(sample)
        if not pairs or paired is None:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                pairs=0,
                reason=f"{self._label} latency is undecided: no pair of blocks has been measured yet",
                decided=False,
            )
        candidate = np.stack([np.asarray(one.candidate_ns) for one in pairs])
        baseline = np.stack([np.asarray(one.baseline_ns) for one in pairs])
        trouble = self._unusable(candidate, baseline, timing=sample.timing)
        unseen: tuple[str, ...] = ()
        if trouble is None:
            valid = validity.of_timing(_timed(sample, pairs))
            drift = validity.temperature_drift(sample, self.max_drift_c)
            trouble = "; ".join(one for one in (valid.trouble, drift.trouble) if one is not None)
            unseen = (*valid.unseen, *drift.unseen, _UNSEEN)
        if trouble:
            return self._verdict(
                Outcome.INVALID,
                sample,
                pairs=len(pairs),
                reason=f"{self._label} latency against {paired.label or self.baseline} is not usable: {trouble}",
                would_change=outlook.AGAIN,
            )
        return self._walk(sample, paired, candidate, baseline, unseen=unseen)

    def _of(self, sample: Sample) -> tuple[Paired | None, tuple[BlockPair, ...]]:
        """What was measured against our baseline, in blocks of our length."""
        for paired in sample.paired:
            if paired.baseline == self.baseline:
                sized = (
                    one for one in paired.pairs if one.candidate_ns.shape == one.baseline_ns.shape == (self.block,)
                )
                return paired, tuple(sized)
        return None, ()

    def _unusable(
        self, candidate: npt.NDArray[np.int64], baseline: npt.NDArray[np.int64], *, timing: Timing
    ) -> str | None:
        for whose, blocks in (("model", candidate), ("baseline", baseline)):
            trouble = no_measurement(blocks.ravel(), timing=timing)
            if trouble is not None:
                return f"of the {whose}, {trouble}"
        return None

    def _walk(
        self,
        sample: Sample,
        paired: Paired,
        candidate: npt.NDArray[np.int64],
        baseline: npt.NDArray[np.int64],
        *,
        unseen: tuple[str, ...],
    ) -> Verdict:
        from pytest_edgehil.gates.stats.block_ratio import critical_values, paired_ratio

        limit = math.log(self.ratio)
        at = self._looks()
        seen: _Look | None = None
        for number, (k, critical) in enumerate(zip(at, critical_values(at, self.pairs, self.alpha), strict=True), 1):
            if k > candidate.shape[0]:
                break
            found = paired_ratio(candidate[:k], baseline[:k], self.quantile)
            seen = _Look(number=number, pairs=k, ratio=found, critical=critical)
            if found.error == 0.0 and sample.timing is Timing.WALL:
                return self._alike(sample, paired, seen)
            if found.value + critical * found.error <= limit:
                return self._decided(Outcome.PASS, sample, paired, seen, unseen=unseen)
            if found.value - critical * found.error > limit:
                return self._decided(Outcome.FAIL, sample, paired, seen, unseen=unseen)
        return self._open(sample, paired, candidate, baseline, seen, unseen=unseen)

    def _alike(self, sample: Sample, paired: Paired, look: _Look) -> Verdict:
        """A sample without any variation between pairs shows no error, and so nothing at all."""
        return self._verdict(
            Outcome.INVALID,
            sample,
            pairs=look.pairs,
            look=look,
            reason=f"{self._label} latency against {paired.label or self.baseline} is not usable: all {look.pairs} "
            "pairs of blocks are exactly alike, which no measurement is",
            would_change=outlook.AGAIN,
        )

    def _decided(
        self, outcome: Outcome, sample: Sample, paired: Paired, look: _Look, *, unseen: tuple[str, ...]
    ) -> Verdict:
        low, high = look.bounds
        allowed = f"that of {paired.label or self.baseline}, where {times(self.ratio)} is allowed"
        if outcome is Outcome.PASS:
            said = f"{self._label} latency is at most {times(high)} {allowed}"
            slower = self.ratio / high - 1.0
            change = f"a limit below ×{math.floor(high * 1e4) / 1e4:g}, or a model that is {slower:.1%} slower"
        else:
            said = f"{self._label} latency is at least {times(low)} {allowed}"
            faster = 1.0 - self.ratio / low
            change = f"a limit of at least ×{math.ceil(low * 1e4) / 1e4:g}, or a model that is {faster:.1%} faster"
        return self._verdict(
            outcome,
            sample,
            pairs=look.pairs,
            look=look,
            reason=f"{said} (observed {times(look.observed)} in {look.pairs} pairs of {self.block} inferences each; "
            f"error rate {format_number(100 * self.alpha)}%)",
            unseen=unseen,
            would_change=change,
        )

    def _open(
        self,
        sample: Sample,
        paired: Paired,
        candidate: npt.NDArray[np.int64],
        baseline: npt.NDArray[np.int64],
        look: _Look | None,
        *,
        unseen: tuple[str, ...],
    ) -> Verdict:
        have, other = candidate.shape[0], paired.label or self.baseline
        if look is None:
            said = f"{have} pairs of blocks so far, too few to look at"
        else:
            low, high = look.bounds
            said = (
                f"after {look.pairs} pairs of {self.block} inferences each it is {times(look.observed)} that of "
                f"{other}, between {times(low)} and {times(high)}, which does not tell whether "
                f"{times(self.ratio)} is kept at an error rate of {format_number(100 * self.alpha)}%"
            )
        out_of_pairs = have >= self._allowed
        out_of_time = int(candidate.sum()) + int(baseline.sum()) >= self.max_duration_ns
        spent, change = "", "more pairs of blocks, which are still allowed"
        if out_of_pairs:
            spent = f"; the budget of {self._allowed} pairs is spent"
        elif out_of_time:
            spent = f"; the {format_duration(self.max_duration_ns)} for measuring are spent"
        if (out_of_pairs or out_of_time) and look is not None:
            change = (
                f"about {self._pairs_needed(look)} pairs (pairs=…) if the ratio stays as observed, or another limit"
            )
        return self._verdict(
            Outcome.INCONCLUSIVE,
            sample,
            pairs=have if look is None else look.pairs,
            look=look,
            reason=f"{self._label} latency is undecided: {said}{spent}",
            unseen=unseen,
            decided=out_of_pairs or out_of_time,
            would_change=change,
        )

    def _pairs_needed(self, look: _Look) -> str:
        """So many pairs would put the limit outside the bounds, if the estimate stayed: errors shrink as 1/sqrt(k)."""
        distance = abs(math.log(self.ratio) - look.ratio.value)
        needed = look.pairs * (look.critical * look.ratio.error / distance) ** 2 if distance else math.inf
        return f"{math.ceil(needed)}" if needed < 10_000 else "more than 10 000"

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        pairs: int,
        reason: str,
        look: _Look | None = None,
        unseen: tuple[str, ...] = (),
        decided: bool = True,
        would_change: str = "",
    ) -> Verdict:
        paired, available = self._of(sample)
        figures = {
            "alpha": self.alpha,
            "quantile": self.quantile,
            "pairs": float(pairs),
            "pairs_allowed": float(self._allowed),
            "block": float(self.block),
            "pairs_available": float(len(available)),
        }
        if paired is not None and paired.baseline_peak_rss_bytes is not None:
            figures["baseline_peak_rss_bytes"] = float(paired.baseline_peak_rss_bytes)
        interval = None
        if look is not None and (look.ratio.error > 0.0 or sample.timing is Timing.ICOUNT):
            from pytest_edgehil.gates.stats.spending import over_reruns

            interval = look.bounds
            figures |= {
                "looks": float(look.number),
                "standard_error": look.ratio.error,
                "df": look.ratio.df,
                "critical_t": look.critical,
                "alpha_spent": float(over_reruns(look.pairs / self.pairs, self.alpha)),
                "lower_bound": interval[0],
                "upper_bound": interval[1],
            }
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=None if look is None else look.observed,
            budget=self.ratio,
            interval=interval,
            unit="ratio",
            n=pairs * self.block,
            reason=reason + validity.provenance(sample),
            decided=decided,
            not_checked=() if outcome is Outcome.INVALID else unseen,
            statistics=figures,
            would_change=would_change,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """Args: number: 1 for the first. pairs: seen. ratio: its estimate. critical: standard errors to each bound."""

    number: int
    pairs: int
    ratio: LogRatio
    critical: float

    @property
    def observed(self) -> float:
        return math.exp(self.ratio.value)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.ratio.bounds(self.critical)


def declare(
    name: str,
    quantile: float,
    *,
    baseline: object,
    ratio: object,
    alpha: object,
    pairs: object,
    block: object,
    max_duration: object,
    max_drift: object,
    settings: GateSettings,
) -> AgainstBaseline:
    """What a marker with ``baseline=`` asks for.

    Raises:
        MarkerError: an argument cannot be used, or so few inferences cannot show this quantile.
    """
    if not isinstance(baseline, str) or not baseline.strip():
        raise MarkerError(f"baseline must be the name of an artifact, not {quoted(baseline)}")
    gate = AgainstBaseline(
        name=name,
        quantile=quantile,
        baseline=baseline,
        ratio=limit(ratio, "baseline"),
        alpha=arguments.alpha(alpha, settings.alpha),
        pairs=arguments.whole("pairs", pairs, least=6),
        block=arguments.whole("block", block, least=10),
        max_duration_ns=arguments.duration("max_duration", max_duration),
        max_drift_c=None if max_drift is None else arguments.degrees("max_drift", max_drift),
    )
    refuse_few("pairs", gate.pairs, gate.block, quantile)
    return gate


def limit(ratio: object, what: str) -> float:
    """The largest ratio that is allowed.

    Raises:
        MarkerError: it is missing, or no sensible ratio.
    """
    if ratio is None:
        raise MarkerError(f"{what} needs ratio=…: how many times as slow the model may be, for example ratio=1.10")
    return arguments.fraction("ratio", ratio, low=0.0, high=100.0)


def refuse_few(what: str, blocks: int, block: int, quantile: float) -> None:
    """Raises MarkerError when so many inferences hold too few beyond the quantile to estimate it."""
    beyond = round(blocks * block * round(1.0 - quantile, 12), 9)
    if beyond < 5:  # `stats.block_ratio.FEWEST_BEYOND`, which would import numpy
        needed = math.ceil(round(5 / (blocks * round(1.0 - quantile, 12)), 9))
        raise MarkerError(
            f"p{quantile * 100:g} cannot be estimated from {blocks} blocks of {block} inferences: {beyond:g} of them "
            f"lie beyond it on average, 5 are needed; pass block={needed} or more ({what}={blocks})"
        )


def _timed(sample: Sample, pairs: tuple[BlockPair, ...]) -> Sample:
    """The sample with the blocks' inferences among its own, so that it can be told when the board was busy."""
    import numpy as np

    blocks = [
        (start, np.asarray(latencies))
        for one in pairs
        for start, latencies in (
            (one.candidate_start_ns, one.candidate_ns),
            (one.baseline_start_ns, one.baseline_ns),
        )
    ]
    starts = [start + np.cumsum(latencies) - latencies for start, latencies in blocks]
    return sample.replace(
        latencies_ns=np.concatenate([sample.latencies_ns, *(latencies for _, latencies in blocks)]),
        starts_ns=np.concatenate([sample.starts_ns, *starts]),
    )


def times(ratio: float) -> str:
    """A ratio in a sentence.

    >>> times(1.0314)
    '1.031 times'
    """
    return f"{format_number(ratio, digits=4)} times"
