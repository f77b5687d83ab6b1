"""`token_kl` and `perplexity_ratio`: does a language model still say what its baseline says, token by token?

- ``token_kl("0.02 nats")``: the mean Kullback-Leibler divergence KL(baseline ‖ model) of the next token's distribution.
  0 is the same distribution; it sees changes among tokens that are not the most likely one as well.
- ``perplexity_ratio(1.02)``: the model's perplexity on the prompts, divided by the baseline's: exp of the mean
  difference of the negative log-likelihoods of the true next token. Below 1 the model is the better one.

Both are means over all tokens, with one-sided bounds by a bootstrap-t that draws whole prompts
(`stats.cluster_bootstrap`): tokens of one prompt resemble each other, and bounds that take them as independent cover
about 70 % instead of the stated 95 %. PASS when the upper bound is within the budget, FAIL when the lower one is
beyond it, INCONCLUSIVE between. One look, after all prompts: nothing is peeked at, and nothing more is measured.

The bounds cover what they should (.94-.95 at a stated .95) from about 100 prompts on, unless a few prompts
dominate the mean; with fewer the verdict says so, and with fewer than 20 there is none. The seed and the number of
resamples are among the gate's recorded arguments, so that anybody computes the very same bounds from the stored
scores. They are no arguments of the marker: who could choose a seed, could choose the verdict at the boundary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates import arguments, outlook, validity
from pytest_edgehil.gates.gate import GateSettings
from pytest_edgehil.gates.share import percent
from pytest_edgehil.model.quantity import format_number, quoted
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.cluster_bootstrap import ClusterMean
    from pytest_edgehil.model.arrays import Float64Array
    from pytest_edgehil.model.series import TokenScores

FEWEST_PROMPTS = 20
"""With fewer the bounds are no bounds."""
ENOUGH_PROMPTS = 100
"""From here on the bounds err as often as stated."""
SEED = 20261121
RESAMPLES = 4999
_UNSEEN = (
    "independence: the prompts are taken as drawn at random from what the model will meet",
    "generation: every token is scored after the true text before it, not after what the model wrote itself",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the scores say, in the verdict's unit.

    Args:
        outcome: PASS, FAIL or INCONCLUSIVE.
        observed, low, high: the mean and its bounds.
        mean: with its standard error and its counts, in nats.
    """

    outcome: Outcome
    observed: float
    low: float
    high: float
    mean: ClusterMean


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measure:
    """Which scores are averaged, and what their mean means.

    Args:
        gate: name of the gate.
        unit: of the verdict.
        asks: what is asked, for people.
        values: shape (t,): what is averaged, in nats.
        written: from a mean to the verdict's unit; grows.
        suffix: of a value in that unit, for people.
        impossible: why scores that are numbers cannot be what they are said to be; None when they can.
    """

    gate: str
    unit: str
    asks: str
    values: Callable[[TokenScores], Float64Array]
    written: Callable[[float], float]
    suffix: str
    impossible: Callable[[TokenScores], str | None]

    def told(self, value: float, *, up: bool | None = None) -> str:
        """A value in the verdict's unit, for people; `up` or down to a number that does not read as less or more."""
        text = format_number(value, digits=4)
        for nudge in range(1, 8) if up is not None else ():
            if (float(text) >= value) if up else (float(text) <= value):
                break
            text = format_number(value + (1 if up else -1) * nudge * 2.5e-4 * abs(value), digits=4)
        return f"{text}{self.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judging:
    """A measure against a budget: what both gates do.

    Args:
        measure: which scores.
        budget: in the verdict's unit.
        alpha: error rate of each bound.
        seed: of the drawing of prompts.
        resamples: how often they are drawn.
    """

    measure: _Measure
    budget: float
    alpha: float
    seed: int
    resamples: int

    def evaluate(self, sample: Sample) -> Verdict:
        """Judge all scores at once; see the module's docstring."""
        import numpy as np

        scores = sample.token_scores
        if scores is None or scores.prompt.shape[0] == 0:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                reason="nothing was compared: the test scored no tokens",
                would_change="calling dut.score_tokens with prompts and a baseline",
            )
        trouble = self._trouble(scores)
        if trouble is not None:
            return self._verdict(
                Outcome.INVALID, sample, reason=f"not usable: {trouble}", would_change=outlook.AGAIN,
                n=scores.prompt.shape[0],
            )  # fmt: skip
        # the baseline is sound, so what is no number is the model's doing, and no mean could be worse
        broken = int((~(np.isfinite(scores.kl) & np.isfinite(scores.nll))).sum())
        if broken:
            return self._verdict(
                Outcome.FAIL,
                sample,
                n=scores.prompt.shape[0],
                reason=f"the model gives {broken} of {scores.prompt.shape[0]} tokens no finite likelihood",
                would_change="finite logits: no number of further prompts makes up for these",
                figures={"not_finite": float(broken)},
            )
        prompts = int(np.unique(scores.prompt).shape[0])
        if prompts < FEWEST_PROMPTS:
            return self._verdict(
                Outcome.INCONCLUSIVE,
                sample,
                n=scores.prompt.shape[0],
                reason=too_small(self.measure, prompts) or "",
                would_change=f"at least {FEWEST_PROMPTS - prompts} more prompts",
                figures={"prompts": float(prompts)},
            )
        return self._judged(sample, self._found(scores))

    def _trouble(self, scores: TokenScores) -> str | None:
        import numpy as np

        lengths = {one.shape[0] for one in (scores.prompt, scores.kl, scores.nll, scores.baseline_nll)}
        if len(lengths) != 1:
            return f"series of different lengths: {sorted(lengths)}"
        broken = int((~np.isfinite(scores.baseline_nll)).sum())
        if broken:
            return f"the baseline gives {broken} of {scores.prompt.shape[0]} tokens no finite likelihood"
        return self.measure.impossible(scores)

    def _found(self, scores: TokenScores) -> _Found:
        import numpy as np

        from pytest_edgehil.gates.stats.cluster_bootstrap import cluster_mean

        mean = cluster_mean(
            self.measure.values(scores),
            scores.prompt,
            self.alpha,
            rng=np.random.default_rng(self.seed),
            resamples=self.resamples,
        )
        low, high = self.measure.written(mean.low), self.measure.written(mean.high)
        outcome = Outcome.INCONCLUSIVE
        if mean.standard_error == 0.0 and mean.mean != 0.0:
            pass  # every prompt gave the very same: not what a measurement looks like
        elif high <= self.budget:
            outcome = Outcome.PASS
        elif low > self.budget:
            outcome = Outcome.FAIL
        return _Found(outcome=outcome, observed=self.measure.written(mean.mean), low=low, high=high, mean=mean)

    def _judged(self, sample: Sample, found: _Found) -> Verdict:
        mean, budget = found.mean, self.measure.told(self.budget)
        over = f"{self.measure.told(found.observed)} over {mean.tokens} tokens of {mean.prompts} prompts"
        error = f"error rate {percent(self.alpha)}"
        unseen: tuple[str, ...] = _UNSEEN
        if mean.prompts < ENOUGH_PROMPTS:
            few = f"{mean.prompts} prompts are fewer than {ENOUGH_PROMPTS}, so the bounds err more often than stated"
            unseen = (f"the stated error rate: {few}", *unseen)
        if found.outcome is Outcome.PASS:
            reason = f"{over}, at most {self.measure.told(found.high)} ({error}), where {budget} may be"
            change = f"a budget below {self.measure.told(found.high, up=False)} would not have passed"
        elif found.outcome is Outcome.FAIL:
            reason = f"{over}, at least {self.measure.told(found.low)} ({error}), where {budget} may be"
            enough = self.measure.told(found.high, up=True)
            change = f"a better model, or a budget of at least {enough}, which these prompts would have passed"
        elif mean.standard_error == 0.0:
            reason = f"{over}, the very same in every prompt, so that its spread cannot be told"
            change = "prompts that differ"
        else:
            reason = (
                f"{over}, between {self.measure.told(found.low)} and {self.measure.told(found.high)} ({error} a side), "
                f"which does not tell whether it is at most {budget}"
            )
            enough = self.measure.told(found.high, up=True)
            change = f"a budget of at least {enough}, or more prompts{self._projected(found)}"
        if mean.standard_error == 0.0 and mean.mean == 0.0:
            reason = f"{over}: the two models say the same of every token"
            change = "another model, or prompts on which the two differ"
        return self._verdict(
            found.outcome,
            sample,
            n=mean.tokens,
            reason=reason,
            would_change=change,
            observed=found.observed,
            interval=(found.low, found.high),
            figures={
                "prompts": float(mean.prompts),
                "standard_error_nats": mean.standard_error,
                **({} if math.isnan(mean.design_effect) else {"design_effect": mean.design_effect}),
                "bootstrap_seed": float(self.seed),
            },
            unseen=unseen,
        )

    def _projected(self, found: _Found) -> str:
        """How many prompts would decide if the mean stayed what it is: bounds shrink with the root of their number."""
        gap = abs(found.observed - self.budget)
        width = (found.high if found.observed < self.budget else found.low) - found.observed
        if gap == 0.0:
            return ""
        needed = math.ceil(found.mean.prompts * (width / gap) ** 2)
        if needed > 1_000_000:
            return ""
        return f": about {needed} in all, if the true value is the observed one (a projection, no promise)"

    def _verdict(
        self,
        outcome: Outcome,
        sample: Sample,
        *,
        reason: str,
        would_change: str,
        n: int = 0,
        observed: float | None = None,
        interval: tuple[float, float] | None = None,
        figures: dict[str, float] | None = None,
        unseen: tuple[str, ...] = (),
    ) -> Verdict:
        return Verdict(
            gate=self.measure.gate,
            outcome=outcome,
            observed=observed,
            budget=self.budget,
            interval=interval,
            unit=self.measure.unit,
            better="lower",
            n=n,
            reason=f"{self.measure.asks}: {reason}{validity.provenance(sample)}",
            not_checked=unseen,
            statistics={"alpha": self.alpha, **(figures or {})},
            would_change=would_change,
        )


def too_small(measure: _Measure, prompts: int) -> str | None:
    """Why so many prompts can never lead to a PASS; None when they can."""
    if prompts >= FEWEST_PROMPTS:
        return None
    better = f"{FEWEST_PROMPTS} prompts are needed at least, better {ENOUGH_PROMPTS}"
    return f"{better}, to certify a {measure.asks}; the set has {prompts}"


def _negative_kl(scores: TokenScores) -> str | None:
    negative = int((scores.kl < 0.0).sum())
    return f"{negative} tokens have a negative divergence, which there is not" if negative else None


def _beyond_certain(scores: TokenScores) -> str | None:
    negative = int(((scores.nll < -1e-9) | (scores.baseline_nll < -1e-9)).sum())
    return f"{negative} tokens are said to be more likely than certain" if negative else None


_KL = _Measure(
    gate="token_kl",
    unit="nats",
    asks="divergence from the baseline per token",
    values=lambda scores: scores.kl,
    written=lambda mean: mean,
    suffix=" nats",
    impossible=_negative_kl,
)
_PERPLEXITY = _Measure(
    gate="perplexity_ratio",
    unit="ratio",
    asks="perplexity as a multiple of the baseline's",
    values=lambda scores: scores.nll - scores.baseline_nll,
    written=lambda mean: math.exp(min(mean, 700.0)),  # beyond, a float has no room for it
    suffix="",
    impossible=_beyond_certain,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKl:
    """The marker's arguments.

    Args:
        budget_nats: largest mean divergence per token.
        alpha: error rate of each bound.
        baseline: name of the artifact to compare with, or None for the one that the test passes.
        bootstrap_seed: of the drawing of prompts.
        resamples: how often they are drawn.
    """

    budget_nats: float
    alpha: float
    baseline: str | None = None
    bootstrap_seed: int = SEED
    resamples: int = RESAMPLES
    name: ClassVar[str] = "token_kl"
    needs_baseline: ClassVar[bool] = True

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def too_small(self, items: int, **_: object) -> str | None:
        """Why so many prompts can never lead to a PASS; None when they can."""
        return too_small(_KL, items)

    def demand(self, sample: Sample) -> Demand | None:  # noqa: ARG002 - every prompt of the test has been scored
        """Nothing: there is one look, at all prompts."""
        return None

    def evaluate(self, sample: Sample) -> Verdict:
        """Judge all scores at once; see the module's docstring."""
        return _Judging(
            measure=_KL,
            budget=self.budget_nats,
            alpha=self.alpha,
            seed=self.bootstrap_seed,
            resamples=self.resamples,
        ).evaluate(sample)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityRatio:
    """The marker's arguments.

    Args:
        ratio: largest perplexity of the model, as a multiple of the baseline's.
        alpha, baseline, bootstrap_seed, resamples: see `TokenKl`.
    """

    ratio: float
    alpha: float
    baseline: str | None = None
    bootstrap_seed: int = SEED
    resamples: int = RESAMPLES
    name: ClassVar[str] = "perplexity_ratio"
    needs_baseline: ClassVar[bool] = True

    def arguments(self) -> dict[str, Any]:
        """See `Gate.arguments`."""
        return dataclasses.asdict(self)

    def too_small(self, items: int, **_: object) -> str | None:
        """Why so many prompts can never lead to a PASS; None when they can."""
        return too_small(_PERPLEXITY, items)

    def demand(self, sample: Sample) -> Demand | None:  # noqa: ARG002 - every prompt of the test has been scored
        """Nothing: there is one look, at all prompts."""
        return None

    def evaluate(self, sample: Sample) -> Verdict:
        """Judge all scores at once; see the module's docstring."""
        return _Judging(
            measure=_PERPLEXITY,
            budget=self.ratio,
            alpha=self.alpha,
            seed=self.bootstrap_seed,
            resamples=self.resamples,
        ).evaluate(sample)


def declare_kl(budget: object, *, baseline: object = None, alpha: object = None, settings: GateSettings) -> TokenKl:
    """The signature of ``token_kl``.

    Raises:
        MarkerError: the budget is no positive number of nats.
    """
    text, value = budget, budget
    if isinstance(text, str):
        number, _, unit = text.strip().partition(" ")
        try:
            value = float(number)
        except ValueError:
            value = None
        if value is None or unit.strip() not in {"nats", "nat"}:
            raise MarkerError(f"budget must be a number of nats such as '0.02 nats', not {quoted(text)}")
    return TokenKl(
        budget_nats=arguments.positive_number("budget", value),
        alpha=arguments.alpha(alpha, settings.alpha),
        baseline=arguments.artifact("baseline", baseline),
    )


def declare_perplexity(
    ratio: object, *, baseline: object = None, alpha: object = None, settings: GateSettings
) -> PerplexityRatio:
    """The signature of ``perplexity_ratio``.

    Raises:
        MarkerError: the ratio is no positive number.
    """
    return PerplexityRatio(
        ratio=arguments.positive_number("ratio", ratio),
        alpha=arguments.alpha(alpha, settings.alpha),
        baseline=arguments.artifact("baseline", baseline),
    )
