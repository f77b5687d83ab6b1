"""A firmware that is made of what the board runs: little is sent, and nothing is believed that is not looked at."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import random

import pytest
from support.boards import bundle
from support.slot_boards import SlotBoard

from pytest_edgehil.artifacts.delta.create import read_stream
from pytest_edgehil.artifacts.delta.document import Copy, Literal
from pytest_edgehil.artifacts.delta.known_blocks import KnownBlocks, from_blocks
from pytest_edgehil.artifacts.ustar import StoredGzip
from pytest_edgehil.board.delivery import DeltaPolicy, Method, Way, deliver
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.errors import FlashError
from pytest_edgehil.model import Artifact, Track

STEP = 4096
BODY = random.Random(7).randbytes(2 * 2**20)


def image(version: str, body: bytes = BODY) -> bytes:
    return json.dumps({"name": "edge-os", "version": version}).encode().ljust(STEP, b"\n") + body


def firmware(directory, version: str, body: bytes = BODY, change: dict[str, object] | None = None) -> Artifact:
    identity = json.dumps({"name": "edge-os", "version": version}).encode()
    files = {"firmware.json": identity, "root.img": image(version, body)}
    made = bundle(
        directory, files, track=Track.FIRMWARE, kind="firmware-image", runtime=None, entry="firmware.json",
        name="edge-os", version=version, change=change,
    )  # fmt: skip
    return stored_as_the_packer_does(made)


def stored_as_the_packer_does(made: Artifact) -> Artifact:
    content = gzip.decompress(made.path.read_bytes())
    with made.path.open("wb") as out:
        packer = StoredGzip(out)
        packer.write(content)
        packer.finish()
    data = made.path.read_bytes()
    return dataclasses.replace(made, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size_bytes=len(data))


@pytest.fixture
def bench(tmp_path):
    board = SlotBoard(tmp_path / "board", "uboot")
    board.put("dev/vda2", image("1.0"))
    board.boot_now(2, trial=False)
    board.board = dataclasses.replace(board.board, slots=board.slots)
    return board


@pytest.fixture
def session(bench):
    link = bench.connect()
    session = BoardSession(bench.board, token=1, holder="me", connect=lambda _timeout_s: link)
    session.client.status()
    session.rate_bytes_per_s = 10_000.0
    yield session
    session.close()
    link.close()


def stored(bench, artifact) -> bytes:
    return (bench.edgehil / "store/sha256" / artifact.digest[7:]).read_bytes()


def test_what_the_running_root_has_is_not_sent(session, bench, tmp_path):
    new = firmware(tmp_path, "1.1")
    done = deliver(session, new)
    assert (done.method, done.refused) == (Method.DELTA, "")
    assert done.sent_bytes < 0.01 * new.size_bytes
    assert stored(bench, new) == new.path.read_bytes()
    assert [path.name for path in (bench.edgehil / "store/sha256").glob(".*")] == []


def test_what_was_packed_by_us_is_written_to_a_device_as_any_other(session, bench, tmp_path):
    new = firmware(tmp_path, "1.1")
    deliver(session, new)
    asked = {"digest": new.digest, "partition": 3}
    session.client.request("install", {"digest": new.digest}, timeout_s=60.0)
    answer = session.client.request("firmware-write", asked, timeout_s=60.0)
    assert answer.integer("written_bytes") == len(image("1.1"))
    assert (bench.root / "dev/vda3").read_bytes()[: len(image("1.1"))] == image("1.1")
    assert [path.name for path in (bench.edgehil / "trees" / new.digest[7:]).glob("*.img")] == []


def test_an_image_that_is_not_what_its_manifest_says_gets_no_identity(session, bench, tmp_path):
    made = image("1.1")
    lie = {"path": "root.img", "digest": f"sha256:{hashlib.sha256(b'').hexdigest()}", "size_bytes": len(made)}
    told = json.dumps({"name": "edge-os", "version": "1.1"}).encode()
    digest = f"sha256:{hashlib.sha256(told).hexdigest()}"
    identity = {"path": "firmware.json", "size_bytes": len(told), "digest": digest}
    new = firmware(tmp_path, "1.1", change={"files": [identity, lie]})
    deliver(session, new)
    session.client.request("install", {"digest": new.digest}, timeout_s=60.0)
    with pytest.raises(FlashError, match=r"root\.img in the board's store hashes to"):
        session.client.request("firmware-write", {"digest": new.digest, "partition": 3}, timeout_s=60.0)
    assert not (bench.edgehil / "slots/3.json").exists()


@pytest.mark.parametrize("rate", [10_000.0, 1e9])
def test_over_a_fast_link_it_is_sent_whole_unless_deltas_are_asked_for(session, bench, tmp_path, rate):
    session.rate_bytes_per_s = rate
    fast = rate > 1e6
    assert deliver(session, firmware(tmp_path, "1.1")).method is (Method.WHOLE if fast else Method.DELTA)
    assert deliver(session, firmware(tmp_path, "1.2"), way=Way(policy=DeltaPolicy.ALWAYS)).method is Method.DELTA
    assert deliver(session, firmware(tmp_path, "1.3"), way=Way(policy=DeltaPolicy.NEVER)).method is Method.WHOLE


def test_a_root_with_nothing_in_common_is_sent_whole(session, bench, tmp_path):
    new = firmware(tmp_path, "2.0", random.Random(8).randbytes(len(BODY)))
    done = deliver(session, new)
    assert (done.method, done.refused) == (Method.WHOLE, "")
    assert stored(bench, new) == new.path.read_bytes()


def test_a_root_that_may_change_is_not_copied_from(session, bench, tmp_path):
    bench.put("proc/self/mountinfo", "1 0 254:2 / / rw,relatime - ext4 /dev/root rw\n")
    done = deliver(session, firmware(tmp_path, "1.1"))
    assert done.method is Method.WHOLE
    assert "mounted for writing" in done.refused


def test_a_root_that_is_not_what_was_told_makes_no_bundle(session, bench, tmp_path, monkeypatch):
    new, told = firmware(tmp_path, "1.1"), type(session.client).slot_blocks

    def then_changes(client, **how):
        known = told(client, **how)
        data = bytearray((bench.root / "dev/vda2").read_bytes())
        data[10 * STEP] ^= 1
        (bench.root / "dev/vda2").write_bytes(data)
        return known

    monkeypatch.setattr(type(session.client), "slot_blocks", then_changes)
    done = deliver(session, new)
    assert done.method is Method.WHOLE
    assert "hashes to" in done.refused
    assert stored(bench, new) == new.path.read_bytes()


def known_of(device: bytes) -> KnownBlocks:
    digests = b"".join(hashlib.sha256(device[at : at + STEP]).digest()[:8] for at in range(0, len(device), STEP))
    return KnownBlocks(partition=2, block_bytes=STEP, digest_bytes=8, digests=digests)


def test_blocks_that_have_moved_are_found(tmp_path):
    moved = BODY[: 50 * STEP] + bytes(3 * STEP) + BODY[50 * STEP :]
    new = firmware(tmp_path, "1.1", moved)
    delta = from_blocks(new, read_stream(new), "root.img", known_of(image("1.0")))
    made = sum(one.size_bytes for one in delta.operations if isinstance(one, Literal))
    assert made < 8 * STEP + 20 * 512
    assert len([one for one in delta.operations if isinstance(one, Copy)]) == 2
    assert delta.size_bytes < 0.01 * new.size_bytes


def test_a_bundle_without_such_an_image_is_none_of_its_business(tmp_path):
    new = firmware(tmp_path, "1.1")
    assert from_blocks(new, read_stream(new), "boot.img", known_of(image("1.0"))) is None
    assert from_blocks(new, None, "root.img", known_of(image("1.0"))) is None
