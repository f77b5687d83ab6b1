"""Unpacking a bundle that nobody has reason to trust yet.

The reader is our own and knows one thing only: a gzip stream of USTAR regular files, the first of which is
``manifest.json``. Links, devices, sparse files, PAX and GNU extensions are not skipped or repaired but refused;
they cannot be a mistake of ours. What the manifest announces (names, sizes, digests) is the limit for what follows,
so a bomb is refused by its header, before anything is inflated. Format: POSIX.1-1988 (USTAR).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .durable import BLOCK_BYTES, fsync_directory, sha256_of, write_all
from .home import Home, remove
from .problem import Problem, storage
from .stored import Stored, is_stored

MANIFEST = "manifest.json"
SCHEMA = 1
BLOCK = 512
MAX_HEALTH_S = 3600
IMAGES = "firmware-image"
"""Format of a firmware that consists of images for devices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bundle may hold at most.

    Args:
        files: number of files.
        file_bytes: size of one file.
        total_bytes: size of all files.
        manifest_bytes: size of the manifest.
        ratio: inflated bytes per byte of the bundle, once more than `ratio_from_bytes` are inflated.
    """

    files: int = 4096
    file_bytes: int = 8 * 2**30
    total_bytes: int = 16 * 2**30
    manifest_bytes: int = 2**20
    ratio: int = 200
    ratio_from_bytes: int = 16 * 2**20


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
    entry: str | None
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


_SEGMENT = re.compile(r"[A-Za-z0-9_.+@=,:~-]{1,100}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(r"firmware\.json|[a-z0-9][a-z0-9_-]{0,31}\.img")
_FIELDS = frozenset(
    {"schema", "name", "version", "track", "format", "quantisation", "target", "files", "entry"}
    | {"artifact_provides", "artifact_depends", "budgets", "timing", "health", "provenance"}
)
_TARGET_FIELDS = frozenset(
    {"name", "board_classes", "architectures", "accelerators", "page_sizes_bytes"}
    | {"runtime", "min_runtime_version", "below_runtime_version"}
)
_FILE_FIELDS = frozenset({"path", "digest", "size_bytes"})


def check_path(path: str) -> str:
    """A path inside a bundle: relative, plain ASCII, so that no file system takes two for one.

    Raises:
        Problem: ``unsafe-archive``.
    """
    parts = path.split("/")
    if (
        not path
        or len(path) > 255
        or path[1:2] == ":"
        or any(part in {".", ".."} or _SEGMENT.fullmatch(part) is None for part in parts)
    ):
        raise unsafe(f"the bundle holds a file with the path {path[:120]!r}; paths must be relative and plain")
    return path


def parse_manifest(data: bytes) -> Manifest:
    """Read what the board needs of a manifest.

    Raises:
        Problem: ``corrupt-artifact`` or ``unsafe-archive``.
    """
    try:
        value = json.loads(data, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as exc:
        raise corrupt(f"the bundle's manifest cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        raise corrupt("the bundle's manifest is not a JSON object")
    if value.get("schema") != SCHEMA:
        raise corrupt(f"the bundle's manifest has schema {value.get('schema')!r}; this board understands {SCHEMA}")
    _check_known(value, _FIELDS, "manifest")
    target = _field(value, "target", dict)
    _check_known(target, _TARGET_FIELDS, "manifest's target")
    listed = _field(value, "files", list)
    entries = tuple(_entry(one) for one in listed)
    folded = [one.path.casefold() for one in entries]
    if len(set(folded)) != len(folded):
        raise unsafe("the manifest lists a path twice (or two that differ in case only)")
    below = {path[: at.start()] for path in folded for at in re.finditer("/", path)}
    if below & set(folded):
        raise unsafe(f"the manifest lists {min(below & set(folded))!r} both as a file and as a directory")
    kind = _text(value.get("format"), "format")
    if kind == IMAGES and not {one.path[-4:] for one in entries} >= {".img"}:
        raise corrupt("the manifest is of a firmware of images, and it lists no image")
    if kind == IMAGES and not all(_IMAGE.fullmatch(one.path) for one in entries):
        raise corrupt("the manifest is of a firmware of images, and it lists more than images and firmware.json")
    entry = value.get("entry")
    if entry is not None and (not isinstance(entry, str) or entry not in {one.path for one in entries}):
        raise corrupt(f"the manifest's entry {str(entry)[:120]!r} is not one of its files")
    return Manifest(
        name=_text(value.get("name"), "name"),
        version=_text(value.get("version"), "version"),
        track=_text(value.get("track"), "track"),
        format=kind,
        entry=entry,
        runtime=_text_or_none(target, "runtime"),
        min_runtime_version=_text_or_none(target, "min_runtime_version"),
        below_runtime_version=_text_or_none(target, "below_runtime_version"),
        board_classes=_names(target, "board_classes"),
        architectures=_names(target, "architectures"),
        accelerators=_names(target, "accelerators"),
        page_sizes_bytes=_page_sizes(target),
        provides={_text(key, "key"): _text(one, key) for key, one in _field(value, "artifact_provides", dict).items()},
        depends={_text(key, "key"): _texts(one, key) for key, one in _field(value, "artifact_depends", dict).items()},
        files=entries,
        health=_health(value.get("health"), {one.path for one in entries}),
    )


def _health(value: object, paths: set[str]) -> Health | None:
    if value is None:
        return None
    path, timeout_s = (value.get("path"), value.get("timeout_s")) if isinstance(value, dict) else (None, None)
    if path not in paths or type(timeout_s) is not int or not 1 <= timeout_s <= MAX_HEALTH_S:
        raise corrupt("the manifest's health check names no file of the bundle, or no time of 1 to 3600 s")
    return Health(path=str(path), timeout_s=timeout_s)


def unpack(bundle: Path, into: Path, limits: Limits | None = None) -> Manifest:
    """Unpack a bundle into a directory that exists and is empty, and verify every file of it against the manifest.

    Images stay in the bundle, whose own digest has been looked at when it came. They are passed over here, and held to
    their digests when they are read back from where they are written to.

    Raises:
        Problem: ``corrupt-artifact``, ``unsafe-archive``, ``disk-full``; the caller throws the directory away.
    """
    limits = limits or Limits()
    with bundle.open("rb") as raw:
        reader = _Archive(raw, allowed_bytes=max(limits.ratio_from_bytes, limits.ratio * bundle.stat().st_size))
        first = reader.next()
        if first is None or first[0] != MANIFEST:
            raise corrupt(
                f"the bundle does not begin with {MANIFEST} but with {first[0][:120] if first else 'nothing'!r}"
            )
        if first[1] > limits.manifest_bytes:
            raise unsafe(f"the bundle's manifest has {first[1]} bytes; the limit is {limits.manifest_bytes}")
        text = reader.content(first[1])
        manifest = parse_manifest(text)
        expected = {one.path: one for one in manifest.files}
        images = {one.path for one in manifest.images}
        _check_amounts(manifest, limits)
        with storage(str(into / MANIFEST)):
            _write(into / MANIFEST, text)
        while (member := reader.next()) is not None:
            path, size, executable = member
            announced = expected.pop(path, None)
            if announced is None:
                raise corrupt(f"the bundle holds {path!r} twice or without announcing it in its manifest")
            if size != announced.size_bytes:
                raise corrupt(f"{path!r} has {size} bytes in the bundle; its manifest says {announced.size_bytes}")
            if path in images:
                reader.skip(size)
                reader.pad(size)
                continue
            with storage(str(into / path)):
                _extract(reader, into / path, announced, executable=executable)
    if expected:
        raise corrupt(f"the bundle lacks {sorted(expected)[0]!r}, which its manifest announces")
    with storage(str(into)):
        for directory, _, _ in os.walk(into):
            fsync_directory(Path(directory))
    return manifest


def member(bundle: Path, path: str) -> Iterator[bytes]:
    """The contents of one file of a bundle, in blocks; whoever takes them checks their digest.

    Raises:
        Problem: ``corrupt-artifact``, ``unsafe-archive``, ``storage``.
    """
    limits = Limits()
    with storage(str(bundle)), bundle.open("rb") as raw:
        reader = _Archive(raw, allowed_bytes=max(limits.ratio_from_bytes, limits.ratio * bundle.stat().st_size))
        while (found := reader.next()) is not None:
            name, size, _ = found
            if name == path:
                reader.skip(0)
                yield from reader.blocks(size)
                return
            reader.skip(size)
            reader.pad(size)
    raise corrupt(f"the bundle lacks {path!r}, which its manifest announces")


def install(home: Home, digest: str) -> Manifest:
    """Unpack a bundle of the store into ``trees/<hex>``; what is there already stays.

    Raises:
        Problem: ``not-in-store`` and those of `unpack`.
    """
    bundle, tree = home.bundle(digest), home.tree(digest)
    if not bundle.is_file():
        raise Problem("not-in-store", f"the board's store has no {digest}: push it first")
    if tree.is_dir():
        return read_manifest(tree)
    beside = tree.with_name(f".{tree.name}.{os.getpid()}.tmp")
    remove(beside)
    with storage(str(beside)):
        beside.mkdir()
        descriptor = os.open(beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that it is in use: see Home.prepare
        manifest = unpack(bundle, beside)
        with storage(str(tree)):
            beside.rename(tree)
            fsync_directory(tree.parent)
    except BaseException:
        remove(beside)
        raise
    finally:
        os.close(descriptor)
    return manifest


def read_manifest(tree: Path) -> Manifest:
    """The manifest of an unpacked bundle.

    Raises:
        Problem: ``corrupt-artifact``, ``storage``.
    """
    with storage(str(tree / MANIFEST)):
        data = (tree / MANIFEST).read_bytes()
    return parse_manifest(data)


def altered(manifest: Manifest, tree: Path) -> list[str]:
    """Every file of an unpacked bundle that is missing or is not what the manifest says."""
    wrong = []
    for one in manifest.unpacked:
        try:
            found = sha256_of(tree / one.path)
        except OSError as exc:
            wrong.append(f"{one.path}: {exc.strerror}")
            continue
        if found != one.digest:
            wrong.append(f"{one.path} hashes to {found}, expected {one.digest}")
    return wrong


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice: two readers could each believe another one of them."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same key twice")
    return value


def _field(value: Mapping[str, Any], name: str, kind: type) -> Any:
    found = value.get(name)
    if not isinstance(found, kind):
        raise corrupt(f"the manifest's {name!r} is {type(found).__name__}, expected {kind.__name__}")
    return found


def _names(target: Mapping[str, Any], name: str) -> tuple[str, ...]:
    return _texts(target.get(name), f"target.{name}")


def _texts(value: object, what: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise corrupt(f"the manifest's {what[:120]} is not a list of names")
    return tuple(_text(one, what) for one in value)


def _text(value: object, what: str) -> str:
    """A text that may stand in a message and on a terminal: one line, no control characters, no second meaning."""
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not (value.isascii() and value.isprintable()):
        raise corrupt(f"the manifest's {what[:120]!r} is {str(value)[:80]!r}, expected plain printable text")
    return value


def _check_known(value: Mapping[str, Any], known: frozenset[str], what: str) -> None:
    unknown = sorted(value.keys() - known)
    if unknown:
        raise corrupt(f"the {what} has the unknown field {unknown[0][:120]!r}")


def _text_or_none(target: Mapping[str, Any], name: str) -> str | None:
    found = target.get(name)
    return None if found is None else _text(found, f"target.{name}")


def _page_sizes(target: Mapping[str, Any]) -> tuple[int, ...]:
    found = target.get("page_sizes_bytes")
    if not isinstance(found, list) or not all(type(one) is int for one in found):
        raise corrupt("the manifest's target.page_sizes_bytes is not a list of sizes")
    return tuple(found)


def _entry(value: object) -> Entry:
    if not isinstance(value, dict):
        raise corrupt("the manifest's files are not objects")
    _check_known(value, _FILE_FIELDS, "manifest's list of files")
    path, digest, size = value.get("path"), value.get("digest"), value.get("size_bytes")
    if not isinstance(path, str) or not isinstance(digest, str) or type(size) is not int or size < 0:
        raise corrupt(f"the manifest's entry for {str(path)[:120]!r} lacks a path, a digest or a size of 0 or more")
    if _DIGEST.fullmatch(digest) is None:
        raise corrupt(f"the manifest's digest of {path[:120]!r} is {digest[:80]!r}, expected sha256:<64 hex digits>")
    if check_path(path).casefold() == MANIFEST:
        raise unsafe("the manifest lists itself")
    return Entry(path=path, digest=digest, size_bytes=size)


def _check_amounts(manifest: Manifest, limits: Limits) -> None:
    total = sum(one.size_bytes for one in manifest.files)
    largest = max((one.size_bytes for one in manifest.files), default=0)
    if len(manifest.files) > limits.files or largest > limits.file_bytes or total > limits.total_bytes:
        raise unsafe(
            f"the bundle announces {len(manifest.files)} files of {total} bytes (largest {largest}); the limits are "
            f"{limits.files} files, {limits.total_bytes} bytes, {limits.file_bytes} bytes each"
        )


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _extract(reader: _Archive, path: Path, announced: Entry, *, executable: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    mode = 0o755 if executable else 0o644
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        for block in reader.blocks(announced.size_bytes):
            digest.update(block)
            write_all(descriptor, block)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    reader.pad(announced.size_bytes)
    if f"sha256:{digest.hexdigest()}" != announced.digest:
        raise corrupt(f"{announced.path!r} hashes to sha256:{digest.hexdigest()}; its manifest says {announced.digest}")


class _Archive:
    """Members of a USTAR archive, one after the other."""

    def __init__(self, source: BinaryIO, *, allowed_bytes: int) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        self._deflated = b""
        self._allowed_bytes = allowed_bytes
        self._at = 0
        self._seekable = is_stored(source)
        self._stored: Stored | None = None

    def next(self) -> tuple[str, int, bool] | None:
        """Path, size and executable bit of the next member; None at the end of the archive."""
        header = self.take(BLOCK)
        if header == bytes(BLOCK):
            self._expect_end()
            return None
        if header[257:263] != b"ustar\0" or header[263:265] != b"00":
            raise corrupt("the bundle is no USTAR archive")
        stated = self._octal(header[148:156])
        if stated != sum(header[:148]) + 8 * 0x20 + sum(header[156:]):
            raise corrupt("a header of the bundle has a wrong checksum")
        name, prefix = self._text(header[:100]), self._text(header[345:500])
        path = f"{prefix}/{name}" if prefix else name
        if header[156:157] not in {b"0", b"\0"}:
            raise unsafe(f"the bundle holds {path[:120]!r}, which is no regular file (type {header[156:157]!r})")
        check_path(path)
        return path, self._octal(header[124:136]), bool(self._octal(header[100:108]) & 0o100)

    def content(self, size: int) -> bytes:
        """A whole small member."""
        data = self.take(size)
        self.pad(size)
        return data

    def blocks(self, size: int) -> Iterator[bytes]:
        """The contents of a large member."""
        while size:
            block = self.take(min(size, BLOCK_BYTES))
            size -= len(block)
            yield block

    def skip(self, size: int) -> None:
        """Pass over contents; from here on nothing is inflated, if the bundle is as the host packs them."""
        if self._seekable:
            self._stored = Stored(self._source, self._at + size)
            self._count(size)
            return
        for _ in self.blocks(size):
            pass

    def pad(self, size: int) -> None:
        """Skip what fills a member's last block; it must be zero, or two bundles could hide a difference there."""
        rest = -size % BLOCK
        if self.take(rest) != bytes(rest):
            raise corrupt("the bundle has data where padding belongs")

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        self._count(size)
        parts = []
        while size:
            part = self._read(size)
            if not part:
                raise corrupt("the bundle ends in the middle of a file")
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _count(self, size: int) -> None:
        self._at += size
        self._allowed_bytes -= size
        if self._allowed_bytes < 0:
            raise unsafe("the bundle inflates to far more than its size: a decompression bomb")

    def _read(self, size: int) -> bytes:
        """At most so many bytes of the one gzip member; ``b""`` at its end."""
        if self._stored is not None:
            return self._stored.read(size)
        part = b""
        while not part and not self._inflate.eof:
            self._deflated = self._deflated or self._source.read(BLOCK_BYTES)
            if not self._deflated:
                raise corrupt("the bundle ends in the middle: fetch or build it again")
            try:
                part = self._inflate.decompress(self._deflated, size)
            except zlib.error as exc:
                raise corrupt(f"the bundle cannot be inflated: {exc}") from exc
            self._deflated = self._inflate.unconsumed_tail
        if self._inflate.eof and (self._inflate.unused_data or self._source.read(1)):
            raise corrupt("the bundle has data after its gzip stream")
        return part

    def _expect_end(self) -> None:
        # an archive ends with two zero blocks and is filled with zeros up to 10 KiB
        rest = 0
        while part := self._read(BLOCK_BYTES):
            rest += len(part)
            if any(part) or rest > 64 * 2**10:
                raise corrupt("the bundle has data after its end")

    @staticmethod
    def _octal(field: bytes) -> int:
        text = field.rstrip(b" \0")
        if not text:
            return 0
        if not all(0x30 <= digit <= 0x37 for digit in text):
            raise corrupt(f"a header of the bundle has {field!r} where an octal number belongs")
        return int(text, 8)

    @staticmethod
    def _text(field: bytes) -> str:
        try:
            return field.partition(b"\0")[0].decode()
        except UnicodeDecodeError as exc:
            raise unsafe(f"the bundle holds a path that is not UTF-8: {field!r}") from exc
