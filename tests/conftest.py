"""For the tests of the package: never the user's own state."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck as Health
from hypothesis import settings
from support.emulated import turn
from support.everyday import everyday_run
from support.farm import Farm, onnx_artifact, replay_artifact
from support.order import LongestFirst, place
from support.postgres import PostgresServer
from support.quick_pytest import ADDOPTS
from support.shared_imports import import_share
from support.standing_farm import Ran

ROOT = Path(__file__).parent.parent

# Hundreds of processes are started here: each would compile the package anew, and rewrite its assertions.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell ignores SIGINT for what it starts in the background, nohup ignores SIGHUP, and children inherit that: then
# tests that press Ctrl-C or hang up would show nothing.
for _signal, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _default)


# Timings never decide a test: neither an example's, nor how long it took to draw one. Nor does chance: who changes
# something must not be refused for an example that no run before has drawn. `--hypothesis-profile=explore` draws new
# ones; what it finds becomes an `@example`.
settings.register_profile("explore", deadline=None, suppress_health_check=[Health.too_slow])
settings.register_profile("edgehil", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("edgehil")


RUNS_OF_MANY = frozenset(("ran", "everyday", "many", "dying"))
"""Fixtures whose first user waits for a run that many tests look at, as does whoever needs it in another process."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """No test of the package may hang; suites on boards may run for an hour."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            waits = not RUNS_OF_MANY.isdisjoint(getattr(item, "fixturenames", ()))
            item.add_marker(pytest.mark.timeout(900 if waits else 450))
    if hasattr(config, "workerinput"):  # who runs the tests one after the other expects the order of the files
        items.sort(key=lambda item: place(item.nodeid))


def pytest_collection(session: pytest.Session) -> None:
    """Workers divide the first imports among them."""
    import_share(session)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LongestFirst | None:
    """Several workers take what is long first, unless somebody asks for another way."""
    return LongestFirst(config, log) if config.option.dist == "load" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """At most two tests at once have a machine emulated: more of them than cores only make each other late."""
    factory = item.config._tmp_path_factory  # type: ignore[attr-defined]
    wanted = [mark.args for mark in item.iter_markers("needs")]
    with turn(factory.getbasetemp()) if ("qemu",) in wanted else contextlib.nullcontext():
        return (yield)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Leases, keys and virtual boards of a test live and die with it."""
    directory = tmp_path / "edgehil-state"
    monkeypatch.setenv("EDGEHIL_STATE_DIR", str(directory))
    return directory


@pytest.fixture(autouse=True)
def in_the_order_of_collection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins that are here to be tested beside, or for these tests, stay out of the runs that other tests look at."""
    if "pytester" in request.fixturenames:
        request.getfixturevalue("pytester")  # which forgets PYTEST_ADDOPTS
    monkeypatch.setenv("PYTEST_ADDOPTS", ADDOPTS)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this repository."""
    return ROOT


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that runs the tests."""
    return sys.executable


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of our own; each test takes a lab with a new name in it. For tests that `needs("postgres")`."""
    with PostgresServer("fsync=off", "max_connections=60", "shared_buffers=16MB") as server:
        yield server


@pytest.fixture
def farm(pytester: pytest.Pytester, own_state: Path) -> Farm:
    """Two virtual boards, a real model ``digits`` and recorded ones: ``steady`` (p95 8 ms) and ``slow`` (p95 30 ms)."""
    farm = Farm(pytester, own_state)
    farm.boards(2)
    onnx_artifact(farm.artifacts)
    replay_artifact(farm.artifacts, name="steady")
    replay_artifact(farm.artifacts, name="slow", p95_ms=30.0)
    return farm


@pytest.fixture
def everyday(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The everyday run, made once; tests ask for it with `support.everyday.BOTH`."""
    return everyday_run(tmp_path_factory, request.param)
