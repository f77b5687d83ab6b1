"""What the tests of whole systems share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from support.emulated_bench import Bench, open_bench

_BENCH = pytest.StashKey[tuple[contextlib.ExitStack, Bench]]()
_FAILED = pytest.StashKey[bool]()


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """An emulated board, for the tests that put it back; started for the first of them and ended after the last."""
    stash = request.session.stash
    if _BENCH not in stash:
        stack = contextlib.ExitStack()
        stash[_BENCH] = stack, stack.enter_context(open_bench(tmp_path_factory.mktemp("bench")))
    return stash[_BENCH][1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """The board does not wait for the end of the run, and does not outlive a test that has failed on it."""
    try:
        return (yield)
    finally:
        wanted = "bench" in getattr(nextitem, "fixturenames", ())
        if _BENCH in item.session.stash and (_FAILED in item.stash or not wanted):
            stack, _ = item.session.stash[_BENCH]
            del item.session.stash[_BENCH]
            stack.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember who failed."""
    report: pytest.TestReport = yield  # type: ignore[misc,assignment]
    if report.failed:
        item.stash[_FAILED] = True
    return report  # type: ignore[return-value]
