"""The rate of a slow link, by a clock that stands still."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pytest_edgehil.virtual.link import Link


class Clock(SimpleNamespace):
    """As much of an event loop as a rate needs."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(clock: Clock):
    link = Link(clock, port=0)  # type: ignore[arg-type]
    yield link
    link.close()


def test_bytes_take_as_long_as_the_rate_says(link: Link):
    assert link.slot("in", 500, 1000.0) == pytest.approx(100.5)


def test_connections_share_the_rate_and_directions_do_not(link: Link):
    assert link.slot("out", 1000, 1000.0) == pytest.approx(101.0)
    assert link.slot("out", 1000, 1000.0) == pytest.approx(102.0)
    assert link.slot("in", 1000, 1000.0) == pytest.approx(101.0)


def test_time_in_which_nothing_was_sent_is_not_made_up_for(link: Link, clock: Clock):
    link.slot("in", 1000, 1000.0)
    clock.now_s = 200.0
    assert link.slot("in", 1000, 1000.0) == pytest.approx(201.0)
