"""The board's sensors and identity, read below the sysroot. What is absent is None, never 0.

Formats: raspberrypi/documentation (vcgencmd, frequency-management), kernel's thermal and cpufreq sysfs, HailoRT's
``nnc_utilization``.
"""

from __future__ import annotations

import itertools
import re
import shutil
import struct
import subprocess
import time

from .home import sysroot

NPU_FRESH_S = 10.0
POWER_DUTY = 100
FIT_SLOPE, FIT_OFFSET_W = 1.1451, 0.5879
_RAIL = re.compile(r"(?P<rail>\w+)_(?P<unit>[AV])\s+(?:current|volt)\(\d+\)=(?P<value>\d+(?:\.\d+)?)[AV]")


def text_of(relative: str) -> str | None:
    """A small text file below the sysroot without its NUL and newline; None when it is not there."""
    try:
        data = (sysroot() / relative).read_bytes()
    except OSError:
        return None
    return data.rstrip(b"\0\n ").decode(errors="replace")


def number_of(relative: str) -> int | None:
    """An integer file below the sysroot."""
    text = text_of(relative)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def cell_of(relative: str) -> int | None:
    """A device-tree cell (u32 big-endian) below the sysroot."""
    try:
        data = (sysroot() / relative).read_bytes()
    except OSError:
        return None
    return int(struct.unpack(">I", data)[0]) if len(data) == 4 else None


def temperature_c() -> float | None:
    """SoC temperature."""
    value = number_of("sys/class/thermal/thermal_zone0/temp")
    return None if value is None else value / 1000.0


def arm_hz() -> int | None:
    """Present clock of the Arm cores."""
    value = number_of("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return None if value is None else value * 1000


def throttled() -> int | None:
    """Bits of ``vcgencmd get_throttled``, which prints for example ``throttled=0x50005``."""
    name, _, value = (_vcgencmd("get_throttled") or "").strip().partition("=")
    try:
        return int(value, 16) if name == "throttled" else None
    except ValueError:
        return None


def _vcgencmd(command: str) -> str | None:
    """What ``vcgencmd`` prints, or None where it is not there, fails or hangs. An unknown command is no failure."""
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, command],
            capture_output=True,
            text=True,
            timeout=5.0,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def rails_w(text: str) -> float | None:
    """Sum of the power of all rails of which ``vcgencmd pmic_read_adc`` tells current and voltage; None without any.

    ::

             VDD_CORE_A current(7)=1.80512000A
             VDD_CORE_V volt(15)=0.87901250V
                EXT5V_V volt(24)=5.09800000V     # the 5 V rail and the battery have no current: they are left out
    """
    found: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for line in text.splitlines():
        match = _RAIL.fullmatch(line.strip())
        if match is not None:
            found[match["unit"]][match["rail"]] = float(match["value"])
    rails = found["A"].keys() & found["V"].keys()
    return sum(found["A"][rail] * found["V"][rail] for rail in rails) if rails else None


class PowerMeter:
    """What a Pi 5's PMIC says of the board's power.

    A reading starts a process, which must not disturb what is measured: it is left out until a hundred times as much
    time has passed as the last one took. A board that has no such meter is asked once.
    """

    def __init__(self) -> None:
        self._absent = False
        self._next_at = 0.0

    def power_w(self) -> float | None:
        """Estimate of the board's power without the 5 V rail (HAT, USB, NVMe), or None.

        Source of the fit: jfikar/RPi5-power, from one board with an external meter.
        """
        began = time.monotonic()
        if self._absent or began < self._next_at:
            return None
        text = _vcgencmd("pmic_read_adc")
        summed_w = None if text is None else rails_w(text)
        self._absent = summed_w is None
        self._next_at = began + POWER_DUTY * (time.monotonic() - began)
        return None if summed_w is None else FIT_SLOPE * summed_w + FIT_OFFSET_W


def npu_percent() -> float | None:
    """Utilisation of the accelerator, as HailoRT writes it while a process with HAILO_MONITOR=1 infers."""
    path = sysroot() / "tmp/nnc_utilization/nnc_utilization"
    try:
        fresh = time.time() - path.stat().st_mtime < NPU_FRESH_S
        return float(path.read_text()) if fresh else None
    except (OSError, ValueError):
        return None


def boot_id() -> str | None:
    """The kernel's id of this boot."""
    return text_of("proc/sys/kernel/random/boot_id")


def timing() -> str | None:
    """What the time of an emulated board is, ``wall`` or ``icount``, where its device tree says so."""
    return text_of("proc/device-tree/edgehil-timing")


def serial() -> str:
    """The serial number in the device tree; empty when there is none."""
    return text_of("proc/device-tree/serial-number") or ""


def hardware_model() -> str:
    """The model in the device tree; empty when there is none."""
    return text_of("proc/device-tree/model") or ""


def memory_bytes() -> int | None:
    """Memory of the board."""
    for line in (text_of("proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None


def vmstat(name: str) -> int | None:
    """A counter of ``/proc/vmstat``, such as ``pswpin``; counted for the whole board."""
    for line in (text_of("proc/vmstat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def reading(pid: int | None, *, meter: PowerMeter | None = None) -> dict[str, object]:
    """One row of the sampler, named as `SensorReading` on the host.

    Args:
        pid: of the model's process, if there is one.
        meter: asked for the board's power; None: not now.
    """
    from .processes import pss_bytes, status_bytes

    memory = {} if pid is None else status_bytes(pid)
    return {
        "at_s": time.monotonic(),
        "rss_bytes": memory.get("VmRSS"),
        "pss_bytes": None if pid is None else pss_bytes(pid),
        "swap_bytes": memory.get("VmSwap"),
        "temperature_c": temperature_c(),
        "arm_hz": arm_hz(),
        "throttled": throttled(),
        "npu_percent": npu_percent(),
        "power_w": None if meter is None else meter.power_w(),
        "swap_in_pages": vmstat("pswpin"),
    }


def clock_cost_ns(rounds: int = 2000) -> int:
    """Median cost of one reading of the clock that inferences are timed with."""
    clock = time.perf_counter_ns
    stamps = [clock() for _ in range(rounds)]
    return sorted(later - earlier for earlier, later in itertools.pairwise(stamps))[rounds // 2]


def throttled_of(row: dict[str, object]) -> int | None:
    """The throttled bits of a row."""
    value = row["throttled"]
    return value if isinstance(value, int) else None
