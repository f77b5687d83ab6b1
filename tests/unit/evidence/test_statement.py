from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.signed_evidence import NOW, POLICY_DIGEST, Bench, artifact, digest, evaluate, sample

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.statement import (
    build_statement,
    from_rfc3339,
    nonce_for,
    read_statement,
    to_rfc3339,
)
from pytest_edgehil.model.artifact import Track
from pytest_edgehil.model.record import GateUse, TestRecord
from pytest_edgehil.model.verdict import Outcome, Verdict

RAW = {"samples": digest("raw")}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(report_dir=tmp_path)


def built(bench: Bench, record: TestRecord, subject: Track | None = None) -> bytes:
    payload = build_statement(record, run=bench.run, raw_digests=RAW, subject=subject)
    assert payload is not None
    return payload


def test_a_statement_is_an_in_toto_statement_about_the_model(bench: Bench) -> None:
    combo = (artifact(Track.FIRMWARE, "edge-os"), artifact())
    value = json.loads(built(bench, bench.record(combo=combo)))
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://pytest-edgehil.dev/hil-gate/v1"
    assert value["subject"] == [
        {"name": "digits 1.0.0", "digest": {"sha256": digest("digits").removeprefix("sha256:")}}
    ]
    assert value["predicate"]["environment"]["boardSerial"] == "1000000000000001"
    assert [one["track"] for one in value["predicate"]["companions"]] == ["firmware"]
    assert value["predicate"]["passedTests"] == ["p95_latency", "accuracy"]


def test_what_is_written_can_be_read(bench: Bench) -> None:
    record = bench.record()
    found = read_statement(built(bench, record), what="x")
    assert found.subject == digest("digits")
    assert found.policy_digest == POLICY_DIGEST
    assert (found.started_at, found.finished_at) == (NOW - 60, NOW - 48)
    assert [one.use for one in found.claims] == list(record.gates)
    assert [one.verdict.outcome for one in found.claims] == [Outcome.PASS, Outcome.PASS]
    assert found.lease_token == 7


def test_integers_stay_integers(bench: Bench) -> None:
    assert b'"n":200,' in built(bench, bench.record())


def test_the_same_record_gives_the_same_bytes(bench: Bench) -> None:
    record = bench.record()
    assert built(bench, record) == built(bench, record)


def test_each_statement_of_an_attempt_has_its_own_nonce(bench: Bench) -> None:
    combo = (artifact(Track.FIRMWARE, "edge-os"), artifact())
    record = bench.record(combo=combo)
    about_model = read_statement(built(bench, record), what="x")
    about_firmware = read_statement(built(bench, record, Track.FIRMWARE), what="x")
    assert about_model.nonce == record.nonce
    assert about_firmware.nonce != record.nonce
    assert about_firmware.nonce == nonce_for(record, combo[0])
    assert about_firmware.subject == combo[0].digest
    assert [one.digest for one in about_firmware.companions] == [combo[1].digest]


def test_nothing_to_attest_gives_no_statement(bench: Bench) -> None:
    record = bench.record()
    for changes in ({"board": None}, {"combo": ()}, {"verdicts": (), "gates": ()}):
        changed = dataclasses.replace(record, **changes)  # type: ignore[arg-type]
        assert build_statement(changed, run=bench.run, raw_digests=RAW) is None
    assert build_statement(record, run=bench.run, raw_digests=RAW, subject=Track.PROMPT) is None


def test_a_record_without_a_nonce_is_refused(bench: Bench) -> None:
    record = dataclasses.replace(bench.record(), nonce="")
    with pytest.raises(EvidenceError, match="has no nonce"):
        build_statement(record, run=bench.run, raw_digests=RAW)


def test_a_record_whose_gates_and_verdicts_differ_is_refused(bench: Bench) -> None:
    record = bench.record()
    with pytest.raises(EvidenceError, match="do not match"):
        build_statement(dataclasses.replace(record, gates=record.gates[:1]), run=bench.run, raw_digests=RAW)


def test_numbers_that_are_not_finite_survive(bench: Bench) -> None:
    use = GateUse(name="p95_latency", arguments={"budget_ns": 1})
    verdict = dataclasses.replace(
        evaluate(use, sample()), observed=float("nan"), interval=(1.0, float("inf")), outcome=Outcome.INCONCLUSIVE
    )
    record = bench.record(gates=(use,), verdicts=(verdict,))
    found: Verdict = read_statement(built(bench, record), what="x").claims[0].verdict
    assert found.observed is not None
    assert found.observed != found.observed
    assert found.interval == (1.0, float("inf"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["_type"], "https://in-toto.io/Statement/v0.1", "expected 'https://in-toto.io/Statement/v1'"),
        (["predicateType"], "https://in-toto.io/attestation/test-result/v0.1", "expected"),
        (["subject"], [], "0 subjects"),
        (["subject", 0, "digest"], {"sha512": "00"}, "sha256: expected text"),
        (["subject", 0, "digest"], {"sha256": "AB"}, "is no digest"),
        (["predicate", "nonce"], "", "it is empty"),
        (["predicate", "expiresOn"], "tomorrow", "no RFC 3339 time"),
        (["predicate", "expiresOn"], "2026-01-01T00:00:00+02:00", "not in UTC"),
        (["predicate", "attempt"], True, "expected an integer"),
        (["predicate", "environment", "kind"], "real", "none of hardware, emulated, virtual"),
        (["predicate", "gates", 0, "outcome"], "MAYBE", "none of PASS"),
        (["predicate", "gates", 0, "measured"], "much", "no number"),
        (["predicate", "gates", 0, "interval"], [1], "1 bounds"),
        (["predicate", "passedTests"], ["accuracy"], "but the gates say"),
        (["predicate", "failedTests"], ["accuracy"], "but the gates say"),
    ],
)
def test_a_statement_that_is_none_is_refused(bench: Bench, path: list[str | int], value: object, message: str) -> None:
    content = json.loads(built(bench, bench.record()))
    holder = content
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    with pytest.raises(EvidenceError, match=message):
        read_statement(json.dumps(content).encode(), what="x")


def test_times_round_trip() -> None:
    assert from_rfc3339(to_rfc3339(NOW + 0.125), what="x") == NOW + 0.125
