"""A TUF repository and an artifact with evidence, and the client that a device would be."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from support.signed_evidence import ACCURACY, P95, Bench, artifact, evaluate, sample
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from pytest_edgehil.artifacts import bundle
from pytest_edgehil.evidence.canonical import digest_of
from pytest_edgehil.evidence.statement import RunInfo
from pytest_edgehil.model.artifact import Artifact, Budgets, Manifest, Provenance, Target, Track
from pytest_edgehil.model.record import ArtifactRef, TestRecord
from pytest_edgehil.release.policy import load_policy
from pytest_edgehil.release.publish import Published, publish
from pytest_edgehil.release.repository import init_repository

POLICY = """\
policy: test
environments: [virtual]
board_classes: [pi5-8gb-hat2]
gates:
  p95_latency: {at_most: 12 ms, alpha: 0.05}
  accuracy: {at_least: 0.98}
"""


class DirectoryFetcher(FetcherInterface):
    """Takes what the client asks for from a directory: no network."""

    def __init__(self, repo: Path) -> None:
        self._repo = repo

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._repo / unquote(urlparse(url).path).lstrip("/")
        if not path.is_file():
            raise DownloadHTTPError("not found", 404)
        return iter([path.read_bytes()])


def pack(
    directory: Path,
    *,
    name: str = "digits",
    version: str = "1.0.0",
    track: Track = Track.MODEL,
    content: bytes = b"model",
) -> Artifact:
    file = "model.onnx" if track is Track.MODEL else "firmware.json"
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        track=track,
        format="onnx" if track is Track.MODEL else "firmware-tree",
        quantisation="int8-static" if track is Track.MODEL else "none",
        target=Target(name="pi5", board_classes=("pi5-*",), runtime="onnxruntime" if track is Track.MODEL else None),
        files=(),
        entry=file,
        provides={},
        depends={},
        budgets=Budgets(),
        provenance=Provenance(source="sha256:" + "11" * 32, recipe="sha256:" + "22" * 32),
    )
    return bundle.pack(manifest, {file: content}, directory)


def reference(made: Artifact) -> ArtifactRef:
    return dataclasses.replace(
        artifact(made.manifest.track, made.manifest.name, of=made.digest), size_bytes=made.size_bytes
    )


class Shop:
    """A bench, a policy, a repository and its keys, in real time: the client knows no other."""

    def __init__(self, directory: Path, *, policy: str = POLICY) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.now = time.time()
        self.policy_file = directory / "policy.yaml"
        self.policy_file.write_text(policy)
        self.bench = Bench(
            report_dir=directory / "report",
            now=self.now,
            run=RunInfo(
                run_id="run-1",
                policy_digest=digest_of(policy.encode()),
                started_at=self.now - 120,
                expires_after_s=30 * 86400.0,
                tool_version="0.1.0",
            ),
        )
        self.repo = directory / "repo"
        self.keys = directory / "keys"
        self.artifact = pack(directory / "artifacts")

    def init(self) -> None:
        init_repository(self.repo, self.keys, now=self.now)

    def record(self, **changes: Any) -> TestRecord:
        defaults: dict[str, Any] = {
            "combo": (reference(self.artifact),),
            "gates": (P95, ACCURACY),
            "measured": sample().replace(artifact_size_bytes=self.artifact.size_bytes),
        }
        return self.bench.record(**{**defaults, **changes})

    def write(self, *records: TestRecord) -> None:
        self.bench.write(records or (self.record(),))

    def publish(self, **changes: Any) -> Published:
        arguments: dict[str, Any] = {
            "artifact": self.artifact,
            "evidence": self.bench.directory,
            "policy": load_policy(self.policy_file),
            "repo": self.repo,
            "keys": self.keys,
            "trust": self.bench.trust,
            "now": self.now,
            "evaluate": evaluate,
        }
        made = {**arguments, **changes}
        return publish(made.pop("artifact"), **made)

    def client(self, name: str = "device") -> Updater:
        """A fresh device that was shipped with the root, and nothing else."""
        directory = self.directory / name
        (directory / "metadata").mkdir(parents=True, exist_ok=True)
        (directory / "downloads").mkdir(exist_ok=True)
        return Updater(
            str(directory / "metadata"),
            "http://repo/metadata/",
            str(directory / "downloads"),
            "http://repo/targets/",
            fetcher=DirectoryFetcher(self.repo),
            bootstrap=(self.keys / "root.json").read_bytes(),
        )
