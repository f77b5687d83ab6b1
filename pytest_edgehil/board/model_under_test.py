"""The model of a combo, loaded on a board: warmed up, run, timed, loaded again.

Everything that runs on the board through it becomes part of the tally. What breaks the board is kept by `FirstFailure`;
nothing is reconnected, except to a soak that goes on on the board (`detached`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pytest_edgehil.board.answers import Generation, Loaded, Measured
from pytest_edgehil.board.detached import DetachedMeasurement, Plan
from pytest_edgehil.board.diagnosis import Witnesses
from pytest_edgehil.board.fed import Group, Prompt
from pytest_edgehil.board.pairing import Pairing
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.tally import Tally
from pytest_edgehil.errors import BoardError, ModelError, Overheated, UserError
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.model.board import Timing
from pytest_edgehil.model.sample import SensorReading
from pytest_edgehil.model.verdict import Demand

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

RUN_S = 120.0
LOAD_S = 300.0
COUNTED_PATIENCE = 20.0
"""So many times as long may be what is told in seconds of a board that counts its instructions: the host is slower."""
WARMUP_INFERENCES = 10
WARMUP_S = 5.0
CRITICAL_C = 110.0
"""Beyond this a Pi 5 shuts itself down (bcm2712's critical trip point)."""

_GENERATING = "generating"

Step = Callable[[str], AbstractContextManager[None]]


class FirstFailure:
    """What broke the board: made exact when it happens, kept, and raised again whenever the board is needed.

    Args:
        session: of the board.
        witnesses: who may know more.
    """

    def __init__(self, session: BoardSession, witnesses: Witnesses) -> None:
        self._session = session
        self._witnesses = witnesses
        self.broken: BoardError | None = None
        """Why the board cannot be used any more; None while it is well."""

    @contextlib.contextmanager
    def hands_on(self) -> Iterator[None]:
        """Around everything that needs the board."""
        if self.broken is not None:
            raise type(self.broken)(str(self.broken))
        try:
            yield
        except (BoardError, ModelError) as problem:
            told = self._witnesses.explain(problem, self._session)
            if isinstance(told, BoardError):
                self.broken = told
            if told is problem:
                raise
            raise told from problem


class ModelUnderTest:
    """A combo's model on its board.

    Args:
        session: of the board; the model has been flashed there.
        artifact: the model; None: the combo has none, and everything but `loaded_or_none` says so.
        tally: gets what is measured.
        failure: of the board.
        threads: of the runtime within one operator.
        pick_up_s: so long a link that is lost during a soak is tried again.
        explain_crash: says of an error's code and message why the model's process died, as far as somebody knows.
        step: called with the name of each step around it.
    """

    def __init__(
        self,
        session: BoardSession,
        artifact: Artifact | None,
        *,
        tally: Tally,
        failure: FirstFailure,
        threads: int,
        pick_up_s: float,
        explain_crash: Callable[[str, str], str],
        step: Step,
    ) -> None:
        self._session = session
        self._artifact = artifact
        self._tally = tally
        self._failure = failure
        self._threads = threads
        self._pick_up_s = pick_up_s
        self._explain_crash = explain_crash
        self._step = step
        self._loaded: Loaded | None = None
        self._warm: set[str] = set()
        self._pace_s = 0.0
        self._patience = 1.0 if session.board.timing is Timing.WALL else COUNTED_PATIENCE
        self._detached: DetachedMeasurement | None = None

    @property
    def loaded(self) -> Loaded:
        """The model as it was loaded.

        Raises:
            UserError: the combo has no model.
        """
        if self._loaded is None:
            raise UserError(
                f"{self._session.board.id}: no model is flashed, so there is nothing to run: "
                "add model=… to the combo, for example @pytest.mark.combo(model='digits-int8')"
            )
        return self._loaded

    @property
    def loaded_or_none(self) -> Loaded | None:
        """The same where a combo without a model is fine."""
        return self._loaded

    @property
    def patience(self) -> float:
        """So many times as long may take what takes a time on a board with a clock."""
        return self._patience

    def load(self) -> None:
        """Load it for the first time; nothing for a combo without a model."""
        if self._artifact is not None:
            with self._failure.hands_on(), self._step("load"):
                self._load(self._artifact, size_bytes=self._artifact.size_bytes)

    def run(self, feeds: Mapping[str, Array], *, timeout_s: float) -> dict[str, Array]:
        """One inference; output name → array."""
        with self._failure.hands_on():
            self._warm_up(Group.of_one(feeds))
            timed = self._session.client.run_timed(feeds, timeout_s=timeout_s)
        self._tally.add_run(timed)
        return dict(timed.outputs)

    def measure(
        self,
        group: Group,
        *,
        inferences: int | None,
        seconds: float | None,
        first: int = 0,
        keep_outputs: bool = False,
        rate_hz: float | None = None,
    ) -> Measured:
        """Time inferences; see `OnboardClient.measure`."""
        with self._failure.hands_on():
            self._warm_up(group)
            # Ten times as slow as the slowest warm-up is no slow board any more but a stuck one.
            expected_s = (inferences or 0) * self._pace_s * 10 + (seconds or 0.0) * 1.5
            if rate_hz is not None:
                expected_s += (inferences or 0) / rate_hz
            with self._step("measure"):
                measured = self._session.client.measure(
                    group.stacked,
                    inferences=inferences,
                    seconds=seconds,
                    first=first,
                    keep_outputs=keep_outputs,
                    batched=group.batched,
                    rate_hz=rate_hz,
                    timeout_s=(RUN_S + expected_s) * self._patience,
                    on_progress=self._watch,
                )
        self._tally.add_measured(measured)
        return measured

    def measure_beside(
        self, pairing: Pairing, groups: Sequence[Group], demand: Demand, *, bring: Callable[[], None]
    ) -> None:
        """Time blocks of it and of a baseline beside it, in turns.

        Args:
            groups: what both are fed.
            demand: how many pairs of blocks of which length.
            bring: gets the baseline onto the board, where it is not there.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        with self._failure.hands_on():
            self._load_here()
            client = self._session.client
            if not pairing.is_on(client):
                with self._step("load baseline"):
                    bring()
            for group in groups:
                self._warm_up(group)
            with self._step("measure"):
                pairing.warm_up(client, groups, on_progress=self._watch)
                for _ in range(demand.pairs):
                    candidate, baseline = pairing.measure(
                        client, groups, block=demand.block, pace_s=self._pace_s, on_progress=self._watch
                    )
                    self._tally.add_pair(pairing.paired, candidate, baseline)

    def go_on(self, groups: Sequence[Group], demand: Demand) -> None:
        """Measure on in a program of its own on the board, which goes on between two demands and without a link."""
        with self._failure.hands_on(), self._step("measure"):
            if self._detached is None or self._detached.over:
                self._load_here()  # also where one is over: the next one takes the model from this session
                self._detached = DetachedMeasurement.start(
                    self._session,
                    groups,
                    Plan(
                        seconds=demand.horizon_s,
                        restarts=demand.restarts,
                        warmup=WARMUP_INFERENCES,
                        warmup_s=WARMUP_S,
                        runtime=self.loaded.runtime,
                        replayed=self.loaded.replayed,
                    ),
                    pick_up_s=self._pick_up_s,
                    timeout_s=LOAD_S,
                )
            self._detached.follow(
                demand.seconds, self._tally, on_progress=self._watch, explain_crash=self._explain_crash
            )

    def generate(self, prompt: Prompt, *, timeout_s: float) -> Generation:
        """Have it continue a prompt."""
        client = self._session.client
        with self._failure.hands_on():
            self._load_here()
            if _GENERATING not in self._warm and not self.loaded.replayed:
                with self._step("warm-up"):
                    client.generate(prompt.ids, max_new_tokens=2, timeout_s=timeout_s)
                self._warm.add(_GENERATING)
            with self._step("generate"):
                made = client.generate(
                    prompt.ids, max_new_tokens=prompt.max_new_tokens, stop=prompt.stop, timeout_s=timeout_s
                )
            self._session.check()
        self._tally.add_generation(made)
        return made

    def restart(self) -> None:
        """Load it once more in a fresh process: a cold start."""
        with self._failure.hands_on(), self._step("cold start"):
            if self._detached is not None:
                self._load_here()
                return
            cold = self._session.client.restart(timeout_s=LOAD_S)
        self._warm.clear()
        self._tally.add_load(cold)

    def close(self) -> None:
        """End its process on the board. Safe to call twice; never raises because of a broken board."""
        loaded, self._loaded = self._loaded, None
        if self._failure.broken is not None:
            self._session.drop()  # whatever answers on it later answers an old question
        elif loaded is not None:
            try:
                self._session.client.unload()
            except (BoardError, ModelError):
                # a model that hangs is this test's doing; the next one gets a session of its own
                self._session.drop()

    # --- inside --------------------------------------------------------------------------------------

    def _load(self, artifact: Artifact, *, size_bytes: int | None = None) -> None:
        self._loaded = self._session.client.load(artifact.digest, threads=self._threads, timeout_s=LOAD_S)
        self._session.client.take_readings()  # those of whoever used the session before
        self._tally.add_load(self._loaded.cold, artifact_size_bytes=size_bytes)

    def _load_here(self) -> None:
        """Load it in this session again, after a detached measurement had it."""
        if self._detached is None or self._artifact is None:
            return
        self._detached = None
        self._load(self._artifact)
        self._warm.clear()

    def _warm_up(self, group: Group) -> None:
        """The first inferences with feeds of a shape are slower, and say nothing of the later ones."""
        self._load_here()
        if group.signature in self._warm or self.loaded.replayed:
            return  # a recording holds no warm-up
        with self._step("warm-up"):
            measured = self._session.client.measure(
                group.stacked,
                inferences=WARMUP_INFERENCES,
                seconds=WARMUP_S,
                batched=group.batched,
                timeout_s=RUN_S * self._patience,
                on_progress=self._watch,
            )
        self._warm.add(group.signature)
        self._pace_s = max(self._pace_s, float(measured.latencies_ns.mean()) / 1e9)
        self._tally.add_readings(measured.readings)

    def _watch(self, _done: int, newest: SensorReading | None) -> None:
        self._session.check()  # a soak of an hour must not go on on a board that somebody else has got
        if newest is not None and newest.temperature_c is not None and newest.temperature_c >= CRITICAL_C:
            raise Overheated(
                f"{self._session.board.id}: the SoC is at {newest.temperature_c:.1f} °C, beyond the critical "
                f"{CRITICAL_C:g} °C: check its cooling"
            )
