"""The spool: a stream of bytes that can be read from anywhere, in pieces that go away once they were read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_edgehil.board.wire import FrameBuffer
from pytest_edgehil.onboard import spool


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(spool, "PIECE_BYTES", 100)


@given(sizes=st.lists(st.integers(0, 250), max_size=20), steps=st.lists(st.integers(1, 300), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_whatever_the_steps_every_frame_is_read_once(tmp_path_factory, sizes, steps):
    directory = tmp_path_factory.mktemp("spool")
    writer = spool.SpoolWriter(directory)
    buffer, offset, found = FrameBuffer("b"), 0, []

    def read(at_most: int) -> int:
        data = spool.read(directory, offset=offset, at_most=at_most)
        assert len(data) <= at_most
        buffer.feed(data)
        while (frame := buffer.next()) is not None:
            found.append((frame[0]["n"], len(frame[1])))
        return offset + len(data)

    for number, size in enumerate(sizes):
        writer.write({"n": number}, bytes(size))
        offset = read(steps[number % len(steps)])
        spool.forget(directory, before=offset)
    assert spool.size(directory) == writer.written
    while offset < writer.written:
        before, offset = offset, read(steps[0])
        assert offset > before
    assert found == list(enumerate(sizes))
    spool.forget(directory, before=offset)
    assert len(list(directory.glob("spool.*"))) <= 1


def test_nothing_follows_the_last_frame(tmp_path):
    writer = spool.SpoolWriter(tmp_path)
    writer.write({"n": 0}, last=True)
    writer.write({"n": 1})
    assert spool.size(tmp_path) == writer.written
    assert b'"n":1' not in spool.read(tmp_path, offset=0, at_most=1000)


def test_an_empty_spool_holds_nothing(tmp_path):
    assert spool.size(tmp_path) == 0
    assert spool.read(tmp_path, offset=0, at_most=10) == b""
    spool.forget(tmp_path, before=10)
