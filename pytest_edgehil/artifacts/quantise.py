"""A float ONNX model to a narrower one, with ONNX Runtime's tools, so that the same inputs give the same bytes.

ONNX Runtime's tools walk Python sets and depend on the CPU's rounding. Hence here: ranges come from
`artifacts.calibrate`; operators are given as a sorted list; and the result is written in one canonical order
(`canonical`), without whatever the tools note down about themselves.

Needs the extra ``[build]`` (the `onnx` package).
"""

from __future__ import annotations

import dataclasses
import heapq
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_edgehil.artifacts.dataset import Dataset
from pytest_edgehil.errors import ExtraMissing, ModelError, RecipeError

try:
    import onnx
except ModuleNotFoundError as missing:
    if missing.name != "onnx":
        raise
    raise ExtraMissing(extra="build", feature="quantising a model") from missing

from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry

from pytest_edgehil.artifacts.calibrate import as_float32, tensor_ranges
from pytest_edgehil.artifacts.narrow import four_bits, half_precision

PRODUCER = "pytest-edgehil"
_TYPES = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How to quantise.

    Args:
        method: ``static`` (int8, ranges from a calibration set, QDQ form), ``dynamic`` (int8, ranges at run time),
            ``fp16`` or ``int4`` (see `artifacts.narrow`), or ``none`` (only optimised).
        per_channel: one scale per output channel of the weights instead of one per tensor.
        weights, activations: ``int8`` or ``uint8``.
        operators: types of operators to quantise; empty: all that can be.
        exclude: names of nodes to leave as they are.
        exclude_operators: types of operators to leave as they are.
        block_size, symmetric: int4 only.
        optimise: let ONNX Runtime simplify the graph before (constant folding, fused nodes that are still ONNX).
        percentile: see `calibrate.tensor_ranges`; static only.
        bit_exact: static only: x86 and Arm give the same bits. Sums of two tensors stay in floating point, because ONNX
            Runtime's integer kernel for them rounds otherwise on Arm (see `_without_integer_sums`).
    """

    method: str
    per_channel: bool = True
    weights: str = "int8"
    activations: str = "uint8"
    operators: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    exclude_operators: tuple[str, ...] = ()
    block_size: int = 32
    symmetric: bool = True
    optimise: bool = False
    percentile: float | None = None
    bit_exact: bool = False


def quantise(
    source: bytes,
    how: Quantisation,
    *,
    calibration: Dataset | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Quantise an ONNX model.

    Args:
        source: the float model.
        how: the method and its settings.
        calibration: needed for ``static``.
        progress: told what is going on.

    Raises:
        ModelError: the source is no valid ONNX model, or the quantiser cannot handle it.
        RecipeError: an operator type or a node name in `how` does not exist.
    """
    model = prepared(source, how)
    _check_names(model, how)
    kept = {node.name for node in model.graph.node if node.op_type in how.exclude_operators}
    how = dataclasses.replace(how, exclude=tuple(sorted({*how.exclude, *kept})))
    if how.method == "static":
        if calibration is None:
            raise RecipeError("static quantisation needs a calibration set")
        ranges = tensor_ranges(model, calibration, percentile=how.percentile, progress=progress)
        progress("quantising: static, QDQ form")
        quantised = _static(model, how, ranges)
    elif how.method == "dynamic":
        progress("quantising: dynamic")
        quantised = _dynamic(model, how)
    elif how.method == "fp16":
        progress("converting to half precision")
        quantised = half_precision(model, exclude=how.exclude, exclude_operators=how.exclude_operators)
    elif how.method == "int4":
        progress(f"quantising: 4-bit weights in blocks of {how.block_size}")
        quantised = four_bits(model, block_size=how.block_size, symmetric=how.symmetric, exclude=how.exclude)
    elif how.method == "none":
        quantised = model
    else:
        raise ValueError(f"unknown method {how.method!r}")
    return canonical(quantised)


def prepared(source: bytes, how: Quantisation) -> Any:
    """The graph that is quantised: optimised if that is asked for, with shapes, every node with a name of its own.

    Quantisers know nodes by their names, and some exporters give none: all nodes without one would be excluded and
    counted as if they were one. Such a node gets its type and its place among those of its type.

    Raises:
        ModelError: the source is no valid ONNX model, or cannot be optimised.
    """
    try:
        model = onnx.load_model_from_string(_optimised(source) if how.optimise else source)
        onnx.checker.check_model(model)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as problem:  # its decoder and its checker raise errors without a common base
        raise ModelError(f"the source is no valid ONNX model: {' '.join(str(problem).split()):.200}") from problem
    taken = {node.name for node in model.graph.node}
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        while not node.name:
            name = f"{node.op_type}_{counts[node.op_type]}"
            counts[node.op_type] += 1
            if name not in taken:
                node.name = name
    if how.bit_exact:
        _without_integer_sums(model)
    return model


def _without_integer_sums(model: Any) -> None:
    """Write every ``Add`` as a ``Sum`` of two: it means the same, and is summed in floating point also when quantised.

    ONNX Runtime fuses DequantizeLinear, Add and QuantizeLinear to QLinearAdd, whoever has put them there. On x86 that
    is computed in float32 with fused multiply-add, on Arm with 22-bit integer multipliers (onnxruntime/core/mlas/lib,
    intrinsics/avx2/qladd_avx2.cpp and qladd.cpp), so that one result in some thousands is a step apart. ``Sum`` is
    fused with nothing, and one addition of floats rounds alike everywhere.
    """
    for node in model.graph.node:
        if node.op_type == "Add" and node.domain in {"", "ai.onnx"}:
            node.op_type = "Sum"


def _optimised(source: bytes) -> bytes:
    """What ONNX Runtime makes of a graph at level *basic*: rewritings that any runtime understands.

    Raises:
        ModelError: the source does not load.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="edgehil-build-") as directory:
        written = Path(directory) / "optimised.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(written)
        try:
            onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # ONNX Runtime's errors share no base either
            raise ModelError(f"the source cannot be optimised: {' '.join(str(problem).split()):.200}") from problem
        return written.read_bytes()


def _static(model: Any, how: Quantisation, ranges: dict[str, tuple[float, float]]) -> Any:
    data = TensorsData(CalibrationMethod.MinMax, as_float32(ranges))
    try:
        quantiser = QDQQuantizer(
            model,
            how.per_channel,
            False,  # reduce_range: 7-bit weights are for x86 CPUs without VNNI only
            _TYPES[how.weights],
            _TYPES[how.activations],
            data,
            [],
            list(how.exclude),
            list(how.operators) or sorted({*QDQRegistry, *QLinearOpsRegistry}),
            {},
        )
        quantiser.quantize_model()
    except Exception as problem:  # plain ValueErrors and RuntimeErrors with long texts
        raise ModelError(f"the static quantiser gave up: {' '.join(str(problem).split()):.200}") from problem
    return quantiser.model.model


def _dynamic(model: Any, how: Quantisation) -> Any:
    try:
        quantiser = ONNXQuantizer(
            model,
            how.per_channel,
            False,  # reduce_range: see above
            QuantizationMode.IntegerOps,
            False,  # static
            _TYPES[how.weights],
            QuantType.QUInt8,  # the only type of activation that DynamicQuantizeLinear gives
            None,
            [],
            list(how.exclude),
            list(how.operators) or sorted(IntegerOpsRegistry),
            {"MatMulConstBOnly": True},  # as ONNX Runtime's own quantize_dynamic does
        )
        quantiser.quantize_model()
    except Exception as problem:  # see above
        raise ModelError(f"the dynamic quantiser gave up: {' '.join(str(problem).split()):.200}") from problem
    return quantiser.model.model


def _check_names(model: Any, how: Quantisation) -> None:
    """Refuse names that would silently be ignored: a typo there would quantise what must not be."""
    names = {node.name for node in model.graph.node}
    for name in how.exclude:
        if name not in names:
            raise RecipeError(f"exclude: the model has no node {name!r}")
    kinds = {node.op_type for node in model.graph.node}
    for field, listed in (("operators", how.operators), ("exclude_operators", how.exclude_operators)):
        for kind in listed:
            if kind not in kinds:
                raise RecipeError(f"{field}: the model has no {kind!r}; it has {', '.join(sorted(kinds))}")


def canonical(model: Any) -> bytes:
    """The bytes of an ONNX model in one order, without notes of the tools that made it.

    Nodes: topological, ties by name. Initializers, attributes, opsets: by name. No value_info, no metadata.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes = _ordered(list(graph.node), {one.name for one in graph.input} | {one.name for one in graph.initializer})
    for node in nodes:
        attributes = sorted(node.attribute, key=lambda one: str(one.name))
        del node.attribute[:]
        node.attribute.extend(attributes)
        node.doc_string = ""
        del node.metadata_props[:]
    initializers = sorted(graph.initializer, key=lambda one: str(one.name))
    opsets = sorted(result.opset_import, key=lambda one: (str(one.domain), int(one.version)))
    for field, ordered in ((graph.node, nodes), (graph.initializer, initializers), (result.opset_import, opsets)):
        copies = [type(one).FromString(one.SerializeToString(deterministic=True)) for one in ordered]
        del field[:]
        field.extend(copies)
    for noise in (graph.value_info, graph.metadata_props, result.metadata_props):
        del noise[:]
    result.producer_name, result.producer_version, result.doc_string, graph.doc_string = PRODUCER, "", "", ""
    return bytes(result.SerializeToString(deterministic=True))


def _ordered(nodes: list[Any], available: set[str]) -> list[Any]:
    """Kahn's algorithm with a heap, so that the order depends on names and edges only."""
    made_by = {name: at for at, node in enumerate(nodes) for name in node.output if name}
    waiting: dict[int, int] = {}
    users: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(nodes):
        # an operator with a body (If, Loop) also reads what its body reads
        needs = {made_by[name] for name in _reads(node) if name in made_by and name not in available}
        waiting[at] = len(needs)
        for other in needs:
            users[other].append(at)

    def key(at: int) -> tuple[str, str, str, int]:
        node = nodes[at]
        return str(node.name), str(node.op_type), ",".join(node.output), at

    ready = [key(at) for at, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        at = heapq.heappop(ready)[3]
        order.append(nodes[at])
        for user in users[at]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, key(user))
    if len(order) != len(nodes):
        raise ModelError("the quantised graph has a cycle")
    return order


def _reads(node: Any) -> set[str]:
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                names |= _reads(inner)
            names |= {one.name for one in body.output}
    return names
