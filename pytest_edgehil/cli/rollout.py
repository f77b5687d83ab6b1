"""``edgehil rollout``: decide on the next step of a rollout, and check the ledger of all decisions."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_edgehil.rollout.decide import Decision, PastDecision

EXIT_STATUS = {"promote": 0, "hold": 10, "roll back": 20}
"""What ``decide`` exits with; 2 means that it could not decide."""


def add(subparsers: Any) -> None:
    """Add the verb."""
    top = subparsers.add_parser("rollout", help="decide where a release may go")
    verbs = top.add_subparsers(dest="what", required=True, metavar="WHAT")

    decide = verbs.add_parser(
        "decide",
        help="promote, hold or roll back",
        description="Exit status: 0 promote, 10 hold, 20 roll back, 2 the plan or its telemetry cannot be used.",
    )
    decide.add_argument("plan", type=Path, metavar="PLAN", help="the plan, YAML")
    decide.add_argument(
        "--telemetry", type=Path, required=True, metavar="DIR", help="directory of *.jsonl, one per device"
    )
    decide.add_argument("--ledger", type=Path, required=True, metavar="FILE", help="where decisions are recorded")
    decide.add_argument(
        "--artifact", metavar="REF", help="what is rolled out, unless the plan says: digest, bundle or name"
    )
    decide.add_argument("--baseline", metavar="REF", help="what it is compared with, unless the plan says; likewise")
    decide.add_argument(
        "--artifacts",
        type=Path,
        action="append",
        metavar="DIR",
        help="look names up in the bundles here (repeatable; default: artifacts)",
    )
    decide.add_argument("--actor", help="who decides; default: the login name")
    decide.add_argument("--key", type=Path, metavar="FILE", help="signing key; default: this user's rollout key")
    decide.add_argument("--trust", type=Path, metavar="FILE", help="trust file with rollout_keys; default: the own key")
    decide.add_argument("--json", action="store_true", help="print one JSON object")
    decide.set_defaults(run=_decide)

    verify = verbs.add_parser(
        "verify-ledger",
        help="check every decision's signature and the chain",
        description="The chain cannot show that the newest lines were cut off: note the head, and give --head.",
    )
    verify.add_argument("ledger", type=Path, metavar="FILE")
    verify.add_argument("--trust", type=Path, metavar="FILE", help="trust file with rollout_keys; default: the own key")
    verify.add_argument("--head", metavar="SHA256", help="a head that was noted earlier; it must still be there")
    verify.add_argument("--json", action="store_true", help="print one JSON object")
    verify.set_defaults(run=_verify)


def _decide(options: argparse.Namespace) -> int:
    from pytest_edgehil.evidence.keys import rollout_signer
    from pytest_edgehil.rollout import ledger
    from pytest_edgehil.rollout.decide import decide
    from pytest_edgehil.rollout.plan import load_plan
    from pytest_edgehil.rollout.telemetry import read_telemetry

    plan = load_plan(options.plan)
    places = tuple(options.artifacts or (Path("artifacts"),))
    artifact = _chosen("artifact", plan.artifact, options.artifact, places, required=True)
    assert artifact is not None
    baseline = _chosen("baseline", plan.baseline, options.baseline, places, required=False)
    now = time.time()
    telemetry = read_telemetry(
        options.telemetry, artifact=artifact, baseline=baseline, environment=plan.environment, now=now
    )
    signer = rollout_signer(options.key)
    trusted = _trusted(options) if options.trust is not None else (signer.public_key,)

    def make(history: tuple[PastDecision, ...]) -> Decision:
        return decide(
            plan,
            telemetry,
            artifact=artifact,
            baseline=baseline,
            history=history,
            now=now,
            actor=options.actor or getpass.getuser(),
        )

    decision, head = ledger.append(options.ledger, make, signer=signer, trusted=trusted)
    if options.json:
        print(json.dumps(_account(decision, head), indent=2))
    else:
        _show(decision, head, options.ledger)
    return EXIT_STATUS[decision.move.value]


def _verify(options: argparse.Namespace) -> int:
    from pytest_edgehil.rollout.ledger import read_ledger

    found = read_ledger(options.ledger, _trusted(options), head=options.head)
    if options.json:
        rows = [
            {
                "number": one.number,
                "plan": one.plan,
                "seq": one.seq,
                "artifact": one.artifact,
                "decision": one.move.value,
            }
            for one in found.entries
        ]
        print(json.dumps({"decisions": rows, "head": found.head}, indent=2))
        return 0
    for one in found.entries:
        print(f"{one.number:4d}  {one.move.value:9s}  {one.artifact[:19]}…  plan {one.plan} seq {one.seq}")
    print(f"{len(found.entries)} decisions, every signature and the chain hold; head {found.head}")
    if options.head is None:
        print("lines cut off at the end cannot be seen without --head")
    return 0


def _trusted(options: argparse.Namespace) -> Sequence[Any]:
    from pytest_edgehil.evidence.trust import default_trust, load_trust

    return (default_trust() if options.trust is None else load_trust(options.trust)).rollout_keys


def _chosen(
    what: str, in_plan: str | None, reference: str | None, places: tuple[Path, ...], *, required: bool
) -> str | None:
    """The digest that the plan or the command line says; both must mean the same artifact."""
    from pytest_edgehil.errors import RolloutError

    given = None if reference is None else _digest(what, reference, places)
    if in_plan is not None and given is not None and in_plan != given:
        named = given if reference == given else f"{reference} ({given})"
        raise RolloutError(f"--{what} {named} contradicts the plan, which says {in_plan}")
    if required and in_plan is None and given is None:
        raise RolloutError(f"the plan names no {what}: give --{what}, a digest (sha256:…), a bundle or a name")
    return given or in_plan


def _digest(what: str, reference: str, places: tuple[Path, ...]) -> str:
    """A whole digest stands for itself, for the bundle need not be here; anything else is looked up."""
    from pytest_edgehil.artifacts.catalog import Catalog
    from pytest_edgehil.errors import ArtifactError, EvidenceError, RolloutError
    from pytest_edgehil.evidence.canonical import hex_of

    with contextlib.suppress(EvidenceError):
        hex_of(reference)
        return reference
    try:
        return Catalog(places).find(reference).digest
    except ArtifactError as problem:
        raise RolloutError(f"--{what}: {problem}") from problem


def _account(decision: Decision, head: str) -> dict[str, Any]:
    from pytest_edgehil.rollout.ledger import metric_to_json

    return {
        "decision": decision.move.value,
        "reasons": list(decision.reasons),
        "artifact": decision.artifact,
        "baseline": decision.baseline,
        "weight_from": decision.weight_from,
        "weight_to": decision.weight_to,
        "complete": decision.complete,
        "plan": {"name": decision.plan.name, "seq": decision.plan.seq, "digest": decision.plan.digest},
        "metrics": [metric_to_json(one) for one in decision.metrics],
        "devices": {"canary": decision.devices[0], "control": decision.devices[1]},
        "actor": decision.actor,
        "head": head,
    }


def _show(decision: Decision, head: str, ledger: Path) -> None:
    where = {
        "promote": f"from {decision.weight_from} % to {decision.weight_to} % of the devices",
        "hold": f"at {decision.weight_from} % of the devices",
        "roll back": f"from {decision.weight_from} % to the baseline",
    }[decision.move.value]
    canaries, controls = decision.devices
    print(f"{decision.move.value}: {decision.artifact[:19]}… {where}")
    print(f"  plan {decision.plan.name} seq {decision.plan.seq}; {canaries} canaries, {controls} controls reported")
    for reason in decision.reasons:
        print(f"  - {reason}")
    print(f"recorded in {ledger}, head {head}")
