"""Does a recipe still give the artifact that somebody has? Rebuild it, compare, and name the input that differs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.artifacts.build import build
from pytest_edgehil.artifacts.recipe import Recipe
from pytest_edgehil.documents.near_miss import listed
from pytest_edgehil.model.artifact import Artifact, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuild:
    """What a rebuild gave.

    Args:
        expected, found: digests of the two bundles.
        differences: inputs that differ; one line each.
    """

    expected: str
    found: str
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Did it give the same bytes?"""
        return self.expected == self.found


def rebuild(artifact: Artifact, recipe: Recipe, *, progress: Callable[[str], None] = lambda _: None) -> Rebuild:
    """Build a recipe again, in a place of its own, and compare.

    Args:
        artifact: what it once gave.
        recipe: what it is built from now.
        progress: told what is going on.

    Raises:
        UserError: it cannot be built at all; see `build`.
    """
    with tempfile.TemporaryDirectory(prefix="edgehil-rebuild-") as directory:
        report = build(recipe, out_dir=Path(directory), progress=progress, measure=False)
    before, after = artifact.manifest, report.artifact.manifest
    found = _inputs(before, after)
    if not found and artifact.digest != report.artifact.digest:
        files = _files(before, after)
        if after.health is not None and files == [after.health.path]:
            # its items come from a file that has no digest of its own in the manifest
            found = ("health check: its items, or the classes that the model gives them here, are others",)
    if not found and artifact.digest != report.artifact.digest:
        differ = ", ".join(files) or "none, so the packing does"
        said = "every input is the same, but not the bytes: the tools gave another result on this machine"
        found = (f"{said}; these files differ: {differ}",)
    return Rebuild(expected=artifact.digest, found=report.artifact.digest, differences=found)


def _inputs(before: Manifest, after: Manifest) -> tuple[str, ...]:
    told = []
    for what in ("name", "version", "track"):
        one, other = getattr(before, what), getattr(after, what)
        if one != other:
            told.append(f"{what}: the artifact has {one}, the recipe says {other}")
    pairs = (
        ("source", before.provenance.source, after.provenance.source),
        ("calibration set", before.provenance.calibration, after.provenance.calibration),
        ("recipe", before.provenance.recipe, after.provenance.recipe),
    )
    for what, old, new in pairs:
        if old != new:
            more = _fields(before, after) if what == "recipe" else ""
            told.append(f"{what}: it was {_short(old)}, now it is {_short(new)}{more}")
    tools = before.provenance.tools, after.provenance.tools
    for tool in sorted({*tools[0], *tools[1]}):
        old, new = (one.get(tool) for one in tools)
        if old != new:
            told.append(f"tool {tool}: it was built with {old or 'none'}, here is {new or 'none'}")
    return tuple(told)


def _fields(before: Manifest, after: Manifest) -> str:
    """What another recipe has changed in the manifest, as far as it stands there."""
    fields = ("target", "quantisation", "budgets", "timing", "provides", "depends", "health")
    differ = [field for field in fields if getattr(before, field) != getattr(after, field)]
    return f" ({listed(differ)} differ)" if differ else ""


def _files(before: Manifest, after: Manifest) -> list[str]:
    old, new = ({one.path: one.digest for one in manifest.files} for manifest in (before, after))
    return sorted(path for path in {*old, *new} if old.get(path) != new.get(path))


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:19]}…"
