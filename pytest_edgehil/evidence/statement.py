"""The statement: one in-toto Statement v1 about one artifact, from one attempt at one test on one board.

Format: https://in-toto.io/Statement/v1 with our predicate ``hil-gate/v1``. in-toto's own ``test-result/v0.1`` has
no time, board, nonce or number in it; we keep its ``passedTests``/``warnedTests``/``failedTests`` names. The bytes
are RFC 8785 JSON written here, because the ``in-toto-attestation`` package turns 7 into 7.0.

Predicate::

    runId, nonce                    single use
    test, attempt
    policy          {"digest": {"sha256": …}} | null     the policy that the run was started under
    startedOn, finishedOn, expiresOn                     RFC 3339, UTC
    environment     {kind, boardId, boardClass, boardSerial, boardModel, accelerator, firmware, backend, timing}
                    timing: wall | icount (counted instructions); evidence from before it was written is wall
    subjectTrack    firmware | model | prompt
    companions      [{"track", "name", "digest": {"sha256"}}]   what else was on the board
    passedTests, warnedTests, failedTests                names of gates; warned = neither passed nor failed
    gates           [{name, arguments, outcome, measured, limit, unit, n, interval, reason, notChecked}]
    heldOut         [{"name", "digest": {"sha256"} | null, "items", "of", "baseline": {"name", "digest"} | null}]
                    the sets that were evaluated, how many items of how many, and what outputs were compared with
    orderSeed       what the order of their items was drawn with | null: their own order
    rawResults      [{"name", "digest": {"sha256"}}]     files from which anybody can judge again
    tool            {"name", "version", "sourceRevision"}
    leaseToken

Numbers that are not finite are written as the text ``NaN``, ``Infinity`` or ``-Infinity``: JSON has none.
"""

from __future__ import annotations

import datetime as dt
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.board import Environment
from pytest_edgehil.model.record import ArtifactRef, GateUse, TestRecord
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.series import HeldOut
from pytest_edgehil.model.verdict import Outcome, Verdict

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://pytest-edgehil.dev/hil-gate/v1"

_SUBJECT_ORDER = (Track.MODEL, Track.FIRMWARE, Track.PROMPT)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What all statements of one run share.

    Args:
        run_id: unique per run.
        policy_digest: ``sha256:<hex>`` of the policy file that the run was started under; without one, no policy
            will take the evidence.
        started_at: Unix time, seconds.
        expires_after_s: for how long after a test its statement is valid.
        tool_version: of pytest-edgehil.
        source_revision: of the tests, for example a commit; None if unknown.
    """

    run_id: str
    policy_digest: str | None
    started_at: float
    expires_after_s: float
    tool_version: str
    source_revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a statement says of one gate."""

    use: GateUse
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """An artifact that was on the board beside the subject."""

    track: Track
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement, read. Claims only: `verify` says which of them hold."""

    subject_name: str
    subject: str
    track: Track
    run_id: str
    nonce: str
    test: str
    attempt: int
    policy_digest: str | None
    started_at: float
    finished_at: float
    expires_at: float
    environment: Environment
    board_id: str
    board_class: str
    board_serial: str
    board_model: str
    accelerator: str | None
    firmware: str | None
    backend: str | None
    timing: Timing
    companions: tuple[Companion, ...]
    claims: tuple[Claim, ...]
    heldout: tuple[HeldOut, ...]
    order_seed: int | None
    raw_results: Mapping[str, str]
    tool_version: str
    source_revision: str | None
    lease_token: int | None


def new_nonce() -> str:
    """A single-use nonce for one attempt."""
    return secrets.token_hex(16)


def subject_of(record: TestRecord) -> ArtifactRef | None:
    """What a record's statement is about by default: its model, else its firmware, else its prompt bundle."""
    for track in _SUBJECT_ORDER:
        for one in record.combo:
            if one.track == track.value:
                return one
    return None


def nonce_for(record: TestRecord, subject: ArtifactRef) -> str:
    """The nonce of the statement about this artifact: every statement has its own, also within one attempt."""
    if subject == subject_of(record):
        return record.nonce
    return canonical.sha256_hex(f"{record.nonce}/{subject.digest}".encode())[:32]


def build_statement(
    record: TestRecord, *, run: RunInfo, raw_digests: Mapping[str, str], subject: Track | None = None
) -> bytes | None:
    """Write the statement that the board is to sign.

    Args:
        record: with board, combo, gates, verdicts and nonce filled in.
        run: what all statements of the run share.
        raw_digests: what for → ``sha256:<hex>`` of the raw results, at least ``samples`` (see `raw.write_sample`).
        subject: the track of the artifact that it is about; default see `subject_of`. To release a firmware that
            was tested under a model, make a second statement with ``subject=Track.FIRMWARE``.

    Returns:
        RFC 8785 JSON, or None if there is nothing to attest: no board, no artifact, no verdict.

    Raises:
        EvidenceError: the record contradicts itself or has no nonce.
    """
    about = subject_of(record) if subject is None else _of_track(record, subject)
    if record.board is None or about is None or not record.verdicts:
        return None
    if not record.nonce:
        raise EvidenceError(f"{record.nodeid}: the record has no nonce; give it one of new_nonce() before the test")
    if [one.name for one in record.gates] != [one.gate for one in record.verdicts]:
        raise EvidenceError(
            f"{record.nodeid}: gates {[one.name for one in record.gates]} do not match "
            f"verdicts {[one.gate for one in record.verdicts]}"
        )
    board = record.board
    finished_at = record.started_at + record.duration_s
    by_result: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for verdict in record.verdicts:
        by_result[_list_of(verdict.outcome)].append(verdict.gate)
    predicate = {
        "runId": run.run_id,
        "nonce": nonce_for(record, about),
        "test": record.nodeid,
        "attempt": record.attempt,
        "policy": None if run.policy_digest is None else {"digest": _digest(run.policy_digest)},
        "startedOn": to_rfc3339(record.started_at),
        "finishedOn": to_rfc3339(finished_at),
        "expiresOn": to_rfc3339(finished_at + run.expires_after_s),
        "environment": {
            "kind": board.environment.value,
            "boardId": board.id,
            "boardClass": board.cls,
            "boardSerial": board.serial,
            "boardModel": board.hardware_model,
            "accelerator": board.accelerator,
            "firmware": board.firmware,
            "backend": board.runtime,
            "timing": board.timing.value,
        },
        "subjectTrack": about.track,
        "companions": [
            {"track": one.track, "name": one.label, "digest": _digest(one.digest)}
            for one in sorted(record.combo, key=lambda one: one.track)
            if one.digest != about.digest
        ],
        **by_result,
        "gates": [_claim(use, verdict) for use, verdict in zip(record.gates, record.verdicts, strict=True)],
        "heldOut": [_heldout(one) for one in record.heldout],
        "orderSeed": record.order_seed,
        "rawResults": [{"name": name, "digest": _digest(one)} for name, one in sorted(raw_digests.items())],
        "tool": {"name": "pytest-edgehil", "version": run.tool_version, "sourceRevision": run.source_revision},
        "leaseToken": record.lease_token,
    }
    return canonical.to_bytes({
        "_type": STATEMENT_TYPE,
        "subject": [{"name": about.label, "digest": _digest(about.digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    })  # fmt: skip


def read_statement(payload: bytes, *, what: str) -> Statement:
    """Read a statement strictly: every field typed, exactly one subject.

    Raises:
        EvidenceError: naming `what` and the field.
    """
    top = canonical.Fields(canonical.from_bytes(payload, what=what), what)
    _expect(top.text("_type"), STATEMENT_TYPE, f"{what}._type")
    _expect(top.text("predicateType"), PREDICATE_TYPE, f"{what}.predicateType")
    subjects = top.objects("subject")
    if len(subjects) != 1:
        raise EvidenceError(f"{what}.subject: {len(subjects)} subjects; evidence is about exactly one artifact")
    predicate = top.fields("predicate")
    environment = predicate.fields("environment")
    policy = predicate.raw("policy")
    tool = predicate.fields("tool")
    claims = tuple(_read_claim(one) for one in predicate.objects("gates"))
    for name in ("passedTests", "warnedTests", "failedTests"):
        listed = list(predicate.texts(name))
        derived = [one.use.name for one in claims if _list_of(one.verdict.outcome) == name]
        if listed != derived:
            raise EvidenceError(f"{what}.predicate.{name}: lists {listed}, but the gates say {derived}")
    return Statement(
        subject_name=subjects[0].text("name"),
        subject=_read_digest(subjects[0]),
        track=_enum(Track, predicate.text("subjectTrack"), f"{what}.predicate.subjectTrack"),
        run_id=predicate.text("runId"),
        nonce=_nonempty(predicate.text("nonce"), f"{what}.predicate.nonce"),
        test=predicate.text("test"),
        attempt=predicate.integer("attempt"),
        policy_digest=None if policy is None else _read_digest(predicate.fields("policy")),
        started_at=from_rfc3339(predicate.text("startedOn"), what=f"{what}.predicate.startedOn"),
        finished_at=from_rfc3339(predicate.text("finishedOn"), what=f"{what}.predicate.finishedOn"),
        expires_at=from_rfc3339(predicate.text("expiresOn"), what=f"{what}.predicate.expiresOn"),
        environment=_enum(Environment, environment.text("kind"), f"{what}.predicate.environment.kind"),
        board_id=environment.text("boardId"),
        board_class=environment.text("boardClass"),
        board_serial=environment.text("boardSerial"),
        board_model=environment.text("boardModel"),
        accelerator=environment.text_or_none("accelerator"),
        firmware=environment.text_or_none("firmware"),
        backend=environment.text_or_none("backend"),
        timing=Timing.WALL
        if environment.raw("timing") is None
        else _enum(Timing, environment.text("timing"), f"{what}.predicate.environment.timing"),
        companions=_read_companions(predicate, what),
        claims=claims,
        # evidence from before it was written there names none
        heldout=()
        if predicate.raw("heldOut") is None
        else tuple(_read_heldout(one) for one in predicate.objects("heldOut")),
        order_seed=None if predicate.raw("orderSeed") is None else predicate.integer("orderSeed"),
        raw_results=_read_raw_results(predicate, what),
        tool_version=tool.text("version"),
        source_revision=tool.text_or_none("sourceRevision"),
        lease_token=None if predicate.raw("leaseToken") is None else predicate.integer("leaseToken"),
    )


def to_rfc3339(unix_s: float) -> str:
    """Unix time as RFC 3339 in UTC with microseconds.

    >>> to_rfc3339(0.25)
    '1970-01-01T00:00:00.250000Z'
    """
    moment = dt.datetime.fromtimestamp(unix_s, dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_rfc3339(text: str, *, what: str) -> float:
    """The inverse of `to_rfc3339`.

    Raises:
        EvidenceError: it is no time, or not in UTC.
    """
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as problem:
        raise EvidenceError(f"{what}: {text!r} is no RFC 3339 time") from problem
    if moment.utcoffset() != dt.timedelta(0):
        raise EvidenceError(f"{what}: {text!r} is not in UTC (expected a Z at its end)")
    return moment.timestamp()


def _of_track(record: TestRecord, track: Track) -> ArtifactRef | None:
    return next((one for one in record.combo if one.track == track.value), None)


def _list_of(outcome: Outcome) -> str:
    return {Outcome.PASS: "passedTests", Outcome.FAIL: "failedTests"}.get(outcome, "warnedTests")


def _claim(use: GateUse, verdict: Verdict) -> dict[str, Any]:
    interval = verdict.interval
    return {
        "name": use.name,
        "arguments": dict(use.arguments),
        "outcome": verdict.outcome.value,
        "measured": _number(verdict.observed),
        "limit": _number(verdict.budget),
        "unit": verdict.unit,
        "better": verdict.better,
        "n": verdict.n,
        "interval": None if interval is None else [_number(interval[0]), _number(interval[1])],
        "reason": verdict.reason,
        "notChecked": list(verdict.not_checked),
    }


def _read_claim(fields: canonical.Fields) -> Claim:
    interval = None
    if fields.raw("interval") is not None:
        bounds = fields.each("interval")
        if len(bounds) != 2:
            raise EvidenceError(f"a gate's interval has {len(bounds)} bounds, expected 2")
        low, high = (_read_number(one) for one in bounds)
        if low is None or high is None:
            raise EvidenceError("a gate's interval has no number as a bound")
        interval = (low, high)
    name = fields.text("name")
    verdict = Verdict(
        gate=name,
        outcome=_enum(Outcome, fields.text("outcome"), f"gate {name}: outcome"),
        unit=fields.text("unit"),
        n=fields.integer("n"),
        reason=fields.text("reason"),
        observed=_read_number(fields.raw("measured")),
        budget=_read_number(fields.raw("limit")),
        interval=interval,
        better=fields.text("better"),
        not_checked=fields.texts("notChecked"),
    )
    return Claim(use=GateUse(name=name, arguments=fields.mapping("arguments")), verdict=verdict)


def _read_companions(predicate: canonical.Fields, what: str) -> tuple[Companion, ...]:
    found = tuple(
        Companion(
            track=_enum(Track, one.text("track"), f"{what}.predicate.companions"),
            name=one.text("name"),
            digest=_read_digest(one),
        )
        for one in predicate.objects("companions")
    )
    if len({one.track for one in found}) != len(found):
        raise EvidenceError(f"{what}.predicate.companions: two of them have the same track")
    return found


def _heldout(one: HeldOut) -> dict[str, Any]:
    baseline = None
    if one.baseline_digest:
        baseline = {"name": one.baseline, "digest": _digest(one.baseline_digest)}
    return {
        "name": one.name,
        "digest": _digest(one.digest) if one.digest else None,
        "items": one.items,
        "of": one.of,
        "baseline": baseline,
    }


def _read_heldout(fields: canonical.Fields) -> HeldOut:
    baseline = None if fields.raw("baseline") is None else fields.fields("baseline")
    return HeldOut(
        name=fields.text("name"),
        digest="" if fields.raw("digest") is None else _read_digest(fields),
        items=fields.integer("items"),
        of=fields.integer("of"),
        baseline="" if baseline is None else baseline.text("name"),
        baseline_digest="" if baseline is None else _read_digest(baseline),
    )


def _read_raw_results(predicate: canonical.Fields, what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in predicate.objects("rawResults"):
        name = one.text("name")
        if name in found:
            raise EvidenceError(f"{what}.predicate.rawResults: {name!r} is there twice")
        found[name] = _read_digest(one)
    return found


def _number(value: float | None) -> float | str | None:
    if value is None or math.isfinite(value):
        return value if value is None else float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _read_number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and value in {"NaN", "Infinity", "-Infinity"}:
        return float(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    raise EvidenceError(f"{value!r} is no number")


def _digest(digest: str) -> dict[str, str]:
    return {"sha256": canonical.hex_of(digest)}


def _read_digest(holder: canonical.Fields) -> str:
    digest = f"sha256:{holder.fields('digest').text('sha256')}"
    canonical.hex_of(digest)
    return digest


def _expect(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise EvidenceError(f"{what}: {found!r}, expected {expected!r}")


def _nonempty(text: str, what: str) -> str:
    if not text:
        raise EvidenceError(f"{what}: it is empty")
    return text


def _enum(kind: Any, value: str, what: str) -> Any:
    try:
        return kind(value)
    except ValueError as problem:
        raise EvidenceError(f"{what}: {value!r} is none of {', '.join(one.value for one in kind)}") from problem
