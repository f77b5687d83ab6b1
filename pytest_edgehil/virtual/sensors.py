"""Where a board's processes read how it is: thermal zone, hwmon, cpufreq and the files behind ``vcgencmd``.

A file is written only when what it says changes, so an idle board costs nothing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pytest_edgehil.virtual import shims, sysroot
from pytest_edgehil.virtual.thermal import ARM_MAX_HZ, ARM_MIN_HZ, Die, arm_hz, pmic_lines, sensor_milli_c

ARM_CLOCK_JITTER_HZ = 23808  # the firmware measures its PLL: 2400023808 and not 2400000000
FAN_TRIPS = ((50.0, 75), (60.0, 125), (67.5, 175), (75.0, 250))  # °C, pwm [bcm2712-rpi-5-b.dts]
FAN_HYSTERESIS_C = 5.0
FAN_FULL_RPM = 8000
POWER_STEP_W = 0.05


class Sensors:
    """The sensor files of one board.

    Args:
        fan: whether it has a fan with a tachometer; without one the kernel shows none.
    """

    def __init__(self, disk: Path, *, fan: bool) -> None:
        self._disk = disk
        self._fan = fan
        self._fan_level = 0
        self._written: dict[str, str] = {}
        self._hwmon: dict[str, str] = {}

    def boot(self, die: Die, *, order: int) -> None:
        """Make the files of a boot.

        Args:
            order: any number; hwmon devices are numbered differently from boot to boot, as on a Pi.
        """
        self._written.clear()
        self._fan_level = 0
        names = ["cpu_thermal", "rp1_adc", *(["pwmfan"] if self._fan else [])]
        shift = order % len(names)
        base = "sys/class/hwmon"
        shutil.rmtree(self._disk / base, ignore_errors=True)
        self._hwmon = {name: f"{base}/hwmon{i}" for i, name in enumerate(names[shift:] + names[:shift])}
        for name, directory in self._hwmon.items():
            self._put(f"{directory}/name", name)
        self._put(f"{self._hwmon['rp1_adc']}/temp1_input", "41000")
        self._put("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
        cpufreq = "sys/devices/system/cpu/cpu0/cpufreq"
        for name, value in (
            ("cpuinfo_min_freq", ARM_MIN_HZ // 1000),
            ("cpuinfo_max_freq", ARM_MAX_HZ // 1000),
            ("scaling_min_freq", ARM_MIN_HZ // 1000),
            ("scaling_max_freq", ARM_MAX_HZ // 1000),
            ("scaling_governor", "performance"),
        ):
            self._put(f"{cpufreq}/{name}", str(value))
        self._put(f"{shims.VCGENCMD_DIRECTORY}/version", "2025/09/22 14:53:59\nversion virtual (release) (embedded)")
        self._put(f"{shims.VCGENCMD_DIRECTORY}/measure_volts", "volt=0.8790V")
        self.update(die, power_w=die.model.idle_w)

    def update(self, die: Die, *, power_w: float) -> None:
        """Show the present state."""
        milli_c = sensor_milli_c(die.temperature_c)
        clock_hz = arm_hz(milli_c / 1000)
        self._put("sys/class/thermal/thermal_zone0/temp", str(milli_c))
        self._put(f"{self._hwmon['cpu_thermal']}/temp1_input", str(milli_c))
        self._put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", str(clock_hz // 1000))
        base = shims.VCGENCMD_DIRECTORY
        self._put(f"{base}/measure_temp", f"temp={milli_c / 1000:.1f}'C")
        self._put(f"{base}/get_throttled", f"throttled={die.throttled:#x}")
        self._put(f"{base}/measure_clock_arm", f"frequency(0)={clock_hz + ARM_CLOCK_JITTER_HZ}")
        stepped_w = round(power_w / POWER_STEP_W) * POWER_STEP_W
        self._put(f"{base}/pmic_read_adc", pmic_lines(stepped_w).rstrip("\n"))
        if self._fan:
            self._turn_fan(milli_c / 1000)

    def _turn_fan(self, temperature_c: float) -> None:
        while self._fan_level < len(FAN_TRIPS) and temperature_c >= FAN_TRIPS[self._fan_level][0]:
            self._fan_level += 1
        while self._fan_level > 0 and temperature_c < FAN_TRIPS[self._fan_level - 1][0] - FAN_HYSTERESIS_C:
            self._fan_level -= 1
        pwm = FAN_TRIPS[self._fan_level - 1][1] if self._fan_level else 0
        self._put(f"{self._hwmon['pwmfan']}/pwm1", str(pwm))
        self._put(f"{self._hwmon['pwmfan']}/fan1_input", str(round(pwm / 250 * FAN_FULL_RPM)))

    def _put(self, relative: str, text: str) -> None:
        if self._written.get(relative) != text:
            sysroot.put(self._disk / relative, f"{text}\n")
            self._written[relative] = text
