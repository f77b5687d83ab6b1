"""Train the small perceptron that the parity suite runs beside the CNN. No part of any set-up: its file is committed.

    python suites/models/digits/train_mlp.py

Needs numpy and onnx only (``pip install -e .[build]``). It is trained on the 200 calibration items, moved about and
with noise: it is there to be computed alike on two kinds of CPU, not to read well. No held-out item is looked at.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
SEED = 20262
SIZES = (64, 64, 32, 10)
STEPS, BATCH, RATE = 4000, 64, 2e-3
Float = npt.NDArray[np.float64]


def moved(images: Float, rng: np.random.Generator) -> Float:
    """Each of (n, 8, 8) shifted by up to a pixel either way, with noise."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    shifts = rng.integers(0, 3, (len(images), 2))
    cut = np.stack([one[y : y + 8, x : x + 8] for one, (y, x) in zip(padded, shifts, strict=True)])
    return np.clip(cut + 0.05 * rng.standard_normal(cut.shape), 0, 1)


def train(images: Float, labels: npt.NDArray[np.int64]) -> list[tuple[Float, Float]]:
    """Weights (in, out) and biases of each layer, by Adam on the cross entropy."""
    rng = np.random.default_rng(SEED)
    layers = [(rng.standard_normal((a, b)) * np.sqrt(2 / a), np.zeros(b)) for a, b in pairwise(SIZES)]
    flat = [array for layer in layers for array in layer]
    first, second = [np.zeros_like(one) for one in flat], [np.zeros_like(one) for one in flat]
    for step in range(1, STEPS + 1):
        chosen = rng.integers(0, len(images), BATCH)
        values = [moved(images[chosen], rng).reshape(BATCH, 64)]
        for weights, bias in layers[:-1]:
            values.append(np.maximum(values[-1] @ weights + bias, 0))
        logits = values[-1] @ layers[-1][0] + layers[-1][1]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope = shares / shares.sum(axis=1, keepdims=True)
        slope[np.arange(BATCH), labels[chosen]] -= 1
        slope /= BATCH
        slopes: list[Float] = []
        for number in reversed(range(len(layers))):
            slopes[:0] = [values[number].T @ slope, slope.sum(axis=0)]
            slope = (slope @ layers[number][0].T) * (values[number] > 0)
        for one, found, mean, square in zip(flat, slopes, first, second, strict=True):
            mean[:] = 0.9 * mean + 0.1 * found
            square[:] = 0.999 * square + 0.001 * found**2
            one[:] = one - RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return layers


def written(layers: list[tuple[Float, Float]]) -> onnx.ModelProto:
    """As ONNX: ``image`` float32 (1, 1, 8, 8) → ``logits`` float32 (1, 10)."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat.out"], name="flat")]
    stored, last = [], "flat.out"
    for number, (weights, bias) in enumerate(layers, start=1):
        ends = number == len(layers)
        stored.append(numpy_helper.from_array(weights.astype(np.float32), f"fc{number}.weight"))
        stored.append(numpy_helper.from_array(bias.astype(np.float32), f"fc{number}.bias"))
        out = "logits" if ends else f"fc{number}.out"
        inputs = [last, f"fc{number}.weight", f"fc{number}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [out], name=f"fc{number}"))
        if not ends:
            last = f"relu{number}.out"
            nodes.append(helper.make_node("Relu", [out], [last], name=f"relu{number}"))
    graph = helper.make_graph(
        nodes,
        "digits-mlp",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        stored,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="edgehil-digits", ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write digits-mlp-fp32.onnx."""
    items = np.load(HERE / "calibration.npz")
    layers = train(items["image"][:, 0].astype(np.float64), items["labels"])
    (HERE / "digits-mlp-fp32.onnx").write_bytes(written(layers).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
