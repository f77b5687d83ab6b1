"""How a bundle gets to a board: what is sent, when a delta is made, what follows when the board refuses it."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import subprocess
import sys

import numpy as np
import pytest
from support.boards import BenchBoard, bundle
from support.bundles import manifest

from pytest_edgehil.artifacts.bundle import pack
from pytest_edgehil.artifacts.catalog import Catalog
from pytest_edgehil.artifacts.delta.create import create
from pytest_edgehil.artifacts.delta.published import publish
from pytest_edgehil.board import pace, push
from pytest_edgehil.board.blocks import Blocks
from pytest_edgehil.board.delivery import DeltaPolicy, Method, Way, deliver
from pytest_edgehil.board.pace import Pace, RateMeter, compression_pays
from pytest_edgehil.board.push import PushOptions
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import CorruptArtifact
from pytest_edgehil.model import Track


@pytest.fixture
def bench(tmp_path):
    return BenchBoard(tmp_path / "board")


@pytest.fixture
def session(bench):
    link = bench.connect()
    session = BoardSession(bench.board, token=1, holder="me", connect=lambda _timeout_s: link)
    session.client.status()
    yield session
    session.close()
    link.close()


def packed(directory, data: bytes, *, version: str):
    return pack(manifest(version=version), {"model.onnx": data, "labels.txt": b"a"}, directory / "artifacts")


@pytest.fixture
def versions(tmp_path):
    """Two bundles of 6 MiB that differ in a few bytes."""
    data = bytearray(random.Random(1).randbytes(6 * 2**20))
    old = packed(tmp_path, bytes(data), version="1.0.0")
    data[3_000_000:3_000_100] = bytes(100)
    return old, packed(tmp_path, bytes(data), version="1.0.1")


def stored(bench, artifact) -> bytes:
    return (bench.edgehil / "store/sha256" / artifact.digest[7:]).read_bytes()


# --- deltas ------------------------------------------------------------------------------------------


def test_a_delta_from_what_the_board_has_is_sent_when_it_pays(session, bench, versions, tmp_path):
    old, new = versions
    way = Way(known=Catalog([tmp_path / "artifacts"]))
    assert deliver(session, old, way=way).method is Method.WHOLE
    session.rate_bytes_per_s = 1e6
    done = deliver(session, new, held=frozenset({old.digest}), way=way)
    assert done.method is Method.DELTA
    assert done.sent_bytes < 0.02 * new.size_bytes
    assert done.describe().startswith(f"{new.label}: delta, {done.sent_bytes} of {new.size_bytes} bytes sent in")
    assert stored(bench, new) == new.path.read_bytes()
    assert [path.name for path in (bench.edgehil / "store/sha256").glob(".*")] == []


@pytest.mark.parametrize(
    ("policy", "rate", "method"),
    [
        (DeltaPolicy.AUTO, 1e9, Method.WHOLE),
        (DeltaPolicy.ALWAYS, 1e9, Method.DELTA),
        (DeltaPolicy.NEVER, 1e3, Method.WHOLE),
    ],
)
def test_the_policy_decides_and_auto_looks_at_the_links_rate(session, versions, policy, rate, method):
    old, new = versions
    way = Way(policy=policy, known=Catalog([old.path.parent]))
    deliver(session, old)
    session.rate_bytes_per_s = rate
    assert deliver(session, new, held=frozenset({old.digest}), way=way).method is method


def test_on_a_link_of_unknown_rate_the_whole_push_begins_and_a_delta_follows_if_it_is_slow(
    session, bench, versions, tmp_path
):
    old, new = versions
    deliver(session, old)
    session.rate_bytes_per_s = None
    now = [0.0]

    def clock() -> float:
        now[0] += 0.2  # each look at the clock takes long: the link appears slow
        return now[0]

    way = Way(known=Catalog([tmp_path / "artifacts"]), options=PushOptions(clock=clock))
    done = deliver(session, new, held=frozenset({old.digest}), way=way)
    assert done.method is Method.DELTA
    assert done.sent_bytes < 0.5 * new.size_bytes
    assert session.rate_bytes_per_s is not None
    assert stored(bench, new) == new.path.read_bytes()


def test_a_delta_that_the_board_refuses_is_followed_by_the_whole(session, bench, versions, tmp_path):
    old, new = versions
    way = Way(policy=DeltaPolicy.ALWAYS, known=Catalog([tmp_path / "artifacts"]))
    done = deliver(session, new, held=frozenset({old.digest}), way=way)  # it does not have the source
    assert done.method is Method.WHOLE
    assert "which the board does not have" in done.refused
    assert "a delta was refused" in done.describe()
    assert stored(bench, new) == new.path.read_bytes()
    # a source that has rotted on the board gives something else than the new bundle
    deliver(session, old)
    path = bench.edgehil / "store/sha256" / old.digest[7:]
    data = bytearray(path.read_bytes())
    data[-2_000_000] ^= 1
    path.write_bytes(data)
    (bench.edgehil / "store/sha256" / new.digest[7:]).unlink()
    done = deliver(session, new, held=frozenset({old.digest}), way=way)
    assert (done.method, "hashes to" in done.refused) == (Method.WHOLE, True)
    assert stored(bench, new) == new.path.read_bytes()


def test_a_published_delta_needs_no_predecessor_here(session, bench, versions, tmp_path):
    old, new = versions
    deliver(session, old)
    delta = create(new, [old])
    assert delta is not None
    one = publish(new, delta.head, delta.pieces(), new.path.with_name("update.ehdelta"))
    old.path.unlink()
    way = Way(known=Catalog([tmp_path / "artifacts"]))
    held = frozenset({old.digest})
    session.rate_bytes_per_s = 1e9  # applying takes longer than sending it whole
    assert deliver(session, new, held=held, way=way).method is Method.WHOLE
    (bench.edgehil / "store/sha256" / new.digest[7:]).unlink()
    session.rate_bytes_per_s = 1e6
    done = deliver(session, new, held=held, way=way)
    assert (done.method, done.sent_bytes) == (Method.DELTA, one.delta_bytes)
    assert stored(bench, new) == new.path.read_bytes()
    # one that is damaged is found out, here or by the board
    (bench.edgehil / "store/sha256" / new.digest[7:]).unlink()
    data = bytearray(one.path.read_bytes())
    data[-1500] ^= 1
    one.path.write_bytes(data)
    done = deliver(session, new, held=held, way=way)
    assert (done.method, bool(done.refused)) == (Method.WHOLE, True)
    assert stored(bench, new) == new.path.read_bytes()


def test_what_cannot_be_a_source_is_none(session, tmp_path, versions):
    old, _ = versions
    foreign = bundle(tmp_path, {"model.onnx": random.Random(2).randbytes(2**20)}, name="foreign")  # compressed bytes
    way = Way(policy=DeltaPolicy.ALWAYS, known=Catalog([tmp_path / "artifacts"]))
    assert deliver(session, foreign, held=frozenset({old.digest}), way=way).method is Method.WHOLE
    again = deliver(session, foreign, held=frozenset({old.digest, foreign.digest}), way=way)
    assert (again.method, again.sent_bytes) == (Method.NOTHING, 0)


def test_a_delta_is_applied_in_little_memory(bench, versions, tmp_path, session):
    big = np.random.default_rng(1).integers(0, 255, size=48 * 2**20, dtype=np.uint8)
    old = packed(tmp_path, big.tobytes(), version="2.0.0")
    big[10 * 2**20 : 14 * 2**20] += 1
    new = packed(tmp_path, big.tobytes(), version="2.0.1")
    deliver(session, old)
    delta = create(new, [old])
    assert delta is not None
    data = b"".join(delta.pieces())
    frames = [data[at : at + 2**20] for at in range(0, len(data), 2**20)]
    pushed = tmp_path / "pushed"
    pushed.write_bytes(
        b'{"what": "delta"}\n'
        + b"".join(struct.pack(">BII", 0, len(one), len(one)) + one for one in frames)
        + struct.pack(">BII", 2, 0, 0)
    )
    script = (
        "import os, re, runpy, sys\n"
        "sys.argv, os._exit = sys.argv[1:], sys.exit\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n"
        "    print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    program = next((bench.edgehil / "bin").glob("onboard-*.pyz"))
    argv = ["sink", "--token", "1", "--holder", "me", "--digest", new.digest, "--size", str(new.size_bytes)]
    with pushed.open("rb") as source:
        done = subprocess.run(
            [sys.executable, "-S", "-E", "-c", script, str(program), *argv],
            stdin=source,
            capture_output=True,
            env=bench.env,
            check=True,
        )
    offer, answer, peak_kib = done.stdout.splitlines()
    assert (json.loads(offer)["marks"], json.loads(answer)["ok"]) == ([], True)
    assert int(peak_kib) * 1024 < 64 * 2**20
    assert stored(bench, new) == new.path.read_bytes()


def test_the_catalog_finds_what_a_board_holds_also(versions, tmp_path):
    old, new = versions
    catalog = Catalog([tmp_path / "artifacts"])
    held = frozenset({old.digest, "sha256:" + "0" * 64})
    assert [one.digest for one in catalog.holding(held, Track.MODEL)] == [old.digest]
    assert catalog.holding(held, Track.PROMPT) == ()
    new.path.write_bytes(new.path.read_bytes()[:-1])
    assert catalog.holding(frozenset({new.digest}), Track.MODEL) == ()


# --- rates, limits, compression ----------------------------------------------------------------------


def test_a_limit_is_kept_and_a_delay_is_not_made_up_for_by_a_burst():
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    held = Pace(1000.0, clock=lambda: now[0], sleep=sleep)
    for _ in range(50):
        held.sent(100)
    assert now[0] == pytest.approx(5.0)
    now[0] += 60.0
    slept.clear()
    for _ in range(50):
        held.sent(100)
    assert sum(slept) >= 3.9
    free = Pace(None, clock=lambda: now[0], sleep=sleep)
    slept.clear()
    free.sent(10**9)
    assert slept == []
    with pytest.raises(ValueError, match="above 0"):
        Pace(0)


def test_the_rate_of_a_link_leaves_out_what_buffers_swallow():
    now = [0.0]
    meter = RateMeter(lambda: now[0])
    meter.add(pace.UNDER_WAY_BYTES - 1)
    assert meter.bytes_per_s is None
    meter.add(pace.UNDER_WAY_BYTES)
    now[0] = 0.5
    meter.add(pace.UNDER_WAY_BYTES + 10)
    assert meter.bytes_per_s is None
    now[0] = 2.0
    meter.add(pace.UNDER_WAY_BYTES + 2_000_000)
    assert (meter.bytes_per_s, meter.fresh) == (1e6, True)
    now[0] = 3.0
    meter.add(pace.UNDER_WAY_BYTES + 6_000_000)
    assert (meter.bytes_per_s, meter.fresh) == (2e6, False)


@dataclasses.dataclass
class Sampled:
    data: bytes

    def sample(self, size: int) -> bytes:
        return self.data[:size]


@pytest.mark.parametrize(
    ("data", "rate", "took_s", "left", "pays"),
    [
        (bytes(2**22), 1e6, 0.01, 10**8, True),
        (bytes(2**22), 1e9, 0.01, 10**8, False),
        (bytes(2**22), 1e6, 9.00, 10**8, False),
        (bytes(2**22), 1e6, 0.01, 10**5, False),
        (random.Random(1).randbytes(2**22), 1e6, 0.01, 10**8, False),
    ],
    ids=["pays", "fast link", "slow host", "nearly done", "does not shrink"],
)
def test_compression_pays_only_where_the_link_gains(data, rate, took_s, left, pays):
    ticks = iter([0.0, took_s])
    meter = RateMeter()
    meter.bytes_per_s = rate
    assert compression_pays(Sampled(data), meter, left, clock=lambda: next(ticks)) is pays


def test_a_slow_link_gets_compressed_frames_and_the_board_the_same_bytes(session, bench, tmp_path, monkeypatch):
    artifact = packed(tmp_path, b"0123456789abcdef" * (2**20 // 2) + random.Random(1).randbytes(2**20), version="3.0.0")
    monkeypatch.setattr(push, "compression_pays", lambda *_a, **_k: True)
    monkeypatch.setattr(pace, "UNDER_WAY_BYTES", 1)
    monkeypatch.setattr(pace, "MEASURED_BYTES", 1)
    with Blocks(artifact, ahead=1) as blocks:
        done = deliver(session, artifact, blocks=blocks)
    assert done.compressed
    assert done.sent_bytes < 0.9 * artifact.size_bytes
    assert stored(bench, artifact) == artifact.path.read_bytes()
    (bench.edgehil / "store/sha256" / artifact.digest[7:]).unlink()
    plain = deliver(session, artifact, way=Way(options=PushOptions(compress=False)))
    assert (plain.compressed, plain.sent_bytes) == (False, artifact.size_bytes)


# --- blocks ------------------------------------------------------------------------------------------


def test_blocks_are_read_once_for_all_and_again_for_who_fell_behind(versions):
    artifact, _ = versions
    whole = artifact.path.read_bytes()
    with Blocks(artifact, block_bytes=100_000, kept=3) as blocks:
        assert blocks.block(20) is blocks.block(20)
        assert blocks.block(2) == whole[200_000:300_000]
        assert b"".join(blocks.block(number) for number in range(blocks.count)) == whole
        assert blocks.sample(10) == whole[(len(whole) - 10) // 2 :][:10]


def test_an_altered_file_is_told_from_a_damaged_transfer(versions):
    artifact, _ = versions
    whole = artifact.path.read_bytes()
    with Blocks(artifact) as blocks:
        blocks.verify()
    for altered in (b"x" + whole[1:], whole + b"x", whole[:-1]):
        artifact.path.write_bytes(altered)
        with Blocks(artifact) as blocks, pytest.raises(CorruptArtifact, match="fetch it again"):
            blocks.verify()
    artifact.path.unlink()
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        Blocks(artifact)
