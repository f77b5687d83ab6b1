"""Manifests and archives for tests, honest and otherwise, made without the package's own writer where it matters."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_edgehil.model.artifact import Artifact, Budgets, FileEntry, Manifest, Provenance, Target, Track

DIGEST = "sha256:" + "ab" * 32


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest(**changes: Any) -> Manifest:
    """A good manifest of a model with one file, ``model.onnx`` holding ``weights``."""
    good = Manifest(
        schema=1,
        name="digits",
        version="1.0.0",
        track=Track.MODEL,
        format="onnx",
        quantisation="int8-static",
        target=Target(name="pi5", board_classes=("pi5-*",), runtime="onnxruntime", min_runtime_version="1.20"),
        files=(FileEntry(path="model.onnx", digest=sha256(b"weights"), size_bytes=7),),
        entry="model.onnx",
        provides={"model.name": "digits"},
        depends={},
        budgets=Budgets(p95_latency_us=12_000, size_bytes=1 << 20),
        provenance=Provenance(source=DIGEST, recipe=DIGEST, calibration=DIGEST, tools={"onnx": "1.20.0"}),
    )
    return dataclasses.replace(good, **changes)


def artifact(**changes: Any) -> Artifact:
    """An artifact that lies nowhere, for what looks at manifests only."""
    made = manifest(**changes)
    digest = sha256(repr(made).encode())
    return Artifact(digest=digest, size_bytes=1000, path=Path(f"/nowhere/{made.name}.tar.gz"), manifest=made)


def manifest_json(contents: dict[str, bytes], /, **changes: Any) -> bytes:
    """Canonical JSON of a manifest that tells the truth about some files, changed at the top level as asked."""
    document = {
        "artifact_depends": {},
        "artifact_provides": {},
        "budgets": {"p95_latency_us": None, "peak_rss_bytes": None, "size_bytes": None},
        "entry": min(contents),
        "files": [
            {"digest": sha256(data), "path": path, "size_bytes": len(data)} for path, data in sorted(contents.items())
        ],
        "format": "onnx",
        "name": "digits",
        "health": None,
        "timing": [],
        "provenance": {"calibration": None, "recipe": DIGEST, "source": DIGEST, "tools": {}},
        "quantisation": "fp32",
        "schema": 1,
        "target": {
            "architectures": [],
            "board_classes": ["*"],
            "accelerators": [],
            "below_runtime_version": None,
            "min_runtime_version": None,
            "page_sizes_bytes": [],
            "name": "any",
            "runtime": None,
        },
        "track": "model",
        "version": "1.0.0",
    }
    document.update(changes)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def member(path: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member for `archive`; fields are those of `tarfile.TarInfo`."""
    info = tarfile.TarInfo(path)
    info.size = len(data)
    for name, value in fields.items():
        setattr(info, name, value)
    return info, data


def archive(path: Path, members: Iterable[tuple[tarfile.TarInfo, bytes]], *, form: int = tarfile.USTAR_FORMAT) -> Path:
    """Write an archive with the standard library, whatever it holds."""
    raw = io.BytesIO()
    for info, data in members:
        raw.write(info.tobuf(form))
        raw.write(data + bytes(-len(data) % 512))
    raw.write(bytes(1024))
    path.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    return path
