"""What a board says of itself and of what it did, as frozen values made of the fields of its frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_edgehil.board.fields import Fields
from pytest_edgehil.model.sample import ColdStart, Conditions, SensorReading
from pytest_edgehil.model.series import OpenLoop

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the board says of itself at once. None: it has no such thing, or does not tell.

    Args:
        serial: from the device tree; empty when there is none.
        imitated: it reads its sensors and its identity below a directory instead of ``/``: no real board does.
        firmware: name and version of the firmware in the partition that booted.
        firmware_digest: digest of the bundle it was written from.
        partition: number of the partition that booted.
        tryboot: is this boot a trial?
        bootloader: date of the bootloader in its EEPROM.
        firmware_floor: oldest firmware that the board takes.
        clock_cost_ns: median cost of one reading of the clock.
        temperature_c: of its SoC, when it said hello.
        time_s: seconds since the epoch by its clock, when it said hello.
        timing: ``wall`` or ``icount``; only boards that we emulate tell.
    """

    serial: str
    imitated: bool
    hardware_model: str
    machine: str
    kernel: str
    page_size_bytes: int
    boot_id: str | None
    firmware: str | None
    firmware_digest: str | None
    partition: int | None
    tryboot: bool
    accelerator: str | None
    clock_cost_ns: int
    disk_free_bytes: int
    memory_bytes: int | None
    bootloader: str | None = None
    firmware_floor: str | None = None
    temperature_c: float | None = None
    time_s: float | None = None
    timing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts(Hello):
    """What the board says of itself, and what it takes a while to find out.

    Args:
        python: version of the Python that models run in.
        runtimes: name → version, as really imported on the board.
    """

    python: str
    runtimes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """An input or output of a model; None in `shape` is an axis of any length."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        axes = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.dtype} ({axes})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is ready on the board.

    Args:
        artifact_digest: of the bundle, as the board itself hashed it before it loaded it.
        replayed: it is a recording that is played back.
        bootloader: date of the bootloader in its EEPROM.
        firmware_floor: oldest firmware that the board takes.
        clock_cost_ns: median cost of one reading of the clock in the model's process.
    """

    cold: ColdStart
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    runtime: str
    runtime_version: str
    artifact_digest: str
    replayed: bool
    clock_cost_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One measurement.

    Args:
        latencies_ns: shape (n,), int64.
        starts_ns: shape (n,), int64, board's monotonic clock.
        outputs: name → the outputs of the first items, item by item on axis 0; empty unless they were kept.
        readings: rows of the sampler since the last measurement.
        peak_rss_bytes: VmHWM of the model's process at the end, its load's included.
        steady_peak_rss_bytes: VmHWM since the load; None where the kernel cannot set it back.
        cgroup_peak_bytes: ``memory.peak`` of the process's own control group, if it has one.
        duration_s: from the first inference to the end of the last one, board's clock.
        cancelled: it was ended early.
        at_rate: when each inference was due, if it was measured at a given rate.
    """

    latencies_ns: Int64Array
    starts_ns: Int64Array
    outputs: Mapping[str, Array]
    readings: tuple[SensorReading, ...]
    peak_rss_bytes: int | None
    conditions: Conditions
    duration_s: float
    cancelled: bool
    at_rate: OpenLoop | None = None
    steady_peak_rss_bytes: int | None = None
    cgroup_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """One inference: outputs by name, when it began and how long it took on the board's clock; rest as `Measured`."""

    outputs: Mapping[str, Array]
    start_ns: int
    latency_ns: int
    readings: tuple[SensorReading, ...]
    peak_rss_bytes: int | None
    conditions: Conditions
    steady_peak_rss_bytes: int | None = None
    cgroup_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A part of what a detached measurement has written. Args: lives: does its program go on?"""

    data: bytes
    lives: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Tokens that the board produced one after the other, greedily; rest as `Measured`.

    Args:
        tokens: shape (k,), int64: the new ones.
        prompt_tokens: how many went in.
        start_ns: when it began, board's monotonic clock.
        first_token_ns, total_ns: from there to the first new token, and to the last.
    """

    tokens: Int64Array
    prompt_tokens: int
    start_ns: int
    first_token_ns: int
    total_ns: int
    readings: tuple[SensorReading, ...]
    peak_rss_bytes: int | None
    conditions: Conditions
    steady_peak_rss_bytes: int | None = None
    cgroup_peak_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareState:
    """The firmware slots: what booted, what boots by default, and what is there."""

    partition: int | None
    default_partition: int | None
    tryboot: bool
    name: str | None
    version: str | None
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setback:
    """A combo that failed on the board after it was activated.

    Args:
        combo: track → digest.
        reason: what the board says of it.
        at: Unix time on the board's clock, seconds.
    """

    combo: Mapping[str, str]
    reason: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What making room removed."""

    removed: tuple[str, ...]
    freed_bytes: int
    kept_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardStatus:
    """What is on the board.

    Args:
        combo: track → digest of the active combo; empty on a fresh board.
        last_known_good: the last combo whose model really loaded.
        store: digests of the bundles that it keeps.
        fence_token: highest fencing token that it has seen.
        fence_holder: and who came with it.
        setback: the last combo that failed; None if the last one did not.
    """

    combo: Mapping[str, str]
    last_known_good: Mapping[str, str] | None
    store: frozenset[str]
    fence_token: int
    fence_holder: str
    firmware: FirmwareState
    setback: Setback | None = None

    @property
    def wrong_firmware(self) -> str | None:
        """What is wrong when the firmware that runs is not the active combo's, in one line; None when all is well.

        Somebody has switched the slots by hand, or the bootloader has left a slot that did not come up. A firmware on
        trial is none of that.
        """
        wanted, runs = self.combo.get("firmware"), self.firmware
        if wanted is None or runs.digest == wanted or runs.tryboot or runs.partition is None:
            return None
        what = f"{runs.name} {runs.version}" if runs.name else "an unnamed firmware"
        return (
            f"partition {runs.partition} runs {what}, and the active combo has another firmware: deploy the combo again"
        )


def hello(fields: Fields) -> Hello:
    """What the board says at once."""
    return Hello(
        serial=fields.text("serial"),
        imitated=fields.flag("imitated"),
        hardware_model=fields.text("hardware_model"),
        machine=fields.text("machine"),
        kernel=fields.text("kernel"),
        page_size_bytes=fields.integer("page_size_bytes"),
        boot_id=fields.text_or_none("boot_id"),
        firmware=fields.text_or_none("firmware"),
        firmware_digest=fields.text_or_none("firmware_digest"),
        partition=fields.integer_or_none("partition"),
        tryboot=fields.flag("tryboot"),
        accelerator=fields.text_or_none("accelerator"),
        clock_cost_ns=fields.integer("clock_cost_ns"),
        disk_free_bytes=fields.integer("disk_free_bytes"),
        memory_bytes=fields.integer_or_none("memory_bytes"),
        bootloader=fields.text_or_none("bootloader"),
        firmware_floor=fields.text_or_none("firmware_floor"),
        temperature_c=fields.number_or_none("temperature_c"),
        time_s=fields.number_or_none("time_s"),
        timing=fields.text_or_none("timing"),
    )


def platform_facts(said: Hello, probed: Fields) -> PlatformFacts:
    """The same with what the board can import."""
    known = {one.name: getattr(said, one.name) for one in dataclasses.fields(said)}
    return PlatformFacts(**known, python=probed.text("python"), runtimes=probed.texts("runtimes"))


def cold_start(fields: Fields) -> ColdStart:
    """One load."""
    return ColdStart(
        load_ns=fields.integer("load_ns"),
        rss_before_bytes=fields.integer("rss_before_bytes"),
        rss_after_bytes=fields.integer("rss_after_bytes"),
        peak_rss_bytes=fields.integer("peak_rss_bytes"),
    )


def loaded(fields: Fields, *, board_id: str) -> Loaded:
    """The answer to a load or a restart."""
    return Loaded(
        cold=cold_start(fields.part("cold")),
        inputs=tuple(_tensor(Fields(one, board_id=board_id)) for one in fields.items("inputs")),
        outputs=tuple(_tensor(Fields(one, board_id=board_id)) for one in fields.items("outputs")),
        runtime=fields.text("runtime"),
        runtime_version=fields.text("runtime_version"),
        artifact_digest=fields.text("digest"),
        replayed=fields.flag("replayed"),
        clock_cost_ns=fields.integer("clock_cost_ns"),
    )


def conditions(fields: Fields) -> Conditions:
    """Under which conditions a measurement was made."""
    return Conditions(
        runtime=fields.text("runtime"),
        runtime_version=fields.text("runtime_version"),
        page_size_bytes=fields.integer("page_size_bytes"),
        clock_cost_ns=fields.integer("clock_cost_ns"),
        gc_pause_ns=fields.integer("gc_pause_ns"),
        throttled_before=fields.integer_or_none("throttled_before"),
        throttled_after=fields.integer_or_none("throttled_after"),
        boot_id_before=fields.text_or_none("boot_id_before"),
        boot_id_after=fields.text_or_none("boot_id_after"),
        replayed=fields.flag("replayed"),
    )


def reading(fields: Fields) -> SensorReading:
    """One row of the sampler."""
    return SensorReading(
        at_s=fields.number("at_s"),
        rss_bytes=fields.integer_or_none("rss_bytes"),
        pss_bytes=fields.integer_or_none("pss_bytes"),
        swap_bytes=fields.integer_or_none("swap_bytes"),
        temperature_c=fields.number_or_none("temperature_c"),
        arm_hz=fields.integer_or_none("arm_hz"),
        throttled=fields.integer_or_none("throttled"),
        npu_percent=fields.number_or_none("npu_percent"),
        power_w=fields.number_or_none("power_w"),
        swap_in_pages=fields.integer_or_none("swap_in_pages"),
    )


def board_status(fields: Fields) -> BoardStatus:
    """The answer to a status request."""
    fence, known = fields.part("fence"), fields.raw("last_known_good")
    running, failed = fields.part_or_none("firmware"), fields.part_or_none("setback")
    return BoardStatus(
        combo=fields.texts("combo"),
        last_known_good=None if known is None else fields.texts("last_known_good"),
        store=frozenset(str(one) for one in fields.items("store")),
        fence_token=fence.integer("token"),
        fence_holder=fence.text("holder"),
        firmware=FirmwareState(
            partition=fields.integer_or_none("partition"),
            default_partition=fields.integer_or_none("default_partition"),
            tryboot=fields.flag("tryboot"),
            name=None if running is None else running.text("name"),
            version=None if running is None else running.text("version"),
            digest=None if running is None else running.text_or_none("digest"),
        ),
        setback=None
        if failed is None
        else Setback(combo=failed.texts("combo"), reason=failed.text("reason"), at=failed.number("at")),
    )


def collected(fields: Fields) -> Collected:
    """The answer to a request to make room."""
    return Collected(
        removed=tuple(str(one) for one in fields.items("removed")),
        freed_bytes=fields.integer("freed_bytes"),
        kept_bytes=fields.integer("kept_bytes"),
    )


def _tensor(fields: Fields) -> TensorInfo:
    sides = fields.items("shape")
    return TensorInfo(
        name=fields.text("name"),
        dtype=fields.text("dtype"),
        shape=tuple(side if isinstance(side, int) else None for side in sides),
    )
