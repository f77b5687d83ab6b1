"""Sending one bundle into the board's store: one read here, one hash there, nothing read twice.

A producer thread reads and (where it pays) compresses blocks while the caller's thread sends them. The sink on the
board knows size and digest beforehand and gives the file its name only when both are right, so what is read here need
not be hashed here: that would cost half of this side's processor time. Only if the board refuses is the host's own
file looked at, to tell a damaged file from a damaged transfer. The sink first says what a push that was cut has left
there; the host compares the digests of those prefixes with its own file's, and the push goes on behind the longest one
that agrees. The conversation is described in ``onboard/sink.py``.
"""

from __future__ import annotations

import contextlib
import json
import queue
import struct
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_edgehil.board.blocks import Blocks
from pytest_edgehil.board.fields import Fields
from pytest_edgehil.board.onboard_client import declared
from pytest_edgehil.board.pace import Pace, RateMeter, compression_pays
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.transport import Channel
from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.errors import CorruptArtifact, DeadlineExceeded, FlashError, LinkLost
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.model.board import Slots

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.delta.known_blocks import KnownBlocks

PIECE_S = 60.0
START_S = 30.0
LAST_WORDS_S = 3.0
SETTLE_S = 120.0
"""How long the sink may take to flush what it has to the medium, and a second more per `SETTLE_RATE` bytes."""

SETTLE_RATE = 2_000_000
_FRAME = struct.Struct(">BII")
_RAW, _ZLIB, _LAST = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a push did.

    Args:
        sent_bytes: over the link, compressed if they were, headers of frames left out.
        resumed_bytes: what was on the board already from a push that was cut.
        already: the bundle was there.
        compressed: were some of the bytes compressed?
        rate_bytes_per_s: what the link carried; None if it was too short to tell.
    """

    sent_bytes: int
    resumed_bytes: int = 0
    already: bool = False
    compressed: bool = False
    rate_bytes_per_s: float | None = None


@dataclass(slots=True, kw_only=True)
class PushOptions:
    """How bundles are sent.

    Args:
        limit_bytes_per_s: the link is not used for more; None: all that it takes.
        compress: let compression be used where it pays.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    limit_bytes_per_s: float | None = None
    compress: bool = True
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)


def push(
    session: BoardSession,
    artifact: Artifact,
    *,
    on_sent: Callable[[int, float | None], None] | None = None,
    options: PushOptions | None = None,
    blocks: Blocks | None = None,
) -> Sent:
    """Send a bundle, or what is missing of it.

    Args:
        session: of the board; the on-board program is there already.
        artifact: what to send.
        on_sent: told how many bytes of the bundle the board has or will have from what has been sent so far, and the
            rate of the link in bytes per second once it is known; what it raises ends the push.
        options: limits.
        blocks: of the artifact's file, shared with other pushes of it.

    Raises:
        DiskFull: it does not fit.
        Fenced: somebody else holds the board.
        CorruptArtifact: the file on the host is not what its digest says.
        FlashError: it did not arrive whole.
        LinkLost, DeadlineExceeded: the link; the next push goes on where this one stopped.
    """
    options = options or PushOptions()
    with contextlib.ExitStack() as stack:
        source = blocks if blocks is not None else stack.enter_context(Blocks(artifact))
        talk = stack.enter_context(_Talk.begin(session, artifact, options))
        if talk.already:
            return Sent(sent_bytes=0, already=True)
        start = _agreed(talk.marks, source)
        compress = threading.Event()
        meter = RateMeter(options.clock)

        def told(sent: int, plain: int) -> None:
            meter.add(sent)
            if on_sent is not None:
                on_sent(start + plain, meter.bytes_per_s)
            left = artifact.size_bytes - start - plain
            if options.compress and meter.fresh and compression_pays(source, meter, left, clock=options.clock):
                compress.set()

        try:
            with contextlib.closing(_ahead(_frames(source, start, compress), source.ahead)) as frames:
                sent = talk.send({"what": "bytes", "from": start}, frames, told)
            talk.finish()
        except FlashError:
            source.verify()  # whose fault is it?
            raise
    return Sent(
        sent_bytes=sent,
        resumed_bytes=start,
        compressed=compress.is_set(),
        rate_bytes_per_s=meter.bytes_per_s,
    )


def push_delta(
    session: BoardSession,
    artifact: Artifact,
    pieces: Iterable[bytes],
    *,
    slot: KnownBlocks | None = None,
    on_sent: Callable[[int, float | None], None] | None = None,
    options: PushOptions | None = None,
) -> Sent:
    """Send a delta that the board makes the bundle of, from others that it has.

    Args:
        session: of the board.
        artifact: what comes of it.
        pieces: the delta (`artifacts.delta`).
        slot: it is made from the root that the board runs, which is this.
        on_sent: told how many bytes of the delta have been sent.
        options: limits.

    Raises:
        CorruptArtifact: the board cannot make the bundle from this delta.
        FlashError, BoardError: as `push`.
    """
    options = options or PushOptions()
    slots = session.board.slots if slot is not None else None
    request: dict[str, object] = {"what": "delta"}
    if slot is not None:
        request["slot"] = {"source": slot.name, "partition": slot.partition}
    with _Talk.begin(session, artifact, options, slots=slots) as talk:
        if talk.already:
            return Sent(sent_bytes=0, already=True)
        meter = RateMeter(options.clock)

        def told(sent: int, _plain: int) -> None:
            meter.add(sent)
            if on_sent is not None:
                on_sent(sent, meter.bytes_per_s)

        frames = (_Frame(code=_RAW, data=one, plain_bytes=len(one)) for one in _regrouped(pieces))
        sent = talk.send(request, frames, told)
        talk.finish()
    return Sent(sent_bytes=sent, rate_bytes_per_s=meter.bytes_per_s)


# --- what is sent ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Frame:
    code: int
    data: bytes | memoryview
    plain_bytes: int


def _agreed(marks: list[tuple[int, str]], source: Blocks) -> int:
    """The length of the longest prefix on the board that is ours."""
    ours = source.prefixes([size for size, _ in marks])
    return max((size for (size, theirs), mine in zip(marks, ours, strict=True) if theirs == mine), default=0)


def _frames(source: Blocks, start: int, compress: threading.Event) -> Iterator[_Frame]:
    first, skip = divmod(start, source.block_bytes)
    for number in range(first, source.count):
        view = memoryview(source.block(number))[skip:]
        skip = 0
        if not view:
            continue
        if compress.is_set():
            packed = zlib.compress(view, 1)
            if len(packed) < len(view):
                yield _Frame(_ZLIB, packed, len(view))
                continue
        yield _Frame(_RAW, view, len(view))


def _regrouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pieces of any size in frames of a fair size."""
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= 2**20:
            yield bytes(pending[: 2**20])
            del pending[: 2**20]
    if pending:
        yield bytes(pending)


def _ahead(items: Iterator[_Frame], number: int) -> Generator[_Frame, None, None]:
    """The same frames, so many of them made by a thread ahead of whoever iterates.

    Raises:
        CorruptArtifact: making them did.
    """
    ready: queue.Queue[_Frame | CorruptArtifact | None] = queue.Queue(number)
    stop = threading.Event()

    def put(item: _Frame | CorruptArtifact | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.5)
                return

    def make() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except CorruptArtifact as problem:
            put(problem)

    thread = threading.Thread(target=make, name="push-read", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, CorruptArtifact):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


# --- the conversation --------------------------------------------------------------------------------


class _Talk:
    """One run of the sink."""

    def __init__(self, channel: Channel, artifact: Artifact, board_id: str, options: PushOptions) -> None:
        self._channel = channel
        self._artifact = artifact
        self._board_id = board_id
        self._pace = Pace(options.limit_bytes_per_s, clock=options.clock, sleep=options.sleep)
        self._said = bytearray()
        self.already = False
        self.marks: list[tuple[int, str]] = []

    @classmethod
    @contextlib.contextmanager
    def begin(
        cls, session: BoardSession, artifact: Artifact, options: PushOptions, *, slots: Slots | None = None
    ) -> Iterator[_Talk]:
        """Start the sink and hear what it has."""
        _, program = onboard_zipapp()
        argv: tuple[str, ...] = (
            "python3", "-S", "-E", f"{session.board.home}/bin/onboard-{program}.pyz", "sink",
            "--token", str(session.token), "--holder", session.holder,
            "--digest", artifact.digest, "--size", str(artifact.size_bytes),
        )  # fmt: skip
        if slots is not None:
            argv += ("--slots", declared(slots))
        channel = session.transport.open(argv, timeout_s=START_S)
        try:
            talk = cls(channel, artifact, session.board.id, options)
            offer = talk.answer(talk.settle_s)
            talk.already = offer.flag("already")
            if talk.already:
                talk._ended()
            else:
                talk.marks = talk.checked(offer.items("marks"))
            yield talk
        finally:
            channel.close()

    def _ended(self) -> None:
        """Wait for a sink that has said its last word: it ends at once, and who ends need not be killed."""
        with contextlib.suppress(LinkLost, DeadlineExceeded):
            self._channel.wait(LAST_WORDS_S)

    @property
    def settle_s(self) -> float:
        """How long the board may take over what concerns the whole bundle."""
        return SETTLE_S + self._artifact.size_bytes / SETTLE_RATE

    def send(self, request: dict[str, object], frames: Iterable[_Frame], told: Callable[[int, int], None]) -> int:
        """Send everything; returns the number of bytes in frames.

        Raises:
            EdgehilError: the sink ended early, and this is what it complains of.
        """
        sent = plain = 0
        try:
            self._channel.send(json.dumps(request).encode() + b"\n", timeout_s=PIECE_S)
            for frame in frames:
                view = memoryview(frame.data)
                self._channel.send(_FRAME.pack(frame.code, len(view), frame.plain_bytes), timeout_s=PIECE_S)
                for at in range(0, len(view), self._pace.piece_bytes):
                    piece = view[at : at + self._pace.piece_bytes]
                    self._channel.send(piece, timeout_s=PIECE_S)
                    sent += len(piece)
                    self._pace.sent(len(piece))
                    told(sent, plain + frame.plain_bytes * (at + len(piece)) // len(view))
                plain += frame.plain_bytes
            self._channel.send(_FRAME.pack(_LAST, 0, 0), timeout_s=PIECE_S)
            self._channel.close_input()
        except (LinkLost, DeadlineExceeded):
            # The sink may have ended because it has something to say; not so when the link itself is gone.
            with contextlib.suppress(LinkLost, DeadlineExceeded):
                self.answer(LAST_WORDS_S)
            raise
        return sent

    def finish(self) -> None:
        """Hear what has become of it."""
        answer = self.answer(self.settle_s)
        self._ended()
        if answer.text("digest") != self._artifact.digest:
            raise FlashError(
                f"{self._board_id}: the board stored {answer.text('digest')}, sent was {self._artifact.digest}"
            )

    def answer(self, timeout_s: float) -> Fields:
        """The next line that the sink says.

        Raises:
            EdgehilError: what it complains of.
        """
        while b"\n" not in self._said and len(self._said) < 65536:
            data = self._channel.receive(4096, timeout_s=timeout_s)
            if not data:
                break
            self._said += data
        line, _, rest = bytes(self._said).partition(b"\n")
        self._said = bytearray(rest)
        try:
            fields = Fields(json.loads(line), board_id=self._board_id)
        except (ValueError, RecursionError) as problem:
            told = " ".join(self._channel.stderr_tail.split())[-300:]
            raise FlashError(
                f"{self._board_id}: the sink ended without an answer: {told or 'it said nothing'}"
            ) from problem
        if not fields.flag("ok"):
            self._ended()
            raise error_of(fields.text("code"), fields.text("message"), board_id=self._board_id)
        return fields

    def checked(self, marks: object) -> list[tuple[int, str]]:
        """Marks as pairs, ascending and within the file.

        Raises:
            FlashError: they are none.
        """
        found: list[tuple[int, str]] = []
        for one in marks if isinstance(marks, (list, tuple)) else ():
            size, digest = one if isinstance(one, list) and len(one) == 2 else (None, None)
            last = found[-1][0] if found else 0
            if not (isinstance(size, int) and isinstance(digest, str) and last < size <= self._artifact.size_bytes):
                raise FlashError(f"{self._board_id}: the sink says that it has {str(one)[:100]}, which cannot be")
            found.append((size, digest))
        return found
