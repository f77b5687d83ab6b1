"""What a bundle says of itself, and the rules it must keep: those of the host's ``artifacts/manifest.py``, every one.

A board may be told what to install by somebody else than our host (a fleet's server), so it believes nobody that a
manifest has been checked. What the host refuses the board refuses, and the other way about; a test holds both to the
same made-up manifests. Patterns are given as text: `re` keeps them once compiled, and a board that reads no manifest
does not pay for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .problem import Problem

MANIFEST = "manifest.json"
SCHEMA = 1
MAX_HEALTH_S = 3600
MAX_PATH_CHARACTERS = 200
IMAGES = "firmware-image"
"""Format of a firmware that consists of images for devices."""
FORMATS = {
    "onnx": "model",
    "replay": "model",
    "prompt-bundle": "prompt",
    "firmware-tree": "firmware",
    IMAGES: "firmware",
}
"""Format → the track that it belongs to."""

_MAX_INTEGER = 2**53 - 1
_MAX_FILES = 4096
_DIGEST = r"sha256:[0-9a-f]{64}"
_WORD = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
_VERSION = r"[0-9A-Za-z]+(?:[.+_-][0-9A-Za-z]+)*"
_PATTERN = r"[A-Za-z0-9*?!\[\]._-]+"
_NUMBERS = r"[0-9]+(?:\.[0-9]+)*"
_MACHINE = r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*"
_KEY = r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*"
_PRINTABLE = r"[ -~]+"
_SEGMENT = r"[A-Za-z0-9_.+@=,:~-]+"
_IMAGE = r"firmware\.json|[a-z0-9][a-z0-9_-]{0,31}\.img"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file that a manifest announces."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an artifact proves itself: a file of the bundle, and how long it may take."""

    path: str
    timeout_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The part of a manifest that the board acts upon."""

    name: str
    version: str
    track: str
    format: str
    entry: str
    runtime: str | None
    min_runtime_version: str | None
    below_runtime_version: str | None
    board_classes: tuple[str, ...]
    architectures: tuple[str, ...]
    accelerators: tuple[str, ...]
    page_sizes_bytes: tuple[int, ...]
    provides: Mapping[str, str]
    depends: Mapping[str, tuple[str, ...]]
    files: tuple[Entry, ...]
    health: Health | None = None

    @property
    def images(self) -> tuple[Entry, ...]:
        """Files that are written to devices, straight from the bundle: they are never unpacked."""
        return tuple(one for one in self.files if self.format == IMAGES and one.path.endswith(".img"))

    @property
    def unpacked(self) -> tuple[Entry, ...]:
        """Files of the unpacked tree."""
        images = set(self.images)
        return tuple(one for one in self.files if one not in images)


def corrupt(message: str) -> Problem:
    """The bundle is not what it says it is."""
    return Problem("corrupt-artifact", message)


def unsafe(message: str) -> Problem:
    """The bundle holds what must never be unpacked."""
    return Problem("unsafe-archive", message)


def check_path(path: str) -> str:
    """A path inside a bundle: relative, plain ASCII, so that no file system takes two for one.

    Raises:
        Problem: ``unsafe-archive``.
    """
    parts = path.split("/")
    if (
        not path
        or len(path) > MAX_PATH_CHARACTERS
        or path[1:2] == ":"
        or any(part in {".", ".."} or re.fullmatch(_SEGMENT, part) is None for part in parts)
    ):
        raise unsafe(f"the bundle holds a file with the path {path[:120]!a}; paths must be relative and plain")
    return path


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest, and hold it to every rule.

    Raises:
        Problem: ``corrupt-artifact`` or ``unsafe-archive``.
    """
    try:
        value = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as exc:
        raise corrupt(f"the bundle's manifest cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        raise corrupt("the bundle's manifest is not a JSON object")
    if type(value.get("schema")) is not int or value["schema"] != SCHEMA:
        raise corrupt(f"the bundle's manifest has schema {value.get('schema')!a:.80}; this board understands {SCHEMA}")
    _check_fields(
        value,
        "schema name version track format quantisation target files entry artifact_provides artifact_depends budgets "
        "timing health provenance",
        "",
    )
    kind, track = _choice(value, "format", FORMATS), _choice(value, "track", set(FORMATS.values()))
    if FORMATS[kind] != track:
        raise corrupt(f"the manifest's format {kind} belongs to track {FORMATS[kind]}, not {track}")
    if (_text(value["quantisation"], "quantisation", _WORD) == "none") == (track == "model"):
        raise corrupt(f"the manifest's quantisation {value['quantisation']} does not go with track {track}")
    files = _files(value["files"], kind)
    paths = {one.path for one in files}
    if not isinstance(value["entry"], str) or value["entry"] not in paths:
        raise corrupt(f"the manifest's entry {str(value['entry'])[:120]!a} is not one of its files")
    target = _target(value["target"])
    _check_budgets(value["budgets"])
    _check_timing(value["timing"])
    _check_provenance(value["provenance"])
    health = _health(value["health"], paths)
    if health is not None and track == "prompt":
        raise corrupt("the manifest is of a prompt bundle, and it has a health check, which no board could run")
    provides, depends = _table(value["artifact_provides"], "artifact_provides"), value["artifact_depends"]
    made = Manifest(
        name=_text(value["name"], "name", _WORD),
        version=_text(value["version"], "version", _VERSION),
        track=track,
        format=kind,
        entry=value["entry"],
        runtime=target["runtime"],
        min_runtime_version=target["min_runtime_version"],
        below_runtime_version=target["below_runtime_version"],
        board_classes=tuple(target["board_classes"]),
        architectures=tuple(target["architectures"]),
        accelerators=tuple(target["accelerators"]),
        page_sizes_bytes=tuple(target["page_sizes_bytes"]),
        provides={key: _text(one, key, _PRINTABLE, 256) for key, one in provides.items()},
        depends={
            key: tuple(_texts(one, key, _PRINTABLE, longest=256, most=256, least=1))
            for key, one in _table(depends, "artifact_depends").items()
        },
        files=files,
        health=health,
    )
    if json.dumps(value, sort_keys=True, separators=(",", ":")).encode() != data:
        raise corrupt("the bundle's manifest is not in canonical form (RFC 8785: sorted keys, no spaces)")
    return made


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice: two readers could each believe another one of them."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, comparable; zeros at the end say nothing."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# --- one function for each part ----------------------------------------------------------------------


def _files(value: object, kind: str) -> tuple[Entry, ...]:
    if not isinstance(value, list) or not value:
        raise corrupt(f"the manifest's files are {type(value).__name__}, expected a list of one file or more")
    if len(value) > _MAX_FILES:
        raise unsafe(f"the manifest lists {len(value)} files; the limit is {_MAX_FILES}")
    files = tuple(_entry(one) for one in value)
    folded = [one.path.casefold() for one in files]
    if len(set(folded)) != len(folded):
        raise unsafe("the manifest lists a path twice (or two that differ in case only)")
    below = {path[: at.start()] for path in folded for at in re.finditer("/", path)}
    if below & set(folded):
        raise unsafe(f"the manifest lists {min(below & set(folded))!r} both as a file and as a directory")
    paths = [one.path for one in files]
    if paths != sorted(paths):
        raise corrupt("the manifest's files are not sorted by path")
    if kind == IMAGES and not any(path.endswith(".img") for path in paths):
        raise corrupt("the manifest is of a firmware of images, and it lists no image")
    if kind == IMAGES and any(re.fullmatch(_IMAGE, path) is None for path in paths):
        raise corrupt("the manifest is of a firmware of images, and it lists more than images and firmware.json")
    return files


def _entry(value: object) -> Entry:
    _check_fields(value, "path digest size_bytes", "files")
    assert isinstance(value, dict)
    path, size = value["path"], value["size_bytes"]
    if not isinstance(path, str):
        raise corrupt(f"the manifest's entry for {str(path)[:120]!a} has no path")
    if check_path(path).casefold() == MANIFEST:
        raise unsafe("the manifest lists itself")
    if type(size) is not int or size < 0:
        raise corrupt(f"the manifest's size of {path!a} is {str(size)[:80]!a}, expected 0 or more")
    if size > _MAX_INTEGER:
        raise unsafe(f"the manifest announces {str(size)[:80]} bytes for {path!a}")
    return Entry(path=path, digest=_text(value["digest"], f"digest of {path}", _DIGEST, 71), size_bytes=size)


def _target(value: object) -> Mapping[str, Any]:
    _check_fields(
        value,
        "name board_classes architectures accelerators page_sizes_bytes runtime min_runtime_version "
        "below_runtime_version",
        "target",
    )
    assert isinstance(value, dict)
    _text(value["name"], "target.name", _WORD)
    _texts(value["board_classes"], "target.board_classes", _PATTERN, least=1)
    _texts(value["architectures"], "target.architectures", _MACHINE)
    _texts(value["accelerators"], "target.accelerators", _PATTERN)
    sizes = value["page_sizes_bytes"]
    if not isinstance(sizes, list) or len(sizes) > 8 or any(type(one) is not int for one in sizes):
        raise corrupt("the manifest's target.page_sizes_bytes is not a list of sizes")
    if not set(sizes) <= {4096, 16384, 65536}:
        raise corrupt(f"the manifest's target.page_sizes_bytes has {min(set(sizes) - {4096, 16384, 65536})}")
    runtime, lowest, below = (
        None if value[one] is None else _text(value[one], f"target.{one}", pattern)
        for one, pattern in (("runtime", _WORD), ("min_runtime_version", _NUMBERS), ("below_runtime_version", _NUMBERS))
    )
    if runtime is None and (lowest is not None or below is not None):
        raise corrupt("the manifest's target has versions of a runtime and no runtime")
    if lowest is not None and below is not None and version_key(below) <= version_key(lowest):
        raise corrupt(f"the manifest's target wants a runtime of at least {lowest} and below {below}")
    return value


def _check_budgets(value: object) -> None:
    names = "p95_latency_us peak_rss_bytes size_bytes"
    _check_fields(value, names, "budgets")
    assert isinstance(value, dict)
    for name in names.split():
        if value[name] is not None:
            _positive(value[name], f"budgets.{name}")


def _check_timing(value: object) -> None:
    if not isinstance(value, list) or len(value) > 256:
        raise corrupt("the manifest's timing is not a list of 256 tasks at most")
    tasks = set()
    for one in value:
        _check_fields(one, "task budget_us tool report", "timing")
        tasks.add(_text(one["task"], "timing.task", _WORD))
        _positive(one["budget_us"], "timing.budget_us")
        _text(one["tool"], "timing.tool", _PRINTABLE, 256)
        _text(one["report"], "timing.report", _DIGEST, 71)
    if len(tasks) != len(value):
        raise corrupt("the manifest's timing has a task twice")


def _check_provenance(value: object) -> None:
    _check_fields(value, "source recipe calibration tools", "provenance")
    assert isinstance(value, dict)
    for name in ("source", "recipe", "calibration"):
        if name != "calibration" or value[name] is not None:
            _text(value[name], f"provenance.{name}", _DIGEST, 71)
    for key, one in _table(value["tools"], "provenance.tools").items():
        _text(one, key, _PRINTABLE, 256)


def _health(value: object, paths: Collection[str]) -> Health | None:
    if value is None:
        return None
    _check_fields(value, "path timeout_s", "health")
    assert isinstance(value, dict)
    path, timeout_s = value["path"], value["timeout_s"]
    if path not in paths or type(timeout_s) is not int or not 1 <= timeout_s <= MAX_HEALTH_S:
        raise corrupt("the manifest's health check names no file of the bundle, or no time of 1 to 3600 s")
    return Health(path=path, timeout_s=timeout_s)


# --- one function for each kind of value -------------------------------------------------------------


def _check_fields(value: object, names: str, what: str) -> None:
    """All of them, and no others."""
    where = f"the manifest's {what}" if what else "the manifest"
    if not isinstance(value, dict):
        raise corrupt(f"{where}: {type(value).__name__}, expected an object")
    known = set(names.split())
    for name in sorted(value.keys() - known):
        raise corrupt(f"{where} has the unknown field {name[:120]!a}")
    for name in sorted(known - value.keys()):
        raise corrupt(f"{where} has no {name}")


def _text(value: object, what: str, pattern: str, longest: int = 64) -> str:
    """A text that may stand in a message and on a terminal: one line, no control characters, no second meaning."""
    if not isinstance(value, str) or len(value) > longest or re.fullmatch(pattern, value) is None:
        raise corrupt(
            f"the manifest's {what[:120]} is {str(value)[:80]!a}, expected plain text of {longest} characters"
        )
    return value


def _texts(value: object, what: str, pattern: str, *, longest: int = 64, most: int = 64, least: int = 0) -> list[str]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        raise corrupt(f"the manifest's {what[:120]} is not a list of {least} to {most} texts")
    return [_text(one, what, pattern, longest) for one in value]


def _table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > 256:
        raise corrupt(f"the manifest's {what} is not an object of 256 keys at most")
    for key in value:
        _text(key, f"key in {what}", _KEY, 128)
    return value


def _choice(value: Mapping[str, Any], name: str, known: Collection[str]) -> str:
    found = value[name]
    if not isinstance(found, str) or found not in known:
        raise corrupt(f"the manifest's {name} is {str(found)[:80]!a}, expected one of {', '.join(sorted(known))}")
    return found


def _positive(value: object, what: str) -> None:
    if type(value) is not int or not 1 <= value <= _MAX_INTEGER:
        raise corrupt(f"the manifest's {what} is {str(value)[:80]!a}, expected a whole number of 1 or more")
