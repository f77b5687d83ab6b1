"""For the tests of the package: never the user's own state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leases, keys and virtual boards of a test live and die with it."""
    directory = tmp_path / "edgehil-state"
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(directory))
    return directory


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return ROOT


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests."""
    return sys.executable
