"""A model against a stored run: what the golden says, what it must not be compared with, and what it cannot tell."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.records import board
from support.samples import conditions, latencies_ms, reading, timed, to_ns

from pytest_edgehil.errors import MarkerError, UserError
from pytest_edgehil.evidence import raw
from pytest_edgehil.gates import continued
from pytest_edgehil.gates.against_golden import AgainstGolden
from pytest_edgehil.gates.golden import Golden, from_bytes, read_golden, to_bytes
from pytest_edgehil.gates.registry import GateSettings, from_arguments, parse
from pytest_edgehil.model import EarlierRun, Environment, Outcome, Sample, Verdict
from pytest_edgehil.model.record import GateUse

NOW = conditions(runtime="onnxruntime", runtime_version="1.20.0")


def golden_of(seed: int = 0, n: int = 1000, **changes: object) -> Golden:
    known = Golden(
        run="run-1",
        test="t.py::t",
        measured_at=1e9,
        samples="sha256:1",
        board_id="b1",
        board_class="pi5-8gb-hat2",
        environment="virtual",
        serial="1",
        firmware="edge-os 1.0",
        runtime="onnxruntime",
        runtime_version="1.20.0",
        artifact="digits 0.9.0 fp32",
        artifact_digest="sha256:2",
        latencies_ns=tuple(to_ns(latencies_ms(np.random.default_rng(seed), n, rho=0.5)).tolist()),
    )
    return dataclasses.replace(known, **changes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "g.json").write_bytes(to_bytes(golden_of()))
    return tmp_path


def gate(root: Path, ratio: float = 1.1, **changes: object) -> AgainstGolden:
    asked = {"golden": "g.json", "ratio": ratio, **changes}
    found = parse("p95_latency", (), asked, settings=GateSettings(root=root))
    assert isinstance(found, AgainstGolden)
    return found


def latencies(ratio: float, *, n: int = 1000, seed: int = 1) -> np.ndarray:
    return to_ns(latencies_ms(np.random.default_rng(seed), n, rho=0.5) * ratio)


def verdict_of(root: Path, ratio: float, *, n: int = 1000, allowed: float = 1.1, **changes: object) -> Verdict:
    return gate(root, allowed, **changes).evaluate(timed(latencies(ratio, n=n), conditions=NOW))


def test_clear_cases_are_decided_and_close_ones_are_not(root: Path) -> None:
    fast, slow, close = (verdict_of(root, ratio) for ratio in (0.95, 1.35, 1.1))
    assert [one.outcome for one in (fast, slow, close)] == [Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE]
    for one in (fast, slow, close):
        assert one.decided
        assert (one.unit, one.n, one.budget) == ("ratio", 1000, 1.1)
        assert one.interval[0] < one.observed < one.interval[1]
        assert "g.json (digits 0.9.0 fp32)" in one.reason
        assert "spread between sessions of 3.0%" in one.reason
        assert any("spread between sessions" in text for text in one.not_checked)
    assert "baseline=… instead of golden=…" in close.would_change


def test_without_the_spread_between_sessions_it_would_say_more_than_it_knows(root: Path) -> None:
    wide, narrow = (verdict_of(root, 1.0, session_spread=spread) for spread in (0.03, 0))
    assert wide.statistics["standard_error"] ** 2 == pytest.approx(
        narrow.statistics["standard_error"] ** 2 + 2 * 0.03**2
    )
    assert wide.interval[1] > narrow.interval[1]


def test_it_looks_once_and_what_is_measured_later_changes_nothing(root: Path) -> None:
    chosen = gate(root)
    early = timed(latencies(1.0)[:400], conditions=NOW)
    assert chosen.demand(early).inferences == 600
    assert not chosen.evaluate(early).decided
    whole, longer = latencies(0.95), np.concatenate([latencies(0.95), latencies(3.0, seed=9)])
    one, other = (chosen.evaluate(timed(values, conditions=NOW)) for values in (whole, longer))
    assert (one.outcome, one.observed, one.interval) == (other.outcome, other.observed, other.interval)
    spent = gate(root, max_duration="1 s").evaluate(timed(latencies(1.0)[:400], conditions=NOW))
    assert (spent.outcome, spent.decided) == (Outcome.INCONCLUSIVE, True)


def test_it_looks_once_the_board_had_time_to_show_what_comes_and_goes_on_it(root: Path) -> None:
    chosen, now = gate(root), dataclasses.replace(NOW, steady_state_s=30.0)
    values = latencies(0.95, n=4000)
    early = timed(values[:1000], conditions=now)  # 10 s
    assert (chosen.evaluate(early).outcome, chosen.evaluate(early).decided) == (Outcome.INCONCLUSIVE, False)
    assert "s of the board's steady_state of 30 s so far" in chosen.evaluate(early).reason
    assert 500 < chosen.demand(early).inferences <= 1000
    n = 1000
    while (more := chosen.demand(timed(values[:n], conditions=now))) is not None:
        n += more.inferences
    found = chosen.evaluate(timed(values[:n], conditions=now))
    assert found.outcome is Outcome.PASS
    assert (found.n % 20, found.n <= n <= 4000) == (0, True)
    assert values[: found.n].sum() >= 30e9 > values[: found.n - 20].sum()
    later = chosen.evaluate(timed(values, conditions=now))
    assert (later.observed, later.n) == (found.observed, found.n), "what is measured later changes nothing"
    undeclared = timed(values[:1000], conditions=dataclasses.replace(NOW, steady_state_s=None))
    assert not chosen.evaluate(undeclared).decided, "a board whose lab declares nothing"
    spent = gate(root, max_duration="5 s").evaluate(early)
    assert (spent.outcome, spent.decided) == (Outcome.INCONCLUSIVE, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cls": "pi5-4gb"}, "g.json was measured with board_class pi5-8gb-hat2, board pi5-01 has pi5-4gb"),
        ({"environment": Environment.HARDWARE}, "environment virtual"),
        ({"firmware": None}, "firmware edge-os 1.0, board pi5-01 has none"),
        ({"runtime": "onnxruntime 1.21.0"}, "runtime onnxruntime 1.20.0"),
    ],
)
def test_another_kind_of_board_is_refused_unless_the_marker_allows_it(
    root: Path, changes: dict[str, object], said: str
) -> None:
    alike = dataclasses.replace(
        board(1),
        cls="pi5-8gb-hat2",
        environment=Environment.VIRTUAL,
        firmware="edge-os 1.0",
        runtime="onnxruntime 1.20.0",
    )
    gate(root).require_comparable(alike)
    other = dataclasses.replace(alike, **changes)
    with pytest.raises(UserError) as caught:
        gate(root).require_comparable(other)
    assert said.replace("pi5-01", alike.id) in str(caught.value)
    kind = {"cls": "board_class"}.get(next(iter(changes)), next(iter(changes)))
    assert f"across=({kind!r},)" in str(caught.value)
    gate(root, across=(kind,)).require_comparable(other)


def test_a_sample_of_another_runtime_is_invalid_also_offline(root: Path) -> None:
    sample = timed(latencies(1.0), conditions=conditions(runtime="replay", runtime_version="1"))
    verdict = gate(root).evaluate(sample)
    assert verdict.outcome is Outcome.INVALID
    assert "runtime onnxruntime 1.20.0, this sample with replay 1" in verdict.reason
    assert gate(root, across=("runtime",)).evaluate(sample).outcome is not Outcome.INVALID


@pytest.mark.parametrize(
    "sample",
    [
        timed(np.full(1000, 10_000_000), conditions=NOW),
        timed(np.where(np.arange(1000) == 7, np.nan, latencies(0.5)), conditions=NOW),
        timed(np.where(np.arange(1000) == 7, -5, latencies(0.5)), conditions=NOW),
        timed(np.tile(latencies(0.5)[:50], 20), conditions=NOW),
        timed(latencies(0.5), conditions=dataclasses.replace(NOW, throttled_after=0x4)),
        timed(latencies(0.5), conditions=dataclasses.replace(NOW, boot_id_after="another")),
        timed(latencies(0.5), conditions=NOW, readings=(reading(0.0), reading(1.0, swap_bytes=2**20))),
    ],
    ids=["constant", "nan", "negative", "repeating", "throttled", "rebooted", "swapped"],
)
def test_what_is_no_measurement_of_the_model_is_invalid(root: Path, sample) -> None:
    assert gate(root).evaluate(sample).outcome is Outcome.INVALID
    assert gate(root).evaluate(timed([])).outcome is Outcome.INCONCLUSIVE


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 50), st.sampled_from([0.9, 1.0, 1.1, 1.2, 1.4]))
def test_scaling_both_runs_changes_nothing(tmp_path_factory, scale: int, ratio: float) -> None:
    root = tmp_path_factory.mktemp("scaled")
    both = []
    for by in (1, scale):
        stored = golden_of(latencies_ns=tuple(one * by for one in golden_of().latencies_ns))
        (root / "g.json").write_bytes(to_bytes(stored))
        both.append(gate(root).evaluate(timed(latencies(ratio) * by, conditions=NOW)))
    assert both[0].outcome is both[1].outcome
    assert math.isclose(both[0].observed, both[1].observed, rel_tol=1e-9)


def test_a_stored_verdict_can_be_computed_again_without_the_golden(root: Path, tmp_path: Path) -> None:
    chosen, sample = gate(root, across=["firmware"]), timed(latencies(1.0), conditions=NOW)
    arguments = json.loads(json.dumps(chosen.arguments()))
    assert arguments["golden_digest"] == read_golden(root / "g.json")[1]
    use = GateUse(name="p95_latency", arguments=arguments)
    raw.write_sample(tmp_path / "s.json.gz", sample, [use])
    (root / "g.json").unlink()
    assert from_arguments("p95_latency", arguments) == chosen
    (again,) = raw.recompute(raw.read_sample(tmp_path / "s.json.gz"), [use])
    assert again == chosen.evaluate(sample)


def test_the_file_is_what_was_written(root: Path) -> None:
    assert from_bytes((root / "g.json").read_bytes(), what="g.json") == golden_of()
    assert json.loads((root / "g.json").read_text())["latencies_ns"] == list(golden_of().latencies_ns)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text[:-20], "is no JSON"),
        (lambda text: "[]", "schema is 'list'"),
        (lambda text: text.replace("golden/v1", "golden/v9"), "this is no golden"),
        (lambda text: text.replace('"serial"', '"cereal"'), "board: 'serial' is missing"),
        (lambda text: text.replace('"serial": "1"', '"serial": 1'), "board: serial is 1, expected text"),
        (lambda text: text.replace("latencies_ns\": [", "latencies_ns\": [-1, "), "whole numbers above zero"),
        (lambda text: text.replace("latencies_ns\": [", "latencies_ns\": [1.5, "), "whole numbers above zero"),
        (lambda text: text[: text.index("latencies_ns")] + 'latencies_ns": [1, 2]}', "holds 2 latencies"),
    ],
)  # fmt: skip
def test_what_is_no_golden_is_refused_in_one_line(root: Path, spoil, said: str) -> None:
    (root / "g.json").write_text(spoil((root / "g.json").read_text()))
    with pytest.raises(MarkerError) as caught:
        gate(root)
    assert said in str(caught.value)
    assert "g.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_golden_that_cannot_show_this_quantile_or_anything_is_refused(root: Path) -> None:
    (root / "g.json").write_bytes(to_bytes(golden_of(n=320)))
    with pytest.raises(MarkerError, match="cannot be estimated"):
        parse("quantile_latency", (0.99,), {"golden": "g.json", "ratio": 2.0}, settings=GateSettings(root=root))
    with pytest.raises(MarkerError, match="3 blocks of 100; 6 are needed"):
        gate(root, block=100)
    (root / "g.json").write_bytes(to_bytes(golden_of(latencies_ns=(7,) * 1000)))
    with pytest.raises(MarkerError, match="exactly alike"):
        gate(root)


# --- run again ---------------------------------------------------------------------------------------


def session(ratio: float, *, seed: int, boot: str | None = None, n: int = 1000) -> Sample:
    values = to_ns(ratio * latencies_ms(np.random.default_rng(seed), n, rho=0.5))
    known = dataclasses.replace(NOW, boot_id_before=boot, boot_id_after=boot)
    return timed(values, readings=(), conditions=known)


def again(*runs: Sample) -> Sample:
    """The last one goes on from those before it."""
    before = (EarlierRun(run=f"run-{i}", board="b1", sample=one) for i, one in enumerate(runs[:-1], 1))
    return runs[-1].replace(earlier=tuple(before))


def test_another_boot_is_another_session_and_their_mean_is_held_against_the_golden(root):
    runs = [session(1.03, seed=seed, boot=f"boot-{seed}") for seed in (1, 2, 3)]
    alone = [gate(root).evaluate(one) for one in runs]
    assert {one.outcome for one in alone} == {Outcome.INCONCLUSIVE}
    two, three = (continued.evaluate(gate(root), again(*runs[:count])) for count in (2, 3))
    assert [one.statistics["looks"] for one in (*alone[:1], two, three)] == [1.0, 2.0, 3.0]
    errors = [one.statistics["standard_error"] for one in (alone[0], two, three)]
    assert errors[0] > errors[1] > errors[2] > 0.03, "the golden's own session does not get better known"
    assert "inferences in 2 sessions" in two.reason
    assert alone[0].statistics["critical_t"] < two.statistics["critical_t"] < three.statistics["critical_t"]
    assert continued.demand(gate(root), again(runs[0], session(1.03, seed=4, boot="b", n=100))).inferences == 900


@pytest.mark.parametrize("boots", [("one", "one"), (None, "two"), ("one", None)])
def test_a_run_of_the_same_boot_is_no_other_session_and_adds_nothing(root, boots):
    found = continued.evaluate(gate(root), again(*(session(1.06 - i / 4, seed=i, boot=b) for i, b in enumerate(boots))))
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "this is no other session" in found.reason
    assert "a run after another boot or on another board" in found.would_change


def test_what_a_session_has_shown_stands(root):
    slow, quick = session(1.4, seed=1, boot="one"), session(0.8, seed=2, boot="two")
    assert continued.evaluate(gate(root), again(slow, quick)).outcome is Outcome.FAIL
    assert continued.evaluate(gate(root), again(quick, slow)).outcome is Outcome.PASS
    assert "alone it would say FAIL" in continued.evaluate(gate(root), again(quick, slow)).not_checked[-1]
    cut = again(session(1.4, seed=1, boot="one", n=60), quick)
    assert continued.evaluate(gate(root), cut).outcome is Outcome.PASS, "a run that was cut short has shown nothing"


def test_sessions_at_the_limit_err_no_more_often_than_alpha_in_all():
    from pytest_edgehil.gates.stats.block_ratio import LogRatio, session_critical

    spread, most, tries = 0.03, 8, 4000
    ratios = [LogRatio(value=0.0, error=spread * math.sqrt(1 + 1 / k), df=1e6) for k in range(1, most + 1)]
    critical = np.array([session_critical(ratios[:k], 0.05) for k in range(1, most + 1)])
    rng = np.random.default_rng(4)
    then, now = rng.normal(0.0, spread, (tries, 1)), rng.normal(0.0, spread, (tries, most))
    mean = np.cumsum(now, axis=1) / np.arange(1, most + 1) - then
    assert 0.035 < float((mean + critical * [one.error for one in ratios] <= 0).any(axis=1).mean()) < 0.06
