from __future__ import annotations

import copy
import json

import pytest
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.signer import CryptoSigner
from support.signed_evidence import new_board_signer

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.envelope import EnvelopeSignature, open_envelope, pae, seal, sign


@pytest.fixture
def lab() -> CryptoSigner:
    return CryptoSigner.generate_ed25519()


@pytest.fixture
def board() -> CryptoSigner:
    return new_board_signer()


def sealed(payload: bytes, board: CryptoSigner, lab: CryptoSigner) -> bytes:
    made = board.sign(pae(payload))
    signature = EnvelopeSignature(key_id=made.keyid, signature=bytes.fromhex(made.signature))
    return seal(payload, board=signature, lab_signer=lab)


def test_a_sealed_envelope_is_signed_by_both_roles(board: CryptoSigner, lab: CryptoSigner) -> None:
    opened = open_envelope(sealed(b"{}", board, lab), what="x")
    assert opened.payload == b"{}"
    assert opened.signed_by([lab.public_key]) == lab.public_key
    assert opened.signed_by([board.public_key]) == board.public_key


def test_another_dsse_implementation_verifies_our_envelope(board: CryptoSigner, lab: CryptoSigner) -> None:
    data = sealed(b'{"a":1}', board, lab)
    theirs = TheirEnvelope.from_dict(copy.deepcopy(json.loads(data)))
    assert set(theirs.verify([lab.public_key, board.public_key], 2)) == {
        lab.public_key.keyid,
        board.public_key.keyid,
    }


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    assert pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_two_boards_do_not_add_up_to_board_and_lab(board: CryptoSigner, lab: CryptoSigner) -> None:
    other = new_board_signer()
    opened = open_envelope(sign(b"{}", [board, other]).to_bytes(), what="x")
    assert opened.signed_by([lab.public_key]) is None


def test_an_envelope_without_key_ids_is_verified_by_trying_the_keys(board: CryptoSigner, lab: CryptoSigner) -> None:
    value = json.loads(sealed(b"{}", board, lab))
    for one in value["signatures"]:
        del one["keyid"]
    opened = open_envelope(json.dumps(value).encode(), what="x")
    assert opened.signed_by([new_board_signer().public_key, board.public_key]) == board.public_key


def test_a_key_id_that_lies_does_not_verify(board: CryptoSigner, lab: CryptoSigner) -> None:
    value = json.loads(sealed(b"{}", board, lab))
    value["signatures"][0]["keyid"], value["signatures"][1]["keyid"] = (
        value["signatures"][1]["keyid"],
        value["signatures"][0]["keyid"],
    )
    opened = open_envelope(json.dumps(value).encode(), what="x")
    assert opened.signed_by([board.public_key]) is None
    assert opened.signed_by([lab.public_key]) is None


def test_a_signature_over_another_payload_type_does_not_verify(lab: CryptoSigner) -> None:
    value = json.loads(sign(b"{}", [lab], payload_type="text/plain").to_bytes())
    value["payloadType"] = "application/vnd.in-toto+json"
    assert open_envelope(json.dumps(value).encode(), what="x").signed_by([lab.public_key]) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe", "no JSON"),
        (b"[]", "expected an object"),
        (b'{"payloadType":"text/plain","payload":"","signatures":[]}', "payload type"),
        (b'{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[]}', "nobody has signed"),
        (b'{"payloadType":"application/vnd.in-toto+json","payload":"","signatures":[{"sig":"***"}]}', "no base64"),
        (b'{"payload":"","payload":"","payloadType":"x","signatures":[]}', "twice"),
    ],
)
def test_what_is_no_envelope_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(EvidenceError, match=reason):
        open_envelope(data, what="some.dsse.json")
