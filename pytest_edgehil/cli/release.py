"""``edgehil release``: sign artifacts whose evidence fulfils a policy into a TUF repository."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Add the verb."""
    top = subparsers.add_parser("release", help="sign artifacts into the TUF repository that devices update from")
    verbs = top.add_subparsers(dest="what", required=True, metavar="WHAT")

    init = verbs.add_parser("init", help="make an empty repository and its keys")
    _where(init)
    init.set_defaults(run=_init)

    publish = verbs.add_parser(
        "publish",
        help="sign an artifact, if its evidence fulfils the policy",
        description="Exit status: 0 published (or published before), 2 refused, with every reason. A delta needs "
        "neither evidence nor policy: what it makes must have been published.",
    )
    publish.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the bundle, *.tar.gz, or a delta, *.ehdelta")
    publish.add_argument("--evidence", type=Path, metavar="DIR", help="evidence directory of a run")
    publish.add_argument("--policy", type=Path, metavar="FILE", help="what the evidence must show")
    publish.add_argument("--trust", type=Path, metavar="FILE", help="trust file; default: this user's lab and boards")
    publish.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="SHA256",
        help="count only evidence with this artifact (sha256:…) on the board beside it; may be repeated",
    )
    publish.add_argument("--json", action="store_true", help="print one JSON object")
    _where(publish)
    publish.set_defaults(run=_publish)

    refresh = verbs.add_parser("refresh", help="sign a new timestamp; run it at least once a day")
    _where(refresh)
    refresh.set_defaults(run=_refresh)

    listed = verbs.add_parser("list", help="what is released")
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    _where(listed)
    listed.set_defaults(run=_list)


def _where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo", type=Path, required=True, metavar="DIR", help="the TUF repository")
    parser.add_argument("--keys", type=Path, required=True, metavar="DIR", help="its private keys")


def _init(options: argparse.Namespace) -> int:
    from pytest_edgehil.release.repository import init_repository

    init_repository(options.repo, options.keys, now=time.time())
    print(f"repository {options.repo}: roles firmware, models, prompts; each needs 2 signatures, releaser and gate")
    print(f"keys {options.keys}: keep root.pem offline; ship {options.keys / 'root.json'} with the devices")
    return 0


def _publish(options: argparse.Namespace) -> int:
    from pytest_edgehil.artifacts.bundle import read
    from pytest_edgehil.artifacts.delta.published import SUFFIX
    from pytest_edgehil.errors import ReleaseRefused, UserError
    from pytest_edgehil.evidence.trust import default_trust, load_trust
    from pytest_edgehil.release.policy import load_policy
    from pytest_edgehil.release.publish import publish

    if options.artifact.name.endswith(SUFFIX):
        return _publish_delta(options)
    if options.evidence is None or options.policy is None:
        raise UserError(f"{options.artifact}: a bundle is published for its evidence: pass --evidence and --policy")
    artifact = read(options.artifact)
    policy = load_policy(options.policy)
    try:
        found = publish(
            artifact,
            evidence=options.evidence,
            policy=policy,
            repo=options.repo,
            keys=options.keys,
            trust=default_trust() if options.trust is None else load_trust(options.trust),
            now=time.time(),
            beside=options.beside,
        )
    except ReleaseRefused as problem:
        if options.json:
            print(
                json.dumps({"released": False, "artifact": artifact.digest, "reasons": list(problem.reasons)}, indent=2)
            )
        raise
    target = found.target
    if options.json:
        account = {
            "released": True,
            "already": found.already,
            "target": target.path,
            "artifact": target.digest,
            "seq": target.seq,
            "evidence": target.evidence,
            "policy": target.policy,
            "envelopes": [one.digest for one in found.used],
            "notes": list(found.notes),
        }
        print(json.dumps(account, indent=2))
    elif found.already:
        print(f"{artifact.label} is released already: {target.path}, number {target.seq}; nothing was changed")
    else:
        print(f"released {artifact.label} as {target.path}, number {target.seq}")
        print(f"  artifact {target.digest}")
        print(f"  evidence {target.evidence} ({len(found.used)} statements)")
        print(f"  policy   {policy.name} {target.policy}")
        print("  signed by releaser and gate")
        for note in found.notes:
            print(f"  note: {note} (the policy does not ask for it)")
    return 0


def _publish_delta(options: argparse.Namespace) -> int:
    from pytest_edgehil.errors import ReleaseRefused, UserError
    from pytest_edgehil.release.deltas import publish_delta

    if options.evidence is not None or options.policy is not None or options.beside:
        raise UserError(
            f"{options.artifact}: evidence and policy of a delta are those of what it makes; leave them out"
        )
    try:
        target, already = publish_delta(options.artifact, repo=options.repo, keys=options.keys, now=time.time())
    except ReleaseRefused as problem:
        if options.json:
            print(json.dumps({"released": False, "reasons": list(problem.reasons)}, indent=2))
        raise
    if options.json:
        account = {
            "released": True, "already": already, "target": target.path, "artifact": target.digest,
            "seq": target.seq, "makes": target.makes, "evidence": target.evidence, "policy": target.policy,
        }  # fmt: skip
        print(json.dumps(account, indent=2))
    elif already:
        print(f"released already: {target.path}, number {target.seq}; nothing was changed")
    else:
        print(f"released {target.path}, number {target.seq}")
        print(f"  delta    {target.digest}")
        print(f"  makes    {target.makes}")
        print("  signed by releaser and gate")
    return 0


def _refresh(options: argparse.Namespace) -> int:
    from pytest_edgehil.evidence.files import locked
    from pytest_edgehil.release.repository import Repository

    with locked(options.keys / ".lock"):
        Repository(options.repo, options.keys).refresh(now=time.time())
    print(f"repository {options.repo}: the timestamp is good for another day")
    return 0


def _list(options: argparse.Namespace) -> int:
    from pytest_edgehil.release.repository import Repository

    found = Repository(options.repo, options.keys).released()
    if options.json:
        rows = [
            {
                "target": one.path, "artifact": one.digest, "seq": one.seq,
                "evidence": one.evidence, "policy": one.policy, "size_bytes": one.size_bytes,
                **({"makes": one.makes} if one.makes else {}),
            }
            for one in found
        ]  # fmt: skip
        print(json.dumps({"released": rows}, indent=2))
    else:
        for one in found:
            print(f"{one.seq:4d}  {one.path}  {one.digest}{f'  makes {one.makes}' if one.makes else ''}")
        print(f"{len(found)} released")
    return 0
