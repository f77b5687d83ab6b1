"""Pairs of blocks: the model under test and a baseline beside it on the same board take turns on the same feeds.

Which of the two comes first in a pair is drawn from a recorded seed. Both get the same items in the same order, and
each block begins with a few inferences that are not timed: the other model has just had the caches.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_edgehil.board.answers import Loaded, Measured
from pytest_edgehil.board.delivery import Way, deliver
from pytest_edgehil.board.fed import Group
from pytest_edgehil.board.fit import check_fit
from pytest_edgehil.board.flash import FlashProgress, of_sending
from pytest_edgehil.board.onboard_client import OnboardClient
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import ModelError, UserError
from pytest_edgehil.model.artifact import Artifact, Combo
from pytest_edgehil.model.sample import SensorReading
from pytest_edgehil.model.series import BlockPair, Paired

if TYPE_CHECKING:
    from pytest_edgehil.model.arrays import Int64Array

RUN_S = 120.0
LOAD_S = 300.0
INSTALL_S = 600.0
WARMUP_INFERENCES = 10
WARMUP_S = 5.0
SWITCH_INFERENCES = 3
"""Not timed at the beginning of each block."""

Watch = Callable[[int, SensorReading | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """What a gate's marker compares with.

    Args:
        artifacts: name in the marker → artifact.
        seed: of the order within the pairs.
    """

    artifacts: dict[str, Artifact]
    seed: int


class Pairing:
    """The pairs of blocks against one baseline.

    Args:
        artifact: the baseline.
        name: as the marker names it.
        seed: of the order within the pairs.
        threads: of the runtime within one operator; the same as the model's.
        patience: limits are so many times as long as elsewhere, on a board whose seconds are longer than the host's.
    """

    def __init__(self, artifact: Artifact, *, name: str, seed: int, threads: int, patience: float = 1.0) -> None:
        self._patience = patience
        self._artifact = artifact
        self._name = name
        self._seed = seed
        self._threads = threads
        self._draw = random.Random(seed)  # noqa: S311 - an order, no secret
        self._pairs: list[BlockPair] = []
        self._first: dict[str, int] = {}
        self._loaded: Loaded | None = None
        self._warm: set[str] = set()
        self._pace_s = 0.0
        self._peak_rss_bytes: int | None = None

    @property
    def paired(self) -> Paired:
        """Everything measured so far."""
        return Paired(
            baseline=self._name,
            digest=self._artifact.digest,
            seed=self._seed,
            pairs=tuple(self._pairs),
            label=self._artifact.label,
            baseline_peak_rss_bytes=self._peak_rss_bytes,
        )

    def is_on(self, client: OnboardClient) -> bool:
        """Is the baseline loaded beside the model, as we left it?"""
        return client.beside.loaded is not None and client.beside.loaded is self._loaded

    def bring(
        self,
        session: BoardSession,
        *,
        way: Way | None = None,
        on_progress: Callable[[FlashProgress], None] | None = None,
    ) -> None:
        """Put the baseline on the board, if it does not have it, and load it beside the model.

        Args:
            session: of the board.
            way: how it is sent.
            on_progress: told how far sending is.

        Raises:
            WrongTarget: it is not made for this board.
            FlashError, ModelError, BoardError: it cannot be sent or loaded.
        """
        check_fit(Combo(model=self._artifact), session)
        held = session.client.status().store
        if self._artifact.digest not in held:
            told = of_sending(self._artifact, on_progress)
            deliver(session, self._artifact, held=held, way=way, on_sent=told)
        session.client.request("install", {"digest": self._artifact.digest}, timeout_s=INSTALL_S)
        self._loaded = session.client.beside.load(self._artifact.digest, threads=self._threads, timeout_s=LOAD_S)
        self._warm.clear()

    def warm_up(self, client: OnboardClient, groups: Sequence[Group], *, on_progress: Watch) -> None:
        """See that the baseline takes what the model was fed, and run it a few times.

        Raises:
            UserError: it takes other inputs.
        """
        assert self._loaded is not None
        for group in groups:
            try:
                client.beside.check(group.stacked, batched=group.batched)
            except ModelError as problem:
                raise UserError(
                    f"{problem}; the baseline {self._artifact.label} must take what the test feeds the model"
                ) from problem
            if group.signature in self._warm or self._loaded.replayed:
                continue  # a recording holds no warm-up
            measured = client.beside.measure(
                group.stacked,
                inferences=WARMUP_INFERENCES,
                seconds=WARMUP_S,
                batched=group.batched,
                timeout_s=RUN_S * self._patience,
                on_progress=on_progress,
            )
            self._warm.add(group.signature)
            self._pace_s = max(self._pace_s, float(measured.latencies_ns.mean()) / 1e9)

    def measure(
        self, client: OnboardClient, groups: Sequence[Group], *, block: int, pace_s: float, on_progress: Watch
    ) -> tuple[Measured, Measured]:
        """One more pair.

        Args:
            client: of the model under test.
            groups: what to feed; each block takes of each in proportion to its items.
            block: inferences in each block.
            pace_s: what one inference of the model took at most when it was warmed up.
            on_progress: as `OnboardClient.measure`.

        Returns:
            The model's block and the baseline's.
        """
        first = self._draw.random() < 0.5
        found: dict[bool, Measured] = {}
        for ours in (first, not first):
            found[ours] = self._block(
                client if ours else client.beside,
                groups,
                block=block,
                timeout_s=self._patience
                * (RUN_S + 10 * (block + SWITCH_INFERENCES) * (pace_s if ours else self._pace_s)),
                on_progress=on_progress,
            )
        for group, count in _shares(groups, block):
            self._first[group.signature] = (self._first.get(group.signature, 0) + count) % group.items
        candidate, baseline = found[True], found[False]
        self._pairs.append(
            BlockPair(
                candidate_ns=candidate.latencies_ns,
                baseline_ns=baseline.latencies_ns,
                candidate_first=first,
                candidate_start_ns=int(candidate.starts_ns[0]),
                baseline_start_ns=int(baseline.starts_ns[0]),
            )
        )
        known = [one for one in (self._peak_rss_bytes, baseline.peak_rss_bytes) if one is not None]
        self._peak_rss_bytes = max(known, default=None)
        return candidate, baseline

    def _block(
        self, client: OnboardClient, groups: Sequence[Group], *, block: int, timeout_s: float, on_progress: Watch
    ) -> Measured:
        parts = [
            client.measure(
                group.stacked,
                inferences=count,
                warmup=SWITCH_INFERENCES,
                warmup_s=WARMUP_S,
                first=self._first.get(group.signature, 0),
                batched=group.batched,
                timeout_s=timeout_s,
                on_progress=on_progress,
            )
            for group, count in _shares(groups, block)
        ]
        latencies = _joined([one.latencies_ns for one in parts])
        if latencies.shape[0] != block:
            raise ModelError(f"a block has {latencies.shape[0]} inferences, asked for were {block}")
        last = parts[-1]
        return dataclasses.replace(
            last,
            latencies_ns=latencies,
            starts_ns=_joined([one.starts_ns for one in parts]),
            readings=tuple(row for one in parts for row in one.readings),
            duration_s=sum(one.duration_s for one in parts),
            conditions=dataclasses.replace(
                last.conditions,
                throttled_before=parts[0].conditions.throttled_before,
                boot_id_before=parts[0].conditions.boot_id_before,
                gc_pause_ns=sum(one.conditions.gc_pause_ns for one in parts),
            ),
        )


def _shares(groups: Sequence[Group], block: int) -> list[tuple[Group, int]]:
    """How many of a block's inferences fall to each group, in proportion to its items; groups without any left out."""
    total = sum(group.items for group in groups)
    found, done, items = [], 0, 0
    for group in groups:
        items += group.items
        upto = round(block * items / total)
        if upto > done:
            found.append((group, upto - done))
        done = upto
    return found


def _joined(parts: Sequence[Int64Array]) -> Int64Array:
    return np.concatenate(parts)
