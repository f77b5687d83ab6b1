"""Publishing a delta: it becomes a target beside the bundle that it makes, under the signatures of the same role.

A delta needs no evidence of its own. What runs on a device is its result, whose digest must be a target already, so
evidence and policy are those of the result; a device downloads the delta instead, applies it to what it has, and holds
what comes out to the digest that the result's target was signed with. The target of a delta says so itself::

    "custom": {"seq": 7, "evidence": "sha256:…", "policy": "sha256:…", "makes": "sha256:…", "from": ["sha256:…"]}
"""

from __future__ import annotations

from pathlib import Path

from pytest_edgehil.artifacts.delta import published
from pytest_edgehil.errors import ReleaseRefused
from pytest_edgehil.evidence.files import locked
from pytest_edgehil.release.accepted import Accepted
from pytest_edgehil.release.repository import Released, Repository, target_path


def publish_delta(path: Path, *, repo: Path, keys: Path, now: float) -> tuple[Released, bool]:
    """Sign a delta as a target, with the releaser's and the gate's key.

    Args:
        path: the delta, as ``edgehil delta --out`` writes it.
        repo: the TUF repository.
        keys: its keys.
        now: Unix time, seconds.

    Returns:
        What the repository lists, and whether it did before.

    Raises:
        ReleaseRefused: its result is not released, or not as what the delta says that it is.
        CorruptArtifact, UnsafeArchive, ArtifactNotFound: it is no delta.
        ConfigError: the repository or a key cannot be used.
    """
    delta, digest, size_bytes = published.read(path)
    with locked(keys / ".lock"):
        repository = Repository(repo, keys)
        accepted = Accepted(keys / "accepted.jsonl")
        accepted.check_not_rolled_back(repository, repo)
        result = _result(delta, repository)
        name = f"{result.path.rpartition('/')[2].removesuffix('.tar.gz')}-{digest[7:19]}{published.SUFFIX}"
        target = target_path(delta.track, name)
        for one in repository.released():
            if one.path == target and one.digest == digest:
                return one, True
        seq = 1 + max([accepted.last_seq, *(one.seq for one in repository.released())])
        accepted.append(
            {
                "seq": seq,
                "artifact": digest,
                "evidence": result.evidence,
                "policy": result.policy,
                "version": repository.version + 1,
                "nonces": [],
            }
        )
        custom = {
            "seq": seq,
            "evidence": result.evidence,
            "policy": result.policy,
            "makes": delta.digest,
            "from": sorted(delta.sources),
        }
        repository.add(delta.track, path, name=name, digest=digest, custom=custom, now=now)
        made = Released(
            path=target,
            digest=digest,
            size_bytes=size_bytes,
            seq=seq,
            evidence=result.evidence,
            policy=result.policy,
            makes=delta.digest,
        )
        return made, False


def _result(delta: published.Published, repository: Repository) -> Released:
    role = target_path(delta.track, "")
    for one in repository.released():
        if one.digest == delta.digest and one.size_bytes == delta.size_bytes and one.path.startswith(role):
            return one
    raise ReleaseRefused(
        f"the delta to {delta.label} is not released: what it makes is not",
        reasons=(f"no target of {role} is {delta.digest}, {delta.size_bytes} bytes; publish that first",),
    )
