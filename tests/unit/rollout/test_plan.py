from __future__ import annotations

from pathlib import Path

import pytest
from support.canary import PLAN

from pytest_edgehil.errors import RolloutError
from pytest_edgehil.rollout.plan import load_plan

FARM = Path(__file__).parents[3] / "farm"


def test_a_plan_is_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    plan = load_plan(path)
    assert [(one.weight_percent, one.pause_s) for one in plan.steps] == [(10, 0.0), (50, 3600.0), (100, 0.0)]
    assert [one.name for one in plan.metrics] == ["latency", "answers"]
    assert (plan.hard_p95_ratio, plan.hard_crash_rate) == (2.0, 0.01)


def test_the_plan_of_the_farm_can_be_read() -> None:
    assert load_plan(FARM / "rollout-plan.yaml").steps[0].weight_percent == 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("result < 2", "result < two", r"plan.yaml:17: .*metrics\[0\].successCondition: .* is no condition"),
        ("          successCondition: result < 2\n", "", r"metrics\[0\].successCondition: missing: this key is needed"),
        (
            "p95-ratio-upper",
            "p95",
            r"plan.yaml:16: .*metrics\[0\].measure: unknown value 'p95'; expected one of p95-",
        ),
        ("failureCondition: result >= 2", "failureConditon: result >= 2", "did you mean 'failureCondition'"),
        ("setWeight: 50", "setWeight: 5", "must rise from step to step"),
        ("setWeight: 10\n", "pause: {duration: 1 h}\n", "the first step must be a setWeight"),
        ("setWeight: 100", "setWeight: 101", r"steps\[3\].setWeight: expected at most 100, found the number 101"),
        ("duration: 1 h", "duration: soon", "'soon' is no duration"),
        ("seq: 1", "seq: 0", r"plan.yaml:2: seq: "),
        (
            "seq: 1",
            "seq: 1\nrollback: {p95Ratio: 3.0}",
            r"plan.yaml:3: rollback.p95Ratio: expected at most 2, found the",
        ),
        ("seq: 1", "seq: 1\nrollback: {crashRate: 0.5}", r"rollback.crashRate: "),
        ("seq: 1", "seq: 1\nrollback: {p95Ratio: .nan}", r"rollback.p95Ratio: expected a finite number, found nan"),
        ("seq: 1", "seq: 1\nartifact: digits", r"plan.yaml:3: artifact: "),
        ("- name: answers", "- name: latency", "two metrics have the same name"),
        ("          failureCondition: result >= 2", "          count: 3", "count > 1 needs an interval"),
        ("minDevices: 3", "minDevices: 1", r"analysis.minDevices: "),
        ("environment: virtual", "environment: real", r"plan.yaml:3: environment: "),
    ],
)
def test_a_bad_plan_is_refused_with_file_line_and_path(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAN
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.replace(old, new))
    with pytest.raises(RolloutError, match=message):
        load_plan(path)
