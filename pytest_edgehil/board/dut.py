"""The DUT: a leased board with a combo flashed on it, as a test talks to it. Knows nothing of pytest.

Everything that runs on the board through it becomes part of `Dut.sample`. What the test body fed is remembered, so
that `measure_more` can repeat it for gates that need more.

When the board breaks, the first error is kept (`Dut.broken`) after it has been made more exact with what the console
and the power switch say; nothing is reconnected. How long that can take, beyond the time the operation was given:
`conversation.SILENCE_S` (10 s) until a silent link is noticed, `CONSOLE_S` (3 s) for the console to tell why, and
`STILL_THERE_S` (5 s) to find out whether a board is alive whose model's process died; 18 s together.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from pytest_edgehil.board.answers import Loaded, Measured, PlatformFacts
from pytest_edgehil.board.diagnosis import Console, Witnesses
from pytest_edgehil.board.fed import Fed, Group
from pytest_edgehil.board.firmware_trial import BOOT_S, leave_trial
from pytest_edgehil.board.flash import FlashPlan, FlashProgress, FlashReport, flash, plan_flash
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardError, DatasetError, ModelError, Overheated, UserError
from pytest_edgehil.model.artifact import Combo
from pytest_edgehil.model.board import Board
from pytest_edgehil.model.record import BoardRef
from pytest_edgehil.model.sample import ColdStart, Conditions, Sample, SensorReading
from pytest_edgehil.model.verdict import Demand

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.board.power import Power

    Array = npt.NDArray[Any]
    BoolArray = npt.NDArray[np.bool_]
    IntArray = npt.NDArray[np.int64]

RUN_S = 120.0
LOAD_S = 300.0
WARMUP_INFERENCES = 10
WARMUP_S = 5.0
CRITICAL_C = 110.0
"""Beyond this a Pi 5 shuts itself down (bcm2712's critical trip point)."""


class Baseline(Protocol):
    """What outputs are compared with: `artifacts.reference.ReferenceModel`."""

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of shape (m, …) for inputs of shape (m, …), item by item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of feeding a held-out set.

    Args:
        outputs: output name → shape (m, …), in the order of the items.
        predicted: shape (m,): class of the first output, -1 where it is not a number.
        agreed: shape (m,): the same class as the baseline's? None without a baseline.
        correct: shape (m,): the label's class? None without labels.
        latencies_ns: shape (m,).
        of: size of the whole set.
    """

    outputs: Mapping[str, Array]
    predicted: IntArray
    agreed: BoolArray | None
    correct: BoolArray | None
    latencies_ns: IntArray
    of: int

    @property
    def agreement(self) -> float | None:
        """Share of items that agree with the baseline."""
        return None if self.agreed is None else float(self.agreed.mean())

    @property
    def accuracy(self) -> float | None:
        """Share of items that are right."""
        return None if self.correct is None else float(self.correct.mean())


@dataclass(slots=True, kw_only=True)
class _Course:
    """A held-out set and how far the body has gone through it."""

    dataset: Dataset
    baseline: Baseline | None
    next_item: int = 0


Step = Callable[[str], AbstractContextManager[None]]


def _silently(_name: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


class Dut:
    """A board with a combo on it. Built by `Dut.open`.

    Args:
        session: of the board.
        combo: what is flashed.
        baseline: what `evaluate` compares with unless it is told otherwise.
        witnesses: who may know more when the board breaks.
        threads: of the runtime within one operator.
        step: called with the name of each step (``flash``, ``load``, ``warm-up``, ``measure``) around it.
    """

    def __init__(
        self,
        session: BoardSession,
        combo: Combo,
        *,
        baseline: Baseline | None = None,
        witnesses: Witnesses,
        threads: int = 1,
        step: Step = _silently,
    ) -> None:
        self._session = session
        self._combo = combo
        self._baseline = baseline
        self._witnesses = witnesses
        self._threads = threads
        self._step = step
        self._sample = Sample.empty()
        self._readings: list[SensorReading] = []
        self._fed = Fed()
        self._courses: list[_Course] = []
        self._warm: set[str] = set()
        self._pace_s = 0.0
        self._loaded: Loaded | None = None
        self._flashed: FlashReport | None = None
        self._broken: BoardError | None = None

    @classmethod
    def open(
        cls,
        session: BoardSession,
        *,
        combo: Combo,
        baseline: Baseline | None = None,
        console: Console | None = None,
        power: Power | None = None,
        threads: int = 1,
        step: Step = _silently,
        on_progress: Callable[[FlashProgress], None] | None = None,
        boot_timeout_s: float = BOOT_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
    ) -> Self:
        """Flash a combo on a leased board and load its model.

        Args:
            session: of the board; it stays open when the DUT is closed, for the next one.
            combo: what to flash; what is on the board already is not sent again.
            baseline: what `evaluate` compares with unless it is told otherwise.
            console: asked for the reason when the board breaks.
            power: asked likewise; also brings back a board whose new firmware does not come up.
            threads: of the runtime within one operator.
            step: called with the name of each step around it.
            on_progress: told how far sending is.
            boot_timeout_s: how long a boot may take.
            clock: monotonic seconds.
            wait: sleeps so many seconds.

        Raises:
            WrongTarget, RuntimeMissing: the combo and the board do not fit.
            FlashError: the board is on the combo that it was on before.
            ModelError: the model does not load.
            BoardError: the board or its link broke.
        """
        witnesses = Witnesses(session.board.id, console=console, power=power, clock=clock, wait=wait)
        dut = cls(session, combo, baseline=baseline, witnesses=witnesses, threads=threads, step=step)
        try:
            dut._prepare(power, on_progress, boot_timeout_s)
        except BaseException:
            dut.close()
            raise
        return dut

    # --- what it is ----------------------------------------------------------------------------------

    @property
    def board(self) -> Board:
        """The board's description."""
        return self._session.board

    @property
    def combo(self) -> Combo:
        """What is flashed."""
        return self._combo

    @property
    def platform(self) -> PlatformFacts:
        """What the board says of itself."""
        return self._session.client.platform

    @property
    def loaded(self) -> Loaded:
        """The model as it was loaded: inputs, outputs, runtime.

        Raises:
            UserError: the combo has no model.
        """
        if self._loaded is None:
            raise UserError(
                f"{self.board.id}: no model is flashed, so there is nothing to run: "
                "add model=… to the combo, for example @pytest.mark.combo(model='digits-int8')"
            )
        return self._loaded

    @property
    def flashed(self) -> FlashReport | None:
        """What flashing did."""
        return self._flashed

    @property
    def ref(self) -> BoardRef:
        """Which board this is, as it and the lab say."""
        platform, board = self.platform, self.board
        loaded = self._loaded
        return BoardRef(
            id=board.id,
            cls=board.cls,
            environment=board.environment,
            serial=platform.serial,
            hardware_model=platform.hardware_model,
            accelerator=board.accelerator.kind if board.accelerator else platform.accelerator,
            runtime=None if loaded is None else f"{loaded.runtime} {loaded.runtime_version}",
            firmware=platform.firmware,
        )

    @property
    def broken(self) -> BoardError | None:
        """Why the board cannot be used any more; None while it is well."""
        return self._broken

    @property
    def console_text(self) -> str:
        """What the serial console has shown since it was opened; empty without one."""
        return self._witnesses.console_text()

    # --- what a test does ----------------------------------------------------------------------------

    def run(self, feeds: Mapping[str, Array], *, timeout_s: float = RUN_S) -> dict[str, Array]:
        """One inference on the board; its latency, measured there, becomes part of the sample.

        Args:
            feeds: input name → array, as the model takes them.
            timeout_s: deadline.

        Returns:
            Output name → array.

        Raises:
            ModelError: the feeds do not fit, or the model fails.
            BoardError: the board or its link broke.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        with self._hands_on():
            self._warm_up(Group.of_one(arrays))
            timed = self._session.client.run_timed(arrays, timeout_s=timeout_s)
        self._fed.add_one(arrays)
        self._note(
            starts_ns=np.array([timed.start_ns], dtype=np.int64),
            latencies_ns=np.array([timed.latency_ns], dtype=np.int64),
            readings=timed.readings,
            peak_rss_bytes=timed.peak_rss_bytes,
            conditions=timed.conditions,
            duration_s=timed.latency_ns / 1e9,
        )
        return dict(timed.outputs)

    def measure(
        self, feeds: Mapping[str, Array], *, inferences: int | None = None, seconds: float | None = None
    ) -> Sample:
        """Time the same feeds again and again.

        Args:
            feeds: input name → array, as the model takes them.
            inferences: end after so many.
            seconds: end after so long; with both, what comes first. One of them is needed.

        Returns:
            The sample with them.

        Raises:
            UserError: neither a number nor a time is given.
            ModelError, BoardError: as `run`.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        if inferences is None and seconds is None:
            raise UserError("dut.measure: pass inferences=… or seconds=…")
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        group = Group.of_one(arrays)
        with self._hands_on():
            self._warm_up(group)
            with self._step("measure"):
                measured = self._measure(group, inferences=inferences, seconds=seconds)
        self._fed.add_one(arrays)
        self._note_measured(measured)
        return self._sample

    def evaluate(self, dataset: Dataset, baseline: Baseline | None = None, *, items: int | None = None) -> Evaluation:
        """Feed a held-out set, item by item, time every inference, and compare classes.

        Args:
            dataset: inputs of shape (m, …) and labels of shape (m,), if there are any.
            baseline: what to compare with; None: the DUT's, if it has one.
            items: only so many of them; the rest is evaluated when a gate asks for more. None: all.

        Raises:
            ModelError, BoardError: as `run`.
            DatasetError: `items` is not a number of 1 or more.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        if items is not None and items < 1:
            raise DatasetError(f"{dataset.name}: items is {items}, expected 1 or more")
        course = _Course(dataset=dataset, baseline=baseline if baseline is not None else self._baseline)
        count = len(dataset) if items is None else min(items, len(dataset))
        evaluation = self._advance(course, count)
        self._courses.append(course)
        self._fed.add_items(dict(dataset.inputs))
        return evaluation

    def measure_more(self, demand: Demand) -> Sample:
        """Measure what a gate still needs, by repeating what the test body fed.

        Evaluations beyond the end of the held-out sets are not possible; the sample then stays as it is.

        Raises:
            UserError: the body fed nothing, so there is nothing to repeat.
            ModelError, BoardError: as `run`.
        """
        before = self._sample.n
        left = demand.evaluations
        for course in self._courses:
            count = min(left, len(course.dataset) - course.next_item)
            if count > 0:
                self._advance(course, count)
                left -= count
        inferences = demand.inferences - (self._sample.n - before)
        if inferences > 0:
            self._repeat(inferences=inferences, seconds=None)
        if demand.seconds > 0:
            self._repeat(inferences=None, seconds=demand.seconds)
        for _ in range(demand.cold_starts):
            self._restart()
        return self._sample

    @property
    def sample(self) -> Sample:
        """Everything measured so far; immutable, and another one after more has been measured."""
        return self._sample

    def attest(self, payload: bytes) -> tuple[bytes, str]:
        """Have the board sign a statement about what it loaded; see `OnboardClient.attest`."""
        with self._hands_on():
            return self._session.client.attest(payload)

    def close(self) -> None:
        """End the model's process on the board. Safe to call twice; never raises because of a broken board."""
        loaded, self._loaded = self._loaded, None
        if self._broken is not None:
            self._session.drop()  # whatever answers on it later answers an old question
        elif loaded is not None:
            try:
                self._session.client.unload()
            except BoardError:
                # a model that hangs is this test's doing; the next one gets a session of its own
                self._session.drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------

    def _prepare(
        self, power: Power | None, on_progress: Callable[[FlashProgress], None] | None, boot_timeout_s: float
    ) -> None:
        with self._hands_on(), self._step("flash"):
            leave_trial(self._session, boot_timeout_s=boot_timeout_s)
            self._flashed = flash(
                self._plan(), self._session, power=power, on_progress=on_progress, boot_timeout_s=boot_timeout_s
            )
            self._witnesses.forget_past()  # a reboot that we asked for explains nothing later
        model = self._combo.model
        if model is not None:
            with self._hands_on(), self._step("load"):
                self._loaded = self._session.client.load(model.digest, threads=self._threads, timeout_s=LOAD_S)
                self._session.client.take_readings()  # those of whoever used the session before
            self._sample = self._sample.replace(
                cold_starts=(self._loaded.cold,),
                peak_rss_bytes=self._loaded.cold.peak_rss_bytes,
                artifact_size_bytes=model.size_bytes,
            )

    def _plan(self) -> FlashPlan:
        return plan_flash(self._combo, self._session.client.status())

    def _warm_up(self, group: Group) -> None:
        """The first inferences with feeds of a shape are slower, and say nothing of the later ones."""
        if group.signature in self._warm or self.loaded.replayed:
            return  # a recording holds no warm-up
        with self._step("warm-up"):
            measured = self._session.client.measure(
                group.stacked,
                inferences=WARMUP_INFERENCES,
                seconds=WARMUP_S,
                batched=group.batched,
                timeout_s=RUN_S,
                on_progress=self._watch,
            )
        self._warm.add(group.signature)
        self._pace_s = max(self._pace_s, float(measured.latencies_ns.mean()) / 1e9)
        self._readings += measured.readings

    def _advance(self, course: _Course, count: int) -> Evaluation:
        """Evaluate the next items of a held-out set."""
        dataset, first = course.dataset, course.next_item
        inputs = dict(dataset.inputs)
        taken = slice(first, first + count)
        compared = None
        if course.baseline is not None:
            # before and not while the board measures: a virtual board shares this host's CPU
            compared = course.baseline.evaluate({name: array[taken] for name, array in inputs.items()})
        group = Group.of_items(inputs)
        with self._hands_on():
            self._warm_up(group)
            with self._step("measure"):
                measured = self._measure(group, inferences=count, seconds=None, first=first, keep_outputs=True)
        course.next_item = first + count
        self._note_measured(measured)
        if len(measured.latencies_ns) != count:
            raise ModelError(f"{self.board.id}: {len(measured.latencies_ns)} of {count} items were evaluated")
        name = self.loaded.outputs[0].name
        predicted = _classes(measured.outputs[name])
        reference = None if compared is None else _classes(compared.get(name, next(iter(compared.values()))))
        labels = None if dataset.labels is None else np.asarray(dataset.labels)[taken]
        evaluation = Evaluation(
            outputs=measured.outputs,
            predicted=predicted,
            agreed=None if reference is None else (predicted == reference) & (predicted >= 0),
            correct=None if labels is None else predicted == labels,
            latencies_ns=measured.latencies_ns,
            of=len(dataset),
        )
        self._note_evaluation(
            evaluation,
            baseline_correct=None if labels is None or reference is None else reference == labels,
            new=first == 0,
        )
        return evaluation

    def _repeat(self, *, inferences: int | None, seconds: float | None) -> None:
        groups = self._fed.groups()
        if not groups:
            raise UserError(
                f"{self.board.id}: a gate needs more samples, but the test has fed nothing that could be repeated: "
                "call dut.run(…) or dut.evaluate(…) in it"
            )
        total = sum(group.items for group in groups)
        left = inferences
        for at, group in enumerate(groups):
            share = group.items / total
            number = None
            if left is not None and inferences is not None:
                number = left if at == len(groups) - 1 else min(left, max(1, round(inferences * share)))
                left -= number
                if number == 0:
                    continue
            with self._hands_on():
                self._warm_up(group)
                with self._step("measure"):
                    measured = self._measure(
                        group, inferences=number, seconds=None if seconds is None else seconds * share
                    )
            self._note_measured(measured)

    def _measure(
        self,
        group: Group,
        *,
        inferences: int | None,
        seconds: float | None,
        first: int = 0,
        keep_outputs: bool = False,
    ) -> Measured:
        # Ten times as slow as the slowest warm-up is no slow board any more but a stuck one.
        expected_s = (inferences or 0) * self._pace_s * 10 + (seconds or 0.0) * 1.5
        return self._session.client.measure(
            group.stacked,
            inferences=inferences,
            seconds=seconds,
            first=first,
            keep_outputs=keep_outputs,
            batched=group.batched,
            timeout_s=RUN_S + expected_s,
            on_progress=self._watch,
        )

    def _restart(self) -> None:
        with self._hands_on(), self._step("cold start"):
            cold = self._session.client.restart(timeout_s=LOAD_S)
        self._warm.clear()
        self._note_cold(cold)

    def _watch(self, _done: int, newest: SensorReading | None) -> None:
        self._session.check()  # a soak of an hour must not go on on a board that somebody else has got
        if newest is not None and newest.temperature_c is not None and newest.temperature_c >= CRITICAL_C:
            raise Overheated(
                f"{self.board.id}: the SoC is at {newest.temperature_c:.1f} °C, beyond the critical {CRITICAL_C:g} °C: "
                "check its cooling"
            )

    @contextlib.contextmanager
    def _hands_on(self) -> Iterator[None]:
        """Around everything that needs the board: the first failure is made exact and kept."""
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))
        try:
            yield
        except (BoardError, ModelError) as problem:
            told = self._witnesses.explain(problem, self._session)
            if isinstance(told, BoardError):
                self._broken = told
            if told is problem:
                raise
            raise told from problem

    # --- the sample ----------------------------------------------------------------------------------

    def _note_measured(self, measured: Measured) -> None:
        self._note(
            starts_ns=measured.starts_ns,
            latencies_ns=measured.latencies_ns,
            readings=measured.readings,
            peak_rss_bytes=measured.peak_rss_bytes,
            conditions=measured.conditions,
            duration_s=measured.duration_s,
        )

    def _note(
        self,
        *,
        starts_ns: IntArray,
        latencies_ns: IntArray,
        readings: tuple[SensorReading, ...],
        peak_rss_bytes: int | None,
        conditions: Conditions,
        duration_s: float,
    ) -> None:
        self._readings += readings
        sample = self._sample
        peaks = [one for one in (sample.peak_rss_bytes, peak_rss_bytes) if one is not None]
        self._sample = sample.replace(
            starts_ns=np.concatenate([sample.starts_ns, starts_ns]),
            latencies_ns=np.concatenate([sample.latencies_ns, latencies_ns]),
            readings=tuple(self._readings),
            peak_rss_bytes=max(peaks, default=None),
            conditions=_joined(sample.conditions, conditions),
            duration_s=sample.duration_s + duration_s,
        )

    def _note_cold(self, cold: ColdStart) -> None:
        sample = self._sample
        self._sample = sample.replace(
            cold_starts=(*sample.cold_starts, cold),
            peak_rss_bytes=max(sample.peak_rss_bytes or 0, cold.peak_rss_bytes),
        )

    def _note_evaluation(self, evaluation: Evaluation, *, baseline_correct: BoolArray | None, new: bool) -> None:
        sample = self._sample
        self._sample = sample.replace(
            agreed=_appended(sample.agreed, evaluation.agreed),
            correct=_appended(sample.correct, evaluation.correct),
            baseline_correct=_appended(sample.baseline_correct, baseline_correct),
            evaluated_of=(sample.evaluated_of or 0) + (evaluation.of if new else 0),
        )


def _classes(outputs: Array) -> IntArray:
    """Class of each item: argmax over everything but the first axis; -1 where a value is not a number."""
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape[1] == 0:
        return np.full(len(outputs), -1, dtype=np.int64)
    classes: IntArray = flat.argmax(axis=1).astype(np.int64)
    if flat.dtype.kind == "f":
        classes[np.isnan(flat).any(axis=1)] = -1
    return classes


def _appended(old: BoolArray | None, new: BoolArray | None) -> BoolArray | None:
    if old is None or new is None:
        return old if new is None else new
    return np.concatenate([old, new])


def _joined(first: Conditions | None, last: Conditions) -> Conditions:
    """Conditions over two measurements: as they were before the first and after the last."""
    if first is None:
        return last
    return Conditions(
        runtime=last.runtime,
        runtime_version=last.runtime_version,
        page_size_bytes=last.page_size_bytes,
        clock_cost_ns=max(first.clock_cost_ns, last.clock_cost_ns),
        gc_pause_ns=first.gc_pause_ns + last.gc_pause_ns,
        throttled_before=first.throttled_before,
        throttled_after=last.throttled_after,
        boot_id_before=first.boot_id_before,
        boot_id_after=last.boot_id_after,
        restarts=first.restarts + last.restarts,
        replayed=first.replayed or last.replayed,
    )
