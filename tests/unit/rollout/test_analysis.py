from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.canary import NEW, NOW, OLD, PLAN, fleet, line, write

from pytest_edgehil.model.board import Environment
from pytest_edgehil.rollout.analysis import (
    Grade,
    Measurement,
    Phase,
    analyse,
    binomial_upper,
    hard_rules,
    judge,
    measure,
    p95_ratio,
    p95_ratio_upper,
    poisson_upper,
)
from pytest_edgehil.rollout.condition import parse
from pytest_edgehil.rollout.plan import Metric, Plan, load_plan
from pytest_edgehil.rollout.telemetry import Report, read_telemetry


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return load_plan(path)


def reports(tmp_path: Path, lines: list[dict[str, Any]]) -> tuple[Report, ...]:
    directory = write(tmp_path / "telemetry", lines)
    return read_telemetry(directory, artifact=NEW, baseline=OLD, environment=Environment.VIRTUAL, now=NOW).reports


def metric(**changes: Any) -> Metric:
    base = Metric(
        name="m",
        measure="crash-rate",
        success=parse("result < 2"),
        failure=parse("result >= 3"),
        interval_s=60.0,
        count=1,
        failure_limit=0,
        inconclusive_limit=0,
    )
    return dataclasses.replace(base, **changes)


def grades(*values: float | None, **changes: Any) -> tuple[Phase, tuple[Grade, ...]]:
    found = judge(metric(**changes), [Measurement(value=one) for one in values])
    return found.phase, found.grades


# --- the metric rule and its traps ---------------------------------------------------------------------


def test_a_good_measurement_is_successful() -> None:
    assert grades(1.0) == (Phase.SUCCESSFUL, (Grade.OK,))


def test_more_failures_than_the_limit_fail() -> None:
    assert grades(3.0)[0] is Phase.FAILED
    assert grades(3.0, 1.0, failure_limit=1)[0] is Phase.SUCCESSFUL
    assert grades(3.0, 3.0, 1.0, failure_limit=1)[0] is Phase.FAILED


def test_no_measurement_at_all_is_inconclusive() -> None:
    assert grades()[0] is Phase.INCONCLUSIVE


def test_no_data_is_inconclusive_whatever_the_limits() -> None:
    assert grades(1.0, None, inconclusive_limit=9) == (Phase.INCONCLUSIVE, (Grade.OK, Grade.ERROR))


def test_nan_is_inconclusive_also_with_conditions_that_nan_would_pass() -> None:
    assert grades(math.nan, success=parse("!(result > 2)"), failure=parse("result != 1"))[1] == (Grade.INCONCLUSIVE,)
    assert grades(math.nan, failure=None)[0] is Phase.INCONCLUSIVE


def test_neither_condition_true_is_inconclusive() -> None:
    assert grades(2.5) == (Phase.INCONCLUSIVE, (Grade.INCONCLUSIVE,))
    assert grades(2.5, failure=None)[0] is Phase.INCONCLUSIVE
    assert grades(2.5, 1.0, inconclusive_limit=1)[0] is Phase.SUCCESSFUL


def test_both_conditions_true_is_a_failure() -> None:
    assert grades(3.0, success=parse("result > 0"))[1] == (Grade.FAILURE,)


def test_fewer_good_ones_than_the_count_are_inconclusive() -> None:
    assert grades(1.0, 1.0, count=3)[0] is Phase.INCONCLUSIVE
    assert grades(1.0, 1.0, 1.0, count=3)[0] is Phase.SUCCESSFUL


def test_failures_weigh_more_than_missing_data() -> None:
    assert grades(3.0, None)[0] is Phase.FAILED


# --- measures ------------------------------------------------------------------------------------------


def test_the_same_distribution_gives_a_ratio_of_one_and_a_bound_above() -> None:
    rng = np.random.default_rng(1)
    groups = [[(5e6 * rng.lognormal(0, 0.1, 500)).astype(np.int64) for _ in range(10)] for _ in range(2)]
    ratio, upper = p95_ratio(*groups), p95_ratio_upper(*groups, 0.95)
    assert ratio == pytest.approx(1, abs=0.05)
    assert ratio < upper < 1.2


def test_a_slow_tail_of_six_percent_is_seen() -> None:
    rng = np.random.default_rng(2)

    def device(*, tail: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        latencies = 5e6 * rng.lognormal(0, 0.1, 1000)
        return np.where(tail & (rng.random(1000) < 0.06), latencies * 5, latencies).astype(np.int64)

    ratio = p95_ratio([device(tail=True) for _ in range(10)], [device(tail=False) for _ in range(10)])
    assert ratio > 2


def test_devices_that_differ_widen_the_bound_however_many_requests_they_report() -> None:
    slow_one = [np.full(5000, 5_000_000 * (4 if i == 0 else 1), dtype=np.int64) for i in range(6)]
    control = [np.full(5000, 5_000_000, dtype=np.int64) for _ in range(6)]
    assert p95_ratio_upper(slow_one, control, 0.95) == 4.0


def test_the_bound_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        groups = [
            [(5e6 * rng.lognormal(0, 0.05) * rng.lognormal(0, 0.1, 100)).astype(np.int64) for _ in range(10)]
            for _ in range(2)
        ]
        covered += p95_ratio_upper(*groups, 0.95) >= 1.0
    assert covered >= 50  # 57 are expected; a bound over requests would cover far fewer


def test_the_same_telemetry_gives_the_same_bound() -> None:
    rng = np.random.default_rng(4)
    groups = [[rng.integers(1, 10**7, 50) for _ in range(4)] for _ in range(2)]
    assert p95_ratio_upper(*groups, 0.95) == p95_ratio_upper(*groups, 0.95)


def test_a_device_that_reports_much_does_not_drown_the_others() -> None:
    loud = [np.full(100_000, 5_000_000, dtype=np.int64), *(np.full(100, 20_000_000, dtype=np.int64) for _ in range(3))]
    assert p95_ratio(loud, [np.full(100, 5_000_000, dtype=np.int64)]) == 4.0


def test_zero_crashes_need_299_sessions_for_one_percent() -> None:
    assert binomial_upper(0, 299, 0.95) < 0.01 < binomial_upper(0, 298, 0.95)
    assert binomial_upper(5, 5, 0.95) == 1.0
    assert poisson_upper(0, 299.6, 0.95) < 0.01 < poisson_upper(0, 299.5, 0.95)


def test_too_few_latencies_are_nan_and_none_are_no_data(plan: Plan, tmp_path: Path) -> None:
    few = reports(tmp_path, fleet(devices=4, latencies_ns=[5_000_000] * 10))
    found = measure("p95-ratio", few, plan).value
    assert found is not None
    assert math.isnan(found)
    assert measure("p95-ratio", [one for one in few if one.group == "canary"], plan).value is None
    assert measure("p95-ratio", [], plan).value is None


def test_too_few_devices_give_no_bound(plan: Plan, tmp_path: Path) -> None:
    found = measure("p95-ratio-upper", reports(tmp_path, fleet(devices=2)), plan)
    assert found.value is not None
    assert math.isnan(found.value)
    assert found.note == "2 canaries, 3 are needed for a bound"


def test_rates_without_anything_to_count_are_no_data(plan: Plan, tmp_path: Path) -> None:
    silent = reports(tmp_path, fleet(sessions=0, shadow_compared=0, device_hours=0.0))
    for name in ("crash-rate", "crash-rate-upper", "crashes-per-hour", "shadow-disagreement"):
        assert measure(name, silent, plan).value is None  # type: ignore[arg-type]


def test_rates_count_the_canaries_only(plan: Plan, tmp_path: Path) -> None:
    lines = [*fleet(crashes=1), line("d9", "control", crashes=20)]
    assert measure("crash-rate", reports(tmp_path, lines), plan).value == pytest.approx(4 / 80)
    assert measure("crashes-per-hour", reports(tmp_path, lines), plan).value == pytest.approx(1.0)


def test_an_hour_without_reports_is_an_error_not_a_success(plan: Plan, tmp_path: Path) -> None:
    lines = [
        line(f"{group}{i}", group, started_at=NOW - 7200 + hour * 3600)
        for group in ("canary", "control")
        for i in range(3)
        for hour in (0, 2)
    ]
    hourly = dataclasses.replace(plan, metrics=(dataclasses.replace(plan.metrics[1], interval_s=3600.0),))
    (found,) = analyse(hourly, reports(tmp_path, lines))
    assert found.grades == (Grade.OK, Grade.ERROR, Grade.OK)
    assert found.phase is Phase.INCONCLUSIVE


# --- hard rules ----------------------------------------------------------------------------------------


def test_hard_rules_say_nothing_of_a_healthy_fleet(plan: Plan, tmp_path: Path) -> None:
    assert hard_rules(plan, reports(tmp_path, fleet())) == ()


def test_a_p95_of_more_than_twice_the_baseline_is_a_hard_rule(plan: Plan, tmp_path: Path) -> None:
    (reason,) = hard_rules(plan, reports(tmp_path, fleet(slower=2.5)))
    assert "times the baseline's, more than 2" in reason


def test_more_than_one_crash_in_a_hundred_is_a_hard_rule(plan: Plan, tmp_path: Path) -> None:
    assert hard_rules(plan, reports(tmp_path, fleet(crashes=1))) == (
        "4 of 80 sessions crashed, more than 0.01 of them",
    )
