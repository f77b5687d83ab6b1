"""Counted instructions are no seconds: what refuses them, what takes them, and that the two never meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.records import board
from support.samples import conditions, timed

from pytest_edgehil.errors import MarkerError, UserError
from pytest_edgehil.gates import continued
from pytest_edgehil.gates.gate import Gate
from pytest_edgehil.gates.golden import Golden, from_bytes, to_bytes
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.gates.time_base import common_timing, timing_of
from pytest_edgehil.model import Outcome, Sample, Timing
from pytest_edgehil.model.series import BlockPair, Paired

IN_SECONDS = [
    ("p95_latency", ("12 ms",), {}),
    ("p95_latency", ("12 ms",), {"rate": "20/s"}),
    ("quantile_latency", (0.5, "12 ms"), {}),
    ("throughput", ("80/s",), {}),
    ("tokens_per_second", ("12/s",), {}),
    ("time_to_first_token", ("300 ms",), {}),
    ("cold_start", ("2 s",), {}),
    ("soak", ("1 h",), {"drift": "10 %"}),
    ("thermal", ("80 C",), {}),
    ("npu_utilisation", (), {"at_least": 0.6}),
    ("energy", ("50 mJ",), {}),
]
OF_ANY_TIME = [
    ("accuracy", (), {"agreement": 0.98}),
    ("cosine_similarity", (0.99,), {}),
    ("token_kl", ("0.02 nats",), {}),
    ("perplexity_ratio", (1.02,), {}),
    ("peak_rss", ("180 MiB",), {}),
    ("size", ("2 MiB",), {}),
    ("p95_latency", (), {"baseline": "old", "ratio": 1.1}),
]
TICK_NS = 16
"""A counter of 62.5 MHz, as QEMU's machines have."""


def gate_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], root: Path | None = None) -> Gate:
    return parse(name, args, kwargs, settings=GateSettings(root=root))


def counted(latencies_ns: Any, **changes: object) -> Sample:
    return timed(latencies_ns, timing=Timing.ICOUNT, conditions=conditions(steady_state_s=None), **changes)


def instructions(per_inference: float, n: int, *, seed: int = 1) -> np.ndarray:
    """Nanoseconds of a counter that ticks, mostly the same, now and then with an interrupt's work among them."""
    rng = np.random.default_rng(seed)
    work = per_inference + rng.integers(0, 3, n) * TICK_NS + (rng.random(n) < 0.02) * 9_000
    return (np.rint(work / TICK_NS) * TICK_NS).astype(np.int64)


@pytest.mark.parametrize(("name", "args", "kwargs"), IN_SECONDS, ids=[one[0] for one in IN_SECONDS])
def test_what_is_held_against_seconds_refuses_counted_instructions(name: str, args: Any, kwargs: Any) -> None:
    gate = gate_of(name, args, kwargs)
    sample = counted(instructions(9e6, 400))
    verdict = continued.evaluate(gate, sample)
    assert verdict.outcome is Outcome.INVALID
    assert "counted instructions (timing: icount), which are no seconds" in verdict.reason
    assert "run it on a board with timing: wall" in verdict.reason
    assert "baseline=" in verdict.would_change
    assert verdict.decided
    assert continued.demand(gate, sample) is None  # no measuring helps
    assert timing_of(gate) is Timing.WALL
    on_a_clock = continued.evaluate(gate, sample.replace(timing=Timing.WALL))
    assert "counted instructions" not in on_a_clock.reason


def test_a_gate_in_seconds_refuses_before_it_asks_for_anything() -> None:
    empty = Sample.empty().replace(timing=Timing.ICOUNT)
    for name, args, kwargs in IN_SECONDS:
        assert gate_of(name, args, kwargs).demand(empty) is None


@pytest.mark.parametrize(("name", "args", "kwargs"), OF_ANY_TIME, ids=[one[0] for one in OF_ANY_TIME])
def test_what_asks_nothing_of_the_clock_says_the_same_of_either(name: str, args: Any, kwargs: Any) -> None:
    gate = gate_of(name, args, kwargs)
    assert timing_of(gate) is None
    sample = counted(instructions(9e6, 60), peak_rss_bytes=2**20)
    assert gate.evaluate(sample) == gate.evaluate(sample.replace(timing=Timing.WALL))


def pairs_of(ratio: float, *, pairs: int = 6, block: int = 20, noise: bool = True) -> Sample:
    """Blocks of a model and of one that takes `ratio` times fewer instructions."""
    found, at = [], 0
    for number in range(pairs):
        ours, theirs = (
            instructions(cost, block, seed=2 * number + side) if noise else np.full(block, round(cost))
            for side, cost in enumerate((466_000 * ratio, 466_000))
        )
        spent = int(ours.sum())
        found.append(
            BlockPair(
                candidate_ns=ours,
                baseline_ns=theirs,
                candidate_first=True,
                candidate_start_ns=at,
                baseline_start_ns=at + spent,
            )
        )
        at += spent + int(theirs.sum())
    paired = Paired(baseline="old", digest="sha256:" + "1" * 64, seed=7, pairs=tuple(found))
    return Sample.empty().replace(paired=(paired,), conditions=conditions(), timing=Timing.ICOUNT)


def median_against_old(ratio: float) -> Gate:
    return gate_of("quantile_latency", (0.5,), {"baseline": "old", "ratio": ratio, "block": 20})


def test_one_percent_more_instructions_are_told_from_none() -> None:
    slower, same = pairs_of(1.01), pairs_of(1.0)
    assert median_against_old(1.005).evaluate(slower).outcome is Outcome.FAIL
    assert median_against_old(1.005).evaluate(same).outcome is Outcome.PASS
    assert median_against_old(1.015).evaluate(slower).outcome is Outcome.PASS


def test_pairs_that_are_exactly_alike_are_a_measurement_where_instructions_are_counted() -> None:
    slower, same = pairs_of(1.01, noise=False), pairs_of(1.0, noise=False)
    for sample, outcome in ((slower, Outcome.FAIL), (same, Outcome.PASS)):
        verdict = median_against_old(1.005).evaluate(sample)
        assert verdict.outcome is outcome, verdict.reason
        assert verdict.interval == (verdict.observed, verdict.observed)
        assert median_against_old(1.005).evaluate(sample.replace(timing=Timing.WALL)).outcome is Outcome.INVALID


def golden_of(per_inference: float = 466_000, **changes: object) -> Golden:
    known = Golden(
        run="run-1",
        test="t.py::t",
        measured_at=1e9,
        samples="sha256:1",
        board_id="emu-01",
        board_class="pi5-8gb-hat2",
        environment="virtual",
        serial="1",
        firmware="edge-os 2026.11",
        runtime="onnxruntime",
        runtime_version="1.23.2",
        artifact="digits 1.0.0 int8",
        artifact_digest="sha256:2",
        latencies_ns=tuple(instructions(per_inference, 400).tolist()),
        timing=Timing.ICOUNT,
    )
    return dataclasses.replace(known, **changes)  # type: ignore[arg-type]


def against(directory: Path, golden: Golden, ratio: float = 1.005, **kwargs: object) -> Any:
    (directory / "g.json").write_bytes(to_bytes(golden))
    asked = {"golden": "g.json", "ratio": ratio, "max_samples": 300, **kwargs}
    return gate_of("quantile_latency", (0.5,), asked, directory)


def session(per_inference: float, *, seed: int = 9) -> Sample:
    told = conditions(runtime="onnxruntime", runtime_version="1.23.2", steady_state_s=None)
    return timed(instructions(per_inference, 300, seed=seed), conditions=told, timing=Timing.ICOUNT)


def test_a_golden_of_counted_instructions_tells_one_percent_from_none(tmp_path: Path) -> None:
    gate = against(tmp_path, golden_of(), ratio=1.006)
    slower, same = (gate.evaluate(session(cost)) for cost in (466_000 * 1.015, 466_000))
    assert slower.outcome is Outcome.FAIL, slower.reason
    assert same.outcome is Outcome.PASS, same.reason
    assert same.n == 300  # at once: nothing comes and goes in an instruction count
    assert gate.session_spread == 0.002
    assert against(tmp_path, golden_of(), session_spread=0.01).session_spread == 0.01
    assert from_arguments("quantile_latency", gate.arguments()) == gate


def test_a_golden_whose_blocks_are_all_alike_is_one_where_instructions_are_counted(tmp_path: Path) -> None:
    golden = golden_of(latencies_ns=(466_000,) * 300)
    gate = against(tmp_path, golden, ratio=1.006)
    alike = session(1.0).replace(latencies_ns=np.full(300, 466_000))
    assert gate.evaluate(alike).outcome is Outcome.PASS
    assert against(tmp_path, golden, session_spread=0).evaluate(alike).outcome is Outcome.PASS
    with pytest.raises(MarkerError, match="exactly alike, which no measurement is"):
        against(tmp_path, dataclasses.replace(golden, timing=Timing.WALL))


def test_a_golden_is_held_against_its_own_kind_of_time_only(tmp_path: Path) -> None:
    on_instructions = against(tmp_path, golden_of())
    on_a_clock = against(tmp_path, golden_of(timing=Timing.WALL), across=("board_class", "environment", "firmware"))
    assert (timing_of(on_instructions), timing_of(on_a_clock)) == (Timing.ICOUNT, Timing.WALL)
    clock = session(466_000).replace(timing=Timing.WALL)
    for gate, sample in ((on_instructions, clock), (on_a_clock, session(466_000))):
        verdict = gate.evaluate(sample)
        assert verdict.outcome is Outcome.INVALID
        assert "the earlier one was timed" in verdict.reason
    with pytest.raises(UserError, match=r"g\.json cannot be compared with board pi5-01: .*store a golden there"):
        on_instructions.require_comparable(board(1))
    on_instructions.require_comparable(dataclasses.replace(board(1), timing=Timing.ICOUNT))


def test_a_golden_says_what_its_nanoseconds_are(tmp_path: Path) -> None:
    golden = golden_of()
    assert from_bytes(to_bytes(golden), what="g") == golden
    old = to_bytes(dataclasses.replace(golden, timing=Timing.WALL)).replace(b',\n    "timing": "wall"', b"")
    assert b"timing" not in old
    assert from_bytes(old, what="g").timing is Timing.WALL
    with pytest.raises(UserError, match="g: board: timing is 'moon', expected one of wall, icount"):
        from_bytes(to_bytes(golden).replace(b'"icount"', b'"moon"'), what="g")


def test_gates_that_need_different_kinds_of_time_need_two_tests(tmp_path: Path) -> None:
    golden = against(tmp_path, golden_of())
    size, budget = gate_of("size", ("2 MiB",), {}), gate_of("p95_latency", ("12 ms",), {})
    assert common_timing((size,)) == (None, "")
    assert common_timing((size, golden)) == (Timing.ICOUNT, "quantile_latency")
    with pytest.raises(MarkerError, match="quantile_latency needs a board with timing: icount and p95_latency"):
        common_timing((golden, budget))
