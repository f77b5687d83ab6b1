"""Firmware: written to the slot that does not run, tried there, proven, and committed; or left again.

`slots` knows which slot boots and what a slot holds. Here is what holds for all of them: never the slot that runs or
boots by default is written; what was written is read back from the medium; a firmware is committed only after it has
booted on trial, has shown who it is and is well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

from . import floor
from .frames import Message
from .home import Home, sysroot
from .manifest import IMAGES, Manifest
from .problem import Problem
from .slots import Slots, Told, directories, images
from .unpack import install, read_manifest

HEALTH_TIMEOUT_S = 60.0


def identity(home: Home, partition: int | None, *, running: bool = False) -> Message | None:
    """Name, version and bundle digest of the firmware in a slot; None when nothing there says so.

    Args:
        home: our directory.
        partition: the slot.
        running: does it run? Then it says itself who it is, and what we noted counts only if it says the same.
    """
    if partition is None:
        return None
    noted = images.identity(home, partition)
    if noted is None:
        return directories.identity(partition) or (images.running_identity() if running else None)
    said = images.running_identity() if running else None
    if said is not None and (said["name"], said["version"]) != (noted["name"], noted["version"]):
        return said
    return noted


def write(
    home: Home, slots: Slots, digest: str, partition: int, tell: Told = lambda _phase, _done, _total: None
) -> Message:
    """Write a firmware bundle of the store into the slot that does not run, and read it back.

    Args:
        home: our directory.
        slots: of this board.
        digest: of the bundle.
        partition: the slot.
        tell: progress.

    Returns:
        ``written_bytes``, ``skipped`` (the slot held exactly this already) and ``read_back``: how (see `readback`).

    Raises:
        Problem: ``bad-request`` for the slot that is running or boots by default, ``wrong-target``,
            ``digest-mismatch`` when what is read back differs, ``disk-full``, ``storage``, ``slots-failed``.
    """
    slots.other(partition)
    state = slots.chooser.state()
    if partition in {state.running, state.default}:
        raise Problem("bad-request", f"partition {partition} is in use; a firmware is written to the other one only")
    manifest = install(home, digest)
    if manifest.track != "firmware":
        raise Problem("wrong-target", f"{manifest.name} is of track {manifest.track}, not firmware")
    floor.check(home, manifest)
    floor.check_named(manifest)
    found = identity(home, partition)
    if found is not None and found["digest"] == digest and not _differences(slots, manifest, partition):
        return {"written_bytes": 0, "skipped": True, "read_back": None}
    if manifest.format == IMAGES:
        images.check_room(slots, manifest, partition)  # before the slot is retired: what it holds may yet be needed
    slots.chooser.retire(partition)  # half of a firmware must not boot
    if manifest.format == IMAGES:
        how = images.write(home, slots, manifest, digest, partition=partition, tell=tell)
        written = manifest.images
    else:
        images.forget(home, partition)
        how = directories.write(manifest, home.tree(digest), digest, partition=partition, tell=tell)
        written = manifest.files
    return {"written_bytes": sum(one.size_bytes for one in written), "skipped": False, "read_back": how}


def prove(home: Home, slots: Slots, digest: str, partition: int) -> Message:
    """Did this firmware come up on trial, and is it well?

    Returns:
        What booted, and ``reasons``: every one why it must not be committed; empty when all is well.
    """
    now = slots.chooser.state()
    reasons = []
    if now.running != partition:
        reasons.append(f"partition {now.running} booted, expected {partition}")
    elif not now.on_trial:
        reasons.append(f"partition {partition} booted, but not on trial")
    found = identity(home, now.running, running=True)
    if not reasons:
        manifest = read_manifest(home.tree(digest))
        if found is None or found["digest"] != digest:
            reasons.append(f"partition {partition} does not carry {digest}{_says_itself(found)}")
        elif manifest.format == IMAGES and images.running_identity() is None:
            reasons.append(f"the firmware does not say who it is: it has no /{images.IDENTITY}")
        elif manifest.format == IMAGES:
            reasons += _wrong_root(slots, manifest, partition)
        else:
            reasons += _differences(slots, manifest, partition)
    if not reasons:
        of_image = manifest.format == IMAGES
        failure = _health(sysroot() / images.HEALTH if of_image else directories.slot(partition) / directories.HEALTH)
        reasons += [failure] if failure else []
    return {
        "partition": now.running,
        "tryboot": now.on_trial,
        "name": None if found is None else found["name"],
        "version": None if found is None else found["version"],
        "reasons": reasons,
    }


def reboot(slots: Slots, *, trial: int | None) -> None:
    """Ask the board to reboot; it may be gone before this returns.

    Args:
        slots: of this board.
        trial: the slot that is to boot once; None: the default, and what runs on trial now is not tried again.

    Raises:
        Problem: ``reboot-failed``: the command is missing or refuses. ``slots-failed``, ``storage``.
    """
    state = slots.chooser.state()
    if trial is not None:
        arguments = slots.chooser.arm(trial)
    else:
        arguments = ()
        if state.running is not None and state.running in slots.partitions and state.running != state.default:
            slots.chooser.retire(state.running)
    argv = reboot_argv(*arguments)
    os.sync()
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30.0, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Problem("reboot-failed", f"the board could not be asked to reboot: {exc}") from exc
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-200:]
        raise Problem("reboot-failed", f"{' '.join(argv)!r} ended with status {done.returncode}: {said}")


def reboot_argv(*arguments: str) -> list[str]:
    """How to reboot; on real hardware the login is not root, and sudo must not ask."""
    program = ["reboot"] if os.geteuid() == 0 or "EDGEHIL_SYSROOT" in os.environ else ["sudo", "-n", "reboot"]
    return [*program, *arguments]


def _differences(slots: Slots, manifest: Manifest, partition: int) -> list[str]:
    if manifest.format == IMAGES:
        return images.differences(slots, manifest, partition)
    return directories.differences(manifest, directories.slot(partition))[0]


def _wrong_root(slots: Slots, manifest: Manifest, partition: int) -> list[str]:
    """Is ``/`` what was written? By its device's number, and, as far as nobody may have changed it, by its bytes."""
    root = images.mounted_root()
    named = [one for one in manifest.images if images.name_of(one) == images.ROOT]
    if root is None or not named:
        return []  # it is not mounted from a device, or not from one of these: what it says of itself has to do
    number, read_only = root
    expected = images.device_number(slots.device(images.ROOT, partition))
    if expected is not None and number != expected:
        return [f"/ is mounted from device {number}, and partition {partition} is device {expected}"]
    return images.differences(slots, manifest, partition) if read_only else []


def _says_itself(found: Message | None) -> str:
    return "" if found is None else f"; it says that it is {found['name']} {found['version']}"


def _health(script: Path) -> str | None:
    """Run the firmware's own check; None when it has none or is well."""
    if not os.access(script, os.X_OK):
        return None
    with tempfile.TemporaryFile() as said:  # no pipe: what the script leaves running would hold it open
        process = subprocess.Popen(
            [str(script)],
            cwd=script.parent,
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
