"""What a measurement on the board sends while it goes on, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_edgehil.board import wire
from pytest_edgehil.board.fields import Fields
from pytest_edgehil.board.wire import Message
from pytest_edgehil.errors import ModelError, ProtocolError
from pytest_edgehil.model.series import OpenLoop

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]


class Gathered:
    """The inferences of one measurement, as their frames come in.

    Args:
        board_id: for messages.
    """

    def __init__(self, board_id: str) -> None:
        self._board_id = board_id
        self.inferences = 0
        self._starts: list[Array] = []
        self._latencies: list[Array] = []
        self._intended: list[Array] = []
        self._late: list[Array] = []
        self._outputs: list[dict[str, Array]] = []
        self._kept = 0

    def add(self, message: Message, blob: bytes) -> None:
        """One frame."""
        fields = Fields(message, board_id=self._board_id)
        count = fields.integer("count")
        match message.get("type"):
            case "samples":
                starts, latencies = self._rows(blob, count, rows=2)
                self._note(count, starts, latencies)
            case "arrivals":
                intended, starts, latencies, late = self._rows(blob, count, rows=4)
                self._intended.append(intended)
                self._late.append(late)
                self._note(count, starts, latencies)
            case "outputs":
                if fields.integer("first") != self._kept or count < 1:
                    raise ProtocolError(f"{self._board_id}: outputs of other items came than were expected")
                self._outputs.append(
                    wire.unpack_tensors(message.get("tensors"), blob, items=count, board_id=self._board_id)
                )
                self._kept += count
            case other:
                raise ProtocolError(f"{self._board_id}: unexpected {str(other)[:40]!r} during a measurement")

    def _rows(self, blob: bytes, count: int, *, rows: int) -> Array:
        if count < 1 or len(blob) != 8 * rows * count:
            raise ProtocolError(f"{self._board_id}: {count} samples came in {len(blob)} bytes")
        return np.frombuffer(blob, dtype="<i8").reshape(rows, count)

    def _note(self, count: int, starts: Array, latencies: Array) -> None:
        self._starts.append(starts)
        self._latencies.append(latencies)
        self.inferences += count

    def at_rate(self, rate_hz: float) -> OpenLoop:
        """The same inferences with when they were due."""
        return OpenLoop(
            rate_hz=rate_hz,
            intended_ns=_joined(self._intended),
            starts_ns=self.starts_ns(),
            latencies_ns=self.latencies_ns(),
            late_ns=_joined(self._late),
        )

    def starts_ns(self) -> Array:
        """Shape (n,), int64."""
        return _joined(self._starts)

    def latencies_ns(self) -> Array:
        """Shape (n,), int64."""
        return _joined(self._latencies)

    def outputs(self) -> dict[str, Array]:
        """Item by item on axis 0.

        Raises:
            ModelError: the outputs of two items differ in shape, so that they cannot be stacked.
        """
        if not self._outputs:
            return {}
        joined = {}
        for name in self._outputs[0]:
            pieces = [piece[name] for piece in self._outputs]
            shapes = {piece.shape[1:] for piece in pieces}
            if len(shapes) != 1:
                raise ModelError(
                    f"{self._board_id}: output {name!r} has the shapes {sorted(shapes)} for different items; "
                    "compare such a model item by item with run()"
                )
            whole = np.concatenate(pieces)
            # an item was fed as a batch of one: its output's first axis is that batch
            joined[name] = whole[:, 0] if whole.ndim > 1 and whole.shape[1] == 1 else whole
        return joined


def _joined(pieces: list[Array]) -> Array:
    return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, dtype=np.int64)
