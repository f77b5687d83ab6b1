"""One bundle to many boards at once, from one process: the file is read once for all of them.

One thread for each board, which measured best (`facts`), and few boards at a time while links are opened: an sshd hangs
up on bursts of new connections, and a fleet behind one gateway shares one. A board that breaks ends its own push only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_edgehil.board.blocks import Blocks
from pytest_edgehil.board.delivery import Delivery, Deltas, Way, deliver
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import EdgehilError
from pytest_edgehil.model.artifact import Artifact

OPENING = 6
"""So many links are opened at once; sshd's MaxStartups begins to refuse at 10."""

BLOCK_BYTES = 2**18
KEPT_BLOCKS = 32
"""8 MiB: boards that are not further apart share what was read."""

AHEAD_BLOCKS = 2
"""Boards that are further apart hold blocks of their own: with few of them, fifty boards take 25 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What came of it: board id → what was done, or what went wrong."""

    delivered: Mapping[str, Delivery]
    failed: Mapping[str, EdgehilError]


def spread(
    artifact: Artifact,
    sessions: Mapping[str, BoardSession],
    *,
    way: Way | None = None,
    opening: int = OPENING,
    on_sent: Callable[[str, int, float | None], None] | None = None,
) -> Spread:
    """Put a bundle into the stores of many boards.

    Args:
        artifact: what.
        sessions: board id → session; links are opened here as they are needed.
        way: how.
        opening: so many links are opened at once.
        on_sent: told board, bytes and rate, from several threads.

    Raises:
        CorruptArtifact: the file on the host cannot be read.
    """
    gate = threading.BoundedSemaphore(opening)
    deltas = Deltas()

    def one(board_id: str, session: BoardSession, blocks: Blocks) -> Delivery | EdgehilError:
        def told(sent: int, rate: float | None) -> None:
            if on_sent is not None:
                on_sent(board_id, sent, rate)

        try:
            with gate:
                held = session.client.status().store
            return deliver(session, artifact, held=held, way=way, on_sent=told, blocks=blocks, deltas=deltas)
        except EdgehilError as problem:
            return problem

    with (
        Blocks(artifact, block_bytes=BLOCK_BYTES, kept=KEPT_BLOCKS, ahead=AHEAD_BLOCKS) as blocks,
        ThreadPoolExecutor(max_workers=max(1, len(sessions)), thread_name_prefix="edgehil-spread") as pool,
    ):
        asked = {board_id: pool.submit(one, board_id, session, blocks) for board_id, session in sessions.items()}
        came = {board_id: future.result() for board_id, future in asked.items()}
    return Spread(
        delivered={board_id: one for board_id, one in came.items() if isinstance(one, Delivery)},
        failed={board_id: one for board_id, one in came.items() if isinstance(one, EdgehilError)},
    )
