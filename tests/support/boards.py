"""A board without a wire and without a supervisor: a home directory, a sysroot and shims, all below one directory.

For tests of what runs on a board and of its clients. It boots when it is told to (`reboot` leaves a note, `boot` acts
on it as the bootloader would), so a test can stop the world between two steps.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import struct
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support.local_transport import LocalTransport
from support.program import leave_program

from pytest_edgehil.model import Artifact, Board, Environment, Slots, Track
from pytest_edgehil.model.artifact import Budgets, FileEntry, Manifest, Provenance, Target

SERIAL = "1000000000000042"
NOTHING = "sha256:" + "0" * 64
HEALTHY = b"#!/bin/sh\nexit 0\n"


class BenchBoard:
    """Files of one board below `root`.

    Args:
        root: of all of them.
        board_id: its id.
        new: has no session been on it before? Then it lacks the program, see `support.program`.
    """

    boots = 0

    def __init__(self, root: Path, *, board_id: str = "bench", new: bool = False) -> None:
        self.root = root
        self.home = root / "home"
        self.edgehil = self.home / ".edgehil"
        self.bin = root / "usr/bin"
        self.home.mkdir(parents=True)
        self.bin.mkdir(parents=True)
        if not new:
            leave_program(self.edgehil)
        self.board = Board(
            id=board_id,
            cls="pi5-8gb",
            environment=Environment.VIRTUAL,
            slots=Slots(backend="tryboot", partitions=(2, 3)),
        )
        self.put("proc/device-tree/serial-number", SERIAL + "\0")
        self.put("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
        self.put("proc/meminfo", "MemTotal:        8257536 kB\n")
        self.put("sys/class/thermal/thermal_zone0/temp", "52350\n")
        self.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2400000\n")
        self.firmware_tree(2, "edge-os", "1.0")
        self.autoboot(2, 3)
        self.booted(2, tryboot=False)
        self.shim("vcgencmd", 'echo "throttled=$(cat "$EDGEHIL_SYSROOT/throttled")"')
        self.put("throttled", "0x0")
        self.shim("python3", f'exec {sys.executable} "$@"')
        self.shim("reboot", 'printf "%s" "$1" > "$EDGEHIL_SYSROOT/reboot-asked"')

    def put(self, relative: str, content: str | bytes) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def shim(self, name: str, line: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def firmware_tree(self, partition: int, name: str, version: str) -> None:
        self.put(f"partitions/{partition}/firmware.json", json.dumps({"name": name, "version": version}))

    def autoboot(self, default: int, tried: int) -> None:
        text = f"[all]\ntryboot_a_b=1\nboot_partition={default}\n[tryboot]\nboot_partition={tried}\n"
        self.put("boot/autoboot.txt", text)

    def booted(self, partition: int, *, tryboot: bool) -> None:
        self.boots += 1
        self.put("proc/device-tree/chosen/bootloader/partition", struct.pack(">I", partition))
        self.put("proc/device-tree/chosen/bootloader/tryboot", struct.pack(">I", int(tryboot)))
        self.put("proc/sys/kernel/random/boot_id", f"00000000-0000-0000-0000-{self.boots:012d}\n")

    def boot(self, *, comes_up: bool = True) -> None:
        """What the bootloader does after `reboot`; a firmware that does not come up leaves the old one running."""
        asked = self.root / "reboot-asked"
        trial = asked.exists() and asked.read_text() == "0 tryboot"
        asked.unlink(missing_ok=True)
        numbers = [
            int(line.partition("=")[2])
            for line in (self.root / "boot/autoboot.txt").read_text().splitlines()
            if line.startswith("boot_partition=")
        ]
        if trial and comes_up:
            self.booted(numbers[1], tryboot=True)
        else:
            self.booted(numbers[0], tryboot=False)

    @property
    def env(self) -> dict[str, str]:
        return {
            "EDGEHIL_SYSROOT": str(self.root),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "LANG": "C",
        }

    def connect(self, timeout_s: float = 30.0) -> LocalTransport:
        return LocalTransport(self.home, board_id=self.board.id, env=self.env)


def bundle(
    directory: Path,
    files: Mapping[str, bytes],
    *,
    track: Track = Track.MODEL,
    kind: str | None = None,
    runtime: str | None = "onnxruntime",
    entry: str | None = None,
    name: str = "tiny",
    version: str = "1.0.0",
    executable: frozenset[str] = frozenset(),
    architectures: tuple[str, ...] = (),
    change: Mapping[str, object] | None = None,
    compresslevel: int = 9,
) -> Artifact:
    """A bundle made by hand, so that these tests do not depend on the packer; `change` overrides manifest fields."""
    kind = kind or {Track.MODEL: "onnx", Track.PROMPT: "prompt-bundle", Track.FIRMWARE: "firmware-tree"}[track]
    entries = [
        {"path": path, "digest": digest(content), "size_bytes": len(content)} for path, content in sorted(files.items())
    ]
    fields: dict[str, object] = {
        "schema": 1,
        "name": name,
        "version": version,
        "track": track.value,
        "format": kind,
        "quantisation": "fp32" if track is Track.MODEL else "none",
        "target": {
            "name": "any",
            "board_classes": ["*"],
            "architectures": list(architectures),
            "accelerators": [],
            "page_sizes_bytes": [],
            "runtime": runtime,
            "min_runtime_version": None,
            "below_runtime_version": None,
        },
        "files": entries,
        "entry": entry or sorted(files)[0],
        "artifact_provides": {},
        "artifact_depends": {},
        "budgets": {"p95_latency_us": None, "peak_rss_bytes": None, "size_bytes": None},
        "timing": [],
        "health": None,
        "provenance": {"source": NOTHING, "recipe": NOTHING, "calibration": None, "tools": {}},
        **(change or {}),
    }
    members = [
        ("manifest.json", json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()),
        *sorted(files.items()),
    ]
    data = archive(members, executable=executable, compresslevel=compresslevel)
    path = directory / digest(data)[7:15] / f"{name}-{version}-any-{fields['quantisation']}.tar.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        track=track,
        format=kind,
        quantisation=str(fields["quantisation"]),
        target=Target(name="any", board_classes=("*",), architectures=architectures, runtime=runtime),
        files=tuple(FileEntry(**one) for one in entries),
        entry=str(fields["entry"]),
        provides={},
        depends={},
        budgets=Budgets(),
        provenance=Provenance(source=NOTHING, recipe=NOTHING),
    )
    return Artifact(digest=digest(data), size_bytes=len(data), path=path, manifest=manifest)


def archive(
    members: list[tuple[str, bytes]], *, executable: frozenset[str] = frozenset(), compresslevel: int = 9
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT, compresslevel=compresslevel) as out:
        for path, content in members:
            info = tarfile.TarInfo(path)
            info.size = len(content)
            info.mode = 0o755 if path in executable else 0o644
            out.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def linear_model(*, inputs: int = 4, classes: int = 3, layers: int = 1, width: int = 8, seed: int = 1) -> bytes:
    """An ONNX model x (1, inputs) → logits (1, classes): matrix products with ReLU in between."""
    random = np.random.default_rng(seed)
    nodes, weights, last, size = [], [], "x", inputs
    for layer in range(layers):
        out = classes if layer == layers - 1 else width
        weight = random.normal(size=(size, out), scale=1 / np.sqrt(size)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{layer}"))
        name = "logits" if layer == layers - 1 else f"h{layer}"
        nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [name]))
        if layer < layers - 1:
            nodes.append(helper.make_node("Relu", [name], [f"r{layer}"]))
            name = f"r{layer}"
        last, size = name, out
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def language_bundle(directory: Path) -> Artifact:
    """ids int64 (1, t) → logits (1, t, 5): after token i comes i + 1 modulo 5, whatever came before."""
    table = np.roll(np.eye(5, dtype=np.float32), 1, axis=1)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["logits"], axis=0)],
        "counting",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "t", 5])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bundle(directory, {"model.onnx": model.SerializeToString()})


def firmware_bundle(
    directory: Path,
    *,
    version: str = "2.0",
    health: bytes | None = HEALTHY,
    files: Mapping[str, bytes] | None = None,
    change: Mapping[str, object] | None = None,
) -> Artifact:
    """A firmware tree for the slot that does not run; `health` is its check, None: it has none."""
    tree = {"firmware.json": b'{"name":"edge-os","version":"%s"}' % version.encode(), **(files or {})}
    if health is not None:
        tree["health"] = health
    return bundle(
        directory, tree, track=Track.FIRMWARE, kind="firmware-tree", runtime=None, entry="firmware.json",
        name="edge-os", version=version, executable=frozenset({"health"}), change=change,
    )  # fmt: skip


def model_bundle(directory: Path, **shape: int) -> Artifact:
    return bundle(directory, {"model.onnx": linear_model(**shape)})
