"""What a board signed, before or without the lab's seal: is it that board's word, and the word of this record?

For whoever goes on from the results of an earlier run. Those lie in a report directory with the boards' statements in
``results.json``; the sealed evidence beside it may be gone, or may never have been made.
"""

from __future__ import annotations

import base64
import binascii

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.envelope import PAYLOAD_TYPE, Envelope, EnvelopeSignature
from pytest_edgehil.evidence.statement import read_statement
from pytest_edgehil.evidence.trust import Trust
from pytest_edgehil.evidence.verify import enrolment
from pytest_edgehil.model.record import Attestation, TestRecord


def check_attestation(record: TestRecord, attestation: Attestation, trust: Trust, *, run: str) -> None:
    """Hold what a board signed against the trust and against the record that it stands in.

    Not whether it has expired: that says until when it may lead to a release.

    Raises:
        EvidenceError: the signature is not good, not by the key enrolled for that board, or the record says something
            else.
    """
    what = f"{record.nodeid}: statement"
    try:
        payload = base64.b64decode(attestation.payload, validate=True)
        signature = EnvelopeSignature(key_id=attestation.key_id, signature=bytes.fromhex(attestation.signature))
    except (binascii.Error, ValueError) as problem:
        raise EvidenceError(f"{what}: it is malformed: {problem}") from problem
    envelope = Envelope(payload=payload, payload_type=PAYLOAD_TYPE, signatures=(signature,))
    statement = read_statement(payload, what=what)
    if trust.board_key(attestation.key_id) is None:
        raise EvidenceError(
            f"{what}: the key {attestation.key_id[:12]} that signed it is enrolled for no board; enrol the identity "
            f"key of {statement.board_id} in the trust file (--edgehil-trust)"
        )
    key = envelope.signed_by(one.key for one in trust.boards)
    if key is None:
        raise EvidenceError(
            f"{what}: the signature of board {statement.board_id} does not verify: it or what it signed was altered"
        )
    enrolment(statement, trust, key.keyid, what)
    board = record.board
    pairs: list[tuple[str, object, object]] = [
        ("run", statement.run_id, run),
        ("test", statement.test, record.nodeid),
        ("attempt", statement.attempt, record.attempt),
        (
            "board",
            (statement.board_id, statement.board_class, statement.environment, statement.firmware, statement.backend),
            None if board is None else (board.id, board.cls, board.environment, board.firmware, board.runtime),
        ),
        ("timing", statement.timing, None if board is None else board.timing),
        (
            "artifacts",
            sorted([statement.subject, *(one.digest for one in statement.companions)]),
            sorted(one.digest for one in record.combo),
        ),
        ("gates", [one.use.name for one in statement.claims], [one.name for one in record.gates]),
        (
            "gates' arguments",
            [dict(one.use.arguments) for one in statement.claims],
            [dict(one.arguments) for one in record.gates],
        ),
    ]
    for name, signed, said in pairs:
        if signed != said:
            raise EvidenceError(
                f"{what}: its {name} and those of the record differ: {signed!r} was signed, not {said!r}"
            )
