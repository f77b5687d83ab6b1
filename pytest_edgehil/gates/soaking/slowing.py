"""Does the model get slower over the soak?

The trend of the latency over the soak, as a ratio between its end and its beginning, against a budget; see
`stats.drift` for the method. That it got slower by more is called at looks from 5/12 of the duration on; that it did
not is shown from half of it on, or at the end alone (``full=True``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_edgehil.gates.soaking.statement import Statement
from pytest_edgehil.model.quantity import format_number
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Outcome

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Float64Array

QUANTILES = {"median": 0.5, "p95": 0.95}


def drift(
    sample: Sample, budget: float, *, of: str, duration_s: float, alpha: float, ended: bool, early: bool
) -> Statement:
    """The statement "the latency at the end exceeds that at the beginning by at most so much".

    Args:
        sample: what was measured.
        budget: allowed growth, such as 0.1.
        of: ``median`` or ``p95`` of the latencies of a minute.
        duration_s: of the whole soak; the error is spread over it.
        alpha: error rate of either side.
        ended: the soak's duration is over.
        early: may it be shown before the end?
    """
    import numpy as np

    from pytest_edgehil.gates.stats import drift as fit

    figures: dict[str, Any] = {"unit": "fraction", "budget": budget}
    latencies = np.asarray(sample.latencies_ns, dtype=np.float64)
    if not np.all(np.isfinite(latencies)) or (latencies.size and float(latencies.min()) <= 0.0):
        said = "not usable: a latency is no positive number"
        return Statement(outcome=Outcome.INVALID, said=said, would_change="a measurement without it", **figures)
    since = started_s(sample)
    found = fit.look(
        since,
        latencies,
        budget=budget,
        duration_s=duration_s,
        alpha=alpha,
        quantile=QUANTILES[of],
        early_pass=early,
        ended=ended,
    )
    if found is None:
        said = f"a drift of the {of} cannot be told yet"
        if ended:
            said = (
                f"a drift of the {of} cannot be told: fewer than {fit.FEWEST_BLOCKS} stretches of "
                f"{fit.block_s(duration_s):.0f} s have {fit.fewest_inferences(QUANTILES[of])} inferences, or none of "
                "them differs from another"
            )
        return Statement(outcome=Outcome.INCONCLUSIVE, said=said, would_change="a longer soak", **figures)
    figures |= {"observed": found.estimate, "interval": (found.low, found.high)}
    slows = (
        f"the {of} changes by {_percent(found.estimate)} over the soak (between {_percent(found.low)} and "
        f"{_percent(found.high)}, at minute {found.at_s / 60:.0f}, error rate {format_number(100 * alpha)}%)"
    )
    allowed = f"{format_number(100 * budget)}%"
    if found.decision == "above":
        change = f"a drift budget of more than {format_number(100 * found.low)}%"
        return Statement(outcome=Outcome.FAIL, said=f"{slows}, more than {allowed}", would_change=change, **figures)
    if found.decision == "below":
        change = f"a drift budget of less than {format_number(100 * max(found.high, 0.0))}%"
        return Statement(
            outcome=Outcome.PASS, said=f"{slows}, at most {allowed}", shown=True, would_change=change, **figures
        )
    end = f", which does not tell whether it is at most {allowed}" if ended else " so far"
    change = f"a longer soak, or a drift budget of {format_number(100 * max(found.high, 0.0))}% or more"
    return Statement(outcome=Outcome.INCONCLUSIVE, said=f"{slows}{end}", would_change=change, **figures)


def started_s(sample: Sample) -> Float64Array:
    """Shape (n,): seconds from the first inference to the start of each."""
    import numpy as np

    starts = np.asarray(sample.starts_ns, dtype=np.float64) / 1e9
    # a process that was started again may count from 0 again (a recording does)
    return np.concatenate(([0.0], np.cumsum(np.maximum(np.diff(starts), 0.0)))) if starts.size else starts


def _percent(ratio: float) -> str:
    return f"{'+' if ratio >= 0 else ''}{format_number(100 * ratio)}%"
