"""``make demo-emulated``: the suites on two emulated arm64 boards, and what their evidence is worth.

It types what a user would type and shows it: builds the image that the boards boot, and a firmware of it; compares bits
on both boards; runs the gate suite of ``make demo`` on the board that has a clock, and once more, with gates that are
held against no seconds, on the one that counts its instructions, which refuses what is in seconds; checks the evidence,
and asks a policy that wants hardware, which refuses. It ends with an account of what happened. Everything it makes is
below ``demo-out-emulated`` (or the directory that is named as its only argument), but for the image, which is kept in
the cache; everything it starts ends with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from story import BOLD, PLAIN, ROOT, Demo, perform, relative

OUT = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "demo-out-emulated"
LAB = "farm/emulated.yaml"
IMAGE = "farm/images/edge-arm64"
POLICY = "farm/policy-hardware.yaml"
MODEL = "digits-int8"
VARIANTS = ("fp32", "int8", "int8-dynamic", "per-tensor-int8", "mlp-int8", "mlp-per-tensor-int8")
RECIPES = tuple(f"suites/models/digits/digits-{name}.yaml" for name in VARIANTS)
SOAK = "10 s"
RUNS = {
    "parity": "The same bits on Arm as on this host",
    "gates": "The gate suite of 'make demo', on an emulated board with a clock",
    "counted": "The same suite, and gates that need no seconds, on the board that counts its instructions",
}
BY_THE_CLOCK = frozenset({"p95_latency", "cold_start"})
"""Gates whose outcome depends on how busy this host is: the clock of an emulated board goes on while the host is at
something else."""


def tell(demo: Demo) -> int:
    """The story, step by step; returns the exit status."""
    place = ("--repo", relative(OUT / "repository"), "--keys", relative(OUT / "release-keys"))

    demo.title(1, "The image that the boards boot: a kernel, U-Boot, two slots (built once, kept in the cache)")
    demo.run("edgehil", "image", "build", IMAGE)
    demo.run("edgehil", "image", "firmware", IMAGE, "--out", relative(OUT / "firmware"))

    demo.title(2, "Build: the digits model six ways, and the image's root file system as a firmware")
    (firmware,) = (OUT / "firmware").glob("*.yaml")
    artifacts = relative(OUT / "artifacts")
    demo.run("edgehil", "build", "--quiet", "--out", artifacts, *RECIPES, relative(firmware))

    demo.title(3, f"{RUNS['parity']}: two boards start, and every model answers on both sides")
    demo.run(*suite("parity", "suites/parity"))

    demo.title(4, f"{RUNS['gates']}; its firmware is updated through U-Boot before")
    demo.run(*suite("gates", "--edgehil-timing", "wall", "suites/gates"), expect=(1,))
    check("gates", refused=("test_digits[pi5-8gb-hat2]",))

    demo.title(5, f"{RUNS['counted']}: what is held against seconds is refused")
    demo.run(*suite("counted", "--edgehil-timing", "icount", "suites/relative", "suites/gates"), expect=(1,))
    in_seconds = ("test_digits[pi5-8gb-hat2]", "test_digits[pi5-4gb]", "test_starts_quickly", "test_soak")
    check("counted", refused=in_seconds)

    demo.title(6, "Check the evidence, and ask a policy that wants hardware for a release: it must refuse")
    evidence = relative(OUT / "gates" / "evidence")
    demo.run("edgehil", "evidence", "verify", evidence)
    demo.run("edgehil", "release", "init", *place)
    (bundle,) = (OUT / "artifacts").glob("digits-1.0.0-*int8-static.tar.gz")
    demo.run(
        *("edgehil", "release", "publish", relative(bundle), "--evidence", evidence, "--policy", POLICY, *place),
        expect=(2,),
    )
    account(demo)
    return 0


def suite(report: str, *more: str) -> tuple[str, ...]:
    """A run of suites, as CI would call it."""
    return (
        *("pytest", "-n", "auto", "-q", "--no-header", f"--edgehil-lab={LAB}", "--edgehil-model", MODEL),
        *("--edgehil-artifacts", relative(OUT / "artifacts"), "--edgehil-soak", SOAK, "--edgehil-policy", POLICY),
        *("--edgehil-progress", "20 s", f"--edgehil-report={relative(OUT / report)}", *more),
    )


def results(report: str) -> Sequence[Mapping[str, Any]]:
    """Every test of a run, as it was written down."""
    tests: Sequence[Mapping[str, Any]] = json.loads((OUT / report / "results.json").read_text())["tests"]
    return [test for test in tests if not test.get("requeued")]


def check(report: str, *, refused: Sequence[str]) -> None:
    """Stop the demo unless a run ended as it must: so many tests refused, and all else passed but for the clock's."""
    for test in results(report):
        name = name_of(test)
        if name in refused:
            well = was_refused(test)
        else:
            bad = {one["gate"] for one in test["verdicts"] if one["outcome"] != "PASS"}
            well = test["status"] == "passed" or (bool(bad) and bad <= BY_THE_CLOCK)
        if not well:
            sys.exit(f"demo: {name} ended as {test['status']}, which it must not: {test['message']}; stopping here")


def was_refused(test: Mapping[str, Any]) -> bool:
    """Was it kept from running, because no board of the lab is what it asks for?"""
    return test["status"] == "error" and test["board"] is None and not test["verdicts"]


def name_of(test: Mapping[str, Any]) -> str:
    """Without its file."""
    return str(test["nodeid"]).rpartition("::")[2]


def account(demo: Demo) -> None:
    """What happened, for somebody who has never seen this before; all of it read from what was written."""
    demo.say(f"\n{BOLD}=== What happened, in {time.monotonic() - demo.started:.0f} s ==={PLAIN}")
    for report, about in RUNS.items():
        tests = results(report)
        boards = sorted({test["board"]["id"] for test in tests if test["board"]})
        demo.say(f"\n{BOLD}{about}{PLAIN}: {', '.join(boards)} (QEMU on this machine)")
        without = [test for test in tests if not test["verdicts"] and not was_refused(test)]
        for name, status, board in dict.fromkeys((name_of(one), one["status"], one["board"]["id"]) for one in without):
            demo.say(f"  {status:<12} {name} on {board}")
        for test in tests:
            for verdict in test["verdicts"]:
                demo.say(f"  {verdict['outcome']:<12} {verdict['gate']:<16} {test['board']['id']}: {verdict['reason']}")
        for test in filter(was_refused, tests):
            demo.say(f"  {'refused':<12} {name_of(test)}: {test['message']}")
    clock = [one for test in results("gates") for one in test["verdicts"] if one["gate"] in BY_THE_CLOCK]
    if any(one["outcome"] != "PASS" for one in clock):
        demo.say(
            "\nA gate in seconds did not pass: QEMU translates instructions, so a model takes many times as long as "
            "on a Pi, and longer still while this machine is busy. That is why the other board counts them."
        )
    demo.say(
        f"\n{BOLD}What it is worth:{PLAIN} bits, files, boots, updates and refusals are as on a Pi; seconds, heat and "
        f"an NPU are not.\nThe evidence says '{' and '.join(environments())}', so {POLICY}, which asks for hardware, "
        "signs nothing."
    )
    demo.say(f"\n{BOLD}Open next:{PLAIN}")
    for path, what in (
        (OUT / "gates" / "summary.md", "the gate suite's run as a CI summary shows it"),
        (OUT / "counted" / "results.json", "every number of the run that counts instructions"),
        (OUT / "gates" / "evidence", "signed statements: board, digests, numbers, raw samples"),
        (ROOT / LAB, "how the two boards are described"),
        (ROOT / "docs" / "explanation" / "emulated-boards.md", "what such a board proves, and what it does not"),
    ):
        demo.say(f"  {relative(path):<40} {what}")


def environments() -> list[str]:
    """What the runs' boards really were, as the records say."""
    return sorted({test["board"]["environment"] for report in RUNS for test in results(report) if test["board"]})


def main() -> int:
    """The demo."""
    from pytest_edgehil.emulated.machine import QEMU, require
    from pytest_edgehil.errors import ConfigError

    try:
        for program in (QEMU, "qemu-img"):
            require(program)
    except ConfigError as missing:
        sys.exit(f"demo: {missing}")
    return perform(OUT, tell, steps=6)


if __name__ == "__main__":
    sys.exit(main())
