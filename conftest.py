"""For all tests of this repository: real components on demand."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

# component → how to find out whether it is here
COMPONENTS = {
    "sshd": lambda: shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"),
    "ssh": lambda: shutil.which("ssh"),
    "bash": lambda: shutil.which("bash"),
    "busybox": lambda: shutil.which("busybox"),
    "chromium": lambda: shutil.which("chromium") or shutil.which("chromium-browser"),
    "allure": lambda: importlib.import_module("support.allure_cli").find_or_install(),
    "labgrid": lambda: importlib.import_module("support.labgrid_lab").labgrid_python(),
    "npm": lambda: shutil.which("npm"),
    "qemu": lambda: shutil.which("qemu-system-aarch64"),
    "promtool": lambda: shutil.which("promtool"),
    "postgres": lambda: shutil.which("pg_ctl") or next(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), None),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a component skips without it, unless EDGEHIL_REQUIRE names it: then it fails."""
    required = set(filter(None, os.environ.get("EDGEHIL_REQUIRE", "").split(",")))
    for mark in item.iter_markers("needs"):
        for component in mark.args:
            if component not in COMPONENTS:
                pytest.fail(f"unknown component {component!r}; known: {', '.join(COMPONENTS)}", pytrace=False)
            if not COMPONENTS[component]():
                message = f"{component} is not installed"
                if component in required:
                    pytest.fail(f"{message}, but EDGEHIL_REQUIRE={os.environ['EDGEHIL_REQUIRE']}", pytrace=False)
                pytest.skip(message)
