"""What a run left behind, read again: its records and what its boards measured.

For ``edgehil judge`` and ``--edgehil-rerun``. A samples file is held against the digest that the board's statement
names, where the board signed one: a sample that was changed since must not be judged as if it had been measured.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.errors import EvidenceError, UserError
from pytest_edgehil.evidence import canonical, raw
from pytest_edgehil.evidence.statement import read_statement
from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.reporting import results

SAMPLES = "samples"
"""Under this name a record's files and a statement's raw results hold the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTest:
    """One attempt at one test.

    Args:
        record: what became of it; of a lone samples file, a record that knows its name and its gates only.
        path: the samples file.
        signed: a statement that the board signed names the file's digest.
    """

    record: TestRecord
    path: Path
    signed: bool

    def sample(self) -> Sample:
        """What was measured.

        Raises:
            EvidenceError: the file is missing, damaged, or not the one that the board signed.
        """
        return raw.sample_from_bytes(_checked(self.path, self.record), what=str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What was read.

    Args:
        run: id of the run; empty for a lone samples file.
        tests: the attempts that count and have a samples file.
        without: node ids of attempts that count, but measured nothing that was kept.
    """

    source: Path
    run: str
    tests: tuple[StoredTest, ...]
    without: tuple[str, ...] = ()


def read_stored(source: Path) -> StoredRun:
    """Read a report directory, its ``results.json``, or a single samples file.

    Raises:
        UserError: it is missing or is none of these.
    """
    if source.is_dir():
        source /= results.FILE_NAME
        if not source.is_file():
            raise UserError(
                f"{source}: there is no such file; pass a directory that 'pytest --edgehil-report=DIR' has written"
            )
    if source.suffix == ".gz" or not _is_results(source):
        return _lone(source)
    found = results.read(source)
    counted = [one for one in found.records if not one.requeued]
    kept = [one for one in counted if SAMPLES in one.files]
    return StoredRun(
        source=source,
        run=str(found.run.get("id", "")),
        tests=tuple(
            StoredTest(record=one, path=_inside(source.parent, one), signed=bool(one.attestations)) for one in kept
        ),
        without=tuple(one.nodeid for one in counted if SAMPLES not in one.files),
    )


def _inside(directory: Path, record: TestRecord) -> Path:
    path = directory / record.files[SAMPLES]
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UserError(f"{record.nodeid}: its samples file {record.files[SAMPLES]!r} lies outside of {directory}")
    return path


def _is_results(path: Path) -> bool:
    """A results file holds ``schema_version``, a samples file ``schema``; what is neither is told by its reader."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise UserError(f"{path}: cannot be read: {problem.strerror}") from problem
    try:
        value = canonical.from_bytes(data, what=str(path))
    except EvidenceError:
        return True
    return not (isinstance(value, dict) and value.get("schema") == raw.SCHEMA)


def _lone(path: Path) -> StoredRun:
    data = _read(path)
    _, gates = raw.parts_from_bytes(data, what=str(path))
    record = TestRecord(
        nodeid=path.name.removesuffix(".gz").removesuffix(".json"),
        status=Status.PASSED,
        started_at=0.0,
        duration_s=0.0,
        gates=gates,
    )
    return StoredRun(source=path, run="", tests=(StoredTest(record=record, path=path, signed=False),))


def _checked(path: Path, record: TestRecord) -> bytes:
    data = _read(path)
    digest = canonical.digest_of(data)
    for attestation in record.attestations:
        what = f"{record.nodeid}: statement"
        try:
            payload = base64.b64decode(attestation.payload, validate=True)
        except binascii.Error as problem:
            raise EvidenceError(f"{what}: it is malformed: {problem}") from problem
        named = read_statement(payload, what=what).raw_results.get(SAMPLES)
        if named != digest:
            raise EvidenceError(
                f"{path}: it is not what the board signed: its digest is {digest[:19]}…, "
                f"the statement says {str(named)[:19]}…"
            )
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise EvidenceError(f"{path}: the samples cannot be read: {problem.strerror}") from problem
