from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from support.signed_evidence import ACCURACY, P95, evaluate, sample

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.evidence.raw import read_sample, recompute, write_sample
from pytest_edgehil.model.record import GateUse
from pytest_edgehil.model.sample import Sample, SensorReading


@pytest.mark.parametrize("name", ["s.json", "s.json.gz"])
def test_a_sample_comes_back_exactly(tmp_path: Path, name: str) -> None:
    made = sample().replace(
        readings=(SensorReading(at_s=1.5, rss_bytes=1, temperature_c=61.25, throttled=0x50000),),
        correct=np.array([True, False]),
        evaluated_of=2,
    )
    write_sample(tmp_path / name, made, (P95,))
    found = read_sample(tmp_path / name)
    np.testing.assert_array_equal(found.starts_ns, made.starts_ns)  # beyond 2^53, where floats would round
    for field in dataclasses.fields(Sample):
        one, other = getattr(found, field.name), getattr(made, field.name)
        if isinstance(other, np.ndarray):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
        else:
            assert one == other


def test_an_empty_sample_comes_back(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.json", Sample.empty(), ())
    assert read_sample(tmp_path / "s.json").n == 0


def test_the_same_sample_gives_the_same_digest(tmp_path: Path) -> None:
    assert write_sample(tmp_path / "a.json.gz", sample(), (P95,)) == write_sample(
        tmp_path / "b.json.gz", sample(), (P95,)
    )


def test_a_sample_with_nan_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="cannot be written"):
        write_sample(tmp_path / "s.json", sample(duration_s=float("nan")), ())


def test_verdicts_are_judged_again_from_the_file(tmp_path: Path) -> None:
    write_sample(tmp_path / "s.json", sample(latency_ms=13), (P95, ACCURACY))
    outcomes = [
        one.outcome.value for one in recompute(read_sample(tmp_path / "s.json"), (P95, ACCURACY), evaluate=evaluate)
    ]
    assert outcomes == ["FAIL", "PASS"]


def test_an_unknown_gate_cannot_be_judged_again() -> None:
    with pytest.raises(EvidenceError, match="the gate magic cannot be judged again"):
        recompute(sample(), (GateUse(name="magic", arguments={}),), evaluate=evaluate)


def _changed(tmp_path: Path, path: list[str | int], value: object) -> Path:
    file = tmp_path / "s.json"
    write_sample(file, sample(n=3), ())
    content = json.loads(file.read_text())
    holder = content
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["schema"], "other/v9", "not understood"),
        (["sample", "latencies_ns"], [1, 2, 3.5], "expected integers only"),
        (["sample", "latencies_ns"], [1, 2, True], "expected integers only"),
        (["sample", "latencies_ns"], [1, 2, 2**70], "64 bits"),
        (["sample", "latencies_ns"], [1], "1 latencies but 3 start times"),
        (["sample", "agreed"], [1, 0, 2], "0 and 1"),
        (["sample", "conditions", "replayed"], "no", "is no bool"),
        (["sample", "conditions", "extra"], 1, "expected an object with"),
        (["sample", "cold_starts"], [{"load_ns": 1}], "missing"),
        (["sample", "duration_s"], "10", "expected a number"),
    ],
)
def test_a_file_that_is_no_sample_is_refused(
    tmp_path: Path, path: list[str | int], value: object, message: str
) -> None:
    with pytest.raises(EvidenceError, match=message):
        read_sample(_changed(tmp_path, path, value))


def test_a_damaged_gzip_stream_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.json.gz"
    for data in (gzip.compress(b"{}")[:-3], b"\x1f\x8bnonsense", gzip.compress(b"{}") + b"more"):
        file.write_bytes(data)
        with pytest.raises(EvidenceError, match="gzip stream"):
            read_sample(file)
