"""What a run left behind, read again: its records and what its boards measured.

For ``edgehil judge`` and ``--edgehil-rerun``. A samples file is held against the digest that the board's statement
names, where the board signed one: a sample that was changed since must not be judged as if it had been measured. Who
lets later measurements go on from it (`StoredTest.verified`) also asks whose signature that is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_edgehil.errors import EvidenceError, UserError
from pytest_edgehil.evidence import canonical, raw
from pytest_edgehil.evidence.attested import check_attestation
from pytest_edgehil.evidence.statement import read_statement
from pytest_edgehil.model.record import Status, TestRecord
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.reporting import results

if TYPE_CHECKING:
    from pytest_edgehil.evidence.trust import Trust

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

    def verified(self, trust: Callable[[], Trust], *, run: str) -> Sample:
        """What was measured, where every statement about it is signed by the key that is enrolled for its board.

        What nobody has signed is taken as it is: `signed` tells.

        Args:
            trust: the enrolled keys; asked for only if something was signed.
            run: id of the run that it is of.

        Raises:
            EvidenceError: a signature does not verify, the record says something else than the statement, or see
                `sample`.
        """
        sample = self.sample()
        for attestation in self.record.attestations:
            check_attestation(self.record, attestation, trust(), run=run)
        return sample


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """What was read.

    Args:
        run: id of the run; empty for a lone samples file.
        tests: the attempts that count and have a samples file.
        without: node ids of attempts that count, but measured nothing that was kept.
        put_back: attempts that do not count, because their board broke, but have a samples file.
    """

    source: Path
    run: str
    tests: tuple[StoredTest, ...]
    without: tuple[str, ...] = ()
    put_back: tuple[StoredTest, ...] = ()


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

    def kept(records: Iterable[TestRecord]) -> tuple[StoredTest, ...]:
        return tuple(
            StoredTest(record=one, path=_inside(source.parent, one), signed=bool(one.attestations))
            for one in records
            if SAMPLES in one.files
        )

    return StoredRun(
        source=source,
        run=str(found.run.get("id", "")),
        tests=kept(counted),
        without=tuple(one.nodeid for one in counted if SAMPLES not in one.files),
        put_back=kept(one for one in found.records if one.requeued),
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
