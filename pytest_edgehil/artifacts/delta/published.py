"""A delta as a file to be handed on: made once, where both bundles are, and used wherever a board has the old one.

``….ehdelta`` is packed as bundles are (`artifacts.ustar`), so the same delta gives the same bytes, and holds

``manifest.json``
    RFC 8785: ``schema`` (1), ``name``, ``version`` and ``track`` of the result, ``result`` and ``delta`` with their
    ``digest`` and ``size_bytes``, and ``sources``, the digests of the bundles that it is made from.
``delta``
    See `delta.document`.

What counts is the signature of its result. A board takes nothing but a result with the digest that it was told, so
whoever has signed that digest has signed what any delta makes of it; a wrong or damaged delta costs time and is
followed by the whole bundle. A delta is kept in stores (`artifacts.store`) and is a target of the release repository
(``release/deltas.py``) as bundles are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pytest_edgehil.artifacts import ustar
from pytest_edgehil.artifacts.manifest import Digest, Name, Positive, Version, first_error
from pytest_edgehil.errors import ArtifactNotFound, CorruptArtifact
from pytest_edgehil.model.artifact import Artifact, Track

if TYPE_CHECKING:
    from pytest_edgehil.artifacts.delta.document import Head

SUFFIX = ".ehdelta"
MANIFEST_NAME, DELTA_NAME = "manifest.json", "delta"
MAX_MANIFEST_BYTES = 1 << 16
MAX_SOURCES = 256
_MAX_DELTA_BYTES = 1 << 40


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Bytes(_Strict):
    digest: Digest
    size_bytes: Annotated[Positive, Field(lt=_MAX_DELTA_BYTES)]


class _Manifest(_Strict):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    name: Name
    version: Version
    track: Literal["firmware", "model", "prompt"]
    result: _Bytes
    delta: _Bytes
    sources: Annotated[list[Digest], Field(min_length=1, max_length=MAX_SOURCES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a published delta says of itself.

    Args:
        path: where it lies.
        name, version, track: of the bundle that it makes.
        digest, size_bytes: of that bundle.
        sources: digests of the bundles that it is made from; a board must have all of them.
        delta_digest, delta_bytes: of what is sent.
    """

    path: Path
    name: str
    version: str
    track: Track
    digest: str
    size_bytes: int
    sources: frozenset[str]
    delta_digest: str
    delta_bytes: int

    @property
    def label(self) -> str:
        """For people: ``digits 1.1.0 from sha256:0123456789ab…``."""
        return f"{self.name} {self.version} from {', '.join(f'{one[:19]}…' for one in sorted(self.sources))}"

    def pieces(self) -> Iterator[bytes]:
        """What is sent to the board.

        Raises:
            ArtifactNotFound, CorruptArtifact, UnsafeArchive: the file is no longer what it was.
        """
        with _opened(self.path) as stream:
            members = ustar.members(stream, where=str(self.path))
            if _head(members, self.path) != self:
                raise CorruptArtifact(f"{self.path}: was replaced by another delta; try again")
            member, contents = _next(members, DELTA_NAME, self.path)
            hashing, sent = hashlib.sha256(), 0
            for piece in contents:
                hashing.update(piece)
                sent += len(piece)
                yield piece
            if (f"sha256:{hashing.hexdigest()}", sent) != (self.delta_digest, self.delta_bytes):
                raise CorruptArtifact(f"{self.path}: {member.path} is not what its manifest says; fetch it again")
            for one, _ in members:
                raise CorruptArtifact(f"{self.path}: holds {one.path!a}, which no delta has; fetch it again")


def publish(new: Artifact, head: Head, pieces: Iterable[bytes], path: Path) -> Published:
    """Write a delta; an older file of that name is replaced atomically.

    Args:
        new: what it makes.
        head: of the delta.
        pieces: the delta.
        path: of the file.

    Raises:
        CorruptArtifact: the delta is made of nothing, so that it is no delta.
    """
    if not head.sources:
        raise CorruptArtifact(f"{new.label}: has nothing in common with what it shall be made from; push it whole")
    data = b"".join(pieces)
    manifest = new.manifest
    text = rfc8785.dumps(
        {
            "schema": 1,
            "name": manifest.name,
            "version": manifest.version,
            "track": manifest.track.value,
            "result": {"digest": head.digest, "size_bytes": head.size_bytes},
            "delta": {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size_bytes": len(data)},
            "sources": list(head.sources),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as out:
            stream = ustar.StoredGzip(out)
            for name, content in ((MANIFEST_NAME, text), (DELTA_NAME, data)):
                stream.write(ustar.header(name, size_bytes=len(content), executable=False))
                stream.write(content)
                stream.write(ustar.padding(len(content)))
            stream.write(ustar.END)
            stream.finish()
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return peek(path)


def peek(path: Path) -> Published:
    """Read the manifest; the delta itself is held to it when it is sent.

    Raises:
        ArtifactNotFound: there is no such file.
        CorruptArtifact, UnsafeArchive: it is no published delta.
    """
    with _opened(path) as stream:
        return _head(ustar.members(stream, where=str(path)), path)


def read(path: Path) -> tuple[Published, str, int]:
    """Read all of it.

    Returns:
        What it says, and digest and size in bytes of the file.

    Raises:
        ArtifactNotFound, CorruptArtifact, UnsafeArchive: as `peek`, and if the delta is not what the manifest says.
    """
    one = peek(path)
    for _ in one.pieces():
        pass
    try:
        with path.open("rb") as file:
            hashing = hashlib.file_digest(file, "sha256")
            return one, f"sha256:{hashing.hexdigest()}", file.tell()
    except OSError as problem:
        raise ArtifactNotFound(f"{path}: cannot be read: {problem.strerror}") from problem


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ustar.GzipReader]:
    try:
        with path.open("rb") as file:
            yield ustar.GzipReader(file, where=str(path), limit_bytes=_MAX_DELTA_BYTES)
    except OSError as problem:
        raise ArtifactNotFound(f"{path}: cannot be read: {problem.strerror}") from problem


_Members = Iterator[tuple[ustar.Member, Iterator[bytes]]]


def _next(members: _Members, name: str, path: Path) -> tuple[ustar.Member, Iterator[bytes]]:
    for member, contents in members:
        if member.path == name and not member.executable:
            return member, contents
        break
    raise CorruptArtifact(f"{path}: has no {name} where a published delta has it; fetch it again")


def _head(members: _Members, path: Path) -> Published:
    member, contents = _next(members, MANIFEST_NAME, path)
    if member.size_bytes > MAX_MANIFEST_BYTES:
        raise CorruptArtifact(f"{path}: a manifest of {member.size_bytes} bytes; at most {MAX_MANIFEST_BYTES} may be")
    data = b"".join(contents)
    try:
        value = _Manifest.model_validate_json(data)
    except ValidationError as problem:
        raise CorruptArtifact(f"{path}: {MANIFEST_NAME}: {first_error(problem)}; fetch it again") from problem
    if rfc8785.dumps(value.model_dump(by_alias=True)) != data:
        raise CorruptArtifact(f"{path}: {MANIFEST_NAME} is not in canonical form (RFC 8785); fetch it again")
    return Published(
        path=path.absolute(),
        name=value.name,
        version=value.version,
        track=Track(value.track),
        digest=value.result.digest,
        size_bytes=value.result.size_bytes,
        sources=frozenset(value.sources),
        delta_digest=value.delta.digest,
        delta_bytes=value.delta.size_bytes,
    )
