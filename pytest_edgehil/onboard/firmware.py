"""Firmware slots of a Pi 5: two boot partitions and ``tryboot``.

``autoboot.txt`` names the partition that boots by default and the one that boots once after ``reboot "0 tryboot"``;
the flag clears itself, so a firmware that never comes up is left by the next power cycle. Committing is rewriting
``autoboot.txt`` with the two swapped, and nothing else ever changes it (config_txt/autoboot.adoc).

Below the sysroot: ``boot/autoboot.txt``, ``partitions/<n>/`` for each slot's tree,
``proc/device-tree/chosen/bootloader/{tryboot,partition}`` for what really booted.
A tree carries ``edgehil-bundle`` with the digest of the bundle that it was written from, written last: a tree that
was only half written has no identity.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import floor
from .durable import fsync_directory, sha256_of, write_all, write_atomically
from .frames import Message
from .home import Home, remove, sysroot
from .problem import Problem, storage
from .sensors import cell_of
from .unpack import Manifest, install, read_manifest

IDENTITY = "firmware.json"
MARK = "edgehil-bundle"
HEALTH = "health"
HEALTH_TIMEOUT_S = 60.0
MAX_AUTOBOOT_BYTES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """What the bootloader says: partition number and whether it was a trial; None where there is no such node."""

    partition: int | None
    tryboot: bool


def booted() -> Booted:
    """Which partition booted."""
    nodes = "proc/device-tree/chosen/bootloader"
    return Booted(partition=cell_of(f"{nodes}/partition"), tryboot=cell_of(f"{nodes}/tryboot") == 1)


def slot(partition: int) -> Path:
    """The tree of a partition."""
    return sysroot() / "partitions" / str(partition)


def identity(partition: int | None) -> Message | None:
    """Name, version and bundle digest of the firmware in a partition; None when nothing there says so."""
    if partition is None:
        return None
    try:
        value = json.loads((slot(partition) / IDENTITY).read_bytes())
        name, version = str(value["name"]), str(value["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {"name": name, "version": version, "digest": _mark(partition)}


def default_partition() -> int | None:
    """The partition that boots by default, from ``autoboot.txt``."""
    try:
        text = (sysroot() / "boot" / "autoboot.txt").read_text()
    except OSError:
        return None
    section = "all"
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*\[(\w+)\]\s*", line):
            section = match[1]
        elif section == "all" and (match := re.fullmatch(r"\s*boot_partition\s*=\s*(\d+)\s*", line)):
            return int(match[1])
    return None


def write(home: Home, digest: str, partition: int) -> Message:
    """Write a firmware bundle of the store into an inactive partition and read it back.

    Returns:
        ``written_bytes`` and ``skipped`` (the partition held exactly this already).

    Raises:
        Problem: ``bad-request`` for the partition that is running or boots by default, ``wrong-target``,
            ``digest-mismatch`` when what is read back differs, ``disk-full``, ``storage``.
    """
    if partition in {booted().partition, default_partition()}:
        raise Problem("bad-request", f"partition {partition} is in use; a firmware is written to the other one only")
    manifest = install(home, digest)
    if manifest.track != "firmware":
        raise Problem("wrong-target", f"{manifest.name} is of track {manifest.track}, not firmware")
    floor.check(home, manifest)
    floor.check_named(manifest)
    target, source = slot(partition), home.tree(digest)
    if _mark(partition) == digest and not differences(manifest, target):
        return {"written_bytes": 0, "skipped": True}
    with storage(str(target)):
        target.mkdir(parents=True, exist_ok=True)
        fsync_directory(target.parent)
        (target / MARK).unlink(missing_ok=True)
        fsync_directory(target)
        for old in target.iterdir():
            remove(old)
        for one in manifest.files:
            _copy(source / one.path, target / one.path)
        for directory, _, _ in os.walk(target):
            fsync_directory(Path(directory))
    wrong = differences(manifest, target, past_cache=True)
    if wrong:
        raise Problem("digest-mismatch", f"partition {partition} does not read back as written: {wrong[0]}")
    write_atomically(target / MARK, digest.encode())
    return {"written_bytes": sum(one.size_bytes for one in manifest.files), "skipped": False}


def differences(manifest: Manifest, tree: Path, *, past_cache: bool = False) -> list[str]:
    """Every file of a tree that is missing or is not what the manifest says."""
    wrong = []
    for one in manifest.files:
        try:
            found = sha256_of(tree / one.path, past_cache=past_cache)
        except OSError as exc:
            wrong.append(f"{one.path}: {exc.strerror}")
            continue
        if found != one.digest:
            wrong.append(f"{one.path} hashes to {found}, expected {one.digest}")
    return wrong


def prove(home: Home, digest: str, partition: int) -> Message:
    """Did this firmware come up on trial, and is it well?

    Returns:
        What booted, and ``reasons``: every one why it must not be committed; empty when all is well.
    """
    now = booted()
    reasons = []
    if now.partition != partition:
        reasons.append(f"partition {now.partition} booted, expected {partition}")
    elif not now.tryboot:
        reasons.append(f"partition {partition} booted, but not on trial")
    found = identity(now.partition)
    if not reasons:
        if found is None or found["digest"] != digest:
            reasons.append(f"partition {partition} does not carry {digest}")
        else:
            reasons += differences(read_manifest(home.tree(digest)), slot(partition))
    if not reasons:
        failure = _health(slot(partition))
        reasons += [failure] if failure else []
    return {
        "partition": now.partition,
        "tryboot": now.tryboot,
        "name": None if found is None else found["name"],
        "version": None if found is None else found["version"],
        "reasons": reasons,
    }


def commit(partition: int, other: int) -> None:
    """Make a partition the default; the other one becomes the next trial's.

    Raises:
        Problem: ``disk-full``, ``storage``; the old file is still there.
    """
    text = f"[all]\ntryboot_a_b=1\nboot_partition={partition}\n[tryboot]\nboot_partition={other}\n".encode()
    assert len(text) <= MAX_AUTOBOOT_BYTES
    write_atomically(sysroot() / "boot" / "autoboot.txt", text)


def reboot_argv(*, tryboot: bool) -> list[str]:
    """How to reboot; on real hardware the login is not root, and sudo must not ask."""
    program = ["reboot"] if os.geteuid() == 0 or "EDGEHIL_SYSROOT" in os.environ else ["sudo", "-n", "reboot"]
    return [*program, "0 tryboot"] if tryboot else program


def reboot(*, tryboot: bool) -> None:
    """Ask the board to reboot; it may be gone before this returns.

    Raises:
        Problem: ``reboot-failed``: the command is missing or refuses.
    """
    argv = reboot_argv(tryboot=tryboot)
    os.sync()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30.0, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Problem("reboot-failed", f"the board could not be asked to reboot: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise Problem("reboot-failed", f"{' '.join(argv)!r} ended with status {done.returncode}: {said}")


def _mark(partition: int) -> str | None:
    try:
        return (slot(partition) / MARK).read_text().strip()
    except OSError:
        return None


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


def _health(tree: Path) -> str | None:
    """Run the firmware's own check; None when it has none or is well."""
    script = tree / HEALTH
    if not os.access(script, os.X_OK):
        return None
    with tempfile.TemporaryFile() as said:  # no pipe: what the script leaves running would hold it open
        process = subprocess.Popen(
            [str(script)],
            cwd=tree,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=HEALTH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"its health check took longer than {HEALTH_TIMEOUT_S:g} s"
        finally:
            _kill_group(process.pid)  # whatever it left behind must not measure along with us
            process.wait()
        if status == 0:
            return None
        said.seek(0)
        tail = said.read()[-200:].decode(errors="replace").strip()
        return f"its health check ended with status {status}: {tail or 'it said nothing'}"


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
