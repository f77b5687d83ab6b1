"""Which range of values does each tensor take? The input of static quantisation.

Every intermediate tensor of the graph is made an output, the calibration items are run one by one on the graph as it
is written (no optimisation: fused kernels differ between CPUs), and the lowest and highest value of each tensor is
kept, or those between two percentiles.

Ranges are widened to 10 significant bits. The last bits of a float32 sum depend on the CPU's vector width; without
this, the same model calibrated with the same items on another machine would get other scales, and other bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.artifacts.reference import OnnxSession

_BITS = 10
_BINS = 4096

Ranges = dict[str, tuple[float, float]]


def tensor_ranges(
    model: onnx.ModelProto,
    calibration: Dataset,
    *,
    percentile: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Ranges:
    """The range of every float tensor of a graph, over the items of a calibration set.

    Args:
        model: with shapes inferred; not changed.
        calibration: one row per item.
        percentile: such as 99.9: leave out the values beyond it on either side; None keeps all.
        progress: told how far it is.

    Raises:
        ModelError: the items are no feeds of this model.
    """
    session = _open_graph(model)
    wide: Ranges = {}
    for name, values in _tensors(session, calibration, progress, what="ranges"):
        low, high = float(values.min()), float(values.max())
        before = wide.get(name, (low, high))
        wide[name] = (min(low, before[0]), max(high, before[1]))
    if percentile is not None:
        counts = {name: np.zeros(_BINS, dtype=np.int64) for name in wide}
        for name, values in _tensors(session, calibration, progress, what="percentiles"):
            counts[name] += np.histogram(values, bins=_BINS, range=_drawable(wide[name]))[0]
        wide = {name: _within(counts[name], _drawable(wide[name]), percentile) for name in wide}
    return {name: (_widened(low, up=False), _widened(high, up=True)) for name, (low, high) in sorted(wide.items())}


def _open_graph(model: onnx.ModelProto) -> OnnxSession:
    augmented = onnx.ModelProto()
    augmented.CopyFrom(model)
    graph = augmented.graph
    types = {one.name: one for one in (*graph.value_info, *graph.output, *graph.input)}
    outputs = {one.name for one in graph.output}
    for node in graph.node:
        for name in node.output:
            known = types.get(name)
            if name and name not in outputs and known is not None and _is_float(known):
                graph.output.append(known)
    return OnnxSession(augmented.SerializeToString(), label="calibration", optimise=False)


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def _tensors(session: OnnxSession, calibration: Dataset, progress: Callable[[str], None], *, what: str) -> Any:
    items = len(calibration)
    for at in range(items):
        feeds = {name: array[at : at + 1] for name, array in calibration.inputs.items()}
        for name, values in {**feeds, **session.run(feeds)}.items():
            if values.dtype == np.float32 and values.size:
                yield name, values
        if (at + 1) % 100 == 0 or at + 1 == items:
            progress(f"calibrating: {what} after {at + 1} of {items} items")


def _drawable(span: tuple[float, float]) -> tuple[float, float]:
    """A range that numpy can divide into bins, also when all values are equal."""
    low, high = span
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _within(counts: npt.NDArray[np.int64], span: tuple[float, float], percentile: float) -> tuple[float, float]:
    low, high = span
    edges = np.linspace(low, high, _BINS + 1)
    total = np.cumsum(counts)
    outside = (1 - percentile / 100) * total[-1]
    first = int(np.searchsorted(total, outside, side="right"))
    last = int(np.searchsorted(total, total[-1] - outside, side="left"))
    return float(edges[min(first, _BINS - 1)]), float(edges[last + 1])


def _widened(value: float, *, up: bool) -> float:
    """Round away from the middle to 10 significant bits.

    >>> _widened(1.0001, up=True), _widened(1.0001, up=False), _widened(0.0, up=False)
    (1.001953125, 1.0, 0.0)
    """
    mantissa, exponent = math.frexp(value)
    scaled = mantissa * 2**_BITS
    return math.ldexp(math.ceil(scaled) if up else math.floor(scaled), exponent - _BITS)


def as_float32(ranges: Mapping[str, tuple[float, float]]) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Ranges as ONNX Runtime's quantiser wants them: pairs of 0-dimensional float32 arrays."""
    return {
        name: (np.array(low, dtype=np.float32), np.array(high, dtype=np.float32))
        for name, (low, high) in ranges.items()
    }
