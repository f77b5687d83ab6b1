"""The host's side of the frames that the on-board program speaks.

``EHF1`` | u32 BE length of JSON | u32 BE length of blob | JSON object | blob. The program has its own reader
(`onboard/frames.py`, which runs on the board and is never imported here); a contract test holds the two against each
other. Here bytes come in pieces from a `Channel`, so the reader is fed and asked.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from pytest_edgehil.errors import ModelError, ProtocolError

if TYPE_CHECKING:
    import numpy.typing as npt

MAGIC = b"EHF1"
HEADER = struct.Struct(">4sII")
MAX_JSON_BYTES = 2**20
MAX_BLOB_BYTES = 64 * 2**20
VERSION = 1

DTYPES = frozenset(
    {
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "float32", "float64",
    }
)  # fmt: skip
"""What may travel: tensors of numbers, little-endian."""

Message = dict[str, Any]
if TYPE_CHECKING:
    Array = npt.NDArray[Any]


def encode(message: Message, blob: bytes | memoryview = b"") -> bytes:
    """One frame.

    Raises:
        ProtocolError: it is beyond the limits; a frame that the board would refuse is not sent.
    """
    text = json.dumps(message, separators=(",", ":"), allow_nan=False).encode()
    size = len(blob)
    if len(text) > MAX_JSON_BYTES or size > MAX_BLOB_BYTES:
        raise ProtocolError(f"a request of {len(text)} + {size} bytes does not fit into one frame")
    return b"".join((HEADER.pack(MAGIC, len(text), size), text, blob))


class FrameBuffer:
    """Frames out of a stream of bytes.

    Args:
        board_id: for messages.
    """

    def __init__(self, board_id: str) -> None:
        self._board_id = board_id
        self._bytes = bytearray()

    def feed(self, data: bytes) -> None:
        """Bytes that came in."""
        self._bytes += data

    def next(self) -> tuple[Message, bytes] | None:
        """The next whole frame; None until more bytes are there.

        Raises:
            ProtocolError: what comes is no frame; nothing after it can be trusted.
        """
        if len(self._bytes) < HEADER.size:
            # the first bytes tell already: somebody's login banner must not be waited through
            if not MAGIC.startswith(bytes(self._bytes[: len(MAGIC)])):
                raise self._refuse(f"expected a frame, got {bytes(self._bytes[:80])!r}")
            return None
        magic, json_size, blob_size = HEADER.unpack_from(self._bytes)
        if magic != MAGIC:
            raise self._refuse(f"expected a frame, got {bytes(self._bytes[:80])!r}")
        if json_size > MAX_JSON_BYTES or blob_size > MAX_BLOB_BYTES:
            raise self._refuse(f"a frame announces {json_size} + {blob_size} bytes, beyond the limits")
        end = HEADER.size + json_size + blob_size
        if len(self._bytes) < end:
            return None
        text = bytes(self._bytes[HEADER.size : HEADER.size + json_size])
        blob = bytes(self._bytes[HEADER.size + json_size : end])
        del self._bytes[:end]
        try:
            message = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as problem:
            raise self._refuse(f"a frame's JSON cannot be read: {problem}") from problem
        if not isinstance(message, dict):
            raise self._refuse(f"a frame's JSON is {type(message).__name__}, not an object")
        return message, blob

    def _refuse(self, what: str) -> ProtocolError:
        return ProtocolError(f"{self._board_id}: the on-board program cannot be understood: {what}")


def pack_tensors(arrays: Mapping[str, Array], *, per_item: bool) -> tuple[list[Message], bytes]:
    """Tensors as they travel.

    Args:
        arrays: name → array.
        per_item: the first axis counts items; the specs are then those of one item.

    Raises:
        ModelError: an array has a dtype that cannot travel.
    """
    specs, parts = [], []
    for name, value in arrays.items():
        array = np.ascontiguousarray(value)
        if array.dtype.name not in DTYPES:
            raise ModelError(f"feed {name!r} has dtype {array.dtype}; a board takes {', '.join(sorted(DTYPES))}")
        # ascontiguousarray makes a scalar one-dimensional; the shape that was meant counts
        shape = value.shape[1:] if per_item else value.shape
        specs.append({"name": name, "dtype": array.dtype.name, "shape": list(shape)})
        parts.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return specs, b"".join(parts)


def unpack_tensors(specs: object, blob: bytes, *, items: int = 1, board_id: str) -> dict[str, Array]:
    """The inverse: arrays of shape (items, …), which the caller owns.

    Raises:
        ProtocolError: specs and blob do not fit each other.
    """
    arrays: dict[str, Array] = {}
    at = 0
    if not isinstance(specs, Sequence) or isinstance(specs, (str, bytes)):
        raise ProtocolError(f"{board_id}: an answer describes no tensors: {str(specs)[:80]}")
    for spec in specs:
        try:
            name, dtype, shape = str(spec["name"]), str(spec["dtype"]), tuple(int(one) for one in spec["shape"])
        except (KeyError, TypeError, ValueError) as problem:
            raise ProtocolError(f"{board_id}: an answer describes a tensor as {str(spec)[:80]}") from problem
        if dtype not in DTYPES or any(side < 0 for side in shape):
            raise ProtocolError(f"{board_id}: an answer holds a tensor of dtype {dtype[:40]} and shape {shape}")
        count = math.prod(shape) * items
        size = count * np.dtype(dtype).itemsize
        if at + size > len(blob):
            raise ProtocolError(f"{board_id}: tensor {name!r} needs {size} bytes, the answer has {len(blob) - at} left")
        arrays[name] = np.frombuffer(blob, dtype=dtype, count=count, offset=at).reshape((items, *shape)).copy()
        at += size
    if at != len(blob):
        raise ProtocolError(f"{board_id}: an answer has {len(blob) - at} bytes more than its tensors")
    return arrays


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
