"""Held-out and calibration sets: named input arrays with one row per item, and labels if there are any.

On disk a numpy ``.npz``: one array per model input, first axis = item; the array ``labels``, integers, is optional.
Pickled objects are never read.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_edgehil.errors import DatasetError

LABELS = "labels"
_MOST_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Items to feed, and what is right for them.

    Args:
        name: for reports.
        digest: ``sha256:<hex>`` of the file, or of the arrays when they never were in one.
        inputs: input name → array of shape (m, …); item i is ``array[i : i + 1]``.
        labels: shape (m,), int64; None when nobody knows.
    """

    name: str
    digest: str
    inputs: Mapping[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of items."""
        return int(next(iter(self.inputs.values())).shape[0])

    @classmethod
    def of_arrays(
        cls, name: str, inputs: Mapping[str, npt.NDArray[Any]], labels: npt.NDArray[Any] | None = None
    ) -> Dataset:
        """A dataset made in memory; its digest covers names, types, shapes and contents.

        Raises:
            DatasetError: the arrays do not make a dataset.
        """
        hashed = hashlib.sha256()
        for key, array in [*sorted(inputs.items()), *([(LABELS, labels)] if labels is not None else [])]:
            hashed.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            hashed.update(np.ascontiguousarray(array).tobytes())
        return _checked(name, f"sha256:{hashed.hexdigest()}", dict(inputs), labels, where=name)

    def head(self, items: int) -> Dataset:
        """The first so many items, or all if there are fewer."""
        if items >= len(self):
            return self
        labels = None if self.labels is None else self.labels[:items]
        return Dataset.of_arrays(self.name, {name: array[:items] for name, array in self.inputs.items()}, labels)


def load_dataset(path: Path, *, name: str | None = None) -> Dataset:
    """Read an ``.npz`` file.

    Args:
        path: the file.
        name: default: the directory's and the file's name, such as ``digits/heldout``.

    Raises:
        DatasetError: it is missing or malformed.
    """
    try:
        raw = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            claimed = sum(one.file_size for one in archive.infolist())
            names = [one.filename for one in archive.infolist()]
        if claimed > _MOST_BYTES:
            raise DatasetError(f"{path}: unpacks to {claimed} bytes, at most {_MOST_BYTES} are read")
        if len(set(names)) != len(names):
            raise DatasetError(f"{path}: holds an array twice; save it again with numpy.savez")
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except OSError as problem:
        raise DatasetError(f"{path}: cannot be read: {problem.strerror or problem}") from problem
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as problem:
        said = " ".join(str(problem).split())
        raise DatasetError(
            f"{path}: is no .npz file of plain arrays ({said:.120}); save it with numpy.savez"
        ) from problem
    labels = arrays.pop(LABELS, None)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return _checked(name or f"{path.absolute().parent.name}/{path.stem}", digest, arrays, labels, where=str(path))


def _checked(
    name: str, digest: str, inputs: dict[str, npt.NDArray[Any]], labels: npt.NDArray[Any] | None, *, where: str
) -> Dataset:
    if not inputs:
        raise DatasetError(f"{where}: holds no input array; expected one per model input, named like it")
    sizes = {}
    for key, array in inputs.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.ndim == 0:
            raise DatasetError(f"{where}: {key}: expected an array of numbers with one row per item")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DatasetError(f"{where}: {key}: holds values that are not finite")
        sizes[key] = array.shape[0]
    if labels is not None:
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DatasetError(
                f"{where}: labels: shape {labels.shape}, {labels.dtype}; expected whole numbers, one per item"
            )
        sizes[LABELS] = labels.shape[0]
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        said = ", ".join(f"{key} {size}" for key, size in sizes.items())
        raise DatasetError(f"{where}: numbers of items differ or are zero ({said}); every array needs one row per item")
    return Dataset(name=name, digest=digest, inputs=inputs, labels=None if labels is None else labels.astype(np.int64))
