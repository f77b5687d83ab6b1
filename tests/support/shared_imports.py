"""Several workers import the test files of a run that nobody has imported before.

Pytest rewrites the assertions of every module that it imports, which takes five times as long as importing what is
rewritten already, and keeps the result. Workers that begin together and import in the same order each rewrite all of
it. So each imports a share of its own first, and then finds those of the others rewritten.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def import_share(session: pytest.Session) -> None:
    """Import what falls to this worker; not in a run without workers, where nobody else does anything."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None:
        return
    mine = int(worker["workerid"].removeprefix("gw"))
    for path in _files(session.config)[mine :: worker["workercount"]]:
        try:
            pytest.Module.from_parent(session, path=path).obj  # noqa: B018 - it is imported by being asked for
        except (Exception, pytest.skip.Exception):  # noqa: BLE001 - collecting it says so, and imports it again
            for name in [name for name, module in sys.modules.items() if _made_from(module) == str(path)]:
                del sys.modules[name]


def _files(config: pytest.Config) -> list[Path]:
    """The test files in the directories that the run is about."""
    places = [config.invocation_params.dir / argument for argument in config.args]
    return sorted({path for place in places if place.is_dir() for path in place.rglob("test_*.py")})


def _made_from(module: object) -> str | None:
    return getattr(module, "__file__", None)
