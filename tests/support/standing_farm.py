"""A farm that outlives a test: one expensive pytest run on it, and many tests that look at what came of it.

`run_once` makes that run once for all processes of a test run: with pytest-xdist, tests of one module may be in
several, and each has session fixtures of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.farm import Farm
from support.postgres import PostgresServer
from support.quick_pytest import ADDOPTS


class _Place:
    """The part of a pytester that `Farm` needs; pytester itself lives for one test."""

    def __init__(self, path: Path) -> None:
        self.path = path


class StandingFarm(Farm):
    """A farm in a directory of its own, with its own state, whatever the environment says.

    Args:
        directory: empty, or that of a farm before.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(_Place(directory), directory / "state")  # type: ignore[arg-type]
        self.path = directory
        self.longest_s = 840.0  # that a run may take: many tests wait for it, on a busy machine
        self.environment = {
            **os.environ,
            "EDGEHIL_STATE_DIR": str(self.state),
            "TMPDIR": str(directory / "tmp"),
            "PYTEST_ADDOPTS": ADDOPTS,
        }
        (directory / "tmp").mkdir(exist_ok=True)
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
            timeout=self.longest_s,
            check=False,
        )
        lines = ended.stdout.splitlines(), ended.stderr.splitlines()
        return pytest.RunResult(ended.returncode, *lines, time.monotonic() - started)

    def keep(self, result: pytest.RunResult) -> None:
        """Write down how a run ended, for `kept` in another process."""
        told = [int(result.ret), result.outlines, result.errlines, result.duration]
        (self.path / "ran.json").write_text(json.dumps(told), encoding="utf-8")

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


@dataclass(frozen=True)
class Ran:
    """What one run on a farm left behind.

    Args:
        attempts: test name → its records in ``results.json``, in the order of attempts.
        states: what `Farm.board_states` said after the run.
    """

    farm: StandingFarm
    result: pytest.RunResult
    attempts: dict[str, list[dict[str, Any]]]
    states: dict[str, dict[str, Any]]

    @property
    def output(self) -> str:
        return self.result.stdout.str() + self.result.stderr.str()


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory that is filled once in a test run, by whichever process needs it first; the others wait for it.

    Args:
        name: of the directory, and what is made in it.
        make: fills the empty directory.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(directory, ignore_errors=True)  # whoever began it failed
            directory.mkdir()
            make(directory)
            done.touch()
    return directory


def kept(directory: Path) -> pytest.RunResult:
    """How the run in the directory of a farm ended; see `StandingFarm.keep`."""
    return pytest.RunResult(*json.loads((directory / "ran.json").read_text(encoding="utf-8")))


def run_once(
    factory: pytest.TempPathFactory,
    name: str,
    prepare: Callable[[StandingFarm], None],
    *arguments: str,
    postgres: bool = False,
) -> Ran:
    """One run of a suite on a farm, for every test that looks at it.

    Args:
        name: of the run.
        prepare: writes the lab, artifacts and suite of the farm.
        arguments: of the run.
        postgres: leases are in a server of the run's own, and not in a file.
    """

    def run(directory: Path) -> None:
        farm = StandingFarm(directory)
        prepare(farm)
        with PostgresServer("fsync=off") if postgres else nullcontext() as server:
            if server is not None:
                farm.lab.write_text(f"leases: {server.url}\n{farm.lab.read_text()}")
                farm.edgehil("lab", "migrate", "--lab", str(farm.lab))
            farm.keep(farm.run(*arguments))
            (directory / "states.json").write_text(json.dumps(farm.board_states()), encoding="utf-8")

    farm = StandingFarm(once(factory, name, run))
    states = json.loads((farm.path / "states.json").read_text(encoding="utf-8"))
    return Ran(farm=farm, result=kept(farm.path), attempts=farm.attempts, states=states)
