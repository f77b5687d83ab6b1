"""Running a test again: which earlier run it goes on from, and why not where it does not.

A test goes on from an earlier run (`--edgehil-rerun DIR`, or an attempt of this session) when that asked the same
question of the same thing: the same node id, artifacts with the same digests, a board of the same kind with the same
firmware and runtime. Gates with other arguments than then start again, and say so; an error rate that came from the
suite's share is taken over from the first run, for a plan is made once. What is on the other side of the question (the
test's body, the held-out set) is not seen here.

On a board of another kind a test starts again, but what it FAILED on the first one stays failed as long as the
artifacts are the same: which board one gets is luck, and luck must not turn a FAIL into a PASS. Who has changed the
board's firmware or its runtime has changed something, and starts again in another run; within one run nobody has.

Samples of an earlier run count only as its boards signed them: where there is a statement its signature must be good,
by the key that is enrolled for that board, and its record must say what the statement says.

An attempt whose board broke *before* its verdict was known is dropped, and that is fair: whether it counts is decided
by the board's failure alone, by nobody who has seen which way the verdict would have gone. When the board broke
afterwards, while signing say, the verdict is known, and the next attempt goes on from it. Not when the lease was
lost: somebody else may have been at work on the board while it measured.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import LeaseError, MarkerError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_edgehil.evidence.trust import Trust
    from pytest_edgehil.gates.gate import Gate
    from pytest_edgehil.model.record import GateUse, TestRecord
    from pytest_edgehil.model.sample import EarlierRun, Sample
    from pytest_edgehil.plugin.attempt import Attempt
    from pytest_edgehil.reporting.stored import StoredRun, StoredTest

NOT_THERE = "starts again: it was not judged in run"
"""How the account begins of a test that the earlier run knows nothing of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """An earlier run of one test.

    Args:
        measured: reads its sample, with the runs that it went on from itself.
        same_session: an attempt of this very run.
        unsigned: no board has signed what it measured.
    """

    run: str
    record: TestRecord
    measured: Callable[[], Sample]
    same_session: bool = False
    unsigned: bool = False


def read_earlier(source: Path) -> StoredRun:
    """What the run before left in its report directory.

    Raises:
        UserError: there is no such directory, or no results of a run in it that this version understands.
    """
    from pytest_edgehil.reporting.stored import read_stored

    if not source.is_dir():
        raise UserError(f"--edgehil-rerun: {source} is no directory; pass the --edgehil-report directory of a run")
    try:
        stored = read_stored(source)
    except UserError as problem:
        raise UserError(f"--edgehil-rerun: {problem}") from problem
    if not stored.run:
        raise UserError(f"--edgehil-rerun: {stored.source}: it does not say which run it is of")
    return stored


class Reruns:
    """The earlier runs that a process knows of.

    Args:
        source: report directory of the run that this one goes on from, or None.
        run_id: of this run.
        trust: the keys of the boards whose signatures count; asked for where something was signed.
    """

    def __init__(self, source: Path | None, *, run_id: str, trust: Callable[[], Trust] | None = None) -> None:
        self._source = source
        self._run_id = run_id
        self._trust = trust or _default_trust
        self._of_session: dict[str, _Before] = {}

    @cached_property
    def _stored(self) -> StoredRun | None:
        return None if self._source is None else read_earlier(self._source)

    @cached_property
    def _by_test(self) -> dict[str, StoredTest]:
        stored = () if self._stored is None else (*self._stored.tests, *self._stored.put_back)
        judged = [one for one in stored if _counts(one.record)]
        # of several attempts in one run, the last one with a verdict holds those before it
        return {one.record.nodeid: one for one in sorted(judged, key=lambda one: one.record.attempt)}

    def note(self, attempt: Attempt) -> None:
        """The attempt does not count, but its verdict is known: the next one goes on from it."""
        if attempt.dut is None or not attempt.verdicts or isinstance(attempt.board_error, LeaseError):
            return
        sample = attempt.sample
        run = f"{self._run_id}, attempt {attempt.number}"
        self._of_session[attempt.nodeid] = _Before(
            run=run, record=attempt.record(), measured=lambda: sample, same_session=True
        )

    def go_on(self, attempt: Attempt, *, own_alphas: frozenset[str], baselines: Callable[[str], str]) -> None:
        """Let an attempt, whose DUT is ready, go on from the earlier run of its test if there is one.

        Args:
            attempt: gets the earlier runs, and the error rates that its gates had then.
            own_alphas: names of gates whose markers state an error rate.
            baselines: from a baseline's name to the digest that it has now.

        Raises:
            UserError: the earlier run cannot be read, was altered, or is not signed by whom it says.
        """
        before = self._before(attempt.nodeid)
        if before is None:
            if self._stored is not None:
                attempt.continued = f"{NOT_THERE} {self._stored.run}"
            return
        now = attempt.record()
        reason = difference(now, before.record)
        if reason and not _same_artifacts(now, before):
            attempt.continued = f"starts again instead of going on from run {before.run}: {reason}"
            return
        sample = before.measured()
        kept, changed = _compared(attempt.gates, before.record.gates, own_alphas)
        changed |= {
            gate.name
            for gate in attempt.gates
            for series in sample.paired
            if series.baseline == getattr(gate, "on_board", None) and series.digest != baselines(series.baseline)
        }
        if reason:
            self._carry(attempt, kept, _runs(before, sample, changed, apart=reason), before.run, reason)
            return
        attempt.gates = kept
        attempt.earlier = _runs(before, sample, changed)
        board = "" if before.record.board is None else f" on {before.record.board.id}"
        unsigned = "; what it measured is signed by no board" if before.unsigned else ""
        attempt.continued = f"goes on from run {before.run}{board}{unsigned}" + (
            f"; judged anew, for other arguments or baselines: {', '.join(sorted(changed))}" if changed else ""
        )

    def _carry(
        self, attempt: Attempt, kept: tuple[Gate, ...], earlier: tuple[EarlierRun, ...], run: str, reason: str
    ) -> None:
        """Start again on another kind of board; the earlier run stays with the test where it has failed there."""
        from pytest_edgehil.gates import continued
        from pytest_edgehil.model.sample import Sample
        from pytest_edgehil.model.verdict import Outcome

        nothing = Sample.empty().replace(earlier=earlier)
        failed = [gate.name for gate in kept if continued.evaluate(gate, nothing).outcome is Outcome.FAIL]
        attempt.continued = f"starts again instead of going on from run {run}: {reason}"
        if failed:
            attempt.gates, attempt.earlier = kept, earlier
            attempt.continued += f"; but what failed there stays failed: {', '.join(failed)}"

    def _before(self, nodeid: str) -> _Before | None:
        if nodeid in self._of_session:
            return self._of_session[nodeid]
        stored = self._by_test.get(nodeid)
        if stored is None:
            return None
        assert self._stored is not None
        run, trust = self._stored.run, self._trust
        return _Before(
            run=run,
            record=stored.record,
            measured=lambda: stored.verified(trust, run=run),
            unsigned=not stored.signed,
        )


def _default_trust() -> Trust:
    from pytest_edgehil.evidence.trust import default_trust

    return default_trust()


def _counts(record: TestRecord) -> bool:
    """Were verdicts reached, on a board that was ours? A broken board was quarantined, a lost one was not."""
    from pytest_edgehil.model.record import Status

    return bool(record.verdicts) and (record.status is not Status.INFRASTRUCTURE or bool(record.quarantined))


def _same_artifacts(now: TestRecord, before: _Before) -> bool:
    """Does only the board differ, which is luck? In another run its firmware or runtime may have been mended."""
    then = before.record
    if now.board is None or then.board is None or _digests(now) != _digests(then):
        return False
    mended = (now.board.firmware, now.board.runtime) != (then.board.firmware, then.board.runtime)
    return before.same_session or not mended


def difference(now: TestRecord, then: TestRecord) -> str:
    """Why an earlier run asked another question; empty if it was the same."""
    if now.board is None or then.board is None:
        return "one of them had no board"
    pairs = [
        (f"the {track}", digests.get(track, "none"), _digests(then).get(track, "none"))
        for digests in [_digests(now)]
        for track in sorted({*digests, *_digests(then)})
    ]
    pairs += [
        ("the board's class", now.board.cls, then.board.cls),
        ("the board", now.board.environment.value, then.board.environment.value),
        ("the board's timing", now.board.timing.value, then.board.timing.value),
        ("the firmware", now.board.firmware or "none", then.board.firmware or "none"),
        ("the runtime", now.board.runtime or "none", then.board.runtime or "none"),
    ]
    return "; ".join(f"{what} was {_short(old)}, and is {_short(new)} now" for what, new, old in pairs if new != old)


def _digests(record: TestRecord) -> dict[str, str]:
    return {one.track: one.digest for one in record.combo}


def _short(text: str) -> str:
    return f"{text[:19]}…" if text.startswith("sha256:") else text


def _compared(
    gates: Iterable[Gate], uses: Iterable[GateUse], own_alphas: frozenset[str]
) -> tuple[tuple[Gate, ...], set[str]]:
    """The gates with the error rates that they had then, and the names of those that are others now."""
    from pytest_edgehil.model.record import GateUse

    then = {one.name: _restored(one) for one in uses}
    kept: list[Gate] = []
    changed: set[str] = set()
    for gate in gates:
        old = then.get(gate.name)
        known: Gate | None = gate
        if old is not None and hasattr(gate, "alpha") and gate.name not in own_alphas:
            rate = old.arguments().get("alpha")
            known = _restored(GateUse(name=gate.name, arguments={**gate.arguments(), "alpha": rate}))
        if old is not None and known is not None and _plain(known) == _plain(old):
            kept.append(known)
        else:
            kept.append(gate)
            changed.add(gate.name)
    return tuple(kept), changed


def _restored(use: GateUse) -> Gate | None:
    """The recorded gate as this version reads it: an argument that is new since then has its default."""
    from pytest_edgehil.gates.registry import from_arguments

    try:
        return from_arguments(use.name, use.arguments)
    except MarkerError:
        return None  # of another version: whatever it asked, nobody can say that it is the same question


def _plain(gate: Gate) -> object:
    """Arguments as they come back from JSON, in which a tuple is a list."""
    return json.loads(json.dumps(gate.arguments()))


def _runs(before: _Before, sample: Sample, changed: set[str], *, apart: str = "") -> tuple[EarlierRun, ...]:
    from pytest_edgehil.model.sample import EarlierRun

    board = "" if before.record.board is None else before.record.board.id
    runs = (*sample.earlier, EarlierRun(run=before.run, board=board, sample=sample.replace(earlier=())))
    # a gate that is another one now is another one than in every run before, too
    return tuple(
        dataclasses.replace(one, changed=tuple(sorted({*one.changed, *changed})), apart=one.apart or apart)
        for one in runs
    )
