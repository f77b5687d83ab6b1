"""``make demo-emulated``: the suites on two emulated boards, and what their evidence is worth.

It types what a user would type and shows it: builds the image that the boards boot; runs the parity suite and gates
that are held against no seconds, which must all pass; runs the gate suite of ``make demo`` on the board that counts
its instructions, which refuses what is in seconds; checks the evidence, and asks a policy that wants hardware, which
refuses. It ends with an account of what happened. Everything it makes is below ``demo-out/emulated``, but for the
image, which is kept in the cache.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo-out/emulated")
PROGRAMS = ("qemu-system-aarch64", "qemu-img")
MODELS = ("fp32", "int8", "int8-dynamic", "per-tensor-int8", "mlp-int8", "mlp-per-tensor-int8")
RECIPES = (
    *(f"suites/models/digits/digits-{name}.yaml" for name in MODELS),
    "suites/firmware/edge-os-2026.11.yaml",
)
PLACE = ("--repo", str(OUT / "repository"), "--keys", str(OUT / "release-keys"))
POLICY = "farm/policy-hardware.yaml"
WITHOUT_SECONDS = ("suites/parity", "suites/relative")
GATES = ("suites/gates",)


def run(*argv: str, expect: int = 0) -> None:
    """Run a command in the foreground; stop the demo when it does not end as expected."""
    print(f"$ {shlex.join(argv)}", flush=True)
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = {**os.environ, "EDGEHIL_STATE_DIR": str(ROOT / OUT / "state"), "PATH": path}
    status = subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode
    if status != expect:
        sys.exit(f"demo: this ended with {status}, expected {expect}; stopping here")


def suites(report: str, *more: str) -> tuple[str, ...]:
    """A run of suites, as CI would call it."""
    return (
        *("pytest", "-q", "--no-header", "--edgehil-lab=farm/emulated.yaml", "--edgehil-model", "digits-int8"),
        *("--edgehil-artifacts", str(OUT / "artifacts"), "--edgehil-policy", POLICY),
        *(f"--edgehil-report={OUT / report}", *more),
    )


def account(started_s: float) -> None:
    """What happened, for somebody who has never seen this before; all of it read from what was written."""
    print(f"\n=== What happened, in {time.monotonic() - started_s:.0f} s ===")
    for report, about in (
        ("without-seconds", "Bits, and gates that are held against no seconds, on arm64 boards under QEMU"),
        ("gates", "The gate suite of 'make demo' on the board that counts its instructions"),
    ):
        print(f"\n{about}:")
        for test in json.loads((ROOT / OUT / report / "results.json").read_text())["tests"]:
            where = test["board"]["id"] if test["board"] else "no board"
            name = test["nodeid"].rpartition("::")[2]
            for verdict in test["verdicts"]:
                print(f"  {verdict['outcome']:<12} {name} on {where}: {verdict['gate']}: {verdict['reason']}")
            if not test["verdicts"]:
                refused = test["status"] == "error" and "held against seconds" in test["message"]
                print(f"  {'refused' if refused else test['status']:<12} {name} on {where} {test['message']}".rstrip())
    print(
        "\nRefused is what is held against seconds: an emulated board has none to offer. Run these gates on real "
        "boards, or compare with another model on the same board, as suites/relative does.\n"
        f"The evidence says emulated, and {POLICY}, which asks for hardware, refuses it: as it must be."
    )


def main() -> None:
    """Tell the story."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sys.exit(
            f"demo: {' and '.join(missing)} not found; emulated boards need QEMU: "
            "apt-get install --no-install-recommends qemu-system-arm qemu-utils"
        )
    started_s = time.monotonic()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    run("edgehil", "image", "build", "farm/images/edge-arm64")
    run("edgehil", "build", "--out", str(OUT / "artifacts"), *RECIPES)
    run(*suites("without-seconds", *WITHOUT_SECONDS))
    run(*suites("gates", "--edgehil-timing", "icount", *GATES), expect=1)
    evidence = str(OUT / "without-seconds/evidence")
    run("edgehil", "evidence", "verify", evidence)
    run("edgehil", "release", "init", *PLACE)
    (bundle,) = (ROOT / OUT / "artifacts").glob("digits-1.0.0-*int8-static.tar.gz")
    run(
        *("edgehil", "release", "publish", os.path.relpath(bundle, ROOT), "--evidence", evidence),
        *("--policy", POLICY, *PLACE),
        expect=2,
    )
    account(started_s)


if __name__ == "__main__":
    main()
