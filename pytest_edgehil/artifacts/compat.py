"""Does a combo go together, and with a board? Asked before anything is sent; every clash is listed, not the first.

Rules:

- the board's class matches one of the artifact's patterns, and its machine is one of the artifact's architectures;
- its accelerator and its kernel's page size are among those that the artifact names, if it names any;
- the board has the artifact's runtime, within its range of versions (``replay`` is part of the on-board program and
  always there);
- each of the artifact's `depends` is provided: by another artifact of the combo, by the board
  (``board.class``, ``board.accelerator``), or by what the caller says is on it already. A value may be a shell
  pattern, or ``>=`` and the lowest version or date that will do (``board.bootloader: [">=2025-01-22"]``).

What is not known (a machine or runtimes that nobody has asked the board for yet) is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from pytest_edgehil.artifacts.manifest import NUMBERS, version_key
from pytest_edgehil.errors import WrongTarget
from pytest_edgehil.model.artifact import Artifact, Combo, Track
from pytest_edgehil.model.board import Board, Slots

ALWAYS_THERE = frozenset({"replay"})
"""Runtimes that come with the on-board program."""

_SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64"}


def clashes(
    combo: Combo,
    board: Board,
    *,
    machine: str | None = None,
    page_size_bytes: int | None = None,
    runtimes: Mapping[str, str] | None = None,
    provided: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Everything that keeps a combo off a board; empty when it fits.

    Args:
        combo: what would be flashed.
        board: where.
        machine: what ``uname -m`` says on the board; None: not known yet.
        page_size_bytes: of its kernel; None: not known yet.
        runtimes: runtime → version, as the board reports them; None: not known yet.
        provided: what is on the board already and stays there, such as ``{"firmware.name": "edge-os"}``.
    """
    found: list[str] = []
    for track, artifact in ((Track.FIRMWARE, combo.firmware), (Track.MODEL, combo.model), (Track.PROMPT, combo.prompt)):
        if artifact is None:
            continue
        if artifact.manifest.track is not track:
            found.append(f"{artifact.label} is of track {artifact.manifest.track}, but stands in the combo as {track}")
        found.extend(_target_clashes(artifact, board, machine, page_size_bytes))
        clash = _runtime_clash(artifact, runtimes)
        if clash:
            found.append(clash)
        found.extend(_dependency_clashes(artifact, combo, board, provided or {}))
    return tuple(found)


def check_combo(
    combo: Combo,
    board: Board,
    *,
    machine: str | None = None,
    page_size_bytes: int | None = None,
    runtimes: Mapping[str, str] | None = None,
    provided: Mapping[str, str] | None = None,
) -> None:
    """Refuse a combo that does not fit; arguments as for `clashes`.

    Raises:
        WrongTarget: with every clash.
    """
    found = clashes(
        combo, board, machine=machine, page_size_bytes=page_size_bytes, runtimes=runtimes, provided=provided
    )
    if found:
        raise WrongTarget(f"{combo.label} does not fit board {board.id} ({board.cls}): {'; '.join(found)}")


def needs_runtime(combo: Combo) -> bool:
    """Does anything of it need a runtime that a board may lack?"""
    return any(one.manifest.target.runtime not in {None, *ALWAYS_THERE} for one in combo.artifacts)


def missing_runtimes(combo: Combo, runtimes: Mapping[str, str]) -> tuple[str, ...]:
    """The clashes that are a runtime that the board lacks or has too old."""
    return tuple(clash for artifact in combo.artifacts if (clash := _runtime_clash(artifact, runtimes)))


def acceptable_value(value: str, wanted: str) -> bool:
    """Is a value what a dependency wants: a shell pattern, or ``>=`` and the lowest version or date.

    >>> acceptable_value("2025-09-22", ">=2025-01-22"), acceptable_value("edge-os", "edge-*")
    (True, True)
    """
    if wanted.startswith(">="):
        return version_key(value.replace("-", ".")) >= version_key(wanted[2:].strip().replace("-", "."))
    return fnmatchcase(value, wanted)


def firmware_clashes(combo: Combo, *, floor: str | None, slots: Slots | None) -> tuple[str, ...]:
    """Everything that keeps a combo's firmware out of a board's slots; empty when it has none, or it goes there.

    Args:
        combo: what would be flashed.
        floor: oldest version that the board takes; None: any.
        slots: of the board; None: it has none.
    """
    firmware = combo.firmware
    if firmware is None:
        return ()
    found, manifest, label = [], firmware.manifest, firmware.label
    if floor is not None and version_key(manifest.version) < version_key(floor):
        found.append(f"{label} is below the board's firmware floor {floor}: a downgrade is refused")
    named = manifest.provides.get("firmware.floor")
    if named is not None and (not NUMBERS.fullmatch(named) or version_key(named) > version_key(manifest.version)):
        found.append(f"{label} provides firmware.floor {named!r}, expected a version up to its own")
    if slots is None:
        found.append(f"{label} needs firmware slots, and the board has none: add 'slots:' to it in lab.yaml")
        return tuple(found)
    if manifest.format == "firmware-image":
        images = [one.path.removesuffix(".img") for one in manifest.files if one.path.endswith(".img")]
        has = ", ".join(sorted(slots.devices)) or "none"
        found += [
            f"{label} has an image {image!r}, and the board's slots name no device for it (they name {has})"
            for image in images
            if image not in slots.devices
        ]
    return tuple(found)


def _target_clashes(
    artifact: Artifact, board: Board, machine: str | None, page_size_bytes: int | None
) -> Iterator[str]:
    target = artifact.manifest.target
    if not any(fnmatchcase(board.cls, pattern) for pattern in target.board_classes):
        yield f"{artifact.label} is made for board class {' or '.join(target.board_classes)}, the board is {board.cls}"
    if machine is not None and target.architectures:
        allowed = {_SAME_MACHINE.get(one, one) for one in target.architectures}
        if _SAME_MACHINE.get(machine, machine) not in allowed:
            yield f"{artifact.label} is made for {' or '.join(target.architectures)}, the board is {machine}"
    kind = None if board.accelerator is None else board.accelerator.kind
    if target.accelerators and not any(fnmatchcase(kind or "", pattern) for pattern in target.accelerators):
        wanted = " or ".join(target.accelerators)
        yield f"{artifact.label} needs the accelerator {wanted}, the board has {kind or 'none'}"
    if page_size_bytes is not None and target.page_sizes_bytes and page_size_bytes not in target.page_sizes_bytes:
        made = " or ".join(map(str, target.page_sizes_bytes))
        yield f"{artifact.label} is made for pages of {made} bytes, the board's kernel has {page_size_bytes}"


def _runtime_clash(artifact: Artifact, runtimes: Mapping[str, str] | None) -> str | None:
    target = artifact.manifest.target
    name, lowest = target.runtime, target.min_runtime_version
    if name is None or runtimes is None or name in ALWAYS_THERE:
        return None
    if name not in runtimes:
        has = ", ".join(f"{one} {version}" for one, version in sorted(runtimes.items())) or "no runtime"
        return f"{artifact.label} needs the runtime {name}, the board has {has}"
    found = version_key(runtimes[name])
    if lowest is not None and found < version_key(lowest):
        return f"{artifact.label} needs {name} {lowest} or newer, the board has {runtimes[name]}"
    if target.below_runtime_version is not None and found >= version_key(target.below_runtime_version):
        return f"{artifact.label} needs a {name} before {target.below_runtime_version}, the board has {runtimes[name]}"
    return None


def _dependency_clashes(artifact: Artifact, combo: Combo, board: Board, on_board: Mapping[str, str]) -> Iterator[str]:
    provided = dict(on_board)
    provided["board.class"] = board.cls
    if board.accelerator is not None:
        provided["board.accelerator"] = board.accelerator.kind
    for other in combo.artifacts:
        if other is not artifact:
            provided.update(other.manifest.provides)
    for key, acceptable in sorted(artifact.manifest.depends.items()):
        wanted = " or ".join(acceptable)
        if key not in provided:
            yield f"{artifact.label} needs {key} {wanted}, which nothing in the combo or on the board provides"
        elif not any(acceptable_value(provided[key], pattern) for pattern in acceptable):
            yield f"{artifact.label} needs {key} {wanted}, but it is {provided[key]}"
