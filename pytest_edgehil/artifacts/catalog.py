"""Which artifact does a name mean? Looks through directories of bundles.

A reference is a path, ``sha256:…`` (or its first 8 digits or more), or a name: the artifact's name alone, with its
quantisation (``digits-int8``, ``digits-int8-dynamic``), with its version, or the whole stem of its file. ``int8``
stands for ``int8-static`` where there is one. A name that fits several artifacts is refused with the candidates: a
gate must never judge another artifact than the one that was meant.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from pytest_edgehil.artifacts.bundle import peek, read
from pytest_edgehil.artifacts.delta import published
from pytest_edgehil.artifacts.manifest import stem
from pytest_edgehil.errors import ArtifactError, ArtifactNotFound, CorruptArtifact
from pytest_edgehil.model.artifact import Artifact, Manifest, Track

SUFFIX = ".tar.gz"
STORE_DIRECTORY = "sha256"
"""Below the place of a store (`artifacts.store`), bundles lie under their digests."""

UNQUANTISED = frozenset({"fp32", "recorded"})
_SHORTEST_DIGEST = len("sha256:") + 8


class Catalog:
    """The bundles in some directories; earlier directories win over equal bytes in later ones.

    Not below them, but for stores (see `artifacts.store`): there a bundle must have the digest that it is named by.

    Args:
        directories: those that do not exist are skipped.
    """

    def __init__(self, directories: Iterable[Path]) -> None:
        self._directories = tuple(one for place in directories for one in (place, place / STORE_DIRECTORY))
        self._known: dict[tuple[Path, int, int], Manifest] = {}
        self._read: dict[tuple[Path, int, int], Artifact] = {}
        self._digests: dict[tuple[Path, int, int], str] = {}
        self._deltas: dict[tuple[Path, int, int], published.Published | None] = {}

    def find(self, reference: str, track: Track | None = None) -> Artifact:
        """The artifact that a reference means, with every file in it verified.

        Args:
            reference: see this module's docstring.
            track: refuse artifacts of other tracks.

        Raises:
            ArtifactNotFound: none or several fit; near misses or candidates are in the message.
            CorruptArtifact, UnsafeArchive: the one that fits is damaged.
        """
        if "/" in reference or reference.endswith(SUFFIX):
            artifact = self._verified(self._existing(reference))
            if track is not None and artifact.manifest.track is not track:
                raise ArtifactNotFound(f"{reference}: is of track {artifact.manifest.track}, expected {track}")
            return artifact
        if reference.startswith("sha256:"):
            return self._by_digest(reference, track)
        return self._by_name(reference, track)

    def origin_of(self, model: Artifact) -> Artifact:
        """The artifact that a model was made from: the one whose entry file has its provenance's source digest.

        A model that was made from no other artifact here is its own origin if it was not quantised.

        Raises:
            ArtifactNotFound: it is not in the catalog.
        """
        source = model.manifest.provenance.source
        manifests, _ = self._scan()
        for path, manifest in manifests.items():
            if any(file.path == manifest.entry and file.digest == source for file in manifest.files):
                return self._verified(path)
        if model.manifest.quantisation in UNQUANTISED:
            return model
        raise ArtifactNotFound(
            f"{model.label}: the model that it was made from ({source[:19]}…) is not in {self._looked()}; "
            "build it too, or name another baseline"
        )

    def holding(self, digests: frozenset[str], track: Track) -> tuple[Artifact, ...]:
        """The artifacts of a track that have one of these digests, each once; what cannot be read is left out.

        Raises:
            ArtifactNotFound: a file went away meanwhile.
        """
        found: dict[str, Artifact] = {}
        for path, manifest in self._scan()[0].items():
            if manifest.track is not track or not digests - found.keys():
                continue
            digest = self._digest(path)
            if digest in digests and digest not in found:
                with contextlib.suppress(ArtifactError):
                    found[digest] = self._verified(path)
        return tuple(found.values())

    def deltas_to(self, artifact: Artifact, held: frozenset[str]) -> tuple[published.Published, ...]:
        """Published deltas that make an artifact of bundles that a board holds, the smallest first.

        Looked for in the directories and beside the artifact; what cannot be read is left out.

        Args:
            artifact: what is wanted.
            held: digests of what the board has.
        """
        found: dict[str, published.Published] = {}
        for directory in dict.fromkeys((*self._directories, artifact.path.parent)):
            for path in sorted(directory.glob(f"*{published.SUFFIX}")) if directory.is_dir() else ():
                if path.name.startswith("."):
                    continue
                one = self._delta(path)
                if one is not None and one.digest == artifact.digest and one.sources <= held:
                    found.setdefault(one.delta_digest, one)
        return tuple(sorted(found.values(), key=lambda one: one.delta_bytes))

    def _delta(self, path: Path) -> published.Published | None:
        with contextlib.suppress(ArtifactError):
            key = _key(path)
            if key not in self._deltas:
                self._deltas[key] = None
                one = published.peek(path)
                named = f"sha256:{path.name.removesuffix(published.SUFFIX)}"
                if path.parent.name != STORE_DIRECTORY or _digest(path) == named:
                    self._deltas[key] = one
            return self._deltas[key]
        return None

    def _existing(self, reference: str) -> Path:
        path = Path(reference)
        if path.is_file():
            return path
        for directory in self._directories:
            if (directory / reference).is_file():
                return directory / reference
        raise ArtifactNotFound(f"{reference}: there is no such file; build it with 'edgehil build'")

    def _by_digest(self, reference: str, track: Track | None) -> Artifact:
        if len(reference) < _SHORTEST_DIGEST:
            raise ArtifactNotFound(
                f"{reference!r} is too short: give at least {_SHORTEST_DIGEST} characters of the digest"
            )
        manifests, _ = self._scan()
        fitting = {
            digest: path
            for path, manifest in reversed(manifests.items())
            if (track is None or manifest.track is track) and (digest := self._digest(path)).startswith(reference)
        }
        if len(fitting) != 1:
            said = f"several artifacts: {', '.join(sorted(fitting))}" if fitting else "no artifact"
            raise ArtifactNotFound(f"{reference!r} fits {said}; looked in {self._looked()}")
        return self._verified(next(iter(fitting.values())))

    def _by_name(self, reference: str, track: Track | None) -> Artifact:
        manifests, broken = self._scan()
        usable = {path: one for path, one in manifests.items() if track is None or one.track is track}
        fitting = [path for path, one in usable.items() if reference in _names(one)]
        if not fitting:
            fitting = [path for path, one in usable.items() if reference in _loose_names(one)]
            static = [path for path in fitting if usable[path].quantisation.endswith("-static")]
            fitting = static or fitting
        if len(fitting) > 1:
            fitting = list({self._digest(path): path for path in reversed(fitting)}.values())[::-1]
        if len(fitting) == 1:
            return self._verified(fitting[0])
        if fitting:
            stems = [stem(usable[path]) for path in fitting]
            # equal names in two directories can only be told apart by their paths
            listed = stems if len(set(stems)) == len(stems) else [str(path) for path in fitting]
            raise ArtifactNotFound(
                f"{reference!r} fits several artifacts: {', '.join(sorted(listed))}; name one of them"
            )
        raise ArtifactNotFound(self._nothing(reference, track, manifests, usable, broken))

    def _nothing(
        self,
        reference: str,
        track: Track | None,
        manifests: dict[Path, Manifest],
        usable: dict[Path, Manifest],
        broken: list[str],
    ) -> str:
        kind = f"{track} artifact" if track is not None else "artifact"
        elsewhere = next((one for one in manifests.values() if reference in _names(one) | _loose_names(one)), None)
        if elsewhere is not None:
            return f"no {kind} answers to {reference!r}: {stem(elsewhere)} is of track {elsewhere.track}"
        names = {name for one in usable.values() for name in (*_names(one), *_loose_names(one))}
        near = difflib.get_close_matches(reference, sorted(names), n=3, cutoff=0.6)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; build it with 'edgehil build RECIPE.yaml'"
        said = f"no {kind} answers to {reference!r} in {self._looked()}{hint}"
        return f"{said} ({len(broken)} unreadable: {broken[0]})" if broken else said

    def _scan(self) -> tuple[dict[Path, Manifest], list[str]]:
        """Manifests by path, in the order of directories and names, and what is wrong with unreadable bundles."""
        manifests: dict[Path, Manifest] = {}
        broken = []
        for directory in self._directories:
            for path in sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else ():
                # a file that begins with a dot is one that `pack` is writing
                if path.name.startswith("."):
                    continue
                try:
                    key = _key(path)
                    if key not in self._known:
                        self._known[key] = peek(path)
                    manifests[path] = self._known[key]
                except ArtifactError as problem:
                    broken.append(str(problem))
        return manifests, broken

    def _digest(self, path: Path) -> str:
        key = _key(path)
        if key not in self._digests:
            self._digests[key] = _digest(path)
        return self._digests[key]

    def _verified(self, path: Path) -> Artifact:
        key = _key(path)
        if key not in self._read:
            artifact = read(path)
            if path.parent.name == STORE_DIRECTORY and artifact.digest != f"sha256:{path.name.removesuffix(SUFFIX)}":
                raise CorruptArtifact(
                    f"{path}: hashes to {artifact.digest}, which is not its name; 'edgehil store verify' finds all such"
                )
            self._read[key] = artifact
        return self._read[key]

    def _looked(self) -> str:
        shown = [one for one in self._directories if one.name != STORE_DIRECTORY or one.is_dir()]
        return ", ".join(map(str, shown)) or "no directory"


def _key(path: Path) -> tuple[Path, int, int]:
    try:
        status = path.stat()
    except OSError as problem:
        raise ArtifactNotFound(f"{path}: {problem.strerror}") from problem
    return path.absolute(), status.st_mtime_ns, status.st_size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _names(manifest: Manifest) -> set[str]:
    name, version, quantisation = manifest.name, manifest.version, manifest.quantisation
    return {name, f"{name}-{quantisation}", f"{name}-{version}", f"{name}-{version}-{quantisation}", stem(manifest)}


def _loose_names(manifest: Manifest) -> set[str]:
    """Names with a quantisation's first word only: ``digits-int8`` for ``int8-static``."""
    word = manifest.quantisation.split("-")[0]
    return {f"{manifest.name}-{word}", f"{manifest.name}-{manifest.version}-{word}"}
