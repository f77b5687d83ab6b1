"""Does evidence fulfil a policy? Asks and lists every reason; `publish` enforces.

Rules: a FAIL, a required gate that is not decided, and a test about the artifact that failed or did not end, refuse
the release, however many others passed. A gate that nobody asks for may stay undecided; it is noted. All gates must
have passed beside the same companions: what was measured under one firmware says nothing about another. Evidence that
does not count (another kind of board, a recording, another policy, too old) can neither help nor harm; it is named
when something is missing.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_edgehil.evidence.index import IndexedRecord
from pytest_edgehil.evidence.verify import Inspection, VerifiedEvidence
from pytest_edgehil.model import quantity
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.record import Status
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.verdict import Outcome, Verdict
from pytest_edgehil.release.policy import Limit, Policy, RequiredGate

ABOUT_LATENCY = frozenset({"p95_latency", "quantile_latency"})
"""Gates that can be decided on counted instructions, by a ratio; others about time are INVALID there, whoever asks."""
_OTHER_TIME = {
    Timing.ICOUNT: "it was timed in counted instructions (timing: icount), which are no seconds",
    Timing.WALL: "it was timed on a clock (timing: wall), and the policy takes counted instructions only",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy says of an artifact.

    Args:
        reasons: why not; empty means that the policy is fulfilled.
        used: the evidence that fulfils it.
        companions: what that evidence was measured beside.
        ignored: evidence about the artifact that does not count, and why.
        notes: gates that stayed undecided and that the policy does not ask for.
    """

    reasons: tuple[str, ...]
    used: tuple[VerifiedEvidence, ...]
    companions: Mapping[Track, str]
    ignored: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fulfilled(self) -> bool:
        """May it be signed?"""
        return not self.reasons


def judge(
    policy: Policy,
    inspection: Inspection,
    *,
    digest: str,
    size_bytes: int,
    now: float,
    beside: Sequence[str] = (),
) -> Decision:
    """Does this evidence fulfil the policy for this artifact? Asks; `publish` enforces.

    Args:
        policy: what is asked for.
        inspection: of the evidence directory; its problems are reasons.
        digest: of the artifact, as it lies here.
        size_bytes: of the artifact, as it lies here.
        now: Unix time, seconds.
        beside: digests that must have been on the board beside it.
    """
    reasons = list(inspection.problems)
    about = [one for one in inspection.evidence if one.subject == digest]
    if not about:
        others = sorted({one.statement.subject_name for one in inspection.evidence})
        reasons.append(
            f"no evidence is about {digest[:19]}…"
            + (f"; it is about {', '.join(others)} (other bytes, whatever the name)" if others else "")
        )
        return Decision(reasons=tuple(reasons), used=(), companions={}, ignored=())
    counted: list[VerifiedEvidence] = []
    ignored: dict[Path, str] = {}
    for one in about:
        why = next(_objections(policy, one, now=now, beside=beside), None)
        if why is None:
            counted.append(one)
        else:
            ignored[one.path] = f"{_where(one)} does not count: {why}"
    failures, notes = _not_passed(policy, counted)
    reasons += failures
    reasons += _failed_tests(inspection, digest, explained={path.name for path in ignored} | _failing_files(counted))
    reasons += [
        f"{_where(one)}: it measured an artifact of {one.sample.artifact_size_bytes} bytes, this one has {size_bytes}"
        for one in counted
        if one.statement.track is Track.MODEL and one.sample.artifact_size_bytes not in {None, size_bytes}
    ]
    missing, group = _best_group(policy, counted)
    reasons += missing
    if missing:
        reasons += ignored.values()
    return Decision(
        reasons=tuple(reasons),
        used=tuple(group),
        companions=dict(group[0].companions) if group else {},
        ignored=tuple(ignored.values()),
        notes=tuple(notes),
    )


def _objections(policy: Policy, one: VerifiedEvidence, *, now: float, beside: Sequence[str]) -> Iterator[str]:
    """Why this evidence does not count under this policy, if so."""
    statement = one.statement
    if one.environment not in policy.environments:
        asked = " or ".join(sorted(policy.environments))
        yield f"its board is {one.environment}, the policy asks for {asked}"
    if one.replayed and not policy.allow_replay:
        yield "its samples were played back from a recording"
    if not any(fnmatch.fnmatchcase(statement.board_class, pattern) for pattern in policy.board_classes):
        yield f"class {statement.board_class} is none of {', '.join(policy.board_classes)}"
    if statement.policy_digest is None:
        yield "the run was not started under a policy; run pytest with --edgehil-policy"
    elif statement.policy_digest != policy.digest:
        yield f"it was made under the policy {statement.policy_digest[:19]}…, this one is {policy.digest[:19]}…"
    age_s = now - statement.finished_at
    if age_s > policy.max_age_s:
        yield f"it is {_time(age_s)} old, the policy takes {_time(policy.max_age_s)}"
    yield from _wrong_companions(policy, one)
    absent = [digest for digest in beside if digest not in one.companions.values()]
    if absent:
        yield f"it was measured without {absent[0][:19]}… beside it"


def _wrong_companions(policy: Policy, one: VerifiedEvidence) -> Iterator[str]:
    for track, rule in policy.companions.items():
        if track is one.statement.track:
            continue
        found = one.companions.get(track)
        if rule.rule == "required" and found is None:
            yield f"no {track} was on the board beside it"
        if rule.rule == "none" and found is not None:
            yield f"the {track} {found[:19]}… was on the board beside it"
        if rule.rule == "these" and found not in rule.digests:
            yield f"the {track} beside it was {found[:19] + '…' if found else 'none'}, which the policy does not list"


def _not_passed(policy: Policy, counted: Sequence[VerifiedEvidence]) -> tuple[list[str], list[str]]:
    """What refuses the release, and what is only worth a note."""
    required = {gate.name for gate in policy.gates} | ({"soak"} if policy.min_soak_s is not None else set())
    reasons: list[str] = []
    notes: list[str] = []
    for one in counted:
        for verdict in one.verdicts:
            if verdict.outcome is Outcome.PASS:
                continue
            refuses = verdict.outcome is Outcome.FAIL or verdict.gate in required
            said = f"{_where(one)}: gate {verdict.gate} says {verdict.outcome.value}: {verdict.reason}"
            (reasons if refuses else notes).append(said)
    return reasons, notes


def _failing_files(counted: Sequence[VerifiedEvidence]) -> set[str]:
    return {one.path.name for one in counted if any(verdict.outcome is Outcome.FAIL for verdict in one.verdicts)}


def _failed_tests(inspection: Inspection, digest: str, *, explained: set[str]) -> list[str]:
    """Tests about the artifact that did not pass, as the signed index says.

    Args:
        explained: envelopes of which something is said already, or that come from a board that nobody asks about.
    """
    if inspection.index is None:
        return []
    reasons = []
    for record in inspection.index.records:
        if digest not in record.combo or record.requeued or record.status in {Status.PASSED, Status.SKIPPED}:
            continue
        files = {one.file for one in record.envelopes}
        if files & explained:
            continue
        if files and record.status in {Status.INCONCLUSIVE, Status.INVALID}:
            continue  # its signed verdicts were looked at one by one
        reasons.append(_ended(record))
    return reasons


def _ended(record: IndexedRecord) -> str:
    return f"{record.test} ended as {record.status.value}" + (f": {record.message}" if record.message else "")


def _best_group(policy: Policy, counted: Sequence[VerifiedEvidence]) -> tuple[list[str], list[VerifiedEvidence]]:
    groups: dict[tuple[tuple[str, str], ...], list[VerifiedEvidence]] = {}
    for one in counted:
        groups.setdefault(tuple(sorted(one.companions.items())), []).append(one)
    best: tuple[list[str], list[VerifiedEvidence]] | None = None
    for group in groups.values():
        missing = _missing(policy, group)
        if best is None or len(missing) < len(best[0]):
            best = missing, group
    if best is None:
        return _missing(policy, []), []
    if best[0] and len(groups) > 1:
        best[0].append("the gates were measured beside different firmware, models or prompts; those do not add up")
    return best


def _missing(policy: Policy, group: Sequence[VerifiedEvidence]) -> list[str]:
    reasons: list[str] = []
    for pattern in policy.board_classes:
        there = [one for one in group if fnmatch.fnmatchcase(one.statement.board_class, pattern)]
        for gate in policy.gates:
            reason = _gate_missing(gate, there, timings=policy.timings)
            if reason:
                reasons.append(f"gate {gate.name} on {pattern}: {reason}")
        if policy.min_soak_s is not None:
            longest = max((_soaked_s(one) for one in there), default=0.0)
            if longest < policy.min_soak_s:
                seen = _time(longest) if longest else "none that counts"
                reasons.append(f"soak on {pattern}: {seen}, the policy asks for {_time(policy.min_soak_s)}")
    return reasons


def _gate_missing(
    gate: RequiredGate, evidence: Sequence[VerifiedEvidence], *, timings: frozenset[Timing]
) -> str | None:
    """None if the gate was applied as strictly as required; else why not, of the last one looked at."""
    reason: str | None = "no evidence that counts"
    for one in evidence:
        for claim, verdict in zip(one.statement.claims, one.verdicts, strict=True):
            if verdict.gate != gate.name:
                continue
            reason = next(_looseness(gate, verdict, claim.use.arguments), None)
            if one.sample.timing not in timings and verdict.gate in ABOUT_LATENCY:
                reason = _OTHER_TIME[one.sample.timing]
            if reason is None:
                return None  # if it did not pass, `_not_passed` has said so
    return reason


def _looseness(gate: RequiredGate, verdict: Verdict, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Where a gate, as it was used, is looser than what is required."""
    if gate.limit is not None:
        allowed = _in_unit(gate.limit, verdict.unit)
        lower = gate.limit.better == "lower"
        way = "at most" if lower else "at least"
        if allowed is None:
            yield f"the policy's limit is {gate.limit.text}, but the gate measures {verdict.unit}"
        elif verdict.better != gate.limit.better:
            yield f"the policy asks for {way} {gate.limit.text}, but the gate looked the other way"
        elif verdict.budget is None:
            yield f"it had no limit, the policy asks for {gate.limit.text}"
        elif verdict.budget > allowed if lower else verdict.budget < allowed:
            yield f"its limit was {verdict.budget:g} {verdict.unit}, looser than the policy's {gate.limit.text}"
    if gate.alpha is not None:
        alpha = arguments.get("alpha")
        if not isinstance(alpha, (int, float)) or alpha > gate.alpha:
            yield f"its error rate was {alpha}, the policy takes at most {gate.alpha}"
    if verdict.n < gate.min_n:
        yield f"it judged {verdict.n} samples, the policy asks for {gate.min_n}"
    for name, expected in gate.arguments.items():
        if arguments.get(name) != expected:
            yield f"its argument {name} was {arguments.get(name)!r}, the policy asks for {expected!r}"


def _in_unit(limit: Limit, unit: str) -> float | None:
    if limit.unit == "ns" and unit == "s":
        return limit.value / 1e9
    if limit.unit == unit or (limit.unit == "" and unit not in {"ns", "s", "bytes", "°C", "bytes/h"}):
        return limit.value
    return None


def _soaked_s(one: VerifiedEvidence) -> float:
    passed = any(verdict.gate == "soak" and verdict.outcome is Outcome.PASS for verdict in one.verdicts)
    return one.sample.duration_s if passed else 0.0


def _where(one: VerifiedEvidence) -> str:
    return f"{one.statement.test} on {one.statement.board_id}"


def _time(seconds: float) -> str:
    return quantity.format_duration(seconds * 1e9)
