"""The host's end of a detached measurement: follow what the board has measured, also across a lost link.

The board measures in a program of its own (`onboard/detached.py`) and keeps what it measured in a spool. Here it is
read from the byte where reading stopped, frame by frame, as far as was asked for: what lies beyond stays for the next
time. So nothing is lost, nothing counts twice, and the same demands on a recording always give the same sample.

When the link is lost, it is opened again, for `pick_up_s` at most. Then

- the board is the same boot, and its program goes on: the sample notes the drop (`Sample.link_drops`);
- it has rebooted: `BoardCrashed`; the program is gone: an error that says so; the board was given to somebody else:
  `LeaseLost` or `Fenced`. All of these are the infrastructure's fault.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_edgehil.board import answers, wire
from pytest_edgehil.board.answers import Measured
from pytest_edgehil.board.fed import Group
from pytest_edgehil.board.fields import Fields
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.tally import Tally
from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.errors import (
    BoardCrashed,
    BoardError,
    ConnectFailed,
    DeadlineExceeded,
    LinkLost,
    ProtocolError,
)
from pytest_edgehil.model.sample import Conditions, SensorReading
from pytest_edgehil.model.series import LinkDrop

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

PICK_UP_S = 120.0
"""So long the board is tried again after its link was lost."""
UNATTENDED_S = 600.0
"""After so long without a host the board gives the measurement up; longer than anyone tries to come back."""
MARGIN_S = 1.0
"""The board is asked for a little more than will be read: its clock starts before the first inference does."""
READ_S = 1.0
READ_LEAST = 512 * 1024
STALL_S = 300.0
"""Beyond the time that was asked for: a load of the model after a crash, and an inference that takes its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure.

    Args:
        seconds: of measuring at most.
        restarts: is the model's process started again when it dies?
        warmup: inferences that are not timed, in every process.
        warmup_s: but no longer than this.
        runtime: of the model.
        replayed: it is a recording.
    """

    seconds: float
    restarts: bool
    warmup: int
    warmup_s: float
    runtime: str
    replayed: bool


class DetachedMeasurement:
    """One measurement on the board. Built by `start`.

    Args:
        session: of the board.
        name: by which the board knows it.
        plan: what was asked for.
        pick_up_s: how long a lost link is tried again.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        session: BoardSession,
        name: str,
        plan: Plan,
        *,
        pick_up_s: float = PICK_UP_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._id = session.board.id
        self._name = name
        self._plan = plan
        self._pick_up_s = pick_up_s
        self._clock = clock
        self._boot_id = session.client.hello.boot_id
        self._page_size_bytes = session.client.hello.page_size_bytes
        self._buffer = wire.FrameBuffer(self._id)
        self._offset = 0
        self._newest: SensorReading | None = None
        self._process = _Process()
        self.over = False

    @classmethod
    def start(
        cls,
        session: BoardSession,
        groups: Sequence[Group],
        plan: Plan,
        *,
        pick_up_s: float = PICK_UP_S,
        timeout_s: float,
    ) -> DetachedMeasurement:
        """Begin to measure; the session's own model's process ends.

        Args:
            session: of the board; a model is loaded in it.
            groups: what to feed, in turns.
            plan: what to measure.
            pick_up_s: how long a lost link is tried again later.
            timeout_s: deadline for the beginning.
        """
        client = session.client
        for number, group in enumerate(groups):
            client.stage_detached(group.stacked, batched=group.batched, append=number > 0, timeout_s=timeout_s)
        name = client.start_detached(
            {
                "seconds": plan.seconds + MARGIN_S,
                "restarts": plan.restarts,
                "warmup": plan.warmup,
                "warmup_s": plan.warmup_s,
                "unattended_s": max(UNATTENDED_S, 2 * pick_up_s),
            },
            timeout_s=timeout_s,
        )
        return cls(session, name, plan, pick_up_s=pick_up_s)

    @property
    def newest(self) -> SensorReading | None:
        """The newest row of the sampler that was read."""
        return self._newest

    def follow(
        self,
        seconds: float,
        tally: Tally,
        *,
        on_progress: Callable[[int, SensorReading | None], None],
        explain_crash: Callable[[str, str], str] = lambda _code, message: message,
    ) -> None:
        """Read on until so many more seconds were measured, or it is over, or the model's process died.

        A crash may have decided something already: whoever asked is to look first.

        Args:
            seconds: of measuring.
            tally: where it goes.
            on_progress: told the number of inferences and the newest row about every second; may raise.
            explain_crash: what to say of a crash, by its code and message.

        Raises:
            ModelError: the model's process died, and is not to be started again.
            DeadlineExceeded: it measures nothing any more.
            BoardError: the board or its link broke, for good.
        """
        target_s = tally.duration_s + seconds
        crashes = tally.crashes
        allowed_s = 3.0 * seconds + STALL_S
        deadline = self._clock() + allowed_s
        try:
            while True:
                while self._measured_s(tally) < target_s and (frame := self._buffer.next()) is not None:
                    self._take(*frame, tally, explain_crash)
                    if tally.crashes > crashes:
                        return
                if self.over or self._measured_s(tally) >= target_s:
                    return
                on_progress(tally.n + self._process.inferences, self._newest)
                if self._clock() > deadline:
                    raise DeadlineExceeded(
                        f"{self._id}: {self._process.inferences} inferences came within {allowed_s:.0f} s of a "
                        f"measurement that should have gone on for {seconds:g} s; the board is alive"
                    )
                self._read(tally, on_progress)
        finally:
            self._hand_over(tally)

    # --- the board -----------------------------------------------------------------------------------

    def _read(self, tally: Tally, on_progress: Callable[[int, SensorReading | None], None]) -> None:
        # a lost lease or a hot board must not wait for an answer
        def tick() -> None:
            on_progress(tally.n + self._process.inferences, self._newest)

        try:
            piece = self._session.client.read_detached(
                self._name, offset=self._offset, wait_s=READ_S, least=READ_LEAST, on_tick=tick
            )
        except (LinkLost, ConnectFailed, DeadlineExceeded) as problem:
            self._pick_up(problem, tally)
            return
        self._offset += len(piece.data)
        self._buffer.feed(piece.data)
        if not piece.data and not piece.lives:
            raise ProtocolError(
                f"{self._id}: the program that measured on the board ended without a word: it was killed, or the disk "
                "is full"
            )

    def _pick_up(self, problem: BoardError, tally: Tally) -> None:
        began = self._clock()
        at_s = 0.0 if self._newest is None else self._newest.at_s
        try:
            client = self._session.renew(old_boot_id=None, timeout_s=self._pick_up_s)
        except DeadlineExceeded as gone:
            raise LinkLost(
                f"{problem}; the board goes on measuring, but could not be reached again within {self._pick_up_s:g} s "
                f"({gone.__cause__})"
            ) from gone
        boot_id = client.hello.boot_id
        if boot_id != self._boot_id:
            raise BoardCrashed(
                f"{self._id}: the board rebooted in the middle of a measurement, after its link was lost: {problem}"
            )
        tally.add_link_drop(LinkDrop(at_s=at_s, lasted_s=self._clock() - began))

    # --- what it measured ----------------------------------------------------------------------------

    def _measured_s(self, tally: Tally) -> float:
        return tally.duration_s + self._process.pending_s

    def _take(self, message: wire.Message, blob: bytes, tally: Tally, explain_crash: Callable[[str, str], str]) -> None:
        """One frame of the spool."""
        fields = Fields(message, board_id=self._id)
        match message.get("type"):
            case "started":
                self._hand_over(tally)
                tally.add_load(answers.cold_start(fields.part("cold")))
                self._process = _Process(
                    version=fields.text("runtime_version"), clock_cost_ns=fields.integer("clock_cost_ns")
                )
            case "samples":
                self._process.add_samples(fields, blob, board_id=self._id)
            case "readings":
                rows = tuple(answers.reading(Fields(one, board_id=self._id)) for one in fields.items("rows"))
                self._process.add_readings(rows, fields)
                self._newest = rows[-1] if rows else self._newest
            case "crash":
                self._hand_over(tally)
                tally.add_crash(explain_crash(fields.text("code"), fields.text("message")))
            case "ended":
                self._hand_over(tally)
                self.over = True
                self._conclude(fields, tally)
            case other:
                raise ProtocolError(f"{self._id}: unexpected {str(other)[:40]!r} in a detached measurement")

    def _conclude(self, fields: Fields, tally: Tally) -> None:
        reason = fields.text("reason")
        said = fields.text_or_none("message") or reason
        match reason:
            case "done":
                return
            case "not-restarted":
                tally.add_not_restarted(said)
            case "problem":
                raise error_of(fields.text("code"), said, board_id=self._id)
            case _:
                raise LinkLost(f"{self._id}: the board gave the measurement up ({reason}): {said}")

    def _hand_over(self, tally: Tally) -> None:
        """What the present process has measured since the last time."""
        piece = self._process.take(
            Conditions(
                runtime=self._plan.runtime,
                runtime_version=self._process.version,
                page_size_bytes=self._page_size_bytes,
                clock_cost_ns=self._process.clock_cost_ns,
                boot_id_before=self._boot_id,
                boot_id_after=self._boot_id,
                replayed=self._plan.replayed,
            )
        )
        if piece is not None:
            tally.add_measured(piece)


class _Process:
    """What one process of the model has measured, since it was handed over last."""

    def __init__(self, *, version: str = "", clock_cost_ns: int = 0) -> None:
        self.version = version
        self.clock_cost_ns = clock_cost_ns
        self.inferences = 0
        self._starts: list[Array] = []
        self._latencies: list[Array] = []
        self._readings: list[SensorReading] = []
        self._peaks: dict[str, int | None] = {}
        self._ended_ns: int | None = None
        self._pending_ns = 0
        self._gc_pause_ns = self._gc_told_ns = 0
        self._throttled: int | None = None

    @property
    def pending_s(self) -> float:
        """Seconds of measuring that were not handed over yet."""
        return self._pending_ns / 1e9

    def add_samples(self, fields: Fields, blob: bytes, *, board_id: str) -> None:
        """One frame of inferences."""
        count = fields.integer("count")
        if count < 1 or len(blob) != 16 * count:
            raise ProtocolError(f"{board_id}: {count} samples came in {len(blob)} bytes")
        starts, latencies = np.frombuffer(blob, dtype="<i8").reshape(2, count)
        began_ns = int(starts[0]) if self._ended_ns is None else self._ended_ns
        self._ended_ns = int(starts[-1] + latencies[-1])
        self._pending_ns += self._ended_ns - began_ns
        self._starts.append(starts)
        self._latencies.append(latencies)
        self._gc_pause_ns = fields.integer_or_none("gc_pause_ns") or self._gc_pause_ns
        self.inferences += count

    def add_readings(self, rows: tuple[SensorReading, ...], fields: Fields) -> None:
        """Rows of the sampler, and the memory of the process at that moment."""
        self._readings += rows
        for name in ("peak_rss_bytes", "steady_peak_rss_bytes", "cgroup_peak_bytes"):
            value = fields.integer_or_none(name)
            self._peaks[name] = self._peaks.get(name) if value is None else value

    def take(self, conditions: Conditions) -> Measured | None:
        """What there is, and forget it; None where there is nothing."""
        if not self._starts and not self._readings:
            return None
        bits = [one.throttled for one in self._readings if one.throttled is not None]
        before = self._throttled if self._throttled is not None else next(iter(bits), None)
        self._throttled = bits[-1] if bits else self._throttled
        nothing = np.empty(0, dtype=np.int64)
        measured = Measured(
            latencies_ns=np.concatenate(self._latencies).astype(np.int64) if self._latencies else nothing,
            starts_ns=np.concatenate(self._starts).astype(np.int64) if self._starts else nothing,
            outputs={},
            readings=tuple(self._readings),
            peak_rss_bytes=self._peaks.get("peak_rss_bytes"),
            steady_peak_rss_bytes=self._peaks.get("steady_peak_rss_bytes"),
            cgroup_peak_bytes=self._peaks.get("cgroup_peak_bytes"),
            conditions=dataclasses.replace(
                conditions,
                gc_pause_ns=self._gc_pause_ns - self._gc_told_ns,
                throttled_before=before,
                throttled_after=self._throttled,
            ),
            duration_s=self.pending_s,
            cancelled=False,
        )
        self._gc_told_ns = self._gc_pause_ns
        self._starts, self._latencies, self._readings, self._pending_ns, self.inferences = [], [], [], 0, 0
        return measured
