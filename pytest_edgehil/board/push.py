"""Sending one bundle into the board's store: one read, one hash on each side, nothing read twice.

A producer thread reads and hashes blocks while the caller's thread sends them. The sink on the board knows size and
digest beforehand and gives the file its name only when both are right; an interrupted push leaves nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_edgehil.board.answers import Fields
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.transport import Channel
from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.errors import BoardError, CorruptArtifact, DeadlineExceeded, FlashError, LinkLost
from pytest_edgehil.model.artifact import Artifact

BLOCK_BYTES = 2**20
QUEUE_BLOCKS = 8
PIECE_BYTES = 2**18
"""What is given to the link at once, so that a slow link is told from a dead one by `PIECE_S`."""

PIECE_S = 60.0
START_S = 30.0
LAST_WORDS_S = 3.0
SETTLE_S = 120.0
"""How long the sink may take to flush what it has to the medium, and a second more per `SETTLE_RATE` bytes."""

SETTLE_RATE = 2_000_000


def push(session: BoardSession, artifact: Artifact, *, on_sent: Callable[[int], None] | None = None) -> int:
    """Send a bundle.

    Args:
        session: of the board; the on-board program is there already.
        artifact: what to send.
        on_sent: told the number of bytes sent so far.

    Returns:
        Number of bytes sent.

    Raises:
        DiskFull: it does not fit.
        Fenced: somebody else holds the board.
        CorruptArtifact: the file on the host is not what its digest says.
        FlashError: it did not arrive whole.
        LinkLost, DeadlineExceeded: the link.
    """
    _, program = onboard_zipapp()
    argv = (
        "python3", "-S", "-E", f"{session.board.home}/bin/onboard-{program}.pyz", "sink",
        "--token", str(session.token), "--holder", session.holder,
        "--digest", artifact.digest, "--size", str(artifact.size_bytes),
    )  # fmt: skip
    channel = session.transport.open(argv, timeout_s=START_S)
    try:
        sent = 0
        try:
            for block in _blocks(artifact.path, expected=artifact.digest):
                view = memoryview(block)
                for at in range(0, len(view), PIECE_BYTES):
                    channel.send(view[at : at + PIECE_BYTES], timeout_s=PIECE_S)
                    sent += len(view[at : at + PIECE_BYTES])
                    if on_sent is not None:
                        on_sent(sent)
            channel.close_input()
        except BoardError:
            # The sink may have ended because it has something to say: a complaint, or that somebody else was faster.
            answer = _last_words(channel, board_id=session.board.id)
            if answer is None:
                raise
        else:
            answer = _answer(channel, board_id=session.board.id, timeout_s=SETTLE_S + artifact.size_bytes / SETTLE_RATE)
        if answer.text("digest") != artifact.digest:
            raise FlashError(
                f"{session.board.id}: the board stored {answer.text('digest')}, sent was {artifact.digest}"
            )
    finally:
        channel.close()
    return sent


def _answer(channel: Channel, *, board_id: str, timeout_s: float) -> Fields:
    """What the sink says in the end.

    Raises:
        EdgehilError: what it complains of.
    """
    said = bytearray()
    while not said.endswith(b"\n") and len(said) < 65536:
        data = channel.receive(4096, timeout_s=timeout_s)
        if not data:
            break
        said += data
    try:
        fields = Fields(json.loads(said), board_id=board_id)
    except ValueError as problem:
        told = " ".join(channel.stderr_tail.split())[-300:]
        raise FlashError(f"{board_id}: the sink ended without an answer: {told or 'it said nothing'}") from problem
    if not fields.flag("ok"):
        raise error_of(fields.text("code"), fields.text("message"), board_id=board_id)
    return fields


def _last_words(channel: Channel, *, board_id: str) -> Fields | None:
    """The sink's own answer after sending failed; None when the link itself is gone.

    Raises:
        EdgehilError: what it complains of.
    """
    try:
        return _answer(channel, board_id=board_id, timeout_s=LAST_WORDS_S)
    except (LinkLost, DeadlineExceeded):
        return None


def _blocks(path: Path, *, expected: str) -> Iterator[bytes]:
    """The blocks of a file, read and hashed by a thread ahead of whoever iterates.

    Raises:
        CorruptArtifact: the file cannot be read, or its digest is not the expected one; the last block is then held
            back, so that the board cannot take it for whole.
    """
    ready: queue.Queue[bytes | CorruptArtifact | None] = queue.Queue(QUEUE_BLOCKS)
    stop = threading.Event()

    def put(item: bytes | CorruptArtifact | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.5)
                return

    def read() -> None:
        hashing, last = hashlib.sha256(), b""
        try:
            with path.open("rb", buffering=0) as stream:
                while block := stream.read(BLOCK_BYTES):
                    if last:
                        put(last)
                    hashing.update(block)
                    last = block
        except OSError as problem:
            put(CorruptArtifact(f"{path}: cannot be read: {problem.strerror}"))
            return
        found = f"sha256:{hashing.hexdigest()}"
        if found != expected:
            put(CorruptArtifact(f"{path}: the file hashes to {found}, expected {expected}; build or fetch it again"))
            return
        put(last)
        put(None)

    threading.Thread(target=read, name="push-read", daemon=True).start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, CorruptArtifact):
                raise item
            yield item
    finally:
        stop.set()
