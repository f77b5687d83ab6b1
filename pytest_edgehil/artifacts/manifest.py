"""The manifest of a bundle: RFC 8785 canonical JSON to and from the frozen `model.Manifest`.

Rules:

- One manifest has one spelling. `parse` refuses bytes that are not exactly what `to_bytes` would write, so that a
  duplicate key, an unknown field or another number format cannot mean one thing here and another on the board.
- Every field is always present; what does not apply is null.
- Paths are plain ASCII, relative, without ``..``, and unique even on a file system that ignores case.
- Budgets and sizes are integers (microseconds, bytes) below 2^53, which every JSON reader keeps exactly.

The field names ``artifact_provides`` and ``artifact_depends`` are Mender's (artifact format v3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import rfc8785
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import core_schema

from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import (
    Budgets,
    FileEntry,
    HealthCheck,
    Manifest,
    Provenance,
    Target,
    TimingBudget,
    Track,
)

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 4096
MAX_PATH_CHARACTERS = 200
MAX_HEALTH_S = 3600

FORMATS = {
    "onnx": Track.MODEL,
    "replay": Track.MODEL,
    "prompt-bundle": Track.PROMPT,
    "firmware-tree": Track.FIRMWARE,
    "firmware-image": Track.FIRMWARE,
}
"""Format → the track that it belongs to."""

_MAX_INTEGER = 2**53 - 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_VERSION = re.compile(r"[0-9A-Za-z]+(?:[.+_-][0-9A-Za-z]+)*")
_WORD = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_PATTERN = re.compile(r"[A-Za-z0-9*?!\[\]._-]+")
NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_MACHINE = re.compile(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*")
_SEGMENT = re.compile(r"[A-Za-z0-9_.+@=,:~-]+")
_FIRMWARE_IMAGE = re.compile(r"firmware\.json|[a-z0-9][a-z0-9_-]{0,31}\.img")
_PRINTABLE = re.compile(r"[ -~]+")
_KEY = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


# --- the rules for one value; a recipe uses them too -------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Text:
    """A rule for a string: checked with messages of our own, and described in a JSON Schema."""

    pattern: re.Pattern[str]
    what: str
    longest: int = 64

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": f"^(?:{self.pattern.pattern})$", "maxLength": self.longest}

    def check(self, text: str) -> str:
        if len(text) > self.longest:
            raise ValueError(f"{text[:24]!r}… has {len(text)} characters, at most {self.longest} are allowed")
        if self.pattern.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no {self.what}")
        return text


def check_path(path: str) -> str:
    """Return `path` if it may be the path of a file in a bundle.

    Raises:
        ValueError: it is absolute, climbs with ``..``, holds characters that are not plain, or is too long.

    >>> check_path("boot/overlays/hat.dtbo")
    'boot/overlays/hat.dtbo'
    """
    if not path or len(path) > MAX_PATH_CHARACTERS:
        raise ValueError(f"a path has 1 to {MAX_PATH_CHARACTERS} characters, this one has {len(path)}")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise ValueError(f"{path!r} is absolute; paths are relative to the bundle")
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            raise ValueError(f"{path!r} has the segment {segment!r}; only plain names may stand between slashes")
        if _SEGMENT.fullmatch(segment) is None:
            raise ValueError(f"{path!r} has characters beyond A-Z a-z 0-9 and _.+@=,:~-")
    return path


def check_paths(paths: Iterable[str]) -> None:
    """Check that paths can lie beside each other in one directory, on any file system.

    Raises:
        ValueError: two are equal, differ in case only, or one is a directory of another.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if seen.get(folded) == path:
            raise ValueError(f"{path!r} is listed twice")
        if folded in seen:
            raise ValueError(f"{path!r} and {seen[folded]!r} differ in upper and lower case only")
        seen[folded] = path
    for folded, path in seen.items():
        parts = folded.split("/")
        for depth in range(1, len(parts)):
            above = "/".join(parts[:depth])
            if above in seen:
                raise ValueError(f"{seen[above]!r} is a file, so {path!r} cannot lie below it")


Digest = Annotated[str, _Text(_DIGEST, "digest of the form sha256:<64 lower-case hex>", longest=71)]
Name = Annotated[str, _Text(_NAME, "name (lower-case letters and digits, joined by . _ -)")]
Version = Annotated[str, _Text(_VERSION, "version (letters and digits, joined by . + _ -)")]
Word = Annotated[str, _Text(_WORD, "word (lower-case letters and digits, joined by . _ -)")]
Pattern = Annotated[str, _Text(_PATTERN, "board class or shell pattern")]
Machine = Annotated[str, _Text(_MACHINE, "machine name as uname -m writes it")]
Numbers = Annotated[str, _Text(NUMBERS, "version of numbers and dots, such as 1.20")]
Key = Annotated[str, _Text(_KEY, "key (letters and digits, joined by . _ -)", longest=128)]
Printable = Annotated[str, _Text(_PRINTABLE, "plain printable ASCII text", longest=256)]
BundlePath = Annotated[str, AfterValidator(check_path), Field(max_length=MAX_PATH_CHARACTERS)]
Natural = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=_MAX_INTEGER)]
PageSize = Literal[4096, 16384, 65536]
"""Page sizes of arm64 kernels; the Pi 5's default is 16384."""


def check_runtime_range(runtime: str | None, lowest: str | None, below: str | None) -> None:
    """Check that a range of versions belongs to a runtime and is not empty.

    Raises:
        ValueError: it does not, or it is.
    """
    if runtime is None and (lowest is not None or below is not None):
        field = "min_runtime_version" if lowest is not None else "below_runtime_version"
        raise ValueError(f"{field} says nothing without a runtime")
    if lowest is not None and below is not None and version_key(below) <= version_key(lowest):
        raise ValueError(f"no version is at least {lowest} and below {below}")


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, comparable; zeros at the end say nothing.

    >>> version_key("1.20.1") > version_key("1.20"), version_key("1.20.0rc1") == version_key("1.20")
    (True, True)
    """
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


# --- the JSON form -----------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class _File(_Strict):
    """One file of the bundle."""

    path: BundlePath
    """Relative, plain ASCII, unique even where upper and lower case are the same."""
    digest: Digest
    """SHA-256 of the file."""
    size_bytes: Natural
    """Its size."""


class _Target(_Strict):
    """What the artifact is made for."""

    name: Word
    """Short word in the bundle's file name."""
    board_classes: Annotated[list[Pattern], Field(min_length=1, max_length=64)]
    """Shell patterns of board classes, one of which the board's must match."""
    architectures: Annotated[list[Machine], Field(max_length=64)]
    """Machines as ``uname -m`` writes them; empty: any."""
    accelerators: Annotated[list[Pattern], Field(max_length=64)]
    """Accelerators, one of which the board must have, such as ``hailo10h``; empty: none is needed."""
    page_sizes_bytes: Annotated[list[PageSize], Field(max_length=8)]
    """Kernel page sizes that it runs with; empty: any."""
    runtime: Word | None
    """Runtime that the board must have."""
    min_runtime_version: Numbers | None
    """Lowest version of it that will do."""
    below_runtime_version: Numbers | None
    """First version of it that will no longer do."""

    @model_validator(mode="after")
    def _range_makes_sense(self) -> _Target:
        check_runtime_range(self.runtime, self.min_runtime_version, self.below_runtime_version)
        return self


class _Budgets(_Strict):
    """What the artifact promises to stay within; null promises nothing."""

    p95_latency_us: Positive | None
    """95th percentile of the latency of one inference, µs."""
    peak_rss_bytes: Positive | None
    """Largest resident set of the model's process."""
    size_bytes: Positive | None
    """Size of the bundle; the build enforces it."""


class _Timing(_Strict):
    """A worst-case execution time that a tool has shown; the evidence is referred to, not contained."""

    task: Word
    """What is bounded; each once."""
    budget_us: Positive
    """The bound, µs."""
    tool: Printable
    """What showed it, with its version."""
    report: Digest
    """Digest of the tool's report."""


class _Health(_Strict):
    """How the artifact proves on the board that it works."""

    path: BundlePath
    """File of the bundle. Of a firmware: an executable that the board runs after a trial boot, 0 is well. Of a model:
    an ``.npz`` with items to infer."""
    timeout_s: Annotated[int, Field(ge=1, le=MAX_HEALTH_S)]
    """How long it may take."""


class _Provenance(_Strict):
    """Every input that shaped the bytes: the lock that a rebuild is held against."""

    source: Digest
    """What was quantised or packed."""
    recipe: Digest
    """The recipe's values, whatever its layout and its comments."""
    calibration: Digest | None
    """The calibration set, if one was used."""
    tools: Annotated[dict[Key, Printable], Field(max_length=256)]
    """Tool → version, of every tool that shaped the output."""


class _Manifest(_Strict):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    """Version of this format. A board refuses any other than it knows."""
    name: Name
    """The artifact's name."""
    version: Version
    """The artifact's version."""
    track: Literal["firmware", "model", "prompt"]
    """What it changes on a board."""
    format: Literal["onnx", "replay", "prompt-bundle", "firmware-tree", "firmware-image"]
    """How its entry is to be read; each format belongs to one track."""
    quantisation: Word
    """Of a model, such as ``fp32`` or ``int8-static``; ``none`` for other tracks."""
    target: _Target
    files: Annotated[list[_File], Field(min_length=1, max_length=MAX_FILES)]
    """All files but the manifest, sorted by path."""
    entry: BundlePath
    """The file that the runtime opens."""
    artifact_provides: Annotated[dict[Key, Printable], Field(max_length=256)]
    """What it brings: key → value. A firmware's ``firmware.floor`` is the oldest version that a board takes
    once this one is committed. The build adds ``model.name`` and ``model.version`` (or firmware, prompt)."""
    artifact_depends: Annotated[
        dict[Key, Annotated[list[Printable], Field(min_length=1, max_length=256)]], Field(max_length=256)
    ]
    """What it needs of the rest of the combo, of the firmware that is there, or of the board (``board.class``,
    ``board.accelerator``, ``board.bootloader``): key → acceptable values, which may be shell patterns, or ``>=`` and
    the lowest version or date, such as ``>=2025-01-22``."""
    budgets: _Budgets
    timing: Annotated[list[_Timing], Field(max_length=256)]
    health: _Health | None
    provenance: _Provenance

    @model_validator(mode="after")
    def _consistent(self) -> _Manifest:
        if FORMATS[self.format].value != self.track:
            raise ValueError(
                f"format {self.format!r} belongs to track {FORMATS[self.format].value!r}, not {self.track!r}"
            )
        if (self.quantisation == "none") == (self.track == "model"):
            raise ValueError(f"quantisation {self.quantisation!r} does not go with track {self.track!r}")
        paths = [one.path for one in self.files]
        check_paths(paths)
        if any(path.casefold() == MANIFEST_NAME for path in paths):
            raise ValueError(f"{MANIFEST_NAME!r} is the manifest itself and cannot be one of its files")
        if paths != sorted(paths):
            raise ValueError("files are not sorted by path")
        if self.format == "firmware-image" and not all(_FIRMWARE_IMAGE.fullmatch(path) for path in paths):
            raise ValueError("a firmware of images holds firmware.json and files such as root.img, and nothing else")
        if self.format == "firmware-image" and not any(path.endswith(".img") for path in paths):
            raise ValueError("a firmware of images holds no image: expected a file such as root.img")
        if self.entry not in paths:
            raise ValueError(f"entry {self.entry!r} is not one of the files")
        if self.health is not None and self.health.path not in paths:
            raise ValueError(f"health.path {self.health.path!r} is not one of the files")
        if self.health is not None and self.track == "prompt":
            raise ValueError("a prompt bundle has nothing that a board could run as its health check")
        tasks = [one.task for one in self.timing]
        if len(set(tasks)) != len(tasks):
            raise ValueError("timing has a task twice")
        return self


def to_bytes(manifest: Manifest) -> bytes:
    """Write a manifest as RFC 8785 canonical JSON.

    Raises:
        CorruptArtifact: the manifest breaks a rule that `parse` checks.
    """
    data = _encode(manifest)
    parse(data)
    return data


def parse(data: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest and check everything that can be checked without the files.

    Args:
        data: the bytes of ``manifest.json``.
        where: what to call it in messages, for example ``manifest.json of digits-1.0.0-pi5-fp32.tar.gz``.

    Raises:
        CorruptArtifact: one line with the first thing that is off.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise CorruptArtifact(
            f"{where}: {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed; rebuild the artifact"
        )
    try:
        value = _Manifest.model_validate_json(data)
    except ValidationError as problem:
        raise CorruptArtifact(
            f"{where}: {first_error(problem)}; rebuild the artifact with 'edgehil build'"
        ) from problem
    manifest = _frozen(value)
    if _encode(manifest) != data:
        raise CorruptArtifact(
            f"{where}: not in canonical form (RFC 8785: sorted keys, each once, no spaces); "
            "rebuild the artifact with 'edgehil build'"
        )
    return manifest


def stem(manifest: Manifest) -> str:
    """The bundle's file name without ``.tar.gz``: name, version, target and, for a model, quantisation."""
    parts = [manifest.name, manifest.version, manifest.target.name]
    if manifest.quantisation != "none":
        parts.append(manifest.quantisation)
    return "-".join(parts)


def _frozen(value: _Manifest) -> Manifest:
    target, provenance = value.target, value.provenance
    return Manifest(
        schema=value.schema_,
        name=value.name,
        version=value.version,
        track=Track(value.track),
        format=value.format,
        quantisation=value.quantisation,
        target=Target(
            name=target.name,
            board_classes=tuple(target.board_classes),
            architectures=tuple(target.architectures),
            accelerators=tuple(target.accelerators),
            page_sizes_bytes=tuple(target.page_sizes_bytes),
            runtime=target.runtime,
            min_runtime_version=target.min_runtime_version,
            below_runtime_version=target.below_runtime_version,
        ),
        files=tuple(FileEntry(path=one.path, digest=one.digest, size_bytes=one.size_bytes) for one in value.files),
        entry=value.entry,
        provides=dict(value.artifact_provides),
        depends={key: tuple(values) for key, values in value.artifact_depends.items()},
        budgets=Budgets(
            p95_latency_us=value.budgets.p95_latency_us,
            peak_rss_bytes=value.budgets.peak_rss_bytes,
            size_bytes=value.budgets.size_bytes,
        ),
        provenance=Provenance(
            source=provenance.source,
            recipe=provenance.recipe,
            calibration=provenance.calibration,
            tools=dict(provenance.tools),
        ),
        timing=tuple(
            TimingBudget(task=one.task, budget_us=one.budget_us, tool=one.tool, report=one.report)
            for one in value.timing
        ),
        health=None if value.health is None else HealthCheck(path=value.health.path, timeout_s=value.health.timeout_s),
    )


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of ``manifest.json``; what no schema can say stands in this module's docstring."""
    schema = _Manifest.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Manifest of an artifact, version 1"
    return schema


def _encode(manifest: Manifest) -> bytes:
    target, budgets, provenance = manifest.target, manifest.budgets, manifest.provenance
    document = {
        "schema": manifest.schema,
        "name": manifest.name,
        "version": manifest.version,
        "track": manifest.track.value,
        "format": manifest.format,
        "quantisation": manifest.quantisation,
        "target": {
            "name": target.name,
            "board_classes": list(target.board_classes),
            "architectures": list(target.architectures),
            "accelerators": list(target.accelerators),
            "page_sizes_bytes": list(target.page_sizes_bytes),
            "runtime": target.runtime,
            "min_runtime_version": target.min_runtime_version,
            "below_runtime_version": target.below_runtime_version,
        },
        "files": [{"path": one.path, "digest": one.digest, "size_bytes": one.size_bytes} for one in manifest.files],
        "entry": manifest.entry,
        "artifact_provides": dict(manifest.provides),
        "artifact_depends": {key: list(values) for key, values in manifest.depends.items()},
        "budgets": {
            "p95_latency_us": budgets.p95_latency_us,
            "peak_rss_bytes": budgets.peak_rss_bytes,
            "size_bytes": budgets.size_bytes,
        },
        "timing": [
            {"task": one.task, "budget_us": one.budget_us, "tool": one.tool, "report": one.report}
            for one in manifest.timing
        ],
        "health": None
        if manifest.health is None
        else {"path": manifest.health.path, "timeout_s": manifest.health.timeout_s},
        "provenance": {
            "source": provenance.source,
            "recipe": provenance.recipe,
            "calibration": provenance.calibration,
            "tools": dict(provenance.tools),
        },
    }
    try:
        return rfc8785.dumps(document)  # type: ignore[arg-type]  # its JSON type is invariant in dict and list
    except (rfc8785.CanonicalizationError, UnicodeError) as problem:
        raise CorruptArtifact(f"{MANIFEST_NAME}: cannot be written as canonical JSON: {problem}") from problem


def first_error(problem: ValidationError) -> str:
    """One line for the first complaint: path, what was seen, what is wrong."""
    error = problem.errors(include_url=False)[0]
    path = ""
    for step in error["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "[key]":
            shown = step if step.isascii() and step.isprintable() and len(step) <= 60 else _shown(step)
            path += f".{shown}" if path else shown
    kind, message = error["type"], error["msg"]
    message = message.removeprefix("Value error, ")
    seen = _shown(error.get("input"))
    if kind == "json_invalid":
        return "is no JSON: " + message.removeprefix("Invalid JSON: ")
    if kind == "extra_forbidden":
        return f"{path!r} is an unknown field"
    if kind == "missing":
        return f"{path}: is missing"
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path or 'manifest'}: {seen}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "…"
