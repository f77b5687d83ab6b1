"""Whatever a host says to the sink: it stores the bundle that was meant, or refuses in one line and stores nothing."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pytest_edgehil.onboard import sink
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem

WANTED = b"what is wanted " * 40
DIGEST = f"sha256:{hashlib.sha256(WANTED).hexdigest()}"
CODES = {"truncated", "bad-request", "digest-mismatch", "corrupt-artifact", "not-in-store"}
HALF = len(WANTED) // 2


def frame(code: int, data: bytes, plain_bytes: int | None = None) -> bytes:
    return struct.pack(">BII", code, len(data), len(data) if plain_bytes is None else plain_bytes) + data


LINES = st.sampled_from(
    [b'{"what": "bytes", "from": 0}', b'{"what": "delta"}', b'{"what": "bytes", "from": 7}', b"[]", b"{", b""]
)
PIECES = st.one_of(
    st.just(frame(0, WANTED[:HALF])),
    st.just(frame(0, WANTED[HALF:])),
    st.just(frame(1, zlib.compress(WANTED), len(WANTED))),
    st.just(frame(1, zlib.compress(WANTED), 7)),
    st.just(frame(2, b"")),
    st.binary(max_size=40),
    st.builds(frame, st.integers(0, 255), st.binary(max_size=20), st.integers(0, 2**32 - 1)),
)
WHOLE = [frame(0, WANTED[:HALF]), frame(0, WANTED[HALF:]), frame(2, b"")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("board"))
    home.prepare()
    return home


def pushed(home: Home, data: bytes) -> Problem | None:
    """What the sink complained of, if it did."""
    ours, theirs = os.pipe()
    try:
        os.write(theirs, data)
        os.close(theirs)
        sink.sink(home, digest=DIGEST, size=len(WANTED), token=1, holder="me", source=ours, tell=lambda _message: None)
    except Problem as problem:
        return problem
    finally:
        os.close(ours)
    return None


@settings(max_examples=150, deadline=None)
@given(LINES, st.lists(PIECES, max_size=5))
@example(b'{"what": "bytes", "from": 0}', WHOLE)
@example(b'{"what": "bytes", "from": 0}', [frame(1, zlib.compress(WANTED), len(WANTED)), frame(2, b"")])
def test_only_what_was_meant_gets_its_name(home, line, pieces):
    problem = pushed(home, line + b"\n" + b"".join(pieces))
    stored = home.bundle(DIGEST)
    assert stored.exists() == (problem is None)
    if problem is not None:
        assert problem.code in CODES
        assert problem.message.isprintable()
    else:
        assert stored.read_bytes() == WANTED
        stored.unlink()
    left = [path for path in home.store.iterdir() if path != stored]
    assert all(path.name == f".{DIGEST[7:]}.partial" for path in left)
    for path in left:
        path.unlink()
