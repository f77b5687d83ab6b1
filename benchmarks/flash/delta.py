"""What an update costs as a delta, against compressing the whole with bz2, or ``zstd --patch-from`` where it is there.

A model of int8 weights (per channel, as `edgehil build` quantises) is changed as models change: its last layer is
trained anew (2 % of the bytes), its metadata changes its length, all of it is fine-tuned (0.1 % and 1 % of noise in
the weights before quantising), and fine-tuned with all tensors renamed and in another order. Then networks of a few
megabytes, each in the ways that exporters and quantisers write them, and changed in more ways: see `networks`. Each
delta is applied by the board's own code, and the result compared byte by byte. The memory is that of the board's
process while it applies the delta, the time of applying includes its start.

    python benchmarks/flash/delta.py [--json] [--quick] [--megabytes 100]
"""

from __future__ import annotations

import bz2
import dataclasses
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import networks
import numpy as np
import numpy.typing as npt
import onnx
from networks import Form, Net
from onnx import TensorProto, helper, numpy_helper
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.delta.create import create
from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.model.artifact import Artifact

LAYERS = 49
"""Of equal size, so that the last one has 2 % of the bytes."""

APPLY = """
import os, re, runpy, sys
sys.argv, os._exit = sys.argv[1:], sys.exit
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""

Weights = list[npt.NDArray[np.float32]]
Files = Mapping[str, bytes]
MEGABYTES_64 = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One change: `budget` is the share of the bytes that it may cost; None: nobody has said."""

    name: str
    budget: float | None
    old: Files
    new: Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one delta cost."""

    share: float
    peer_share: float
    create_s: float
    apply_s: float
    apply_peak_bytes: int


def weights(megabytes: float, *, seed: int) -> Weights:
    """So many megabytes once they are int8."""
    width = 1024
    rows = max(16, int(megabytes * 1e6 / width / LAYERS))
    draw = np.random.default_rng(seed)
    return [draw.normal(scale=0.02, size=(rows, width)).astype(np.float32) for _ in range(LAYERS)]


def tuned(old: Weights, *, noise: float, seed: int) -> Weights:
    """Every weight moved by `noise` of the layer's own spread."""
    draw = np.random.default_rng(seed)
    return [one + (noise * one.std() * draw.normal(size=one.shape)).astype(np.float32) for one in old]


def model(layers: Weights, *, note: str = "first", names: str = "layer") -> bytes:
    """An ONNX file with int8 weights and a scale for each channel."""
    tensors, nodes = [], []
    for number, one in enumerate(layers):
        scale = np.abs(one).max(axis=1, keepdims=True) / 127
        tensors.append(numpy_helper.from_array(np.round(one / scale).astype(np.int8), f"{names}{number}.weight"))
        tensors.append(numpy_helper.from_array(scale[:, 0].astype(np.float32), f"{names}{number}.scale"))
        nodes.append(helper.make_node("Identity", [f"{names}{number}.weight"], [f"out{number}"]))
    graph = helper.make_graph(
        nodes, "net", [], [helper.make_tensor_value_info("out0", TensorProto.INT8, None)], tensors
    )
    made = helper.make_model(graph, producer_name=note, opset_imports=[helper.make_opsetid("", 17)])
    onnx.helper.set_model_props(made, {"note": note})
    data: bytes = made.SerializeToString()
    return data


def layered(megabytes: float) -> Iterator[Case]:
    """The cases of a model of equal layers."""
    first = weights(megabytes, seed=1)
    old = files(model(first))
    last = [*first[:-1], weights(megabytes, seed=2)[-1]]
    longer = model(first, note="the second one, with more to say")
    yield Case(name="last layer trained anew", budget=0.021, old=old, new=files(model(last)))
    yield Case(name="metadata of another length", budget=0.0015, old=old, new=files(longer))
    for noise, budget in ((0.001, 0.05), (0.01, 0.20)):
        new = files(model(tuned(first, noise=noise, seed=int(3000 * noise))))
        yield Case(name=f"fine-tuned, {100 * noise:g} % noise", budget=budget, old=old, new=new)
    other = model(tuned(first, noise=0.001, seed=5)[::-1], names="onnx::")
    yield Case(name="renamed, reordered, 0.1 % noise", budget=0.05, old=old, new=files(other))


def exported() -> Iterator[Case]:
    """The cases of networks as they are exported."""
    for make in (networks.mlp, networks.resnet, networks.mobilenet, networks.bert, networks.lstm):
        for form in (Form.QDQ, Form.QOPERATOR, Form.PER_TENSOR):
            net = make(form)
            for noise, budget in ((0.001, 0.05), (0.01, 0.20)):
                name = f"{make.__name__}, {form}, {100 * noise:g} %"
                yield changed(name, budget, net, networks.tuned(net, noise))
    net = networks.bert(Form.QDQ)
    moved = networks.tuned(net, 0.001)
    yield changed("bert: renamed, reordered, 0.1 %", 0.05, net, networks.reordered(networks.renamed(moved)))
    yield changed("bert: a layer more, 0.1 %", 0.05, net, networks.with_a_layer_more(moved))
    yield changed("bert: a layer less, 0.1 %", 0.05, net, networks.with_a_layer_less(moved))
    yield changed("bert: 50 words more, 0.1 %", 0.05, net, networks.with_rows_more(moved, 0, 50))
    yield changed("bert: the last layer anew", 0.021, net, networks.with_another_last_layer(net))
    noted = dataclasses.replace(net, note="a longer one", opset=18)
    yield changed("bert: note and opset", 0.0015, net, noted)
    for name, written in {"constants": {"constants": True}, "in a branch": {"branch": True}}.items():
        was = dataclasses.replace(net, **written)
        yield changed(f"bert: {name}, 0.1 %", 0.05, was, networks.tuned(was, 0.001))
        yield changed(f"bert: now {name}, 0.1 %", 0.05, net, dataclasses.replace(moved, **written))
    old, new = networks.written(net), networks.written(moved)
    yield Case(name="bert: external data, 0.1 %", budget=0.05, old=external(old), new=external(new))
    yield Case(name="bert: now external data, 0.1 %", budget=0.05, old=files(old), new=external(new))
    net = networks.resnet(Form.QDQ)
    grown = networks.with_rows_more(networks.tuned(net, 0.001), -1, 10)
    yield changed("resnet: 10 classes more, 0.1 %", 0.05, net, grown)
    for form in (Form.INT4, Form.FP16, Form.FP32, Form.FLOAT_DATA):
        net = networks.bert(form) if form in {Form.INT4, Form.FP16} else networks.lstm(form)
        for noise in (0.001, 0.01):
            yield changed(f"{form}, {100 * noise:g} %", None, net, networks.tuned(net, noise))


def changed(name: str, budget: float | None, old: Net, new: Net) -> Case:
    """A network that has become another one."""
    return Case(name=name, budget=budget, old=files(networks.written(old)), new=files(networks.written(new)))


def files(data: bytes) -> Files:
    """Of a bundle with one model."""
    return {"model.onnx": data, "labels.txt": b"a"}


def external(data: bytes) -> Files:
    """The same with its weights in a file of their own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        onnx.save_model(
            onnx.load_from_string(data), path, save_as_external_data=True, location="weights.bin", size_threshold=1024
        )
        return {one.name: one.read_bytes() for one in path.parent.iterdir()}


def packed(directory: Path, content: Files, version: str) -> Artifact:
    """As a bundle."""
    return pack(manifest(version=version), dict(content), directory)


def measure(directory: Path, old: Artifact, new: Artifact) -> Found:
    """Make the delta, have the board's code apply it, compare."""
    started = time.perf_counter()
    delta = create(new, [old])
    create_s = time.perf_counter() - started
    if delta is None:
        raise SystemExit(f"{new.path}: cannot be made by a delta")
    home = directory / f"board-{new.digest[7:15]}"
    (home / "bin").mkdir(parents=True)
    (home / "store/sha256").mkdir(parents=True)
    shutil.copy(old.path, home / "store/sha256" / old.digest[7:])
    content, name = onboard_zipapp()
    program = home / "bin" / f"onboard-{name}.pyz"
    program.write_bytes(content)
    pushed = home / "pushed"
    with pushed.open("wb") as out:
        out.write(json.dumps({"what": "delta"}).encode() + b"\n")
        for piece in delta.pieces():
            out.write(struct.pack(">BII", 0, len(piece), len(piece)) + piece)
        out.write(struct.pack(">BII", 2, 0, 0))
    argv = ["sink", "--token", "1", "--holder", "me", "--digest", new.digest, "--size", str(new.size_bytes)]
    started = time.perf_counter()
    with pushed.open("rb") as source:
        done = subprocess.run(
            ["python3", "-S", "-E", "-c", APPLY, str(program), *argv], stdin=source, capture_output=True, check=True
        )
    apply_s = time.perf_counter() - started
    if (home / "store/sha256" / new.digest[7:]).read_bytes() != new.path.read_bytes():
        raise SystemExit(f"{new.label}: the board made something else of the delta")
    found = Found(
        share=delta.share,
        peer_share=peer_bytes(directory, old, new) / new.size_bytes,
        create_s=create_s,
        apply_s=apply_s,
        apply_peak_bytes=int(done.stdout.splitlines()[-1]) * 1024,
    )
    shutil.rmtree(home)
    return found


def peer_name() -> str:
    """Who stands beside ours."""
    return "zstd --patch-from" if shutil.which("zstd") else "bz2 of the whole"


def peer_bytes(directory: Path, old: Artifact, new: Artifact) -> int:
    """What the peer would send."""
    if not shutil.which("zstd"):
        return len(bz2.compress(new.path.read_bytes()))
    out = directory / "peer.zst"
    argv = ["zstd", "-q", "-f", "--long=31", f"--patch-from={old.path}", str(new.path), "-o", str(out)]
    subprocess.run(argv, check=True)
    return out.stat().st_size


def main() -> int:
    """Runs the benchmark."""
    parser = bench.parser(__doc__)
    parser.add_argument("--megabytes", type=float, default=100)
    arguments = parser.parse_args()
    megabytes = 8.0 if arguments.quick else arguments.megabytes
    head = f"{'share of the bytes':32} {'ours':>8} {'budget':>8} {'peer':>8} {'create':>8} {'apply':>8} {'memory':>9}"
    table, cases, missed = [head], [], []
    with bench.workplace() as directory:
        for case in (*layered(megabytes), *(() if arguments.quick else exported())):
            old, new = packed(directory, case.old, "1.0.0"), packed(directory, case.new, "1.0.1")
            one = measure(directory, old, new)
            cases.append((case.name, case.budget, one))
            budget = f"{case.budget:8.2%}" if case.budget is not None else " " * 8
            table.append(
                f"{case.name:32} {one.share:>8.2%} {budget} {one.peer_share:>8.2%} {one.create_s:>6.1f} s "
                f"{one.apply_s:>6.1f} s {one.apply_peak_bytes / 2**20:>5.0f} MiB"
            )
            if one.share > (case.budget or 1) or one.apply_peak_bytes > MEGABYTES_64:
                missed.append(case.name)
            old.path.unlink()
            new.path.unlink(missing_ok=True)
    hardest, _, worst = max(cases[:5], key=lambda one: one[1] or 0)
    figure = bench.Figure(
        name=f"delta of a model of {megabytes:g} MB, {hardest}",
        value=100 * worst.share,
        unit="% of the bytes",
        peer=peer_name(),
        peer_value=100 * worst.peer_share,
        also={
            "cases": {
                name: {
                    "share": bench.rounded(one.share),
                    "budget": budget,
                    "peer_share": bench.rounded(one.peer_share),
                    "create_s": bench.rounded(one.create_s),
                    "apply_s": bench.rounded(one.apply_s),
                    "apply_peak_bytes": one.apply_peak_bytes,
                }
                for name, budget, one in cases
            },
            "missed": missed,
        },
    )
    table.append(f"peer: {peer_name()}; beyond their budget: {', '.join(missed) or 'none'}")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
