"""`accuracy`: does the model agree with its baseline, is it right often enough, does it lose no more than allowed?

Three questions, one marker:

- ``agreement=0.98``: the share of items on which the output's class equals the baseline's. Needs no labels.
- ``at_least=0.95``: the share of items that are right.
- ``drop=0.01``: how much accuracy is lost against the baseline. With labels by Tango's paired score test at up to five
  looks; without labels by the disagreement, which the drop cannot exceed. Disagreement alone can never show that
  accuracy was lost, so that form never fails.

Agreement and correctness are rates and decided by the e-process of `stats.eprocess` in the (shuffled, recorded) order
of the items; when the whole set is used up, one exact test gets the error that was not spent. Items are taken as
drawn independently from what the model will meet; a second pass over the same items is no further evidence.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LOOKS = 5
"""Looks of the test with labels, evenly spread over the set."""
_FEWEST = 30
_UNSEEN = (
    "independence: the items are taken as drawn at random from what the model will meet",
    "size of an error: an output counts as right or wrong, however wrong",
)


_ASYMPTOTIC = (
    "exactness: the score test is asymptotic; at a stated 5% a false PASS came up in up to 5% of simulated sets, a "
    "false FAIL in up to 8% where few items differ"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The marker's arguments; exactly one of `agreement`, `drop` and `at_least` is not None.

    Args:
        alpha: error rate of each side.
        agreement: least share of items that agree with the baseline.
        drop: largest loss of accuracy against the baseline, as a fraction (0.01 is one point).
        at_least: least share of items that are right.
        baseline: name of the artifact to compare with, or None for the one that the test passes.
    """

    alpha: float
    agreement: float | None = None
    drop: float | None = None
    at_least: float | None = None
    baseline: str | None = None
    name: ClassVar[str] = "accuracy"

    @property
    def needs_baseline(self) -> bool:
        """Is there nothing to judge without a baseline's outputs? Without a name it is what the model was made from."""
        return self.agreement is not None or self.drop is not None

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    @property
    def _limit(self) -> float:
        """The rate of bad items that the budget allows."""
        if self.drop is not None:
            return self.drop
        return round(1.0 - (self.agreement if self.agreement is not None else self.at_least or 0.0), 12)

    @property
    def _asks(self) -> str:
        if self.agreement is not None:
            return "agreement with the baseline"
        return "accuracy" if self.at_least is not None else "drop in accuracy"

    def too_small(self, items: int) -> str | None:
        """Why a held-out set of so many items can never lead to a PASS; None when it can.

        >>> Accuracy(alpha=0.05, agreement=0.99).too_small(120)
        '299 items are needed to certify an agreement with the baseline of 99% at an error rate of 5%; the set has 120'
        """
        if self.drop is not None:
            return None  # with labels it depends on how many items both models have wrong
        needed = math.ceil(math.log(self.alpha) / math.log1p(-self._limit))
        if items >= needed:
            return None
        certified = _percent(1.0 - self._limit)
        return (
            f"{needed} items are needed to certify an {self._asks} of {certified} at an error rate of "
            f"{_percent(self.alpha)}; the set has {items}"
        )

    def demand(self, sample: Sample) -> Demand | None:
        """Items up to the next look, or to the end of the set."""
        if self.evaluate(sample).decided:
            return None
        from pytest_edgehil.gates.stats.sequential import next_look

        seen, size = max(_length(sample.agreed), _length(sample.correct)), sample.evaluated_of
        wanted = next_look(seen) - seen
        if size is not None:
            if self.drop is not None and sample.baseline_correct is not None:
                wanted = next((count for count in drop_looks(size) if count > seen), size) - seen
            wanted = min(wanted, size - seen)
        return Demand(evaluations=wanted) if wanted > 0 else None

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; see ``docs/explanation/statistics.md``."""
        if self.drop is not None and sample.correct is not None and sample.baseline_correct is not None:
            return self._evaluate_drop(sample, self.drop)
        good = sample.correct if self.at_least is not None else sample.agreed
        if good is None or _length(good) == 0:
            missing = "labels" if self.at_least is not None else "a baseline"
            ran = sample.n > 0 or _length(sample.agreed) > 0 or _length(sample.correct) > 0
            said = f"nothing was compared: the test evaluated no held-out set with {missing}"
            return self._verdict(Outcome.INCONCLUSIVE, sample, n=0, reason=said, decided=ran)
        values, trouble = _truths(good)
        if trouble is not None:
            return self._verdict(Outcome.INVALID, sample, n=_length(good), reason=f"not usable: {trouble}")
        return self._evaluate_rate(sample, values)

    # --- rates: agreement, correctness, and the drop without labels --------------------------------------

    def _evaluate_rate(self, sample: Sample, good: npt.NDArray[np.bool_]) -> Verdict:
        from pytest_edgehil.gates.stats.binomial import clopper_pearson, last_chance
        from pytest_edgehil.gates.stats.eprocess import rate_interval
        from pytest_edgehil.gates.stats.sequential import Decision, looks, walk

        size = sample.evaluated_of
        bad = ~(good if size is None else good[:size])
        at = looks(bad.shape[0], also=size)
        decision, look = walk(bad, p0=self._limit, alpha=self.alpha, at=at)
        n, s = (look.n, look.exceedances) if look is not None else (0, 0)
        figures = {} if look is None else {"log_e_pass": look.log_e_pass, "log_e_fail": look.log_e_fail}
        if decision is not Decision.OPEN:
            bounds = rate_interval(n, s, self.alpha)
            outcome = Outcome.PASS if decision is Decision.BELOW else Outcome.FAIL
            return self._rate_verdict(outcome, sample, n=n, s=s, bounds=bounds, figures=figures)
        n, s = bad.shape[0], int(bad.sum())
        if size is None or n < size:
            bounds = rate_interval(n, s, self.alpha)
            return self._rate_verdict(
                Outcome.INCONCLUSIVE, sample, n=n, s=s, bounds=bounds, figures=figures, decided=False
            )
        most, fewest = last_chance(size, self._limit, self.alpha, at=looks(size, also=size))
        bounds = clopper_pearson(n, s, self.alpha)
        outcome = Outcome.INCONCLUSIVE
        if s <= most:
            outcome = Outcome.PASS
        elif s >= fewest:
            outcome = Outcome.FAIL
        return self._rate_verdict(outcome, sample, n=n, s=s, bounds=bounds, figures=figures, whole=True)

    def _rate_verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        n: int,
        s: int,
        bounds: tuple[float, float],
        figures: dict[str, float],
        decided: bool = True,
        whole: bool = False,
    ) -> Verdict:
        if self.drop is not None and outcome is Outcome.FAIL:
            # Items that differ may have become right just as well as wrong.
            outcome, said = Outcome.INCONCLUSIVE, self._drop_needs_labels(n, s)
        else:
            said = self._rate_sentence(outcome, n=n, s=s, bounds=bounds, decided=decided, whole=whole)
            too_small = None if sample.evaluated_of is None else self.too_small(sample.evaluated_of)
            if outcome is Outcome.INCONCLUSIVE and too_small is not None:
                said = f"{said}; {too_small}"
        higher = self.drop is None
        observed = 1.0 - s / n if higher else s / n
        interval = (1.0 - bounds[1], 1.0 - bounds[0]) if higher else bounds
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        unseen: tuple[str, ...] = _UNSEEN
        if not higher:
            unseen = ("correctness: without labels the disagreement stands for the drop, which is no larger", *unseen)
        return self._verdict(
            outcome,
            sample,
            n=n,
            observed=observed,
            interval=interval,
            reason=said,
            decided=decided,
            figures={**figures, "exceptions": float(s)},
            unseen=unseen,
        )

    def _rate_sentence(
        self, outcome: Outcome, *, n: int, s: int, bounds: tuple[float, float], decided: bool, whole: bool
    ) -> str:
        verb = "is wrong on" if self.at_least is not None else "disagrees with the baseline on"
        of = f"all {n} items of the set" if whole else f"{n} items"
        counted = f"the model {verb} {s} of {of} ({_percent(s / n)})"
        limit, error = _percent(self._limit), f"error rate {_percent(self.alpha)}"
        if outcome is Outcome.PASS:
            return f"{counted}, which shows a rate of at most {limit} (upper bound {_percent(bounds[1])}; {error})"
        if outcome is Outcome.FAIL:
            return f"{counted}, where {limit} may be (at least {_percent(bounds[0])} are; {error})"
        waiting = "" if decided else " so far"
        return (
            f"{counted}{waiting}: the rate lies between {_percent(bounds[0])} and {_percent(bounds[1])}, "
            f"which does not tell whether it is at most {limit}"
        )

    def _drop_needs_labels(self, n: int, s: int) -> str:
        return (
            f"the model disagrees with the baseline on {s} of {n} items ({_percent(s / n)}), more than the allowed "
            f"drop of {_percent(self._limit)}; whether accuracy was lost or won there only labels can tell"
        )

    # --- the drop with labels -----------------------------------------------------------------------------

    def _evaluate_drop(self, sample: Sample, drop: float) -> Verdict:
        import numpy as np

        from pytest_edgehil.gates.stats import tango
        from pytest_edgehil.gates.stats.spending import boundaries

        assert sample.correct is not None
        assert sample.baseline_correct is not None
        right, trouble = _truths(sample.correct)
        baseline_right, baseline_trouble = _truths(sample.baseline_correct)
        if trouble is None:
            trouble = baseline_trouble
        if trouble is None and right.shape != baseline_right.shape:
            trouble = f"{right.shape[0]} items of the model stand against {baseline_right.shape[0]} of the baseline"
        if trouble is not None:
            return self._verdict(Outcome.INVALID, sample, n=right.shape[0], reason=f"not usable: {trouble}")
        size = right.shape[0] if sample.evaluated_of is None else sample.evaluated_of
        lost = np.cumsum(baseline_right & ~right)
        gained = np.cumsum(right & ~baseline_right)
        at = drop_looks(size)
        critical = boundaries([n / size for n in at], self.alpha) if at else ()
        n = min(right.shape[0], size)
        outcome, z, decided = Outcome.INCONCLUSIVE, math.inf, bool(at) and n >= size
        seen = 0
        for count, z in zip(at, critical, strict=True):
            if count > n:
                break
            seen += 1
            distance = tango.score(count, int(lost[count - 1]), int(gained[count - 1]), drop)
            if abs(distance) >= z:
                n, outcome, decided = count, Outcome.PASS if distance < 0 else Outcome.FAIL, True
                break
        if n == 0:
            return self._verdict(Outcome.INCONCLUSIVE, sample, n=0, reason="nothing was compared yet", decided=False)
        b, c = int(lost[n - 1]), int(gained[n - 1])
        observed = (b - c) / n
        low, high = tango.interval(n, b, c, z) if math.isfinite(z) else (-1.0, 1.0)
        counted = (
            f"of {n} items the model lost {b} that the baseline has right and gained {c}: "
            f"a drop of {_percent(observed)}"
        )
        bounds = f"between {_percent(low)} and {_percent(high)} at an error rate of {_percent(self.alpha)}"
        if outcome is Outcome.INCONCLUSIVE:
            said = f"{counted}, {bounds}, which does not tell whether it is at most {_percent(drop)}"
            if not at:
                said, decided = f"{counted}; at least {_FEWEST} items are needed, the set has {size}", n >= size
        else:
            said = f"{counted} where {_percent(drop)} may be lost ({bounds})"
        return self._verdict(
            outcome,
            sample,
            n=n,
            observed=observed,
            interval=(low, high),
            reason=said,
            decided=decided,
            figures={"lost": float(b), "gained": float(c), "looks": float(seen)},
            unseen=(*_UNSEEN, _ASYMPTOTIC),
        )

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
        figures: dict[str, float] | None = None,
        unseen: tuple[str, ...] = (),
    ) -> Verdict:
        budget = self.drop
        if budget is None:
            budget = self.agreement if self.agreement is not None else self.at_least
        size = {} if sample.evaluated_of is None else {"set_size": float(sample.evaluated_of)}
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=observed,
            budget=budget,
            interval=interval,
            unit="fraction",
            better="lower" if self.drop is not None else "higher",
            n=n,
            reason=f"{self._asks}: {reason}{validity.provenance(sample)}",
            decided=decided,
            not_checked=unseen,
            statistics={"alpha": self.alpha, **size, **(figures or {})},
        )


def declare(
    *,
    agreement: object = None,
    drop: object = None,
    at_least: object = None,
    baseline: object = None,
    alpha: object = None,
    settings: GateSettings,
) -> Accuracy:
    """The marker's signature.

    Raises:
        MarkerError: not exactly one question is asked, or a value is out of range.
    """
    asked = {"agreement": agreement, "drop": drop, "at_least": at_least}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} are given" if given else "none is given"
        raise MarkerError(f"exactly one of agreement, drop and at_least is needed; {said}")
    if baseline is not None and (not isinstance(baseline, str) or not baseline.strip()):
        raise MarkerError(f"baseline must be the name of an artifact, not {baseline!r}")
    if at_least is not None and baseline is not None:
        raise MarkerError("at_least compares with the labels and needs no baseline; remove one of them")
    rates = {name: None if value is None else arguments.fraction(name, value) for name, value in asked.items()}
    return Accuracy(alpha=arguments.alpha(alpha, settings.alpha), baseline=baseline, **rates)


def drop_looks(size: int) -> tuple[int, ...]:
    """Where the test with labels looks: every fifth of the set, from 30 items on, and the whole set.

    >>> drop_looks(500), drop_looks(40), drop_looks(20)
    ((100, 200, 300, 400, 500), (32, 40), ())
    """
    counts = (math.ceil(size * look / _LOOKS) for look in range(1, _LOOKS + 1))
    return tuple(count for count in counts if count >= _FEWEST)


def _length(values: npt.NDArray[np.bool_] | None) -> int:
    return 0 if values is None else int(values.shape[0])


def _truths(values: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], str | None]:
    """The items as booleans, or why they are none: a NaN is neither right nor wrong."""
    import numpy as np

    raw = np.asarray(values)
    if raw.dtype == np.bool_:
        return raw, None
    known = np.isin(raw, (0, 1))
    trouble = None if known.all() else f"{int((~known).sum())} of {raw.shape[0]} items are neither right nor wrong"
    return known & (raw == 1), trouble


def _percent(share: float) -> str:
    """A share in percent with what is significant of it.

    >>> _percent(0.02), _percent(0.0175327), _percent(-0.0035)
    ('2%', '1.75%', '-0.35%')
    """
    from pytest_edgehil.model.quantity import format_number

    return f"{format_number(100.0 * round(share, 6))}%"
