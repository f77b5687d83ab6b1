"""Evidence says what a board's time is, and its raw results must say the same."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support.signed_evidence import NOW, P95, Bench, evaluate, forge, sample

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.raw import read_sample, write_sample
from pytest_edgehil.evidence.statement import read_statement
from pytest_edgehil.evidence.verify import verify_directory
from pytest_edgehil.model import Timing
from pytest_edgehil.model.record import TestRecord

COUNTED = sample().replace(timing=Timing.ICOUNT)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(report_dir=tmp_path)


def statement(record: TestRecord) -> bytes:
    return base64.b64decode(record.attestations[0].payload)


def test_a_sample_keeps_what_its_nanoseconds_are(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.json", COUNTED, (P95,))
    assert read_sample(tmp_path / "s.json").timing is Timing.ICOUNT
    text = (tmp_path / "s.json").read_text()
    (tmp_path / "old.json").write_text(text.replace(',"timing":"icount"', ""))
    assert read_sample(tmp_path / "old.json").timing is Timing.WALL  # files from before it was written
    (tmp_path / "bad.json").write_text(text.replace('"timing":"icount"', '"timing":"moon"'))
    with pytest.raises(EvidenceError, match="'moon' is none of wall, icount"):
        read_sample(tmp_path / "bad.json")


def test_a_statement_says_what_the_boards_time_is(bench: Bench) -> None:
    payload = statement(bench.record(measured=COUNTED))
    assert json.loads(payload)["predicate"]["environment"]["timing"] == "icount"
    assert read_statement(payload, what="s").timing is Timing.ICOUNT
    older = json.loads(payload)
    del older["predicate"]["environment"]["timing"]
    assert read_statement(json.dumps(older).encode(), what="s").timing is Timing.WALL


def passed_off(value: dict[str, Any]) -> None:
    value["predicate"]["environment"]["timing"] = "wall"


def test_instructions_that_are_passed_off_as_time_are_refused(bench: Bench) -> None:
    with pytest.raises(EvidenceError, match="timing"):
        bench.write([bench.record(measured=COUNTED, forge=passed_off)])
    bench.write([bench.record(measured=COUNTED)])
    assert verify_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate)
    forge(bench, bench.envelope_files()[0], passed_off, signers=[bench.lab, bench.signers["pi5-v1"]])
    with pytest.raises(EvidenceError, match="it claims that the board's timing is wall, its raw results say icount"):
        verify_directory(bench.directory, bench.trust, now=NOW, evaluate=evaluate)
