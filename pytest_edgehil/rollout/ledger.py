"""The ledger: every decision, signed, one per line, each naming the digest of the line before.

A line is a DSSE envelope (JSON on one line) around an in-toto Statement about the artifact, whose predicate has the
fields of a SLSA verification summary (``verifier``, ``timeVerified``, ``policy``, ``inputAttestations``,
``verificationResult``; https://slsa.dev/spec/v1.0/verification_summary) and ours: ``decision``, ``number``,
``previous``, ``actor``, ``plan``, ``weight``, ``metrics``, ``reasons``.

What the chain shows: a line that was changed, removed, added, or moved; a line that another key signed. What it
*cannot* show: that the newest lines were cut off, or that the whole file was replaced by an older copy of itself. For
that note the head (each decision prints it) elsewhere, and give it to ``verify-ledger --head``. Nor does it stop the
holder of the signing key from writing another history.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key

from pytest_edgehil.errors import EvidenceError, RolloutError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.envelope import Signer, open_envelope, sign
from pytest_edgehil.evidence.files import locked, sync_directory
from pytest_edgehil.evidence.statement import STATEMENT_TYPE, from_rfc3339, to_rfc3339
from pytest_edgehil.rollout.analysis import MetricResult
from pytest_edgehil.rollout.decide import Decision, Move, PastDecision

PREDICATE_TYPE = "https://pytest-edgehil.dev/rollout-decision/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """A ledger of which every line was verified.

    Args:
        entries: oldest first.
        digests: ``sha256:<hex>`` of every line, in the same order.
    """

    entries: tuple[PastDecision, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def head(self) -> str | None:
        """Digest of the last line; None when there is none."""
        return self.digests[-1] if self.digests else None


def read_ledger(path: Path, trusted: Sequence[Key], *, head: str | None = None) -> Ledger:
    """Read and verify a ledger.

    Args:
        path: the file.
        trusted: keys whose decisions count.
        head: a digest that was noted earlier; the ledger must contain it.

    Raises:
        RolloutError: naming file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise RolloutError(f"{path}: the ledger cannot be read: {problem.strerror}") from problem
    if data and not data.endswith(b"\n"):
        number = data.count(b"\n") + 1
        raise RolloutError(f"{path}:{number}: the last line is cut off; an append was interrupted")
    entries: list[PastDecision] = []
    digests: list[str] = []
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        previous = digests[-1] if digests else None
        try:
            entries.append(_read_line(line, trusted, number=number, previous=previous, what=f"{path}:{number}"))
        except EvidenceError as problem:
            raise RolloutError(str(problem)) from problem
        digests.append(canonical.digest_of(line))
    if head is not None and head not in digests:
        raise RolloutError(f"{path}: it does not contain {head}; newer lines were cut off, or it is another ledger")
    return Ledger(entries=tuple(entries), digests=tuple(digests))


def append(
    path: Path,
    make: Callable[[tuple[PastDecision, ...]], Decision],
    *,
    signer: Signer,
    trusted: Sequence[Key],
) -> tuple[Decision, str]:
    """Verify the ledger, decide on its history, and append the decision; nobody else can decide in between.

    Args:
        path: the file; it is made if it does not exist.
        make: decides, given every earlier decision.
        signer: signs the line; its key must be trusted, or the next one could not read it.
        trusted: keys whose decisions count.

    Returns:
        The decision and the new head.

    Raises:
        RolloutError: the ledger does not verify.
    """
    if signer.public_key.keyid not in {one.keyid for one in trusted}:
        raise RolloutError(f"{path}: the signing key {signer.public_key.keyid[:12]} is not among the rollout keys")
    with locked(path.with_name(f".{path.name}.lock")):
        ledger = read_ledger(path, trusted) if path.exists() else Ledger()
        decision = make(ledger.entries)
        line = _line(decision, number=len(ledger.entries) + 1, previous=ledger.head, signer=signer)
        with path.open("ab", buffering=0) as file:
            file.write(line + b"\n")
            os.fsync(file.fileno())
        sync_directory(path.parent)
    return decision, canonical.digest_of(line)


def _line(decision: Decision, *, number: int, previous: str | None, signer: Signer) -> bytes:
    plan = decision.plan
    predicate = {
        "verifier": {"id": f"pytest-edgehil/rollout#{signer.public_key.keyid}"},
        "timeVerified": to_rfc3339(decision.decided_at),
        "resourceUri": f"pkg:generic/edgehil@{decision.artifact}",
        "policy": {"uri": plan.name, "digest": _digest(plan.digest)},
        "inputAttestations": [
            {"uri": name, "digest": _digest(digest)} for name, digest in sorted(decision.telemetry.items())
        ],
        "verificationResult": "PASSED" if decision.move is Move.PROMOTE else "FAILED",
        "verifiedLevels": [],
        "number": number,
        "previous": None if previous is None else {"digest": _digest(previous)},
        "decision": decision.move.value,
        "complete": decision.complete,
        "actor": decision.actor,
        "plan": {"name": plan.name, "seq": plan.seq},
        "baseline": None if decision.baseline is None else {"digest": _digest(decision.baseline)},
        "environment": plan.environment.value,
        "weight": {"from": decision.weight_from, "to": decision.weight_to},
        "devices": {"canary": decision.devices[0], "control": decision.devices[1]},
        "reasons": list(decision.reasons),
        "hardRules": list(decision.hard),
        "metrics": [metric_to_json(one) for one in decision.metrics],
    }
    payload = canonical.to_bytes(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "artifact", "digest": _digest(decision.artifact)}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )
    return sign(payload, [signer]).to_bytes()


def metric_to_json(one: MetricResult) -> dict[str, Any]:
    """A metric in plain JSON types; what is not finite is null."""
    return {
        "name": one.name,
        "measure": one.measure,
        "phase": one.phase.value,
        "reason": one.reason,
        "values": [None if m.value is None or not math.isfinite(m.value) else m.value for m in one.measurements],
        "grades": [grade.value for grade in one.grades],
    }


def _read_line(line: bytes, trusted: Sequence[Key], *, number: int, previous: str | None, what: str) -> PastDecision:
    envelope = open_envelope(line, what=what)
    if envelope.signed_by(trusted) is None:
        raise RolloutError(f"{what}: the decision is not signed by a trusted rollout key, or was altered")
    top = canonical.Fields(canonical.from_bytes(envelope.payload, what=what), what)
    if top.text("_type") != STATEMENT_TYPE or top.text("predicateType") != PREDICATE_TYPE:
        raise RolloutError(f"{what}: this is no rollout decision")
    subjects = top.objects("subject")
    if len(subjects) != 1:
        raise RolloutError(f"{what}: it is about {len(subjects)} artifacts, expected one")
    predicate = top.fields("predicate")
    if predicate.integer("number") != number:
        raise RolloutError(
            f"{what}: this is decision {predicate.integer('number')}, expected {number}; "
            f"lines were removed, added or moved"
        )
    said = None if predicate.raw("previous") is None else _read_digest(predicate.fields("previous"))
    if said != previous:
        raise RolloutError(f"{what}: it follows {said or 'nothing'}, but the line before is {previous or 'not there'}")
    plan = predicate.fields("plan")
    try:
        move = Move(predicate.text("decision"))
    except ValueError as problem:
        raise RolloutError(f"{what}: {problem}") from problem
    return PastDecision(
        number=number,
        plan=plan.text("name"),
        seq=plan.integer("seq"),
        plan_digest=_read_digest(predicate.fields("policy")),
        artifact=_read_digest(subjects[0]),
        move=move,
        complete=predicate.flag("complete"),
        decided_at=from_rfc3339(predicate.text("timeVerified"), what=what),
    )


def _digest(digest: str) -> dict[str, str]:
    return {"sha256": canonical.hex_of(digest)}


def _read_digest(holder: canonical.Fields) -> str:
    digest = f"sha256:{holder.fields('digest').text('sha256')}"
    canonical.hex_of(digest)
    return digest
