"""A farm that outlives a test: one expensive pytest run on it, and many tests that look at what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from support.farm import Farm


class _Place:
    """The part of a pytester that `Farm` needs; pytester itself lives for one test."""

    def __init__(self, path: Path) -> None:
        self.path = path


class StandingFarm(Farm):
    """A farm in a directory of its own, with its own state, whatever the environment says.

    Args:
        directory: empty.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(_Place(directory), directory / "state")  # type: ignore[arg-type]
        self.path = directory
        self.environment = {**os.environ, "EDGEHIL_STATE_DIR": str(self.state), "TMPDIR": str(directory / "tmp")}
        (directory / "tmp").mkdir()
        (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")

    def suite(self, text: str, name: str = "test_suite.py") -> None:
        """Write a test file."""
        (self.path / name).write_text(textwrap.dedent(text), encoding="utf-8")

    def run(self, *more: str) -> pytest.RunResult:
        """pytest in a process of its own; it must never end in an internal error."""
        result = self.pytest(*self.arguments(*more))
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
        return result

    def pytest(self, *arguments: str) -> pytest.RunResult:
        """pytest with nothing but these arguments."""
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        lines = ended.stdout.splitlines(), ended.stderr.splitlines()
        return pytest.RunResult(ended.returncode, *lines, time.monotonic() - started)

    def edgehil(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return subprocess.run(
            [sys.executable, "-m", "pytest_edgehil", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=check,
            cwd=self.path,
            env=self.environment,
        )

    @property
    def attempts(self) -> dict[str, list[dict[str, Any]]]:
        """Test name → its records in ``results.json``, in the order of attempts."""
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for one in sorted(self.results["tests"], key=lambda one: one["attempt"]):
            found[one["nodeid"].rpartition("::")[2]].append(one)
        return dict(found)

    @property
    def left_in_tmp(self) -> list[str]:
        """Names below the temporary directory of the runs."""
        return sorted(one.name for one in (self.path / "tmp").iterdir())
