"""How far a long measurement is, in one line: what a person who waits wants to know."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_edgehil.model.quantity import format_number, format_size
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.verdict import Verdict

LONGEST_REASON = 160


def line(sample: Sample, verdicts: Sequence[Verdict]) -> str:
    """Minutes, temperature, memory and crashes, and what the gates that are still open say so far.

    >>> from pytest_edgehil.model.sample import SensorReading
    >>> reading = SensorReading(at_s=1.0, rss_bytes=190840832, temperature_c=61.5)
    >>> line(Sample.empty().replace(duration_s=720.0, readings=(reading,)), ())
    'minute 12: 0 inferences, 61.5 °C, 182 MiB, no crash'
    """
    told = [f"{sample.n} inferences"]
    celsius = next((one.temperature_c for one in reversed(sample.readings) if one.temperature_c is not None), None)
    held = next((one.rss_bytes for one in reversed(sample.readings) if one.rss_bytes is not None), None)
    told += [] if celsius is None else [f"{celsius:.1f} °C"]
    told += [] if held is None else [format_size(held)]
    crashes = len(sample.crashes_at_s)
    told.append("no crash" if not crashes else f"{crashes} crash{'' if crashes == 1 else 'es'}")
    if sample.link_drops:
        told.append(f"link lost {len(sample.link_drops)} times")
    said = [f"{one.gate}: {_short(one.reason)}" for one in verdicts if not one.decided]
    minute = format_number(round(sample.duration_s / 60.0, 2))
    return "; ".join([f"minute {minute}: {', '.join(told)}", *said])


def _short(reason: str) -> str:
    return reason if len(reason) <= LONGEST_REASON else reason[: LONGEST_REASON - 1] + "…"
