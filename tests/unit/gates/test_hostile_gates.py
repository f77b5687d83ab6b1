"""Numbers that no board measures and markers that nobody means: one clear line each, and never a PASS."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support.samples import MS, conditions, reading, timed

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.gates.continued import demand, evaluate
from pytest_edgehil.gates.registry import GateSettings, parse
from pytest_edgehil.model import Outcome, Sample
from pytest_edgehil.model.sample import ColdStart
from pytest_edgehil.model.series import BlockPair, Generations, Paired, TokenScores

GATES: dict[str, tuple[tuple[object, ...], dict[str, object]]] = {
    "accuracy": ((), {"agreement": 0.9}),
    "cosine_similarity": ((0.9,), {}),
    "token_kl": (("0.02 nats",), {}),
    "perplexity_ratio": ((1.1,), {}),
    "p95_latency": ((), {"baseline": "old", "ratio": 1.1}),
    "peak_rss": (("180 MiB",), {}),
    "thermal": ((), {"max": "80 C"}),
    "soak": (("1 h",), {"leak": "5 MiB/h", "crash_rate": 0.01, "drift": "10 %"}),
    "size": (("1 MiB",), {}),
    "throughput": (("50/s",), {}),
    "tokens_per_second": (("5/s",), {}),
    "time_to_first_token": (("1 s",), {}),
    "npu_utilisation": ((), {"at_least": 0.5}),
    "energy": (("1 J",), {}),
    "cold_start": (("1 s",), {}),
}
BAD_VALUES = (
    math.nan, math.inf, -math.inf, -1, "", "x" * 5000, "5", True, [], {}, object(), b"1", "nan ms", "inf s", "-3 ms",
    "1e999 s", "0 s", 10**400, 1 + 1j,
)  # fmt: skip
N = 400


def declared(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    parse(name, args, kwargs, settings=GateSettings())


@pytest.mark.parametrize("name", [one for one in GATES if one not in {"size", "peak_rss", "cold_start"}])
def test_an_error_rate_that_is_none_is_one_line(name: str) -> None:
    args, kwargs = GATES[name]
    for alpha in (0, 1, 0.5, -0.1, math.nan, "0.05", True, 10**400):
        with pytest.raises(MarkerError) as told:
            declared(name, args, {**kwargs, "alpha": alpha})
        assert len(str(told.value)) < 300
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", GATES)
def test_a_limit_that_is_none_is_one_short_line(name: str) -> None:
    args, kwargs = GATES[name]
    for bad in BAD_VALUES:
        for at in range(len(args)):
            with pytest.raises(MarkerError) as told:
                declared(name, (*args[:at], bad, *args[at + 1 :]), kwargs)
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < 300, "a person's text is not echoed whole"
        for key in kwargs:
            if key == "baseline" and isinstance(bad, str) and bad:
                continue  # any name may be an artifact's
            with pytest.raises(MarkerError) as told:
                declared(name, args, {**kwargs, key: bad})
            assert "\n" not in str(told.value)
            assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("accuracy", (), {}),
        ("accuracy", (), {"agreement": 0.9, "drop": 0.01}),
        ("p95_latency", ("12 ms",), {"baseline": "old", "ratio": 1.1}),
        ("p95_latency", (), {"baseline": "old", "golden": "g.json", "ratio": 1.1}),
        ("p95_latency", (), {"baseline": "old", "ratio": 1.1, "rate": "20/s"}),
        ("npu_utilisation", (), {"at_least": 0.7, "max": 0.6}),
        ("npu_utilisation", (), {}),
        ("thermal", (), {"throttling": True}),
    ],
)
def test_markers_that_contradict_themselves_are_one_line(
    name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    with pytest.raises(MarkerError, match=rf"^{name}: ") as told:
        declared(name, args, kwargs)
    assert "\n" not in str(told.value)


def of_only(value: float, n: int) -> Sample:
    """A sample in which whatever can be measured is this number, n times."""
    values: Any = np.full(n, value)
    numbers = np.arange(n)
    block = np.full(50, value)
    pairs = tuple(
        BlockPair(
            candidate_ns=block, baseline_ns=block, candidate_first=True, candidate_start_ns=0, baseline_start_ns=0
        )  # type: ignore[arg-type]
        for _ in range(20)
    )
    return timed(np.full(N, 8 * MS) + np.arange(N)).replace(
        latencies_ns=values,
        starts_ns=numbers,
        agreed=values,
        correct=values,
        baseline_correct=values,
        cosines=values,
        evaluated_of=n,
        conditions=conditions(),
        peak_rss_bytes=value if n else None,
        artifact_size_bytes=value if n else None,
        cold_starts=tuple(
            ColdStart(load_ns=value, rss_before_bytes=1, rss_after_bytes=2, peak_rss_bytes=3)  # type: ignore[arg-type]
            for _ in range(min(n, 3))
        ),
        readings=tuple(
            reading(float(at), rss_bytes=value, swap_bytes=value, temperature_c=value, npu_percent=value, power_w=value)
            for at in range(n)
        ),
        duration_s=4000.0,
        generations=Generations(
            starts_ns=numbers, prompt_tokens=np.full(n, 3), new_tokens=values, first_token_ns=values, total_ns=values
        ),
        token_scores=TokenScores(prompt=numbers // 4, kl=values, nll=values, baseline_nll=values),
        paired=(Paired(baseline="old", digest="d", seed=1, pairs=pairs),),
    )


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(("value", "n"), [(math.nan, N), (math.inf, N), (-math.inf, N), (-5.0, N), (0.0, N), (1.0, 0)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of numbers that are none
def test_what_no_board_measures_never_passes_and_reads_as_one_line(name: str, value: float, n: int) -> None:
    args, kwargs = GATES[name]
    gate = parse(name, args, kwargs, settings=GateSettings())
    sample = of_only(value, n)
    verdict = evaluate(gate, sample)
    demand(gate, sample)
    told = name in {"token_kl", "perplexity_ratio"} and value == 0.0  # a model that says just what its baseline says
    assert verdict.outcome is not Outcome.PASS or told, verdict.reason
    assert "\n" not in verdict.reason
    assert " nan" not in verdict.reason.lower()
