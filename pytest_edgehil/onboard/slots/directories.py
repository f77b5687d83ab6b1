"""A firmware that is a tree of files: a slot is the directory ``/partitions/<number>``.

On a Pi the two partitions are mounted there; on a virtual board they are directories. A tree carries
``edgehil-bundle`` with the digest of the bundle that it was written from, written last: a tree that was only half
written has no identity.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ..durable import fsync_directory, write_all, write_atomically
from ..frames import Message
from ..home import remove, sysroot
from ..manifest import Manifest
from ..problem import Problem, storage
from ..readback import DIRECT, sha256_on_medium
from . import Told

FORMAT = "firmware-tree"
IDENTITY = "firmware.json"
MARK = "edgehil-bundle"
HEALTH = "health"


def slot(partition: int) -> Path:
    """The tree of a partition."""
    return sysroot() / "partitions" / str(partition)


def identity(partition: int) -> Message | None:
    """Name, version and bundle digest of the firmware in a partition; None when nothing there says so."""
    try:
        value = json.loads((slot(partition) / IDENTITY).read_bytes())
        name, version = str(value["name"]), str(value["version"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return {"name": name, "version": version, "digest": mark(partition)}


def mark(partition: int) -> str | None:
    """Digest of the bundle that the whole of a tree was written from."""
    try:
        return (slot(partition) / MARK).read_text().strip()
    except OSError:
        return None


def write(manifest: Manifest, source: Path, digest: str, *, partition: int, tell: Told) -> str:
    """Write a tree and read it back.

    Args:
        manifest: of the firmware.
        source: where it is unpacked.
        digest: of the bundle.
        partition: the slot.
        tell: progress.

    Returns:
        How it was read back.

    Raises:
        Problem: ``digest-mismatch``, ``disk-full``, ``storage``.
    """
    target, total, done = slot(partition), sum(one.size_bytes for one in manifest.files), 0
    with storage(str(target)):
        target.mkdir(parents=True, exist_ok=True)
        fsync_directory(target.parent)
        (target / MARK).unlink(missing_ok=True)
        fsync_directory(target)
        for old in target.iterdir():
            remove(old)
        for one in manifest.files:
            _copy(source / one.path, target / one.path)
            done += one.size_bytes
            tell("write", done, total)
        for directory, _, _ in os.walk(target):
            fsync_directory(Path(directory))
    wrong, how = differences(manifest, target, tell)
    if wrong:
        raise Problem("digest-mismatch", f"partition {partition} does not read back as written: {wrong[0]}")
    write_atomically(target / MARK, digest.encode())
    return how


def differences(
    manifest: Manifest, tree: Path, tell: Told = lambda _phase, _done, _total: None
) -> tuple[list[str], str]:
    """Every file of a tree that is missing or is not on the medium what the manifest says, and how it was read."""
    wrong, how, done, total = [], DIRECT, 0, sum(one.size_bytes for one in manifest.files)
    for one in manifest.files:
        try:
            found, read = sha256_on_medium(tree / one.path)
        except OSError as exc:
            wrong.append(f"{one.path}: {exc.strerror}")
            continue
        how = how if read == DIRECT else read
        done += one.size_bytes
        tell("verify", done, total)
        if found != one.digest:
            wrong.append(f"{one.path} hashes to {found}, expected {one.digest}")
    return wrong, how


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = 0o755 if os.access(source, os.X_OK) else 0o644
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with source.open("rb") as stream:
            while block := stream.read(2**20):
                write_all(descriptor, block)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
