"""Artifacts, their manifests, and combos of them.

An artifact is an immutable, content-addressed bundle; its digest is that of the bundle's bytes. `artifacts` reads
and writes bundles; here are only the values.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Track(enum.StrEnum):
    """What an artifact changes on a board."""

    FIRMWARE = "firmware"
    MODEL = "model"
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of a bundle: POSIX path relative to the bundle, ``sha256:<hex>``, size in bytes."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an artifact is made for.

    Args:
        name: short word in the bundle's file name, such as ``pi5``.
        board_classes: shell patterns of board classes; a board must match one.
        architectures: machines as ``uname -m`` says; empty means any.
        accelerators: kinds of accelerators, one of which the board must have, such as ``hailo10h``; empty: none needed.
        page_sizes_bytes: kernel page sizes that it runs with; empty means any.
        runtime: runtime that the board must have, or None.
        min_runtime_version: lowest version that will do, or None.
        below_runtime_version: first version that will no longer do, or None.
    """

    name: str
    board_classes: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    accelerators: tuple[str, ...] = ()
    page_sizes_bytes: tuple[int, ...] = ()
    runtime: str | None = None
    min_runtime_version: str | None = None
    below_runtime_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What the artifact promises to stay within; None promises nothing."""

    p95_latency_us: int | None = None
    peak_rss_bytes: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingBudget:
    """A worst-case execution time that somebody else has shown; the manifest carries the reference, not the proof.

    Args:
        task: what is bounded, such as ``control-loop``.
        budget_us: the bound.
        tool: what showed it, such as ``aiT 24.04``.
        report: digest of its report (``sha256:<hex>``).
    """

    task: str
    budget_us: int
    tool: str
    report: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How an artifact proves on the board that it works.

    Args:
        path: file of the bundle: of a firmware an executable that the board runs after a trial boot (0 is well); of a
            model an ``.npz`` with one array of items per input, which must give finite outputs, and
            ``expected_class`` (int64, one per item) if the classes must be these.
        timeout_s: how long it may take.
    """

    path: str
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where an artifact comes from: every input that shaped its bytes, by digest.

    Args:
        source: digest of what was quantised or packed (``sha256:<hex>``).
        recipe: digest of the recipe.
        calibration: digest of the calibration set, if one was used.
        tools: name → version of every tool that shaped the output.
    """

    source: str
    recipe: str
    calibration: str | None = None
    tools: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle says of itself; `artifacts.manifest` reads and writes it as RFC 8785 canonical JSON.

    Args:
        name: such as ``digits``.
        version: such as ``1.0.0``.
        format: ``onnx``, ``replay``, ``prompt-bundle``, ``firmware-tree`` or ``firmware-image``.
        quantisation: ``fp32``, ``int8-static``, ``int8-dynamic``, …; ``none`` for other tracks.
        entry: path of the file that the runtime opens, or None.
        provides: Mender's ``artifact_provides``.
        depends: Mender's ``artifact_depends``: name → acceptable values.
        timing: worst-case execution times with their evidence.
        health: how it proves itself after activation, or None.
    """

    schema: int
    name: str
    version: str
    track: Track
    format: str
    quantisation: str
    target: Target
    files: tuple[FileEntry, ...]
    entry: str | None
    provides: Mapping[str, str]
    depends: Mapping[str, tuple[str, ...]]
    budgets: Budgets
    provenance: Provenance
    timing: tuple[TimingBudget, ...] = ()
    health: HealthCheck | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One bundle on the host.

    Args:
        digest: ``sha256:<hex>`` of the bundle file.
        size_bytes: size of the bundle file.
        path: the bundle file.
    """

    digest: str
    size_bytes: int
    path: Path
    manifest: Manifest

    @property
    def label(self) -> str:
        """Name, version and quantisation as people say it, for example ``digits 1.0.0 int8-static``."""
        manifest = self.manifest
        tail = f" {manifest.quantisation}" if manifest.quantisation != "none" else ""
        return f"{manifest.name} {manifest.version}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Combo:
    """One firmware + one model + one prompt bundle; each optional."""

    firmware: Artifact | None = None
    model: Artifact | None = None
    prompt: Artifact | None = None

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        """The artifacts that are there: firmware, model, prompt."""
        return tuple(one for one in (self.firmware, self.model, self.prompt) if one is not None)

    @property
    def label(self) -> str:
        """For reports: the labels joined by " + "."""
        return " + ".join(one.label for one in self.artifacts) or "nothing flashed"

    @property
    def digests(self) -> dict[str, str]:
        """Track → digest."""
        return {one.manifest.track.value: one.digest for one in self.artifacts}
