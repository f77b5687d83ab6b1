"""What quantising did to each operator, and where it hurts: for the report of a build.

An operator counts as quantised if the graph that was made computes it from narrow weights or activations: its inputs
are dequantised, it is one of the integer operators, or it works in float16. Errors compare the tensors that both
graphs still have under the same name, on a few held-out items: the root of the mean squared difference over the root
of the mean square of the source's values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from pytest_edgehil.artifacts.reference import OnnxSession

_INTEGER = frozenset(
    {
        "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", "MatMulNBits", "DynamicQuantizeMatMul",
        "MatMulIntegerToFloat", "QAttention", "QEmbedLayerNormalization",
    }
)  # fmt: skip
_SEEN = "_DequantizeLinear_Output"
_PLUMBING = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast", "Constant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCount:
    """How many operators of a type the source has, and how many of them are narrow in what was made."""

    kind: str
    total: int
    quantised: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """Relative root-mean-square error of one tensor, and the operator that it comes out of."""

    tensor: str
    kind: str
    error: float


def operators(before: onnx.ModelProto, made: bytes) -> tuple[OperatorCount, ...]:
    """What became of the operators that have weights to narrow or were narrowed; the most frequent first.

    Args:
        before: the graph that was quantised, see `quantise.prepared`: each node has a name of its own.
        made: what came of it.
    """
    after = onnx.load_model_from_string(made)
    half = {one.name for one in after.graph.initializer if one.data_type == onnx.TensorProto.FLOAT16}
    dequantised = {name for node in after.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    plain = {
        node.name
        for node in after.graph.node
        if node.op_type not in _INTEGER and not {*node.input} & dequantised and not {*node.input} & half
    }
    weights = {one.name for one in before.graph.initializer if len(one.dims) >= 2}
    counts: dict[str, list[int]] = {}
    for node in before.graph.node:
        if node.op_type in _PLUMBING:
            continue
        narrow = bool(node.name) and node.name not in plain
        if narrow or {*node.input} & weights:
            entry = counts.setdefault(node.op_type, [0, 0])
            entry[0] += 1
            entry[1] += int(narrow)
    ordered = sorted(counts.items(), key=lambda one: (-one[1][0], one[0]))
    return tuple(OperatorCount(kind=kind, total=total, quantised=narrow) for kind, (total, narrow) in ordered)


def largest_errors(
    source: bytes, made: bytes, feeds: Mapping[str, npt.NDArray[Any]], *, most: int = 5
) -> tuple[LayerError, ...]:
    """The tensors that differ most.

    Args:
        source, made: ONNX models.
        feeds: input name → items, shape (m, …).
        most: how many.
    """
    before, after = onnx.load_model_from_string(source), onnx.load_model_from_string(made)
    kinds = {name: node.op_type for node in before.graph.node for name in node.output if name}
    there = {name for node in after.graph.node for name in node.output}
    # as whoever reads the tensor sees it: a fused Relu, for one, is done by the quantisation itself
    shared = {
        name: f"{name}{_SEEN}" if f"{name}{_SEEN}" in there else name
        for name in sorted(kinds)
        if {name, f"{name}{_SEEN}"} & there
    }
    theirs, ours = _opened(before, list(shared)), _opened(after, list(shared.values()))
    squares = {name: np.zeros(2) for name in shared}
    for at in range(len(next(iter(feeds.values())))):
        item = {name: array[at : at + 1] for name, array in feeds.items()}
        expected, found = theirs.run(item), ours.run(item)
        for name, seen in shared.items():
            one, other = expected[name], found[seen]
            if one.dtype.kind == "f" and one.shape == other.shape:
                wide = one.astype(np.float64)
                squares[name] += float(((other.astype(np.float64) - wide) ** 2).sum()), float((wide**2).sum())
    errors = [
        LayerError(tensor=name, kind=kinds[name], error=float(np.sqrt(off / whole)))
        for name, (off, whole) in squares.items()
        if whole > 0
    ]
    return tuple(sorted(errors, key=lambda one: (-one.error, one.tensor))[:most])


def _opened(model: onnx.ModelProto, tensors: list[str]) -> OnnxSession:
    """A session that gives these tensors, too."""
    there = {one.name for one in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in there)
    return OnnxSession(model.SerializeToString(), label="layers", optimise=False)
