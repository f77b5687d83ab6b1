"""Recipe to artifact: quantise or collect, pack, and look at what came out.

Everything that shapes the bytes is an input with a digest in the artifact's provenance: the source, the recipe, the
calibration set, and the version of every tool. The same inputs give the same bytes. What the host measured
(accuracy against the source, latency) goes into a report beside the artifact, never into it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.dataset import Dataset, load_dataset
from pytest_edgehil.artifacts.firmware import IDENTITY_NAME, read_images, read_tree
from pytest_edgehil.artifacts.footprint import peak_bytes
from pytest_edgehil.artifacts.manifest import SCHEMA
from pytest_edgehil.artifacts.prompts import PROMPT_NAME, load_prompts
from pytest_edgehil.artifacts.recipe import EvaluateStep, FirmwareStep, HealthStep, ModelStep, PromptStep, Recipe
from pytest_edgehil.artifacts.reference import OnnxSession, ReferenceModel
from pytest_edgehil.artifacts.report import Accuracy, BuildReport, Latency, Memory
from pytest_edgehil.errors import ArtifactError, ModelError, RecipeError
from pytest_edgehil.model.artifact import Artifact, HealthCheck, Manifest, Provenance

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto, TensorProto

    from pytest_edgehil.artifacts.layers import LayerError, OperatorCount

MODEL_NAME = "model.onnx"
HEALTH_NAME = "health.npz"
_ROUNDS, _PER_ROUND, _WARMUP = 10, 30, 20

_ERROR_ITEMS = 16
_QUANTISATIONS = {
    "none": "fp32",
    "static": "int8-static",
    "dynamic": "int8-dynamic",
    "fp16": "fp16",
    "int4": "int4-weights",
}

Progress = Callable[[str], None]


def build(recipe: Recipe, *, out_dir: Path, progress: Progress = lambda _: None, measure: bool = True) -> BuildReport:
    """Build an artifact, and look at it.

    Args:
        recipe: from `load_recipe`.
        out_dir: where the bundle goes.
        progress: told in one line each what is going on.
        measure: look at what came out (accuracy, errors by layer, latency, memory), and hold it to the recipe's limits.

    Raises:
        RecipeError: what the recipe names cannot be used: the source is no model, the quantiser cannot handle it, …
        DatasetError: a calibration or held-out set is malformed.
        ExtraMissing: quantising without the extra ``[build]``.
    """
    step = recipe.step
    if isinstance(step, ModelStep):
        try:
            return _build_model(recipe, step, out_dir, progress, measure=measure)
        except ModelError as problem:
            # here a model that does not load is what somebody wrote into a recipe, not what a board reports
            raise RecipeError(f"{recipe.path}: {problem}") from problem
    if isinstance(step, PromptStep):
        return _build_prompt(recipe, step, out_dir, progress)
    return _build_firmware(recipe, step, out_dir, progress)


# --- one function per track --------------------------------------------------------------------------


def _build_model(recipe: Recipe, step: ModelStep, out_dir: Path, progress: Progress, *, measure: bool) -> BuildReport:
    source = _whole(step.source)
    how = step.quantise
    # loaded before anything slow: a source that is no model is told of at once
    session = OnnxSession(source, label=str(step.source))
    data, quantisation, calibration_digest = source, "fp32", None
    tools = ["pytest-edgehil"]
    counts: tuple[OperatorCount, ...] = ()
    if how.method != "none" or how.optimise:
        from pytest_edgehil.artifacts.layers import operators
        from pytest_edgehil.artifacts.quantise import Quantisation, prepared, quantise

        calibration = None
        if how.calibration is not None:
            calibration = load_dataset(how.calibration)
            calibration_digest = calibration.digest
            calibration = calibration if how.items is None else calibration.head(how.items)
            _check_items(calibration, session, where=how.calibration)
            progress(f"calibrating with {len(calibration)} items of {how.calibration.name}")
        settings = Quantisation(
            method=how.method,
            per_channel=how.per_channel,
            weights=how.weights,
            activations=how.activations,
            operators=how.operators,
            exclude=how.exclude,
            exclude_operators=how.exclude_operators,
            block_size=how.block_size,
            symmetric=how.symmetric,
            optimise=how.optimise,
            percentile=how.percentile,
            bit_exact=how.bit_exact,
        )
        try:
            data = quantise(source, settings, calibration=calibration, progress=progress)
        except RecipeError as problem:
            raise RecipeError(f"{recipe.path}: quantise.{problem}") from problem
        if measure:
            counts = operators(prepared(source, settings), data)
        quantisation = _QUANTISATIONS[how.method]
        tools += ["numpy", "onnx", "onnxruntime"]
    manifest = _manifest(
        recipe,
        format_="onnx",
        quantisation=quantisation,
        entry=MODEL_NAME,
        source=_sha256(source),
        calibration=calibration_digest,
        tools=tools,
    )
    files: dict[str, Path | bytes] = {MODEL_NAME: data}
    if step.health is not None:
        files[HEALTH_NAME] = _health_items(step.health, data)
        manifest = dataclasses.replace(manifest, health=HealthCheck(path=HEALTH_NAME, timeout_s=step.health.timeout_s))
    artifact = _pack(recipe, manifest, files, out_dir, progress)
    report = BuildReport(
        artifact=artifact,
        recipe=recipe.path,
        source_size_bytes=len(source),
        output_size_bytes=len(data),
        operators=counts,
    )
    if not measure or step.evaluate is None:
        return report
    report = _evaluated(report, step.evaluate, session, progress, source=source, made=data)
    _hold_to(report, step.evaluate, recipe)
    return report


def _whole(path: Path) -> bytes:
    """A model's bytes, with the weights in it that exporters of large models put into files beside it.

    Raises:
        RecipeError: such a file is missing, or all of it is more than one file of ONNX may hold (2 GiB).
    """
    data = path.read_bytes()
    if b"location" not in data:  # the key of such a reference, whatever it is about
        return data
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model
    except ImportError:
        return data  # ONNX Runtime will say what is missing
    try:
        model = onnx.load_model_from_string(data)
        outside = [one for one in _tensors(model) if one.data_location == onnx.TensorProto.EXTERNAL]
        if not outside:
            return data
        load_external_data_for_model(model, str(path.parent))
        for one in outside:
            one.ClearField("data_location")  # now as if they had never been elsewhere
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as problem:
        said = " ".join(str(problem).split())[:200]
        raise RecipeError(f"{path}: its weights in other files cannot be taken in: {said}") from problem


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor with values: initializers and constants of the graph, of graphs in it, and of functions."""
    graphs: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while graphs:
        graph = graphs.pop()
        yield from getattr(graph, "initializer", ())
        for attribute in (one for node in graph.node for one in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            graphs += [attribute.g, *attribute.graphs]


def _health_items(step: HealthStep, model: bytes) -> bytes:
    """An ``.npz`` with items and the classes that the artifact gives them here; the same inputs give the same bytes."""
    dataset = load_dataset(step.dataset)
    items = dataset.head(min(step.items, len(dataset))).inputs
    session = OnnxSession(model, label="health check")
    answers = session.evaluate(items)[session.outputs[0].name]
    out = io.BytesIO()
    np.savez(out, **dict(items), expected_class=answers.reshape(len(answers), -1).argmax(axis=1).astype(np.int64))  # type: ignore[arg-type]
    return out.getvalue()


def _build_prompt(recipe: Recipe, step: PromptStep, out_dir: Path, progress: Progress) -> BuildReport:
    bundle = load_prompts(step.bundle)
    failures = bundle.failures()
    if failures:
        more = f" (and {len(failures) - 1} more: 'edgehil prompt check' tells them all)" if len(failures) > 1 else ""
        raise RecipeError(f"{step.bundle}: {failures[0]}{more}")
    versions = sorted({version for accepted in bundle.models.values() for version in accepted})
    depends = {"model.name": tuple(sorted(bundle.models))}
    if versions != ["*"]:
        if len(bundle.models) > 1 and len(set(bundle.models.values())) > 1:
            raise RecipeError(
                f"{step.bundle}: models: all models of one bundle need the same versions, "
                "because a combo is checked by name and by version; split the bundle"
            )
        depends["model.version"] = tuple(versions)
    clash = depends.keys() & recipe.depends.keys()
    if clash:
        raise RecipeError(f"{recipe.path}: depends.{min(clash)}: is made from the bundle's 'models'; remove it here")
    source = step.bundle.read_bytes()
    manifest = _manifest(
        dataclasses.replace(recipe, depends={**recipe.depends, **depends}),
        format_="prompt-bundle",
        quantisation="none",
        entry=PROMPT_NAME,
        source=_sha256(bundle.data),
        calibration=None,
        tools=["pytest-edgehil"],
    )
    artifact = _pack(recipe, manifest, {PROMPT_NAME: bundle.data}, out_dir, progress)
    return BuildReport(
        artifact=artifact, recipe=recipe.path, source_size_bytes=len(source), output_size_bytes=len(bundle.data)
    )


def _build_firmware(recipe: Recipe, step: FirmwareStep, out_dir: Path, progress: Progress) -> BuildReport:
    if step.tree is None:
        tree = read_images(step.images, name=recipe.name, version=recipe.version)
        progress(f"collected {len(step.images)} images")
    else:
        tree = read_tree(step.tree, name=recipe.name, version=recipe.version)
        progress(f"collected {len(tree.files)} files of {step.tree.name}")
    manifest = _manifest(
        recipe,
        format_="firmware-image" if step.tree is None else "firmware-tree",
        quantisation="none",
        entry=IDENTITY_NAME,
        source=tree.digest,
        calibration=None,
        tools=["pytest-edgehil"],
    )
    artifact = _pack(recipe, manifest, tree.files, out_dir, progress, executable=tree.executable)
    size_bytes = sum(one.size_bytes for one in artifact.manifest.files)
    return BuildReport(
        artifact=artifact, recipe=recipe.path, source_size_bytes=size_bytes, output_size_bytes=size_bytes
    )


def _manifest(
    recipe: Recipe,
    *,
    format_: str,
    quantisation: str,
    entry: str,
    source: str,
    calibration: str | None,
    tools: list[str],
) -> Manifest:
    track = recipe.track.value
    provides = {f"{track}.name": recipe.name, f"{track}.version": recipe.version}
    if quantisation != "none":
        provides[f"{track}.quantisation"] = quantisation
    for key in provides.keys() & recipe.provides.keys():
        raise RecipeError(f"{recipe.path}: provides.{key}: is set by the build; remove it from the recipe")
    return Manifest(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        track=recipe.track,
        format=format_,
        quantisation=quantisation,
        target=recipe.target,
        files=(),
        entry=entry,
        provides={**provides, **recipe.provides},
        depends=recipe.depends,
        budgets=recipe.budgets,
        timing=recipe.timing,
        provenance=Provenance(
            source=source,
            recipe=recipe.digest,
            calibration=calibration,
            tools={tool: installed(tool) for tool in tools},
        ),
    )


def _pack(
    recipe: Recipe,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    out_dir: Path,
    progress: Progress,
    *,
    executable: frozenset[str] = frozenset(),
) -> Artifact:
    try:
        artifact = pack(manifest, files, out_dir, executable=executable)
    except OSError as problem:
        raise RecipeError(f"{out_dir}: the artifact cannot be written: {problem.strerror}") from problem
    except ArtifactError as problem:
        raise RecipeError(f"{recipe.path}: {problem}") from problem
    budget = manifest.budgets.size_bytes
    if budget is not None and artifact.size_bytes > budget:
        artifact.path.unlink()
        raise RecipeError(
            f"{recipe.path}: budgets.size: the bundle has {artifact.size_bytes} bytes, its budget is {budget}; "
            "raise the budget or make the artifact smaller"
        )
    progress(f"packed {artifact.path.name}")
    return artifact


# --- what the host measures for the report -----------------------------------------------------------


def _evaluated(
    report: BuildReport, step: EvaluateStep, session: OnnxSession, progress: Progress, *, source: bytes, made: bytes
) -> BuildReport:
    dataset = load_dataset(step.dataset)
    _check_items(dataset, session, where=step.dataset)
    artifact = ReferenceModel(report.artifact)
    output = _class_output(step, artifact)
    progress(f"evaluating {len(dataset)} items of {step.dataset.name}, source and artifact")
    before = session.evaluate(dataset.inputs)[output].argmax(axis=-1).reshape(-1)
    after = artifact.evaluate(dataset.inputs)[output].argmax(axis=-1).reshape(-1)
    if before.shape != (len(dataset),) or after.shape != before.shape:
        raise RecipeError(f"{step.dataset}: output {output!r} does not give one class per item")
    labels = dataset.labels
    accuracy = Accuracy(
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        items=len(dataset),
        agreement=float((after == before).mean()),
        source=None if labels is None else float((before == labels).mean()),
        artifact=None if labels is None else float((after == labels).mean()),
    )
    progress("timing on this host, one thread")
    first = {name: array[:1] for name, array in dataset.inputs.items()}
    latency = _latency(session, artifact, first)
    memory = Memory(source_bytes=peak_bytes(source, first), artifact_bytes=peak_bytes(made, first))
    errors: tuple[LayerError, ...] = ()
    if made != source:
        from pytest_edgehil.artifacts.layers import largest_errors

        errors = largest_errors(source, made, dataset.head(min(_ERROR_ITEMS, len(dataset))).inputs)
    return dataclasses.replace(report, accuracy=accuracy, latency=latency, memory=memory, errors=errors)


def _hold_to(report: BuildReport, step: EvaluateStep, recipe: Recipe) -> None:
    """Refuse what is worse than the recipe allows; the artifact is removed, so that nobody takes it for a good one.

    Raises:
        RecipeError: with the number and its limit.
    """
    accuracy = report.accuracy
    assert accuracy is not None
    said = None
    if step.agreement is not None and accuracy.agreement < step.agreement:
        said = f"agreement: {accuracy.agreement:.2%} agree with the source, at least {step.agreement:.2%} must"
    if step.drop is not None:
        if accuracy.source is None or accuracy.artifact is None:
            raise RecipeError(f"{recipe.path}: evaluate.drop: {accuracy.dataset} has no labels to judge it by")
        lost = accuracy.source - accuracy.artifact
        if lost > step.drop:
            fall = f"from {accuracy.source:.2%} to {accuracy.artifact:.2%}"
            said = f"drop: the accuracy falls {fall}, by more than {step.drop:g}"
    if said is not None:
        report.artifact.path.unlink()
        raise RecipeError(
            f"{recipe.path}: evaluate.{said} ({accuracy.items} items of {accuracy.dataset}); "
            "quantise less (exclude, percentile, another method) or change the limit"
        )


def _class_output(step: EvaluateStep, made: ReferenceModel) -> str:
    names = [one.name for one in made.outputs]
    if step.output is None and len(names) == 1:
        return names[0]
    if step.output not in names:
        raise RecipeError(f"evaluate.output: the model has no output {step.output!r}; it has {', '.join(names)}")
    return step.output


def _latency(source: OnnxSession, made: ReferenceModel, feeds: dict[str, npt.NDArray[Any]]) -> Latency:
    """Both models in turns, so that a change of the host's load meets both."""
    for _ in range(_WARMUP):
        source.run(feeds)
        made.run(feeds)
    before, after = [], []
    for _ in range(_ROUNDS):
        before += [_timed_ns(source.run, feeds) for _ in range(_PER_ROUND)]
        after += [_timed_ns(made.run, feeds) for _ in range(_PER_ROUND)]
    return Latency(
        inferences=len(after),
        source_p50_ns=round(float(np.percentile(before, 50))),
        source_p95_ns=round(float(np.percentile(before, 95))),
        artifact_p50_ns=round(float(np.percentile(after, 50))),
        artifact_p95_ns=round(float(np.percentile(after, 95))),
    )


def _timed_ns(run: Callable[[dict[str, npt.NDArray[Any]]], object], feeds: dict[str, npt.NDArray[Any]]) -> int:
    began = time.perf_counter_ns()
    run(feeds)
    return time.perf_counter_ns() - began


def _check_items(dataset: Dataset, session: OnnxSession, *, where: Path) -> None:
    """Try the first item, so that a set for another model is refused with its own name."""
    try:
        session.run({name: array[:1] for name, array in dataset.inputs.items()})
    except ModelError as problem:
        raise RecipeError(f"{where}: its items do not fit the source: {problem}") from problem


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
