"""What a board measured: the input of every gate.

A `Sample` is immutable; measuring on makes a longer one (`with_*`). Arrays are numpy arrays, but numpy is imported
only where one is made: the plugin loads this module in every pytest run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.series import Generations, HeldOut, LinkDrop, OpenLoop, Paired, TokenScores

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import BoolArray, Float64Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorReading:
    """One row of the on-board sampler (1 Hz by default). None: the board has no such sensor.

    Args:
        at_s: board's monotonic clock, seconds.
        rss_bytes, pss_bytes, swap_bytes: of the model's process.
        temperature_c: SoC temperature.
        arm_hz: present clock of the Arm cores.
        throttled: bits of ``vcgencmd get_throttled``.
        npu_percent: utilisation of the accelerator, 0 … 100.
        power_w: electrical power that the board's own meter reports.
        swap_in_pages: pages that the kernel has read back from swap since boot (``pswpin`` of /proc/vmstat), for
            whatever process.
        process: which of the model's processes it is of, counted from 0.
    """

    at_s: float
    rss_bytes: int | None = None
    pss_bytes: int | None = None
    swap_bytes: int | None = None
    temperature_c: float | None = None
    arm_hz: int | None = None
    throttled: int | None = None
    npu_percent: float | None = None
    power_w: float | None = None
    swap_in_pages: int | None = None
    process: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ColdStart:
    """One load of the model in a fresh process.

    Args:
        load_ns: from starting the process to the model being ready, on the board's clock.
        rss_before_bytes, rss_after_bytes: VmRSS before and after the model was loaded.
        peak_rss_bytes: VmHWM when the load was done.
    """

    load_ns: int
    rss_before_bytes: int
    rss_after_bytes: int
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under which conditions the board measured; what decides whether the measurement is valid.

    Args:
        runtime: name of the runtime; ``replay`` marks recorded samples.
        runtime_version: its version.
        page_size_bytes: of the board's kernel.
        clock_cost_ns: median cost of one reading of the board's clock.
        gc_pause_ns: time spent in Python garbage collections while measuring.
        throttled_before, throttled_after: bits around the measurement; None where there is no such sensor.
        boot_id_before, boot_id_after: kernel boot ids around the measurement.
        restarts: how often the model's process had to be started again.
        replayed: the samples were played back from a recording and were not measured on this board.
        steady_state_s: so long a latency must be watched on this board, as its lab declares; None: undeclared (see
            `gates.validity.steady_state_ns`).
    """

    runtime: str
    runtime_version: str
    page_size_bytes: int
    clock_cost_ns: int
    gc_pause_ns: int = 0
    throttled_before: int | None = None
    throttled_after: int | None = None
    boot_id_before: str | None = None
    boot_id_after: str | None = None
    restarts: int = 0
    replayed: bool = False
    steady_state_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Everything that one test measured on one DUT so far.

    Args:
        latencies_ns: shape (n,), int64: per-inference latency on the board's clock, warm-up left out.
        starts_ns: shape (n,), int64: when each inference started, board's monotonic clock.
        agreed: shape (m,), bool: does the output's class equal the baseline's? None when nothing was compared.
        correct: shape (m,), bool: does it equal the label? None without labels.
        baseline_correct: shape (m,), bool: is the baseline right? None without labels or baseline.
        evaluated_of: size of the held-out set of which the m items were taken, or None.
        readings: rows of the on-board sampler, in the order of time.
        cold_starts: every load of the model so far, at least one when a model is loaded.
        peak_rss_bytes: VmHWM of the model's process now (of the largest one, if it was restarted), or None.
        artifact_size_bytes: size of the model's bundle, or None.
        duration_s: how long was measured, board's clock, warm-up left out.
        conditions: None as long as nothing ran on the board.
        cosines: shape (m,): cosine similarity of each evaluated item's output to the baseline's; NaN where one of
            them is no direction (zero, or not a number). None when nothing was compared.
        order_seed: of the order in which the held-out sets' items were taken (see `board.evaluation.drawn_order`);
            None: in their own order.
        steady_peak_rss_bytes: VmHWM since the model was loaded, the load's own spike left out; None where the kernel
            cannot reset it.
        cgroup_peak_bytes: ``memory.peak`` of the model's control group, or None where there is none.
        crashes_at_s: shape (c,): after how many measured seconds the model's process died, one entry per crash.
        crash_reasons: why it died each time, as far as is known; as many as `crashes_at_s`.
        not_restarted: why it could not be started again after its last crash; empty otherwise.
        link_drops: times without a link in which the board went on measuring.
        open_loop: one series per rate.
        paired: one series per baseline.
        token_scores: of a language model against its baseline.
        generations: runs that produced tokens.
        heldout: the sets that were evaluated so far, one entry per call.
        timing: what the board's nanoseconds are; every time above is in them.
        earlier: runs of the same test that this one goes on from, in the order of time. All other fields are about
            this run alone: what is true within one run (the board did not reboot, its clock goes on) is not true
            from one run to the next, so nothing is ever joined before `gates.continued` has looked at each run.
    """

    latencies_ns: Int64Array
    starts_ns: Int64Array
    agreed: BoolArray | None = None
    correct: BoolArray | None = None
    baseline_correct: BoolArray | None = None
    evaluated_of: int | None = None
    readings: tuple[SensorReading, ...] = ()
    cold_starts: tuple[ColdStart, ...] = ()
    peak_rss_bytes: int | None = None
    artifact_size_bytes: int | None = None
    duration_s: float = 0.0
    conditions: Conditions | None = None
    cosines: Float64Array | None = None
    order_seed: int | None = None
    steady_peak_rss_bytes: int | None = None
    cgroup_peak_bytes: int | None = None
    crashes_at_s: tuple[float, ...] = ()
    crash_reasons: tuple[str, ...] = ()
    not_restarted: str = ""
    link_drops: tuple[LinkDrop, ...] = ()
    open_loop: tuple[OpenLoop, ...] = ()
    paired: tuple[Paired, ...] = ()
    token_scores: TokenScores | None = None
    generations: Generations | None = None
    heldout: tuple[HeldOut, ...] = ()
    timing: Timing = Timing.WALL
    earlier: tuple[EarlierRun, ...] = ()

    @property
    def n(self) -> int:
        """Number of timed inferences."""
        return int(self.latencies_ns.shape[0])

    @property
    def replayed(self) -> bool:
        """Was it played back from a recording?"""
        return self.conditions is not None and self.conditions.replayed

    @staticmethod
    def empty() -> Sample:
        """The sample of a DUT on which nothing has run yet."""
        import numpy as np

        nothing = np.empty(0, dtype=np.int64)
        return Sample(latencies_ns=nothing, starts_ns=nothing)

    def replace(self, **changes: object) -> Sample:
        """A copy with the given fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierRun:
    """What an earlier run of the same test measured, on a board of the same kind with the same artifacts on it.

    Args:
        run: its id.
        board: the board's id.
        sample: what it measured; its own `earlier` is empty.
        changed: gates that had other arguments then; for them it does not count.
        apart: why it asked another question of the same artifacts, such as on a board of another class; empty where it
            did not. Such a run is never joined with others, but what it FAILED stays failed.
    """

    run: str
    board: str
    sample: Sample
    changed: tuple[str, ...] = ()
    apart: str = ""
