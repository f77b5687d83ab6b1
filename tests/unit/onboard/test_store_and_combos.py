"""The store, the switch of combos and the fence: what is on the disk after success, refusal and a full disk."""

from __future__ import annotations

import errno
import json
import os
import struct
import threading
import zlib

import pytest
from support.boards import BenchBoard, bundle, digest, model_bundle

from pytest_edgehil.model import Track
from pytest_edgehil.onboard import combos
from pytest_edgehil.onboard.fence import Fence
from pytest_edgehil.onboard.home import Home
from pytest_edgehil.onboard.problem import Problem, storage
from pytest_edgehil.onboard.sink import sink
from pytest_edgehil.onboard.slots import chosen

SLOTS = chosen(None)

PAYLOAD = bytes(range(256)) * 9000


@pytest.fixture
def bench(tmp_path, monkeypatch):
    board = BenchBoard(tmp_path / "board", new=True)
    for name, value in board.env.items():
        monkeypatch.setenv(name, value)
    return board


@pytest.fixture
def home(bench):
    home = Home(bench.edgehil)
    home.prepare()
    return home


def frame(data: bytes, *, code: int = 0, plain: int | None = None) -> bytes:
    return struct.pack(">BII", code, len(data), len(data) if plain is None else plain) + data


def in_frames(data: bytes, *, start: int = 0) -> bytes:
    cut = [data[at : at + 2**20] for at in range(start, len(data), 2**20)]
    return json.dumps({"what": "bytes", "from": start}).encode() + b"\n" + b"".join(map(frame, cut))


def send(home: Home, data: bytes, *, name: str, size: int, token: int = 1, start: int = 0) -> dict:
    return send_raw(home, in_frames(data, start=start) + frame(b"", code=2), name=name, size=size, token=token)


def send_raw(home: Home, data: bytes, *, name: str, size: int, token: int = 1, told: list | None = None) -> dict:
    ours, theirs = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(theirs, view) :]
        except BrokenPipeError:
            return
        finally:
            os.close(theirs)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        tell = [].append if told is None else told.append
        return sink(home, digest=name, size=size, token=token, holder="me", source=ours, tell=tell)
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
        (PAYLOAD + b"x", len(PAYLOAD), "digest-mismatch"),
        (b"y" + PAYLOAD[1:], len(PAYLOAD), "digest-mismatch"),
    ],
    ids=["short", "empty", "long", "altered"],
)
def test_a_cut_or_altered_push_leaves_nothing(home, data, size, code):
    with pytest.raises(Problem) as caught:
        send(home, data, name=digest(PAYLOAD), size=size)
    assert caught.value.code == code
    assert not home.bundle(digest(data)).exists()
    left = [path.name for path in home.store.iterdir()]
    kept = [f".{digest(PAYLOAD)[7:]}.partial"] if data and code == "truncated" else []
    assert left == kept


def test_a_push_that_cannot_fit_is_refused_before_it_begins(home, monkeypatch):
    room = os.statvfs(home.root)
    needed = 2 * room.f_bavail * room.f_frsize + 2**40  # others free space meanwhile
    with pytest.raises(Problem, match="bytes are free") as caught:
        send(home, b"", name=digest(PAYLOAD), size=needed)
    assert caught.value.code == "disk-full"


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        (b"", "truncated"),
        (b"\0\0", "truncated"),
        (frame(b"x" * 50)[:30], "truncated"),
        (frame(b"x", code=7), "bad-request"),
        (frame(b"x", plain=2), "bad-request"),
        (struct.pack(">BII", 0, 2**31, 2**31), "bad-request"),
        (struct.pack(">BII", 1, 5, 2**31) + b"aaaaa", "bad-request"),
        (frame(b"no zlib", code=1, plain=9), "bad-request"),
        (frame(zlib.compress(bytes(2**22)), code=1, plain=100), "bad-request"),
    ],
    ids=["cut", "half a head", "half a frame", "code", "sizes", "huge", "inflates to much", "no zlib", "bomb"],
)
def test_frames_that_are_cut_or_lie_give_nothing_a_name(home, tail, code):
    with pytest.raises(Problem) as caught:
        send_raw(home, in_frames(PAYLOAD[: 2**20]) + tail, name=digest(PAYLOAD), size=len(PAYLOAD))
    assert caught.value.code == code
    assert not home.bundle(digest(PAYLOAD)).exists()


@pytest.mark.parametrize(
    "line", [b"", b"[1]\n", b"{no\n", b"x" * 5000, b'{"what": "all"}\n', b'{"what":"bytes","from":7}\n']
)
def test_a_push_that_does_not_say_what_it_is_is_refused(home, line):
    with pytest.raises(Problem) as caught:
        send_raw(home, line, name=digest(PAYLOAD), size=len(PAYLOAD))
    assert caught.value.code in {"truncated", "bad-request"}
    assert list(home.store.iterdir()) == []


def test_compressed_and_plain_frames_may_be_mixed(home):
    middle = zlib.compress(PAYLOAD[1000:90000], 1)
    data = b'{"what":"bytes","from":0}\n' + frame(PAYLOAD[:1000]) + frame(middle, code=1, plain=89000)
    data += frame(PAYLOAD[90000:]) + frame(b"", code=2)
    assert send_raw(home, data, name=digest(PAYLOAD), size=len(PAYLOAD))["ok"]
    assert home.bundle(digest(PAYLOAD)).read_bytes() == PAYLOAD


# --- pushes that were cut ------------------------------------------------------------------------------


def cut_after(home: Home, count: int) -> None:
    with pytest.raises(Problem, match="cut"):
        send_raw(home, in_frames(PAYLOAD[:count]), name=digest(PAYLOAD), size=len(PAYLOAD))


def test_what_arrived_before_a_cut_is_offered_and_the_push_goes_on_there(home):
    cut_after(home, 1_500_007)
    told = []
    rest = in_frames(PAYLOAD, start=1_500_007) + frame(b"", code=2)
    send_raw(home, rest, name=digest(PAYLOAD), size=len(PAYLOAD), told=told)
    assert told == [{"ok": True, "already": False, "marks": [[1_500_007, digest(PAYLOAD[:1_500_007])[7:]]]}]
    assert home.bundle(digest(PAYLOAD)).read_bytes() == PAYLOAD
    assert [path.name for path in home.store.iterdir()] == [digest(PAYLOAD)[7:]]


def test_marks_ascend_and_end_with_all_that_is_there(home, monkeypatch):
    from pytest_edgehil.onboard import partial

    monkeypatch.setattr(partial, "MARK_BYTES", 400_000)
    cut_after(home, 1_000_000)
    told = []
    with pytest.raises(Problem):
        send_raw(home, b"", name=digest(PAYLOAD), size=len(PAYLOAD), told=told)
    assert told[0]["marks"] == [[n, digest(PAYLOAD[:n])[7:]] for n in (400_000, 800_000, 1_000_000)]
    # the host found that only the first is right: what lies behind it is thrown away
    send(home, PAYLOAD, name=digest(PAYLOAD), size=len(PAYLOAD), start=400_000)
    assert home.bundle(digest(PAYLOAD)).read_bytes() == PAYLOAD


def test_a_second_pusher_gets_a_file_of_its_own(home):
    import fcntl

    cut_after(home, 1_000_000)
    with (home.store / f".{digest(PAYLOAD)[7:]}.partial").open("rb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert send(home, PAYLOAD, name=digest(PAYLOAD), size=len(PAYLOAD))["already"] is False
        home.prepare()
    assert home.bundle(digest(PAYLOAD)).read_bytes() == PAYLOAD
    assert sorted(path.name[0] for path in home.store.iterdir()) == sorted([".", digest(PAYLOAD)[7]])


def test_partial_files_are_swept_by_age_and_by_space_but_not_while_they_are_written(home):
    import fcntl

    from pytest_edgehil.onboard.partial import KEPT_S, sweep

    def put(name: str, size: int, age_s: float) -> None:
        path = home.store / f".{name}.partial"
        path.write_bytes(bytes(size))
        os.utime(path, (1e9 - age_s, 1e9 - age_s))

    def there() -> str:
        return "".join(sorted(path.name[1] for path in home.store.iterdir()))

    for name, size, age_s in (("a", 10, 5), ("b", 20, 50), ("c", 30, 500), ("d", 9, KEPT_S + 1), ("e", 9, -KEPT_S - 1)):
        put(name, size, age_s)
    sweep(home.store, now_s=1e9)
    assert there() == "abc"
    with (home.store / ".c.partial").open("rb") as used:
        fcntl.flock(used, fcntl.LOCK_EX)
        sweep(home.store, now_s=1e9, kept_bytes=15)
        assert there() == "ac"
    sweep(home.store, now_s=1e9, kept_bytes=0, keep=home.store / ".c.partial")
    assert there() == "c"


def test_partial_files_make_room_when_the_disk_is_full(home, monkeypatch):
    cut_after(home, 1_000_000)
    room = os.statvfs(home.root)
    with pytest.raises(Problem, match="bytes are free"):
        send(home, b"", name=digest(b"other"), size=2 * room.f_bavail * room.f_frsize)  # others come and go
    assert list(home.store.iterdir()) == []


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
    home.journal.write_text(json.dumps({"combo": combos.combo_id({"model": new}), "partition": 3}))
    assert combos.recover(home, SLOTS) is not None
    assert combos.current(home) == {"model": new if expected == "new" else old}
    assert combos.recover(home, SLOTS) is None


def test_a_journal_that_is_no_journal_stops_everything(home):
    home.journal.write_text("garbage")
    with pytest.raises(Problem, match="cannot be read"):
        combos.recover(home, SLOTS)


def test_a_firmware_is_committed_only_from_the_partition_that_runs(home, bench, tmp_path):
    model = keep(home, model_bundle(tmp_path))
    with pytest.raises(Problem, match="not the one that is running"):
        combos.activate(home, {"model": model}, slots=SLOTS, partition=3)
    assert SLOTS.chooser.state().default == 2
    bench.booted(3, tryboot=True)
    combos.activate(home, {"model": model}, slots=SLOTS, partition=3)
    assert SLOTS.chooser.state().default == 3
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
