"""The run index: what a run did and which envelopes it wrote, signed by the lab.

Every envelope proves itself; that one was *left out* only an index can show. It lists every attempt, also those
without evidence, so that a policy can refuse an artifact of which another test of the same run failed.

It is a DSSE envelope of its own payload type around RFC 8785 JSON::

    {"type": "https://pytest-edgehil.dev/run-index/v1",
     "runId": …, "policy": {"digest": {"sha256": …}} | null, "startedOn": …,
     "records": [{"test", "attempt", "status", "requeued", "message", "board": id | null,
                  "combo": ["sha256:…", …], "envelopes": [{"file", "digest": {"sha256"}}]}]}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence import canonical
from pytest_edgehil.evidence.envelope import Signer, open_envelope, sign
from pytest_edgehil.evidence.statement import RunInfo, from_rfc3339, to_rfc3339
from pytest_edgehil.evidence.trust import Trust
from pytest_edgehil.model.record import Status, TestRecord

INDEX_TYPE = "https://pytest-edgehil.dev/run-index/v1"
INDEX_PAYLOAD_TYPE = "application/vnd.pytest-edgehil.run-index+json"
INDEX_FILE = "index.dsse.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedEnvelope:
    """A file of the evidence directory and its digest."""

    file: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedRecord:
    """One attempt at one test, and the envelopes that came out of it."""

    test: str
    attempt: int
    status: Status
    requeued: bool
    message: str
    board_id: str | None
    combo: tuple[str, ...]
    envelopes: tuple[IndexedEnvelope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIndex:
    """A run index whose signature is verified.

    Args:
        digest: ``sha256:<hex>`` of the index file: names the whole run's evidence.
    """

    run_id: str
    policy_digest: str | None
    started_at: float
    records: tuple[IndexedRecord, ...]
    digest: str

    @property
    def envelopes(self) -> tuple[IndexedEnvelope, ...]:
        """All envelopes of the run."""
        return tuple(one for record in self.records for one in record.envelopes)


def index_entry(record: TestRecord, envelopes: tuple[IndexedEnvelope, ...]) -> dict[str, Any]:
    """What the index says of one attempt."""
    return {
        "test": record.nodeid,
        "attempt": record.attempt,
        "status": record.status.value,
        "requeued": record.requeued,
        "message": record.message,
        "board": None if record.board is None else record.board.id,
        "combo": [one.digest for one in record.combo],
        "envelopes": [{"file": one.file, "digest": {"sha256": canonical.hex_of(one.digest)}} for one in envelopes],
    }


def write_index(run: RunInfo, entries: list[dict[str, Any]], lab_signer: Signer) -> bytes:
    """The signed index as the bytes of its file."""
    policy = run.policy_digest
    payload = canonical.to_bytes({
        "type": INDEX_TYPE,
        "runId": run.run_id,
        "policy": None if policy is None else {"digest": {"sha256": canonical.hex_of(policy)}},
        "startedOn": to_rfc3339(run.started_at),
        "records": entries,
    })  # fmt: skip
    return sign(payload, [lab_signer], payload_type=INDEX_PAYLOAD_TYPE).to_bytes()


def read_index(data: bytes, trust: Trust, *, what: str) -> RunIndex:
    """Read an index and verify that a lab of the trust signed it.

    Raises:
        EvidenceError: malformed, or not signed by a lab that is trusted.
    """
    envelope = open_envelope(data, what=what, payload_type=INDEX_PAYLOAD_TYPE)
    if envelope.signed_by(trust.lab_keys) is None:
        raise EvidenceError(f"{what}: the run index is not signed by a trusted lab key, or was altered")
    top = canonical.Fields(canonical.from_bytes(envelope.payload, what=what), what)
    if top.text("type") != INDEX_TYPE:
        raise EvidenceError(f"{what}.type: {top.text('type')!r}, expected {INDEX_TYPE!r}")
    policy = top.raw("policy")
    return RunIndex(
        run_id=top.text("runId"),
        policy_digest=None if policy is None else _digest(top.fields("policy")),
        started_at=from_rfc3339(top.text("startedOn"), what=f"{what}.startedOn"),
        records=tuple(_read_record(one, what) for one in top.objects("records")),
        digest=canonical.digest_of(data),
    )


def _read_record(fields: canonical.Fields, what: str) -> IndexedRecord:
    try:
        status = Status(fields.text("status"))
    except ValueError as problem:
        raise EvidenceError(f"{what}: {problem}") from problem
    return IndexedRecord(
        test=fields.text("test"),
        attempt=fields.integer("attempt"),
        status=status,
        requeued=fields.flag("requeued"),
        message=fields.text("message"),
        board_id=fields.text_or_none("board"),
        combo=fields.texts("combo"),
        envelopes=tuple(
            IndexedEnvelope(file=_plain_name(one.text("file"), what), digest=_digest(one))
            for one in fields.objects("envelopes")
        ),
    )


def _digest(holder: canonical.Fields) -> str:
    digest = f"sha256:{holder.fields('digest').text('sha256')}"
    canonical.hex_of(digest)
    return digest


def _plain_name(name: str, what: str) -> str:
    if "/" in name or "\\" in name or name in {"", ".", ".."}:
        raise EvidenceError(f"{what}: {name!r} is no plain file name")
    return name
