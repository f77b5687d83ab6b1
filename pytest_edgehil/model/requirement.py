"""What a test may require of a board. Alone here because every pytest run loads it (see `pytest_edgehil.plugin`)."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Environment(enum.StrEnum):
    """What a board really is. Evidence carries it, and a policy may ask for it."""

    HARDWARE = "hardware"
    EMULATED = "emulated"
    VIRTUAL = "virtual"


class Timing(enum.StrEnum):
    """What a nanosecond is on a board. Samples carry it, so that neither is ever held against the other."""

    WALL = "wall"  # of a clock
    ICOUNT = "icount"  # one instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What a test asks of a board. Empty fields ask for nothing.

    Args:
        cls: board class, exactly, or a shell pattern such as ``pi5-*``.
        tags: words that the board must all have.
        environment: what the board must really be.
        board_id: this very board.
        accelerator: kind of HAT.
        among: only these boards, by id; None means any.
        timing: what its time must be.
    """

    cls: str | None = None
    tags: frozenset[str] = frozenset()
    environment: Environment | None = None
    board_id: str | None = None
    accelerator: str | None = None
    among: frozenset[str] | None = None
    timing: Timing | None = None
