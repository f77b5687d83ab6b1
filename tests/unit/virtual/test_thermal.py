from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_edgehil.model.board import ThermalModel
from pytest_edgehil.virtual import thermal
from pytest_edgehil.virtual.thermal import Die

MODEL = ThermalModel(ambient_c=25.0, idle_w=2.7, busy_w=6.3, resistance_c_per_w=4.5, tau_s=60.0)


def test_a_die_that_is_idle_for_long_is_at_the_idle_temperature():
    assert Die.settled(MODEL).temperature_c == pytest.approx(25 + 4.5 * 2.7)


def test_a_busy_die_covers_63_percent_of_the_way_in_one_time_constant():
    die = Die.settled(MODEL)
    start_c = die.temperature_c
    die.step(dt_s=60.0, utilisation=1.0)
    assert (die.temperature_c - start_c) / (4.5 * 6.3) == pytest.approx(1 - math.exp(-1))


def test_the_length_of_the_steps_does_not_matter():
    coarse, fine = Die.settled(MODEL), Die.settled(MODEL)
    coarse.step(dt_s=30.0, utilisation=0.7)
    for _ in range(300):
        fine.step(dt_s=0.1, utilisation=0.7)
    assert fine.temperature_c == pytest.approx(coarse.temperature_c)


@given(st.floats(-20, 130))
def test_the_sensor_is_within_half_a_step_of_the_truth_and_on_its_grid(temperature_c):
    milli_c = thermal.sensor_milli_c(temperature_c)
    assert abs(milli_c - temperature_c * 1000) <= 275 + 1e-6
    assert (450_000 - milli_c) % 550 == 0


def test_sticky_bits_stay_after_the_die_has_cooled_and_go_with_a_boot():
    die = Die(MODEL, 86.0)
    die.step(dt_s=0.01, utilisation=0.0)
    assert die.throttled == 0xE000E
    for _ in range(100):
        die.step(dt_s=60.0, utilisation=0.0)
    assert die.throttled == 0xE0000
    die.reset_sticky()
    assert die.throttled == 0


def test_between_the_limits_only_the_soft_limit_is_reported():
    die = Die(ThermalModel(tau_s=1e9), 82.0)
    die.step(dt_s=0.01, utilisation=0.0)
    assert die.throttled == 0x80008


@pytest.mark.parametrize(("temperature_c", "mhz"), [(25, 2400), (79.9, 2400), (82.5, 2000), (85, 1500), (105, 1500)])
def test_the_clock_falls_between_80_and_85_degrees(temperature_c, mhz):
    assert thermal.arm_hz(temperature_c) == pytest.approx(mhz * 10**6, abs=50 * 10**6)


def test_a_runaway_die_heats_up_to_its_limit_and_cools_once_it_is_over():
    die = Die.settled(MODEL)
    die.runaway = (10.0, 90.0)
    die.step(dt_s=1.0, utilisation=0.0)
    assert die.temperature_c == pytest.approx(47.15)
    die.step(dt_s=100.0, utilisation=0.0)
    assert die.temperature_c == 90.0
    die.runaway = None
    die.step(dt_s=600.0, utilisation=0.0)
    assert die.temperature_c < 40.0


def test_without_power_the_die_cools_to_ambient():
    die = Die(MODEL, 80.0)
    die.cool_off(dt_s=3600.0)
    assert die.temperature_c == pytest.approx(25.0, abs=0.01)


def test_pmic_prints_26_rails_whose_sum_gives_the_power_back():
    lines = thermal.pmic_lines(6.0).splitlines()
    assert len(lines) == 26
    assert len({line.index(" ", 16) for line in lines}) == 1, "names are right-aligned"
    values = {}
    for line in lines:
        name, reading = line.split()
        values[name] = float(reading.partition("=")[2].rstrip("AV"))
    rails = {name[:-2] for name in values if name.endswith("_A")}
    summed_w = sum(values[f"{rail}_A"] * values[f"{rail}_V"] for rail in rails)
    assert 1.1451 * summed_w + 0.5879 == pytest.approx(6.0, rel=1e-4)
    assert {name for name in values if name[:-2] not in rails} == {"EXT5V_V", "BATT_V"}
