"""The emulated board's sensors: memory that this host shares with it, and writes while it runs.

The first 16 MiB of the board's memory are the file `Layout.sensors`. The board's kernel leaves them alone but for two
pages: registers of a temperature sensor, and a word with what ``vcgencmd get_throttled`` tells (the beginning of the
region takes QEMU's device tree at every reset). Conversion: drivers/thermal/hisi_thermal.c, hi3660.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from pytest_edgehil.errors import ConfigError

SHARED_BYTES = 16 * 2**20
AT = 8 * 2**20
THROTTLED = 0x1000
_OURS_BYTES = 0x2000
_TEMPERATURES = (0x1C, 0x5C)  # of sensors 0 and 1
_BASE_MILLI_C, _STEP_MILLI_C = -63_780, 205
_COOLEST_C, _HOTTEST_C = -40.0, 145.0


class Sensors:
    """What a board measures of itself, as this host tells it.

    Args:
        path: the shared memory; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(SHARED_BYTES)
                os.posix_fallocate(
                    file.fileno(), AT, _OURS_BYTES
                )  # a full disk is an error here, and a bus error later
            self.set_temperature(45.0)
            self.set_throttled(0)

    def set_temperature(self, temperature_c: float) -> None:
        """Set the die's temperature, in steps of 0.205 °C; from 110 °C on the kernel switches the board off.

        Raises:
            ConfigError: it is beyond what the sensor can tell.
        """
        if not _COOLEST_C <= temperature_c <= _HOTTEST_C:
            raise ConfigError(
                f"{temperature_c:g} °C is beyond the sensor: expected {_COOLEST_C:g} to {_HOTTEST_C:g} °C"
            )
        step = round((temperature_c * 1000 - _BASE_MILLI_C) / _STEP_MILLI_C)
        for register in _TEMPERATURES:
            self._write(AT + register, step)

    def set_throttled(self, bits: int) -> None:
        """Set the bits of ``vcgencmd get_throttled``.

        Raises:
            ConfigError: they are not of 32 bits.
        """
        if not 0 <= bits < 2**32:
            raise ConfigError(f"throttled {bits:#x} is beyond its 32 bits: expected 0x0 to 0xffffffff, such as 0x50005")
        self._write(AT + THROTTLED, bits)

    def _write(self, at: int, value: int) -> None:
        with self._path.open("r+b") as file, mmap.mmap(file.fileno(), SHARED_BYTES) as memory:
            memory[at : at + 4] = struct.pack("<I", value)
