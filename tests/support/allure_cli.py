"""The npm package ``allure`` (Allure 3), which renders reports: where it is, or how it gets here.

Looked for: ``$EDGEHIL_ALLURE`` (the command itself), ``node_modules`` of this repository, the user's cache. It is
never taken from PATH, where the Java Allure 2 has the same name. When EDGEHIL_REQUIRE names ``allure``, npm installs
it into the cache; otherwise tests that need it are skipped without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import platformdirs

PACKAGE = "allure@3"
ROOT = Path(__file__).parents[2]


def _cache() -> Path:
    return platformdirs.user_cache_path("edgehil") / "npm-allure"


def find() -> Path | None:
    """The command, if it is here."""
    told = os.environ.get("EDGEHIL_ALLURE")
    places = [Path(told)] if told else [base / "node_modules" / ".bin" / "allure" for base in (ROOT, _cache())]
    return next((one for one in places if one.is_file()), None)


def modules() -> Path:
    """The ``node_modules`` that the command lies in."""
    command = find_or_install()
    assert command is not None
    return command.absolute().parent.parent


@cache
def find_or_install() -> Path | None:
    """The command; installed first if it is required and npm is here."""
    found = find()
    if found is not None or "allure" not in os.environ.get("EDGEHIL_REQUIRE", "").split(","):
        return found
    npm = shutil.which("npm")
    if npm is None:
        return None
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pytest-xdist's workers come here at the same moment
        if find() is None:
            command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(_cache()), PACKAGE]
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it is not here, and whoever requires it says so
                subprocess.run(command, check=False, capture_output=True, timeout=400)  # a test may take 450 s
    return find()


def generate(results: Path, site: Path) -> None:
    """Render results with the configuration that lies among them."""
    command = find_or_install()
    assert command is not None
    subprocess.run(
        [str(command), "generate", "--config", str(results / "allurerc.json"), "--output", str(site), str(results)],
        cwd=site.parent,  # it looks for a history and further configuration in the working directory
        check=True,
        capture_output=True,
        timeout=300,
    )
