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
from pytest_edgehil.model.sample import EarlierRun, Sample, SensorReading
from pytest_edgehil.model.series import BlockPair, Generations, LinkDrop, OpenLoop, Paired, TokenScores


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


def test_earlier_runs_come_back(tmp_path: Path) -> None:
    earlier = EarlierRun(run="run-1", board="pi5-01", sample=sample(n=3), changed=("soak",))
    write_sample(tmp_path / "s.json", sample(n=4).replace(earlier=(earlier,)), (P95,))
    (found,) = read_sample(tmp_path / "s.json").earlier
    assert (found.run, found.board, found.changed) == ("run-1", "pi5-01", ("soak",))
    np.testing.assert_array_equal(found.sample.starts_ns, earlier.sample.starts_ns)
    assert found.sample.conditions == earlier.sample.conditions


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
        (["sample", "latencies_ns"], [1], "series of different lengths"),
        (["sample", "agreed"], [1, 0, 2], "0 and 1"),
        (["sample", "conditions", "replayed"], "no", "is no bool"),
        (["sample", "conditions", "extra"], 1, "expected an object with"),
        (["sample", "cold_starts"], [{"load_ns": 1}], "missing"),
        (["sample", "duration_s"], "10", "is no float"),
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


def test_every_series_of_a_sample_comes_back(tmp_path: Path) -> None:
    three = np.array([1, 2, 3], dtype=np.int64)
    pair = BlockPair(
        candidate_ns=three, baseline_ns=three + 1, candidate_first=True, candidate_start_ns=5, baseline_start_ns=9
    )
    made = sample().replace(
        cosines=np.array([1.0, float("nan"), -0.5]),
        order_seed=7,
        crashes_at_s=(12.5, 60.0),
        link_drops=(LinkDrop(at_s=3.0, lasted_s=1.5),),
        open_loop=(OpenLoop(rate_hz=20.0, intended_ns=three, starts_ns=three + 2, latencies_ns=three),),
        paired=(Paired(baseline="digits-fp32", digest="sha256:0", seed=1, pairs=(pair, pair)),),
        token_scores=TokenScores(prompt=three, kl=three / 7, nll=three / 3, baseline_nll=three / 9),
        generations=Generations(
            starts_ns=three, prompt_tokens=three, new_tokens=three, first_token_ns=three, total_ns=three * 2
        ),
    )
    write_sample(tmp_path / "s.json", made, ())
    found = read_sample(tmp_path / "s.json")
    assert repr(found) == repr(made)
    assert found.open_loop[0].responses_ns.tolist() == [3, 4, 5]


def test_a_series_with_arrays_of_different_lengths_is_refused(tmp_path: Path) -> None:
    one, two = np.array([1], dtype=np.int64), np.array([1, 2], dtype=np.int64)
    made = sample(n=3).replace(open_loop=(OpenLoop(rate_hz=1.0, intended_ns=one, starts_ns=two, latencies_ns=two),))
    write_sample(tmp_path / "s.json", made, ())
    with pytest.raises(EvidenceError, match=r"open_loop\[0\]: series of different lengths"):
        read_sample(tmp_path / "s.json")
