"""What the host does when the other side does not behave: bounded time, one clear error, nothing believed."""

from __future__ import annotations

import queue
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processes import until

from pytest_edgehil.board import conversation as module
from pytest_edgehil.board import wire
from pytest_edgehil.board.conversation import Conversation, EndedBeforeHello
from pytest_edgehil.board.trouble import ERRORS, error_of
from pytest_edgehil.errors import (
    BoardError,
    DeadlineExceeded,
    EdgehilError,
    Fenced,
    LinkLost,
    ModelTimeout,
    OutOfMemory,
    ProtocolError,
)

HELLO = wire.encode({"type": "hello", "version": wire.VERSION, "platform": {}})


class FakeChannel:
    """A program that says what the test puts in, and keeps what it is told."""

    def __init__(self, *said: bytes, status: int = 0, stderr: str = "") -> None:
        self.said: queue.Queue[bytes] = queue.Queue()
        for one in said:
            self.said.put(one)
        self.status = status
        self.heard = wire.FrameBuffer("host")
        self.requests: queue.Queue[dict] = queue.Queue()
        self.closed = threading.Event()
        self.stderr_tail = stderr
        self.dead = False

    def send(self, data, timeout_s=60.0) -> None:
        if self.dead or self.closed.is_set():
            raise LinkLost("gone")
        self.heard.feed(bytes(data))
        while (frame := self.heard.next()) is not None:
            self.requests.put(frame[0])

    def receive(self, max_bytes: int, timeout_s: float) -> bytes:
        waited = 0.0
        while not self.closed.is_set():
            try:
                return self.said.get(timeout=0.01)
            except queue.Empty:
                waited += 0.01
                if self.dead:
                    raise LinkLost("gone") from None
                if waited > timeout_s:
                    raise DeadlineExceeded(f"nothing within {timeout_s:g} s") from None
        raise LinkLost("closed")

    def close_input(self) -> None:
        self.said.put(b"")

    def wait(self, timeout_s: float) -> int:
        return self.status

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def talk():
    opened: list[Conversation] = []

    def talk(*said: bytes, **how) -> tuple[Conversation, FakeChannel]:
        channel = FakeChannel(*said, **how)
        opened.append(Conversation(channel, board_id="pi5-01"))
        return opened[-1], channel

    yield talk
    for one in opened:
        one.close()


def answer(number: int, **fields) -> bytes:
    return wire.encode({"type": "result", "id": number, **fields})


def test_a_request_gets_its_answer_and_frames_before_it(talk):
    link, channel = talk(HELLO, wire.encode({"type": "samples", "id": 1}, b"12"), answer(1, x=5))
    link.hello(60)
    seen = []
    message, _ = link.ask("measure", {"y": 1}, timeout_s=60, on_frame=lambda *frame: seen.append(frame))
    assert message["x"] == 5
    assert [(one["type"], blob) for one, blob in seen] == [("samples", b"12")]
    assert channel.requests.get(timeout=60) == {"op": "measure", "id": 1, "y": 1}


@pytest.mark.parametrize("code", [*ERRORS, "something-new"])
def test_every_complaint_of_the_board_is_one_of_our_errors(talk, code):
    complaint = wire.encode({"type": "error", "id": 1, "code": code, "message": "it\ndoes not work"})
    link, _ = talk(HELLO, complaint, answer(2))
    link.hello(60)
    with pytest.raises(ERRORS.get(code, ProtocolError), match=r"pi5-01: .*it does not work"):
        link.ask("load", timeout_s=60)
    assert link.error is None
    link.ask("status", timeout_s=60)


def test_a_complaint_without_a_request_ends_the_conversation(talk):
    fenced = wire.encode({"type": "error", "id": None, "code": "fenced", "message": "token 3 is refused"})
    link, _ = talk(HELLO, fenced)
    link.hello(60)
    for _ in range(2):
        with pytest.raises(Fenced, match="token 3"):
            link.ask("measure", timeout_s=60)


def test_silence_is_a_lost_link_however_long_the_request_may_take(talk, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    link, _ = talk(HELLO)
    link.hello(60)
    with pytest.raises(LinkLost, match=r"silent for 0\.3 s"):
        link.ask("measure", timeout_s=3600)


def test_a_board_that_breathes_but_does_not_answer_exceeds_the_deadline(talk, monkeypatch):
    monkeypatch.setattr(module, "SILENCE_S", 5.0)
    beats = [wire.encode({"type": "heartbeat", "busy": "load"})] * 3
    link, channel = talk(HELLO, *beats)
    link.hello(60)
    until(lambda: link._busy)
    with pytest.raises(DeadlineExceeded, match=r"longer than 0\.4 s; the board is alive and busy with 'load'"):
        link.ask("load", timeout_s=0.4)
    assert channel.closed.is_set()
    with pytest.raises(DeadlineExceeded):
        link.ask("status", timeout_s=60)


@pytest.mark.parametrize("busy", ["run", "measure", "generate"])
def test_a_model_that_does_not_answer_on_a_board_that_breathes_is_the_models_fault(talk, monkeypatch, busy):
    monkeypatch.setattr(module, "SILENCE_S", 5.0)
    link, channel = talk(HELLO, wire.encode({"type": "heartbeat", "busy": busy}))
    link.hello(60)
    until(lambda: link._busy)
    told = rf"the model did not answer: {busy} took longer than 0\.4 s, while the board is alive and busy"
    with pytest.raises(ModelTimeout, match=told):
        link.ask(busy, timeout_s=0.4)
    assert channel.closed.is_set()
    with pytest.raises(ModelTimeout):
        link.ask("status", timeout_s=60)


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        ((wire.encode({"type": "hello", "version": 99}),), ProtocolError, "speaks version 99, not 1"),
        ((wire.encode({"type": "greetings"}),), ProtocolError, "expected hello"),
        ((b"Welcome to Debian!\n",), ProtocolError, "expected a frame, got b'Welcome"),
        ((b"",), EndedBeforeHello, "did not start"),
        ((), DeadlineExceeded, "hello within 0.3 s"),
        ((HELLO[:10], b""), EndedBeforeHello, "did not start"),
    ],
    ids=["version", "other words", "login banner", "nothing", "silence", "half a hello"],
)
def test_a_hello_that_is_none(talk, said, error, text):
    link, _ = talk(*said)
    with pytest.raises(error, match=text):
        link.hello(60 if said else 0.3)


@pytest.mark.parametrize(
    ("status", "error", "how"),
    [
        (0, ProtocolError, "ended with status 0"),
        (1, ProtocolError, "ended with status 1"),
        (137, OutOfMemory, "was killed by SIGKILL"),
        (139, ProtocolError, "was killed by SIGSEGV"),
        (255, ProtocolError, "was killed by a signal, together with the shell"),
    ],
)
def test_a_program_that_ends_is_told_with_its_last_words(talk, status, error, how):
    link, _ = talk(HELLO, b"", status=status, stderr="MemoryError\n")
    link.hello(60)
    with pytest.raises(error, match=rf"the on-board program {how}.*MemoryError"):
        link.ask("run", timeout_s=60)


def test_an_answer_to_a_later_request_is_not_believed(talk):
    link, _ = talk(HELLO, answer(7))
    link.hello(60)
    with pytest.raises(ProtocolError, match="request '7'; the last one made is 1"):
        link.ask("run", timeout_s=60)


def test_an_answer_to_an_abandoned_request_is_passed_over(talk):
    link, _ = talk(HELLO)
    link.hello(60)
    link._number = 4
    link._channel.said.put(answer(3, x="late"))
    link._channel.said.put(answer(5, x="right"))
    assert link.ask("run", timeout_s=60)[0]["x"] == "right"


def test_a_caller_who_raises_cancels_and_the_rest_is_read_away(talk):
    samples = wire.encode({"type": "samples", "id": 1})
    link, channel = talk(HELLO, samples, samples, answer(1), answer(2, x=1))
    link.hello(60)

    def refuse(*_frame) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        link.ask("measure", timeout_s=60, on_frame=refuse)
    assert link.ask("status", timeout_s=60)[0]["x"] == 1
    told = [channel.requests.get(timeout=60)["op"] for _ in range(3)]
    assert told == ["measure", "cancel", "status"]


def test_a_link_that_breaks_while_sending_tells_the_boards_own_reason(talk):
    link, channel = talk(HELLO)
    link.hello(60)
    channel.dead = True
    channel.said.put(wire.encode({"type": "error", "id": None, "code": "fenced", "message": "token 3 is refused"}))
    with pytest.raises(Fenced):
        link.ask("status", timeout_s=60)


def test_signs_of_life_are_sent_while_nobody_asks(talk, monkeypatch):
    monkeypatch.setattr(module, "PING_S", 0.01)
    link, channel = talk(HELLO)
    link.hello(60)
    assert [channel.requests.get(timeout=60)["op"] for _ in range(3)] == ["ping"] * 3


def test_readings_are_kept_until_they_are_taken(talk):
    row = {"at_s": 1.5, "temperature_c": 50, "throttled": 0}
    rows = wire.encode({"type": "readings", "rows": [row, {**row, "at_s": 2.5}]})
    link, _ = talk(HELLO, rows, answer(1))
    link.hello(60)
    link.ask("status", timeout_s=60)
    assert link.last_reading.at_s == 2.5
    assert [one.at_s for one in link.take_readings()] == [1.5, 2.5]
    assert link.take_readings() == ()


def test_closing_twice_or_after_a_loss_is_quiet(talk):
    link, channel = talk(HELLO)
    link.hello(60)
    link.close()
    link.close()
    assert channel.requests.get(timeout=60) == {"op": "bye"}
    with pytest.raises(BoardError, match="closed"):
        link.ask("status", timeout_s=60)
    lost, channel = talk(HELLO)
    lost.hello(60)
    channel.dead = True
    lost.close()


def test_closing_waits_for_the_reader_also_when_the_conversation_was_given_up():
    may_end = threading.Event()

    class Slow(FakeChannel):
        def receive(self, max_bytes: int, timeout_s: float) -> bytes:
            if self.said.empty():
                may_end.wait()
                return b""
            return self.said.get()

    link = Conversation(Slow(answer(1)), board_id="pi5-01")
    with pytest.raises(ProtocolError, match="expected hello"):
        link.hello(60)
    closing = threading.Thread(target=link.close, args=(300,))
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    may_end.set()
    closing.join()
    assert not link._reader.is_alive()


@given(st.lists(st.binary(max_size=60) | st.just(HELLO) | st.just(answer(1)), max_size=6), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_whatever_a_board_says_ends_in_an_answer_or_in_one_of_our_errors(said, status):
    channel = FakeChannel(*[one for one in said if one], b"", status=status)
    link = Conversation(channel, board_id="pi5-01")
    try:
        link.hello(60)
        link.ask("run", timeout_s=60)
    except EdgehilError as problem:
        assert "\n" not in str(problem)  # noqa: PT017 - an answer is as good
    finally:
        link.close()
    assert not link._reader.is_alive()


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text())), st.text())
def test_any_code_makes_an_error(code, message):
    assert isinstance(error_of(code, message, board_id="b"), EdgehilError)
