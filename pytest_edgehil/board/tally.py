"""The sample of a DUT while it grows. Pieces are kept as they come and joined when somebody asks."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_edgehil.board import tokens
from pytest_edgehil.board.answers import Generation, Measured, Timed
from pytest_edgehil.board.evaluation import Evaluation
from pytest_edgehil.errors import UserError
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import ColdStart, Conditions, Sample, SensorReading
from pytest_edgehil.model.series import Generations, HeldOut, LinkDrop, OpenLoop, Paired, TokenScores

LIVE_BITS = 0xF
"""Of the throttled bits: what is so now, not what has been since boot."""

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Tally:
    """Everything that was measured on one DUT.

    Args:
        steady_state_s, timing: of the board, see `model.board.Board`.
    """

    def __init__(self, *, steady_state_s: float | None = None, timing: Timing = Timing.WALL) -> None:
        self._steady_state_s = steady_state_s
        self._timing = timing
        self._starts: list[Array] = []
        self._latencies: list[Array] = []
        self._readings: list[SensorReading] = []
        self._cold_starts: list[ColdStart] = []
        self._compared: dict[str, list[Array]] = {"agreed": [], "correct": [], "baseline_correct": [], "cosines": []}
        self._evaluated_of: int | None = None
        self._order_seed: int | None = None
        self._token_scores: list[TokenScores] = []
        self._prompts = 0
        self._heldout: dict[int, HeldOut] = {}
        self._peak_rss_bytes: int | None = None
        self._steady_peak_rss_bytes: int | None = None
        self._cgroup_peak_bytes: int | None = None
        self._crashes: list[tuple[float, str]] = []
        self._not_restarted = ""
        self._link_drops: list[LinkDrop] = []
        self._artifact_size_bytes: int | None = None
        self._duration_s = 0.0
        self._conditions: Conditions | None = None
        self._n = 0
        self._open_loop: dict[float, list[OpenLoop]] = {}
        self._generations: list[tuple[int, int, int, int, int]] = []
        self._sample: Sample | None = None
        self._paired: dict[str, Paired] = {}
        self._beside_bits = 0  # throttled bits that were live, or changed, while a baseline ran

    @property
    def n(self) -> int:
        """Number of timed inferences."""
        return self._n

    @property
    def duration_s(self) -> float:
        """How long was measured."""
        return self._duration_s

    @property
    def crashes(self) -> int:
        """How often the model's process died."""
        return len(self._crashes)

    @property
    def generated(self) -> int:
        """Number of generations."""
        return len(self._generations)

    @property
    def sample(self) -> Sample:
        """The sample as it is now; the same object until something is added."""
        if self._sample is None:
            self._sample = Sample(
                latencies_ns=_joined(self._latencies),
                starts_ns=_joined(self._starts),
                agreed=_all_of(self._compared["agreed"]),
                correct=_all_of(self._compared["correct"]),
                baseline_correct=_all_of(self._compared["baseline_correct"]),
                cosines=_all_of(self._compared["cosines"]),
                evaluated_of=self._evaluated_of,
                order_seed=self._order_seed,
                token_scores=tokens.joined(self._token_scores) if self._token_scores else None,
                heldout=tuple(self._heldout.values()),
                readings=tuple(self._readings),
                cold_starts=tuple(self._cold_starts),
                peak_rss_bytes=self._peak_rss_bytes,
                artifact_size_bytes=self._artifact_size_bytes,
                duration_s=self._duration_s,
                conditions=self._known_conditions(),
                generations=_generations(self._generations),
                open_loop=tuple(_one_series(parts) for parts in self._open_loop.values()),
                steady_peak_rss_bytes=self._steady_peak_rss_bytes,
                cgroup_peak_bytes=self._cgroup_peak_bytes,
                crashes_at_s=tuple(at_s for at_s, _ in self._crashes),
                crash_reasons=tuple(reason for _, reason in self._crashes),
                not_restarted=self._not_restarted,
                link_drops=tuple(self._link_drops),
                paired=tuple(self._paired.values()),
                timing=self._timing,
            )
        return self._sample

    def add_load(self, cold: ColdStart, *, artifact_size_bytes: int | None = None) -> None:
        """A load of the model in a fresh process."""
        self._cold_starts.append(cold)
        self._note_peak(cold.peak_rss_bytes)
        self._artifact_size_bytes = artifact_size_bytes or self._artifact_size_bytes
        self._sample = None

    def add_run(self, timed: Timed) -> None:
        """One inference."""
        self._add(
            np.array([timed.start_ns], dtype=np.int64),
            np.array([timed.latency_ns], dtype=np.int64),
            timed,
            duration_s=timed.latency_ns / 1e9,
        )

    def add_measured(self, measured: Measured) -> None:
        """A measurement; one at a given rate is a series of its own."""
        if measured.at_rate is not None:
            self._open_loop.setdefault(measured.at_rate.rate_hz, []).append(measured.at_rate)
            self._note(measured, duration_s=measured.duration_s)
            return
        self._add(measured.starts_ns, measured.latencies_ns, measured, duration_s=measured.duration_s)

    def add_pair(self, paired: Paired, candidate: Measured, baseline: Measured) -> None:
        """A pair of blocks.

        Its latencies are no part of the plain ones: two models that take turns are a little slower than one alone.
        Of the baseline's block counts what it says of the board, and nothing that it says of its own process.

        Args:
            paired: all pairs against this baseline, this one included.
            candidate, baseline: the two blocks.
        """
        self._paired[paired.baseline] = paired
        self._note_process(candidate)
        self._note_readings(baseline.readings)
        theirs, ours = baseline.conditions, self._conditions
        assert ours is not None
        before, after = theirs.throttled_before or 0, theirs.throttled_after or 0
        self._beside_bits |= (before ^ after) | ((before | after) & LIVE_BITS)
        throttled = ours.throttled_after
        self._conditions = dataclasses.replace(
            ours,
            clock_cost_ns=max(ours.clock_cost_ns, theirs.clock_cost_ns),
            throttled_after=(throttled or 0) | self._beside_bits if self._beside_bits else throttled,
            boot_id_after=theirs.boot_id_after,
            replayed=ours.replayed or theirs.replayed,
        )
        self._sample = None

    def add_generation(self, made: Generation) -> None:
        """Tokens that were produced; their time is no inference's latency."""
        row = (made.start_ns, made.prompt_tokens, len(made.tokens), made.first_token_ns, made.total_ns)
        self._generations.append(row)
        self._note(made, duration_s=made.total_ns / 1e9)

    def add_readings(self, readings: tuple[SensorReading, ...]) -> None:
        """Rows of the sampler from a time that is not measured (a warm-up)."""
        self._note_readings(readings)
        self._sample = None

    def add_crash(self, reason: str) -> None:
        """The model's process died, here in the measurement, and will be started again."""
        self._crashes.append((self._duration_s, reason))
        self._sample = None

    def add_not_restarted(self, reason: str) -> None:
        """It could not be started again."""
        self._not_restarted = reason
        self._sample = None

    def add_link_drop(self, drop: LinkDrop) -> None:
        """The board went on measuring without a link."""
        self._link_drops.append(drop)
        self._sample = None

    def add_evaluation(self, evaluation: Evaluation, *, new: bool, order_seed: int | None) -> None:
        """What came of items of a held-out set.

        Args:
            evaluation: in the order in which the items were taken.
            new: these are the first items of their set.
            order_seed: what that order was drawn with; None: it is the set's own.

        Raises:
            UserError: the model's and the baseline's correctness would no longer belong to the same items.
        """
        correct, paired = self._compared["correct"], self._compared["baseline_correct"]
        if evaluation.correct is not None and correct and bool(paired) != (evaluation.baseline_correct is not None):
            raise UserError(
                "dut.evaluate: one labelled set was compared with a baseline and another was not, so that model and "
                "baseline cannot be paired item by item: pass the baseline to all of them or to none"
            )
        for name, parts in self._compared.items():
            part = getattr(evaluation, name)
            if part is not None:
                parts.append(part)
        if new:
            self._evaluated_of = (self._evaluated_of or 0) + evaluation.of
        if order_seed is not None:
            self._order_seed = order_seed
        self._sample = None

    def add_token_scores(self, scores: TokenScores, *, prompts: int) -> None:
        """Scores of so many more prompts, which are numbered from 0; in the sample they go on behind those before."""
        self._token_scores.append(dataclasses.replace(scores, prompt=scores.prompt + self._prompts))
        self._prompts += prompts
        self._sample = None

    def note_heldout(self, call: int, heldout: HeldOut) -> None:
        """How far the set of one call of the test has been taken; the last note about a call counts."""
        self._heldout[call] = heldout
        self._sample = None

    def _add(self, starts_ns: Array, latencies_ns: Array, source: Measured | Timed, *, duration_s: float) -> None:
        self._starts.append(starts_ns)
        self._latencies.append(latencies_ns)
        self._n += len(latencies_ns)
        self._note(source, duration_s=duration_s)

    def _note(self, source: Measured | Timed | Generation, *, duration_s: float) -> None:
        """What every way of measuring tells of the board."""
        self._note_process(source)
        self._duration_s += duration_s
        self._sample = None

    def _note_process(self, source: Measured | Timed | Generation) -> None:
        """What a measurement says of the model's process and of the board."""
        self._note_readings(source.readings)
        self._note_peak(source.peak_rss_bytes)
        self._steady_peak_rss_bytes = _larger(self._steady_peak_rss_bytes, source.steady_peak_rss_bytes)
        self._cgroup_peak_bytes = _larger(self._cgroup_peak_bytes, source.cgroup_peak_bytes)
        self._conditions = _over_both(self._conditions, source.conditions)

    def _note_peak(self, peak_rss_bytes: int | None) -> None:
        self._peak_rss_bytes = _larger(self._peak_rss_bytes, peak_rss_bytes)

    def _note_readings(self, readings: tuple[SensorReading, ...]) -> None:
        process = max(0, len(self._cold_starts) - 1)
        self._readings += (dataclasses.replace(one, process=process) for one in readings)

    def _known_conditions(self) -> Conditions | None:
        """What the board told, and what only we know: its lab's word on it, and how often its process was restarted."""
        if self._conditions is None:
            return None
        restarts = len(self._crashes) or self._conditions.restarts
        return dataclasses.replace(self._conditions, restarts=restarts, steady_state_s=self._steady_state_s)


def _larger(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _all_of(parts: list[Array]) -> Array | None:
    return np.concatenate(parts) if parts else None


def _joined(parts: list[Array]) -> Array:
    """One array of all parts; the list is left with that one, so that joining again costs nothing."""
    if len(parts) != 1:
        parts[:] = [np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)]
    return parts[0]


def _generations(rows: list[tuple[int, int, int, int, int]]) -> Generations | None:
    if not rows:
        return None
    starts, prompts, new, firsts, totals = np.array(rows, dtype=np.int64).T.copy()
    return Generations(starts_ns=starts, prompt_tokens=prompts, new_tokens=new, first_token_ns=firsts, total_ns=totals)


def _one_series(parts: list[OpenLoop]) -> OpenLoop:
    """All parts as one; the list is left with that one, as `_joined` does."""
    if len(parts) > 1:
        known = [one.late_ns for one in parts if one.late_ns is not None]
        parts[:] = [
            OpenLoop(
                rate_hz=parts[0].rate_hz,
                intended_ns=np.concatenate([one.intended_ns for one in parts]),
                starts_ns=np.concatenate([one.starts_ns for one in parts]),
                latencies_ns=np.concatenate([one.latencies_ns for one in parts]),
                late_ns=np.concatenate(known) if len(known) == len(parts) else None,
            )
        ]
    return parts[0]


def _over_both(first: Conditions | None, last: Conditions) -> Conditions:
    """Conditions over two measurements: as they were before the first and after the last."""
    if first is None:
        return last
    return dataclasses.replace(
        last,
        clock_cost_ns=max(first.clock_cost_ns, last.clock_cost_ns),
        gc_pause_ns=first.gc_pause_ns + last.gc_pause_ns,
        throttled_before=first.throttled_before,
        boot_id_before=first.boot_id_before,
        restarts=first.restarts + last.restarts,
        replayed=first.replayed or last.replayed,
    )
