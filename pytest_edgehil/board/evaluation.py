"""Comparing what a model says with what is right: outputs against a baseline's, classes against labels.

The items of a held-out set are taken in an order that is drawn, because a set is often sorted by class or by source and
the gates stop at the first items that decide. The order follows from the set's digest and a seed that is part of
the sample: who runs a test again meets the same items again, and has no luck to hope for. A recording answers by the
place of an item and not by what the item is, so with one the items keep their own order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from pytest_edgehil.model.series import HeldOut

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_edgehil.artifacts.dataset import Dataset
    from pytest_edgehil.model.artifact import Artifact

    Array = npt.NDArray[Any]
    BoolArray = npt.NDArray[np.bool_]
    FloatArray = npt.NDArray[np.float64]
    IntArray = npt.NDArray[np.int64]


class Baseline(Protocol):
    """What outputs are compared with: `artifacts.reference.ReferenceModel`."""

    def evaluate(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of shape (m, …) for inputs of shape (m, …), item by item."""


@runtime_checkable
class _OfArtifact(Protocol):
    """A baseline that says which artifact it is, as `artifacts.reference.ReferenceModel` does."""

    @property
    def artifact(self) -> Artifact:
        """The artifact whose model it runs."""

    @property
    def recorded(self) -> bool:
        """Does it answer by the place of an item?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What came of feeding a held-out set, or a part of it.

    All arrays are in the same order. What a test gets is in the set's own order, whichever order the items were taken
    in: row j belongs to item ``items[j]`` of the set, and after the whole set was evaluated ``items[j]`` is j.

    Args:
        items: shape (m,): which items of the set these are.
        outputs: output name → shape (m, …).
        predicted: shape (m,): class of the first output, -1 where it is not a number.
        agreed: shape (m,): the same class as the baseline's? None without a baseline.
        correct: shape (m,): the label's class? None without labels.
        baseline_correct: shape (m,): is the baseline's class the label's? None without one of them.
        cosines: shape (m,): cosine similarity of the first output to the baseline's; NaN where one of them is no
            direction, or where their sizes differ. None without a baseline.
        latencies_ns: shape (m,).
        of: size of the whole set.
    """

    items: IntArray
    outputs: Mapping[str, Array]
    predicted: IntArray
    agreed: BoolArray | None
    correct: BoolArray | None
    baseline_correct: BoolArray | None
    cosines: FloatArray | None
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

    def in_order_of_the_set(self) -> Evaluation:
        """The same with `items` growing."""
        return self._of(np.argsort(self.items, kind="stable"))

    def behind(self, rows: int) -> Evaluation:
        """All but the first so many rows."""
        return self if rows == 0 else self._of(slice(rows, None))

    def _of(self, rows: Any) -> Evaluation:
        def put(values: Any) -> Any:
            return None if values is None else values[rows]

        return dataclasses.replace(
            self,
            items=put(self.items),
            outputs={name: put(array) for name, array in self.outputs.items()},
            predicted=put(self.predicted),
            agreed=put(self.agreed),
            correct=put(self.correct),
            baseline_correct=put(self.baseline_correct),
            cosines=put(self.cosines),
            latencies_ns=put(self.latencies_ns),
        )


@dataclass(kw_only=True)
class Course:
    """A held-out set and how far the test has gone through it.

    Args:
        dataset: the set.
        baseline: what to compare with, or None.
        order_seed: what the order of the items is drawn with; None: they are taken in their own.
        call: number of the call of the test that it belongs to.
        next_item: how many have been taken.
    """

    dataset: Dataset
    baseline: Baseline | None
    order_seed: int | None = None
    call: int = 0
    next_item: int = 0

    @cached_property
    def order(self) -> IntArray:
        """Shape (len(dataset),): number of the item that is taken first, second, …"""
        if self.order_seed is None:
            return np.arange(len(self.dataset), dtype=np.int64)
        return drawn_order(len(self.dataset), digest=self.dataset.digest, seed=self.order_seed)

    @cached_property
    def feeds(self) -> dict[str, Array]:
        """The set's inputs in that order."""
        if self.order_seed is None:
            return dict(self.dataset.inputs)
        return {name: array[self.order] for name, array in self.dataset.inputs.items()}

    @property
    def heldout(self) -> HeldOut:
        """What this is, and how far it went."""
        name, digest = self.dataset.name, self.dataset.digest
        return heldout_of(name, digest, self.baseline, items=self.next_item, of=len(self.dataset))

    def reference(self, count: int) -> dict[str, Array] | None:
        """The baseline's outputs for the next items; None without a baseline."""
        if self.baseline is None:
            return None
        if is_recorded(self.baseline):  # its answers go by the place in the whole set
            return {name: array[self._next(count)] for name, array in self.baseline.evaluate(self.feeds).items()}
        return self.baseline.evaluate({name: array[self._next(count)] for name, array in self.feeds.items()})

    def compare(
        self, count: int, *, output: str, outputs: Mapping[str, Array], reference: Mapping[str, Array] | None,
        latencies_ns: IntArray,
    ) -> Evaluation:  # fmt: skip
        """Compare the outputs of the next items, and go on behind them.

        Args:
            count: how many items.
            output: name of the output that is compared; a baseline that has no such output is taken at its first.
            outputs: of the board, shape (count, …).
            reference: of the baseline, from `reference`.
            latencies_ns: shape (count,).

        Returns:
            In the order in which the items were taken.
        """
        items = self.order[self._next(count)]
        predicted = classes(outputs[output])
        other = None if reference is None else reference.get(output, next(iter(reference.values())))
        expected = None if other is None else classes(other)
        labels = None if self.dataset.labels is None else np.asarray(self.dataset.labels)[items]
        self.next_item += count
        return Evaluation(
            items=items,
            outputs=outputs,
            predicted=predicted,
            agreed=None if expected is None else (predicted == expected) & (predicted >= 0),
            correct=None if labels is None else predicted == labels,
            baseline_correct=None if labels is None or expected is None else expected == labels,
            cosines=None if other is None else cosines(outputs[output], other),
            latencies_ns=latencies_ns,
            of=len(self.dataset),
        )

    def _next(self, count: int) -> slice:
        return slice(self.next_item, self.next_item + count)


def is_recorded(baseline: Baseline) -> bool:
    """Does it answer by the place of an item in a request, and not by what the item is?"""
    return isinstance(baseline, _OfArtifact) and baseline.recorded


def heldout_of(name: str, digest: str, baseline: Baseline | None, *, items: int, of: int) -> HeldOut:
    """What a sample says of a set and of what its outputs were compared with."""
    artifact = baseline.artifact if isinstance(baseline, _OfArtifact) else None
    return HeldOut(
        name=name,
        digest=digest,
        items=items,
        of=of,
        baseline="" if artifact is None else artifact.label,
        baseline_digest="" if artifact is None else artifact.digest,
    )


def drawn_order(items: int, *, digest: str, seed: int) -> IntArray:
    """A permutation of so many items that follows from a set's digest and a seed, and from nothing else.

    >>> drawn_order(5, digest="sha256:00", seed=0).tolist()
    [3, 2, 0, 4, 1]
    """
    words = np.frombuffer(hashlib.sha256(f"{seed}:{digest}".encode()).digest(), dtype="<u4")
    # the old generator, because its stream is the same in every version of numpy
    return np.random.RandomState(words.astype(np.uint32)).permutation(items).astype(np.int64)


def cosines(outputs: Array, other: Array) -> FloatArray:
    """Shape (m,): cosine similarity of each item's output to the other's; NaN where there is none.

    >>> cosines(np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.0]]), np.array([[0.0, 3.0], [1.0, 1.0], [1.0, 0.0]])).tolist()
    [0.0, 1.0, nan]
    """
    one, two = (array.reshape(len(array), -1).astype(np.float64) for array in (outputs, other))
    if one.shape != two.shape or one.shape[1] == 0:
        return np.full(len(outputs), np.nan)
    with np.errstate(all="ignore"):  # what is no direction ends as NaN
        one, two = (array / np.abs(array).max(axis=1, keepdims=True) for array in (one, two))
        found = (one * two).sum(axis=1) / np.sqrt((one * one).sum(axis=1) * (two * two).sum(axis=1))
    return np.asarray(np.clip(found, -1.0, 1.0), dtype=np.float64)


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
