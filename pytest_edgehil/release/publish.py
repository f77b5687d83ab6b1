"""Publishing: an artifact becomes a TUF target if, and only if, its evidence fulfils the policy.

A nonce is used once: `accepted.jsonl`, on the keys' side, remembers which statements were signed for, and refuses
them for anything else (`release.accepted`). Publishing the same artifact again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_edgehil.artifacts.manifest import stem
from pytest_edgehil.errors import ReleaseRefused
from pytest_edgehil.evidence import raw
from pytest_edgehil.evidence.files import locked
from pytest_edgehil.evidence.trust import Trust
from pytest_edgehil.evidence.verify import VerifiedEvidence, inspect_directory
from pytest_edgehil.model.artifact import Artifact
from pytest_edgehil.release.accepted import Accepted
from pytest_edgehil.release.judging import judge
from pytest_edgehil.release.policy import Policy
from pytest_edgehil.release.repository import Released, Repository, target_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What came of publishing.

    Args:
        target: what the repository lists.
        already: it had been published before; nothing was changed.
        used: the evidence it was published for; empty when `already`.
        notes: gates that stayed undecided and that the policy does not ask for.
    """

    target: Released
    already: bool
    used: tuple[VerifiedEvidence, ...] = ()
    notes: tuple[str, ...] = ()


def publish(
    artifact: Artifact,
    *,
    evidence: Path,
    policy: Policy,
    repo: Path,
    keys: Path,
    trust: Trust,
    now: float,
    beside: Sequence[str] = (),
    evaluate: raw.Evaluate | None = None,
) -> Published:
    """Check the policy, and sign the artifact as a target with the releaser's and the gate's key.

    Args:
        artifact: a bundle whose digests were checked (see `artifacts.bundle.read`).
        evidence: evidence directory of one run.
        policy: what is asked for.
        repo: the TUF repository.
        keys: its keys.
        trust: whose evidence counts.
        now: Unix time, seconds.
        beside: digests that must have been on the board beside the artifact.
        evaluate: how a gate judges; default through `gates.registry`.

    Raises:
        ReleaseRefused: with every reason.
        ConfigError: the repository or a key cannot be used.
    """
    with locked(keys / ".lock"):
        repository = Repository(repo, keys)
        accepted = Accepted(keys / "accepted.jsonl")
        accepted.check_not_rolled_back(repository, repo)
        listed = _listed(repository, artifact)
        if listed is not None:
            _require_same_policy(artifact, listed, policy)
            return Published(target=listed, already=True)
        inspection = inspect_directory(evidence, trust, now=now, evaluate=evaluate)
        decision = judge(
            policy, inspection, digest=artifact.digest, size_bytes=artifact.size_bytes, now=now, beside=beside
        )
        reasons = list(decision.reasons)
        index = inspection.index
        if index is not None:
            reasons += accepted.replays(decision.used, artifact=artifact.digest, evidence=index.digest)
        if reasons or index is None:
            raise ReleaseRefused(
                f"{artifact.label} is not released: policy {policy.name} is not fulfilled", reasons=tuple(reasons)
            )
        seq = 1 + max([accepted.last_seq, *(one.seq for one in repository.released())])
        accepted.append(
            {
                "seq": seq,
                "artifact": artifact.digest,
                "evidence": index.digest,
                "policy": policy.digest,
                "version": repository.version + 1,
                "nonces": [one.statement.nonce for one in decision.used],
            }
        )
        custom = {
            "seq": seq,
            "evidence": index.digest,
            "envelopes": sorted(one.digest for one in decision.used),
            "policy": policy.digest,
            "companions": {track.value: digest for track, digest in decision.companions.items()},
        }
        path = repository.add(
            artifact.manifest.track,
            artifact.path,
            name=_file_name(artifact),
            digest=artifact.digest,
            custom=custom,
            now=now,
        )
        target = Released(
            path=path,
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            seq=seq,
            evidence=index.digest,
            policy=policy.digest,
        )
        return Published(target=target, already=False, used=decision.used, notes=decision.notes)


def _require_same_policy(artifact: Artifact, listed: Released, policy: Policy) -> None:
    """Whoever names a stricter policy must not be told that all is well because a looser one was fulfilled once."""
    if listed.policy != policy.digest:
        reason = (
            f"target {listed.path}, number {listed.seq}, was signed under policy {listed.policy}, and {policy.name} is "
            f"{policy.digest}; give the artifact a new version to release it under that one"
        )
        raise ReleaseRefused(f"{artifact.label} is released already, but under another policy", reasons=(reason,))


def _file_name(artifact: Artifact) -> str:
    # from the manifest: a renamed file is still the same release
    return f"{stem(artifact.manifest)}.tar.gz"


def _listed(repository: Repository, artifact: Artifact) -> Released | None:
    path = target_path(artifact.manifest.track, _file_name(artifact))
    for one in repository.released():
        if one.path == path and one.digest == artifact.digest:
            return one
        if one.path == path:
            raise ReleaseRefused(
                f"{artifact.label} is not released: {path} is released with other bytes; raise its version",
                reasons=(f"released as {one.digest}", f"now it is {artifact.digest}"),
            )
    return None
