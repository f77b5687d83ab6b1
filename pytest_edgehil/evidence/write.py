"""Writing evidence, on the controller: nothing is sealed that would not verify.

A worker's word is not taken for anything: the board's signature is verified against the trust, the statement is held
against the record, and the verdicts are judged again from the raw results, before the lab signs. The directory

    <directory>/index.dsse.json                 the signed run index
    <directory>/0001-<test>-<track>.dsse.json   one envelope per statement
    <directory>/raw/<sha256>.json[.gz]          raw results, named by their digest

is written aside and put in place by a rename: it is complete or not there.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence import canonical, raw
from pytest_edgehil.evidence.envelope import EnvelopeSignature, Signer, seal
from pytest_edgehil.evidence.files import sync_directory, write_atomically
from pytest_edgehil.evidence.index import INDEX_FILE, IndexedEnvelope, index_entry, write_index
from pytest_edgehil.evidence.statement import RunInfo, Statement, nonce_for, read_statement
from pytest_edgehil.evidence.trust import Trust
from pytest_edgehil.evidence.verify import RAW_DIRECTORY, check_envelope
from pytest_edgehil.model.record import Attestation, TestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written.

    Args:
        index: the index file.
        envelopes: how many statements were sealed.
        unsigned: tests with verdicts, of which the board signed nothing.
    """

    directory: Path
    index: Path
    envelopes: int
    unsigned: tuple[str, ...]


def write_evidence(
    directory: Path,
    records: Sequence[TestRecord],
    *,
    run: RunInfo,
    lab_signer: Signer,
    trust: Trust,
    report_dir: Path,
    now: float,
    evaluate: raw.Evaluate | None = None,
) -> Written:
    """Check, seal and write the evidence of a run.

    Args:
        directory: is replaced, if it holds the evidence of an earlier run.
        records: every attempt of the run, also those without evidence.
        run: the same as the statements were built with.
        lab_signer: the lab's key; it must be in the trust.
        trust: the keys of the boards.
        report_dir: what `TestRecord.files` is relative to.
        now: Unix time, seconds.
        evaluate: how a gate judges; default through `gates.registry`.

    Raises:
        EvidenceError: an attestation does not verify, or says something else than its record; names the test.
            Nothing is written then.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / INDEX_FILE).exists():
        raise EvidenceError(f"{directory}: it holds other files; name an empty or a new directory for the evidence")
    own = lab_signer.public_key.keyid
    if own not in {one.keyid for one in trust.lab_keys}:
        raise EvidenceError(
            f"the lab's key {own[:12]} is not in the trust, so that nobody could verify what it seals; "
            f"add what 'edgehil evidence key' prints to the trust file"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    try:
        (aside / RAW_DIRECTORY).mkdir()
        entries: list[dict[str, Any]] = []
        count = 0
        for record in records:
            envelopes = []
            for attestation in record.attestations:
                count += 1
                envelopes.append(
                    _seal_one(aside, count, record, attestation, run, lab_signer, trust, report_dir, now, evaluate)
                )
            entries.append(index_entry(record, tuple(envelopes)))
        write_atomically(aside / INDEX_FILE, write_index(run, entries, lab_signer))
        aside.chmod(0o755)
        _put_in_place(aside, directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return Written(
        directory=directory,
        index=directory / INDEX_FILE,
        envelopes=count,
        unsigned=tuple(one.nodeid for one in records if one.verdicts and one.board and not one.attestations),
    )


def _seal_one(  # noqa: PLR0917 - one call site, all of it context
    aside: Path,
    number: int,
    record: TestRecord,
    attestation: Attestation,
    run: RunInfo,
    lab_signer: Signer,
    trust: Trust,
    report_dir: Path,
    now: float,
    evaluate: raw.Evaluate | None,
) -> IndexedEnvelope:
    try:
        payload = base64.b64decode(attestation.payload, validate=True)
        signature = EnvelopeSignature(key_id=attestation.key_id, signature=bytes.fromhex(attestation.signature))
    except (binascii.Error, ValueError) as problem:
        raise EvidenceError(f"{record.nodeid}: the board's attestation is malformed: {problem}") from problem
    statement = read_statement(payload, what=f"{record.nodeid}: statement")
    _check_record(statement, record, run)
    for name, digest in statement.raw_results.items():
        _copy_raw(aside, record, name, digest, report_dir)
    words = re.sub(r"[^A-Za-z0-9]+", "-", record.nodeid.rpartition("::")[2]).strip("-")[:60] or "test"
    path = aside / f"{number:04d}-{words}-{statement.track.value}.dsse.json"
    write_atomically(path, seal(payload, board=signature, lab_signer=lab_signer))
    try:
        checked = check_envelope(path, trust, now=now, evaluate=evaluate)
    except EvidenceError as problem:
        raise EvidenceError(f"{record.nodeid}: {str(problem).removeprefix(f'{path}: ')}") from problem
    return IndexedEnvelope(file=path.name, digest=checked.digest)


def _check_record(statement: Statement, record: TestRecord, run: RunInfo) -> None:
    where = record.nodeid
    subject = next((one for one in record.combo if one.digest == statement.subject), None)
    if subject is None or subject.track != statement.track.value:
        raise EvidenceError(f"{where}: the statement is about {statement.subject}, which was not on the board")
    beside = {one.track: one.digest for one in record.combo if one.digest != statement.subject}
    said = {one.track.value: one.digest for one in statement.companions}
    pairs: list[tuple[str, object, object]] = [
        ("nonce", statement.nonce, nonce_for(record, subject)),
        ("run id", statement.run_id, run.run_id),
        ("policy digest", statement.policy_digest, run.policy_digest),
        ("test", statement.test, record.nodeid),
        ("attempt", statement.attempt, record.attempt),
        ("board", statement.board_id, None if record.board is None else record.board.id),
        ("companions", said, beside),
        ("lease token", statement.lease_token, record.lease_token),
        ("held-out sets", statement.heldout, record.heldout),
        ("order seed", statement.order_seed, record.order_seed),
        ("gates", [one.use.name for one in statement.claims], [one.name for one in record.gates]),
        (
            "outcomes",
            [one.verdict.outcome.value for one in statement.claims],
            [one.outcome.value for one in record.verdicts],
        ),
    ]
    for name, found, expected in pairs:
        if found != expected:
            raise EvidenceError(f"{where}: the statement's {name} is {found!r}, the record's is {expected!r}")


def _copy_raw(aside: Path, record: TestRecord, name: str, digest: str, report_dir: Path) -> None:
    relative = record.files.get(name)
    if relative is None:
        raise EvidenceError(f"{record.nodeid}: the statement names raw results {name!r}, the record has no such file")
    source = report_dir / relative
    try:
        data = source.read_bytes()
    except OSError as problem:
        raise EvidenceError(
            f"{record.nodeid}: the raw results {source} cannot be read: {problem.strerror}"
        ) from problem
    if canonical.digest_of(data) != digest:
        raise EvidenceError(f"{record.nodeid}: {source} is not what the board's statement names ({digest})")
    suffix = ".json.gz" if source.suffix == ".gz" else ".json"
    write_atomically(aside / RAW_DIRECTORY / f"{canonical.hex_of(digest)}{suffix}", data)


def _put_in_place(aside: Path, directory: Path) -> None:
    if directory.exists():
        old = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.old."))
        directory.rename(old / "was")
        aside.rename(directory)
        shutil.rmtree(old)
    else:
        aside.rename(directory)
    sync_directory(directory.parent)
