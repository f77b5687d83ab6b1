"""Quantities with units, as people write them in markers, labs and plans.

Inside the package a quantity is a bare number whose *name* carries the unit (``budget_ns``, ``limit_c``); this
module is where text becomes such a number and where a number becomes text again. Nothing else parses units.
Only the standard library is imported: the plugin loads this module in every pytest run.
"""

from __future__ import annotations

import math
import re

from pytest_edgehil.errors import QuantityError

_NUMBER = r"(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
_QUANTITY = re.compile(rf"^\s*{_NUMBER}\s*(?P<unit>[^\d\s].*?)?\s*$")

_DURATION_NS = {
    "ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "sec": 10**9,
    "min": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9,
}  # fmt: skip
_SIZE_BYTES = {
    "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_TEMPERATURE = {"C", "°C", "degC"}
_PER_SECOND = {"s": 1.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(rf"^\s*{_NUMBER}\s*(?:/\s*(?P<per>s|min|h)|Hz)\s*$")
_LONGEST_QUOTE = 120
_ENERGY_J = {"mJ": 1e-3, "J": 1.0, "kJ": 1e3, "mWh": 3.6, "Wh": 3600.0}


def _split(text: object, *, kind: str, example: str) -> tuple[float, str]:
    if not isinstance(text, str):
        raise QuantityError(f"{kind} must be text with a unit such as {example!r}, not {quoted(text)}")
    match = _QUANTITY.match(text)
    if match is None:
        raise QuantityError(f"{quoted(text)} is no {kind}: expected a number and a unit such as {example!r}")
    number = float(match["number"])
    if not math.isfinite(number):
        raise QuantityError(f"{quoted(text)} is no {kind}: the number must be finite")
    return number, match["unit"] or ""


def _scaled(text: object, units: dict[str, int], *, kind: str, example: str) -> int:
    number, unit = _split(text, kind=kind, example=example)
    if unit not in units:
        said = f"unknown unit {quoted(unit)}" if unit else "the unit is missing"
        raise QuantityError(
            f"{quoted(text)} is no {kind}: {said}; expected one of {', '.join(units)}, for example {example!r}"
        )
    if number < 0:
        raise QuantityError(f"{quoted(text)} is no {kind}: it must not be negative")
    return round(number * units[unit])


def duration_ns(text: object) -> int:
    """Parse a duration into nanoseconds.

    Raises:
        QuantityError: the text has no number, no unit, a unit that is no unit of time, or is negative.

    >>> duration_ns("12 ms"), duration_ns("1 h")
    (12000000, 3600000000000)
    """
    return _scaled(text, _DURATION_NS, kind="duration", example="12 ms")


def size_bytes(text: object) -> int:
    """Parse a size into bytes.

    Raises:
        QuantityError: see `duration_ns`.

    >>> size_bytes("180 MiB"), size_bytes("1.5 kB")
    (188743680, 1500)
    """
    return _scaled(text, _SIZE_BYTES, kind="size", example="180 MiB")


def temperature_c(text: object) -> float:
    """Parse a temperature into degrees Celsius.

    Raises:
        QuantityError: see `duration_ns`.

    >>> temperature_c("80 C")
    80.0
    """
    number, unit = _split(text, kind="temperature", example="80 C")
    if unit not in _TEMPERATURE:
        said = f"unknown unit {quoted(unit)}" if unit else "the unit is missing"
        raise QuantityError(f"{quoted(text)} is no temperature: {said}; expected degrees Celsius, for example '80 C'")
    return number


def byte_rate_per_hour(text: object) -> float:
    """Parse a growth such as a memory leak into bytes per hour.

    Raises:
        QuantityError: see `duration_ns`.

    >>> byte_rate_per_hour("5 MiB/h")
    5242880.0
    """
    if not isinstance(text, str) or "/" not in text:
        raise QuantityError(f"{quoted(text)} is no rate: expected a size per time such as '5 MiB/h'")
    size, per = text.rsplit("/", 1)
    if per.strip() not in _PER_SECOND:
        raise QuantityError(
            f"{quoted(text)} is no rate: expected one of /s, /min, /h after the size, for example '5 MiB/h'"
        )
    return size_bytes(size) * 3600.0 / _PER_SECOND[per.strip()]


def byte_rate_per_second(text: object) -> float:
    """Parse a bandwidth into bytes per second.

    Raises:
        QuantityError: see `duration_ns`; also for a bandwidth of nothing.

    >>> byte_rate_per_second("10 MB/s"), byte_rate_per_second("512 KiB/s")
    (10000000.0, 524288.0)
    """
    size, per, unit = text.partition("/") if isinstance(text, str) else ("", "", "")
    if unit.strip() == "s" and per:
        value = float(size_bytes(size.strip()))
        if value > 0:
            return value
    raise QuantityError(f"{text!r} is no bandwidth; expected for example '10 MB/s'")


def rate_per_second(text: object) -> float:
    """Parse a frequency such as a request rate into events per second.

    Raises:
        QuantityError: see `duration_ns`.

    >>> rate_per_second("20/s"), rate_per_second("90/min"), rate_per_second("5 Hz")
    (20.0, 1.5, 5.0)
    """
    match = _RATE.match(text) if isinstance(text, str) else None
    if match is not None:
        value = float(match["number"]) / _PER_SECOND[match["per"] or "s"]
        if math.isfinite(value) and value > 0:
            return value
    raise QuantityError(f"{quoted(text)} is no rate: expected a positive number per time such as '20/s' or '5 Hz'")


def energy_j(text: object) -> float:
    """Parse an energy into joules.

    Raises:
        QuantityError: see `duration_ns`.

    >>> energy_j("50 mJ"), energy_j("1.5 J")
    (0.05, 1.5)
    """
    number, unit = _split(text, kind="energy", example="50 mJ")
    if unit not in _ENERGY_J or number < 0:
        raise QuantityError(
            f"{quoted(text)} is no energy: expected a number and one of {', '.join(_ENERGY_J)}, as in '50 mJ'"
        )
    return number * _ENERGY_J[unit]


def format_duration(ns: float, *, digits: int = 3) -> str:
    """Write nanoseconds with the unit that reads best and so many significant digits.

    >>> format_duration(12_345_678), format_duration(3.6e12), format_duration(950)
    ('12.3 ms', '1 h', '950 ns')
    >>> format_duration(12_003_000), format_duration(12_003_000, digits=5)
    ('12 ms', '12.003 ms')
    """
    for unit, scale in (("h", 3.6e12), ("min", 6e10), ("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if abs(ns) >= scale:
            return f"{format_number(ns / scale, digits=digits)} {unit}"
    return f"{format_number(ns, digits=digits)} ns"


def format_size(size: float, *, digits: int = 3) -> str:
    """Write bytes with the binary unit that reads best and so many significant digits.

    >>> format_size(188743680), format_size(900)
    ('180 MiB', '900 B')
    """
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size) >= scale:
            return f"{format_number(size / scale, digits=digits)} {unit}"
    return f"{format_number(size, digits=digits)} B"


def format_rate(per_second: float, *, digits: int = 3) -> str:
    """Write events per second.

    >>> format_rate(19.96), format_rate(1234.5)
    ('20/s', '1234/s')
    """
    return f"{format_number(per_second, digits=digits)}/s"


def format_energy(joules: float, *, digits: int = 3) -> str:
    """Write joules with the unit that reads best.

    >>> format_energy(0.0501), format_energy(2.5), format_energy(0.0)
    ('50.1 mJ', '2.5 J', '0 mJ')
    """
    if abs(joules) >= 1.0:
        return f"{format_number(joules, digits=digits)} J"
    return f"{format_number(joules * 1e3, digits=digits)} mJ"


def format_count(count: int | str, plural: str) -> str:
    """Write how many there are of something that is named in the plural.

    >>> format_count(1, "more inferences"), format_count(2, "more inferences"), format_count("70", "items")
    ('1 more inference', '2 more inferences', '70 items')
    """
    return f"{count} {plural.removesuffix('s') if str(count) == '1' else plural}"


def quoted(value: object) -> str:
    """What a person wrote, as it stands in a message: cut where nobody would read on.

    >>> quoted("12 ms"), quoted("x" * 5000)
    ("'12 ms'", "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (5002 characters)")
    """
    text = repr(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:64]}… ({len(text)} characters)"


def format_number(value: float, *, digits: int = 3) -> str:
    """Write a number with so many significant digits, never fewer than its integer part has, never as ``1e+03``.

    >>> format_number(1234.5), format_number(12.0), format_number(0.012345), format_number(99.961, digits=4)
    ('1234', '12', '0.0123', '99.96')
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0 or value == int(value):
        return f"{value:.0f}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
