"""Did the model's process die, and how often?

*Trials.* A stretch of the soak, 10 s long unless `crash_trial` says otherwise, is one trial; it ends early with a
crash, and the restarted process begins the next one. ``crash_rate=0.01`` states that at most 1 % of the trials end
with a crash. So a process that dies again and again at once makes many failed trials in little time.

*Deciding.* FAIL by the e-process, looked at with every crash (anytime-valid). PASS by the e-process at the looks of
`stats.sequential`; the error that these looks leave unspent goes into one exact test at the end, so that a false PASS
of either kind has probability at most α. A whole soak (``full=True``) has that exact test alone.

*Always FAIL*: a crash where no rate is declared, and a process that could not be started again.

Assumes independent trials: crashes that come in clusters break the stated error rate.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pytest_edgehil.gates.soaking.statement import Statement
from pytest_edgehil.model.quantity import format_duration, format_number
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Outcome

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import BoolArray

MOST_REASONS = 3


def count(sample: Sample) -> int:
    """How often the model's process died."""
    restarts = 0 if sample.conditions is None else sample.conditions.restarts
    return max(len(sample.crashes_at_s), restarts)


def trials(duration_s: float, crashes_at_s: Sequence[float], trial_s: float, *, unplaced: int = 0) -> BoolArray:
    """Which trials ended with a crash.

    Args:
        duration_s: measured so far.
        crashes_at_s: after how many measured seconds the process died, in any order.
        trial_s: length of a trial that does not crash; what remains of the last one is no trial.
        unplaced: crashes whose time is not known; each counts as a trial of its own.

    Returns:
        Shape (n,), in the order of time.

    >>> trials(35.0, [12.0], 10.0).tolist()
    [False, True, False, False]
    >>> trials(5.0, [3.0, 3.0], 10.0).tolist()
    [True, True]
    """
    import numpy as np

    pieces: list[BoolArray] = [np.ones(unplaced, dtype=np.bool_)]
    began = 0.0
    for at in sorted(crashes_at_s):
        pieces += [np.zeros(_whole(at - began, trial_s), dtype=np.bool_), np.ones(1, dtype=np.bool_)]
        began = at
    pieces.append(np.zeros(_whole(duration_s - began, trial_s), dtype=np.bool_))
    return np.concatenate(pieces)


def none_allowed(sample: Sample, *, ended: bool) -> Statement:
    """Without a declared rate: no crash at all."""
    crashes = count(sample)
    if sample.not_restarted:
        return _not_restarted(sample)
    if crashes:
        ran = format_duration(sample.duration_s * 1e9)
        return Statement(
            outcome=Outcome.FAIL,
            said=f"{times(crashes)}{_at(sample)} within {ran}, where none may be{told(sample)}",
            would_change="a soak without a crash, or a crash_rate= that allows some",
        )
    if ended:
        return Statement(outcome=Outcome.PASS, said="without a crash")
    return Statement(outcome=Outcome.INCONCLUSIVE, said="no crash so far", holding=True)


def at_rate(sample: Sample, rate: float, *, trial_ns: int, alpha: float, ended: bool, early: bool) -> Statement:
    """With a declared rate.

    Args:
        sample: what was measured.
        rate: largest share of trials that end with a crash.
        trial_ns: length of a trial.
        alpha: error rate of either side.
        ended: the soak's duration is over.
        early: may the rate be shown before the end?
    """
    import numpy as np

    from pytest_edgehil.gates.stats import eprocess, sequential
    from pytest_edgehil.gates.stats.binomial import last_chance, whole_set_bounds

    if sample.not_restarted:
        return _not_restarted(sample)
    crashes = count(sample)
    ended_in_crash = trials(
        sample.duration_s, sample.crashes_at_s, trial_ns / 1e9, unplaced=crashes - len(sample.crashes_at_s)
    )
    n = int(ended_in_crash.shape[0])
    counted = f"{times(crashes)} in {n} stretches of {format_duration(trial_ns)}"
    allowed = f"{format_number(100 * rate)}% of the stretches"
    low, high = (0.0, 1.0) if not n else eprocess.rate_interval(n, crashes, alpha)
    looks = sequential.looks(n) if early else ()
    if ended and n:
        low, high = whole_set_bounds(n, crashes, alpha, at=looks)
    figures: dict[str, Any] = {"unit": "fraction", "budget": rate, "interval": (low, high)}
    figures["observed"] = crashes / n if n else 0.0
    placed = np.flatnonzero(ended_in_crash) + 1
    if placed.size and float(np.max(eprocess.log_e_fail(placed, np.arange(1, placed.size + 1), rate))) >= math.log(
        1.0 / alpha
    ):
        return Statement(
            outcome=Outcome.FAIL,
            said=f"{counted}, where {allowed} may contain a crash{told(sample)}",
            would_change=f"a crash_rate= of more than {format_number(low)}",
            **figures,
        )
    decision, look = sequential.walk(ended_in_crash, p0=rate, alpha=alpha, at=looks) if early else (None, None)
    shown = decision is sequential.Decision.BELOW and look is not None
    if ended and n and not shown:
        most, _ = last_chance(n, rate, alpha, at=looks)
        shown = crashes <= most
    if shown:
        return Statement(
            outcome=Outcome.PASS,
            said=f"{counted}, which shows a crash in at most {allowed}{told(sample)}",
            shown=True,
            would_change=f"a crash_rate= of less than {format_number(high)}, or more crashes",
            **figures,
        )
    if not ended:
        return Statement(
            outcome=Outcome.INCONCLUSIVE,
            said=f"{counted} so far{told(sample)}",
            would_change="a longer soak",
            **figures,
        )
    return Statement(
        outcome=Outcome.INCONCLUSIVE,
        said=f"{counted}, too few to show a crash in at most {allowed} (up to {format_number(100 * high)}% may)"
        f"{told(sample)}",
        would_change=f"a longer soak, or a crash_rate= of {format_number(high)} or more",
        **figures,
    )


def times(crashes: int) -> str:
    """A number of crashes in words.

    >>> times(0), times(2)
    ("no crash of the model's process", "2 crashes of the model's process")
    """
    return f"{crashes or 'no'} crash{'es' if crashes > 1 else ''} of the model's process"


def told(sample: Sample) -> str:
    """What is known of why the process died, the most frequent reasons first; empty where nothing is."""
    reasons = Counter(one for one in sample.crash_reasons if one).most_common()
    if not reasons:
        return ""
    said = "; ".join(one if number == 1 else f"{number} × {one}" for one, number in reasons[:MOST_REASONS])
    more = len(reasons) - MOST_REASONS
    return f" ({said}{f'; and {more} other reasons' if more > 0 else ''})"


def _not_restarted(sample: Sample) -> Statement:
    minute = (max(sample.crashes_at_s, default=sample.duration_s)) / 60.0
    return Statement(
        outcome=Outcome.FAIL,
        said=f"after {times(count(sample))} it could not be started again, at minute {minute:.0f}: "
        f"{sample.not_restarted}{told(sample)}",
        would_change="a model that loads again after a crash",
    )


def _at(sample: Sample) -> str:
    if not sample.crashes_at_s:
        return ""
    return f", the first at minute {min(sample.crashes_at_s) / 60.0:.0f},"


def _whole(length_s: float, trial_s: float) -> int:
    # a float's last digit must not cost a trial: 60 s are six times 10 s
    return max(0, math.floor(length_s / trial_s + 1e-9))
