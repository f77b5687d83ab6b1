"""A place for bundles and deltas by digest: the same bytes are kept once, and what is read is what was meant.

::

    <place>/sha256/<64 hex digits>.tar.gz     a bundle
    <place>/sha256/<64 hex digits>.ehdelta    a published delta, see `artifacts.delta.published`

The place is a directory, or any URL that fsspec knows (``s3://bucket/edgehil``, ``gs://…``, ``memory://…``) if the
extra ``[store]`` is installed; S3 and Google's storage need the extras ``[s3]`` and ``[gcs]``. A file gets its
name only when it is whole, and its digest is computed anew on every read. A directory can be named wherever artifacts
are looked up (see `artifacts.catalog`), also as a source of deltas.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from pytest_edgehil.artifacts import bundle
from pytest_edgehil.artifacts.catalog import STORE_DIRECTORY as DIRECTORY
from pytest_edgehil.artifacts.catalog import SUFFIX
from pytest_edgehil.artifacts.delta import published
from pytest_edgehil.artifacts.manifest import stem
from pytest_edgehil.errors import ArtifactError, ArtifactNotFound, CorruptArtifact, ExtraMissing, UserError

_NAME = re.compile(r"([0-9a-f]{64})(\.tar\.gz|\.ehdelta)")
_BLOCK_BYTES = 1 << 20
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file in a store, unread.

    Args:
        digest: of its bytes.
        suffix: ``.tar.gz`` of a bundle, ``.ehdelta`` of a delta.
        size_bytes: of the file.
        changed_s: seconds since the epoch; when it was put there.
    """

    digest: str
    suffix: str
    size_bytes: int
    changed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What was added. `new`: it was not there before."""

    digest: str
    label: str
    new: bool


class Files(Protocol):
    """Where the bytes lie; names are those of files in one directory."""

    def names(self) -> dict[str, tuple[int, float]]:
        """Name → size in bytes and time of the last change, seconds since the epoch."""

    def open(self, name: str) -> BinaryIO:
        """Read a file; FileNotFoundError if there is none."""

    def put(self, name: str, source: Path) -> None:
        """Keep a copy of a file under a name; whoever looks sees all of it or nothing."""

    def remove(self, name: str) -> None:
        """Remove a file."""


class Store:
    """Bundles and deltas by digest.

    Args:
        place: for messages.
        files: where they lie.
        local: the directory, if it is one.
    """

    def __init__(self, place: str, files: Files, *, local: Path | None) -> None:
        self.place = place
        self.local = local
        self._files = files

    @classmethod
    def open(cls, place: str) -> Store:
        """The store at a directory or a URL; a directory is made at the first `add`.

        Raises:
            ExtraMissing: the URL needs a package that is not installed.
            UserError: no file system of that kind is known, or the place is a file.
        """
        if "://" not in place:
            if Path(place).exists() and not Path(place).is_dir():
                raise UserError(f"{place}: is a file; a store is a directory or a URL")
            return cls(place, _Directory(Path(place) / DIRECTORY), local=Path(place))
        return cls(place, _Remote(place), local=None)

    def entries(self) -> tuple[Kept, ...]:
        """What is there, by digest."""
        found = []
        for name, (size, changed_s) in self._files.names().items():
            match = _NAME.fullmatch(name)
            if match is not None:
                found.append(Kept(digest=f"sha256:{match[1]}", suffix=match[2], size_bytes=size, changed_s=changed_s))
        return tuple(sorted(found, key=lambda one: one.digest))

    def add(self, path: Path) -> Added:
        """Keep a bundle, or a delta if its name ends in ``.ehdelta``.

        Raises:
            ArtifactNotFound, CorruptArtifact, UnsafeArchive: it is nothing that may be kept.
        """
        if path.name.endswith(published.SUFFIX):
            delta, digest, size_bytes = published.read(path)
            label, name = delta.label, _name(digest, published.SUFFIX)
        else:
            artifact = bundle.read(path)
            digest, size_bytes = artifact.digest, artifact.size_bytes
            label, name = artifact.label, _name(digest)
        size, _ = self._files.names().get(name, (-1, 0.0))
        if size == size_bytes:
            with contextlib.suppress(CorruptArtifact):
                self._copy(name, None)
                return Added(digest=digest, label=label, new=False)
        with self._told():
            self._files.put(name, path)
        self._copy(name, None)  # what was written is read back: it may have changed on the way
        return Added(digest=digest, label=label, new=True)

    def get(self, digest: str, into: Path) -> Path:
        """Copy a bundle or a delta into a directory, verified.

        Returns:
            The file, named as its manifest says.

        Raises:
            ArtifactNotFound: it is not here.
            CorruptArtifact: what is here under its name is something else.
        """
        name = self._held(digest)
        into.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=into, prefix=".get-") as beside:
            partial = Path(beside) / name
            with partial.open("wb") as out:
                self._copy(name, out)
                out.flush()
                os.fsync(out.fileno())
            if name.endswith(SUFFIX):
                target = into / f"{stem(bundle.read(partial).manifest)}{SUFFIX}"
            else:
                delta, _, _ = published.read(partial)
                target = into / f"{delta.name}-{delta.version}-from-{min(delta.sources)[7:15]}{published.SUFFIX}"
            partial.replace(target)
        return target

    def label(self, digest: str) -> str:
        """What a bundle or a delta calls itself, for lists.

        Raises:
            ArtifactError: it cannot be read.
        """
        name = self._held(digest)
        with tempfile.TemporaryDirectory() as directory:
            head = Path(directory) / name
            with self._told(), self._files.open(name) as source, head.open("wb") as out:
                out.write(source.read(4 * _BLOCK_BYTES))  # the manifest comes first and is smaller than this
            return stem(bundle.peek(head)) if name.endswith(SUFFIX) else f"delta to {published.peek(head).label}"

    def verify(self) -> Iterator[tuple[Kept, str]]:
        """Read everything; yields each file and what is wrong with it, or nothing."""
        for one in self.entries():
            try:
                self._copy(_name(one.digest, one.suffix), None)
            except ArtifactError as problem:
                yield one, str(problem)
            else:
                yield one, ""

    def sweep(self, *, keep_bytes: int, never: Collection[str] = ()) -> tuple[Kept, ...]:
        """Remove what has not changed for longest until no more than `keep_bytes` are left.

        Args:
            keep_bytes: so much may stay.
            never: digests that stay in any case.

        Returns:
            What was removed.
        """
        removed, left = [], sum(one.size_bytes for one in self.entries())
        for one in sorted(self.entries(), key=lambda kept: (kept.changed_s, kept.digest)):
            if left <= keep_bytes:
                break
            if one.digest in never:
                continue
            with self._told():
                self._files.remove(_name(one.digest, one.suffix))
            removed.append(one)
            left -= one.size_bytes
        return tuple(removed)

    def _held(self, digest: str) -> str:
        """The name of a file that is here; of a bundle's, if there is none."""
        delta = _name(digest, published.SUFFIX)
        return delta if delta in self._files.names() else _name(digest)

    def _copy(self, name: str, out: BinaryIO | None) -> None:
        """Read a file and hold it to the digest in its name.

        Raises:
            ArtifactNotFound, CorruptArtifact: as `get`.
        """
        hashing, digest = hashlib.sha256(), f"sha256:{name[:64]}"
        try:
            with self._told(), self._files.open(name) as source:
                while block := source.read(_BLOCK_BYTES):
                    hashing.update(block)
                    if out is not None:
                        out.write(block)
        except FileNotFoundError as problem:
            raise ArtifactNotFound(f"{self.place}: has no {digest}; 'edgehil store list' says what it has") from problem
        found = f"sha256:{hashing.hexdigest()}"
        if found != digest:
            raise CorruptArtifact(f"{self.place}: {digest} hashes to {found}; remove it and add the file again")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise UserError(f"{self.place}: {problem.strerror or problem}") from problem


def _name(digest: str, suffix: str = SUFFIX) -> str:
    name = digest.removeprefix("sha256:") + suffix
    if not digest.startswith("sha256:") or _NAME.fullmatch(name) is None:
        raise ArtifactNotFound(f"{digest[:80]!r}: expected a digest such as sha256:<64 hex digits>")
    return name


class _Directory:
    """Implements `Files` in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def names(self) -> dict[str, tuple[int, float]]:
        if not self._root.is_dir():
            return {}
        found = {}
        for path in self._root.iterdir():
            if path.is_file() and not path.is_symlink():
                status = path.stat()
                found[path.name] = (status.st_size, status.st_mtime)
        return found

    def open(self, name: str) -> BinaryIO:
        return (self._root / name).open("rb")

    def put(self, name: str, source: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=self._root, prefix=f".{name[:12]}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as out, source.open("rb") as data:
                shutil.copyfileobj(data, out, _BLOCK_BYTES)
                out.flush()
                os.fsync(out.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(self._root / name)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)


class _Remote:
    """Implements `Files` with fsspec. Object stores show a file only when it is whole."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as problem:
            raise ExtraMissing(extra="store", feature=f"a store at a URL ({url})") from problem
        kind = url.partition("://")[0]
        try:
            self._system, root = fsspec.core.url_to_fs(url)
        except ImportError as problem:
            extra = _EXTRAS.get(kind)
            if extra is None:
                raise UserError(f"{url}: {problem}") from problem
            raise ExtraMissing(extra=extra, feature=f"a store at {kind}://") from problem
        except ValueError as problem:
            raise UserError(f"{url}: {problem}; expected a directory or a URL that fsspec knows") from problem
        self._root = f"{root.rstrip('/')}/{DIRECTORY}"

    def names(self) -> dict[str, tuple[int, float]]:
        try:
            listed = self._system.ls(self._root, detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(one["name"]).rpartition("/")[2]: (int(one["size"] or 0), _changed_s(one))
            for one in listed
            if one["type"] == "file"
        }

    def open(self, name: str) -> BinaryIO:
        opened: BinaryIO = self._system.open(f"{self._root}/{name}", "rb")
        return opened

    def put(self, name: str, source: Path) -> None:
        self._system.makedirs(self._root, exist_ok=True)
        self._system.put_file(str(source), f"{self._root}/{name}")

    def remove(self, name: str) -> None:
        self._system.rm_file(f"{self._root}/{name}")


def _changed_s(entry: dict[str, object]) -> float:
    """Each of fsspec's file systems has a name of its own for it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = entry.get(key)
        if isinstance(value, (int, float)):
            return float(value)
        stamp = getattr(value, "timestamp", None)
        if callable(stamp):
            return float(stamp())
    return 0.0
