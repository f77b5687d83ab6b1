"""Datasets: what is no dataset is refused with its file, its array and the reason."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_edgehil.artifacts.dataset import Dataset, load_dataset
from pytest_edgehil.errors import DatasetError

IMAGES = np.arange(12, dtype=np.float32).reshape(3, 1, 2, 2)
LABELS = np.array([0, 1, 2])


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_inputs_and_labels_are_read(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    data = load_dataset(saved(tmp_path / "digits" / "heldout.npz", image=IMAGES, labels=LABELS.astype(np.uint8)))
    assert data.name == "digits/heldout"
    assert len(data) == 3
    assert data.digest.startswith("sha256:")
    np.testing.assert_array_equal(data.inputs["image"], IMAGES)
    assert data.inputs["image"].dtype == np.float32
    assert data.labels is not None
    assert data.labels.dtype == np.int64


def test_labels_may_be_missing(tmp_path: Path) -> None:
    assert load_dataset(saved(tmp_path / "x.npz", image=IMAGES)).labels is None


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "no input array"),
        ({"labels": LABELS}, "no input array"),
        ({"image": IMAGES, "labels": LABELS[:2]}, "image 3, labels 2"),
        ({"image": IMAGES, "mask": IMAGES[:1]}, "image 3, mask 1"),
        ({"image": IMAGES[:0]}, "image 0"),
        ({"image": np.float32(1)}, "one row per item"),
        ({"image": np.array(["a", "b"])}, "array of numbers"),
        ({"image": np.array([1.0, np.nan])}, "not finite"),
        ({"image": IMAGES, "labels": np.array([0.0, 1.0, 2.0])}, "whole numbers"),
        ({"image": IMAGES, "labels": LABELS[:, None]}, "whole numbers"),
        ({"image": np.array([{}, {}], dtype=object)}, "plain arrays"),
    ],
)
def test_what_is_off_is_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    path = saved(tmp_path / "x.npz", **arrays)
    with pytest.raises(DatasetError) as caught:
        load_dataset(path)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"junk", b"PK\x03\x04junk", b"\x93NUMPY"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"is no \.npz file"):
        load_dataset(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No such file"):
        load_dataset(tmp_path / "x.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("image.npy", b"not numpy")
    with pytest.raises(DatasetError):
        load_dataset(tmp_path / "x.npz")


def test_the_digest_of_arrays_covers_contents_types_and_labels() -> None:
    digests = {
        Dataset.of_arrays("a", {"image": IMAGES}).digest,
        Dataset.of_arrays("a", {"image": IMAGES}, LABELS).digest,
        Dataset.of_arrays("a", {"image": IMAGES.astype(np.float64)}).digest,
        Dataset.of_arrays("a", {"picture": IMAGES}).digest,
        Dataset.of_arrays("a", {"image": IMAGES + 1}).digest,
        Dataset.of_arrays("a", {"image": IMAGES.reshape(3, 4)}).digest,
    }
    assert len(digests) == 6
    assert Dataset.of_arrays("b", {"image": IMAGES.copy()}).digest in digests


def test_the_head_is_a_dataset_of_its_own() -> None:
    data = Dataset.of_arrays("a", {"image": IMAGES}, LABELS)
    assert len(data.head(2)) == 2
    assert data.head(2).digest != data.digest
    assert data.head(99) is data
