"""A push over a real SSH connection that was cut by the link, by SIGKILL, by the power: the next one does the rest."""

from __future__ import annotations

import contextlib
import fcntl
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import manifest
from support.virtual_boards import eventually, running

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.board.push import PushOptions, Sent, push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import BoardError
from pytest_edgehil.model import Artifact
from pytest_edgehil.model.board import Fault
from pytest_edgehil.virtual.farm import RunningBoard

MIB = 2**20
SIZE_BYTES = 12 * MIB

PUSHER = """
import pickle, sys
from pytest_edgehil.board.push import PushOptions, push
from pytest_edgehil.board.session import BoardSession
board, artifact = pickle.load(sys.stdin.buffer)
session = BoardSession(board, token=1, holder="me")
session.client.status()
options = PushOptions(limit_bytes_per_s=10e6)
push(session, artifact, on_sent=lambda sent, _rate: print(sent, flush=True), options=options)
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBoard]:
    with running(tmp_path_factory.mktemp("boards") / "board") as one:
        yield one


@pytest.fixture
def artifact(tmp_path: Path, request: pytest.FixtureRequest) -> Artifact:
    data = random.Random(request.node.name).randbytes(SIZE_BYTES)
    return pack(manifest(version="1.0.0"), {"model.onnx": data}, tmp_path)


@contextlib.contextmanager
def session_on(up: RunningBoard) -> Iterator[BoardSession]:
    session = BoardSession(up.board, token=1, holder="me")
    try:
        session.client.status()
        yield session
    finally:
        session.close()


def kept(up: RunningBoard, artifact: Artifact) -> int:
    """How much of a bundle a push that was cut has left, once its sink has ended."""
    path = up.layout.home / ".edgehil/store/sha256" / f".{artifact.digest[7:]}.partial"

    def free() -> bool:
        if not path.exists():
            return True
        with path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    eventually(free)
    return path.stat().st_size if path.exists() else 0


def finished(up: RunningBoard, artifact: Artifact) -> Sent:
    with session_on(up) as session:
        done = push(session, artifact)
        assert session.client.status().store >= {artifact.digest}
    stored = up.layout.home / ".edgehil/store/sha256" / artifact.digest[7:]
    assert stored.read_bytes() == artifact.path.read_bytes()
    return done


def test_behind_a_link_that_is_cut_at_any_byte_the_next_push_goes_on_at_the_byte_where_it_stopped(up, artifact):
    draw, there = random.Random(1), 0
    for _ in range(3):
        after = draw.randrange(MIB, 4 * MIB)
        with session_on(up) as session:
            up.control.inject(Fault(kind="link-cut", after_bytes=after))
            with pytest.raises(BoardError):
                push(session, artifact, options=PushOptions(limit_bytes_per_s=10e6))
        left = kept(up, artifact)
        assert there <= left < there + after  # what lay in buffers is lost
        there = left
    done = finished(up, artifact)
    assert (done.resumed_bytes, done.sent_bytes) == (there, artifact.size_bytes - there)


def test_behind_a_pusher_that_was_killed_the_next_one_goes_on_where_it_stopped(up, artifact):
    with subprocess.Popen([sys.executable, "-c", PUSHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pusher:
        assert pusher.stdin is not None
        assert pusher.stdout is not None
        pickle.dump((up.board, artifact), pusher.stdin)
        pusher.stdin.close()
        for line in pusher.stdout:
            if int(line) >= 8 * MIB:  # more than the link's buffers hold, so that some has arrived
                break
        pusher.kill()
    there = kept(up, artifact)
    assert 0 < there < artifact.size_bytes
    done = finished(up, artifact)
    assert (done.resumed_bytes, done.sent_bytes) == (there, artifact.size_bytes - there)


def test_whatever_a_power_cut_leaves_of_a_push_the_next_one_ends_well(up, artifact):
    draw = random.Random(2)
    for _ in range(2):
        with session_on(up) as session:
            up.control.inject(Fault(kind="power-cut", after_bytes=draw.randrange(MIB, 4 * MIB)))
            with pytest.raises(BoardError):
                push(session, artifact)
        eventually(lambda: up.control.status().power == "off")
        up.control.power_on()
        eventually(lambda: up.control.status().state == "running")
    done = finished(up, artifact)
    assert done.resumed_bytes + done.sent_bytes == artifact.size_bytes
