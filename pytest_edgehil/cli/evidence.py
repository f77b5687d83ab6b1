"""``edgehil evidence``: check evidence, and say which key this lab signs with."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Add the verb."""
    top = subparsers.add_parser("evidence", help="check signed evidence")
    verbs = top.add_subparsers(dest="what", required=True, metavar="WHAT")

    verify = verbs.add_parser("verify", help="check every statement of an evidence directory")
    verify.add_argument("directory", type=Path, metavar="DIR", help="the evidence directory of a run")
    verify.add_argument(
        "--trust", type=Path, metavar="FILE", help="trust file; default: this user's own lab and boards"
    )
    verify.add_argument("--at", metavar="TIME", help="check as of this time (RFC 3339, UTC); default: now")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(run=_verify)

    key = verbs.add_parser("key", help="print the public keys that others put into their trust file")
    key.set_defaults(run=_key)


def _verify(options: argparse.Namespace) -> int:
    from pytest_edgehil.evidence.statement import from_rfc3339
    from pytest_edgehil.evidence.trust import default_trust, load_trust
    from pytest_edgehil.evidence.verify import inspect_directory

    now = time.time() if options.at is None else from_rfc3339(options.at, what="--at")
    trust = default_trust() if options.trust is None else load_trust(options.trust)
    found = inspect_directory(options.directory, trust, now=now)
    if options.json:
        print(json.dumps(_account(found), indent=2))
    else:
        _show(found)
    return 2 if found.problems else 0


def _account(found: Any) -> dict[str, Any]:
    return {
        "directory": str(found.directory),
        "run": None if found.index is None else found.index.run_id,
        "index_digest": None if found.index is None else found.index.digest,
        "problems": list(found.problems),
        "evidence": [
            {
                "file": one.path.name,
                "digest": one.digest,
                "subject": one.subject,
                "name": one.statement.subject_name,
                "track": one.statement.track.value,
                "test": one.statement.test,
                "board": one.statement.board_id,
                "board_class": one.statement.board_class,
                "environment": one.environment.value,
                "replayed": one.replayed,
                "verdicts": {verdict.gate: verdict.outcome.value for verdict in one.verdicts},
            }
            for one in found.evidence
        ],
    }


def _show(found: Any) -> None:
    if found.index is not None:
        print(
            f"run {found.index.run_id}: {len(found.index.records)} attempts, {len(found.evidence)} statements verified"
        )
    for one in found.evidence:
        outcomes = ", ".join(f"{verdict.gate} {verdict.outcome.value}" for verdict in one.verdicts)
        kind = f"{one.environment}, replayed" if one.replayed else one.environment.value
        statement = one.statement
        print(f"  {statement.subject_name} ({one.subject[:19]}…) on {statement.board_id} ({kind}): {outcomes}")
    if not found.problems:
        print("every signature, digest and verdict holds")
        return
    print(f"not to be trusted, {len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}:")
    for problem in found.problems:
        print(f"  - {problem}")


def _key(options: argparse.Namespace) -> int:
    from pytest_edgehil.evidence.keys import lab_signer, rollout_signer
    from pytest_edgehil.places import state_directory

    del options
    print(f"# {state_directory()}")
    for name, signer in (("lab_keys", lab_signer()), ("rollout_keys", rollout_signer())):
        print(f"{name}:  # {signer.public_key.keyid}")
        value = str(signer.public_key.keyval["public"])
        if value.startswith("-----"):
            print("  - key: |")
            print("".join(f"      {line}\n" for line in value.splitlines()), end="")
        else:
            print(f"  - key: ed25519:{value}")
    return 0
