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
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model.artifact import Budgets, FileEntry, Manifest, Provenance, Target, Track

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
MAX_FILES = 4096
MAX_PATH_CHARACTERS = 200

FORMATS = {
    "onnx": Track.MODEL,
    "replay": Track.MODEL,
    "prompt-bundle": Track.PROMPT,
    "firmware-tree": Track.FIRMWARE,
}
"""Format → the track that it belongs to."""

_MAX_INTEGER = 2**53 - 1
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_VERSION = re.compile(r"[0-9A-Za-z]+(?:[.+_-][0-9A-Za-z]+)*")
_WORD = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_PATTERN = re.compile(r"[A-Za-z0-9*?!\[\]._-]+")
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")
_MACHINE = re.compile(r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*")
_SEGMENT = re.compile(r"[A-Za-z0-9_.+@=,:~-]+")
_PRINTABLE = re.compile(r"[ -~]+")
_KEY = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


# --- the rules for one value; a recipe uses them too -------------------------------------------------


def _matching(pattern: re.Pattern[str], what: str, *, longest: int = 64) -> Callable[[str], str]:
    def check(text: str) -> str:
        if len(text) > longest:
            raise ValueError(f"{text[:24]!r}… has {len(text)} characters, at most {longest} are allowed")
        if pattern.fullmatch(text) is None:
            raise ValueError(f"{text!r} is no {what}")
        return text

    return check


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


def _printable(text: str) -> str:
    return _matching(_PRINTABLE, "plain printable ASCII text", longest=256)(text)


Digest = Annotated[str, AfterValidator(_matching(_DIGEST, "digest of the form sha256:<64 lower-case hex>", longest=71))]
Name = Annotated[str, AfterValidator(_matching(_NAME, "name (lower-case letters and digits, joined by . _ -)"))]
Version = Annotated[str, AfterValidator(_matching(_VERSION, "version (letters and digits, joined by . + _ -)"))]
Word = Annotated[str, AfterValidator(_matching(_WORD, "word (lower-case letters and digits, joined by . _ -)"))]
Pattern = Annotated[str, AfterValidator(_matching(_PATTERN, "board class or shell pattern"))]
Machine = Annotated[str, AfterValidator(_matching(_MACHINE, "machine name as uname -m writes it"))]
Numbers = Annotated[str, AfterValidator(_matching(_NUMBERS, "version of numbers and dots, such as 1.20"))]
Key = Annotated[str, AfterValidator(_matching(_KEY, "key (letters and digits, joined by . _ -)", longest=128))]
Printable = Annotated[str, AfterValidator(_printable)]
BundlePath = Annotated[str, AfterValidator(check_path)]
Natural = Annotated[int, Field(ge=0, le=_MAX_INTEGER)]
Positive = Annotated[int, Field(ge=1, le=_MAX_INTEGER)]


# --- the JSON form -----------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _File(_Strict):
    path: BundlePath
    digest: Digest
    size_bytes: Natural


class _Target(_Strict):
    name: Word
    board_classes: Annotated[list[Pattern], Field(min_length=1, max_length=64)]
    architectures: Annotated[list[Machine], Field(max_length=64)]
    runtime: Word | None
    min_runtime_version: Numbers | None

    @model_validator(mode="after")
    def _version_needs_runtime(self) -> _Target:
        if self.runtime is None and self.min_runtime_version is not None:
            raise ValueError("min_runtime_version says nothing without a runtime")
        return self


class _Budgets(_Strict):
    p95_latency_us: Positive | None
    peak_rss_bytes: Positive | None
    size_bytes: Positive | None


class _Provenance(_Strict):
    source: Digest
    recipe: Digest
    calibration: Digest | None
    tools: Annotated[dict[Key, Printable], Field(max_length=256)]


class _Manifest(_Strict):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Name
    version: Version
    track: Literal["firmware", "model", "prompt"]
    format: Literal["onnx", "replay", "prompt-bundle", "firmware-tree"]
    quantisation: Word
    target: _Target
    files: Annotated[list[_File], Field(min_length=1, max_length=MAX_FILES)]
    entry: BundlePath
    artifact_provides: Annotated[dict[Key, Printable], Field(max_length=256)]
    artifact_depends: Annotated[
        dict[Key, Annotated[list[Printable], Field(min_length=1, max_length=256)]], Field(max_length=256)
    ]
    budgets: _Budgets
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
        if self.entry not in paths:
            raise ValueError(f"entry {self.entry!r} is not one of the files")
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
            f"{where}: {_first_error(problem)}; rebuild the artifact with 'edgehil build'"
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
            runtime=target.runtime,
            min_runtime_version=target.min_runtime_version,
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
    )


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
            "runtime": target.runtime,
            "min_runtime_version": target.min_runtime_version,
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


def _first_error(problem: ValidationError) -> str:
    """One line for the first complaint: path, what was seen, what is wrong."""
    error = problem.errors(include_url=False)[0]
    path = ""
    for step in error["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "[key]":
            path += f".{step}" if path else str(step)
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
