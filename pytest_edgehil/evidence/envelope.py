"""DSSE envelopes: a payload and who signed it.

Format: https://github.com/secure-systems-lab/dsse (protocol and envelope, v1). The signature is over the
pre-authentication encoding, never over the JSON. Rules kept here, each of which a common library breaks once:

- one role is verified at a time: `signed_by` takes the keys of *one* role, so that two board signatures never add
  up to a threshold that was meant as "lab and board";
- ``keyid`` is an unauthenticated hint and may be absent; then every key of the role is tried;
- a key is never taken from the envelope.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.signer import Key, Signature

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence import canonical

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES = 16 * 2**20


class Signer(Protocol):
    """Whoever signs: securesystemslib's `CryptoSigner`, `HSMSigner` and KMS signers fit."""

    @property
    def public_key(self) -> Key:
        """The public half."""

    def sign(self, payload: bytes) -> Signature:
        """A signature over the bytes as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvelopeSignature:
    """One signature: the hint whose it is (empty: no hint) and its bytes."""

    key_id: str
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """An opened envelope; nothing in it is verified yet."""

    payload: bytes
    payload_type: str
    signatures: tuple[EnvelopeSignature, ...]

    def signed_by(self, keys: Iterable[Key]) -> Key | None:
        """The first of these keys whose signature is good; None when there is none.

        Call it once per role with that role's keys.
        """
        encoded = pae(self.payload, self.payload_type)
        for key in keys:
            for one in self.signatures:
                if one.key_id and one.key_id != key.keyid:
                    continue
                try:
                    key.verify_signature(Signature(key.keyid, one.signature.hex()), encoded)
                except (UnverifiedSignatureError, VerificationError):
                    continue
                return key
        return None

    def to_bytes(self) -> bytes:
        """The JSON form."""
        return canonical.to_bytes({
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "signatures": [
                {"keyid": one.key_id, "sig": base64.b64encode(one.signature).decode("ascii")}
                for one in self.signatures
            ],
        })  # fmt: skip


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """DSSE's pre-authentication encoding: what is signed.

    >>> pae(b"hello", "text/plain")
    b'DSSEv1 10 text/plain 5 hello'
    """
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, signers: Iterable[Signer], *, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """An envelope with one signature per signer."""
    encoded = pae(payload, payload_type)
    made = [one.sign(encoded) for one in signers]
    return Envelope(
        payload=payload,
        payload_type=payload_type,
        signatures=tuple(EnvelopeSignature(key_id=one.keyid, signature=bytes.fromhex(one.signature)) for one in made),
    )


def seal(payload: bytes, *, board: EnvelopeSignature, lab_signer: Signer) -> bytes:
    """The JSON of an envelope with the board's signature (made on the board) and the lab's."""
    by_lab = sign(payload, [lab_signer])
    return Envelope(
        payload=payload, payload_type=PAYLOAD_TYPE, signatures=(board, *by_lab.signatures)
    ).to_bytes()  # fmt: skip


def open_envelope(data: bytes, *, what: str, payload_type: str = PAYLOAD_TYPE) -> Envelope:
    """Read the JSON form; verifies nothing.

    Args:
        data: the JSON form.
        what: names the envelope in errors.
        payload_type: the type that it must have.

    Raises:
        EvidenceError: it is no DSSE envelope, too big, or of another payload type.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise EvidenceError(f"{what}: {len(data)} bytes is more than an envelope may have ({MAX_ENVELOPE_BYTES})")
    fields = canonical.Fields(canonical.from_bytes(data, what=what), what)
    found = fields.text("payloadType")
    if found != payload_type:
        raise EvidenceError(f"{what}: the payload type is {found!r}, expected {payload_type!r}")
    signatures = tuple(
        EnvelopeSignature(key_id=one.text_or_none("keyid") or "", signature=_base64(one.text("sig"), what))
        for one in fields.objects("signatures")
    )
    if not signatures:
        raise EvidenceError(f"{what}: nobody has signed it")
    return Envelope(payload=_base64(fields.text("payload"), what), payload_type=found, signatures=signatures)


def _base64(text: str, what: str) -> bytes:
    try:
        # DSSE allows the URL-safe alphabet as well
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError) as problem:
        raise EvidenceError(f"{what}: a field is no base64: {problem}") from problem
