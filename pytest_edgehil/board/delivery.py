"""How one bundle gets to a board: whole, the rest of it, or as a delta from what the board has.

Chosen by estimate. A delta costs making it here, unless somebody has published it, and applying it there, so it pays
only where the link is slow: its rate is what was measured on this link before, or else what the first megabytes of a
whole push show; those are not lost, since a whole push goes on behind them. A delta that the board refuses, for
whatever reason, is followed by the whole. Boards that have the same predecessor share the delta that is made for one.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_edgehil.board.blocks import Blocks
from pytest_edgehil.board.push import PushOptions, Sent, push, push_delta
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import ArtifactError, DiskFull, FlashError
from pytest_edgehil.model.artifact import Artifact, Track

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.delta.create import Delta
    from pytest_edgehil.artifacts.delta.known_blocks import KnownBlocks
    from pytest_edgehil.artifacts.delta.published import Published

CREATE_BYTES_PER_S = 60e6
APPLY_BYTES_PER_S = 40e6
"""Of the bundle that is made: about half of what was measured (`facts`), for a busy host and a slow board."""

MOST_DELTA_BYTES = 1 << 30
"""Making a delta takes a few times the bundle's size of memory."""

SLOT_BYTES_PER_S = 30e6
"""Of an image that is made from the root that runs, all its readings and digests together, as `APPLY_BYTES_PER_S`."""

SLOT_S = 300.0
"""How long the board may take over reading its root."""

ROOT = "root"
"""Name of the image that ``/`` is mounted from."""

UNKNOWN_S = 1.0
"""After so long, what has been sent bounds the rate of a link that is too slow to be measured."""


class DeltaPolicy(enum.StrEnum):
    """When deltas are made. ``always`` means: wherever the host has something that the board has too."""

    AUTO = "auto"
    NEVER = "never"
    ALWAYS = "always"


class Method(enum.StrEnum):
    """How a bundle got there; ``nothing`` if somebody else was faster."""

    WHOLE = "whole"
    REST = "rest"
    DELTA = "delta"
    NOTHING = "nothing"


class Known(Protocol):
    """Where the host keeps bundles."""

    def holding(self, digests: frozenset[str], track: Track) -> tuple[Artifact, ...]:
        """Those of a track that are here too."""

    def deltas_to(self, artifact: Artifact, held: frozenset[str]) -> tuple[Published, ...]:
        """Deltas that somebody has published, from what a board holds; the smallest first."""


class Deltas:
    """Deltas that are made once for all boards with the same predecessors. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[tuple[str, ...], tuple[threading.Lock, list[Delta | None]]] = {}

    def between(self, new: Artifact, sources: tuple[Artifact, ...]) -> Delta | None:
        """As `artifacts.delta.create.create`, which is only called by whoever asks first."""
        from pytest_edgehil.artifacts.delta.create import create

        key = (new.digest, *(one.digest for one in sources))
        with self._lock:
            making, made = self._made.setdefault(key, (threading.Lock(), []))
        with making:
            if not made:
                made.append(create(new, sources))
            return made[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What was done for one bundle.

    Args:
        artifact: which.
        method: how.
        sent_bytes: over the link, all attempts together.
        resumed_bytes: what was on the board already, from a push that was cut.
        compressed: was some of it compressed?
        duration_s: of all of it.
        refused: why the board did not take a delta, if it did not.
    """

    artifact: Artifact
    method: Method
    sent_bytes: int
    resumed_bytes: int = 0
    compressed: bool = False
    duration_s: float
    refused: str = ""

    def describe(self) -> str:
        """For people, one line."""
        size = self.artifact.size_bytes
        told = (
            f"{self.artifact.label}: {self.method}, {self.sent_bytes} of {size} bytes sent in {self.duration_s:.1f} s"
        )
        if self.resumed_bytes:
            told += f", {self.resumed_bytes} were there from a push that was cut"
        if self.compressed:
            told += ", compressed"
        return f"{told} (a delta was refused: {self.refused})" if self.refused else told


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How bundles are to be sent.

    Args:
        policy: when deltas are made.
        known: where sources of deltas are looked for; None: there are none.
        options: bandwidth and compression.
    """

    policy: DeltaPolicy = DeltaPolicy.AUTO
    known: Known | None = None
    options: PushOptions | None = None


Told = Callable[[int, float | None], None]


def deliver(
    session: BoardSession,
    artifact: Artifact,
    *,
    held: frozenset[str] = frozenset(),
    way: Way | None = None,
    on_sent: Told | None = None,
    blocks: Blocks | None = None,
    deltas: Deltas | None = None,
) -> Delivery:
    """Put a bundle into the board's store.

    Args:
        session: of the board.
        artifact: what.
        held: digests of the bundles that the board has.
        way: how.
        on_sent: as for `push`; of a delta, the share that has been sent counts as that share of the bundle.
        blocks: as for `push`.
        deltas: shared with other deliveries.

    Raises:
        DiskFull, Fenced, CorruptArtifact, FlashError, LinkLost, DeadlineExceeded: as `push`.
    """
    return _Delivering(
        session, artifact, held=held, way=way or Way(), on_sent=on_sent, blocks=blocks, deltas=deltas or Deltas()
    ).run()


def _image_of_a_root(artifact: Artifact, session: BoardSession) -> str | None:
    """Path of the root's image in a firmware, if the board may run another one of it; None otherwise."""
    slots = session.board.slots
    if slots is None or ROOT not in slots.devices or artifact.manifest.format != "firmware-image":
        return None
    return f"{ROOT}.img" if artifact.size_bytes <= MOST_DELTA_BYTES else None


class _SlowError(Exception):
    """The link is slow enough for a delta to be thought about."""

    def __init__(self, rate_bytes_per_s: float, there_bytes: int) -> None:
        super().__init__()
        self.rate_bytes_per_s = rate_bytes_per_s
        self.there_bytes = there_bytes


class _Delivering:
    def __init__(
        self,
        session: BoardSession,
        artifact: Artifact,
        *,
        held: frozenset[str],
        way: Way,
        on_sent: Told | None,
        blocks: Blocks | None,
        deltas: Deltas,
    ) -> None:
        self._session = session
        self._artifact = artifact
        self._way = way
        self._options = way.options or PushOptions()
        self._on_sent = on_sent
        self._blocks = blocks
        self._held = held
        self._deltas = deltas
        self._published: Published | None = None
        self._known_sources: tuple[Artifact, ...] = ()
        self._image = _image_of_a_root(artifact, session) if way.policy is not DeltaPolicy.NEVER else None
        self._sent_bytes = 0
        self._refused = ""
        self._started = self._options.clock()

    def run(self) -> Delivery:
        sources = self._known_sources = self._sources()
        rate = self._session.rate_bytes_per_s
        if not sources and self._published is None and self._image is None:
            return self._whole()
        if self._way.policy is DeltaPolicy.ALWAYS:
            return self._by_delta(sources, None, 0) or self._whole()
        if rate is None:
            try:
                return self._whole(watch=True)
            except _SlowError as slow:
                self._session.rate_bytes_per_s = slow.rate_bytes_per_s
                self._sent_bytes += slow.there_bytes
                return self._by_delta(sources, slow.rate_bytes_per_s, slow.there_bytes) or self._whole()
        if self._may_pay(rate, 0):
            return self._by_delta(sources, rate, 0) or self._whole()
        return self._whole()

    def _sources(self) -> tuple[Artifact, ...]:
        known, held = self._way.known, self._held - {self._artifact.digest}
        if known is None or self._way.policy is DeltaPolicy.NEVER or not held:
            return ()
        self._published = next(iter(known.deltas_to(self._artifact, held)), None)
        if self._artifact.size_bytes > MOST_DELTA_BYTES:
            return ()
        try:
            found = known.holding(held, self._artifact.manifest.track)
        except ArtifactError as problem:  # a source that cannot be read is no reason not to flash
            self._refused = str(problem)
            return ()
        same = [one for one in found if one.manifest.name == self._artifact.manifest.name]
        return tuple(same or found)[:4]

    def _may_pay(self, rate: float, there_bytes: int) -> bool:
        """Could the best delta be faster than sending what is left?"""
        if self._published is not None and self._pays(self._published.delta_bytes, rate, there_bytes):
            return True
        size = self._artifact.size_bytes
        if self._image is not None and size / SLOT_BYTES_PER_S < 0.8 * (size - there_bytes) / rate:
            return True
        if not self._known_sources:
            return False
        return size / CREATE_BYTES_PER_S + size / APPLY_BYTES_PER_S < 0.8 * (size - there_bytes) / rate

    def _pays(self, delta_bytes: int, rate: float | None, there_bytes: int) -> bool:
        """Is a delta that is there already faster than sending what is left?"""
        left = self._artifact.size_bytes - there_bytes
        if rate is None:
            return delta_bytes < left
        return delta_bytes / rate + self._artifact.size_bytes / APPLY_BYTES_PER_S < 0.9 * left / rate

    def _by_delta(self, sources: tuple[Artifact, ...], rate: float | None, there_bytes: int) -> Delivery | None:
        """None if a whole push is to follow."""
        ready = self._published
        if ready is not None and self._pays(ready.delta_bytes, rate, there_bytes):
            done = self._send_delta(ready.pieces(), ready.delta_bytes)
            if done is not None:
                return done
        if self._image is not None and (done := self._from_the_running_root(self._image)) is not None:
            return done
        if not sources:
            return None
        try:
            delta = self._deltas.between(self._artifact, sources)
        except ArtifactError as problem:
            self._refused = str(problem)
            return None
        if delta is None or not delta.head.sources or not self._pays(delta.size_bytes, rate, there_bytes):
            return None
        return self._send_delta(delta.pieces(), delta.size_bytes)

    def _from_the_running_root(self, image: str) -> Delivery | None:
        """A firmware by what it has in common with the one that runs."""
        from pytest_edgehil.artifacts.delta.create import read_stream
        from pytest_edgehil.artifacts.delta.known_blocks import from_blocks

        try:
            with ThreadPoolExecutor(1) as beside:
                reading = beside.submit(read_stream, self._artifact)
                known = self._session.client.slot_blocks(size_bytes=self._artifact.size_bytes, timeout_s=SLOT_S)
            delta = from_blocks(self._artifact, reading.result(), image, known)
        except (ArtifactError, FlashError) as problem:
            self._refused = str(problem)
            return None
        return None if delta is None else self._send_delta(delta.pieces(), delta.size_bytes, slot=known)

    def _send_delta(self, pieces: Iterable[bytes], total: int, *, slot: KnownBlocks | None = None) -> Delivery | None:
        """None if the board, or the file it comes from, does not make the bundle of it."""
        size, before = self._artifact.size_bytes, self._sent_bytes

        def told(sent: int, found: float | None) -> None:
            self._sent_bytes = before + sent
            if self._on_sent is not None:
                self._on_sent(size * sent // total, found)

        try:
            sent = push_delta(self._session, self._artifact, pieces, slot=slot, on_sent=told, options=self._options)
        except DiskFull:
            raise
        except (ArtifactError, FlashError) as problem:
            self._refused = str(problem)
            return None
        self._sent_bytes = before
        return self._done(Method.DELTA, sent)

    def _whole(self, *, watch: bool = False) -> Delivery:
        started = self._options.clock()

        def told(there: int, rate: float | None) -> None:
            if self._on_sent is not None:
                self._on_sent(there, rate)
            if watch:
                self._think_of_a_delta(there, self._options.clock() - started, rate)

        sent = push(self._session, self._artifact, on_sent=told, options=self._options, blocks=self._blocks)
        if sent.rate_bytes_per_s is not None and not sent.compressed:
            self._session.rate_bytes_per_s = sent.rate_bytes_per_s
        return self._done(Method.REST if sent.resumed_bytes else Method.WHOLE, sent)

    def _think_of_a_delta(self, there: int, took_s: float, rate: float | None) -> None:
        if rate is None and took_s > UNKNOWN_S:
            rate = there / took_s  # at most: part of it was there before, part of it lies in buffers
        if rate is not None and self._may_pay(rate, there):
            raise _SlowError(rate, there)

    def _done(self, method: Method, sent: Sent) -> Delivery:
        return Delivery(
            artifact=self._artifact,
            method=Method.NOTHING if sent.already else method,
            sent_bytes=self._sent_bytes + sent.sent_bytes,
            resumed_bytes=sent.resumed_bytes,
            compressed=sent.compressed,
            duration_s=self._options.clock() - self._started,
            refused=self._refused,
        )
