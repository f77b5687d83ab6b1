"""Recipes: what `edgehil build` makes an artifact from, one YAML file per artifact.

::

    track: model                  # model, prompt or firmware
    name: digits
    version: "1.0.0"
    target: {name: pi5, board_classes: ["pi5-*"], runtime: onnxruntime, min_runtime_version: "1.20"}
    source: digits-fp32.onnx      # paths are relative to the recipe
    quantise:
      method: static              # none, dynamic, static (both int8), fp16 or int4 (4-bit weights of MatMul)
      calibration: calibration.npz
      per_channel: true
      exclude: []                 # names of nodes that stay as they are
      exclude_operators: []       # and types of operators
      bit_exact: false            # static: the same bits on x86 and Arm; sums of two tensors stay in floating point
      optimise: false             # let ONNX Runtime fold constants and simplify the graph before
    evaluate:
      dataset: heldout.npz
      output: logits
      agreement: 0.98             # the build fails below: share of the same class as the source (optional)
      drop: 0.01                  # … beyond: loss of accuracy against the source (optional, needs labels)
    health: {dataset: heldout.npz, items: 8, timeout: 30 s}   # the board runs it once it is active, or goes back
    budgets: {p95_latency: 12 ms, peak_rss: 180 MiB, size: 1 MiB}
    timing: []                    # worst-case execution times: {task, budget: 250 us, tool, report: sha256:…}
    provides: {}                  # beside model.name and model.version
    depends: {}                   # key: [acceptable values]

A prompt recipe has ``bundle: FILE.yaml`` instead of source, quantise and evaluate (see `artifacts.prompts`); a
firmware recipe has ``tree: DIRECTORY`` or ``images: {root: FILE}`` (see `artifacts.firmware`). Unknown keys are
refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import AfterValidator, Field, RootModel, model_validator

from pytest_edgehil.artifacts.manifest import (
    MAX_HEALTH_S,
    Digest,
    Key,
    Machine,
    Name,
    Numbers,
    PageSize,
    Pattern,
    Printable,
    Version,
    Word,
    check_runtime_range,
)
from pytest_edgehil.documents.checking import Section, checked
from pytest_edgehil.documents.reading import Document, FileKind, first_only, read_document
from pytest_edgehil.errors import QuantityError, RecipeError
from pytest_edgehil.model import quantity
from pytest_edgehil.model.artifact import Budgets, Target, TimingBudget, Track

# --- what the rest of the room reads -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseStep:
    """How to quantise; see `artifacts.quantise.Quantisation`. `method` may be ``none``.

    Args:
        calibration: the calibration set; None unless the method is ``static``.
        items: how many of its items, from the first; None: all.
    """

    method: str
    calibration: Path | None
    items: int | None
    per_channel: bool
    weights: str
    activations: str
    percentile: float | None
    operators: tuple[str, ...]
    exclude: tuple[str, ...]
    exclude_operators: tuple[str, ...]
    block_size: int
    symmetric: bool
    optimise: bool
    bit_exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateStep:
    """What the build report compares: the held-out set, and the output whose largest entry is the class.

    Args:
        agreement: the build fails if a smaller share of items has the same class as with the source.
        drop: the build fails if the accuracy is lower than the source's by more than this.
    """

    dataset: Path
    output: str | None
    agreement: float | None
    drop: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthStep:
    """Items that the board runs after activation, and the classes that the artifact gives them here.

    Args:
        items: how many, from the first.
    """

    dataset: Path
    items: int
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStep:
    """What makes a model artifact."""

    source: Path
    quantise: QuantiseStep
    evaluate: EvaluateStep | None
    health: HealthStep | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptStep:
    """What makes a prompt artifact."""

    bundle: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareStep:
    """What makes a firmware artifact: a tree of files, or images by their names."""

    tree: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A recipe, checked; every file that it names is there.

    Args:
        path: the recipe file.
        digest: of everything in it that shapes the artifact, whatever its layout and its comments; the files that
            it names go into the artifact's provenance by their own digests.
        provides, depends: beside what the build adds by itself.
    """

    path: Path
    digest: str
    track: Track
    name: str
    version: str
    target: Target
    budgets: Budgets
    timing: tuple[TimingBudget, ...]
    provides: Mapping[str, str]
    depends: Mapping[str, tuple[str, ...]]
    step: ModelStep | PromptStep | FirmwareStep


# --- the YAML form -----------------------------------------------------------------------------------

_KIND = FileKind(
    noun="recipe", expected="'track:', 'name:' and 'version:'", refusal=first_only(RecipeError), most_bytes=1 << 20
)


def _quantity(parse: Any, scale: int = 1) -> Any:
    def check(text: str) -> str:
        try:
            value = parse(text)
        except QuantityError as problem:
            raise ValueError(str(problem)) from problem
        if value < scale:
            raise ValueError(f"{text!r} is too small: a budget is at least {'1 µs' if scale > 1 else '1 B'}")
        return text

    return AfterValidator(check)


Duration = Annotated[str, _quantity(quantity.duration_ns, 1000)]
Size = Annotated[str, _quantity(quantity.size_bytes)]
ImageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
FileName = Annotated[str, Field(min_length=1, max_length=1024)]


_MOST = 1 << 31
"""Far beyond what counts, and below 2^53: the digest is made of canonical JSON, which has no larger numbers."""


class _Target(Section):
    name: Word
    board_classes: Annotated[list[Pattern], Field(min_length=1, max_length=64)]
    architectures: Annotated[list[Machine], Field(max_length=64)] = []
    accelerators: Annotated[list[Pattern], Field(max_length=64)] = []
    page_sizes: Annotated[list[PageSize], Field(max_length=8)] = []
    runtime: Word | None = None
    min_runtime_version: Numbers | None = None
    below_runtime_version: Numbers | None = None

    @model_validator(mode="after")
    def _range_makes_sense(self) -> _Target:
        check_runtime_range(self.runtime, self.min_runtime_version, self.below_runtime_version)
        return self


class _Budgets(Section):
    p95_latency: Duration | None = None
    peak_rss: Size | None = None
    size: Size | None = None


class _Timing(Section):
    task: Word
    budget: Duration
    tool: Printable
    report: Digest


_FOR = {
    "calibration": ("static",),
    "items": ("static",),
    "percentile": ("static",),
    "bit_exact": ("static",),
    "activations": ("static",),
    "per_channel": ("static", "dynamic"),
    "weights": ("static", "dynamic"),
    "operators": ("static", "dynamic"),
    "exclude": ("static", "dynamic", "fp16", "int4"),
    "exclude_operators": ("static", "dynamic", "fp16", "int4"),
    "block_size": ("int4",),
    "symmetric": ("int4",),
}
"""Key of a quantise section → the methods that it says something to; ``optimise`` goes with all."""


class _Quantise(Section):
    method: Literal["none", "dynamic", "static", "fp16", "int4"] = "none"
    calibration: FileName | None = None
    items: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    per_channel: bool = True
    weights: Literal["int8", "uint8"] = "int8"
    activations: Literal["int8", "uint8"] = "uint8"
    percentile: Annotated[float, Field(gt=50, lt=100)] | None = None
    operators: list[Printable] = []
    exclude: list[str] = []
    exclude_operators: list[Printable] = []
    block_size: Literal[16, 32, 64, 128, 256] = 32
    symmetric: bool = True
    optimise: bool = False
    bit_exact: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> _Quantise:
        given = self.model_fields_set
        if self.method == "static" and self.calibration is None:
            raise ValueError("static quantisation needs 'calibration: FILE.npz'")
        for key, methods in _FOR.items():
            if key in given and self.method not in methods:
                raise ValueError(f"{key!r} is for method {' or '.join(methods)} only, the method is {self.method}")
        return self


class _Evaluate(Section):
    dataset: FileName
    output: str | None = None
    agreement: Annotated[float, Field(gt=0, le=1)] | None = None
    drop: Annotated[float, Field(ge=0, lt=1)] | None = None


class _Health(Section):
    dataset: FileName
    items: Annotated[int, Field(ge=1, le=256)] = 8
    timeout: Duration = "30 s"


class _Common(Section):
    name: Name
    version: Version
    target: _Target
    budgets: _Budgets = _Budgets()
    timing: Annotated[list[_Timing], Field(max_length=256)] = []
    provides: Annotated[dict[Key, Printable], Field(max_length=64)] = {}
    depends: Annotated[dict[Key, Annotated[list[Printable], Field(min_length=1)]], Field(max_length=64)] = {}


class _ModelRecipe(_Common):
    track: Literal["model"]
    source: FileName
    quantise: _Quantise = _Quantise()
    evaluate: _Evaluate | None = None
    health: _Health | None = None


class _PromptRecipe(_Common):
    track: Literal["prompt"]
    bundle: FileName


class _FirmwareRecipe(_Common):
    track: Literal["firmware"]
    tree: FileName | None = None
    images: Annotated[dict[ImageName, FileName], Field(max_length=8)] = {}

    @model_validator(mode="after")
    def _one_of_them(self) -> _FirmwareRecipe:
        if (self.tree is None) == (not self.images):
            raise ValueError("expected one of 'tree: DIRECTORY' and 'images: {root: FILE}'")
        return self


_AnyRecipe = _ModelRecipe | _PromptRecipe | _FirmwareRecipe
_RecipeFile = RootModel[Annotated[_AnyRecipe, Field(discriminator="track")]]


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and check that the files that it names are there.

    Raises:
        RecipeError: file, line and path of the first thing that is wrong.
    """
    document = read_document(path, _KIND)
    value = checked(document, _RecipeFile).root
    budgets = value.budgets
    return Recipe(
        path=path,
        digest=_digest(value),
        track=Track(value.track),
        name=value.name,
        version=value.version,
        target=Target(
            name=value.target.name,
            board_classes=tuple(value.target.board_classes),
            architectures=tuple(value.target.architectures),
            accelerators=tuple(value.target.accelerators),
            page_sizes_bytes=tuple(value.target.page_sizes),
            runtime=value.target.runtime,
            min_runtime_version=value.target.min_runtime_version,
            below_runtime_version=value.target.below_runtime_version,
        ),
        budgets=Budgets(
            p95_latency_us=None if budgets.p95_latency is None else quantity.duration_ns(budgets.p95_latency) // 1000,
            peak_rss_bytes=None if budgets.peak_rss is None else quantity.size_bytes(budgets.peak_rss),
            size_bytes=None if budgets.size is None else quantity.size_bytes(budgets.size),
        ),
        timing=tuple(
            TimingBudget(
                task=one.task, budget_us=quantity.duration_ns(one.budget) // 1000, tool=one.tool, report=one.report
            )
            for one in value.timing
        ),
        provides=value.provides,
        depends={key: tuple(values) for key, values in value.depends.items()},
        step=_step(value, document),
    )


def _step(value: _AnyRecipe, document: Document) -> ModelStep | PromptStep | FirmwareStep:
    if isinstance(value, _PromptRecipe):
        return PromptStep(bundle=_existing(document, ("bundle",), value.bundle))
    if isinstance(value, _FirmwareRecipe):
        if value.tree is not None:
            return FirmwareStep(tree=_existing(document, ("tree",), value.tree, directory=True))
        images = {image: _existing(document, ("images", image), name) for image, name in value.images.items()}
        return FirmwareStep(images=images)
    how, evaluate, health = value.quantise, value.evaluate, value.health
    calibration = None
    if how.calibration is not None:
        calibration = _existing(document, ("quantise", "calibration"), how.calibration)
    return ModelStep(
        source=_existing(document, ("source",), value.source),
        quantise=QuantiseStep(
            method=how.method,
            calibration=calibration,
            items=how.items,
            per_channel=how.per_channel,
            weights=how.weights,
            activations=how.activations,
            percentile=how.percentile,
            operators=tuple(how.operators),
            exclude=tuple(how.exclude),
            exclude_operators=tuple(how.exclude_operators),
            block_size=how.block_size,
            symmetric=how.symmetric,
            optimise=how.optimise,
            bit_exact=how.bit_exact,
        ),
        evaluate=None
        if evaluate is None
        else EvaluateStep(
            dataset=_existing(document, ("evaluate", "dataset"), evaluate.dataset),
            output=evaluate.output,
            agreement=evaluate.agreement,
            drop=evaluate.drop,
        ),
        health=None
        if health is None
        else HealthStep(
            dataset=_existing(document, ("health", "dataset"), health.dataset),
            items=health.items,
            timeout_s=min(MAX_HEALTH_S, max(1, -(-quantity.duration_ns(health.timeout) // 10**9))),
        ),
    )


def _existing(document: Document, where: tuple[str, ...], name: str, *, directory: bool = False) -> Path:
    if "\0" in name:
        raise document.error(where, f"{name!r:.60} is no path")
    path = document.source.parent / name
    if not (path.is_dir() if directory else path.is_file()):
        kind = "directory" if directory else "file"
        raise document.error(where, f"there is no {kind} {name!r} in {document.source.absolute().parent}")
    return path


def _digest(value: _AnyRecipe) -> str:
    """Digest of the recipe's values in canonical JSON; file names and what only the report uses are left out."""
    shape = value.model_dump(mode="json", exclude={"source", "bundle", "tree", "images", "evaluate"})
    if isinstance(value, _ModelRecipe):
        shape["quantise"].pop("calibration")
        if value.health is not None:
            shape["health"].pop("dataset")
    return f"sha256:{hashlib.sha256(rfc8785.dumps(shape)).hexdigest()}"
