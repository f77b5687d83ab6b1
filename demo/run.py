"""``make demo``: one release, from the lab to the rollout decision, on four virtual boards.

It types what a user would type, shows it, and ends with an account of what happened. Everything it makes is below
``demo-out``; everything it starts ends with it, also when it is interrupted or killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo-out"
LAB = "farm/virtual.yaml"
POLICY = "farm/policy-virtual.yaml"
PLAN = "farm/rollout-plan.yaml"
GOOD, BAD = "digits-int8", "digits-bad"
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Demo:
    """Runs the commands one after the other and remembers how they ended."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.environment = {
            **os.environ,
            "EDGEHIL_STATE_DIR": str(OUT / "state"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        }
        self.running: subprocess.Popen[bytes] | None = None

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def title(self, number: int, text: str) -> None:
        self.say(f"\n\033[1m[{number}/6 {time.monotonic() - self.started:4.0f} s] {text}\033[0m")

    def run(self, *argv: str, expect: Sequence[int] = (0,)) -> int:
        """Run a command in the foreground; its output is shown as it comes."""
        self.say(f"$ {shlex.join(argv)}")
        parent = os.getpid()

        def tied() -> None:
            die_with_parent()
            if os.getppid() != parent:  # the parent was gone before the kernel was asked
                os._exit(1)

        self.running = subprocess.Popen(  # noqa: PLW1509 - prctl is safe in a single-threaded parent
            argv, cwd=ROOT, env=self.environment, preexec_fn=tied
        )
        status = self.running.wait()
        self.running = None
        if status not in expect:
            self.say(f"\ndemo: this ended with {status}, expected {' or '.join(map(str, expect))}; stopping here")
            sys.exit(1)
        return status


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
    where = ("--repo", relative(OUT / "repository"), "--keys", relative(OUT / "release-keys"))
    demo.run("edgehil", "release", "init", *where)
    for name, report, expected in ((GOOD, good, 0), (BAD, bad, 2)):
        bundle = bundle_of(artifacts, name)
        demo.run(
            *("edgehil", "release", "publish", relative(bundle)),
            *("--evidence", relative(report / "evidence"), "--policy", POLICY, *where),
            expect=(expected,),
        )

    demo.title(5, "Canaries: run the released model on two boards beside the old one, then the bad model likewise")
    for name in (GOOD, BAD):
        demo.run(
            *(sys.executable, "demo/canary.py", "--lab", LAB, "--control", relative(bundle_of(artifacts, BASELINE))),
            *("--canary", relative(bundle_of(artifacts, name)), "--telemetry", relative(OUT / "telemetry" / name)),
        )

    demo.title(6, "Decide the rollout of each: promote, hold or roll back")
    decisions = {}
    for name, expected in ((GOOD, 0), (BAD, 20)):
        decisions[name] = demo.run(
            *("edgehil", "rollout", "decide", plan_for(bundle_of(artifacts, name), name)),
            *("--telemetry", relative(OUT / "telemetry" / name), "--ledger", relative(OUT / "ledger.jsonl")),
            expect=(expected,),
        )
    demo.run("edgehil", "rollout", "verify-ledger", relative(OUT / "ledger.jsonl"))
    account(demo, good, bad)
    return 0


def main() -> int:
    """The demo."""
    die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    demo = Demo()
    try:
        return tell(demo)
    except KeyboardInterrupt:
        demo.say("\ndemo: interrupted")
        return 130
    finally:
        if demo.running is not None and demo.running.poll() is None:
            demo.running.send_signal(signal.SIGINT)
            try:
                demo.running.wait(20)
            except subprocess.TimeoutExpired:
                demo.running.kill()
                demo.running.wait()


if __name__ == "__main__":
    sys.exit(main())
