"""The store, the switch of combos and the fence: what is on the disk after success, refusal and a full disk."""

from __future__ import annotations

import errno
import json
import os
import threading

import pytest
from support.boards import BenchBoard, bundle, digest, model_bundle

from pytest_edgehil.model import Track
from pytest_edgehil.onboard import combos, firmware
from pytest_edgehil.onboard.fence import Fence
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem, storage
from pytest_edgehil.onboard.sink import sink

PAYLOAD = bytes(range(256)) * 9000


@pytest.fixture
def bench(tmp_path, monkeypatch):
    board = BenchBoard(tmp_path / "board")
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    return board


@pytest.fixture
def home(bench):
    home = Home(bench.edgehil)
    home.prepare()
    return home


def send(home: Home, data: bytes, *, name: str, size: int, token: int = 1) -> dict:
    ours, theirs = os.pipe()

    def feed() -> None:
        with os.fdopen(theirs, "wb") as out:
            try:
                out.write(data)
            except BrokenPipeError:
                return

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        return sink(home, digest=name, size=size, token=token, holder="me", source=ours)
    finally:
        os.close(ours)
        feeder.join()


def keep(home: Home, artifact) -> str:
    home.bundle(artifact.digest).write_bytes(artifact.path.read_bytes())
    return artifact.digest


# --- the sink ----------------------------------------------------------------------------------------


def test_what_arrives_whole_gets_its_name_and_is_not_taken_twice(home):
    name = digest(PAYLOAD)
    assert send(home, PAYLOAD, name=name, size=len(PAYLOAD))["already"] is False
    assert home.bundle(name).read_bytes() == PAYLOAD
    assert send(home, b"", name=name, size=len(PAYLOAD))["already"] is True


def test_a_stored_bundle_that_rotted_is_replaced(home):
    name = digest(PAYLOAD)
    home.bundle(name).write_bytes(b"x" * len(PAYLOAD))
    assert send(home, PAYLOAD, name=name, size=len(PAYLOAD))["already"] is False
    assert home.bundle(name).read_bytes() == PAYLOAD


@pytest.mark.parametrize(
    ("data", "size", "code"),
    [
        (PAYLOAD[:-1], len(PAYLOAD), "truncated"),
        (b"", len(PAYLOAD), "truncated"),
        (PAYLOAD + b"x", len(PAYLOAD), "truncated"),
        (b"y" + PAYLOAD[1:], len(PAYLOAD), "digest-mismatch"),
    ],
    ids=["short", "empty", "long", "altered"],
)
def test_a_cut_or_altered_push_leaves_nothing(home, data, size, code):
    with pytest.raises(Problem) as caught:
        send(home, data, name=digest(PAYLOAD), size=size)
    assert caught.value.code == code
    assert list(home.store.iterdir()) == []


def test_a_push_that_cannot_fit_is_refused_before_it_begins(home, monkeypatch):
    room = os.statvfs(home.root)
    needed = room.f_bavail * room.f_frsize + 1
    with pytest.raises(Problem, match="bytes are free") as caught:
        send(home, b"", name=digest(PAYLOAD), size=needed)
    assert caught.value.code == "disk-full"


def test_a_lower_token_is_refused_also_when_it_came_in_before(home):
    fence = Fence(home)
    fence.enter(5, "ci-1")
    with pytest.raises(Problem, match="ci-1") as caught:
        send(home, PAYLOAD, name=digest(PAYLOAD), size=len(PAYLOAD), token=4)
    assert caught.value.code == "fenced"
    assert list(home.store.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_full_disk_is_the_same_complaint(number):
    with pytest.raises(Problem) as caught, storage("a file"):
        raise OSError(number, os.strerror(number))
    assert caught.value.code == "disk-full"


def test_any_other_trouble_with_the_disk_names_the_file():
    with (
        pytest.raises(Problem, match=r"cannot write a file: Read-only file system \(/x\)") as caught,
        storage("a file"),
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/x")
    assert caught.value.code == "storage"


# --- what an interrupted program leaves behind ----------------------------------------------------------


def test_leftovers_are_swept_but_not_what_somebody_still_writes(home):
    import fcntl

    abandoned, used = home.store / ".aa.1.tmp", home.store / ".bb.2.tmp"
    abandoned.write_bytes(b"x")
    used.write_bytes(b"x")
    (home.trees / ".cc.3.tmp").mkdir()
    (home.trees / ".cc.3.tmp/file").write_bytes(b"x")
    (home.root / ".current.4.tmp").symlink_to("combos/none")
    with used.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        home.prepare()
        assert used.exists()
    home.prepare()
    assert [path.name for path in home.root.rglob("*.tmp")] == []


# --- combos --------------------------------------------------------------------------------------------


def test_a_combo_is_switched_as_a_whole(home, tmp_path):
    model = keep(home, model_bundle(tmp_path))
    other = keep(home, bundle(tmp_path, {"p.yaml": b"x"}, track=Track.PROMPT, runtime=None, name="prompt"))
    assert combos.current(home) == {}
    combos.activate(home, {"model": model})
    assert combos.current(home) == {"model": model}
    combos.activate(home, {"model": model, "prompt": other})
    assert combos.current(home) == {"model": model, "prompt": other}
    assert (home.current / "model/model.onnx").is_file()
    assert (home.current / "prompt/p.yaml").read_bytes() == b"x"
    assert not home.journal.exists()


def test_only_a_combo_whose_model_loaded_becomes_the_last_known_good_one(home, tmp_path):
    first = keep(home, model_bundle(tmp_path, seed=1))
    second = keep(home, model_bundle(tmp_path, seed=2))
    combos.activate(home, {"model": first})
    assert combos.last_known_good(home) is None
    with pytest.raises(Problem, match="no other good combo"):
        combos.revert(home)
    combos.mark_good(home)
    combos.activate(home, {"model": second})
    assert combos.last_known_good(home) == {"model": first}
    combos.revert(home)
    assert combos.current(home) == {"model": first}


@pytest.mark.parametrize(
    "asked", [None, {}, [], {"model": "x"}, {"kernel": "sha256:" + "0" * 64}, {"model": ["sha256:" + "0" * 64]}]
)
def test_what_is_no_combo_is_refused(home, asked):
    with pytest.raises(Problem) as caught:
        combos.activate(home, asked)
    assert caught.value.code == "bad-request"
    assert combos.current(home) == {}


def test_a_bundle_cannot_be_activated_as_something_else(home, tmp_path):
    model = keep(home, model_bundle(tmp_path))
    with pytest.raises(Problem, match="cannot be the prompt") as caught:
        combos.activate(home, {"prompt": model})
    assert caught.value.code == "wrong-target"


def test_a_combo_with_a_missing_part_leaves_the_old_one_active(home, tmp_path):
    model = keep(home, model_bundle(tmp_path))
    combos.activate(home, {"model": model})
    with pytest.raises(Problem, match="push it first"):
        combos.activate(home, {"model": model, "prompt": "sha256:" + "0" * 64})
    assert combos.current(home) == {"model": model}


# --- the journal ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("default", "expected"), [(3, "new"), (2, "old")])
def test_an_interrupted_activation_is_finished_or_dropped_by_what_boots_by_default(
    home, bench, tmp_path, default, expected
):
    old, new = keep(home, model_bundle(tmp_path, seed=1)), keep(home, model_bundle(tmp_path, seed=2))
    combos.activate(home, {"model": new})
    combos.activate(home, {"model": old})
    bench.autoboot(default, 5 - default)
    home.journal.write_text(json.dumps({"combo": combos.combo_id({"model": new}), "partition": 3, "other": 2}))
    assert combos.recover(home) is not None
    assert combos.current(home) == {"model": new if expected == "new" else old}
    assert combos.recover(home) is None


def test_a_journal_that_is_no_journal_stops_everything(home):
    home.journal.write_text("garbage")
    with pytest.raises(Problem, match="cannot be read"):
        combos.recover(home)


def test_a_firmware_is_committed_only_from_the_partition_that_runs(home, bench, tmp_path):
    model = keep(home, model_bundle(tmp_path))
    with pytest.raises(Problem, match="not the one that is running"):
        combos.activate(home, {"model": model}, partition=3, other=2)
    assert firmware.default_partition() == 2
    bench.booted(3, tryboot=True)
    combos.activate(home, {"model": model}, partition=3, other=2)
    assert firmware.default_partition() == 3
    assert combos.current(home) == {"model": model}


# --- the fence -----------------------------------------------------------------------------------------


def test_the_fence_only_rises(home):
    fence = Fence(home)
    assert fence.read() == (0, "")
    fence.enter(3, "a")
    fence.enter(3, "a")
    fence.enter(7, "b")
    assert fence.read() == (7, "b")
    fence.check(7)
    for old in (0, 3, 6):
        with pytest.raises(Problem, match="token 7 of b"):
            fence.check(old)
        with pytest.raises(Problem):
            fence.enter(old, "a")
    assert fence.read() == (7, "b")


def test_a_fence_that_cannot_be_read_lets_nobody_in(home):
    home.fence.write_text("{")
    with pytest.raises(Problem, match="cannot be read"):
        Fence(home).enter(1, "me")
