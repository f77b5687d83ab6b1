"""When silence on a connection is too long: soon on an idle one, later on a slow one, soon again on a stuck one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from pytest_edgehil.board.tcp import WatchedSocket

MIB = 1 << 20


@pytest.fixture
def pair() -> Iterator[tuple[WatchedSocket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = WatchedSocket(socket.create_connection(server.getsockname()))
        far, _ = server.accept()
    near.settimeout(0.05)
    near.watch(10.0)
    yield near, far
    near.close()
    far.close()


def test_idle_link_may_be_silent_for_the_given_time(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, _ = pair
    now = time.monotonic()
    assert near._too_silent_s(now + 2) == 0  # whatever has passed since the watch began
    assert near._too_silent_s(now + 11) > 10


def test_silence_is_borne_longer_while_a_push_is_on_its_way(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, far = pair
    near.send(bytes(1000))
    far.recv(1000)
    near.sent_bytes = MIB  # as if the rest of it lay in a buffer somewhere between us and the board
    now = time.monotonic()
    assert near._too_silent_s(now + 60) == 0
    assert near._too_silent_s(now + 80) > 0


def test_what_has_been_answered_is_no_longer_on_its_way(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, _ = pair
    near.sent_bytes = near.answered_bytes = MIB
    assert near._too_silent_s(time.monotonic() + 11) > 0


def test_patience_has_an_end_however_much_was_sent(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, _ = pair
    near.sent_bytes = 1000 * MIB
    assert near._too_silent_s(time.monotonic() + 150) > 0


def test_who_is_in_a_hurry_does_not_wait_for_a_push(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, _ = pair
    near.sent_bytes = MIB
    now = time.monotonic()
    with near.hurry(3.0):
        assert near._too_silent_s(now + 4) > 0
    assert near._too_silent_s(now + 4) == 0
    assert near.silence_s == 10.0


def test_link_without_acknowledgements_is_stuck_however_much_is_on_its_way(
    pair: tuple[WatchedSocket, socket.socket],
) -> None:
    near, _ = pair

    def fill() -> None:
        while True:
            near.send(bytes(MIB))  # nobody reads: the buffers fill up

    with pytest.raises(TimeoutError):
        fill()
    now = time.monotonic()
    assert near._too_silent_s(now) == 0
    assert near._too_silent_s(now + 11) > 0


def test_connection_that_ends_says_why_and_the_first_reason_stays(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, far = pair
    far.close()
    assert near.recv(1) == b""
    near._lose("something later")
    assert near.lost == "the board closed the connection"


def test_too_long_a_silence_ends_the_read(pair: tuple[WatchedSocket, socket.socket]) -> None:
    near, _ = pair
    near.watch(0.01)
    with pytest.raises(ConnectionAbortedError, match="nothing was heard from the board"):
        near.recv(1)
    assert "nothing was heard" in near.lost
