"""A model in a session on the host: the baseline that outputs of a board are compared with.

ONNX Runtime on one thread of the host's CPU. A replay artifact gives its recorded outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from pytest_edgehil.artifacts.bundle import file_bytes
from pytest_edgehil.artifacts.replay import read_trace
from pytest_edgehil.errors import ModelError, WrongTarget
from pytest_edgehil.model.artifact import Artifact

Array = npt.NDArray[Any]

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or an output: None in the shape is any size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join('any' if side is None else str(side) for side in self.shape)})"


class OnnxSession:
    """An ONNX model on one thread of the host.

    Args:
        data: the model file.
        label: what to call it in messages.
        optimise: False runs the graph as it is written, node by node.

    Raises:
        ModelError: ONNX Runtime does not load it.
    """

    def __init__(self, data: bytes, *, label: str, optimise: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.label = label
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as problem:
            raise ModelError(f"{label}: ONNX Runtime does not load it: {_one_line(problem)}") from problem
        self.inputs = tuple(map(_tensor, self._session.get_inputs()))
        self.outputs = tuple(map(_tensor, self._session.get_outputs()))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: input name → array to output name → array.

        Raises:
            ModelError: a feed is missing, unknown or of another type or shape, or the model fails.
        """
        check_feeds(feeds, self.inputs, label=self.label)
        names = [one.name for one in self.outputs]
        try:
            results = self._session.run(names, dict(feeds))
        except Exception as problem:
            raise ModelError(f"{self.label}: failed on the host: {_one_line(problem)}") from problem
        return dict(zip(names, results, strict=True))

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference per item; item i is ``array[i : i + 1]``. Outputs have shape (m, …).

        Raises:
            ModelError: see `run`.
        """
        items = next(iter(inputs.values())).shape[0]
        rows = [self.run({name: array[at : at + 1] for name, array in inputs.items()}) for at in range(items)]
        return {one.name: np.concatenate([row[one.name] for row in rows]) for one in self.outputs}


class ReferenceModel:
    """The model of an artifact, run on the host.

    Args:
        artifact: track model; format ``onnx`` or ``replay``.

    Raises:
        WrongTarget: the artifact is no model, or of a format that does not run on the host.
        CorruptArtifact: the bundle changed since it was read.
        ModelError: the model does not load.
    """

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self.artifact = artifact
        self._recorded: dict[str, Array] = {}
        self._session: OnnxSession | None = None
        if manifest.format == "onnx" and manifest.entry is not None:
            self._session = OnnxSession(file_bytes(artifact, manifest.entry), label=artifact.label)
            self.inputs, self.outputs = self._session.inputs, self._session.outputs
        elif manifest.format == "replay":
            trace = read_trace(artifact)
            self._recorded = {name: np.asarray(one, dtype=np.float32) for name, one in trace.outputs.items()}
            self.inputs = tuple(
                Tensor(name=name, dtype=one.dtype, shape=one.shape) for name, one in trace.inputs.items()
            )
            self.outputs = tuple(
                Tensor(name=name, dtype="float32", shape=(None, *one.shape[1:])) for name, one in self._recorded.items()
            )
        else:
            raise WrongTarget(
                f"{artifact.label}: format {manifest.format!r} does not run on the host; "
                "a baseline is a model of format onnx or replay"
            )

    @property
    def recorded(self) -> bool:
        """Does it give recorded outputs, by the place of an item in a request and not by what the item is?"""
        return self._session is None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One inference: input name → array to output name → array.

        Raises:
            ModelError: wrong feeds, or the model fails.
        """
        if self._session is not None:
            return self._session.run(feeds)
        return self._replayed(feeds)

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One inference per item; item i is ``array[i : i + 1]``. Outputs have shape (m, …).

        Raises:
            ModelError: wrong feeds, or the model fails.
        """
        if self._session is not None:
            return self._session.evaluate(inputs)
        return self._replayed(inputs)

    def _replayed(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        items = next((array.shape[0] for array in feeds.values() if array.ndim), 1)
        return {name: values[np.arange(items) % len(values)] for name, values in self._recorded.items()}


def check_feeds(feeds: Mapping[str, Array], inputs: tuple[Tensor, ...], *, label: str) -> None:
    """Check names, types and shapes of feeds before the runtime does, with a message that a person understands.

    Raises:
        ModelError: what is wrong, and what the model takes.
    """
    takes = "; ".join(map(str, inputs))
    for name in feeds.keys() - {one.name for one in inputs}:
        raise ModelError(f"{label}: has no input {name!r}; it takes {takes}")
    for one in inputs:
        if one.name not in feeds:
            raise ModelError(f"{label}: no feed for the input {one.name!r}; it takes {takes}")
        array = np.asarray(feeds[one.name])
        fits = len(array.shape) == len(one.shape) and all(
            want in (None, have) for have, want in zip(array.shape, one.shape, strict=False)
        )
        if array.dtype.name != one.dtype or not fits:
            raise ModelError(f"{label}: {one.name} was fed {array.dtype} {array.shape}; it takes {takes}")


def _tensor(node: Any) -> Tensor:
    sides = tuple(side if isinstance(side, int) else None for side in node.shape)
    return Tensor(name=node.name, dtype=_DTYPES.get(node.type, node.type), shape=sides)


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
