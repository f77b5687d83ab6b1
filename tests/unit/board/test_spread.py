"""One bundle to many boards at once: one read, and a board that breaks harms no other."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path

import pytest
from support.boards import BenchBoard
from support.bundles import manifest
from support.env_transport import EnvTransport
from support.openssh import OpenSshServer

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.catalog import Catalog
from pytest_edgehil.artifacts.delta import create as creating
from pytest_edgehil.artifacts.delta.create import create
from pytest_edgehil.board.delivery import DeltaPolicy, Method, Way
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.spread import spread
from pytest_edgehil.board.ssh import connect
from pytest_edgehil.errors import BoardError, ConnectFailed, CorruptArtifact


@pytest.fixture
def artifact(tmp_path):
    files = {"model.onnx": random.Random(1).randbytes(3 * 2**20), "labels.txt": b"a"}
    return pack(manifest(version="1.0.0"), files, tmp_path)


@pytest.fixture
def fleet(tmp_path):
    """Four boards, one of which nobody answers for; and how many links were being opened at once at most."""
    opened, opening, most = [], [0], [0]
    counting = threading.Lock()

    def connect_to(bench: BenchBoard):
        def connect(_timeout_s: float):
            with counting:
                opening[0] += 1
                most[0] = max(most[0], opening[0])
            try:
                if bench.root.name == "b2":
                    raise ConnectFailed("b2: refused")
                opened.append(bench.connect())
                return opened[-1]
            finally:
                with counting:
                    opening[0] -= 1

        return connect

    benches = {f"b{number}": BenchBoard(Path(tmp_path) / f"b{number}") for number in range(4)}
    sessions = {
        name: BoardSession(bench.board, token=1, holder="me", connect=connect_to(bench))
        for name, bench in benches.items()
    }
    yield benches, sessions, most
    for session in sessions.values():
        session.close()
    for link in opened:
        link.close()


def test_every_board_gets_it_and_the_file_is_read_once(artifact, fleet, monkeypatch):
    benches, sessions, most = fleet
    reads, told = [], set()
    real = os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        reads.append(size)
        return real(descriptor, size, at)

    monkeypatch.setattr(os, "pread", pread)
    done = spread(artifact, sessions, opening=1, on_sent=lambda board, _sent, _rate: told.add(board))
    assert sorted(done.delivered) == sorted(told) == ["b0", "b1", "b3"]
    assert {board: str(problem) for board, problem in done.failed.items()} == {"b2": "b2: refused"}
    for name in done.delivered:
        stored = benches[name].edgehil / "store/sha256" / artifact.digest[7:]
        assert stored.read_bytes() == artifact.path.read_bytes()
    assert most == [1]
    assert sum(reads) < 1.1 * artifact.size_bytes


def test_a_file_that_changed_is_told_for_every_board(artifact, fleet):
    _, sessions, _ = fleet
    artifact.path.write_bytes(b"x" + artifact.path.read_bytes()[1:])
    done = spread(artifact, {"b0": sessions["b0"], "b1": sessions["b1"]})
    assert done.delivered == {}
    assert {type(problem) for problem in done.failed.values()} == {CorruptArtifact}


def test_boards_with_the_same_predecessor_share_one_delta(artifact, fleet, tmp_path, monkeypatch):
    benches, sessions, _ = fleet
    del sessions["b2"]
    data = bytearray(random.Random(1).randbytes(3 * 2**20))
    data[1_000_000:1_000_100] = bytes(100)
    new = pack(manifest(version="1.0.1"), {"model.onnx": bytes(data), "labels.txt": b"a"}, tmp_path)
    assert spread(artifact, sessions).failed == {}
    made = []
    monkeypatch.setattr(creating, "create", lambda *asked: made.append(asked) or create(*asked))
    done = spread(new, sessions, way=Way(policy=DeltaPolicy.ALWAYS, known=Catalog([tmp_path])))
    assert {board: one.method for board, one in done.delivered.items()} == dict.fromkeys(sessions, Method.DELTA)
    assert len(made) == 1
    for name in sessions:
        assert (benches[name].edgehil / "store/sha256" / new.digest[7:]).read_bytes() == new.path.read_bytes()


@pytest.mark.needs("sshd")
def test_ten_boards_behind_one_sshd_get_it_at_once_and_again_with_every_second_one_cut(artifact, tmp_path):
    (tmp_path / "sshd").mkdir()
    links = {}
    with OpenSshServer(tmp_path / "sshd") as server:  # turns away some of more than ten that connect at once

        def connect_to(bench: BenchBoard, name: str):
            def connect_(timeout_s: float):
                links[name] = connect(server.access, board_id=name, timeout_s=timeout_s)
                return EnvTransport(links[name], bench.env, bench.home)

            return connect_

        benches = {f"s{number}": BenchBoard(tmp_path / f"s{number}", board_id=f"s{number}") for number in range(10)}
        sessions = {
            name: BoardSession(bench.board, token=1, holder="me", connect=connect_to(bench, name))
            for name, bench in benches.items()
        }
        cut = {"s1", "s3", "s5", "s7", "s9"}

        def told(board: str, sent: int, _rate: float | None) -> None:
            if board in cut and sent > 2**20:
                links[board].sock.shutdown(socket.SHUT_RDWR)

        first = spread(artifact, sessions, on_sent=told)
        assert (sorted(first.failed), len(first.delivered)) == (sorted(cut), 5)
        assert all(isinstance(problem, BoardError) for problem in first.failed.values())
        for name in cut:
            sessions[name].drop()
            links[name].close()
        again = spread(artifact, sessions)
        assert again.failed == {}
        assert {name for name, one in again.delivered.items() if one.sent_bytes} == cut
        for session in sessions.values():
            session.close()
        for link in links.values():
            link.close()
    for bench in benches.values():
        stored = bench.edgehil / "store/sha256" / artifact.digest[7:]
        assert stored.read_bytes() == artifact.path.read_bytes()
