"""What an update costs as a delta, against compressing the whole with bz2, or ``zstd --patch-from`` where it is there.

A model of int8 weights (per channel, as `edgehil build` quantises) is changed as models change: its last layer is
trained anew (2 % of the bytes), its metadata changes its length, all of it is fine-tuned (0.1 % and 1 % of noise in
the weights before quantising), and fine-tuned with all tensors renamed and in another order. Each delta is applied by
the board's own code, and the result compared byte by byte. The memory is that of the board's process while it applies
the delta, the time of applying includes its start.

    python benchmarks/flash/delta.py [--json] [--quick] [--megabytes 100]
"""

from __future__ import annotations

import bz2
import json
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench
import numpy as np
import numpy.typing as npt
import onnx
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One change: `budget` is the share of the bytes that it may cost."""

    name: str
    budget: float
    new: Artifact


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


def packed(directory: Path, data: bytes, version: str) -> Artifact:
    """As a bundle."""
    return pack(manifest(version=version), {"model.onnx": data, "labels.txt": b"a"}, directory)


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
    with bench.workplace() as directory:
        first = weights(megabytes, seed=1)
        old = packed(directory, model(first), "1.0.0")
        last = [*first[:-1], weights(megabytes, seed=2)[-1]]
        changes = (
            ("last layer trained anew", 0.021, model(last)),
            ("metadata of another length", 0.0015, model(first, note="the second one, with more to say")),
            ("fine-tuned, 0.1 % noise", 0.05, model(tuned(first, noise=0.001, seed=3))),
            ("fine-tuned, 1 % noise", 0.20, model(tuned(first, noise=0.01, seed=4))),
            ("renamed, reordered, 0.1 % noise", 0.05, model(tuned(first, noise=0.001, seed=5)[::-1], names="onnx::")),
        )
        cases = [
            Case(name=name, budget=budget, new=packed(directory, data, f"1.0.{number}"))
            for number, (name, budget, data) in enumerate(changes, start=1)
        ]
        found = {case.name: measure(directory, old, case.new) for case in cases}
    hardest = next(case for case in cases if case.budget == max(one.budget for one in cases))
    worst = found[hardest.name]
    figure = bench.Figure(
        name=f"delta of a model of {megabytes:g} MB, {hardest.name}",
        value=100 * worst.share,
        unit="% of the bytes",
        peer=peer_name(),
        peer_value=100 * worst.peer_share,
        also={
            "cases": {
                case.name: {
                    "share": bench.rounded(found[case.name].share),
                    "budget": case.budget,
                    "peer_share": bench.rounded(found[case.name].peer_share),
                    "create_s": bench.rounded(found[case.name].create_s),
                    "apply_s": bench.rounded(found[case.name].apply_s),
                    "apply_peak_bytes": found[case.name].apply_peak_bytes,
                }
                for case in cases
            }
        },
    )
    table = [
        f"{'share of the bytes':32} {'ours':>8} {'budget':>8} {'peer':>8} {'create':>8} {'apply':>8} {'memory':>9}"
    ]
    table += [
        f"{case.name:32} {one.share:>8.2%} {case.budget:>8.2%} {one.peer_share:>8.2%} {one.create_s:>6.1f} s "
        f"{one.apply_s:>6.1f} s {one.apply_peak_bytes / 2**20:>5.0f} MiB"
        for case in cases
        for one in (found[case.name],)
    ]
    table.append(f"peer: {peer_name()}")
    return bench.publish(arguments, figure, table)


if __name__ == "__main__":
    raise SystemExit(main())
