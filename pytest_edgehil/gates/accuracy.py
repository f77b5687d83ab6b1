"""`accuracy`: does the model agree with its baseline, is it right often enough, does it lose no more than allowed?

Three questions, one marker:

- ``agreement=0.98``: the share of items on which the output's class equals the baseline's. Needs no labels.
- ``at_least=0.95``: the share of items that are right.
- ``drop=0.01``: how much accuracy is lost against the baseline. With labels by Tango's paired score test at up to five
  looks (`accuracy_drop`); without labels by the disagreement, which the drop cannot exceed. Disagreement alone can
  never show that accuracy was lost, so that form never fails.

Agreement and correctness are shares of items; how they are decided says `share`. What outputs are beyond their class is
the matter of `cosine` and, for language models, `tokens`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import accuracy_drop, arguments, outlook, share, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.share import percent
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import BoolArray


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

    @property
    def _exceptions(self) -> str:
        return "wrong answers" if self.at_least is not None else "disagreements"

    def too_small(self, items: int, *, labelled: bool = False, gained: int = 0) -> str | None:
        """Why a held-out set of so many items can never lead to a PASS; None when it can.

        Args:
            items: in the set.
            labelled: the set has labels, so that a drop is tested with them.
            gained: with labels: how many items the baseline has wrong, which the model could have right at best.

        >>> Accuracy(alpha=0.05, agreement=0.99).too_small(120)
        '299 items are needed to certify an agreement with the baseline of 99% at an error rate of 5%; the set has 120'
        """
        at_error = f"at an error rate of {percent(self.alpha)}; the set has {items}"
        if self.drop is not None and labelled:
            if accuracy_drop.can_pass(items, gained, drop=self.drop, alpha=self.alpha):
                return None
            needed = accuracy_drop.items_needed(drop=self.drop, alpha=self.alpha)
            return f"{needed} items are needed to certify a drop in accuracy of at most {percent(self.drop)} {at_error}"
        needed = share.items_needed(self._limit, self.alpha)
        if items >= needed:
            return None
        if self.drop is not None:
            what = f"a drop in accuracy of at most {percent(self.drop)} without labels"
        else:
            what = f"an {self._asks} of {percent(1.0 - self._limit)}"
        return f"{needed} items are needed to certify {what} {at_error}"

    def demand(self, sample: Sample) -> Demand | None:
        """Items up to the next look, or to the end of the set."""
        if self.evaluate(sample).decided:
            return None
        seen, size = max(share.length(sample.agreed), share.length(sample.correct)), sample.evaluated_of
        if size is not None and self.drop is not None and sample.baseline_correct is not None:
            wanted = next((count for count in accuracy_drop.looks(size) if count > seen), size) - seen
            return Demand(evaluations=wanted) if wanted > 0 else None
        return share.demand(seen, size)

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; see ``docs/explanation/statistics.md``."""
        if self.drop is not None and sample.correct is not None and sample.baseline_correct is not None:
            return self._evaluate_drop(sample, self.drop, sample.correct, sample.baseline_correct)
        good = sample.correct if self.at_least is not None else sample.agreed
        if good is None or share.length(good) == 0:
            missing = "labels" if self.at_least is not None else "a baseline"
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                n=0,
                reason=f"nothing was compared: the test evaluated no held-out set with {missing}",
                decided=share.ran(sample),
                would_change=f"calling dut.evaluate with a held-out set and {missing}",
            )
        values, trouble = share.truths(good)
        if trouble is not None:
            return self._invalid(sample, share.length(good), trouble)
        return self._evaluate_share(sample, values)

    # --- shares: agreement, correctness, and the drop without labels -------------------------------------

    def _evaluate_share(self, sample: Sample, good: BoolArray) -> Verdict:
        found = share.judge(~good, limit=self._limit, alpha=self.alpha, size=sample.evaluated_of)
        outcome, bounds = found.outcome, found.bounds
        change = share.would_change(
            found, limit=self._limit, alpha=self.alpha, what=self._exceptions, size=sample.evaluated_of
        )
        if self.drop is not None and outcome is Outcome.FAIL:
            # Items that differ may have become right just as well as wrong.
            outcome = Outcome.INCONCLUSIVE
            said, change = self._drop_needs_labels(found.n, found.exceptions), "labels in the held-out set"
        else:
            verb = "is wrong on" if self.at_least is not None else "disagrees with the baseline on"
            said = share.sentence(found, alpha=self.alpha, limit=self._limit, verb=verb)
            too_small = None if sample.evaluated_of is None else self.too_small(sample.evaluated_of)
            if outcome is Outcome.INCONCLUSIVE and too_small is not None:
                said = f"{said}; {too_small}"
        higher = self.drop is None
        rate = found.exceptions / found.n
        unseen: tuple[str, ...] = share.UNSEEN
        if not higher:
            unseen = ("correctness: without labels the disagreement stands for the drop, which is no larger", *unseen)
        return self._verdict(
            outcome,
            sample,
            n=found.n,
            observed=1.0 - rate if higher else rate,
            interval=(1.0 - bounds[1], 1.0 - bounds[0]) if higher else bounds,
            reason=said,
            decided=found.decided,
            figures=found.figures,
            unseen=unseen,
            would_change=change,
        )

    def _drop_needs_labels(self, n: int, s: int) -> str:
        return (
            f"the model disagrees with the baseline on {s} of {n} items ({percent(s / n)}), more than the allowed "
            f"drop of {percent(self._limit)}; whether accuracy was lost or won there only labels can tell"
        )

    # --- the drop with labels -----------------------------------------------------------------------------

    def _evaluate_drop(self, sample: Sample, drop: float, correct: BoolArray, baseline_correct: BoolArray) -> Verdict:
        right, trouble = share.truths(correct)
        baseline_right, baseline_trouble = share.truths(baseline_correct)
        if trouble is None:
            trouble = baseline_trouble
        if trouble is None and right.shape != baseline_right.shape:
            trouble = f"{right.shape[0]} items of the model stand against {baseline_right.shape[0]} of the baseline"
        if trouble is not None:
            return self._invalid(sample, right.shape[0], trouble)
        size = right.shape[0] if sample.evaluated_of is None else sample.evaluated_of
        if min(size, right.shape[0]) == 0:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                n=0,
                reason="nothing was compared yet",
                decided=False,
                would_change="items of a held-out set with labels",
            )
        found = accuracy_drop.judge(right, baseline_right, drop=drop, alpha=self.alpha, size=size)
        return self._verdict(
            found.outcome,
            sample,
            n=found.n,
            observed=(found.lost - found.gained) / found.n,
            interval=found.bounds,
            reason=found.reason,
            decided=found.decided,
            figures={"lost": float(found.lost), "gained": float(found.gained), "looks": float(found.looks)},
            unseen=accuracy_drop.SEES_NOT,
            would_change=found.would_change,
        )

    def _invalid(self, sample: Sample, n: int, trouble: str) -> Verdict:
        reason = f"not usable: {trouble}"
        return self._verdict(Outcome.INVALID, sample, n=n, reason=reason, would_change=outlook.AGAIN)

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        n: int,
        reason: str,
        would_change: str,
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
        if sample.order_seed is not None:
            size["order_seed"] = float(sample.order_seed)
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
            would_change=would_change,
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
    named = arguments.artifact("baseline", baseline)
    if at_least is not None and named is not None:
        raise MarkerError("at_least compares with the labels and needs no baseline; remove one of them")
    rates = {name: None if value is None else arguments.fraction(name, value) for name, value in asked.items()}
    return Accuracy(alpha=arguments.alpha(alpha, settings.alpha), baseline=named, **rates)
