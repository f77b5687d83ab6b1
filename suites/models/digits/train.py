"""Train the digits CNN and write the files that lie beside this script. No part of any set-up: they are committed.

    python -m venv /tmp/training && /tmp/training/bin/pip install torch scikit-learn onnx
    /tmp/training/bin/python suites/models/digits/train.py

Writes digits-fp32.onnx, calibration.npz, calibration-dim.npz and heldout.npz. The 1797 images are dealt once, by
class and with a fixed seed, into training, calibration and held-out items; no item is in two of them.

The network is a small residual CNN that works on the image doubled to 16 x 16 with two pixels of margin and keeps
that resolution, so that one inference costs a millisecond or two on one core: enough for a latency to be measured
well. Batch normalisation is folded into the convolutions, and the graph is written with onnx.helper: opset 17, fixed
shapes, no exporter's quirks.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

SEED = 20261
CHANNELS = 64
BLOCKS = 6
HELDOUT = 600
CALIBRATION = 200
OPSET = 17


class Block(nn.Module):
    """Two 3 x 3 convolutions and the way around them, (n, c, h, w) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output for x."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(y)))


class Net(nn.Module):
    """Doubling, stem, blocks, pooling, one linear layer: (n, 1, 8, 8) in [0, 1] to (n, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=3, bias=False)  # padding 3: 16 x 16 becomes 20 x 20
        self.stem_norm = nn.BatchNorm2d(CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(CHANNELS * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) to (n, 10)."""
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        x = functional.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(functional.avg_pool2d(x, 5).flatten(1))


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal item numbers into training, calibration and held-out, the classes evenly."""
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(labels))
    # stable sort by class keeps the shuffled order inside a class; taking every k-th deals the classes evenly
    by_class = order[np.argsort(labels[order], kind="stable")]
    slots = np.linspace(0, len(labels), HELDOUT + CALIBRATION, endpoint=False).astype(int)
    taken = by_class[slots]
    heldout = np.sort(np.delete(taken, np.arange(0, len(taken), 4)))
    calibration = np.sort(taken[::4])
    training = np.setdiff1d(np.arange(len(labels)), taken)
    assert len({*training, *heldout, *calibration}) == len(training) + len(heldout) + len(calibration)
    return training, calibration, heldout


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random shifts, rotations, scalings and noise, as different writers and scanners give."""
    n = len(images)

    def uniform(width: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * width

    angle, scale = uniform(0.2), 1 + uniform(0.12)
    theta = torch.stack(
        [
            torch.stack([scale * torch.cos(angle), -torch.sin(angle), uniform(0.16)], 1),
            torch.stack([torch.sin(angle), scale * torch.cos(angle), uniform(0.16)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return (moved + 0.04 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def train(images: np.ndarray, labels: np.ndarray, *, epochs: int) -> Net:
    """Train on (n, 1, 8, 8) images; prints the loss now and then."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    generator = torch.Generator().manual_seed(SEED)
    net = Net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=5e-3)
    steps = epochs * (len(images) // 100 + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(x), generator=generator)
        total = 0.0
        for chosen in torch.chunk(order, len(images) // 100 + 1):
            loss = functional.cross_entropy(net(augmented(x[chosen], generator)), y[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1:3d}/{epochs}  loss {total / len(x):.4f}", flush=True)
    return net.eval()


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of a convolution with its batch normalisation folded in (in double precision)."""
    gain = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * gain[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * gain
    return weight.detach().numpy().astype(np.float32), bias.detach().numpy().astype(np.float32)


def exported(net: Net) -> onnx.ModelProto:
    """The trained network as an ONNX graph: image (1, 1, 8, 8) to logits (1, 10)."""
    nodes, weights = [], []

    def constant(name: str, value: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def conv(name: str, source: str, layer: nn.Conv2d, norm: nn.BatchNorm2d) -> str:
        weight, bias = folded(layer, norm)
        inputs = [source, constant(f"{name}.weight", weight), constant(f"{name}.bias", bias)]
        pads = [int(side) for side in layer.padding] * 2
        nodes.append(helper.make_node("Conv", inputs, [f"{name}.out"], name=name, kernel_shape=[3, 3], pads=pads))
        return f"{name}.out"

    def simple(kind: str, name: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    doubled = constant("double.scales", np.array([1, 1, 2, 2], dtype=np.float32))
    resize = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    x = simple("Resize", "double", "image", "", doubled, **resize)
    x = simple("Relu", "stem.relu", conv("stem.conv", x, net.stem, net.stem_norm))
    for at, block in enumerate(net.blocks):
        assert isinstance(block, Block)
        name = f"block{at}"
        y = simple("Relu", f"{name}.relu1", conv(f"{name}.conv1", x, block.conv1, block.norm1))
        y = conv(f"{name}.conv2", y, block.conv2, block.norm2)
        x = simple("Relu", f"{name}.relu2", simple("Add", f"{name}.add", x, y))
    x = simple("AveragePool", "pool", x, kernel_shape=[5, 5], strides=[5, 5])
    x = simple("Flatten", "flatten", x, axis=1)
    head = [
        x,
        constant("head.weight", net.head.weight.detach().numpy()),
        constant("head.bias", net.head.bias.detach().numpy()),
    ]
    nodes.append(helper.make_node("Gemm", head, ["logits"], name="head", transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="edgehil-digits", ir_version=8
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """numpy's npz without time stamps, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(arrays):
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data.getvalue())


def main() -> None:
    """Train, export, save."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--epochs", type=int, default=40)
    options.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = options.parse_args()

    digits = load_digits()
    images = (digits.images / 16.0).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    training, calibration, heldout = split(labels)
    print(f"{len(training)} training, {len(calibration)} calibration, {len(heldout)} held-out items")
    net = train(images[training], labels[training], epochs=chosen.epochs)
    with torch.no_grad():
        for name, items in (("training", training), ("held-out", heldout)):
            right = (net(torch.from_numpy(images[items])).argmax(1).numpy() == labels[items]).mean()
            print(f"accuracy on {name}: {right:.4f}")

    onnx.save(exported(net), chosen.out / "digits-fp32.onnx")
    save_npz(chosen.out / "calibration.npz", image=images[calibration], labels=labels[calibration])
    # the same items as from a scanner at a quarter of its brightness: what must never calibrate (see digits-bad.yaml)
    save_npz(chosen.out / "calibration-dim.npz", image=images[calibration] / 4, labels=labels[calibration])
    save_npz(chosen.out / "heldout.npz", image=images[heldout], labels=labels[heldout])


if __name__ == "__main__":
    main()
