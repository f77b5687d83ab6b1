"""``make demo``: one release, from the lab to the rollout decision, on four virtual boards.

It types what a user would type, shows it, and ends with an account of what happened. Everything it makes is below
``demo-out`` (or the directory that is named as its only argument); everything it starts ends with it, also when it is
interrupted or killed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path

from story import BOLD, PLAIN, ROOT, Demo, perform, relative

OUT = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "demo-out"
LAB = "farm/virtual.yaml"
POLICY = "farm/policy-virtual.yaml"
PLAN = "farm/rollout-plan.yaml"
RECIPES = (
    "suites/models/digits/digits-fp32.yaml",
    "suites/models/digits/digits-int8.yaml",
    "suites/models/digits/digits-int8-dynamic.yaml",
    "suites/models/digits/digits-bad.yaml",
    "suites/firmware/edge-os-2026.11.yaml",
    "suites/prompts/digit-reader.yaml",
)
GOOD, BAD, BASELINE = "digits-int8", "digits-bad", "digits-fp32"
SOAK = "10 s"
REPOSITORY = (
    "--repo",
    os.path.relpath(OUT / "repository", ROOT),
    "--keys",
    os.path.relpath(OUT / "release-keys", ROOT),
)


def tell(demo: Demo) -> int:
    """The story, step by step; returns the exit status."""
    good, bad = OUT / "good", OUT / "bad"
    artifacts = OUT / "artifacts"

    demo.title(1, "Build: quantise the digits model two good ways and one bad way, pack firmware and prompts")
    demo.run("edgehil", "build", "--out", relative(artifacts), *RECIPES)

    demo.title(2, "Test the good model on four virtual boards, one worker each; every gate must pass")
    demo.run(*suite(GOOD, good))

    demo.title(3, "Test the bad model with the same suite; the gates must refuse it")
    demo.run(*suite(BAD, bad), expect=(1,))

    demo.title(4, "Check the evidence, then release: signed for the good model, refused for the bad one")
    demo.run("edgehil", "evidence", "verify", relative(good / "evidence"))
    demo.run("edgehil", "release", "init", *REPOSITORY)
    for name, report, expected in ((GOOD, good, 0), (BAD, bad, 2)):
        bundle = bundle_of(artifacts, name)
        demo.run(
            *("edgehil", "release", "publish", relative(bundle)),
            *("--evidence", relative(report / "evidence"), "--policy", POLICY, *REPOSITORY),
            expect=(expected,),
        )

    demo.title(
        5, "Canaries: two boards run the new model beside two with the old one; first the released, then the bad"
    )
    for name in (GOOD, BAD):
        demo.run(
            *(sys.executable, "demo/canary.py", "--lab", LAB, "--telemetry", relative(OUT / "telemetry" / name)),
            *("--control", relative(bundle_of(artifacts, BASELINE)), "--canary", relative(bundle_of(artifacts, name))),
        )

    demo.title(6, "Decide the rollout of each: promote, hold or roll back")
    ledger = relative(OUT / "ledger.jsonl")
    for name, expected in ((GOOD, 0), (BAD, 20)):
        demo.run(
            *("edgehil", "rollout", "decide", PLAN, "--telemetry", relative(OUT / "telemetry" / name)),
            *("--artifact", digest_of(bundle_of(artifacts, name))),
            *("--baseline", digest_of(bundle_of(artifacts, BASELINE)), "--ledger", ledger),
            expect=(expected,),
        )
    demo.run("edgehil", "rollout", "verify-ledger", ledger)
    account(demo, {GOOD: good, BAD: bad})
    return 0


def suite(model: str, report: Path) -> tuple[str, ...]:
    """The gate suite for a model, as CI would call it."""
    return (
        *("pytest", "-n", "auto", "-q", "--no-header", f"--edgehil-lab={LAB}", "--edgehil-model", model),
        *("--edgehil-artifacts", relative(OUT / "artifacts"), "--edgehil-soak", SOAK, "--edgehil-policy", POLICY),
        *(f"--edgehil-report={relative(report)}", f"--alluredir={relative(report / 'allure-results')}", "suites/gates"),
    )


def bundle_of(artifacts: Path, name: str) -> Path:
    """The bundle of a name."""
    from pytest_edgehil.artifacts.catalog import Catalog

    return Catalog([artifacts]).find(name).path


def digest_of(bundle: Path) -> str:
    """A bundle's digest as plans name it."""
    return f"sha256:{hashlib.sha256(bundle.read_bytes()).hexdigest()}"


def account(demo: Demo, reports: dict[str, Path]) -> None:
    """What happened, for somebody who has never seen this before; all of it read from what was written."""
    demo.say(f"\n{BOLD}=== What happened, in {time.monotonic() - demo.started:.0f} s ==={PLAIN}")
    for name, report in reports.items():
        tests = json.loads((report / "results.json").read_text())["tests"]
        boards = sorted({f"{one['board']['id']} ({one['board']['cls']})" for one in tests if one["board"]})
        demo.say(f"\n{BOLD}{name}{PLAIN} ran on {', '.join(boards)}: virtual boards, processes on this machine")
        for test in tests:
            where = test["board"]["id"] if test["board"] else "no board"
            for verdict in test["verdicts"]:
                demo.say(f"  {verdict['outcome']:<12} {verdict['gate']:<12} {where}: {verdict['reason']}")
            if test["status"] != "passed" and not test["verdicts"]:
                demo.say(f"  {test['status']:<12} {test['nodeid'].rpartition('::')[2]} {where}: {test['message']}")

    released = {one["artifact"] for one in demo.ask("release", "list", "--json", *REPOSITORY)["released"]}
    decided = [json.loads(base64.b64decode(json.loads(line)["payload"])) for line in (OUT / "ledger.jsonl").open()]
    demo.say()
    for name in reports:
        digest = digest_of(bundle_of(OUT / "artifacts", name))
        if digest in released:
            demo.say(f"{BOLD}Signed:{PLAIN} {name}, by releaser and gate; its evidence fulfils {POLICY}")
        else:
            demo.say(f"{BOLD}Not signed:{PLAIN} {name}; its evidence does not fulfil {POLICY}")
        for statement in decided:
            told = statement["predicate"]
            if f"sha256:{statement['subject'][0]['digest']['sha256']}" == digest:
                demo.say(f"{BOLD}Decided:{PLAIN} {told['decision']} for {name}: {'; '.join(told['reasons'])}")

    demo.say(f"\n{BOLD}Open next:{PLAIN}")
    good = reports[GOOD]
    for path, what in (
        (good / "summary.md", "the run as a CI summary shows it"),
        (good / "results.json", "every number of the run"),
        (good / "allure-results", "for an Allure report: npx allure generate, or your CI's Allure plugin"),
        (good / "evidence", "signed statements: board, digests, numbers, raw samples"),
        (OUT / "repository" / "metadata", "the TUF repository's signed metadata"),
        (OUT / "ledger.jsonl", "the rollout decisions, signed and chained"),
        (ROOT / "docs" / "tutorial" / "first-run.md", "the same, explained step by step"),
    ):
        demo.say(f"  {relative(path):<32} {what}")


def main() -> int:
    """The demo."""
    return perform(OUT, tell, steps=6)


if __name__ == "__main__":
    sys.exit(main())
