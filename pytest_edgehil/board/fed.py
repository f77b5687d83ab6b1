"""What a test body fed to the DUT, kept so that it can be fed again.

Single feeds of one shape are stacked as they come; a held-out set stays as it is. Feeds of different shapes cannot
be cycled over in one go, so they form groups, which are repeated in proportion to their number of items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MAX_SINGLE_FEEDS = 4096
"""More single feeds of one shape are not kept: what is repeated need not be everything, and memory has an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Feeds that can be cycled over.

    Args:
        stacked: input name → items on axis 0.
        items: how many.
        batched: an item is a batch of one, ``stacked[name][i : i + 1]``; otherwise ``stacked[name][i]``.
        signature: names, dtypes and shapes of one item as the model sees it.
    """

    stacked: Mapping[str, Array]
    items: int
    batched: bool
    signature: str

    @classmethod
    def of_items(cls, inputs: Mapping[str, Array]) -> Self:
        """A held-out set."""
        one = {name: array[:1] for name, array in inputs.items()}
        items = next(iter(inputs.values())).shape[0]
        return cls(stacked=inputs, items=items, batched=True, signature=signature(one))

    @classmethod
    def of_one(cls, feeds: Mapping[str, Array]) -> Self:
        """One single feed."""
        stacked = {name: array[np.newaxis] for name, array in feeds.items()}
        return cls(stacked=stacked, items=1, batched=False, signature=signature(feeds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Token ids, shape (1, t), to be continued by at most `max_new_tokens`, up to one of `stop`."""

    ids: Array
    max_new_tokens: int
    stop: tuple[int, ...]


class Fed:
    """Everything that was fed, in the order in which each shape first appeared."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []
        self._sets: list[dict[str, Array]] = []
        self._singles: dict[str, list[dict[str, Array]]] = {}

    def add_one(self, feeds: Mapping[str, Array]) -> None:
        """A single feed; copied, because the test may go on changing it."""
        kept = self._singles.setdefault(signature(feeds), [])
        if len(kept) < MAX_SINGLE_FEEDS:
            kept.append({name: array.copy() for name, array in feeds.items()})

    def add_items(self, inputs: Mapping[str, Array]) -> None:
        """A held-out set; the same one twice counts once."""
        if not any(known.keys() == inputs.keys() and _same(known, inputs) for known in self._sets):
            self._sets.append(dict(inputs))

    def groups(self) -> list[Group]:
        """What to repeat."""
        found = [Group.of_items(inputs) for inputs in self._sets]
        for name, feeds in self._singles.items():
            stacked = {key: np.stack([one[key] for one in feeds]) for key in feeds[0]}
            found.append(Group(stacked=stacked, items=len(feeds), batched=False, signature=name))
        return found


def signature(feeds: Mapping[str, Array]) -> str:
    """Names, dtypes and shapes.

    >>> signature({"x": np.zeros((1, 4), dtype=np.float32)})
    'x float32 (1, 4)'
    """
    return "; ".join(f"{name} {array.dtype} {array.shape}" for name, array in sorted(feeds.items()))


def _same(known: Mapping[str, Array], inputs: Mapping[str, Array]) -> bool:
    return all(known[name] is array for name, array in inputs.items())
