"""Firmware: a tree of files that become the contents of a board's slot, or images that are written to its devices.

An image is copied as it is. Inside of it, ``/etc/edgehil/firmware.json`` must give the recipe's name and version, which
proves on the board what booted; ``/etc/edgehil/health``, if it is there, is run while the firmware is on trial. In the
bundle images are called ``<name>.img``, and lab.yaml says which devices a name stands for.

In a tree, at its top: ``firmware.json`` with name and version (written by the build; the board reports it, which
proves what booted), and optionally ``health``, an executable that the board runs after a try-boot with the tree as
its working directory. Exit status 0 is healthy; anything else makes the board fall back.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import rfc8785

from pytest_edgehil.artifacts.manifest import check_path, check_paths
from pytest_edgehil.errors import RecipeError

IDENTITY_NAME = "firmware.json"
HEALTH_NAME = "health"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareTree:
    """What goes into a firmware artifact.

    Args:
        files: path in the tree → file on disk, or contents.
        executable: paths that are executable.
        digest: over paths, executable bits and contents.
    """

    files: dict[str, Path | bytes]
    executable: frozenset[str]
    digest: str


def read_tree(directory: Path, *, name: str, version: str) -> FirmwareTree:
    """Collect a firmware tree.

    Raises:
        RecipeError: the tree is empty, holds links or special files, names that cannot be packed, a health check
            that is not executable, or a firmware.json that says something else than the recipe.
    """
    identity = rfc8785.dumps({"name": name, "version": version})
    files: dict[str, Path | bytes] = {}
    executable = set()
    for path in sorted(directory.rglob("*")):
        inside = path.relative_to(directory).as_posix()
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise RecipeError(f"{path}: is no regular file; a firmware tree holds files and directories only")
        files[inside] = path
        if mode & 0o100:
            executable.add(inside)
    try:
        for inside in files:
            check_path(inside)
        check_paths(files)
    except ValueError as problem:
        raise RecipeError(f"{directory}: {problem}; rename it") from problem
    _check_identity(directory, name=name, version=version)
    if not files.keys() - {IDENTITY_NAME}:
        raise RecipeError(f"{directory}: holds no file; a firmware tree has at least one")
    # a tarball or a checkout on a file system without modes loses the bit, and the board would skip the check
    if HEALTH_NAME in files and HEALTH_NAME not in executable:
        raise RecipeError(
            f"{directory / HEALTH_NAME}: is not executable, so the board would skip it; run chmod +x on it"
        )
    files[IDENTITY_NAME] = identity
    executable.discard(IDENTITY_NAME)
    return FirmwareTree(files=files, executable=frozenset(executable), digest=_digest(files, executable))


def read_images(images: Mapping[str, Path], *, name: str, version: str) -> FirmwareTree:
    """Collect images.

    Args:
        images: name → file.
        name, version: of the firmware.

    Raises:
        RecipeError: an image is empty or cannot be read.
    """
    files: dict[str, Path | bytes] = {f"{image}.img": path for image, path in sorted(images.items())}
    for path in images.values():
        if path.stat().st_size == 0:
            raise RecipeError(f"{path}: is empty; an image is what its device shall hold")
    files[IDENTITY_NAME] = rfc8785.dumps({"name": name, "version": version})
    return FirmwareTree(files=files, executable=frozenset(), digest=_digest(files, set()))


def _check_identity(directory: Path, *, name: str, version: str) -> None:
    path = directory / IDENTITY_NAME
    if not path.exists():
        return
    try:
        said = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"{path}: is no JSON: {problem}") from problem
    if said != {"name": name, "version": version}:
        raise RecipeError(
            f"{path}: says {said!r:.80}, the recipe says {name} {version}; remove it, the build writes it"
        )


def _digest(files: dict[str, Path | bytes], executable: set[str]) -> str:
    whole = hashlib.sha256()
    for inside in sorted(files):
        source = files[inside]
        whole.update(f"{inside} {int(inside in executable)} {_sha256(source)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _sha256(source: Path | bytes) -> str:
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    try:
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise RecipeError(f"{source}: cannot be read: {problem.strerror}") from problem
