"""The TUF repository that devices update from, and the keys that sign it.

Layout (TUF 1.0, consistent snapshots)::

    REPO/metadata/N.root.json N.targets.json N.firmware.json N.models.json N.prompts.json N.snapshot.json timestamp.json
    REPO/targets/<role>/<sha256>.<bundle>
    KEYS/{root,targets,snapshot,timestamp,releaser,gate}.pem   mode 0600; in earnest they lie on different hosts
    KEYS/root.json          the root that this side trusts: the repository itself is never believed
    KEYS/accepted.jsonl     what the gate's key has signed for, and which nonces were used up by it

The roles ``firmware``, ``models`` and ``prompts`` are delegated with threshold 2: the releaser's key and the gate's.
"Sign only if the evidence passed" is thereby checked by every device, not only by this program. Deltas are targets of
the same roles (``*.ehdelta``): ``custom`` names the target that they make, and what they make it from.

Everything is written before ``timestamp.json``, which names it, is replaced by a rename: an interrupted publication
leaves the old repository as valid as it was.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.evidence.canonical import hex_of
from pytest_edgehil.evidence.files import write_atomically
from pytest_edgehil.evidence.keys import load_or_create_signer, load_signer
from pytest_edgehil.model.artifact import Track

ROLES: Mapping[Track, str] = {Track.FIRMWARE: "firmware", Track.MODEL: "models", Track.PROMPT: "prompts"}

ROOT_LIFETIME = dt.timedelta(days=365)
TARGETS_LIFETIME = dt.timedelta(days=90)
SNAPSHOT_LIFETIME = dt.timedelta(days=7)
# a fresh device takes any timestamp that has not expired, also an old one: one day bounds how old
TIMESTAMP_LIFETIME = dt.timedelta(days=1)

_KEY_NAMES = ("root", "targets", "snapshot", "timestamp", "releaser", "gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """A target of the repository.

    Args:
        path: target path, ``<role>/<file name>``.
        digest: ``sha256:<hex>``.
        seq: grows with every release.
        evidence: digest of the run index whose evidence it was released for.
        policy: digest of the policy.
        makes: of a delta: digest of the target that it makes, whose evidence and policy these are.
    """

    path: str
    digest: str
    size_bytes: int
    seq: int
    evidence: str
    policy: str
    makes: str = ""


def init_repository(repo: Path, keys: Path, *, now: float) -> None:
    """Make the keys that are missing, and an empty repository.

    Raises:
        ConfigError: there is a repository already.
    """
    if (repo / "metadata").exists() or (keys / "root.json").exists():
        raise ConfigError(f"{repo}: there is a repository or a trusted root already; name new directories")
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    signers = {name: load_or_create_signer(keys / f"{name}.pem") for name in _KEY_NAMES}
    root = Root(expires=_expiry(now, ROOT_LIFETIME), consistent_snapshot=True)
    for name in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(signers[name].public_key, name)
    both = [signers["releaser"].public_key, signers["gate"].public_key]
    delegated = {
        role: DelegatedRole(role, [one.keyid for one in both], threshold=2, terminating=True, paths=[f"{role}/*"])
        for role in ROLES.values()
    }
    targets = Targets(expires=_expiry(now, TARGETS_LIFETIME))
    targets.delegations = Delegations({one.keyid: one for one in both}, delegated)
    metadata = repo / "metadata"
    metadata.mkdir(parents=True)
    (repo / "targets").mkdir(exist_ok=True)
    root_bytes = _signed(Metadata(root), signers["root"])
    write_atomically(metadata / "1.root.json", root_bytes)
    snapshot = Snapshot(expires=_expiry(now, SNAPSHOT_LIFETIME))
    parts = {"targets": _signed(Metadata(targets), signers["targets"])}
    for role in ROLES.values():
        empty = Metadata(Targets(expires=_expiry(now, TARGETS_LIFETIME)))
        parts[role] = _signed(empty, signers["releaser"], signers["gate"])
    for role, data in parts.items():
        write_atomically(metadata / f"1.{role}.json", data)
        snapshot.meta[f"{role}.json"] = _meta(1, data)
    snapshot_bytes = _signed(Metadata(snapshot), signers["snapshot"])
    write_atomically(metadata / "1.snapshot.json", snapshot_bytes)
    timestamp = Timestamp(expires=_expiry(now, TIMESTAMP_LIFETIME), snapshot_meta=_meta(1, snapshot_bytes))
    write_atomically(metadata / "timestamp.json", _signed(Metadata(timestamp), signers["timestamp"]))
    write_atomically(keys / "root.json", root_bytes)


class Repository:
    """A repository whose metadata is verified down from the root that the keys' side trusts."""

    def __init__(self, repo: Path, keys: Path) -> None:
        """Open it.

        Raises:
            ConfigError: it is missing, or something in it is not signed by its keys.
        """
        self._repo = repo
        self._keys = keys
        self._metadata = repo / "metadata"
        root = _parse(_read(keys / "root.json"), Root, keys / "root.json")
        _verify(root, "root", root, keys / "root.json")
        self._timestamp = self._load("timestamp.json", Timestamp, "timestamp", root)
        self._snapshot = self._load(
            f"{self._timestamp.signed.snapshot_meta.version}.snapshot.json",
            Snapshot,
            "snapshot",
            root,
            meta=self._timestamp.signed.snapshot_meta,
        )
        self._targets = self._load_role("targets", root)
        self._roles = {role: self._load_role(role, self._targets) for role in ROLES.values()}

    @property
    def version(self) -> int:
        """Version of the snapshot: grows with every publication."""
        return int(self._snapshot.signed.version)

    def released(self) -> tuple[Released, ...]:
        """Every target, oldest first."""
        found = [
            _released(path, target) for role in self._roles.values() for path, target in role.signed.targets.items()
        ]
        return tuple(sorted(found, key=lambda one: one.seq))

    def add(self, track: Track, file: Path, *, name: str, digest: str, custom: Mapping[str, Any], now: float) -> str:
        """Sign a file as a target, with the releaser's and the gate's key.

        Args:
            track: decides the role.
            file: the bytes.
            name: the target's file name, whatever `file` is called.
            digest: ``sha256:<hex>`` that the bytes must have.
            custom: what the target says of itself.
            now: Unix time, seconds.

        Returns:
            The target path.

        Raises:
            ConfigError: a key is missing, or the file is not what `digest` says.
        """
        role = ROLES[track]
        path = target_path(track, name)
        data = _read(file)
        target = TargetFile.from_data(path, data, ["sha256"])
        if target.hashes["sha256"] != hex_of(digest):
            raise ConfigError(f"{file}: it changed while it was published")
        target.unrecognized_fields["custom"] = dict(custom)
        releaser, gate = self._signer("releaser"), self._signer("gate")
        folder = self._repo / "targets" / role
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{target.hashes['sha256']}.{name}", data)
        metadata = self._roles[role]
        metadata.signed.targets[path] = target
        metadata.signed.version += 1
        metadata.signed.expires = _expiry(now, TARGETS_LIFETIME)
        self._store(role, _signed(metadata, releaser, gate), metadata.signed.version)
        self._sign_snapshot(now)
        self._sign_timestamp(now)
        return path

    def refresh(self, *, now: float) -> None:
        """Sign a new timestamp, which lasts a day, and what else would expire within half of its lifetime."""
        changed = False
        for role, metadata in {"targets": self._targets, **self._roles}.items():
            if _is_due(metadata.signed.expires, TARGETS_LIFETIME, now):
                names = ("targets",) if role == "targets" else ("releaser", "gate")
                metadata.signed.version += 1
                metadata.signed.expires = _expiry(now, TARGETS_LIFETIME)
                self._store(role, _signed(metadata, *(self._signer(one) for one in names)), metadata.signed.version)
                changed = True
        if changed or _is_due(self._snapshot.signed.expires, SNAPSHOT_LIFETIME, now):
            self._sign_snapshot(now)
        self._sign_timestamp(now)

    def _store(self, role: str, data: bytes, version: int) -> None:
        write_atomically(self._metadata / f"{version}.{role}.json", data)
        self._snapshot.signed.meta[f"{role}.json"] = _meta(version, data)

    def _sign_snapshot(self, now: float) -> None:
        snapshot = self._snapshot.signed
        snapshot.version += 1
        snapshot.expires = _expiry(now, SNAPSHOT_LIFETIME)
        data = _signed(self._snapshot, self._signer("snapshot"))
        write_atomically(self._metadata / f"{snapshot.version}.snapshot.json", data)
        self._timestamp.signed.snapshot_meta = _meta(snapshot.version, data)

    def _sign_timestamp(self, now: float) -> None:
        self._timestamp.signed.version += 1
        self._timestamp.signed.expires = _expiry(now, TIMESTAMP_LIFETIME)
        # the one write that makes all others count
        write_atomically(self._metadata / "timestamp.json", _signed(self._timestamp, self._signer("timestamp")))

    def _signer(self, name: str) -> CryptoSigner:
        path = self._keys / f"{name}.pem"
        if not path.exists():
            raise ConfigError(f"{path}: the {name} key is not here; nothing can be signed in its name")
        return load_signer(path)

    def _load_role(self, role: str, delegator: Metadata[Any]) -> Metadata[Targets]:
        meta = self._snapshot.signed.meta.get(f"{role}.json")
        if meta is None:
            raise ConfigError(f"{self._metadata}: the snapshot does not list {role}.json")
        return self._load(f"{meta.version}.{role}.json", Targets, role, delegator, meta=meta)

    def _load(
        self, name: str, kind: type[Any], role: str, delegator: Metadata[Any], *, meta: MetaFile | None = None
    ) -> Metadata[Any]:
        path = self._metadata / name
        data = _read(path)
        if meta is not None:
            try:
                meta.verify_length_and_hashes(data)
            except RepositoryError as problem:
                raise ConfigError(f"{path}: it is not what the metadata above it says: {problem}") from problem
        found = _parse(data, kind, path)
        _verify(delegator, role, found, path)
        return found


def target_path(track: Track, name: str) -> str:
    """Where an artifact of this track and file name lies.

    >>> target_path(Track.MODEL, "digits-1.0.0-pi5-int8-static.tar.gz")
    'models/digits-1.0.0-pi5-int8-static.tar.gz'
    """
    return f"{ROLES[track]}/{name}"


def _released(path: str, target: TargetFile) -> Released:
    custom = target.custom or {}
    return Released(
        path=path,
        digest=f"sha256:{target.hashes['sha256']}",
        size_bytes=target.length,
        seq=int(custom["seq"]),
        evidence=str(custom["evidence"]),
        policy=str(custom["policy"]),
        makes=str(custom.get("makes", "")),
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(
            f"{path}: it cannot be read: {problem.strerror}; make a repository with 'edgehil release init'"
        ) from problem


def _parse(data: bytes, kind: type[Any], path: Path) -> Metadata[Any]:
    try:
        found: Metadata[Any] = Metadata.from_bytes(data)
    except DeserializationError as problem:
        raise ConfigError(f"{path}: this is no TUF metadata: {problem}") from problem
    if not isinstance(found.signed, kind):
        raise ConfigError(f"{path}: it is {found.signed.type} metadata, expected {kind.type}")
    return found


def _verify(delegator: Metadata[Any], role: str, found: Metadata[Any], path: Path) -> None:
    try:
        delegator.signed.verify_delegate(role, found.signed_bytes, found.signatures)
    except (RepositoryError, ValueError) as problem:
        raise ConfigError(f"{path}: its signatures do not hold: {problem}") from problem


def _signed(metadata: Metadata[Any], *signers: CryptoSigner) -> bytes:
    metadata.signatures.clear()
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=False))


def _meta(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _expiry(now: float, lifetime: dt.timedelta) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(now), dt.UTC) + lifetime


def _is_due(expires: dt.datetime, lifetime: dt.timedelta, now: float) -> bool:
    return expires - dt.datetime.fromtimestamp(now, dt.UTC) < lifetime / 2
