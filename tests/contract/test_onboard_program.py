"""The real program, as a process, over real links: a child process, OpenSSH's sshd, a virtual board.

What every link must show: the same answers, errors with code and message, no hang and no traceback on the wire, and
that nothing is left running when the link is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.boards import SERIAL, BenchBoard, bundle, linear_model, model_bundle
from support.processes import alive, until

from pytest_edgehil.board import conversation, wire
from pytest_edgehil.board.onboard_client import OnboardClient
from pytest_edgehil.board.push import push
from pytest_edgehil.board.session import BoardSession
from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.errors import (
    EvidenceError,
    Fenced,
    FlashError,
    LinkLost,
    ModelError,
    OutOfMemory,
    ProtocolError,
    RuntimeMissing,
    WrongTarget,
)
from pytest_edgehil.model import Board, Environment, Fault, Slots, Track, VirtualSpec

X = np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4)


@pytest.fixture(autouse=True)
def a_board_has_time_to_answer(monkeypatch):
    """What is over three seconds late is given up, as who waits for Ctrl-C wants it; a busy machine is no reason to."""
    monkeypatch.setattr(conversation, "LAST_WORDS_S", 60.0)


# --- the program alone, spoken to byte by byte ---------------------------------------------------------


class Program:
    """`serve` as a child process."""

    def __init__(self, bench: BenchBoard, *, token: int = 1, options: tuple[str, ...] = ()) -> None:
        data, digest = onboard_zipapp()
        path = bench.edgehil / f"bin/onboard-{digest}.pyz"
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
        argv = [sys.executable, "-S", "-E", str(path), "serve", "--token", str(token), "--holder", "me", *options]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **bench.env},
            cwd=bench.home,
        )
        self.frames = wire.FrameBuffer("bench")

    def say(self, data: bytes) -> None:
        try:
            self.process.stdin.write(data)
            self.process.stdin.flush()
        except BrokenPipeError:
            return

    def ask(self, request: dict, blob: bytes = b"") -> dict:
        self.say(wire.encode(request, blob))
        return self.answer(request.get("id"))

    def read(self) -> dict | None:
        """The next frame; None at the end."""
        while (frame := self.frames.next()) is None:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return None
            self.frames.feed(data)
        return frame[0]

    def answer(self, number: int | None) -> dict:
        while (message := self.read()) is not None:
            if message["type"] in {"result", "error"} and message["id"] == number:
                return message
        raise AssertionError(f"it ended without an answer: {self.process.stderr.read().decode()}")

    def rest(self) -> list[dict]:
        found = []
        while (message := self.read()) is not None:
            found.append(message)
        return found

    def end(self) -> int:
        """Close its input and wait for its end; whoever has to be killed fails the test."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            return self.process.wait(120)
        finally:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture
def bench(tmp_path):
    return BenchBoard(tmp_path / "board")


@pytest.fixture
def start(bench):
    started = []

    def start(**how) -> Program:
        started.append(Program(bench, **how))
        return started[-1]

    yield start
    for program in started:
        program.kill()


@pytest.fixture
def program(start):
    return start()


def test_it_introduces_itself_and_ends_with_its_input(start):
    program = start()
    hello = program.read()
    assert (hello["type"], hello["version"]) == ("hello", wire.VERSION)
    assert hello["platform"]["serial"] == SERIAL
    assert program.end() == 0


def test_what_it_can_import_is_found_out_when_somebody_asks_and_then_remembered(start):
    program = start()
    assert program.read()["platform"]["runtimes"] is None
    found = program.ask({"id": 1, "op": "probe"})
    assert set(found["runtimes"]) == {"onnxruntime", "replay"}
    assert program.end() == 0
    again = start()
    said = again.read()["platform"]
    assert (said["python"], said["runtimes"]) == (found["python"], found["runtimes"])
    assert again.end() == 0


def test_it_gives_a_sign_of_life_all_the_time(program):
    kinds = []
    while kinds.count("heartbeat") < 3 or "readings" not in kinds:
        kinds.append(program.read()["type"])
    assert kinds[0] == "hello"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">4sII", b"EHF1", 2**31, 0),
        struct.pack(">4sII", b"EHF1", 2, 2**31) + b"{}",
        struct.pack(">4sII", b"EHF1", 2, 0) + b"[]",
        struct.pack(">4sII", b"EHF1", 3, 0) + b"{x}",
        wire.encode({"op": "status"}),
        wire.encode({"op": "status", "id": "one"}),
        wire.encode({}),
    ],
    ids=["garbage", "long json", "long blob", "array", "no json", "no id", "id of text", "empty"],
)
def test_a_stream_that_cannot_be_trusted_is_told_so_and_ended(bench, data, start):
    program = start()
    program.read()
    program.say(data)
    (error,) = [message for message in program.rest() if message["type"] == "error"]
    assert error["code"] == "bad-frame"
    assert "Traceback" not in error["message"]
    assert program.end() == 3


def test_a_truncated_frame_is_told_when_the_input_ends(bench, start):
    program = start()
    program.read()
    program.say(wire.encode({"op": "status", "id": 1})[:-4])
    program.process.stdin.close()
    (error,) = [message for message in program.rest() if message["type"] == "error"]
    assert error["code"] == "bad-frame"
    assert program.end() == 3


def test_no_bytes_make_it_hang_or_show_a_traceback(start):
    valid = [wire.encode({"op": name, "id": 1}) for name in ("status", "run", "measure", "bye", "ping", "cancel")]
    piece = st.sampled_from([*valid, valid[0][:9], b"EHF1"]) | st.binary(max_size=40)

    @given(st.lists(piece, max_size=5))
    @settings(max_examples=25, deadline=None)
    def fuzz(pieces):
        program = start()
        assert program.read()["type"] == "hello"
        program.say(b"".join(pieces))
        with contextlib.suppress(BrokenPipeError):
            program.process.stdin.close()
        for message in program.rest():
            assert "Traceback" not in json.dumps(message)
            if message["type"] == "error":
                assert message["message"]
                assert message["code"] not in {"", "internal"}
        assert program.end() in {0, 3}

    fuzz()


SOME_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = [
    "digest", "threads", "tensors", "items", "append", "inferences", "seconds", "first", "warmup", "warmup_s", "keep",
    "combo", "partition", "trial",
]  # fmt: skip
OPERATIONS = [
    "status", "install", "load", "stage", "run", "measure", "restart", "activate", "revert", "firmware-write",
    "firmware-prove", "attest", "nonsense",
]  # fmt: skip


def test_no_arguments_make_a_request_fail_otherwise_than_by_a_complaint(bench, tmp_path, start):
    program = start()
    program.read()
    number = iter(range(1, 10**9))
    artifact = keep(bench, model_bundle(tmp_path))
    assert program.ask({"op": "load", "id": next(number), "digest": artifact})["type"] == "result"

    @given(
        st.sampled_from(OPERATIONS),
        st.dictionaries(st.sampled_from(ARGUMENTS), SOME_JSON, max_size=6),
        st.binary(max_size=50),
    )
    @settings(max_examples=150, deadline=None)
    def fuzz(operation, arguments, blob):
        told = program.ask({**arguments, "op": operation, "id": next(number)}, blob)
        assert told["type"] in {"result", "error"}
        if told["type"] == "error":
            assert told["code"] not in {"internal", "child-crashed", "child-killed"}, told

    fuzz()
    assert program.end() == 0


def test_requests_in_the_wrong_order_are_complained_of_and_the_session_goes_on(program):
    assert program.ask({"op": "run", "id": 1, "tensors": []})["code"] == "no-model"
    assert program.ask({"op": "measure", "id": 2, "inferences": 1})["code"] == "no-model"
    assert program.ask({"op": "restart", "id": 3})["code"] == "no-model"
    assert program.ask({"op": "load", "id": 4, "digest": "sha256:" + "0" * 64})["code"] == "not-in-store"
    assert program.ask({"op": "fly", "id": 5})["code"] == "unknown-op"
    assert program.ask({"op": "status", "id": 6})["type"] == "result"


def test_a_second_request_does_not_wait_behind_the_first(program, bench, tmp_path):
    digest = keep(bench, model_bundle(tmp_path))
    program.ask({"op": "load", "id": 1, "digest": digest})
    specs = [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    program.ask({"op": "stage", "id": 2, "tensors": specs, "items": 1}, X.tobytes())
    program.say(wire.encode({"op": "measure", "id": 3, "seconds": 1000}))
    assert program.ask({"op": "status", "id": 4})["code"] == "busy"
    program.say(wire.encode({"op": "cancel", "id": 3}))
    ended = program.answer(3)
    assert ended["cancelled"] is True
    assert program.ask({"op": "status", "id": 5})["type"] == "result"


def test_a_silent_host_is_not_waited_for(bench, tmp_path, start):
    digest = keep(bench, model_bundle(tmp_path))
    program = start(options=("--silence", "4"))
    loaded = threading.Event()

    def give_signs_of_life() -> None:  # loading may take longer than the host may be silent
        while not loaded.wait(0.2):
            program.say(wire.encode({"op": "ping", "id": 0}))

    signs = threading.Thread(target=give_signs_of_life)
    signs.start()
    try:
        assert program.ask({"op": "load", "id": 1, "digest": digest})["type"] == "result"
        child = child_of(program.process.pid)
    finally:
        loaded.set()
        signs.join()
    errors = [message for message in program.rest() if message["type"] == "error"]
    assert [error["code"] for error in errors] == ["silence"]
    assert program.end() == 3
    until(lambda: not alive(child))


def test_the_model_dies_with_a_killed_parent(bench, tmp_path, start):
    digest = keep(bench, model_bundle(tmp_path))
    program = start()
    program.ask({"op": "load", "id": 1, "digest": digest})
    child = child_of(program.process.pid)
    program.process.kill()
    until(lambda: not alive(child))
    program.end()


def test_a_higher_token_ends_the_older_session_also_while_it_measures(bench, tmp_path, start):
    digest = keep(bench, model_bundle(tmp_path))
    old = start(token=4)
    old.ask({"op": "load", "id": 1, "digest": digest})
    specs = [{"name": "x", "dtype": "float32", "shape": [1, 4]}]
    old.ask({"op": "stage", "id": 2, "tensors": specs, "items": 1}, X.tobytes())
    old.say(wire.encode({"op": "measure", "id": 3, "seconds": 1000}))
    child = child_of(old.process.pid)
    new = start(token=5)
    assert new.read()["type"] == "hello"
    errors = [message for message in old.rest() if message["type"] == "error"]
    assert [error["code"] for error in errors] == ["fenced"]
    assert "token 5" in errors[0]["message"]
    until(lambda: not alive(child))
    assert old.end() == 3
    late = start(token=4)
    assert late.read()["code"] == "fenced"
    assert late.end() == 3
    assert new.end() == 0


def test_a_damaged_program_says_so(bench, start):
    first = start()
    first.read()
    first.end()
    (path,) = (bench.edgehil / "bin").iterdir()
    data = bytearray(path.read_bytes())
    at = data.index(b"The verbs of the on-board program")
    data[at] ^= 1
    import zipfile
    import zlib

    # a repaired checksum of the archive, so that only the program itself can notice
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("onboard/main.py")
        old = struct.pack("<I", info.CRC)
        begin = info.header_offset + 30 + len(info.filename)
        new = struct.pack("<I", zlib.crc32(data[begin : begin + info.file_size]))
    path.write_bytes(bytes(data).replace(old, new))
    program = start()
    assert program.read()["code"] == "corrupt-program"
    assert program.end() == 3


def keep(bench: BenchBoard, artifact) -> str:
    path = bench.edgehil / "store/sha256" / artifact.digest.removeprefix("sha256:")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(artifact.path.read_bytes())
    return artifact.digest


def child_of(parent: int) -> int:
    def find() -> int | None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
                if fields[1] == str(parent) and b"child" in (stat.parent / "cmdline").read_bytes():
                    return int(stat.parent.name)
            except (FileNotFoundError, ProcessLookupError):
                continue  # the program also has the sensors' tools for children, which end at any moment
        return None

    return until(find)


# --- the client, over every link -----------------------------------------------------------------------


class Link:
    """A board, how to open sessions on it, and how to cut what is open."""

    def __init__(self, board: Board, connect, cut, *, edgehil: Path, serial: str) -> None:
        self.board = board
        self.connect = connect
        self.cut = cut
        self.edgehil = edgehil
        self.serial = serial

    def session(self, *, token: int = 1) -> BoardSession:
        return BoardSession(self.board, token=token, holder="me", connect=self.connect)


KINDS = ("local", pytest.param("sshd", marks=pytest.mark.needs("sshd")), "virtual")


@contextlib.contextmanager
def linked(kind: str, directory: Path) -> Iterator[Link]:
    """A board that is reached over one kind of link."""
    if kind == "virtual":
        from pytest_edgehil.virtual import farm

        board = Board(
            id="v1",
            cls="pi5-8gb",
            environment=Environment.VIRTUAL,
            slots=Slots(backend="tryboot"),
            virtual=VirtualSpec(serial="00000000000000a1"),
        )
        with farm.start(board, directory=directory / "v1") as running:
            disk = directory / "v1/disk/home/edge/.edgehil"

            def cut():
                running.control.inject(Fault(kind="link-cut"))

            yield Link(running.board, None, cut, edgehil=disk, serial="00000000000000a1")
        return
    bench = BenchBoard(directory / "board")
    if kind == "sshd":
        from support.sshd_board import serve_over_ssh

        with serve_over_ssh(bench, directory) as (connect, cut):
            yield Link(bench.board, connect, cut, edgehil=bench.edgehil, serial=SERIAL)
        return
    opened = []

    def connect(timeout_s):
        opened.append(bench.connect(timeout_s))
        return opened[-1]

    def cut():
        opened[-1].cut()

    yield Link(bench.board, connect, cut, edgehil=bench.edgehil, serial=SERIAL)
    for transport in opened:
        transport.close()


@pytest.fixture(params=KINDS)
def link(request, tmp_path):
    with linked(request.param, tmp_path) as link:
        yield link


@pytest.fixture
def session(link):
    session = link.session()
    yield session
    session.close()


@pytest.fixture
def model(session, tmp_path):
    session.client.status()
    artifact = model_bundle(tmp_path)
    push(session, artifact)
    return artifact


@pytest.fixture(scope="module", params=KINDS)
def standing(request, tmp_path_factory):
    """A session on a board, and a model in its store, for tests that leave both as they were."""
    directory = tmp_path_factory.mktemp("standing")
    with linked(request.param, directory) as link:
        session = link.session()
        session.client.status()
        artifact = model_bundle(directory)
        push(session, artifact)
        yield session, artifact
        session.close()


@pytest.fixture
def client(standing):
    """The client of that session; the model is loaded anew, in a process of its own."""
    session, artifact = standing
    session.client.load(artifact.digest)
    return session.client


def test_the_program_is_pushed_once_and_verified(link, session):
    first = session.client.platform
    assert first.serial == link.serial
    (path,) = (link.edgehil / "bin").iterdir()
    (compiled,) = (link.edgehil / "compiled").iterdir()  # here the board's Python is the host's
    assert compiled.name.endswith(f".{hashlib.sha256(compiled.read_bytes()).hexdigest()}.zip")
    before = path.stat().st_ino
    session.drop()
    assert session.client.platform.serial == link.serial
    assert path.stat().st_ino == before


def test_a_damaged_program_is_pushed_again(link, session):
    session.client.close()
    session.drop()
    (path,) = (link.edgehil / "bin").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    assert session.client.platform.serial == link.serial
    assert path.read_bytes() == onboard_zipapp()[0]


def test_a_model_runs_there_as_it_does_here(standing):
    import onnxruntime

    session, model = standing
    loaded = session.client.load(model.digest)
    assert loaded.artifact_digest == model.digest
    assert [str(one) for one in loaded.inputs] == ["x float32 (1, 4)"]
    cold = loaded.cold
    assert 0 < cold.rss_before_bytes < cold.rss_after_bytes <= cold.peak_rss_bytes
    outputs, latency_ns = session.client.run({"x": X})
    here = onnxruntime.InferenceSession(linear_model()).run(None, {"x": X})
    np.testing.assert_array_equal(outputs["logits"], here[0])
    assert latency_ns > 0


def test_a_measurement_is_complete_and_its_outputs_belong_to_their_items(client):
    feeds = {"x": np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)}
    measured = client.measure(feeds, inferences=9000, warmup=5, keep_outputs=True, timeout_s=60)
    assert measured.latencies_ns.shape == measured.starts_ns.shape == (9000,)
    assert (measured.latencies_ns > 0).all()
    ends = measured.starts_ns + measured.latencies_ns
    assert (measured.starts_ns[1:] >= ends[:-1]).all()
    assert measured.duration_s * 1e9 >= ends[-1] - measured.starts_ns[0]
    assert measured.peak_rss_bytes > 2**20
    alone = [client.run({"x": feeds["x"][at : at + 1]})[0]["logits"][0] for at in range(7)]
    np.testing.assert_array_equal(measured.outputs["logits"], alone)
    conditions = measured.conditions
    assert conditions.boot_id_before == conditions.boot_id_after is not None
    assert (conditions.throttled_before, conditions.throttled_after, conditions.replayed) == (0, 0, False)


def test_a_part_of_the_items_can_be_measured(client):
    feeds = {"x": np.eye(4, dtype=np.float32)}
    whole = client.measure(feeds, inferences=4, keep_outputs=True, timeout_s=60)
    part = client.measure(feeds, inferences=2, first=1, keep_outputs=True, timeout_s=60)
    np.testing.assert_array_equal(part.outputs["logits"], whole.outputs["logits"][1:3])


def test_measuring_goes_on_for_the_time_that_is_asked_for(client):
    measured = client.measure({"x": X}, inferences=None, seconds=0.5, timeout_s=60)
    assert measured.duration_s >= 0.5


def test_measuring_samples_the_sensors_meanwhile(client):
    client.take_readings()
    seen = set()

    def until_there_are_some(done: int, _newest: object) -> None:
        row = client.last_reading
        if done and row is not None:
            seen.add(row.at_s)
        if len(seen) == 3:
            client.cancel()

    measured = client.measure({"x": X}, inferences=None, seconds=600, timeout_s=660, on_progress=until_there_are_some)
    assert len(measured.readings) >= 2
    at = [row.at_s for row in measured.readings]
    assert at == sorted(at)
    assert all(row.temperature_c is not None and row.rss_bytes > 2**20 for row in measured.readings)
    # the sampler's clock is the one that inferences are timed with
    assert measured.starts_ns[0] / 1e9 - 60 < at[-1] < measured.starts_ns[-1] / 1e9 + 60


def test_a_measurement_can_be_cancelled_and_keeps_what_it_has(client):
    begun = threading.Event()
    canceller = threading.Thread(target=lambda: begun.wait(600) and client.cancel())
    canceller.start()

    def told(done: int, _newest: object) -> None:
        if done:
            begun.set()

    measured = client.measure({"x": X}, inferences=None, seconds=600, timeout_s=660, on_progress=told)
    canceller.join()
    assert measured.cancelled
    assert measured.latencies_ns.size > 0
    assert client.run({"x": X})[1] > 0


def test_a_caller_who_raises_meanwhile_leaves_a_usable_session(client):

    def enough(done, _newest):
        if done:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        client.measure({"x": X}, inferences=None, seconds=600, timeout_s=660, on_progress=enough)
    assert client.run({"x": X})[1] > 0


def test_a_restart_is_a_fresh_process(standing):
    session, model = standing
    first = session.client.load(model.digest).cold
    measured = session.client.measure({"x": X}, inferences=1, timeout_s=60)
    second = session.client.restart()
    assert second.load_ns > 0
    assert second.load_ns != first.load_ns
    again = session.client.measure({"x": X}, inferences=1, timeout_s=60)
    assert again.latencies_ns.size == measured.latencies_ns.size == 1


def test_wrong_feeds_are_told_with_what_the_model_takes(client):
    for feeds in ({}, {"y": X}, {"x": X.astype(np.float64)}, {"x": X[:, :3]}, {"x": np.array(["a"])}):
        with pytest.raises(ModelError, match=r"x float32 \(1, 4\)"):
            client.run(feeds)
    with pytest.raises(ModelError, match="items"):
        client.measure({"x": np.zeros((0, 4), np.float32)}, inferences=1, timeout_s=60)


def test_what_is_no_model_does_not_load(session, tmp_path):
    session.client.status()
    broken = bundle(tmp_path, {"model.onnx": b"not onnx"})
    foreign = bundle(tmp_path, {"m": b"x"}, name="foreign", architectures=("riscv64",))
    unknown = bundle(tmp_path, {"m": b"x"}, name="unknown", runtime="abacus")
    prompt = bundle(tmp_path, {"p": b"x"}, name="prompt", track=Track.PROMPT, runtime=None)
    for artifact, error, text in (
        (broken, ModelError, "does not load"),
        (foreign, WrongTarget, "riscv64"),
        (unknown, RuntimeMissing, "abacus"),
        (prompt, WrongTarget, "of track prompt"),
    ):
        push(session, artifact)
        with pytest.raises(error, match=text):
            session.client.load(artifact.digest)
    with pytest.raises(FlashError, match="push it first"):
        session.client.load("sha256:" + "0" * 64)


def test_the_board_hashes_what_it_loads(link, session, model):
    session.client.load(model.digest)
    hexadecimal = model.digest.removeprefix("sha256:")
    for path in (link.edgehil / "trees" / hexadecimal / "model.onnx", link.edgehil / "store/sha256" / hexadecimal):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(FlashError, match="hashes to"):
            session.client.load(model.digest)
        path.write_bytes(data)
    session.client.load(model.digest)


def test_a_killed_model_is_told_from_one_that_crashed(link, session, model):
    for number, error, text in ((signal.SIGKILL, OutOfMemory, "SIGKILL"), (signal.SIGSEGV, ModelError, "SIGSEGV")):
        session.client.load(model.digest)
        child = running_child(link)
        timer = threading.Timer(0.3, os.kill, (child, number))
        timer.start()
        with pytest.raises(error, match=text):
            session.client.measure({"x": X}, inferences=None, seconds=600, timeout_s=660)
        timer.join()
        with pytest.raises(ProtocolError, match="no model is loaded"):
            session.client.request("run", {"tensors": []}, timeout_s=30)


def running_child(link: Link) -> int:
    """The model's process on a board."""

    def find() -> int | None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                argv = path.read_bytes().split(b"\0")
                directory = str((path.parent / "cwd").readlink())
            except OSError:
                continue
            if argv[-2:-1] == [b"child"] and directory == str(link.edgehil.parent):
                return int(path.parent.name)
        return None

    return until(find)


def test_a_revived_holder_is_refused_by_the_board(link, session):
    session.client.status()
    newer = link.session(token=2)
    newer.client.status()
    with pytest.raises(Fenced, match="token 2"):
        until(lambda: session.client.status() is None)
    session.drop()
    with pytest.raises(Fenced):
        session.client.status()
    newer.close()


def test_a_cut_link_is_noticed_and_leaves_nothing_running(link, session, model):
    session.client.load(model.digest)
    child = running_child(link)
    cut = threading.Timer(0.3, link.cut)
    cut.start()
    with pytest.raises(LinkLost):
        session.client.measure({"x": X}, inferences=None, seconds=600, timeout_s=660)
    cut.join()
    until(lambda: not alive(child))
    with pytest.raises(LinkLost):
        session.client.status()


def statement(digest: str, serial: str) -> bytes:
    subject = [{"name": "tiny", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    return json.dumps({"subject": subject, "predicate": {"environment": {"boardSerial": serial}}}).encode()


def test_the_board_signs_what_it_loaded_and_nothing_else(link, session, model, tmp_path):
    if link.board.id != "v1":
        pytest.skip("this board has no rpi-fw-crypto")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    from pytest_edgehil.evidence.envelope import pae

    payload = statement(model.digest, link.serial)
    with pytest.raises(EvidenceError, match="nothing that this board has loaded"):
        session.client.attest(payload)
    session.client.load(model.digest)
    signature, pem = session.client.attest(payload)
    key = load_pem_public_key(pem.encode())
    key.verify(signature, pae(payload), ec.ECDSA(hashes.SHA256()))
    assert pem.encode() == link.board.identity_key.read_bytes()
    with pytest.raises(EvidenceError, match="this board is"):
        session.client.attest(statement(model.digest, "1" * 16))
    newer = link.session(token=9)
    newer.client.status()
    with pytest.raises(Fenced):
        until(lambda: session.client.attest(payload) is None)
    newer.close()


def test_a_board_without_a_key_says_so(tmp_path):
    bench = BenchBoard(tmp_path / "b")
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        digest = keep(bench, model_bundle(tmp_path))
        client.load(digest)
        with pytest.raises(Exception, match="no rpi-fw-crypto"):
            client.attest(statement(digest, SERIAL))


def test_a_board_that_lacks_the_runtime_says_so(tmp_path):
    bench = BenchBoard(tmp_path / "b")
    bench.shim("python3", f'case "$1" in -E) exec {sys.executable} -S "$@";; *) exec {sys.executable} "$@";; esac')
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        assert dict(client.platform.runtimes) == {"replay": "1"}
        digest = keep(bench, model_bundle(tmp_path))
        with pytest.raises(RuntimeMissing, match="onnxruntime cannot be imported"):
            client.load(digest)


def test_what_a_model_prints_does_not_break_the_conversation(tmp_path):
    bench = BenchBoard(tmp_path / "b")
    (bench.root / "noisy").mkdir()
    (bench.root / "noisy/onnxruntime.py").write_text(
        "print('hello from a runtime' * 1000)\nimport os\nos.write(1, b'x')\n"
    )
    bench.shim(
        "python3",
        f'case "$1" in -E) shift; export PYTHONPATH="{bench.root}/noisy";; esac; exec {sys.executable} "$@"',
    )
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        digest = keep(bench, model_bundle(tmp_path))
        with pytest.raises(RuntimeMissing, match="has no attribute"):
            client.load(digest)
        assert client.status().combo == {}


def test_a_runtime_that_takes_its_process_down_is_a_missing_one(tmp_path):
    bench = BenchBoard(tmp_path / "b")
    (bench.root / "deadly").mkdir()
    (bench.root / "deadly/onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    bench.shim(
        "python3",
        f'case "$1" in -E) shift; export PYTHONPATH="{bench.root}/deadly";; esac; exec {sys.executable} "$@"',
    )
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        assert dict(client.platform.runtimes) == {"replay": "1"}
        digest = keep(bench, model_bundle(tmp_path))
        with pytest.raises(ModelError, match="SIGSEGV"):
            client.load(digest)
        assert client.status().combo == {}


@pytest.mark.parametrize("batch", [1, 3])
def test_many_seconds_of_silence_on_our_side_do_not_end_the_session(tmp_path, monkeypatch, batch):
    monkeypatch.setattr(conversation, "PING_S", 0.05)
    bench = BenchBoard(tmp_path / "b")
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        end = time.monotonic() + 0.2 * batch
        while time.monotonic() < end:
            time.sleep(0.05)
        assert client.status().fence_token == 1


def test_a_long_measurement_does_not_grow_on_the_board(tmp_path):
    from pytest_edgehil.artifacts.replay import Trace, build_replay
    from pytest_edgehil.onboard.processes import status_bytes

    bench = BenchBoard(tmp_path / "b")
    recorded = build_replay(Trace(latencies_ns=(1_000_000,)), name="trace", version="1", out_dir=tmp_path)
    with OnboardClient.start(bench.connect(), board_id="b", home=".edgehil", token=1, holder="me") as client:
        client.load(keep(bench, recorded))
        peaks = []
        for seconds in (1.0, 300.0):
            measured = client.measure({"x": X}, inferences=None, seconds=seconds, timeout_s=110)
            assert measured.latencies_ns.size == seconds * 1000
            # a tool of the sensors that is about to be executed still looks like the program
            both = until(lambda: len(found := processes_below(bench)) == 2 and found)
            peaks.append([status_bytes(pid)["VmHWM"] for pid in both])
        assert all(late - early < 4 * 2**20 for early, late in zip(*peaks, strict=True))


def processes_below(bench: BenchBoard) -> list[int]:
    """The program and its model's process, in this order."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            if b"onboard" in b" ".join(words[:5]) and (path.parent / "cwd").readlink() == bench.home:
                if words[0].endswith(b"sh"):
                    continue
                found.append((b"child" in words, int(path.parent.name)))
        except OSError:
            continue
    return [pid for _, pid in sorted(found)]
