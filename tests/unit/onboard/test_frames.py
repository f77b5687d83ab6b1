"""Frames: what is refused, that both sides of the wire read the same, and that no bytes make either of them hang."""

from __future__ import annotations

import json
import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_edgehil.board import wire
from pytest_edgehil.errors import ProtocolError
from pytest_edgehil.onboard import frames
from pytest_edgehil.onboard.problem import Problem


def read_on_board(data: bytes) -> list[tuple[dict, bytes]] | str:
    """What the board's reader makes of a stream: frames, or the code of its complaint."""
    ours, theirs = os.pipe()

    def feed() -> None:
        with os.fdopen(theirs, "wb") as out:
            out.write(data)

    writer = threading.Thread(target=feed)
    writer.start()
    reader, found = frames.FrameReader(ours), []
    try:
        while (frame := reader.read()) is not None:
            found.append((frame[0], bytes(frame[1])))
    except Problem as problem:
        while os.read(ours, 65536):
            continue
        return problem.code if problem.fatal else f"{problem.code}, but not fatal"
    finally:
        writer.join()
        os.close(ours)
    return found


def read_on_host(data: bytes, *, piece: int = 7) -> list[tuple[dict, bytes]] | str:
    buffer, found = wire.FrameBuffer("bench"), []
    try:
        for at in range(0, len(data), piece):
            buffer.feed(data[at : at + piece])
            while (frame := buffer.next()) is not None:
                found.append(frame)
    except ProtocolError:
        return "bad-frame"
    return found


messages = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=20))


@given(st.lists(st.tuples(messages, st.binary(max_size=300)), max_size=4), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_what_one_side_writes_both_sides_read(written, piece):
    by_host = b"".join(wire.encode(message, blob) for message, blob in written)
    by_board = b"".join(b"".join(map(bytes, frames.encode(message, blob))) for message, blob in written)
    assert by_host == by_board
    assert read_on_board(by_host) == written
    assert read_on_host(by_board, piece=piece) == written


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_end_in_frames_or_in_a_complaint(data):
    assert read_on_board(data) == ([] if not data else "bad-frame")
    assert read_on_host(data) in ([], "bad-frame")  # the host may still wait for the rest of a header


def header(magic=b"EHF1", json_size=2, blob_size=0) -> bytes:
    return struct.pack(">4sII", magic, json_size, blob_size)


@pytest.mark.parametrize(
    "data",
    [
        header(magic=b"EHF2") + b"{}",
        header(json_size=frames.MAX_JSON_BYTES + 1),
        header(blob_size=frames.MAX_BLOB_BYTES + 1),
        header(json_size=2**32 - 1, blob_size=2**32 - 1),
        header() + b"[]",
        header(json_size=3) + b"{,}",
        header(json_size=9) + b'{"a":NaN}',
        header(json_size=200_000) + b"[" * 200_000,
        header(json_size=4) + b"\xff\xfe{}",
        header(json_size=0),
    ],
    ids=["magic", "json-size", "blob-size", "both", "array", "syntax", "nan", "nesting", "encoding", "empty"],
)
def test_both_sides_refuse(data):
    assert read_on_board(data) == "bad-frame"
    assert read_on_host(data, piece=4096) == "bad-frame"


@pytest.mark.parametrize("missing", [1, 5])
def test_a_stream_that_ends_inside_a_frame_is_no_clean_end(missing):
    whole = wire.encode({"op": "status", "id": 1}, b"blob")
    assert read_on_board(whole[:-missing]) == "bad-frame"


def test_nothing_is_allocated_for_what_a_header_merely_announces():
    import tracemalloc

    tracemalloc.start()
    try:
        assert read_on_board(header(blob_size=2**32 - 1)) == "bad-frame"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encode", [frames.encode, wire.encode], ids=["board", "host"])
def test_what_the_other_side_would_refuse_is_not_sent(encode):
    with pytest.raises((Problem, ProtocolError), match="fit into one frame"):
        encode({"text": "x" * frames.MAX_JSON_BYTES})


def test_an_error_message_is_cut_to_fit():
    told = frames.error_message(Problem("internal", "x" * 10**7), 3)
    assert len(json.dumps(told)) < frames.MAX_JSON_BYTES


def test_a_writer_gives_up_waiting_for_another_thread_that_is_stuck():
    ours, theirs = os.pipe()
    writer = frames.FrameWriter(theirs)
    stuck = threading.Thread(target=writer.write, args=({"type": "samples"}, b"x" * 2**20), daemon=True)
    stuck.start()
    while not writer._lock.locked():
        stuck.join(0.001)
    assert writer.write({"type": "error"}, wait_s=0.01) is False
    left = sum(map(len, frames.encode({"type": "samples"}, b"x" * 2**20)))
    while left:
        left -= len(os.read(ours, 2**20))
    stuck.join()
    os.close(ours)
    os.close(theirs)
