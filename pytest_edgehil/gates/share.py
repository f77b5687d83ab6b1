"""Is the share of items of a held-out set for which something is true large enough? What agreement, correctness and
cosine similarity have in common.

The exceptions are counted in the drawn, recorded order of the items, by the e-process of `stats.eprocess` at its
looks; when the whole set is used up, one exact test gets the error that was not spent (`stats.binomial.last_chance`).
Items are taken as drawn independently from what the model will meet; a second pass over the same items is no further
evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_edgehil.model.quantity import format_count, format_number
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Demand, Outcome

if TYPE_CHECKING:
    from pytest_edgehil.gates.stats.projection import Projection
    from pytest_edgehil.model.arrays import BoolArray

UNSEEN = (
    "independence: the items are taken as drawn at random from what the model will meet",
    "size of an error: an output counts as right or wrong, however wrong",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What is known of the exceptions among the items.

    Args:
        outcome: PASS, FAIL or INCONCLUSIVE.
        n: items that went into it.
        exceptions: how many of them are exceptions.
        bounds: of the rate of exceptions.
        most, fewest: with at most so many exceptions among these items it would have been a PASS, with at least so
            many a FAIL.
        looks: how often was looked so far.
        evidence: of the e-process at its last look: ``log_e_pass`` and ``log_e_fail``.
        decided: may more items still change it?
        whole: did the test of the whole set decide?
    """

    outcome: Outcome
    n: int
    exceptions: int
    bounds: tuple[float, float]
    most: int
    fewest: int
    looks: int
    evidence: dict[str, float]
    decided: bool
    whole: bool

    @property
    def figures(self) -> dict[str, float]:
        """For `Verdict.statistics`."""
        finite = {name: value for name, value in self.evidence.items() if math.isfinite(value)}
        return {**finite, "exceptions": float(self.exceptions), "looks": float(self.looks)}


def judge(exceptions: BoolArray, *, limit: float, alpha: float, size: int | None) -> Share:
    """Are at most a share of `limit` of all items exceptions?

    Args:
        exceptions: shape (m,), m ≥ 1, in the order in which the items were taken; items beyond `size` are ignored.
        limit: share of exceptions that is allowed.
        alpha: error rate of each side.
        size: items in the whole set, or None when nobody knows.
    """
    from pytest_edgehil.gates.stats.binomial import last_chance, whole_set_bounds
    from pytest_edgehil.gates.stats.eprocess import fewest_exceedances_to_fail, most_exceedances_to_pass, rate_interval
    from pytest_edgehil.gates.stats.sequential import Decision, looks, walk

    bad = exceptions if size is None else exceptions[:size]
    decision, look = walk(bad, p0=limit, alpha=alpha, at=looks(bad.shape[0], also=size))
    evidence = {} if look is None else {"log_e_pass": look.log_e_pass, "log_e_fail": look.log_e_fail}
    number = 0 if look is None else look.number
    if decision is not Decision.OPEN and look is not None:
        n, s = look.n, look.exceedances
        outcome = Outcome.PASS if decision is Decision.BELOW else Outcome.FAIL
    else:
        n, s, outcome = bad.shape[0], int(bad.sum()), Outcome.INCONCLUSIVE
    if outcome is Outcome.INCONCLUSIVE and size is not None and n >= size:
        at = looks(size, also=size)
        most, fewest = last_chance(size, limit, alpha, at=at)
        if s <= most:
            outcome = Outcome.PASS
        elif s >= fewest:
            outcome = Outcome.FAIL
        bounds, decided, whole = whole_set_bounds(size, s, alpha, at=at), True, True
    else:
        most = most_exceedances_to_pass(n, limit, alpha)
        fewest = fewest_exceedances_to_fail(n, limit, alpha)
        bounds, whole = rate_interval(n, s, alpha), False
        decided = outcome is not Outcome.INCONCLUSIVE
    return Share(
        outcome=outcome,
        n=n,
        exceptions=s,
        bounds=bounds,
        most=most,
        fewest=fewest,
        looks=number,
        evidence=evidence,
        decided=decided,
        whole=whole,
    )


def items_needed(limit: float, alpha: float) -> int:
    """How many items without an exception show that at most a share of `limit` are exceptions.

    >>> items_needed(0.01, 0.05), items_needed(0.02, 0.05), items_needed(0.005, 0.05)
    (299, 149, 598)
    """
    return math.ceil(math.log(alpha) / math.log1p(-limit))


def demand(seen: int, size: int | None) -> Demand | None:
    """Items up to the next look, or to the end of the set; None when there are no more."""
    from pytest_edgehil.gates.stats.sequential import next_look

    wanted = next_look(seen) - seen
    if size is not None:
        wanted = min(wanted, size - seen)
    return Demand(evaluations=wanted) if wanted > 0 else None


def whole_set(limit: float, alpha: float, rate: float, *, beyond: int) -> int | None:
    """The smallest set of more than so many items that would PASS as a whole at this rate of exceptions.

    Up to 20 000 items, to a tenth of a percent; None where none would.

    >>> whole_set(0.01, 0.05, 0.0, beyond=120)
    299
    """
    from pytest_edgehil.gates.stats.binomial import last_chance
    from pytest_edgehil.gates.stats.sequential import looks

    def passes(size: int) -> bool:
        return math.ceil(rate * size - 1e-9) <= last_chance(size, limit, alpha, at=looks(size, also=size))[0]

    low = beyond
    high = max(beyond + 1, items_needed(limit, alpha))
    while not passes(high):
        if high > 20_000:
            return None
        low, high = high, 2 * high
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def would_change(share: Share, *, limit: float, alpha: float, what: str, size: int | None) -> str:
    """What would change such a verdict.

    Args:
        what: of an exception, such as ``disagreements``.
        size: items in the whole set, or None when nobody knows.
    """
    these = f"all {share.n} items of the set" if share.whole else f"these {share.n} items"
    if share.outcome is Outcome.PASS:
        return f"more than {share.most} {what} among {these} instead of {share.exceptions} would not have passed"
    if share.outcome is Outcome.FAIL:
        return f"fewer than {share.fewest} {what} among {these} instead of {share.exceptions} would not have failed"
    from pytest_edgehil.gates.stats.projection import project

    rate = share.exceptions / max(1, share.n)
    found = project(max(1, share.n), share.exceptions, p0=limit, alpha=alpha)
    if_so = f"if the true rate is the observed {percent(rate)} (a projection, no promise)"
    if share.whole:
        # a set that is used up as a whole takes fewer items than looking at it all the time
        needed = whole_set(limit, alpha, rate, beyond=share.n) if rate < limit else None
        if needed is not None:
            return f"a larger set: {needed} items would PASS, {if_so}"
    if found is None:
        return f"not even a million items would decide, {if_so}"
    return _projected(share, found, limit=limit, alpha=alpha, size=size, if_so=if_so)


def _projected(share: Share, found: Projection, *, limit: float, alpha: float, size: int | None, if_so: str) -> str:
    rate, way = share.exceptions / max(1, share.n), "PASS" if found.below else "FAIL"
    if share.whole:
        return f"a larger set: about {max(found.trials, share.n + 1)} items would {way}, {if_so}"
    more = max(1, found.trials - share.n)
    if size is not None and share.n + more > size:
        ends = f"the {size} items of the set all together"
        needed = whole_set(limit, alpha, rate, beyond=share.n) if rate < limit else None
        return f"{ends} would PASS, {if_so}" if needed is not None and needed <= size else f"{ends}, or a larger set"
    return f"about {format_count(more, 'more items')} would {way}, {if_so}"


def sentence(share: Share, *, alpha: float, limit: float, verb: str) -> str:
    """What was counted and what follows: "the model disagrees with the baseline on 3 of 500 items (0.6%), which …"."""
    n, s = share.n, share.exceptions
    of = f"all {n} items of the set" if share.whole else f"{n} items"
    counted = f"the model {verb} {s} of {of} ({percent(s / n)})"
    low, high = map(percent, share.bounds)
    error = f"error rate {percent(alpha)}"
    if share.outcome is Outcome.PASS:
        return f"{counted}, which shows a rate of at most {percent(limit)} (upper bound {high}; {error})"
    if share.outcome is Outcome.FAIL:
        return f"{counted}, where {percent(limit)} may be (at least {low} are; {error})"
    waiting = "" if share.decided else " so far"
    return (
        f"{counted}{waiting}: the rate lies between {low} and {high}, which does not tell whether it is at most "
        f"{percent(limit)}"
    )


def truths(values: BoolArray) -> tuple[BoolArray, str | None]:
    """The items as booleans, or why they are none: a NaN is neither right nor wrong."""
    import numpy as np

    raw = np.asarray(values)
    if raw.dtype == np.bool_:
        return raw, None
    known = np.isin(raw, (0, 1))
    trouble = None if known.all() else f"{int((~known).sum())} of {raw.shape[0]} items are neither right nor wrong"
    return known & (raw == 1), trouble


def length(values: object) -> int:
    """How many items; 0 for None."""
    return 0 if values is None else int(values.shape[0])  # type: ignore[attr-defined]


def ran(sample: Sample) -> bool:
    """Did the test make the board do anything, so that what is missing will not come any more?"""
    return sample.n > 0 or any(length(one) for one in (sample.agreed, sample.correct, sample.cosines))


def percent(share: float) -> str:
    """A share in percent with what is significant of it.

    >>> percent(0.02), percent(0.0175327), percent(-0.0035)
    ('2%', '1.75%', '-0.35%')
    >>> percent(0.9999), percent(1.0), percent(0.999999)
    ('99.99%', '100%', '99.9999%')
    """
    value = 100.0 * round(share, 6)
    # what is nearly all must not read as all
    digits = next((one for one in range(3, 7) if value == 100.0 or float(format_number(value, digits=one)) != 100.0), 7)
    return f"{format_number(value, digits=digits)}%"
