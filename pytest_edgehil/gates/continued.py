"""Judging a test that is run again: it goes on from its earlier runs, it does not start again.

Running a test until it passes voids its error rate: at the boundary every run is another draw of the lot. So a sample
holds the earlier runs of its test (`Sample.earlier`), and a verdict is a function of all of them:

- A *sequential* gate, one whose e-process may go on for ever, goes on where the earlier run stopped: the runs are
  joined, each with a fresh budget of samples and time, and the first crossing decides. By Ville's inequality the
  chance that it ever crosses wrongly is α, however often the test is run again. A verdict that was reached stands.
- A comparison *by sessions* (with a golden) weighs each run as one, and takes the mean of them with what α is left.
- Any other gate judges the last run, but a FAIL of an earlier run stands: more luck does not undo it. What such a gate
  left open is judged anew in each run, so its error rate adds up over the runs, and the verdict says to how much.
- A run *apart*, of the same artifacts on another kind of board, asked another question: it is not joined. But a test
  that takes either kind of board has failed when it failed on one, so its FAIL stands, whatever the other one says.
- A run that a gate calls INVALID is not continued by that gate: it must not be used. It is counted and named. A last
  run that is INVALID makes the verdict INVALID, unless an earlier one has failed.

Whether a measurement is valid is decided within each run, by the gate itself on that run alone: from one run to the
next the board may reboot, cool down or be another one of its kind. What is joined is only the series.

Which earlier runs belong to a sample is decided by who makes it (same test, artifacts, kind of board, firmware,
runtime; see `plugin.rerun`); which of them count for a gate, here: those that were judged by the same arguments.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pytest_edgehil.errors import UserError
from pytest_edgehil.gates import validity
from pytest_edgehil.gates.gate import Gate, statements
from pytest_edgehil.model.quantity import format_number
from pytest_edgehil.model.sample import EarlierRun, Sample
from pytest_edgehil.model.series import Generations, OpenLoop, Paired
from pytest_edgehil.model.verdict import Demand, Outcome, Verdict

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Int64Array


@runtime_checkable
class Sequential(Protocol):
    """A gate that looks at its sample again and again while it grows, and may do so for ever."""

    def extended(self, by: Sample) -> Gate:
        """The same gate, with its budget of samples and time counted from the end of `by`, which is there already.

        The gate itself where the error rate is spent over a budget that cannot grow: then only what is left of it.
        """


@runtime_checkable
class BySession(Protocol):
    """A gate for which a run of the test is one observation of how its sessions differ."""

    def over(self, runs: Sequence[Sample]) -> Verdict:
        """What several runs say together; the gate's error rate is that over all runs that there can ever be."""


def evaluate(gate: Gate, sample: Sample) -> Verdict:
    """What a gate says of a sample and of the earlier runs that it goes on from.

    Raises:
        UserError: an earlier run has earlier runs of its own.
    """
    return gate.evaluate(sample) if not sample.earlier else _judged(gate, sample).verdict


def demand(gate: Gate, sample: Sample) -> Demand | None:
    """What is still needed before the gate's next look; None when it has decided or its budget is spent."""
    if not sample.earlier:
        return gate.demand(sample)
    found = _judged(gate, sample)
    return None if found.open is None else found.open[0].demand(found.open[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    """Args: open: the gate and the sample that decide how to go on; None when nothing more is needed."""

    verdict: Verdict
    open: tuple[Gate, Sample] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """The earlier runs as one gate sees them.

    Args:
        usable: runs that count.
        alone: what the gate says of each of them.
        invalid: ids of runs that must not be used.
        others: ids of runs that were judged by other arguments.
        apart: ids of runs on another kind of board.
    """

    usable: tuple[EarlierRun, ...]
    alone: tuple[Verdict, ...]
    invalid: tuple[str, ...]
    others: tuple[str, ...]
    apart: tuple[str, ...]


def _past(gate: Gate, sample: Sample) -> _Past:
    usable: list[EarlierRun] = []
    alone: list[Verdict] = []
    invalid: list[str] = []
    others: list[str] = []
    for one in sample.earlier:
        if one.sample.earlier:
            raise UserError(f"earlier run {one.run}: it has earlier runs of its own; they belong into one list")
        if one.apart:
            continue
        if gate.name in one.changed:
            others.append(one.run)
            continue
        verdict = gate.evaluate(one.sample)
        if verdict.outcome is Outcome.INVALID:
            invalid.append(one.run)
        else:
            usable.append(one)
            alone.append(verdict)
    apart = tuple(one.run for one in sample.earlier if one.apart)
    return _Past(usable=tuple(usable), alone=tuple(alone), invalid=tuple(invalid), others=tuple(others), apart=apart)


def _failed_apart(gate: Gate, sample: Sample) -> tuple[EarlierRun, Verdict] | None:
    """The first FAIL on another kind of board; runs one after the other on the same kind are judged together."""
    apart = [one for one in sample.earlier if one.apart and gate.name not in one.changed]
    for _, group in itertools.groupby(apart, key=lambda one: one.apart):
        *before, last = group
        together = last.sample.replace(earlier=tuple(dataclasses.replace(one, apart="") for one in before))
        verdict = evaluate(gate, together)
        if verdict.outcome is Outcome.FAIL:
            return last, verdict
    return None


def _judged(gate: Gate, sample: Sample) -> _Judged:
    present = sample.replace(earlier=())
    past = _past(gate, sample)
    failed = _failed_apart(gate, sample)
    if failed is not None:
        run, verdict = failed
        return _Judged(verdict=_told(verdict, past, stands=run), open=None)
    if isinstance(gate, Sequential):
        return _sequential(gate, gate, present, past)
    if isinstance(gate, BySession):
        return _by_session(gate, gate, present, past)
    for run, verdict in zip(past.usable, past.alone, strict=True):
        if verdict.outcome is Outcome.FAIL:
            return _Judged(verdict=_told(verdict, past, stands=run), open=None)
    verdict = gate.evaluate(present)
    return _Judged(verdict=_told(verdict, past, adds_up=_rate_over_runs(gate, past)), open=(gate, present))


def _sequential(gate: Gate, sequential: Sequential, present: Sample, past: _Past) -> _Judged:
    now = gate.evaluate(present)
    runs = [one.sample for one in past.usable]
    standing = _standing(
        past, now, lambda count: _extended(gate, sequential, runs[: count - 1]).evaluate(joined(runs[:count]))
    )
    if standing is not None:
        return standing
    if now.outcome is Outcome.INVALID:
        return _Judged(verdict=_told(now, past), open=None)
    if not runs:
        return _Judged(verdict=_told(now, past), open=(gate, present))
    whole = joined((*runs, present))
    longer = _extended(gate, sequential, runs)
    verdict = dataclasses.replace(longer.evaluate(whole), not_checked=_unseen((*past.alone, now)))
    return _Judged(verdict=_told(verdict, past), open=(longer, whole))


def _by_session(gate: Gate, sessions: BySession, present: Sample, past: _Past) -> _Judged:
    now = gate.evaluate(present)
    runs = [one.sample for one in past.usable]
    standing = _standing(past, now, lambda count: sessions.over(runs[:count]))
    if standing is not None:
        return standing
    if now.outcome is Outcome.INVALID:
        return _Judged(verdict=_told(now, past), open=None)
    if not runs or not now.decided:
        return _Judged(verdict=_told(now, past), open=(gate, present))
    verdict = sessions.over((*runs, present))
    verdict = dataclasses.replace(verdict, not_checked=_unseen((*past.alone, now)))
    return _Judged(verdict=_told(verdict, past), open=None)


def _standing(past: _Past, now: Verdict, together: Callable[[int], Verdict]) -> _Judged | None:
    """The verdict that an earlier run has reached, with those before it; a later one does not undo it.

    Args:
        past: the earlier runs.
        now: what the gate says of the last run alone.
        together: what it says of the first so many earlier runs, two or more.
    """
    for count, (run, alone) in enumerate(zip(past.usable, past.alone, strict=True), 1):
        # a look of an earlier run must be taken again exactly as it was, so each run is gone through in its turn
        verdict = alone if count == 1 else together(count)
        decided = verdict.outcome in {Outcome.PASS, Outcome.FAIL}
        if decided and (verdict.outcome is Outcome.FAIL or now.outcome is not Outcome.INVALID):
            seen = _unseen(past.alone[:count])
            verdict = dataclasses.replace(verdict, not_checked=(*seen, *_against(verdict, now)))
            return _Judged(verdict=_told(verdict, past, stands=run), open=None)
    return None


def _extended(gate: Gate, sequential: Sequential, runs: Sequence[Sample]) -> Gate:
    return sequential.extended(joined(runs)) if runs else gate


def _against(verdict: Verdict, now: Verdict) -> tuple[str, ...]:
    """A verdict that stands although the last run alone would say the opposite: nobody may overlook that."""
    if {verdict.outcome, now.outcome} != {Outcome.PASS, Outcome.FAIL}:
        return ()
    return (f"what was measured after the verdict was reached; alone it would say {now.outcome.value}: {now.reason}",)


def _unseen(verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for one in verdicts for text in one.not_checked))


def _rate_over_runs(gate: Gate, past: _Past) -> str:
    alpha = getattr(gate, "alpha", None)
    if alpha is None or not statements(gate) or not past.usable:
        return ""
    runs = len(past.usable) + 1
    return f"each of {runs} runs was judged anew, so the error rate is up to {format_number(100 * alpha * runs)}%"


def _told(verdict: Verdict, past: _Past, *, stands: EarlierRun | None = None, adds_up: str = "") -> Verdict:
    """The verdict with what the earlier runs have to do with it in its reason and figures."""
    said = []
    if stands is not None:
        said.append(f"decided in run {stands.run} on {stands.board}, which running the test again does not undo")
    elif past.usable:
        said.append(f"goes on from {_runs(one.run for one in past.usable)}")
    if adds_up:
        said.append(adds_up)
    if past.invalid:
        said.append(f"not continued, because INVALID: {_runs(past.invalid)}")
    if past.apart and stands is None:
        said.append(f"not continued, because on another kind of board: {_runs(past.apart)}")
    if past.others:
        said.append(f"not continued, because judged by other arguments: {_runs(past.others)}")
    figures = {"reruns": float(len(past.usable)), "invalid_runs": float(len(past.invalid))}
    return dataclasses.replace(
        verdict,
        reason="; ".join((verdict.reason, *said)),
        statistics={**verdict.statistics, **figures},
    )


def _runs(ids: Any) -> str:
    listed = list(ids)
    return f"{len(listed)} earlier run{'' if len(listed) == 1 else 's'} ({', '.join(listed)})"


# --- joining -----------------------------------------------------------------------------------------


def joined(runs: Sequence[Sample]) -> Sample:
    """Several runs as one long one: their series behind each other, as if no time had passed between two runs.

    What tells whether a run is valid (readings, boot ids, throttled bits) is left out: it was looked at before, in
    each run, and means nothing across two. Everything that is no series is that of the last run.

    >>> import numpy as np
    >>> one = Sample(latencies_ns=np.array([5, 6]), starts_ns=np.array([100, 110]), duration_s=1.0)
    >>> both = joined([one, one])
    >>> both.starts_ns.tolist(), both.duration_s
    ([100, 110, 116, 126], 2.0)
    """
    import numpy as np

    last = runs[-1]
    if len(runs) == 1:
        return last
    placed = all(one.starts_ns.shape == one.latencies_ns.shape for one in runs)
    starts = _behind([(one.starts_ns, one.starts_ns + one.latencies_ns) for one in runs]) if placed else None
    known = [one.conditions for one in runs if one.conditions is not None]
    conditions = None
    if known:
        conditions = dataclasses.replace(
            known[-1],
            throttled_before=None,
            throttled_after=None,
            boot_id_before=None,
            boot_id_after=None,
            clock_cost_ns=max(one.clock_cost_ns for one in known),
            restarts=sum(one.restarts for one in known),
            replayed=any(one.replayed for one in known),
            steady_state_s=max(validity.steady_state_ns(one) for one in runs) / 1e9,
        )
    return last.replace(
        latencies_ns=np.concatenate([one.latencies_ns for one in runs]),
        starts_ns=np.empty(0, dtype=np.int64) if starts is None else starts,
        readings=(),
        duration_s=sum(one.duration_s for one in runs),
        conditions=conditions,
        open_loop=_open_loops(runs),
        paired=_paired(runs),
        generations=_generations(runs),
        earlier=(),
    )


def _behind(spans: Sequence[tuple[Int64Array, Int64Array]]) -> Int64Array:
    """Starts of several runs on one clock: the first of a run is the last end of the run before it.

    Args:
        spans: starts and ends of each run, shape (n,) each.
    """
    import numpy as np

    placed: list[Int64Array] = []
    end: int | None = None
    for starts, ends in spans:
        if starts.shape[0] == 0:
            continue
        shift = 0 if end is None else end - int(starts[0])
        placed.append(starts + shift)
        end = int(ends[-1]) + shift
    return np.concatenate(placed) if placed else np.empty(0, dtype=np.int64)


def _open_loops(runs: Sequence[Sample]) -> tuple[OpenLoop, ...]:
    import numpy as np

    rates = dict.fromkeys(series.rate_hz for one in runs for series in one.open_loop)
    found = []
    for rate_hz in rates:
        parts = [series for one in runs for series in one.open_loop if series.rate_hz == rate_hz]
        intended = _behind([(one.intended_ns, one.starts_ns + one.latencies_ns) for one in parts])
        waited = np.concatenate([one.starts_ns - one.intended_ns for one in parts])
        late = [one.late_ns for one in parts if one.late_ns is not None]
        found.append(
            OpenLoop(
                rate_hz=rate_hz,
                intended_ns=intended,
                starts_ns=intended + waited,
                latencies_ns=np.concatenate([one.latencies_ns for one in parts]),
                late_ns=np.concatenate(late) if len(late) == len(parts) else None,
            )
        )
    return tuple(found)


def _generations(runs: Sequence[Sample]) -> Generations | None:
    import numpy as np

    parts = [one.generations for one in runs if one.generations is not None]
    if not parts:
        return None
    return Generations(
        starts_ns=_behind([(one.starts_ns, one.starts_ns + one.total_ns) for one in parts]),
        prompt_tokens=np.concatenate([one.prompt_tokens for one in parts]),
        new_tokens=np.concatenate([one.new_tokens for one in parts]),
        first_token_ns=np.concatenate([one.first_token_ns for one in parts]),
        total_ns=np.concatenate([one.total_ns for one in parts]),
    )


def _paired(runs: Sequence[Sample]) -> tuple[Paired, ...]:
    """Against a baseline of these bytes: another one of the same name is another question, and the newest counts."""
    newest = {series.baseline: series for one in runs for series in one.paired}
    return tuple(
        dataclasses.replace(
            last,
            pairs=tuple(
                pair
                for one in runs
                for series in one.paired
                if (series.baseline, series.digest) == (last.baseline, last.digest)
                for pair in series.pairs
            ),
        )
        for last in newest.values()
    )
