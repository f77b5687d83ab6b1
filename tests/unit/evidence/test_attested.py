"""What a board signed, held against the trust and against the record that it stands in, without the lab's seal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.signed_evidence import ACCURACY, P95, Bench, artifact, new_board_signer

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.attested import check_attestation
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.record import TestRecord


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(report_dir=tmp_path)


def check(bench: Bench, record: TestRecord, **changes: Any) -> None:
    for one in record.attestations:
        check_attestation(record, one, bench.trust, run=changes.get("run", "run-1"))


def test_what_a_board_signed_about_each_artifact_of_this_record_holds(bench: Bench) -> None:
    combo = (artifact(), artifact(Track.FIRMWARE, "edge-os"))
    record = bench.record(combo=combo, subjects=(Track.MODEL, Track.FIRMWARE))
    assert len(record.attestations) == 2
    check(bench, record)


def test_another_signature_or_key_is_refused(bench: Bench) -> None:
    record = bench.record()
    (one,) = record.attestations
    damaged = dataclasses.replace(one, signature=bench.record().attestations[0].signature)
    with pytest.raises(EvidenceError, match="the signature of board pi5-v1 does not verify"):
        check(bench, dataclasses.replace(record, attestations=(damaged,)))
    with pytest.raises(
        EvidenceError, match="that signed it is enrolled for no board; enrol the identity key of pi5-v1"
    ):
        check(bench, bench.record(signer=new_board_signer()))
    with pytest.raises(EvidenceError, match="it claims board pi5-v1, but the key that signed is enrolled for pi5-h1"):
        check(bench, bench.record(signer=bench.signers["pi5-h1"]))
    with pytest.raises(EvidenceError, match="it is malformed"):
        check(bench, dataclasses.replace(record, attestations=(dataclasses.replace(one, signature="no hex"),)))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"nodeid": "other.py::test"}, "its test and those of the record differ"),
        ({"attempt": 2}, "its attempt and"),
        ({"combo": (artifact(name="other"),)}, "its artifacts and"),
        ({"board": None}, "its board and"),
        ({"gates": (P95,)}, "its gates and"),
        ({"gates": (dataclasses.replace(P95, arguments={"budget_ns": 1}), ACCURACY)}, "its gates' arguments and"),
    ],
)
def test_a_record_that_says_something_else_than_was_signed_is_refused(
    bench: Bench, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(EvidenceError, match=line):
        check(bench, dataclasses.replace(bench.record(), **changes))


def test_a_statement_of_another_run_is_refused(bench: Bench) -> None:
    with pytest.raises(EvidenceError, match="its run and those of the record differ: 'run-1' was signed, not 'run-9'"):
        check(bench, bench.record(), run="run-9")
