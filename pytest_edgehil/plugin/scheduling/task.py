"""What a scheduler knows of a test. Alone here because workers write it down and never schedule anything."""

from __future__ import annotations

from dataclasses import dataclass

NO_BOARD = ""
"""The need of a test that asks for no board: any worker runs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One test.

    Args:
        index: its place in the collection.
        combo: what is flashed for it, as one word that is equal for equal combos; empty: it flashes nothing.
        need: what it asks of its board, likewise; `NO_BOARD`: it asks for none.
        family: tests that are likely to take equally long: one test function, whatever its parameters.
        expected_s: how long it took in earlier runs, seconds, without the flash; None: it never ran.
        at_least_s: what its markers say that it takes in any case: the hour of a soak.
        boards: how many it has in its hands at once. If more than one, `need` is its own, and any of them meets it.
    """

    index: int
    combo: str = ""
    need: str = NO_BOARD
    family: str = ""
    expected_s: float | None = None
    at_least_s: float = 0.0
    boards: int = 1
