"""Checking what a person wrote in a marker. Each function returns the parsed value or says what is wrong with it.

The messages name the argument; `registry.parse` puts the gate's name in front, the plugin the place.
"""

from __future__ import annotations

import math

from pytest_edgehil.errors import MarkerError
from pytest_edgehil.model.quantity import duration_ns, quoted, temperature_c


def fraction(argument: str, value: object, *, low: float = 0.0, high: float = 1.0) -> float:
    """A number strictly between `low` and `high`.

    Raises:
        MarkerError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MarkerError(f"{argument} must be a number such as {_example(low, high)}, not {quoted(value)}")
    if high == math.inf and not (math.isfinite(value) and value > low):
        raise MarkerError(f"{argument} must be a finite number above {low:g}, not {quoted(value)}")
    if not math.isfinite(value) or not low < value < high:
        raise MarkerError(f"{argument} must lie between {low:g} and {high:g} (both excluded), not {quoted(value)}")
    return float(value)


def quantile(value: object) -> float:
    """Which quantile of a duration: the median or one above it.

    Raises:
        MarkerError: it is none.

    >>> quantile(0.5), quantile(0.99)
    (0.5, 0.99)
    """
    if value == 0.5:
        return 0.5
    return fraction("q", value, low=0.5, high=1.0)


def share(argument: str, value: object) -> float:
    """A part of something, as a percentage or a number, above zero.

    Raises:
        MarkerError: it is none.

    >>> share("drift", "10 %"), share("drift", 0.1)
    (0.1, 0.1)
    """
    found = value
    if isinstance(value, str) and value.rstrip().endswith("%"):
        try:
            found = float(value.rstrip()[:-1]) / 100.0
        except ValueError as exc:
            raise MarkerError(f"{argument} must be a share such as '10 %' or 0.1, not {quoted(value)}") from exc
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise MarkerError(f"{argument} must be a share such as '10 %' or 0.1, not {quoted(value)}")
    if not math.isfinite(found) or not found > 0:
        raise MarkerError(f"{argument} must be more than zero, not {quoted(value)}")
    return float(found)


def positive_number(argument: str, value: object) -> float:
    """A finite number above zero.

    Raises:
        MarkerError: it is none.
    """
    return fraction(argument, value, high=math.inf)


def artifact(argument: str, value: object) -> str | None:
    """The name of an artifact, or None.

    Raises:
        MarkerError: it is neither.
    """
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise MarkerError(f"{argument} must be the name of an artifact, not {quoted(value)}")
    return value


def whole(argument: str, value: object, *, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        MarkerError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise MarkerError(f"{argument} must be a whole number, not {quoted(value)}")
    if value < least:
        raise MarkerError(f"{argument} must be at least {least}, not {quoted(value)}")
    return value


def truth(argument: str, value: object) -> bool:
    """True or False, nothing that merely counts as one.

    Raises:
        MarkerError: it is neither.
    """
    if not isinstance(value, bool):
        raise MarkerError(f"{argument} must be True or False, not {quoted(value)}")
    return value


def alpha(value: object, default: float) -> float:
    """The error rate of one side, or the run's default when the marker says none.

    Raises:
        MarkerError: it is no probability below ½.
    """
    return fraction("alpha", default if value is None else value, high=0.5)


def positive(argument: str, value: float, text: object) -> float:
    """Refuse a budget of nothing: no measurement could ever fulfil it.

    Raises:
        MarkerError: the value is zero.
    """
    if value <= 0:
        raise MarkerError(f"{argument} must be more than zero, not {quoted(text)}")
    return value


def duration(argument: str, text: object) -> int:
    """A duration of more than nothing, in nanoseconds.

    Raises:
        QuantityError: it is no duration.
        MarkerError: it is zero.
    """
    return int(positive(argument, duration_ns(text), text))


def degrees(argument: str, text: object) -> float:
    """A temperature or a difference of temperatures above zero, in °C.

    Raises:
        QuantityError: it is none.
        MarkerError: it is not above zero.
    """
    return positive(argument, temperature_c(text), text)


def _example(low: float, high: float) -> str:
    return "1.02" if math.isinf(high) else f"{low + 0.1 * (high - low):g}"
