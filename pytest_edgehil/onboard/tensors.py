"""Tensors on the wire: a list of ``{name, dtype, shape}`` in the JSON, and their bytes one after the other.

Little-endian, C order; dtypes by numpy's names. The standard library is enough to check them; only a runtime that
has numpy turns them into arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from .frames import Blob, Message
from .problem import Problem

ITEM_BYTES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4, "float32": 4,
    "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
MAX_TENSORS = 256
MAX_DIMENSIONS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor: `data` has exactly as many bytes as `dtype` and `shape` say."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def split(specs: object, blob: Blob, *, items: int = 1) -> list[Tensor]:
    """Cut a blob into tensors.

    Args:
        specs: the list from the JSON; with `items` > 1 the shapes are those of one item.
        blob: every tensor's bytes, one after the other, all items of a tensor together.
        items: number of items of each tensor.

    Returns:
        Tensors; with several items their shape begins with `items`.

    Raises:
        Problem: ``bad-request``.
    """
    if not isinstance(specs, list) or len(specs) > MAX_TENSORS:
        raise _bad(f"expected a list of at most {MAX_TENSORS} tensors")
    view, at, tensors = memoryview(blob).cast("B"), 0, []
    for spec in specs:
        name, dtype, shape = _spec(spec)
        size = ITEM_BYTES[dtype] * math.prod(shape) * items
        if at + size > view.nbytes:
            raise _bad(f"tensor {name[:80]!r} needs {size} bytes; the frame has {view.nbytes - at} left")
        tensors.append(Tensor(name=name, dtype=dtype, shape=(items, *shape), data=view[at : at + size]))
        at += size
    if at != view.nbytes:
        raise _bad(f"the frame has {view.nbytes - at} bytes more than its tensors")
    if len({one.name for one in tensors}) != len(tensors):
        raise _bad("two tensors have the same name")
    return tensors


def join(tensors: Iterable[Tensor]) -> tuple[list[Message], bytes]:
    """The inverse of `split` for one item: specs for the JSON, and the blob."""
    specs, parts = [], []
    for one in tensors:
        specs.append({"name": one.name, "dtype": one.dtype, "shape": list(one.shape)})
        parts.append(one.data)
    return specs, b"".join(parts)


def _spec(spec: object) -> tuple[str, str, tuple[int, ...]]:
    if not isinstance(spec, dict):
        raise _bad("a tensor is described by an object")
    name, dtype, shape = spec.get("name"), spec.get("dtype"), spec.get("shape")
    if not isinstance(name, str) or dtype not in ITEM_BYTES or not isinstance(shape, list):
        raise _bad(f"a tensor needs a name, a dtype of {', '.join(ITEM_BYTES)} and a shape, got {str(spec)[:160]}")
    if len(shape) > MAX_DIMENSIONS or any(type(side) is not int or not 0 <= side < 2**40 for side in shape):
        raise _bad(f"tensor {name[:80]!r} has an impossible shape")
    return name, dtype, tuple(shape)


def _bad(message: str) -> Problem:
    return Problem("bad-request", message)
