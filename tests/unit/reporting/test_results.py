from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from support import records as make
from support.json_schema import violations

from pytest_edgehil.errors import UserError
from pytest_edgehil.model.record import ArtifactRef, Attestation, BoardRef, GateUse, Step, TestRecord
from pytest_edgehil.model.series import HeldOut
from pytest_edgehil.model.verdict import Verdict
from pytest_edgehil.reporting import results

RUN = {"id": "r-1", "started_at": make.STARTED_AT, "duration_s": 12.5, "lab": "virtual-demo", "exit_status": 1}


def write(directory: Path, records: tuple[TestRecord, ...]) -> Path:
    return results.write(directory, records, run=RUN, quarantined=make.QUARANTINED, not_run=make.NOT_RUN)


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    records = make.farm_run()
    read = results.read(write(tmp_path, records))
    assert sorted(read.records, key=repr) == sorted(records, key=repr)
    assert read.run == RUN
    assert read.quarantined == make.QUARANTINED
    assert read.not_run == make.NOT_RUN


def test_the_file_fulfils_its_schema(tmp_path: Path) -> None:
    document = json.loads(write(tmp_path, (*make.farm_run(), make.unbounded())).read_bytes())
    assert list(violations(document, results.results_schema())) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda doc: doc.update(schema_version=2), "$.schema_version"),
        (lambda doc: doc["tests"][0].pop("status"), "$.tests[0].status: is missing"),
        (lambda doc: doc["tests"][0].update(extra=1), "$.tests[0].extra: is not foreseen"),
        (lambda doc: doc["tests"][0].update(status="green"), "$.tests[0].status"),
    ],
)
def test_the_schema_notices_what_is_wrong(tmp_path: Path, damage: Any, complaint: str) -> None:
    document = json.loads(write(tmp_path, make.farm_run()).read_bytes())
    damage(document)
    assert any(one.startswith(complaint) for one in violations(document, results.results_schema()))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (TestRecord, ("properties", "tests", "items")),
        (Verdict, ("properties", "tests", "items", "properties", "verdicts", "items")),
        (Step, ("properties", "tests", "items", "properties", "steps", "items")),
        (GateUse, ("properties", "tests", "items", "properties", "gates", "items")),
        (ArtifactRef, ("properties", "tests", "items", "properties", "combo", "items")),
        (HeldOut, ("properties", "tests", "items", "properties", "heldout", "items")),
        (Attestation, ("properties", "tests", "items", "properties", "attestations", "items")),
        (BoardRef, ("properties", "tests", "items", "properties", "board", "anyOf", 1)),
    ],
)
def test_the_schema_knows_every_field_of_the_model(value: Any, path: tuple[Any, ...]) -> None:
    schema: Any = results.results_schema()
    for one in path:
        schema = schema[one]
    assert set(schema["properties"]) == {field.name for field in dataclasses.fields(value)}


def test_infinities_and_nan_survive_and_the_file_is_strict_json(tmp_path: Path) -> None:
    path = write(tmp_path, (make.unbounded(),))

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    json.loads(path.read_bytes(), parse_constant=refuse)
    (verdict,) = results.read(path).records[0].verdicts
    assert verdict.observed is not None
    assert math.isnan(verdict.observed)
    assert verdict.interval == (0.0, math.inf)
    assert verdict.statistics == {"log_e_pass": -math.inf}


def test_a_test_that_is_called_like_a_number_keeps_its_name(tmp_path: Path) -> None:
    record = dataclasses.replace(make.infrastructure(), nodeid="NaN", message="Infinity")
    (read,) = results.read(write(tmp_path, (record,))).records
    assert (read.nodeid, read.message) == ("NaN", "Infinity")


def test_totals_count_final_attempts_only(tmp_path: Path) -> None:
    totals = json.loads(write(tmp_path, make.farm_run()).read_bytes())["totals"]
    assert totals["tests"] == {
        "passed": 2, "failed": 1, "inconclusive": 1, "invalid": 1, "infrastructure": 1, "error": 1, "skipped": 0,
    }  # fmt: skip
    assert totals["verdicts"] == {"PASS": 7, "FAIL": 2, "INCONCLUSIVE": 1, "INVALID": 1}
    assert (totals["put_back"], totals["not_run"]) == (1, 1)


def test_the_order_of_records_does_not_change_the_file(tmp_path: Path) -> None:
    one = write(tmp_path / "a", make.farm_run()).read_bytes()
    other = write(tmp_path / "b", tuple(reversed(make.farm_run()))).read_bytes()
    assert one == other


def test_the_old_file_stays_whole_when_writing_fails(tmp_path: Path) -> None:
    path = write(tmp_path, make.farm_run())
    before = path.read_bytes()
    with pytest.raises(TypeError):
        results.write(tmp_path, (), run={"id": object()}, quarantined={}, not_run=())  # type: ignore[dict-item]
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "is no JSON"),
        (b"[]", "schema_version is None"),
        (b'{"schema_version": 7}', "schema_version is 7, expected 1"),
        (b'{"schema_version": 1, "tests": 3}', "is no results file"),
    ],
)
def test_a_file_that_is_something_else_is_refused_in_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        results.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the results: No such file"):
        results.read(tmp_path / "results.json")
