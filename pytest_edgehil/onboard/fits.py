"""Does a combo go together, and with this board? The board's own answer, whatever the host believed.

The rules are those of the host's ``artifacts/compat.py``; every clash is listed. The class of a board is a word of
its lab, not a fact about it: it is judged when somebody says it (the host, or ``board.json`` in our directory, which
a fleet's provisioning writes).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .home import Home
from .manifest import Manifest, version_key
from .problem import Problem, storage

_SAME_MACHINE = {"arm64": "aarch64", "amd64": "x86_64"}
_ALWAYS_THERE = "replay"


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What this board is.

    Args:
        cls: class, or None: nobody has said.
        runtimes: tells runtime → version; asked only when something needs one, for it may have to import them.
        firmware: name and version of what is running, or None.
        bootloader: date of its EEPROM's bootloader, or None.
    """

    cls: str | None
    machine: str
    page_size_bytes: int
    accelerator: str | None
    runtimes: Callable[[], Mapping[str, str]]
    firmware: tuple[str, str] | None
    bootloader: str | None = None


def here(
    home: Home, platform: Mapping[str, object], *, runtimes: Callable[[], Mapping[str, str]], cls: object = None
) -> Here:
    """This board, as its own program knows it.

    Args:
        home: our directory.
        platform: what the hello said.
        runtimes: tells runtime → version.
        cls: what the host says of the class, or None.

    Raises:
        Problem: ``bad-request``, ``storage``; the class that is written on the board is another one than the host's.
    """
    if cls is not None and not isinstance(cls, str):
        raise Problem("bad-request", f"the board's class is {str(cls)[:40]!r}, expected a word")
    written = _written_class(home)
    if cls is not None and written is not None and cls != written:
        raise Problem("wrong-target", f"the host takes this board for a {cls}; {home.root}/board.json says {written}")
    firmware, bootloader = platform.get("firmware"), platform.get("bootloader")
    name, _, version = firmware.rpartition(" ") if isinstance(firmware, str) else ("", "", "")
    accelerator = platform.get("accelerator")
    return Here(
        cls=written or cls,
        machine=os.uname().machine,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        accelerator=accelerator if isinstance(accelerator, str) else None,
        runtimes=runtimes,
        firmware=(name, version) if name else None,
        bootloader=bootloader if isinstance(bootloader, str) else None,
    )


def check(combo: Mapping[str, Manifest], board: Here) -> None:
    """Refuse a combo that does not fit.

    Args:
        combo: track → manifest.
        board: where.

    Raises:
        Problem: ``wrong-target``, with every clash; ``runtime-missing`` if nothing else is wrong: then the board lacks
            what its lab promises, and the combo is not to blame.
    """
    found = list(clashes(combo, board))
    if found:
        labelled = ((manifest, f"{manifest.name} {manifest.version}") for manifest in combo.values())
        missing = {clash for manifest, label in labelled for clash in _of_runtime(manifest, label, board)}
        raise Problem("runtime-missing" if missing >= set(found) else "wrong-target", "; ".join(found))


def check_alone(manifest: Manifest, board: Here) -> None:
    """Refuse one artifact that is not made for this board, whatever comes with it.

    A runtime that is missing is left to whoever loads it: that is the board's fault and not the artifact's, and the
    attempt says why it is missing.

    Raises:
        Problem: ``wrong-target``, with every clash.
    """
    found = list(_of_target(manifest, f"{manifest.name} {manifest.version}", board, absent_runtime=False))
    if found:
        raise Problem("wrong-target", "; ".join(found))


def clashes(combo: Mapping[str, Manifest], board: Here) -> Iterator[str]:
    """Everything that keeps a combo off this board."""
    for track, manifest in combo.items():
        label = f"{manifest.name} {manifest.version}"
        if manifest.track != track:
            yield f"{label} is of track {manifest.track} and cannot be the {track}"
        yield from _of_target(manifest, label, board)
        yield from _of_dependencies(manifest, label, combo, board)


def _of_target(manifest: Manifest, label: str, board: Here, *, absent_runtime: bool = True) -> Iterator[str]:
    classes = manifest.board_classes
    if board.cls is not None and not any(fnmatchcase(board.cls, pattern) for pattern in classes):
        yield f"{label} is made for board class {' or '.join(classes)}, this board is a {board.cls}"
    machine = _SAME_MACHINE.get(board.machine, board.machine)
    if manifest.architectures and machine not in {_SAME_MACHINE.get(one, one) for one in manifest.architectures}:
        yield f"{label} is made for {' or '.join(manifest.architectures)}, this board is {board.machine}"
    wanted = manifest.accelerators
    if wanted and not any(fnmatchcase(board.accelerator or "", pattern) for pattern in wanted):
        yield f"{label} needs the accelerator {' or '.join(wanted)}, this board has {board.accelerator or 'none'}"
    if manifest.page_sizes_bytes and board.page_size_bytes not in manifest.page_sizes_bytes:
        made = " or ".join(map(str, manifest.page_sizes_bytes))
        yield f"{label} is made for pages of {made} bytes, this kernel has {board.page_size_bytes}"
    if absent_runtime or (manifest.runtime is not None and manifest.runtime in board.runtimes()):
        yield from _of_runtime(manifest, label, board)


def _of_runtime(manifest: Manifest, label: str, board: Here) -> Iterator[str]:
    name = manifest.runtime
    if name is None or name == _ALWAYS_THERE:
        return
    there = board.runtimes()
    version = there.get(name)
    if version is None:
        has = ", ".join(f"{one} {number}" for one, number in sorted(there.items())) or "no runtime"
        yield f"{label} needs the runtime {name}, this board has {has}"
        return
    if manifest.min_runtime_version is not None and version_key(version) < version_key(manifest.min_runtime_version):
        yield f"{label} needs {name} {manifest.min_runtime_version} or newer, this board has {version}"
    below = manifest.below_runtime_version
    if below is not None and version_key(version) >= version_key(below):
        yield f"{label} needs a {name} before {below}, this board has {version}"


def _of_dependencies(manifest: Manifest, label: str, combo: Mapping[str, Manifest], board: Here) -> Iterator[str]:
    provided: dict[str, str] = {}
    if board.firmware is not None and "firmware" not in combo:
        provided["firmware.name"], provided["firmware.version"] = board.firmware
    if board.accelerator is not None:
        provided["board.accelerator"] = board.accelerator
    if board.cls is not None:
        provided["board.class"] = board.cls
    if board.bootloader is not None:
        provided["board.bootloader"] = board.bootloader
    for other in combo.values():
        if other is not manifest:
            provided.update(other.provides)
    for key, acceptable in sorted(manifest.depends.items()):
        wanted = " or ".join(acceptable)
        if key == "board.class" and board.cls is None:
            continue
        if key not in provided:
            yield f"{label} needs {key} {wanted}, which nothing in the combo or on this board provides"
        elif not any(acceptable_value(provided[key], pattern) for pattern in acceptable):
            yield f"{label} needs {key} {wanted}, but it is {provided[key]}"


def acceptable_value(value: str, wanted: str) -> bool:
    """Is a value what a dependency wants: a shell pattern, or ``>=`` and the lowest version or date."""
    if wanted.startswith(">="):
        return version_key(value.replace("-", ".")) >= version_key(wanted[2:].strip().replace("-", "."))
    return fnmatchcase(value, wanted)


def _written_class(home: Home) -> str | None:
    path = home.root / "board.json"
    with storage(str(path)):
        try:
            found = json.loads(path.read_bytes())["class"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as exc:
            raise Problem("storage", f"{path} does not say the board's class: {exc}") from exc
    return found if isinstance(found, str) else None
