from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

from pytest_edgehil.errors import GateFailure, Inconclusive, InvalidMeasurement, MarkerError
from pytest_edgehil.gates import registry
from pytest_edgehil.gates.registry import SIGNATURES, GateSettings, from_arguments, names, parse
from pytest_edgehil.gates.require import require
from pytest_edgehil.model import Outcome, Verdict

GOOD = [
    ("p95_latency", ("12 ms",), {}),
    ("p95_latency", (), {"budget": "1 s", "alpha": 0.01, "max_samples": 300, "max_duration": "1 min"}),
    ("p95_latency", ("12 ms",), {"min_duration": "30 s", "max_drift": "3 C"}),
    ("quantile_latency", (0.99, "20 ms"), {}),
    ("p95_latency", (), {"baseline": "digits-fp32", "ratio": 1.1}),
    ("quantile_latency", (0.9,), {"baseline": "b", "ratio": 0.9, "pairs": 30, "block": 20, "max_drift": "3 C"}),
    ("accuracy", (), {"agreement": 0.98, "baseline": "digits-fp32"}),
    ("accuracy", (), {"drop": 0.01, "alpha": 0.1}),
    ("accuracy", (), {"at_least": 0.9}),
    ("peak_rss", ("180 MiB",), {}),
    ("size", ("2 MiB",), {}),
    ("cold_start", ("2 s",), {"starts": 5}),
    ("thermal", ("80 C",), {}),
    ("thermal", (), {"max": "80 C", "throttling": True, "duration": "5 min", "settle": "0 s"}),
    ("thermal", (), {"throttling": False}),
    ("soak", ("1 h",), {"leak": "5 MiB/h", "crash_rate": 0.01, "peak_rss": "200 MiB"}),
]
BAD = [
    ("p95_latency", ("12 parsecs",), {}, "p95_latency: '12 parsecs' is no duration: unknown unit 'parsecs'"),
    ("p95_latency", (), {"buget": "1 ms"}, "unknown argument 'buget' (did you mean 'budget'?)"),
    ("p95_latency", (), {}, "missing what to hold it against: pass one of budget, baseline, golden"),
    ("p95_latency", ("1 ms",), {"baseline": "b", "ratio": 1.1}, "budget and baseline are given"),
    ("p95_latency", (), {"baseline": "b"}, "baseline needs ratio=…"),
    ("p95_latency", (), {"baseline": "b", "ratio": "10 %"}, "ratio must be a number"),
    ("p95_latency", (), {"baseline": "b", "ratio": 0}, "ratio must lie between 0 and 100"),
    ("p95_latency", (), {"baseline": 7, "ratio": 1.1}, "baseline must be the name of an artifact"),
    ("p95_latency", (), {"baseline": "b", "ratio": 1.1, "max_samples": 99}, "max_samples means nothing with baseline"),
    ("p95_latency", (), {"baseline": "b", "ratio": 1.1, "pairs": 5}, "pairs must be at least 6"),
    ("p95_latency", (), {"golden": "no.json", "ratio": 1.1}, "no.json: the golden cannot be read: No such file"),
    ("p95_latency", (), {"golden": 7, "ratio": 1.1}, "golden must be the path of a file"),
    ("p95_latency", (), {"golden": "g", "ratio": 1.1, "pairs": 9}, "pairs means nothing with golden"),
    ("p95_latency", (), {"golden": "g", "ratio": 1.1, "session_spread": 3}, "session_spread must lie between 0 and 1"),
    ("p95_latency", (), {"golden": "g", "ratio": 1.1, "max_samples": 250}, "5 blocks of 50; at least 6 are needed"),
    ("p95_latency", (), {"baseline": "b", "ratio": 1.1, "across": ("runtime",)}, "across means nothing with baseline"),
    ("p95_latency", ("1 ms",), {"pairs": 9}, "pairs means nothing with budget"),
    ("quantile_latency", (0.999,), {"baseline": "b", "ratio": 1.1}, "pass block=250 or more (pairs=20)"),
    ("p95_latency", ("1 ms", "2 ms"), {}, "too many positional arguments"),
    ("p95_latency", ("0 ms",), {}, "budget must be more than zero"),
    ("p95_latency", (12,), {}, "must be text with a unit"),
    ("p95_latency", ("1 ms",), {"alpha": 2}, "alpha must lie between 0 and 0.5"),
    ("p95_latency", ("1 ms",), {"alpha": "5%"}, "alpha must be a number"),
    ("p95_latency", ("1 ms",), {"alpha": True}, "alpha must be a number"),
    ("p95_latency", ("1 ms",), {"alpha": float("nan")}, "alpha must lie between"),
    ("p95_latency", ("1 ms",), {"max_samples": 5}, "max_samples must be at least 30"),
    ("p95_latency", ("1 ms",), {"max_samples": 1.5}, "max_samples must be a whole number"),
    ("quantile_latency", (99, "1 ms"), {}, "q must lie between 0.5 and 1"),
    ("accuracy", (), {}, "exactly one of agreement, drop and at_least is needed; none is given"),
    ("accuracy", (), {"agreement": 0.9, "drop": 0.1}, "agreement and drop are given"),
    ("accuracy", (), {"agreement": 98}, "agreement must lie between 0 and 1"),
    ("accuracy", (), {"at_least": 0.9, "baseline": "x"}, "needs no baseline"),
    ("accuracy", (), {"agreement": 0.9, "baseline": 7}, "baseline must be the name of an artifact"),
    ("peak_rss", ("180 MHz",), {}, "'180 MHz' is no size"),
    ("thermal", ("80 F",), {}, "'80 F' is no temperature"),
    ("thermal", (), {"throttling": True}, "nothing is asked"),
    ("thermal", (), {"max": "80 C", "throttling": "no"}, "throttling must be True or False"),
    ("soak", ("1 h",), {"leak": "5 MiB"}, "'5 MiB' is no rate"),
    ("soak", ("1 h",), {"drift_of": "p95"}, "drift_of='p95' means nothing without drift="),
    ("soak", ("10 min",), {"leak": "5 MiB/h"}, "a leak cannot be told from warming up in less than 30 min"),
    ("soak", ("10 min",), {"crash_rate": 0.01}, "needs a soak of at least 49.83 min"),
    ("cold_start", ("2 s",), {"starts": 0}, "starts must be at least 1"),
    ("p95latency", ("2 s",), {}, "no such gate (did you mean 'p95_latency'?)"),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), GOOD)
def test_recorded_arguments_give_the_same_gate_again(
    name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    gate = parse(name, args, kwargs, settings=GateSettings(alpha=0.03, soak_ns=10**10))
    assert gate.name == name
    assert from_arguments(name, json.loads(json.dumps(gate.arguments()))) == gate


@pytest.mark.parametrize(("name", "args", "kwargs", "said"), BAD)
def test_a_bad_marker_is_refused_in_one_line_that_starts_with_its_name(
    name: str, args: tuple[object, ...], kwargs: dict[str, object], said: str
) -> None:
    with pytest.raises(MarkerError) as caught:
        parse(name, args, kwargs, settings=GateSettings())
    assert str(caught.value).startswith(f"{name}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recorded_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MarkerError, match="do not fit this version"):
        from_arguments("size", {"budget": 1})
    with pytest.raises(MarkerError, match="no such gate"):
        from_arguments("sise", {})


def test_the_runs_alpha_applies_where_the_marker_says_none() -> None:
    settings = GateSettings(alpha=0.01)
    assert parse("p95_latency", ("1 ms",), {}, settings=settings).arguments()["alpha"] == 0.01
    assert parse("p95_latency", ("1 ms",), {"alpha": 0.02}, settings=settings).arguments()["alpha"] == 0.02


@pytest.mark.parametrize("name", names())
def test_signatures_shown_to_people_are_the_real_ones(name: str) -> None:
    kind = registry._KINDS[name]
    parameters = [
        one.replace(annotation=inspect.Parameter.empty)
        for one in inspect.signature(kind.declare).parameters.values()
        if one.name not in registry._OURS
    ]
    assert SIGNATURES[name].startswith(f"{name}{inspect.Signature(parameters)}: ")


def test_every_gate_has_a_signature_and_every_signature_a_gate() -> None:
    assert set(SIGNATURES) == set(names())


@pytest.mark.parametrize(("q", "most"), [(0.9, 1000), (0.95, 1000), (0.99, 1000), (0.995, 2000), (0.999, 10_000)])
def test_a_far_quantile_is_allowed_as_many_inferences_by_default_as_it_takes_to_pass(q: float, most: int) -> None:
    gate = parse("quantile_latency", (q, "1 ms"), {}, settings=GateSettings())
    assert gate.arguments()["max_samples"] == most
    least = parse("quantile_latency", (q, "1 ms"), {"max_samples": 60}, settings=GateSettings())
    assert least.arguments()["max_samples"] == 60


def test_parsing_markers_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from pytest_edgehil.gates import gate, judging, registry, require\n"
        "for name, text in {'p95_latency': '1 ms', 'soak': '1 h', 'thermal': '80 C', 'size': '1 B'}.items():\n"
        "    registry.parse(name, (text,), {}, settings=registry.GateSettings())\n"
        "print(sorted({'numpy', 'scipy', 'pydantic', 'paramiko'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome.FAIL, GateFailure),
        (Outcome.INCONCLUSIVE, Inconclusive),
        (Outcome.INVALID, InvalidMeasurement),
    ],
)
def test_a_verdict_is_enforced_by_its_outcome(outcome: Outcome, error: type[Exception]) -> None:
    verdict = Verdict(gate="size", outcome=outcome, unit="bytes", n=1, reason="too\nlarge by 12 bytes")
    with pytest.raises(error, match=f"^size: {outcome.value}: too large by 12 bytes$"):
        require(verdict)


def test_a_pass_is_let_through() -> None:
    require(Verdict(gate="size", outcome=Outcome.PASS, unit="bytes", n=1, reason=""))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("p95_latency", {"budget": "12 ms", "alpha": 10**400}),
        ("accuracy", {"agreement": 10**400}),
        ("token_kl", {"budget": 10**400}),
        ("thermal", {"max": "80 C", "alpha": 10**400}),
    ],
)
def test_a_number_beyond_every_float_is_refused_in_one_line(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(MarkerError, match=f"^{name}: ") as refused:
        parse(name, (), arguments, settings=GateSettings())
    assert "\n" not in str(refused.value)
