"""Evidence names the held-out sets and the baselines by digest, and the order in which items were taken."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support.signed_evidence import NOW, Bench, evaluate, forge, sample

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.statement import read_statement
from pytest_edgehil.evidence.verify import verify_directory
from pytest_edgehil.model.record import TestRecord
from pytest_edgehil.model.series import HeldOut

DIGITS = HeldOut(
    name="digits/heldout",
    digest="sha256:" + "1" * 64,
    items=120,
    of=600,
    baseline="digits 1.0.0 fp32",
    baseline_digest="sha256:" + "2" * 64,
)
OWN = HeldOut(name="made up", digest="", items=3, of=3)
MEASURED = sample().replace(heldout=(DIGITS, OWN), order_seed=7)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(report_dir=tmp_path)


def statement(record: TestRecord) -> bytes:
    return base64.b64decode(record.attestations[0].payload)


def test_sets_and_baselines_stand_in_the_statement_by_digest(bench: Bench) -> None:
    payload = statement(bench.record(measured=MEASURED))
    predicate = json.loads(payload)["predicate"]
    assert predicate["heldOut"][0] == {
        "name": "digits/heldout",
        "digest": {"sha256": "1" * 64},
        "items": 120,
        "of": 600,
        "baseline": {"name": "digits 1.0.0 fp32", "digest": {"sha256": "2" * 64}},
    }
    assert (predicate["heldOut"][1]["digest"], predicate["heldOut"][1]["baseline"]) == (None, None)
    assert predicate["orderSeed"] == 7
    read = read_statement(payload, what="x")
    assert (read.heldout, read.order_seed) == ((DIGITS, OWN), 7)


def test_evidence_from_before_it_was_written_there_names_none(bench: Bench) -> None:
    value = json.loads(statement(bench.record()))
    del value["predicate"]["heldOut"], value["predicate"]["orderSeed"]
    read = read_statement(json.dumps(value).encode(), what="x")
    assert (read.heldout, read.order_seed) == ((), None)


def test_a_record_keeps_them_on_its_way_to_the_controller(bench: Bench) -> None:
    record = bench.record(measured=MEASURED)
    assert TestRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def other_set(value: dict[str, Any]) -> None:
    value["predicate"]["heldOut"][0]["digest"]["sha256"] = "3" * 64


def other_baseline(value: dict[str, Any]) -> None:
    value["predicate"]["heldOut"][0]["baseline"]["digest"]["sha256"] = "3" * 64


def more_items(value: dict[str, Any]) -> None:
    value["predicate"]["heldOut"][0]["items"] = 600


def other_seed(value: dict[str, Any]) -> None:
    value["predicate"]["orderSeed"] = 8


def left_out(value: dict[str, Any]) -> None:
    del value["predicate"]["heldOut"]


@pytest.mark.parametrize("change", [other_set, other_baseline, more_items, other_seed, left_out])
def test_a_claim_that_the_raw_results_do_not_bear_out_is_refused(bench: Bench, change: Any) -> None:
    with pytest.raises(EvidenceError, match=r"held-out sets|order seed"):
        bench.write([bench.record(measured=MEASURED, forge=change)])
    bench.write([bench.record(measured=MEASURED)])
    path = bench.envelope_files()[0]
    assert verify_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate)
    forge(bench, path, change, signers=[bench.lab, bench.signers["pi5-v1"]])
    with pytest.raises(EvidenceError, match="it claims the held-out sets"):
        verify_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate)
