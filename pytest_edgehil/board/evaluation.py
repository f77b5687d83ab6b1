"""Comparing what a model says with what is right: classes of outputs against a baseline's and against labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_edgehil.artifacts.dataset import Dataset

    Array = npt.NDArray[Any]
    BoolArray = npt.NDArray[np.bool_]
    IntArray = npt.NDArray[np.int64]


class Baseline(Protocol):
    """What outputs are compared with: `artifacts.reference.ReferenceModel`."""

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of shape (m, …) for inputs of shape (m, …), item by item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of feeding a held-out set, or a part of it.

    Args:
        outputs: output name → shape (m, …), in the order of the items.
        predicted: shape (m,): class of the first output, -1 where it is not a number.
        agreed: shape (m,): the same class as the baseline's? None without a baseline.
        correct: shape (m,): the label's class? None without labels.
        baseline_correct: shape (m,): is the baseline's class the label's? None without one of them.
        latencies_ns: shape (m,).
        of: size of the whole set.
    """

    outputs: Mapping[str, Array]
    predicted: IntArray
    agreed: BoolArray | None
    correct: BoolArray | None
    baseline_correct: BoolArray | None
    latencies_ns: IntArray
    of: int

    @property
    def agreement(self) -> float | None:
        """Share of items that agree with the baseline."""
        return None if self.agreed is None else float(self.agreed.mean())

    @property
    def accuracy(self) -> float | None:
        """Share of items that are right."""
        return None if self.correct is None else float(self.correct.mean())


@dataclass(slots=True, kw_only=True)
class Course:
    """A held-out set and how far the test has gone through it."""

    dataset: Dataset
    baseline: Baseline | None
    next_item: int = 0

    def reference(self, count: int) -> dict[str, Array] | None:
        """The baseline's outputs for the next items; None without a baseline."""
        if self.baseline is None:
            return None
        return self.baseline.evaluate({name: array[self._next(count)] for name, array in self.dataset.inputs.items()})

    def compare(
        self, count: int, *, output: str, outputs: Mapping[str, Array], reference: Mapping[str, Array] | None,
        latencies_ns: IntArray,
    ) -> Evaluation:  # fmt: skip
        """Compare the outputs of the next items, and go on behind them.

        Args:
            count: how many items.
            output: name of the output whose classes are compared; a baseline that has no such output is taken at its
                first.
            outputs: of the board, shape (count, …).
            reference: of the baseline, from `reference`.
            latencies_ns: shape (count,).
        """
        predicted = classes(outputs[output])
        expected = None if reference is None else classes(reference.get(output, next(iter(reference.values()))))
        labels = None if self.dataset.labels is None else np.asarray(self.dataset.labels)[self._next(count)]
        self.next_item += count
        return Evaluation(
            outputs=outputs,
            predicted=predicted,
            agreed=None if expected is None else (predicted == expected) & (predicted >= 0),
            correct=None if labels is None else predicted == labels,
            baseline_correct=None if labels is None or expected is None else expected == labels,
            latencies_ns=latencies_ns,
            of=len(self.dataset),
        )

    def _next(self, count: int) -> slice:
        return slice(self.next_item, self.next_item + count)


def classes(outputs: Array) -> IntArray:
    """Class of each item: argmax over everything but the first axis; -1 where a value is not a number.

    >>> classes(np.array([[0.1, 0.9], [0.5, float("nan")]])).tolist()
    [1, -1]
    """
    flat = outputs.reshape(len(outputs), -1)
    if flat.shape[1] == 0:
        return np.full(len(outputs), -1, dtype=np.int64)
    found: IntArray = flat.argmax(axis=1).astype(np.int64)
    if flat.dtype.kind == "f":
        found[np.isnan(flat).any(axis=1)] = -1
    return found
