"""`edgehil golden`: what may become a golden, and what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.samples import conditions
from support.stored_runs import gate, report, steady

from pytest_edgehil.cli import main
from pytest_edgehil.gates.golden import read_golden

P95 = gate("p95_latency", "12 ms")
LONG, SHORT, HOT = "t.py::test_long", "t.py::test_short", "t.py::test_hot"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    throttled = conditions(throttled_after=0x4)
    tests = {
        LONG: ((P95,), steady(10.0, n=400)),
        SHORT: ((P95,), steady(10.0, n=120)),
        HOT: ((P95,), steady(10.0, n=400, conditions=throttled)),
    }
    return report(tmp_path / "report", tests)


def golden(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    status = main(["golden", *map(str, words)])
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return status, told.out + told.err


def test_a_run_is_stored_with_where_it_comes_from_and_can_be_shown(run: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "goldens/digits.json"
    status, text = golden(capsys, "store", run, "--test", LONG, "--out", out)
    assert status == 0
    assert "400 inferences, p50" in text
    assert "note: no board has signed these samples" in text
    stored, digest = read_golden(out)
    assert (stored.run, stored.test, stored.runtime) == ("run-1", LONG, "onnxruntime")
    assert stored.latencies_ns == tuple(steady(10.0, n=400).latencies_ns.tolist())
    assert stored.samples.startswith("sha256:")
    status, text = golden(capsys, "show", out)
    assert status == 0
    assert digest in text
    assert f"from {LONG} of run run-1" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "several tests have measured something; pick one with --test"),
        (("--test", "t.py::test_lng"), f"no test 't.py::test_lng' has measured anything; there are {HOT}, {LONG}"),
        (("--test", SHORT), "120 latencies were measured, a golden needs at least 300"),
        (("--test", HOT), "must not be used: the board was throttled"),
    ],
)
def test_what_may_not_become_a_golden_is_refused(
    run: Path, tmp_path: Path, capsys: Any, words: tuple[str, ...], said: str
) -> None:
    status, text = golden(capsys, "store", run, *words, "--out", tmp_path / "g.json")
    assert status == 2
    assert said in text
    assert not (tmp_path / "g.json").exists()


def test_a_lone_samples_file_is_no_run_and_nothing_is_overwritten_unasked(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "g.json"
    (lone,) = list((run / "samples").glob("0*"))
    assert "pass the report directory" in golden(capsys, "store", lone, "--out", out)[1]
    out.write_text("mine")
    status, text = golden(capsys, "store", run, "--test", LONG, "--out", out)
    assert (status, out.read_text()) == (2, "mine")
    assert "--force" in text
    assert golden(capsys, "store", run, "--test", LONG, "--out", out, "--force")[0] == 0
    assert golden(capsys, "show", tmp_path / "no.json")[0] == 2
