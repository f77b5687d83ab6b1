"""`cosine_similarity`: do the outputs point the same way as the baseline's?

``cosine_similarity(0.99, share=0.95)``: on at least 95 % of the items the cosine similarity of the first output to the
baseline's, over all its elements, must be at least 0.99; exactly 0.99 is enough. An output that has no direction
(zero, not a number) is as far off as can be. Finer than agreement, which sees only the class, and the same for outputs
that are no classes at all (embeddings, detections). Needs no labels.

The null hypothesis is one on a rate, P(cosine < 0.99) ≥ 0.05, decided as `share` says. The verdict's observed value
is the cosine that the stated share of the items reaches, its interval that quantile's: the same cut of the sample
that decides, so that the lower bound reaches the budget exactly where the verdict is PASS.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.gates import arguments, outlook, share, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.share import Share, percent
from pytest_edgehil.model.quantity import format_number
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Float64Array

_ROUNDING = 1e-6
"""A cosine of float32 outputs may exceed 1 by less than this."""
_UNSEEN = (
    share.UNSEEN[0],
    "length of the outputs: the cosine sees their direction only",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineSimilarity:
    """The marker's arguments.

    Args:
        least: cosine similarity that is good enough.
        share: least share of items that must reach it.
        alpha: error rate of each side.
        baseline: name of the artifact to compare with, or None for the one that the test passes.
    """

    least: float
    share: float
    alpha: float
    baseline: str | None = None
    name: ClassVar[str] = "cosine_similarity"
    needs_baseline: ClassVar[bool] = True

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    @property
    def _limit(self) -> float:
        return round(1.0 - self.share, 12)

    def too_small(self, items: int, **_: object) -> str | None:
        """Why a held-out set of so many items can never lead to a PASS; None when it can.

        >>> CosineSimilarity(least=0.99, share=0.95, alpha=0.05).too_small(40)
        '59 items are needed to certify a cosine of at least 0.99 on 95% of them at an error rate of 5%; the set has 40'
        """
        needed = share.items_needed(self._limit, self.alpha)
        if items >= needed:
            return None
        return (
            f"{needed} items are needed to certify a cosine of at least {_cosine(self.least)} on {percent(self.share)} "
            f"of them at an error rate of {percent(self.alpha)}; the set has {items}"
        )

    def demand(self, sample: Sample) -> Demand | None:
        """Items up to the next look, or to the end of the set."""
        if self.evaluate(sample).decided:
            return None
        return share.demand(share.length(sample.cosines), sample.evaluated_of)

    def evaluate(self, sample: Sample) -> Verdict:
        """Decide at the first look that allows it; see ``docs/explanation/statistics.md``."""
        if sample.cosines is None or share.length(sample.cosines) == 0:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                n=0,
                reason="nothing was compared: the test evaluated no held-out set with a baseline",
                decided=share.ran(sample),
                would_change="calling dut.evaluate with a held-out set and a baseline",
            )
        import numpy as np

        given = np.asarray(sample.cosines, dtype=np.float64)
        beyond = int((np.isfinite(given) & (given > 1.0 + _ROUNDING)).sum())
        if beyond:
            return self._verdict(
                Outcome.INVALID,
                sample,
                n=share.length(sample.cosines),
                reason=f"not usable: {beyond} cosines lie beyond 1",
                decided=True,
                would_change=outlook.AGAIN,
            )
        # what is no number is no cosine: as far off as can be
        values = np.nan_to_num(given, nan=-1.0, posinf=-1.0, neginf=-1.0)
        found = share.judge(values < self.least, limit=self._limit, alpha=self.alpha, size=sample.evaluated_of)
        said = share.sentence(
            found, alpha=self.alpha, limit=self._limit, verb=f"has a cosine below {_cosine(self.least)} on"
        )
        too_small = None if sample.evaluated_of is None else self.too_small(sample.evaluated_of)
        if found.outcome is Outcome.INCONCLUSIVE and too_small is not None:
            said = f"{said}; {too_small}"
        observed, interval = self._quantile(values[: found.n], found)
        return self._verdict(
            found.outcome,
            sample,
            n=found.n,
            reason=said,
            decided=found.decided,
            observed=observed,
            interval=interval,
            figures={
                **found.figures,
                "lowest_cosine": float(values[: found.n].min()),
                "no_direction": float((~np.isfinite(sample.cosines[: found.n])).sum()),
            },
            unseen=_UNSEEN,
            would_change=share.would_change(
                found,
                limit=self._limit,
                alpha=self.alpha,
                what=f"items below {_cosine(self.least)}",
                size=sample.evaluated_of,
            ),
        )

    def _quantile(self, values: Float64Array, found: Share) -> tuple[float, tuple[float, float]]:
        """The cosine that `share` of the items reach, and its bounds: those that the counts of `found` do not exclude.

        A limit up to the (most + 1)-th smallest value has at most `most` items below it, so it would have passed; one
        beyond the fewest-th smallest has at least `fewest` below it, so it would have failed.
        """
        import numpy as np

        ordered = np.sort(values)
        n = ordered.shape[0]
        observed = float(ordered[min(int(self._limit * n + 1e-9), n - 1)])
        low = float(ordered[min(found.most, n - 1)]) if found.most >= 0 else -1.0
        high = float(ordered[found.fewest - 1]) if 1 <= found.fewest <= n else 1.0
        return observed, (low, high)

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        n: int,
        reason: str,
        would_change: str,
        decided: bool,
        observed: float | None = None,
        interval: tuple[float, float] | None = None,
        figures: dict[str, float] | None = None,
        unseen: tuple[str, ...] = (),
    ) -> Verdict:
        size = {} if sample.evaluated_of is None else {"set_size": float(sample.evaluated_of)}
        if sample.order_seed is not None:
            size["order_seed"] = float(sample.order_seed)
        asks = f"cosine to the baseline of at least {_cosine(self.least)} on {percent(self.share)} of the items"
        return Verdict(
            gate=self.name,
            outcome=outcome,
            observed=observed,
            budget=self.least,
            interval=interval,
            unit="",
            better="higher",
            n=n,
            reason=f"{asks}: {reason}{validity.provenance(sample)}",
            decided=decided,
            not_checked=unseen,
            statistics={"alpha": self.alpha, **size, **(figures or {})},
            would_change=would_change,
        )


def declare(
    least: object, *, share: object = 0.95, baseline: object = None, alpha: object = None, settings: GateSettings
) -> CosineSimilarity:
    """The marker's signature.

    Raises:
        MarkerError: a value is out of range.
    """
    return CosineSimilarity(
        least=arguments.fraction("least", least, low=-1.0),
        share=arguments.fraction("share", share),
        alpha=arguments.alpha(alpha, settings.alpha),
        baseline=arguments.artifact("baseline", baseline),
    )


def _cosine(value: float) -> str:
    return format_number(value, digits=6)
