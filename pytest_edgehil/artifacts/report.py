"""What a build says of the artifact that it made: for a terminal, as JSON, and as Markdown.

The latency is this host's and comes from a short run: a hint whether quantising paid, not a promise for any board.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_edgehil.artifacts.manifest import stem
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.model.quantity import format_duration, format_size

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.layers import LayerError, OperatorCount

REPORT_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Source and artifact on the same held-out items; fractions.

    Args:
        agreement: same class from both.
        source, artifact: class equal to the label; None without labels.
    """

    dataset: str
    dataset_digest: str
    items: int
    agreement: float
    source: float | None
    artifact: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Source and artifact on this host, one thread, one item at a time, in turns."""

    inferences: int
    source_p50_ns: int
    source_p95_ns: int
    artifact_p50_ns: int
    artifact_p95_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Peak resident set of a process on this host that runs one item, less what it held before the model; or None."""

    source_bytes: int | None
    artifact_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """One build.

    Args:
        source_size_bytes: of what was built from.
        output_size_bytes: of what was made, before packing.
        accuracy, latency, memory: None unless the recipe has ``evaluate``.
        operators: what became of the source's operators; empty if nothing was quantised.
        errors: the tensors that differ most from the source's, the largest first.
    """

    artifact: Artifact
    recipe: Path
    source_size_bytes: int
    output_size_bytes: int
    accuracy: Accuracy | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    operators: tuple[OperatorCount, ...] = ()
    errors: tuple[LayerError, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What people read, as (what, how much)."""
        artifact = self.artifact
        manifest = artifact.manifest
        rows = [
            ("artifact", f"{artifact.label}, {manifest.track}, for {manifest.target.name}"),
            ("digest", artifact.digest),
            ("size", f"{format_size(artifact.size_bytes)} packed{self._shrunk()}"),
        ]
        accuracy, latency = self.accuracy, self.latency
        if accuracy is not None:
            rows.append(("agreement", f"{accuracy.agreement:.2%} with the source on {accuracy.items} held-out items"))
            if accuracy.source is not None and accuracy.artifact is not None:
                change = 100 * (accuracy.artifact - accuracy.source)
                said = f"{accuracy.artifact:.2%} (source {accuracy.source:.2%}, {change:+.2f} points)"
                rows.append(("accuracy", said))
        if latency is not None:
            ratio = latency.artifact_p50_ns / latency.source_p50_ns
            p50, p95 = format_duration(latency.artifact_p50_ns), format_duration(latency.artifact_p95_ns)
            before = f"source p50 {format_duration(latency.source_p50_ns)}, ×{ratio:.2f}"
            rows.append(("host latency", f"p50 {p50}, p95 {p95} ({before}; this host, one thread)"))
        memory = self.memory
        if memory is not None and memory.artifact_bytes is not None and memory.source_bytes is not None:
            source = format_size(memory.source_bytes)
            said = f"{format_size(memory.artifact_bytes)} beyond the empty process (source {source})"
            rows.append(("host memory", said))
        if self.operators:
            told = ", ".join(f"{one.quantised} of {one.total} {one.kind}" for one in self.operators)
            rows.append(("quantised", told))
        if self.errors:
            told = ", ".join(f"{one.tensor} ({one.kind}) {one.error:.1%}" for one in self.errors)
            rows.append(("worst layers", told))
        return rows

    def _shrunk(self) -> str:
        if self.artifact.manifest.format != "onnx":
            return ""
        share = self.output_size_bytes / self.source_size_bytes
        return (
            f"; model {format_size(self.output_size_bytes)}, "
            f"source {format_size(self.source_size_bytes)} (×{share:.2f})"
        )

    def to_text(self) -> str:
        """For a terminal."""
        return "\n".join(f"  {what:<13} {much}" for what, much in self.rows())

    def to_markdown(self) -> str:
        """The same as a table."""
        body = "\n".join(f"| {what} | {much} |" for what, much in self.rows())
        tools = self.artifact.manifest.provenance.tools
        made = ", ".join(f"{tool} {version}" for tool, version in sorted(tools.items()))
        return f"# {stem(self.artifact.manifest)}\n\n| | |\n|---|---|\n{body}\n| tools | {made} |\n"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; ``schema`` counts up when a field changes its meaning."""
        manifest, accuracy, latency = self.artifact.manifest, self.accuracy, self.latency
        return {
            "schema": REPORT_SCHEMA,
            "artifact": {
                "file": self.artifact.path.name,
                "digest": self.artifact.digest,
                "size_bytes": self.artifact.size_bytes,
                "name": manifest.name,
                "version": manifest.version,
                "track": manifest.track.value,
                "quantisation": manifest.quantisation,
                "target": manifest.target.name,
            },
            "provenance": {
                "source": manifest.provenance.source,
                "recipe": manifest.provenance.recipe,
                "calibration": manifest.provenance.calibration,
                "tools": dict(manifest.provenance.tools),
            },
            "source_size_bytes": self.source_size_bytes,
            "output_size_bytes": self.output_size_bytes,
            "accuracy": None
            if accuracy is None
            else {
                "dataset": accuracy.dataset,
                "dataset_digest": accuracy.dataset_digest,
                "items": accuracy.items,
                "agreement": accuracy.agreement,
                "source": accuracy.source,
                "artifact": accuracy.artifact,
            },
            "host_memory": None
            if self.memory is None
            else {"source_bytes": self.memory.source_bytes, "artifact_bytes": self.memory.artifact_bytes},
            "operators": [{"kind": one.kind, "total": one.total, "quantised": one.quantised} for one in self.operators],
            "largest_errors": [
                {"tensor": one.tensor, "kind": one.kind, "relative_rms": one.error} for one in self.errors
            ],
            "host_latency": None
            if latency is None
            else {
                "inferences": latency.inferences,
                "source_p50_ns": latency.source_p50_ns,
                "source_p95_ns": latency.source_p95_ns,
                "artifact_p50_ns": latency.artifact_p50_ns,
                "artifact_p95_ns": latency.artifact_p95_ns,
            },
        }


def write_report(report: BuildReport) -> tuple[Path, Path]:
    """Write ``<stem>.report.json`` and ``<stem>.report.md`` beside the artifact; returns both paths."""
    directory, name = report.artifact.path.parent, stem(report.artifact.manifest)
    as_json, as_markdown = directory / f"{name}.report.json", directory / f"{name}.report.md"
    as_json.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    as_markdown.write_text(report.to_markdown(), encoding="utf-8")
    return as_json, as_markdown
