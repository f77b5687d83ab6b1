"""Networks as they are exported, of a few megabytes, and what happens to them between two releases.

The weights are drawn; names, layouts and operators are those of PyTorch's exporter, `onnxruntime.quantization` and
hand-written graphs: convolutions in QDQ and QOperator form, depthwise ones too, transformers with ``onnx::MatMul_…``,
LSTMs, 4-bit MatMulNBits, fp16, typed data instead of raw data, Constant nodes, a branch with weights of its own.
A network is described in float and written in one of these ways, so that fine-tuning is done where it is done in
earnest: before quantising.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]


class Form(enum.StrEnum):
    """How weights are written."""

    QDQ = "qdq"  # int8 per channel, float32 scales, int8 zero points, int32 biases
    QOPERATOR = "qoperator"  # the same numbers, initialisers grouped as onnxruntime's quantiser leaves them
    PER_TENSOR = "per tensor"
    INT4 = "int4"  # MatMulNBits: blocks of 32, float32 scales
    FP16 = "fp16"
    FP32 = "fp32"
    FLOAT_DATA = "float_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A weight, shape (out, …), and its bias, shape (out,)."""

    name: str
    weight: Array
    bias: Array | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """A network: layers in order, and what its file looks like."""

    layers: tuple[Layer, ...]
    form: Form
    note: str = "first"
    opset: int = 17
    constants: bool = False
    branch: bool = False


def _layer(draw: np.random.Generator, name: str, *shape: int, bias: bool = True) -> Layer:
    spread = 1 / np.sqrt(np.prod(shape[1:]))
    weight = draw.normal(scale=spread, size=shape).astype(np.float32)
    return Layer(
        name=name, weight=weight, bias=draw.normal(scale=0.1, size=shape[0]).astype(np.float32) if bias else None
    )


def resnet(form: Form, seed: int = 1) -> Net:
    """3×3 and 1×1 convolutions in stages, a classifier: 5.5 M weights."""
    draw, layers, before = np.random.default_rng(seed), [], 3
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2 if width < 512 else 1):
            layers.append(_layer(draw, f"layer{stage}.{block}.conv1.weight", width, before, 3, 3))
            layers.append(_layer(draw, f"layer{stage}.{block}.conv2.weight", width, width, 3, 3))
            if before != width:
                layers.append(_layer(draw, f"layer{stage}.{block}.downsample.0.weight", width, before, 1, 1))
            before = width
    layers.append(_layer(draw, "fc.weight", 1000, 512))
    return Net(layers=tuple(layers), form=form)


def mobilenet(form: Form, seed: int = 2) -> Net:
    """Depthwise and pointwise convolutions: 3.3 M weights, many small tensors."""
    draw, layers, before = np.random.default_rng(seed), [], 32
    for number, width in enumerate((64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024)):
        layers.append(_layer(draw, f"features.{number}.0.0.weight", before, 1, 3, 3))
        layers.append(_layer(draw, f"features.{number}.1.0.weight", width, before, 1, 1))
        before = width
    layers.append(_layer(draw, "classifier.1.weight", 1000, 1024))
    return Net(layers=tuple(layers), form=form)


def bert(form: Form, seed: int = 3) -> Net:
    """An embedding, and blocks of attention and a wide layer each, as PyTorch exports MatMuls: 7.3 M weights."""
    draw, wide = np.random.default_rng(seed), 256
    layers = [_layer(draw, "bert.embeddings.word_embeddings.weight", 10_000, wide, bias=False)]
    at = 1024
    for _ in range(6):
        for shape in ((wide, wide),) * 4 + ((4 * wide, wide), (wide, 4 * wide)):
            layers.append(_layer(draw, f"onnx::MatMul_{at}", *shape))
            at += 3
    layers.append(_layer(draw, "classifier.weight", 10, wide))
    return Net(layers=tuple(layers), form=form)


def mlp(form: Form, seed: int = 4) -> Net:
    """Square matrices of 256: as many scales and biases as there can be."""
    draw = np.random.default_rng(seed)
    return Net(layers=tuple(_layer(draw, f"net.{number}.weight", 256, 256) for number in range(48)), form=form)


def lstm(form: Form, seed: int = 5) -> Net:
    """Two recurrent layers and a projection: 4.7 M weights."""
    draw, hidden = np.random.default_rng(seed), 512
    return Net(
        layers=(
            _layer(draw, "lstm.weight_ih_l0", 4 * hidden, 80),
            _layer(draw, "lstm.weight_hh_l0", 4 * hidden, hidden),
            _layer(draw, "lstm.weight_ih_l1", 4 * hidden, hidden),
            _layer(draw, "lstm.weight_hh_l1", 4 * hidden, hidden),
            _layer(draw, "projection.weight", 2000, hidden),
        ),
        form=form,
    )


# --- what happens to them ----------------------------------------------------------------------------


def tuned(net: Net, noise: float, seed: int = 77) -> Net:
    """Every value moved by `noise` of the spread of its tensor."""
    draw = np.random.default_rng(seed)

    def moved(values: Array) -> Array:
        return values + (noise * values.std() * draw.normal(size=values.shape)).astype(np.float32)

    return _with(net, [
        dataclasses.replace(one, weight=moved(one.weight), bias=None if one.bias is None else moved(one.bias))
        for one in net.layers
    ])  # fmt: skip


def renamed(net: Net) -> Net:
    """Other names, all of them."""
    return _with(
        net, [dataclasses.replace(one, name=f"onnx::Gemm_{3 * at + 411}") for at, one in enumerate(net.layers)]
    )


def reordered(net: Net) -> Net:
    """Last initialiser first."""
    return _with(net, net.layers[::-1])


def with_a_layer_more(net: Net) -> Net:
    """In the middle; the layers behind it are renumbered."""
    at = len(net.layers) // 2
    new = _layer(np.random.default_rng(9), "new.weight", 128, 128)
    return _with(net, [*net.layers[:at], new, *net.layers[at:]])


def with_a_layer_less(net: Net) -> Net:
    """One of the middle."""
    at = len(net.layers) // 2
    return _with(net, [*net.layers[:at], *net.layers[at + 1 :]])


def with_rows_more(net: Net, at: int, rows: int) -> Net:
    """Further words or classes."""
    old = net.layers[at]
    new = _layer(np.random.default_rng(10), old.name, rows, *old.weight.shape[1:], bias=old.bias is not None)
    bias = None if old.bias is None or new.bias is None else np.concatenate([old.bias, new.bias])
    grown = dataclasses.replace(old, weight=np.concatenate([old.weight, new.weight]), bias=bias)
    layers = list(net.layers)
    layers[at] = grown
    return _with(net, layers)


def with_another_last_layer(net: Net) -> Net:
    """Trained anew."""
    old = net.layers[-1]
    new = _layer(np.random.default_rng(11), old.name, *old.weight.shape, bias=old.bias is not None)
    return _with(net, [*net.layers[:-1], new])


def _with(net: Net, layers: Sequence[Layer]) -> Net:
    return dataclasses.replace(net, layers=tuple(layers))


# --- how they are written ----------------------------------------------------------------------------


def written(net: Net) -> bytes:
    """An ONNX file."""
    tensors: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    value = "input"
    for number, one in enumerate(net.layers):
        inputs = _FORMS[net.form](one, tensors)
        out = f"/{one.name.rpartition('.')[0] or one.name}/output_{number}"
        nodes.append(helper.make_node("Layer", [value, *inputs], [out], name=out[:-2], domain="net", number=number))
        value = out
    if net.form is Form.QOPERATOR:  # as the quantiser leaves them: by kind, not by layer
        tensors.sort(key=lambda one: (len(one.dims) < 2, one.data_type))
    if net.constants:
        nodes[:0] = [helper.make_node("Constant", [], [one.name], value=one) for one in tensors]
        tensors = []
    if net.branch:
        nodes, tensors = _branched(nodes, tensors, value)
        value = "output"
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", net.opset), helper.make_opsetid("net", 1)]
    made = helper.make_model(graph, producer_name=net.note, opset_imports=opsets)
    helper.set_model_props(made, {"note": net.note})
    data: bytes = made.SerializeToString()
    return data


def _branched(
    nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], value: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """All of it is one branch of an If, the other one does nothing."""
    out = [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)]
    then = helper.make_graph(nodes, "then", [], out, tensors)
    other = helper.make_graph([helper.make_node("Identity", ["input"], [value])], "else", [], out)
    condition = numpy_helper.from_array(np.array(True), "condition")
    return [helper.make_node("If", ["condition"], ["output"], then_branch=then, else_branch=other)], [condition]


def _quantised(weight: Array, *, per_channel: bool) -> tuple[npt.NDArray[np.int8], Array]:
    flat = np.abs(weight.reshape(weight.shape[0], -1))
    scale = (flat.max(axis=1) if per_channel else np.full(1, flat.max())) / np.float32(127)
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return np.clip(np.round(weight / shaped), -127, 127).astype(np.int8), scale.astype(np.float32)


def _int8(layer: Layer, tensors: list[onnx.TensorProto], *, per_channel: bool = True) -> list[str]:
    values, scale = _quantised(layer.weight, per_channel=per_channel)
    parts: list[tuple[str, npt.NDArray[np.generic]]] = [
        ("quantized", values),
        ("scale", scale),
        ("zero_point", np.zeros(scale.shape, dtype=np.int8)),
    ]
    if layer.bias is not None:
        parts.append(("bias_quantized", np.round(layer.bias / (scale * np.float32(0.02))).astype(np.int32)))
    return _kept(layer, parts, tensors)


def _int4(layer: Layer, tensors: list[onnx.TensorProto]) -> list[str]:
    flat = layer.weight.reshape(layer.weight.shape[0], -1)
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 32))).reshape(flat.shape[0], -1, 32)
    scale = np.maximum(np.abs(padded).max(axis=2), np.float32(1e-8)) / np.float32(7)
    nibbles = (np.round(padded / scale[..., None]) + 8).astype(np.uint8)
    packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    parts: list[tuple[str, npt.NDArray[np.generic]]] = [("B", packed), ("scales", scale.astype(np.float32))]
    return _kept(layer, parts, tensors)


def _float(layer: Layer, tensors: list[onnx.TensorProto], *, kind: type[np.floating] = np.float32) -> list[str]:
    parts: list[tuple[str, npt.NDArray[np.generic]]] = [("", layer.weight.astype(kind))]
    if layer.bias is not None:
        parts.append(("bias", layer.bias.astype(kind)))
    return _kept(layer, parts, tensors)


def _typed(layer: Layer, tensors: list[onnx.TensorProto]) -> list[str]:
    """``float_data`` instead of ``raw_data``."""
    values = layer.weight.ravel().tolist()
    tensors.append(helper.make_tensor(layer.name, TensorProto.FLOAT, layer.weight.shape, values))
    return [layer.name]


def _kept(
    layer: Layer, parts: Sequence[tuple[str, npt.NDArray[np.generic]]], tensors: list[onnx.TensorProto]
) -> list[str]:
    names = [f"{layer.name}_{part}" if part else layer.name for part, _ in parts]
    tensors += [numpy_helper.from_array(values, name) for name, (_, values) in zip(names, parts, strict=True)]
    return names


_FORMS: Mapping[Form, Callable[[Layer, list[onnx.TensorProto]], list[str]]] = {
    Form.QDQ: _int8,
    Form.QOPERATOR: _int8,
    Form.PER_TENSOR: lambda layer, tensors: _int8(layer, tensors, per_channel=False),
    Form.INT4: _int4,
    Form.FP16: lambda layer, tensors: _float(layer, tensors, kind=np.float16),
    Form.FP32: _float,
    Form.FLOAT_DATA: _typed,
}
