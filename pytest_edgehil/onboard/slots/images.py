"""A firmware that is images: each is written to a device of the slot, straight from the board's store.

A device has no room for a mark of ours, so ``slots/<number>.json`` in our directory says which bundle a slot was
written from. The mark goes before the first byte is written and comes back when all of it has been read back: a slot
that was only half written has no identity. Our directory must be on a partition that both slots share.

Inside of an image, ``/etc/edgehil/firmware.json`` gives name and version, and ``/etc/edgehil/health``, if there is one,
is run while the firmware is on trial.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..durable import fsync_directory, write_atomically
from ..frames import Message
from ..home import Home, sysroot
from ..manifest import Entry, Manifest
from ..problem import Problem, storage
from ..readback import DIRECT, sha256_on_medium
from ..uncached import Uncached
from ..unpack import member
from . import Slots, Told

IDENTITY = "etc/edgehil/firmware.json"
HEALTH = "etc/edgehil/health"
ROOT = "root"
"""Name of the image that ``/`` is mounted from."""

FLUSH_BYTES = 8 * 2**20
"""After so many bytes they are brought to the medium: progress is of what is there, and memory stays free."""


def name_of(entry: Entry) -> str:
    """An image's name: its file's, without ``.img``."""
    return entry.path.removesuffix(".img")


def identity(home: Home, partition: int) -> Message | None:
    """Name, version and bundle digest of what a slot was written from; None when nothing says so."""
    try:
        value = json.loads(_mark(home, partition).read_bytes())
        return {"name": str(value["name"]), "version": str(value["version"]), "digest": str(value["digest"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def running_identity() -> Message | None:
    """Name and version that the running firmware gives itself."""
    try:
        value = json.loads((sysroot() / IDENTITY).read_bytes())
        return {"name": str(value["name"]), "version": str(value["version"]), "digest": None}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def forget(home: Home, partition: int) -> None:
    """From now on nothing says what a slot holds.

    Raises:
        Problem: ``storage``.
    """
    path = _mark(home, partition)
    with storage(str(path)):
        if path.exists():
            path.unlink()
            fsync_directory(path.parent)


def check_room(slots: Slots, manifest: Manifest, partition: int) -> None:
    """Do the images of a bundle fit onto the devices of a slot?

    Raises:
        Problem: ``wrong-target``: no such device, or it is too small.
    """
    for one in manifest.images:
        _check_room(slots.device(name_of(one), partition), one)


def write(home: Home, slots: Slots, manifest: Manifest, digest: str, *, partition: int, tell: Told) -> str:
    """Write the images of a bundle to the devices of a slot, and read them back.

    Returns:
        How they were read back.

    Raises:
        Problem: ``wrong-target``: no such device. ``digest-mismatch``, ``storage``.
    """
    total, how = sum(one.size_bytes for one in manifest.images), DIRECT
    forget(home, partition)
    done = 0
    for one in manifest.images:
        _copy(home.bundle(digest), one, slots.device(name_of(one), partition), _behind(done, "write", total, tell))
        done += one.size_bytes
    done = 0
    for one in manifest.images:
        device = slots.device(name_of(one), partition)
        wrong, read = _difference(device, one, _behind(done, "verify", total, tell))
        if wrong is not None:
            damaged = _damaged(home.bundle(digest), one)
            raise Problem("digest-mismatch", damaged or f"partition {partition} does not read back as written: {wrong}")
        how = how if read == DIRECT else read
        done += one.size_bytes
    mark = {"name": manifest.name, "version": manifest.version, "digest": digest}
    write_atomically(_mark(home, partition), json.dumps(mark, sort_keys=True).encode())
    return how


def differences(slots: Slots, manifest: Manifest, partition: int) -> list[str]:
    """Every image that is not on its device."""
    found = (_difference(slots.device(name_of(one), partition), one) for one in manifest.images)
    return [wrong for wrong, _ in found if wrong is not None]


def mounted_root() -> tuple[str, bool] | None:
    """Number of the device that ``/`` is mounted from, such as ``254:2``, and whether it is mounted read-only.

    None where nobody can tell: no ``mountinfo``, or no device behind it. Format: proc_pid_mountinfo(5).
    """
    try:
        lines = (sysroot() / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return None
    found = None
    for line in lines:
        words = line.split()
        if len(words) > 5 and words[4] == "/" and not words[2].startswith("0:"):
            found = words[2], "ro" in words[5].split(",")
    return found


def device_number(device: Path) -> str | None:
    """Number of a block device, such as ``254:2``; None where it has none."""
    try:
        return (sysroot() / "sys/class/block" / device.resolve().name / "dev").read_text().strip()
    except OSError:
        return None


def _mark(home: Home, partition: int) -> Path:
    return home.slots / f"{partition}.json"


def _check_room(device: Path, image: Entry) -> None:
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Problem("wrong-target", f"the slot's device {device} cannot be opened: {exc.strerror}") from exc
    try:
        kind = os.fstat(descriptor).st_mode
        if not stat.S_ISBLK(kind) and sysroot() == Path("/"):  # a file that is not there would be made in memory's /dev
            raise Problem("wrong-target", f"the slot's device {device} is no block device")
        room = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    if room < image.size_bytes:
        raise Problem("wrong-target", f"{image.path} has {image.size_bytes} bytes, its device {device} only {room}")


def _behind(before: int, phase: str, total: int, tell: Told) -> Callable[[int], None]:
    """Progress within one image as progress of all; told when something has been flushed, not for every block."""

    def told(done: int) -> None:
        if done % FLUSH_BYTES == 0 or before + done == total:
            tell(phase, before + done, total)

    return told


def _copy(bundle: Path, image: Entry, device: Path, tell: Callable[[int], None]) -> None:
    """Write an image; what has been written is looked at afterwards, when it is read back."""
    with storage(str(device)):
        # O_EXCL on a block device, without O_CREAT: busy if it is mounted (open(2))
        descriptor = os.open(device, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
        try:
            writer = Uncached(descriptor)
            for block in member(bundle, image.path):
                before = writer.written_bytes
                writer.write(block)
                if writer.written_bytes != before and writer.written_bytes % FLUSH_BYTES == 0:
                    os.fdatasync(descriptor)
                    tell(writer.written_bytes)
            writer.finish()
            os.fsync(descriptor)
            tell(writer.written_bytes)
        finally:
            os.close(descriptor)


def _damaged(bundle: Path, image: Entry) -> str | None:
    """What is wrong with an image in the store; None if nothing is."""
    digest = hashlib.sha256()
    for block in member(bundle, image.path):
        digest.update(block)
    found = f"sha256:{digest.hexdigest()}"
    return None if found == image.digest else f"{image.path} in the board's store hashes to {found}"


def _difference(device: Path, image: Entry, tell: Callable[[int], None] = lambda _done: None) -> tuple[str | None, str]:
    try:
        found, how = sha256_on_medium(device, size_bytes=image.size_bytes, tell=tell)
    except OSError as exc:
        return f"{image.path} on {device}: {exc.strerror}", DIRECT
    if found != image.digest:
        return f"{image.path} on {device} hashes to {found}, expected {image.digest}", how
    return None, how
