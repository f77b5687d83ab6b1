"""The DUT: a leased board with a combo flashed on it, as a test talks to it. Knows nothing of pytest.

Everything that runs on the board through it becomes part of `Dut.sample`. What the test body fed is remembered, so
that `measure_more` can repeat it for gates that need more.

When the board breaks, the first error is kept (`Dut.broken`) after it has been made more exact with what the console
and the power switch say; nothing is reconnected, except to a soak that goes on on the board (`detached`). How long that
can take, beyond the time the operation was given: `conversation.SILENCE_S` (10 s) until a silent link is noticed,
`CONSOLE_S` (3 s; of a silent board `WATCHDOG_S`, 8 s) for the console to tell why, and `STILL_THERE_S` (5 s) to find
out whether a board is alive whose model's process died; 18 s together. A soak's link is tried again for `pick_up_s`
besides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pytest_edgehil.board import tokens
from pytest_edgehil.board.answers import Generation, Loaded, PlatformFacts
from pytest_edgehil.board.delivery import Way
from pytest_edgehil.board.detached import PICK_UP_S
from pytest_edgehil.board.diagnosis import Console, Witnesses
from pytest_edgehil.board.evaluation import Baseline, Course, Evaluation, heldout_of, is_recorded
from pytest_edgehil.board.fed import Fed, Group, Prompt
from pytest_edgehil.board.firmware_trial import BOOT_S, leave_trial
from pytest_edgehil.board.flash import FlashPlan, FlashProgress, FlashReport, flash, plan_flash
from pytest_edgehil.board.model_under_test import LOAD_S, RUN_S, FirstFailure, ModelUnderTest, Step
from pytest_edgehil.board.pairing import Against, Pairing
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.tally import Tally
from pytest_edgehil.errors import BoardError, DatasetError, ModelError, UserError
from pytest_edgehil.model.artifact import Combo
from pytest_edgehil.model.board import Board
from pytest_edgehil.model.quantity import rate_per_second
from pytest_edgehil.model.record import BoardRef
from pytest_edgehil.model.sample import Sample
from pytest_edgehil.model.series import TokenScores
from pytest_edgehil.model.verdict import Demand

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.board.power import Power

    Array = npt.NDArray[Any]


def _silently(_name: str) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _arrays(feeds: object) -> dict[str, Array]:
    """What somebody feeds, as arrays.

    Raises:
        ModelError: it is no mapping.
    """
    if not isinstance(feeds, Mapping):
        raise ModelError(
            f"the feeds are a {type(feeds).__name__}, expected a mapping: the name of an input to its array"
        )
    return {str(name): np.asarray(value) for name, value in feeds.items()}


class Dut:
    """A board with a combo on it. Built by `Dut.open`.

    Args:
        session: of the board.
        combo: what is flashed.
        baseline: what `evaluate` compares with unless it is told otherwise.
        witnesses: who may know more when the board breaks.
        threads: of the runtime within one operator.
        against: baselines that gates compare with on the board itself.
        pick_up_s: so long a link that is lost during a soak is tried again.
        order_seed: seed of the order in which items of held-out sets are taken.
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
        against: Against | None = None,
        pick_up_s: float = PICK_UP_S,
        order_seed: int = 0,
        step: Step = _silently,
    ) -> None:
        self._session = session
        self._combo = combo
        self._baseline = baseline
        self._witnesses = witnesses
        self._threads = threads
        self._against = against
        self._pairings: dict[str, Pairing] = {}
        self._order_seed = order_seed
        self._step = step
        self._tally = Tally(steady_state_s=session.board.steady_state_s, timing=session.board.timing)
        self._failure = FirstFailure(session, witnesses)
        self._model = ModelUnderTest(
            session,
            combo.model,
            tally=self._tally,
            failure=self._failure,
            threads=threads,
            pick_up_s=pick_up_s,
            explain_crash=witnesses.explain_crash,
            step=step,
        )
        self._fed = Fed()
        self._courses: list[Course] = []
        self._calls = 0
        self._counted: dict[tuple[str, int], tuple[int, Baseline | None]] = {}
        self._flashed: FlashReport | None = None
        self._way: Way | None = None
        self._on_progress: Callable[[FlashProgress], None] | None = None

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
        against: Against | None = None,
        pick_up_s: float = PICK_UP_S,
        order_seed: int = 0,
        step: Step = _silently,
        way: Way | None = None,
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
            against: baselines that gates compare with on the board itself; put there when a gate first asks.
            pick_up_s: so long a link that is lost during a soak is tried again.
            order_seed: seed of the order in which items of held-out sets are taken.
            step: called with the name of each step around it.
            way: how bundles are sent: deltas, bandwidth, compression.
            on_progress: told how far sending is, of the combo and later of baselines, and the writing of a slot.
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
        dut = cls(
            session,
            combo,
            baseline=baseline,
            witnesses=witnesses,
            threads=threads,
            against=against,
            pick_up_s=pick_up_s,
            order_seed=order_seed,
            step=step,
        )
        try:
            dut._prepare(power, way, on_progress, boot_timeout_s)
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
        return self._model.loaded

    @property
    def flashed(self) -> FlashReport | None:
        """What flashing did."""
        return self._flashed

    @property
    def ref(self) -> BoardRef:
        """Which board this is, as it and the lab say."""
        platform, board = self.platform, self.board
        loaded = self._model.loaded_or_none
        return BoardRef(
            id=board.id,
            cls=board.cls,
            environment=board.environment,
            serial=platform.serial,
            hardware_model=platform.hardware_model,
            accelerator=board.accelerator.kind if board.accelerator else platform.accelerator,
            runtime=None if loaded is None else f"{loaded.runtime} {loaded.runtime_version}",
            firmware=platform.firmware,
            timing=board.timing,
        )

    @property
    def broken(self) -> BoardError | None:
        """Why the board cannot be used any more; None while it is well."""
        return self._failure.broken

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
        arrays = _arrays(feeds)
        outputs = self._model.run(arrays, timeout_s=timeout_s)
        self._fed.add_one(arrays)
        return outputs

    def measure(
        self,
        feeds: Mapping[str, Array],
        *,
        inferences: int | None = None,
        seconds: float | None = None,
        rate: str | None = None,
    ) -> Sample:
        """Time the same feeds again and again.

        Args:
            feeds: input name → array, as the model takes them.
            inferences: end after so many.
            seconds: end after so long; with both, what comes first. One of them is needed.
            rate: such as ``"20/s"``: so many are due, whether or not the one before has ended (`Sample.open_loop`).

        Returns:
            The sample with them.

        Raises:
            UserError: neither a number nor a time is given, or the rate is none.
            ModelError, BoardError: as `run`.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        if inferences is None and seconds is None:
            raise UserError("dut.measure: pass inferences=… or seconds=…")
        rate_hz = None if rate is None else rate_per_second(rate)
        arrays = _arrays(feeds)
        self._model.measure(Group.of_one(arrays), inferences=inferences, seconds=seconds, rate_hz=rate_hz)
        self._fed.add_one(arrays)
        return self._tally.sample

    def generate(
        self, prompt_ids: Array, *, max_new_tokens: int = 32, stop: Sequence[int] = (), timeout_s: float = LOAD_S
    ) -> Generation:
        """Have a causal language model continue a prompt on the board, greedily.

        Every step runs the whole sequence again (an ONNX graph keeps no state), so a token costs more the longer the
        sequence is. Gates that need more generations repeat the prompts in turn; one that needs inferences runs the
        first prompt forward once for each.

        Args:
            prompt_ids: shape (1, t) or (t,): token ids.
            max_new_tokens: end after so many.
            stop: end after one of these tokens, which counts.
            timeout_s: deadline.

        Returns:
            The new tokens, and how long the first and all of them took on the board's clock.

        Raises:
            ModelError: the model is none that takes token ids (1, t) and gives logits (1, t, tokens), or it fails.
            BoardError: as `run`.
        """
        loaded = self.loaded
        ids = np.array(prompt_ids)
        prompt = Prompt(ids=ids, max_new_tokens=max_new_tokens, stop=tuple(stop))
        made = self._model.generate(prompt, timeout_s=timeout_s)
        if not self._fed.prompts and len(loaded.inputs) == 1:
            self._fed.add_one({loaded.inputs[0].name: ids.reshape(1, -1).astype(np.int64)})
        self._fed.prompts.append(prompt)
        return made

    def evaluate(self, dataset: Dataset, baseline: Baseline | None = None, *, items: int | None = None) -> Evaluation:
        """Feed a held-out set, item by item, time every inference, and compare outputs and classes.

        The items are taken in an order that is drawn from the set's digest and the run's seed, the same in every run.
        What is returned is in the set's own order all the same, so that labels can be indexed as they are.

        Args:
            dataset: inputs of shape (m, …) and labels of shape (m,), if there are any.
            baseline: what to compare with; None: the DUT's, if it has one.
            items: only so many of them, the first ones of the drawn order; the rest is evaluated when a gate asks for
                more. None: all.

        Returns:
            One row per item that was taken; `Evaluation.items` says which ones these are.

        Raises:
            ModelError, BoardError: as `run`.
            DatasetError: `items` is not a number of 1 or more.
        """
        self.loaded  # noqa: B018 - says what is missing when there is no model
        if items is not None and items < 1:
            raise DatasetError(f"{dataset.name}: items is {items}, expected 1 or more")
        against = baseline if baseline is not None else self._baseline
        # a recording answers by the place of an item: shuffled, its answers would belong to other items
        by_place = self.loaded.replayed or (against is not None and is_recorded(against))
        course = Course(
            dataset=dataset,
            baseline=against,
            order_seed=None if by_place else self._order_seed,
            call=self._next_call(),
        )
        count = len(dataset) if items is None else min(items, len(dataset))
        evaluation = self._advance(course, count)
        self._courses.append(course)
        self._fed.add_items(dict(dataset.inputs))
        return evaluation.in_order_of_the_set()

    def score_tokens(self, prompts: Dataset | Sequence[Array], baseline: Baseline | None = None) -> TokenScores:
        """Feed prompts to a language model and compare with a baseline, token by token, what each expects to follow.

        The model takes token ids of shape (1, t), an integer type, as its one input, and its first output is logits of
        shape (1, t, vocabulary): row i is about the token after token i.

        Args:
            prompts: a set with one input of shape (m, t), or one array of t token ids per prompt, of any lengths.
            baseline: what to compare with; None: the DUT's, if it has one.

        Returns:
            The scores of these prompts, which are numbered from 0; they have become part of the sample.

        Raises:
            UserError: there is no baseline to compare with.
            DatasetError: the prompts do not fit the model.
            ModelError, BoardError: as `run`.
        """
        against = baseline if baseline is not None else self._baseline
        if against is None:
            raise UserError(
                f"{self.board.id}: token scores compare with a baseline, and there is none: pass baseline=…, or add "
                "@pytest.mark.token_kl or @pytest.mark.perplexity_ratio, which bring one"
            )
        inputs = self.loaded.inputs
        name = inputs[0].name if inputs else "ids"
        scores = []
        for batch in tokens.batches(prompts, input_name=name):
            output = self.loaded.outputs[0].name
            scores.append(tokens.compared(batch, against, output=output, run=self._run_items, board_id=self.board.id))
            self._fed.add_items(dict(batch.feeds))
        found = tokens.joined(scores)
        number = int(np.unique(found.prompt).shape[0])
        name, digest = tokens.identity(prompts)
        key = (digest, id(against))
        if key not in self._counted:  # the same prompts again are no further evidence
            self._tally.add_token_scores(found, prompts=number)
            self._tally.note_heldout(self._next_call(), heldout_of(name, digest, against, items=number, of=number))
        self._counted[key] = number, against
        return found

    def measure_more(self, demand: Demand) -> Sample:
        """Measure what a gate still needs, by repeating what the test body fed.

        Evaluations beyond the end of the held-out sets are not possible; the sample then stays as it is.

        Raises:
            UserError: the body fed nothing, so there is nothing to repeat.
            ModelError, BoardError: as `run`.
        """
        if demand.pairs:
            self._measure_pairs(demand)
            return self._tally.sample
        if demand.rate_hz:
            self._repeat(inferences=demand.inferences, seconds=None, rate_hz=demand.rate_hz)
            return self._tally.sample
        self._generate_more(demand.generations)
        before = self._tally.n
        left = demand.evaluations
        for course in self._courses:
            count = min(left, len(course.dataset) - course.next_item)
            if count > 0:
                self._advance(course, count)
                left -= count
        inferences = demand.inferences - (self._tally.n - before)
        if inferences > 0:
            self._repeat(inferences=inferences, seconds=None)
        if demand.horizon_s > 0:
            self._model.go_on(self._groups(), demand)
        elif demand.seconds > 0:
            self._repeat(inferences=None, seconds=demand.seconds)
        for _ in range(demand.cold_starts):
            self._model.restart()
        return self._tally.sample

    @property
    def sample(self) -> Sample:
        """Everything measured so far; immutable, and another one after more has been measured."""
        return self._tally.sample

    def attest(self, payload: bytes) -> tuple[bytes, str]:
        """Have the board sign a statement about what it loaded; see `OnboardClient.attest`."""
        with self._failure.hands_on():
            return self._session.client.attest(payload)

    def close(self) -> None:
        """End the model's process on the board. Safe to call twice; never raises because of a broken board."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------

    def _prepare(
        self,
        power: Power | None,
        way: Way | None,
        on_progress: Callable[[FlashProgress], None] | None,
        boot_timeout_s: float,
    ) -> None:
        self._way, self._on_progress = way, on_progress
        with self._failure.hands_on(), self._step("flash"):
            leave_trial(self._session, boot_timeout_s=boot_timeout_s)
            self._flashed = flash(
                self._plan(),
                self._session,
                power=power,
                way=way,
                on_progress=on_progress,
                boot_timeout_s=boot_timeout_s,
            )
            self._witnesses.forget_past()  # a reboot that we asked for explains nothing later
        self._model.load()

    def _plan(self) -> FlashPlan:
        return plan_flash(self._combo, self._session.client.status())

    def _advance(self, course: Course, count: int) -> Evaluation:
        """Evaluate the next items of a held-out set."""
        first = course.next_item
        # before and not while the board measures: a virtual board shares this host's CPU
        reference = course.reference(count)
        outputs, latencies_ns = self._run_items(course.feeds, first, count)
        evaluation = course.compare(
            count,
            output=self.loaded.outputs[0].name,
            outputs=outputs,
            reference=reference,
            latencies_ns=latencies_ns,
        )
        # the same items again are no further evidence; the order is the same, so it is the first ones that are known
        key = (course.dataset.digest or f"id:{id(course.dataset)}", id(course.baseline))
        known, _ = self._counted.get(key, (0, None))
        # the baseline is kept, so that no other one gets its id
        self._counted[key] = max(known, course.next_item), course.baseline
        fresh = evaluation.behind(max(0, known - first))
        self._tally.add_evaluation(fresh, new=known == 0, order_seed=course.order_seed)
        self._tally.note_heldout(course.call, course.heldout)
        return evaluation

    def _next_call(self) -> int:
        self._calls += 1
        return self._calls

    def _run_items(self, feeds: Mapping[str, Array], first: int, count: int) -> tuple[Mapping[str, Array], Array]:
        """Outputs and latencies of so many items from the first on; they become part of the sample's latencies."""
        group = Group.of_items(feeds)
        measured = self._model.measure(group, inferences=count, seconds=None, first=first, keep_outputs=True)
        if len(measured.latencies_ns) != count:
            raise ModelError(f"{self.board.id}: {len(measured.latencies_ns)} of {count} items were run")
        return measured.outputs, measured.latencies_ns

    def _groups(self) -> list[Group]:
        """What the test fed, to be repeated."""
        groups = self._fed.groups()
        if not groups:
            raise UserError(
                f"{self.board.id}: a gate needs more samples, but the test has fed nothing that could be repeated: "
                "call dut.run(…) or dut.evaluate(…) in it"
            )
        return groups

    def _measure_pairs(self, demand: Demand) -> None:
        """Blocks of the model and of a baseline beside it, in turns."""
        self.loaded  # noqa: B018 - says what is missing when there is no model
        groups = self._groups()
        pairing = self._pairing(demand.baseline)
        self._model.measure_beside(
            pairing,
            groups,
            demand,
            bring=lambda: pairing.bring(self._session, way=self._way, on_progress=self._on_progress),
        )

    def _pairing(self, name: str) -> Pairing:
        if name not in self._pairings:
            if self._against is None or name not in self._against.artifacts:
                raise UserError(f"{self.board.id}: no artifact was given for the baseline {name!r}")
            self._pairings[name] = Pairing(
                self._against.artifacts[name],
                name=name,
                seed=self._against.seed,
                threads=self._threads,
                patience=self._model.patience,
            )
        return self._pairings[name]

    def _repeat(self, *, inferences: int | None, seconds: float | None, rate_hz: float | None = None) -> None:
        groups = self._groups()
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
            self._model.measure(
                group, inferences=number, seconds=None if seconds is None else seconds * share, rate_hz=rate_hz
            )

    def _generate_more(self, count: int) -> None:
        prompts = self._fed.prompts
        if count and not prompts:
            raise UserError(
                f"{self.board.id}: a gate needs generated tokens, but the test has generated none that could be "
                "repeated: call dut.generate(…) in it"
            )
        for _ in range(count):  # in turn, also over several demands
            self._model.generate(prompts[self._tally.generated % len(prompts)], timeout_s=LOAD_S)
