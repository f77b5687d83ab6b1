"""Bundles: an artifact as one file, packed so that the same inputs give the same bytes, and read with suspicion.

The format, which the on-board program reads too::

    {name}-{version}-{target}[-{quantisation}].tar.gz
        manifest.json        always first; see `artifacts.manifest`
        …                    exactly the manifest's files, sorted by path

A plain USTAR archive in gzip (see `artifacts.ustar`): regular files only, owner 0, time 0, mode 0755 for what is
executable and 0644 for the rest. The artifact's digest is that of the whole file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    check_path,
    check_paths,
    parse,
    stem,
    to_bytes,
)
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact, UnsafeArchive
from pytest_edgehil.model.artifact import Artifact, FileEntry, Manifest

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a bundle may hold at most."""

    files: int = 4096
    unpacked_bytes: int = 4 * 2**30

    @property
    def stream_bytes(self) -> int:
        """What may come out of the gzip: contents, headers, padding."""
        return self.unpacked_bytes + MAX_MANIFEST_BYTES + (self.files + 1) * 2 * ustar.BLOCK_BYTES + (1 << 20)


DEFAULT_LIMITS = Limits()


# --- packing -----------------------------------------------------------------------------------------


def pack(
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    out_dir: Path,
    *,
    executable: Collection[str] | None = None,
) -> Artifact:
    """Write a bundle into `out_dir`; an older one of that name is replaced atomically.

    Args:
        manifest: its `files` are ignored and filled in from the contents.
        files: path in the bundle → file on disk, or the contents.
        out_dir: is made if it does not exist.
        executable: paths that get mode 0755; None takes it from the files on disk (their owner's x bit).

    Raises:
        CorruptArtifact: the manifest breaks a rule, or a file changed while it was packed.
        ArtifactNotFound: a file on disk cannot be read.
    """
    try:
        for path in files:
            check_path(path)
        check_paths(files)
    except ValueError as problem:
        raise CorruptArtifact(
            f"cannot pack {manifest.name} {manifest.version}: {problem}; rename the file"
        ) from problem
    entries = tuple(_entry(path, files[path]) for path in sorted(files))
    manifest = dataclasses.replace(manifest, files=entries)
    head = to_bytes(manifest)
    out_dir.mkdir(parents=True, exist_ok=True)
    target = out_dir / f"{stem(manifest)}.tar.gz"
    partial = out_dir / f".{target.name}.{os.getpid()}.partial"
    try:
        with partial.open("wb") as out:
            _write(out, head, entries, files, executable)
            out.flush()
            os.fsync(out.fileno())
        artifact = read(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return dataclasses.replace(artifact, path=target.absolute())


def _write(
    out: BinaryIO,
    head: bytes,
    entries: tuple[FileEntry, ...],
    files: Mapping[str, Path | bytes],
    executable: Collection[str] | None,
) -> None:
    stream = ustar.StoredGzip(out)
    stream.write(ustar.header(MANIFEST_NAME, size_bytes=len(head), executable=False) + head + ustar.padding(len(head)))
    for entry in entries:
        source = files[entry.path]
        runs = _runs(source) if executable is None else entry.path in executable
        stream.write(ustar.header(entry.path, size_bytes=entry.size_bytes, executable=runs))
        written, digest = 0, hashlib.sha256()
        for part in _parts(source):
            written += len(part)
            digest.update(part)
            stream.write(part)
        if written != entry.size_bytes or f"sha256:{digest.hexdigest()}" != entry.digest:
            raise CorruptArtifact(f"{source!s:.200}: changed while it was being packed; build again")
        stream.write(ustar.padding(entry.size_bytes))
    stream.write(ustar.END)
    stream.finish()


def _entry(path: str, source: Path | bytes) -> FileEntry:
    size_bytes, digest = 0, hashlib.sha256()
    for part in _parts(source):
        size_bytes += len(part)
        digest.update(part)
    return FileEntry(path=path, digest=f"sha256:{digest.hexdigest()}", size_bytes=size_bytes)


def _parts(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as file:
            while part := file.read(_READ_BYTES):
                yield part
    except OSError as problem:
        raise ArtifactNotFound(f"{source}: cannot be packed: {problem.strerror}") from problem


def _runs(source: Path | bytes) -> bool:
    return isinstance(source, Path) and bool(source.stat().st_mode & 0o100)


# --- reading -----------------------------------------------------------------------------------------


def peek(path: Path) -> Manifest:
    """Read the manifest only; the files are not verified.

    Raises:
        ArtifactNotFound, CorruptArtifact, UnsafeArchive: see `read`.
    """
    with _opened(path) as file:
        stream = ustar.GzipReader(file, where=str(path), limit_bytes=DEFAULT_LIMITS.stream_bytes)
        return _manifest(ustar.members(stream, where=str(path)), path)


def read(path: Path, *, limits: Limits = DEFAULT_LIMITS) -> Artifact:
    """Read a bundle and verify the digest and the size of every file in it.

    Raises:
        ArtifactNotFound: there is no such file.
        CorruptArtifact: the bytes are not what the manifest says.
        UnsafeArchive: it holds what must never be unpacked, or more than the limits allow.
    """
    with _opened(path) as file:
        source = _Hashed(file)
        manifest = _walk(source, path, limits, into=None)
        return Artifact(
            digest=f"sha256:{source.hash.hexdigest()}",
            size_bytes=source.size_bytes,
            path=path.absolute(),
            manifest=manifest,
        )


def unpack(path: Path, into: Path, *, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """Verify a bundle and write its files (without the manifest) into a new or empty directory.

    Nothing is written outside `into`; when the bundle is refused, nothing that was written stays.

    Raises:
        ArtifactNotFound, CorruptArtifact, UnsafeArchive: see `read`.
        UnsafeArchive: `into` is not empty, or is no directory.
    """
    with _opened(path) as file:
        if into.is_symlink() or (into.exists() and (not into.is_dir() or any(into.iterdir()))):
            raise UnsafeArchive(f"{into}: must be a new or an empty directory to unpack {path.name} into it")
        created: list[Path] = []
        try:
            _make_directory(into, created)
            return _walk(_Hashed(file), path, limits, into=into, created=created)
        except BaseException:
            for one in reversed(created):
                # nothing but what we made lies there, unless somebody else wrote into it: theirs stays
                with contextlib.suppress(OSError):
                    one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
            raise


def file_bytes(artifact: Artifact, path: str) -> bytes:
    """The contents of one file of a bundle, verified against the manifest.

    Raises:
        CorruptArtifact: the bundle changed since it was read, or has no such file.
    """
    expected = next((one for one in artifact.manifest.files if one.path == path), None)
    if expected is None:
        names = ", ".join(one.path for one in artifact.manifest.files[:8])
        raise CorruptArtifact(f"{artifact.path.name}: has no file {path!r}; it holds {names}")
    where = str(artifact.path)
    with _opened(artifact.path) as file:
        stream = ustar.GzipReader(file, where=where, limit_bytes=DEFAULT_LIMITS.stream_bytes)
        for member, body in ustar.members(stream, where=where):
            if member.path == path:
                data = b"".join(body)
                if f"sha256:{hashlib.sha256(data).hexdigest()}" == expected.digest:
                    return data
                break
    raise CorruptArtifact(f"{where}: {path} is not what it was when the bundle was read; read it again")


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def read(self, size_bytes: int = -1) -> bytes:
        data = self._file.read(size_bytes)
        self.hash.update(data)
        self.size_bytes += len(data)
        return data


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as problem:
        raise ArtifactNotFound(
            f"{path}: cannot be opened: {problem.strerror}; build it with 'edgehil build'"
        ) from problem
    with file:
        yield file


def _manifest(walk: Iterator[tuple[ustar.Member, Iterator[bytes]]], path: Path) -> Manifest:
    first = next(walk, None)
    if first is None or first[0].path != MANIFEST_NAME:
        seen = "nothing" if first is None else ascii(first[0].path)
        raise CorruptArtifact(f"{path}: starts with {seen}, expected {MANIFEST_NAME}; rebuild it with 'edgehil build'")
    if first[0].size_bytes > MAX_MANIFEST_BYTES:
        raise CorruptArtifact(
            f"{path}: its manifest has {first[0].size_bytes} bytes, at most {MAX_MANIFEST_BYTES} are allowed; refused"
        )
    return parse(b"".join(first[1]), where=f"{MANIFEST_NAME} of {path.name}")


def _walk(
    source: _Hashed, path: Path, limits: Limits, *, into: Path | None, created: list[Path] | None = None
) -> Manifest:
    where = str(path)
    stream = ustar.GzipReader(source, where=where, limit_bytes=limits.stream_bytes)  # type: ignore[arg-type]
    walk = ustar.members(stream, where=where)
    manifest = _manifest(walk, path)
    if len(manifest.files) > limits.files:
        raise UnsafeArchive(f"{where}: {len(manifest.files)} files, the limit is {limits.files}; refused")
    claimed = sum(one.size_bytes for one in manifest.files)
    if claimed > limits.unpacked_bytes:
        raise UnsafeArchive(f"{where}: {claimed} bytes unpacked, the limit is {limits.unpacked_bytes}; refused")
    missing = {one.path: one for one in manifest.files}
    known = set(missing)
    for member, body in walk:
        entry = _expected(member, missing, known, where=where)
        if into is None:
            _verify(member, body, entry, where=where, write=None)
        else:
            assert created is not None
            with _new_file(into, member, created) as out:
                _verify(member, body, entry, where=where, write=out.write)
    if missing:
        raise CorruptArtifact(
            f"{where}: {next(iter(sorted(missing)))} is in the manifest but not in the archive; fetch or build it again"
        )
    return manifest


def _expected(member: ustar.Member, missing: dict[str, FileEntry], known: set[str], *, where: str) -> FileEntry:
    """The manifest's entry of an archive member, taken out of `missing`."""
    try:
        check_path(member.path)
    except ValueError as problem:
        raise UnsafeArchive(f"{where}: {problem}; refused") from problem
    if member.path not in missing:
        if member.path in known or member.path == MANIFEST_NAME:
            raise UnsafeArchive(f"{where}: {member.path} is in the archive twice; refused")
        raise UnsafeArchive(f"{where}: {member.path} is in the archive but not in the manifest; refused")
    entry = missing.pop(member.path)
    if member.size_bytes != entry.size_bytes:
        raise CorruptArtifact(
            f"{where}: {member.path} has {member.size_bytes} bytes, its manifest says {entry.size_bytes}; "
            "fetch or build it again"
        )
    return entry


def _verify(
    member: ustar.Member,
    body: Iterator[bytes],
    entry: FileEntry,
    *,
    where: str,
    write: Callable[[bytes], int] | None,
) -> None:
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
        if write is not None:
            write(part)
    if f"sha256:{digest.hexdigest()}" != entry.digest:
        raise CorruptArtifact(
            f"{where}: {member.path} has the digest sha256:{digest.hexdigest()[:12]}…, its manifest says "
            f"{entry.digest[:19]}…; fetch or build it again"
        )


@contextlib.contextmanager
def _new_file(into: Path, member: ustar.Member, created: list[Path]) -> Iterator[BinaryIO]:
    target = into / member.path
    _make_directory(target.parent, created)
    mode = 0o755 if member.executable else 0o644
    # O_EXCL and O_NOFOLLOW: the directory is ours and was empty, so anything already there was planted meanwhile
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    created.append(target)
    with os.fdopen(handle, "wb") as out:
        yield out


def _make_directory(path: Path, created: list[Path]) -> None:
    if path.is_dir():
        return
    _make_directory(path.parent, created)
    path.mkdir()
    created.append(path)
