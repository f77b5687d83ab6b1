"""When a measurement must not be used, and what could not be looked at.

A latency that was measured while the board throttled says nothing about the model. So gates on time ask here first,
and a trouble makes their verdict INVALID, whatever the numbers say: never PASS, and never FAIL either, because the
model is not to blame. A sensor that the board does not have is no trouble; it is named in ``not_checked``.

The throttled bits are those of ``vcgencmd get_throttled``: 0 under-voltage, 1 Arm frequency capped, 2 throttled,
3 soft temperature limit; 16–19 say that the same has happened since boot and stay set until then, so only their
*change* counts (raspberrypi/documentation, os/graphics-utilities.adoc).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_edgehil.model.quantity import format_duration, format_size
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import Sample, SensorReading

LIVE_BITS = 0xF
STICKY_BITS = 0xF0000
HOT_STICKY_BITS = 0xE0000
CLOCK_DIP = 0.9
"""An Arm clock below this share of the highest one seen while busy is a change; measured clocks jitter by kHz only."""
BUSY_SHARE = 0.5
"""A reading counts as busy when inferences ran for this share of the second before it: idle governors clock down."""
SWAP_GROWTH_BYTES = 256 * 1024
"""Growth of swap that counts: 16 pages of 16 KiB."""
SWAP_IN_PAGES = 16
"""So many pages read back from swap count."""
CLOCK_COST_SHARE = 0.001
"""A clock whose one reading costs more than this share of the budget is named."""

CYCLES = 10
"""So many cycles of what comes and goes must be seen for a sample to stand for them."""
STEADY_STATE_NS = 30 * 10**9
"""So long a PASS of a latency must be watched on a board whose lab declares nothing else: ten cycles of a throttling
that comes and goes every 3 s."""
WARMING_C = 10.0
"""A board that has warmed up does not move by so much; a cold one does within minutes (no cooler: by 30 °C)."""
PLATEAU_S = 60.0
"""A shorter measurement cannot tell a plateau from the slow beginning of a rise."""

_BIT_NAMES = {0: "under-voltage", 1: "Arm frequency capped", 2: "throttled", 3: "soft temperature limit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """Args: trouble: why the measurement must not be used, or None. unseen: what could not be looked at."""

    trouble: str | None
    unseen: tuple[str, ...]


def of_timing(sample: Sample) -> Validity:
    """Throttling, Arm clock, reboot and swap: whatever makes a duration say something else than the model's speed."""
    return _first(throttling(sample), clock_change(sample), reboot(sample), swap_growth(sample), swap_in(sample))


def of_loading(sample: Sample) -> Validity:
    """Throttling and reboot: what spoils a cold start, during which no inference runs."""
    return _first(throttling(sample), reboot(sample))


def throttling(sample: Sample) -> Validity:
    """A live bit at any time, or a sticky bit that changed."""
    bits = throttled_series(sample)
    if not bits:
        return Validity(trouble=None, unseen=(f"throttling: {no_bits(sample)}",))
    old = bits[0] & HOT_STICKY_BITS
    live = [one for one in bits if one & LIVE_BITS]
    if live:
        return Validity(
            trouble=f"the board was throttled during the measurement ({bit_names(live[0])}, throttled={live[0]:#x})",
            unseen=(),
        )
    for before, after in pairwise(bits):
        if (before ^ after) & STICKY_BITS:
            return Validity(
                trouble=f"the throttled bits changed during the measurement, from {before:#x} to {after:#x} "
                f"({bit_names((before ^ after) >> 16)} has occurred)",
                unseen=(),
            )
    if old:
        text = f"the board remembers an earlier one ({bit_names(old >> 16)}) until it is rebooted"
        return Validity(trouble=None, unseen=(f"throttling between two readings: {text}",))
    return Validity(trouble=None, unseen=())


def throttled_series(sample: Sample) -> tuple[int, ...]:
    """Every known value of the throttled bits, in the order of time."""
    conditions = sample.conditions
    edges = (None, None) if conditions is None else (conditions.throttled_before, conditions.throttled_after)
    series = (edges[0], *(one.throttled for one in sample.readings), edges[1])
    return tuple(one for one in series if one is not None)


def no_bits(sample: Sample) -> str:
    """Why there are no throttled bits; a board is not said to lack what was never asked for."""
    if sample.replayed:
        return "the recording holds no throttled bits"
    if sample.n == 0 and not sample.readings:
        return "the throttled bits are read around inferences, and none ran"
    return "the board reports no throttled bits"


def steady_state_ns(sample: Sample) -> int:
    """How long a PASS of a latency must have been watched on this board, before it stands for what the board does.

    A sample that stops before the first slow stretch looks like one of a board that has none, and no throttled bit
    tells the two apart: a bit says that the board *did* throttle, none says that it will not. So the wait does not
    depend on bits. What the board's lab declares counts; `STEADY_STATE_NS` where it declares nothing, and for samples
    that were stored before it could.

    There is none to wait for in a recording (it is as long as it is; its verdicts say that it is one, and never satisfy
    a policy that asks for hardware), and in numbers without conditions: a DUT's sample has them from its first
    inference on, so such numbers were made up, to see what a gate says of them. Nor where instructions are counted,
    unless the lab says so: an instruction counts as one, whatever the board or its host is doing.
    """
    if sample.conditions is None or sample.replayed:
        return 0
    declared_s = sample.conditions.steady_state_s
    if declared_s is None and sample.timing is Timing.ICOUNT:
        return 0
    return STEADY_STATE_NS if declared_s is None else max(0, round(declared_s * 1e9))


def bit_names(bits: int) -> str:
    """What the low four bits mean, joined by commas.

    >>> bit_names(0x5)
    'under-voltage, throttled'
    """
    return ", ".join(name for bit, name in _BIT_NAMES.items() if bits >> bit & 1) or "unknown bits"


def clock_change(sample: Sample) -> Validity:
    """An Arm clock that dropped below `CLOCK_DIP` of the highest one, among the readings taken while busy."""
    if all(one.arm_hz is None for one in sample.readings):
        return Validity(trouble=None, unseen=("Arm clock: no reading of it fell into the measurement",))
    clocks = [one.arm_hz for one in busy_readings(sample) if one.arm_hz is not None]
    if len(clocks) < 2:
        return Validity(
            trouble=None,
            unseen=("Arm clock: fewer than two readings fell into the measurement, so no change could be seen",),
        )
    low, high = min(clocks), max(clocks)
    if low < CLOCK_DIP * high:
        return Validity(
            trouble=f"the Arm clock changed during the measurement, between {low / 1e6:.0f} and {high / 1e6:.0f} MHz",
            unseen=(),
        )
    return Validity(trouble=None, unseen=())


def busy_readings(sample: Sample) -> Sequence[SensorReading]:
    """The readings that were taken while inferences ran; of a recording all, for it holds nothing else."""
    if sample.replayed or sample.starts_ns.shape != sample.latencies_ns.shape or sample.n == 0:
        return sample.readings
    import numpy as np

    # Busy time up to any moment: it grows during an inference and stands still between two.
    starts = np.asarray(sample.starts_ns, dtype=np.float64)
    latencies = np.asarray(sample.latencies_ns, dtype=np.float64)
    if not np.isfinite(latencies).all():
        return sample.readings  # no durations: whoever judges them says so
    order = np.argsort(starts, kind="stable")
    starts, latencies = starts[order], latencies[order]
    moments = np.stack((starts, starts + latencies), axis=1).ravel()
    until_end = np.cumsum(latencies)
    busy = np.stack((until_end - latencies, until_end), axis=1).ravel()
    at = np.array([one.at_s for one in sample.readings]) * 1e9
    moments = np.maximum.accumulate(moments)
    share = (np.interp(at, moments, busy) - np.interp(at - 1e9, moments, busy)) / 1e9
    return [one for one, part in zip(sample.readings, share.tolist(), strict=True) if part >= BUSY_SHARE]


def reboot(sample: Sample) -> Validity:
    """A boot id that is not the one from before."""
    conditions = sample.conditions
    if conditions is None:
        return Validity(trouble=None, unseen=("reboot: the boot id is read around inferences, and none ran",))
    if conditions.boot_id_before is None or conditions.boot_id_after is None:
        return Validity(trouble=None, unseen=("reboot: the board reports no boot id",))
    if conditions.boot_id_before != conditions.boot_id_after:
        return Validity(
            trouble=f"the board rebooted during the measurement (boot id {conditions.boot_id_before[:8]}… became "
            f"{conditions.boot_id_after[:8]}…)",
            unseen=(),
        )
    return Validity(trouble=None, unseen=())


def swap_growth(sample: Sample) -> Validity:
    """Pages of the model's process that went to swap: what follows waits for the disk."""
    swapped = [one.swap_bytes for one in sample.readings if one.swap_bytes is not None]
    if not swapped:
        return Validity(trouble=None, unseen=("swap: no reading of it fell into the measurement",))
    grown = max(swapped) - swapped[0]
    if grown >= SWAP_GROWTH_BYTES:
        return Validity(
            trouble=f"the model's process was swapped out during the measurement ({format_size(grown)})", unseen=()
        )
    return Validity(trouble=None, unseen=())


def swap_in(sample: Sample) -> Validity:
    """Pages that the kernel read back from swap meanwhile; it counts them for all processes of the board together."""
    pages = [one.swap_in_pages for one in sample.readings if one.swap_in_pages is not None]
    if not pages:
        return Validity(trouble=None, unseen=("swap-in: the board does not count it (/proc/vmstat)",))
    read = max(pages) - pages[0]
    if read >= SWAP_IN_PAGES:
        return Validity(
            trouble=f"the board read {read} pages back from swap during the measurement (for whichever process: the "
            "kernel counts them for the whole board)",
            unseen=(),
        )
    return Validity(trouble=None, unseen=())


def temperature_drift(sample: Sample, limit_c: float | None) -> Validity:
    """Did the temperature stand still while latency was measured? Looked at only where there is a limit."""
    readings = [(one.at_s, one.temperature_c) for one in sample.readings if one.temperature_c is not None]
    if limit_c is None or len(readings) < 2:
        seen = "was not asked for (max_drift)" if limit_c is None else "fewer than two readings of it"
        return Validity(trouble=None, unseen=(f"thermal plateau: {seen}",))
    values = [value for _, value in readings]
    edge = max(1, min(30, len(values) // 3))
    moved = sum(values[-edge:]) / edge - sum(values[:edge]) / edge
    if abs(moved) > limit_c:
        return Validity(
            trouble=f"the temperature moved by {moved:+.1f} °C during the measurement "
            f"(at most {limit_c:g} °C are allowed)",
            unseen=(),
        )
    return Validity(trouble=None, unseen=())


def plateau(sample: Sample, limit_c: float | None) -> Validity:
    """`temperature_drift` where a limit is given; without one, `WARMING_C` among the readings taken while busy.

    A short measurement cannot tell whether the board has warmed up, and says so.
    """
    if limit_c is not None:
        return temperature_drift(sample, limit_c)
    readings = [one for one in busy_readings(sample) if one.temperature_c is not None]
    if len(readings) < 2:
        return Validity(trouble=None, unseen=("thermal plateau: fewer than two readings fell into the measurement",))
    found = temperature_drift(sample.replace(readings=tuple(readings)), WARMING_C)
    if found.trouble is not None:
        return Validity(trouble=f"{found.trouble}: let it warm up first, or give max_drift", unseen=())
    span_s = readings[-1].at_s - readings[0].at_s
    if span_s >= PLATEAU_S:
        return found
    told = f"{max(span_s, 0.0):.0f} s are too short to tell it from warming up (from {PLATEAU_S:.0f} s on)"
    return Validity(trouble=None, unseen=(f"thermal plateau: {told}",))


def clock_cost(sample: Sample, budget_ns: float) -> tuple[str, ...]:
    """A warning when reading the board's clock costs more than `CLOCK_COST_SHARE` of the budget."""
    if sample.conditions is None or sample.conditions.clock_cost_ns <= CLOCK_COST_SHARE * budget_ns:
        return ()
    cost = sample.conditions.clock_cost_ns
    warning = (
        f"clock: one reading costs {cost} ns, {cost / budget_ns:.2%} of the budget, and is part of every latency "
        f"(more than {CLOCK_COST_SHARE:.1%} is too much)"
    )
    return (warning,)


def slow_regimes(watched_ns: int) -> str:
    """What was not looked at in so long a measurement: whatever comes and goes so slowly that ten cycles do not fit."""
    slowest = format_duration(watched_ns / CYCLES)
    return f"slow regimes: what comes and goes more slowly than every {slowest} was not seen {CYCLES} times"


def provenance(sample: Sample) -> str:
    """What every reason must end with: nothing, or that the samples are a recording."""
    return " (replayed from a recording, not measured on this board)" if sample.replayed else ""


def _first(*found: Validity) -> Validity:
    troubles = [one.trouble for one in found if one.trouble is not None]
    return Validity(
        trouble="; ".join(troubles) or None,
        unseen=tuple(text for one in found for text in one.unseen),
    )
