"""What a loaded model takes: feeds are held against it before they travel, and cut into frames."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_edgehil.board import wire
from pytest_edgehil.board.answers import TensorInfo
from pytest_edgehil.board.wire import Message
from pytest_edgehil.errors import ModelError

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

FRAME_BYTES = 16 * 2**20
"""Feeds go over in frames of about this size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Items that fit a model, as they travel.

    Args:
        arrays: input name → items stacked on axis 0.
        number: how many there are.
    """

    arrays: Mapping[str, Array]
    number: int

    @property
    def key(self) -> str:
        """SHA-256 of names, types, shapes and contents, in hexadecimal."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
        return digest.hexdigest()

    def frames(self) -> Iterator[tuple[Message, bytes]]:
        """Requests that bring them to the board, each with its blob; all but the first say that they are appended."""
        item_bytes = sum(array.nbytes for array in self.arrays.values()) // self.number
        step = max(1, FRAME_BYTES // max(1, item_bytes))
        for at in range(0, self.number, step):
            piece = {name: array[at : at + step] for name, array in self.arrays.items()}
            specs, blob = wire.pack_tensors(piece, per_item=True)
            yield {"tensors": specs, "items": min(step, self.number - at), "append": at > 0}, blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What a loaded model takes.

    Args:
        inputs: of the model; empty for a recording, which takes anything.
        whose: ``model``, or ``baseline`` for the one beside it; for messages.
        board_id: for messages.
    """

    inputs: Sequence[TensorInfo]
    whose: str
    board_id: str

    def one(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """A single inference's feeds.

        Raises:
            ModelError: they do not fit; says what it takes.
        """
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        if not self.inputs:
            return arrays
        wanted = ", ".join(map(str, self.inputs))
        if {one.name for one in self.inputs} != set(arrays):
            raise ModelError(
                f"{self.board_id}: the {self.whose} takes {wanted}; the feeds are {', '.join(arrays) or 'empty'}"
            )
        for one in self.inputs:
            array = arrays[one.name]
            if array.dtype.name != one.dtype or not _fits(array.shape, one):
                raise ModelError(
                    f"{self.board_id}: the {self.whose} takes {wanted}; feed {one.name!r} is {array.dtype} "
                    f"{array.shape}"
                )
        return arrays

    def items(self, feeds: Mapping[str, Array], *, batched: bool) -> Items:
        """Many inferences' feeds.

        Args:
            feeds: input name → items stacked on axis 0.
            batched: an item is fed as ``feeds[name][i : i + 1]``; otherwise as ``feeds[name][i]``.

        Raises:
            ModelError: they do not fit, or not all inputs have the same number of items.
        """
        arrays = {name: np.asarray(value) for name, value in feeds.items()}
        lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ModelError(f"{self.board_id}: feeds must have the same number of items on axis 0, got {lengths}")
        (number,) = lengths
        if batched:
            arrays = {name: array[:, np.newaxis] for name, array in arrays.items()}
        self.one({name: array[0] for name, array in arrays.items()})
        return Items(arrays=arrays, number=int(number))


def _fits(shape: tuple[int, ...], info: TensorInfo) -> bool:
    return len(shape) == len(info.shape) and all(
        wanted is None or side == wanted for side, wanted in zip(shape, info.shape, strict=True)
    )
