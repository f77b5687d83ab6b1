"""``make demo-emulated``: suites on two emulated boards, and what their evidence is worth.

It types what a user would type and shows it: builds the image that the boards boot, runs the parity suite and the gates
that need no class of board, checks the evidence, and asks a policy that wants hardware, which refuses. Everything it
makes is below ``demo-out/emulated``, but for the image, which is kept in the cache.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("demo-out/emulated")
PROGRAMS = ("qemu-system-aarch64", "qemu-img")
RECIPES = tuple(f"suites/models/digits/digits-{name}.yaml" for name in ("fp32", "int8", "int8-dynamic"))
PLACE = ("--repo", str(OUT / "repository"), "--keys", str(OUT / "release-keys"))
SUITES = ("suites/parity", "suites/gates/test_digits.py::test_starts_quickly")


def run(*argv: str, expect: int = 0) -> None:
    """Run a command in the foreground; stop the demo when it does not end as expected."""
    print(f"$ {shlex.join(argv)}", flush=True)
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    environment = {**os.environ, "EDGEHIL_STATE_DIR": str(ROOT / OUT / "state"), "PATH": path}
    status = subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode
    if status != expect:
        sys.exit(f"demo: this ended with {status}, expected {expect}; stopping here")


def main() -> None:
    """Tell the story."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        sys.exit(
            f"demo: {' and '.join(missing)} not found; emulated boards need QEMU: "
            "apt-get install --no-install-recommends qemu-system-arm qemu-utils"
        )
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    run("edgehil", "image", "build", "farm/images/edge-arm64")
    run("edgehil", "build", "--out", str(OUT / "artifacts"), *RECIPES)
    run(
        *("pytest", "-q", "--no-header", "--edgehil-lab=farm/emulated.yaml", "--edgehil-model", "digits-int8"),
        *("--edgehil-artifacts", str(OUT / "artifacts"), "--edgehil-policy", "farm/policy-hardware.yaml"),
        *(f"--edgehil-report={OUT / 'report'}", *SUITES),
    )
    run("edgehil", "evidence", "verify", str(OUT / "report/evidence"))
    run("edgehil", "release", "init", *PLACE)
    (bundle,) = (ROOT / OUT / "artifacts").glob("*int8-static.tar.gz")
    run(
        *("edgehil", "release", "publish", os.path.relpath(bundle, ROOT), "--evidence", str(OUT / "report/evidence")),
        *("--policy", "farm/policy-hardware.yaml", *PLACE),
        expect=2,
    )
    print("\nThe evidence says emulated, and a policy that asks for hardware refuses it: as it must be.")


if __name__ == "__main__":
    main()
