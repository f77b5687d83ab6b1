"""What boards are cut on: an image without wheels, so that its root is a third as large, and bundles for it."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
from pathlib import Path

from support.boards import bundle

from pytest_edgehil.emulated.image.build import build_image
from pytest_edgehil.emulated.image.built import Image
from pytest_edgehil.emulated.image.disk import MIB
from pytest_edgehil.model.artifact import Artifact, Track

SLOT_MIB = 80
OLD, NEW = b'"version": "2026.11"', b'"version": "2026.12"'
_MODEL_BYTES = 2 * MIB


def small_image(directory: Path, source: Path) -> tuple[Path, Image]:
    """An image without wheels, so that its root is a third as large; built, or found built."""
    directory.mkdir(exist_ok=True)
    target = directory / "small"
    shutil.copytree(source, target)
    recipe, lock = (target / "image.yaml").read_text(), (target / "image.lock").read_text()
    recipe = re.sub(r"(?m)^wheels: .*$", "wheels: []", recipe)
    recipe = re.sub(r"(?m)^sizes: .*$", f"sizes: {{slot: {SLOT_MIB} MiB, data: 256 MiB}}", recipe)
    (target / "image.yaml").write_text(recipe)
    (target / "image.lock").write_text(lock[: lock.index("wheels:")] + "wheels: []\n")
    return target, build_image(target, say=lambda _line: None)


def model(directory: Path, number: int) -> Artifact:
    weights = random.Random(number).randbytes(_MODEL_BYTES)
    return bundle(directory, {"model.onnx": weights}, version=f"1.0.{number}", runtime=None, compresslevel=1)


def firmware(directory: Path, image: Image) -> tuple[Artifact, str]:
    """The image's own root under another version, and the digest of what is in the slot then."""
    root = image.root.read_bytes()
    if root.count(OLD) != 1:  # file data carries no checksum in ext4: it may be changed in place
        raise ValueError(f"expected one {OLD!r} in {image.root}")
    root = root.replace(OLD, NEW)
    files = {"firmware.json": b'{"name": "edge-os", "version": "2026.12"}', "root.img": root}
    artifact = bundle(
        directory, files, track=Track.FIRMWARE, kind="firmware-image", runtime=None, entry="firmware.json",
        name="edge-os", version="2026.12", compresslevel=1,
    )  # fmt: skip
    return artifact, hashlib.sha256(root).hexdigest()
