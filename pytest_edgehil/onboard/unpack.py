"""Unpacking a bundle that nobody has reason to trust yet.

The reader is our own and knows one thing only: a gzip stream of USTAR regular files, the first of which is
``manifest.json``. Links, devices, sparse files, PAX and GNU extensions are not skipped or repaired but refused;
they cannot be a mistake of ours. What the manifest announces (names, sizes, digests) is the limit for what follows,
so a bomb is refused by its header, before anything is inflated. Format: POSIX.1-1988 (USTAR).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .durable import BLOCK_BYTES, fsync_directory, sha256_of, write_all
from .home import Home, remove
from .manifest import MANIFEST, Entry, Manifest, check_path, corrupt, parse_manifest, unsafe
from .problem import Problem, storage
from .stored import Stored, is_stored
from .uncached import UncachedReader

TYPE_CHECKING = False  # importing `typing` takes a board longer than this module
if TYPE_CHECKING:
    from .stored import Source

BLOCK = 512


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
    with storage(str(bundle)), UncachedReader(bundle) as raw:
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

    def __init__(self, source: Source, *, allowed_bytes: int) -> None:
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
