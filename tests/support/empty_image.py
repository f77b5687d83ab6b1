"""An image that counts as built and that nothing boots: what is started of it needs its files only by name."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_edgehil.emulated.image.built import image_key


def empty_image(directory: Path, *, cache: Path, files: dict[str, int] | None = None) -> Path:
    """Its directory, as a lab file names it; see `count_as_built`."""
    (directory / "root").mkdir(parents=True)
    for name in ("image.yaml", "image.lock", "boot.cmd", "init"):
        (directory / name).touch()
    count_as_built(directory, cache=cache, files=files)
    return directory


def count_as_built(directory: Path, *, cache: Path, files: dict[str, int] | None = None) -> None:
    """Let it be found in the cache as it is now.

    Args:
        files: of the built one: name → bytes, all zeros.
    """
    key = image_key(directory)
    built = cache / "images" / key
    built.mkdir(parents=True)
    for name, size_bytes in (files or {}).items():
        (built / name).write_bytes(bytes(size_bytes))
    fields = {"name": "edge", "version": "2026.11", "key": key, "root_bytes": 0, "digests": {}, "sizes": files or {}}
    (built / "image.json").write_text(json.dumps(fields))
