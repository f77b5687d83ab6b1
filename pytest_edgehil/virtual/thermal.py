"""How warm a virtual board's die is, and what its firmware does about it. Pure.

A first-order RC model: with the load constant over ``dt``, ``T(t + dt) = T∞ + (T(t) − T∞)·exp(−dt/τ)`` holds exactly,
so the step may have any length. Limits: raspberrypi/documentation, frequency-management and graphics-utilities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pytest_edgehil.model.board import ThermalModel

CORES = 4
ARM_MAX_HZ = 2_400_000_000
ARM_MIN_HZ = 1_500_000_000
SOFT_LIMIT_C = 80.0
HARD_LIMIT_C = 85.0
CRITICAL_C = 110.0
SENSOR_STEP_MILLI_C = 550  # BCM2712 AVS monitor: millidegrees = 450000 − 550·raw
SENSOR_OFFSET_MILLI_C = 450_000

CAPPED, THROTTLED, SOFT_LIMIT = 1 << 1, 1 << 2, 1 << 3
STICKY_SHIFT = 16


def steady_c(model: ThermalModel, utilisation: float) -> float:
    """Temperature that the die approaches at this share of all four cores.

    >>> steady_c(ThermalModel(), 0.0)
    37.15
    """
    return model.ambient_c + model.resistance_c_per_w * power_w(model, utilisation)


def power_w(model: ThermalModel, utilisation: float) -> float:
    """Power that the board draws at this share of all four cores."""
    return model.idle_w + model.busy_w * min(max(utilisation, 0.0), 1.0)


def approach(now_c: float, target_c: float, *, dt_s: float, tau_s: float) -> float:
    """Temperature after `dt_s` on the way to `target_c`.

    >>> round(approach(20.0, 100.0, dt_s=60.0, tau_s=60.0), 3)
    70.57
    """
    return target_c + (now_c - target_c) * math.exp(-dt_s / tau_s) if tau_s > 0 else target_c


def sensor_milli_c(temperature_c: float) -> int:
    """What the sensor says, in millidegrees: steps of 0.55 °C.

    >>> sensor_milli_c(52.3)
    52350
    """
    raw = round((SENSOR_OFFSET_MILLI_C - temperature_c * 1000) / SENSOR_STEP_MILLI_C)
    return SENSOR_OFFSET_MILLI_C - SENSOR_STEP_MILLI_C * raw


def live_bits(temperature_c: float) -> int:
    """Bits 1 to 3 of ``get_throttled`` at this temperature; bit 0 (under-voltage) is never set here.

    >>> [hex(live_bits(t)) for t in (79.9, 80.0, 85.0)]
    ['0x0', '0x8', '0xe']
    """
    if temperature_c >= HARD_LIMIT_C:
        return CAPPED | THROTTLED | SOFT_LIMIT
    return SOFT_LIMIT if temperature_c >= SOFT_LIMIT_C else 0


def arm_hz(temperature_c: float) -> int:
    """Clock of the Arm cores: full below 80 °C, lowest from 85 °C, in steps of 100 MHz between.

    The governor is *performance*: an idle virtual board keeps its clock, so that a change means throttling. The host's
    cores are not slowed down: a virtual board reports its clock, it does not have one.

    >>> [arm_hz(t) // 10**6 for t in (40, 80, 82.5, 90)]
    [2400, 2400, 2000, 1500]
    """
    share = min(max((temperature_c - SOFT_LIMIT_C) / (HARD_LIMIT_C - SOFT_LIMIT_C), 0.0), 1.0)
    return ARM_MAX_HZ - round(share * (ARM_MAX_HZ - ARM_MIN_HZ) / 1e8) * 100_000_000


@dataclass(slots=True)
class Die:
    """The die of one board: temperature and what the firmware remembers until the next boot.

    Args:
        temperature_c: of now; it lives through power cuts and cools meanwhile.
        throttled: live bits and, 16 above, those that have occurred since boot.
        runaway: rate in °C/s and limit in °C while the cooling is out of order.
    """

    model: ThermalModel
    temperature_c: float
    throttled: int = 0
    runaway: tuple[float, float] | None = None

    @classmethod
    def settled(cls, model: ThermalModel) -> Die:
        """A die that has been idle for long."""
        return cls(model, steady_c(model, 0.0))

    def reset_sticky(self) -> None:
        """Forget what has occurred: a boot."""
        self.throttled = 0

    def step(self, *, dt_s: float, utilisation: float) -> None:
        """Let time pass under a load (share of all four cores)."""
        if self.runaway is not None:
            rate_c_per_s, limit_c = self.runaway
            self.temperature_c = max(self.temperature_c, min(self.temperature_c + rate_c_per_s * dt_s, limit_c))
        else:
            target_c = steady_c(self.model, utilisation)
            self.temperature_c = approach(self.temperature_c, target_c, dt_s=dt_s, tau_s=self.model.tau_s)
        live = live_bits(sensor_milli_c(self.temperature_c) / 1000)
        occurred = (self.throttled >> STICKY_SHIFT) | live
        self.throttled = live | occurred << STICKY_SHIFT

    def cool_off(self, *, dt_s: float) -> None:
        """Let time pass without power."""
        self.temperature_c = approach(self.temperature_c, self.model.ambient_c, dt_s=dt_s, tau_s=self.model.tau_s)


_RAILS = (  # name, index of current, index of voltage, volts, share of the summed power
    ("3V7_WL_SW", 0, 8, 3.704, 0.02),
    ("3V3_SYS", 1, 9, 3.312, 0.07),
    ("1V8_SYS", 2, 10, 1.803, 0.06),
    ("DDR_VDD2", 3, 11, 1.105, 0.04),
    ("DDR_VDDQ", 4, 12, 0.604, 0.01),
    ("1V1_SYS", 5, 13, 1.104, 0.06),
    ("0V8_SW", 6, 14, 0.802, 0.09),
    ("VDD_CORE", 7, 15, 0.879, 0.64),
    ("3V3_DAC", 17, 20, 3.309, 0.0),
    ("3V3_ADC", 18, 21, 3.309, 0.0),
    ("0V8_AON", 16, 19, 0.798, 0.005),
    ("HDMI", 22, 23, 5.02, 0.005),
)
_INPUTS = (("EXT5V", 24, 5.098), ("BATT", 25, 0.0))


def pmic_lines(watts: float) -> str:
    """What ``vcgencmd pmic_read_adc`` prints at a power: 26 lines, rails to be paired by name.

    The rails sum to ``(W − 0.5879) / 1.1451``, the inverse of the published fit [jfikar/RPi5-power].
    """
    summed_w = max(watts - 0.5879, 0.0) / 1.1451
    currents = [
        f"{name + '_A':>16} current({index})={summed_w * share / volts:.8f}A" for name, index, _, volts, share in _RAILS
    ]
    voltages = [f"{name + '_V':>16} volt({index})={volts:.8f}V" for name, _, index, volts, _ in _RAILS]
    inputs = [f"{name + '_V':>16} volt({index})={volts:.8f}V" for name, index, volts in _INPUTS]
    return "\n".join(currents + voltages + inputs) + "\n"
