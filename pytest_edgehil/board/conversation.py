"""Requests and answers over a channel, and knowing in bounded time when nobody answers any more.

Two threads beside the caller's: one reads frames as they come, one says every few seconds that we are still there
(the board ends a session whose host is silent). The board sends a heartbeat twice a second, whatever it does; so

- silence for `SILENCE_S` is `LinkLost`, however long the request may take;
- a request that takes longer than it was given while the board still breathes is `DeadlineExceeded`; and if the board
  says that it is the model's inference which takes so long, `ModelTimeout`: the board does what it should.

After the first error of this kind the conversation is over: what comes later could answer an earlier question.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import queue
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pytest_edgehil.board import wire
from pytest_edgehil.board.answers import reading
from pytest_edgehil.board.fields import Fields
from pytest_edgehil.board.transport import SIGNALLED, Channel
from pytest_edgehil.board.trouble import error_of
from pytest_edgehil.board.wire import Message
from pytest_edgehil.errors import (
    BoardError,
    DeadlineExceeded,
    EdgehilError,
    LinkLost,
    ModelTimeout,
    OutOfMemory,
    ProtocolError,
)
from pytest_edgehil.model.sample import SensorReading

SILENCE_S = 10.0
"""Twenty heartbeats: on a busy board some may be late, on a living link not all of them."""

COUNTED_SILENCE_S = 120.0
"""Of a board whose time is its instructions: half a second of it takes as long as the host needs to emulate it."""

HELLO_S = 300.0
"""Until the first frame the caller's deadline counts; this is only so that the reading thread ends some day."""

PING_S = 3.0
TICK_S = 1.0
LAST_WORDS_S = 3.0
PIECE_BYTES = 2**20
MAX_READINGS = 100_000

_INFERRING = frozenset({"run", "measure", "generate"})
"""What a board is busy with when it waits for the model and for nothing else."""

Answer = tuple[Message, bytes]


@dataclass(frozen=True, slots=True)
class _Over:
    """The conversation is over, and why."""

    error: EdgehilError


class Conversation:
    """One session with the on-board program.

    Args:
        channel: to the running program.
        board_id: for messages.
        silence_s: a link that is silent for so long is lost; None: `SILENCE_S`.
    """

    def __init__(self, channel: Channel, *, board_id: str, silence_s: float | None = None) -> None:
        self._channel = channel
        self._silence_s = SILENCE_S if silence_s is None else silence_s
        self._board_id = board_id
        self._frames: queue.Queue[Answer | _Over] = queue.Queue()
        self._readings: collections.deque[SensorReading] = collections.deque(maxlen=MAX_READINGS)
        self._sending = threading.Lock()
        self._error: EdgehilError | None = None
        self._closing = threading.Event()
        self._hanging_up = threading.Lock()
        self._busy = ""
        self._number = 0
        self._reader = threading.Thread(target=self._read, name=f"onboard-{board_id}-read", daemon=True)
        self._pinger = threading.Thread(target=self._ping, name=f"onboard-{board_id}-ping", daemon=True)
        self._reader.start()

    @property
    def error(self) -> EdgehilError | None:
        """What ended the conversation, if it has ended by itself."""
        return self._error

    @property
    def last_reading(self) -> SensorReading | None:
        """The newest row of the sampler that has come in."""
        try:
            return self._readings[-1]
        except IndexError:
            return None

    def hello(self, timeout_s: float) -> Fields:
        """The program's first words.

        Raises:
            EndedBeforeHello: it ended without a word.
            EdgehilError: it refuses us (`trouble.ERRORS`), or another version answers.
        """
        message, _ = self._next(time.monotonic() + timeout_s, f"hello within {timeout_s:g} s", None)
        fields = Fields(message, board_id=self._board_id)
        if message.get("type") != "hello":
            raise self._give_up(ProtocolError(f"{self._board_id}: expected hello, got {str(message)[:120]}"))
        if message.get("version") != wire.VERSION:
            theirs = str(message.get("version"))[:20]
            raise self._give_up(
                ProtocolError(f"{self._board_id}: the on-board program speaks version {theirs}, not {wire.VERSION}")
            )
        self._pinger.start()
        return fields

    def ask(
        self,
        operation: str,
        fields: Message | None = None,
        *,
        blob: bytes | memoryview = b"",
        timeout_s: float,
        on_frame: Callable[[Message, bytes], None] | None = None,
        on_tick: Callable[[], None] | None = None,
    ) -> Answer:
        """Make one request and wait for its result.

        Args:
            operation: its name.
            fields: what else the JSON says.
            blob: raw bytes beside it.
            timeout_s: for the whole of it.
            on_frame: gets what comes before the result.
            on_tick: called about every second and after every frame; may raise, which cancels the request.

        Raises:
            EdgehilError: what the board complains of, or how the link ended.
        """
        if self._error is not None:
            raise self._again()
        deadline = time.monotonic() + timeout_s
        self._number += 1
        number = self._number

        def guarded(call: Callable[..., None], *arguments: object) -> None:
            try:
                call(*arguments)
            except BaseException:
                self._abandon(number)
                raise

        tick = None if on_tick is None else functools.partial(guarded, on_tick)
        self._send({**(fields or {}), "op": operation, "id": number}, blob, deadline)
        while True:
            message, out = self._next(deadline, f"{operation} took longer than {timeout_s:g} s", tick)
            if self._is_stale(message, number):
                continue
            match message.get("type"):
                case "result":
                    return message, out
                case "error":
                    raise error_of(message.get("code"), message.get("message"), board_id=self._board_id)
                case kind:
                    if on_frame is None:
                        told = f"{self._board_id}: unexpected {str(kind)[:40]!r} during {operation}"
                        raise self._give_up(ProtocolError(told))
                    guarded(on_frame, message, out)
                    if tick is not None:
                        tick()

    def cancel(self) -> None:
        """End the measurement that is under way early; its results so far are delivered. From any thread."""
        if self._error is None:
            self._send({"op": "cancel", "id": self._number}, b"", time.monotonic() + LAST_WORDS_S)

    def take_readings(self) -> tuple[SensorReading, ...]:
        """The rows of the sampler since the last call."""
        rows = []
        with contextlib.suppress(IndexError):
            while True:
                rows.append(self._readings.popleft())
        return tuple(rows)

    def close(self, timeout_s: float = 5.0) -> None:
        """Say goodbye and end the program. Safe to call twice, and on a dead link."""
        all_is_well = self._error is None and not self._closing.is_set()
        self._closing.set()
        if all_is_well:
            with contextlib.suppress(BoardError):  # it ends in any case
                self._channel.send(wire.encode({"op": "bye"}), timeout_s=timeout_s)
                self._channel.close_input()
                self._reader.join(timeout_s)
        self._hang_up()
        self._reader.join(timeout_s)

    # --- inside --------------------------------------------------------------------------------------

    def _next(self, deadline: float, what: str, on_tick: Callable[[], None] | None) -> Answer:
        while True:
            left = deadline - time.monotonic()
            try:
                frame = self._frames.get(timeout=max(0.0, min(left, TICK_S)))
            except queue.Empty:
                if left <= 0:
                    raise self._give_up(self._late(what)) from None
                if on_tick is not None:
                    on_tick()
                continue
            if isinstance(frame, _Over):
                raise frame.error
            return frame

    def _late(self, what: str) -> EdgehilError:
        """Whose fault is it? A board that is silent for long ends the conversation in another way."""
        if self._busy in _INFERRING:
            return ModelTimeout(
                f"{self._board_id}: the model did not answer: {what}, while the board is alive and busy with "
                f"{self._busy!r}; a model that hangs, or one that takes so long"
            )
        busy = f"; the board is alive and busy with {self._busy!r}" if self._busy else ""
        return DeadlineExceeded(f"{self._board_id}: {what}{busy}")

    def _send(self, message: Message, blob: bytes | memoryview, deadline: float) -> None:
        data = memoryview(wire.encode(message, blob))
        try:
            with self._sending:
                for at in range(0, len(data), PIECE_BYTES):
                    left = max(0.1, deadline - time.monotonic())
                    self._channel.send(data[at : at + PIECE_BYTES], timeout_s=left)
        except BoardError as problem:
            # the program may have told why it ended; that is the better answer
            self._reader.join(LAST_WORDS_S)
            if self._error is not None:
                raise self._again() from problem
            raise self._give_up(problem) from problem

    def _is_stale(self, message: Message, number: int) -> bool:
        """Does it answer an earlier request, whose caller went away (Ctrl-C)?"""
        answered = message.get("id")
        if not isinstance(answered, int) or answered > number:
            told = f"{self._board_id}: an answer to request {str(answered)[:40]!r}; the last one made is {number}"
            raise self._give_up(ProtocolError(told))
        return answered < number

    def _abandon(self, number: int) -> None:
        """The caller does not want the result any more: cancel, and read it away in bounded time."""
        if self._error is not None:
            return
        deadline = time.monotonic() + LAST_WORDS_S
        try:
            self._send({"op": "cancel", "id": number}, b"", deadline)
            while True:
                message, _ = self._next(deadline, "cancelling", None)
                if message.get("id") == number and message.get("type") in {"result", "error"}:
                    return
        except EdgehilError:
            return  # the conversation is over now, and the caller raises what it had to say

    def _again(self) -> EdgehilError:
        assert self._error is not None
        return type(self._error)(str(self._error))

    def _give_up(self, error: EdgehilError) -> EdgehilError:
        if self._error is None:
            self._error = error
        self._closing.set()
        self._hang_up()
        return error

    def _hang_up(self) -> None:
        with self._hanging_up, contextlib.suppress(BoardError):  # what is dead already need not be ended
            self._channel.close()

    def _read(self) -> None:
        buffer = wire.FrameBuffer(self._board_id)
        said_hello = False
        try:
            while data := self._receive(self._silence_s if said_hello else HELLO_S):
                buffer.feed(data)
                while (frame := buffer.next()) is not None:
                    said_hello = True
                    self._sort(*frame)
            self._over(self._obituary(said_hello=said_hello))
        except EdgehilError as problem:
            self._over(problem)
        finally:
            # also after a bug of ours in this thread: nobody may wait for frames that nobody reads
            self._over(ProtocolError(f"{self._board_id}: reading from the on-board program has ended"))
            self._hang_up()

    def _receive(self, timeout_s: float) -> bytes:
        try:
            return self._channel.receive(2**18, timeout_s=timeout_s)
        except DeadlineExceeded as problem:
            raise LinkLost(
                f"{self._board_id}: the board has been silent for {timeout_s:g} s; it should give a sign of life twice "
                "a second"
            ) from problem

    def _sort(self, message: Message, blob: bytes) -> None:
        match message.get("type"):
            case "heartbeat":
                self._busy = str(message.get("busy") or "")
            case "readings":
                rows = Fields(message, board_id=self._board_id).items("rows")
                self._readings.extend(reading(Fields(row, board_id=self._board_id)) for row in rows)
            case "error" if message.get("id") is None:
                raise error_of(message.get("code"), message.get("message"), board_id=self._board_id)
            case _:
                self._frames.put((message, blob))

    def _over(self, error: EdgehilError) -> None:
        if self._error is None:
            closed = ProtocolError(f"{self._board_id}: the session has been closed")
            self._error = closed if self._closing.is_set() else error
        self._frames.put(_Over(self._error))

    def _obituary(self, *, said_hello: bool) -> EdgehilError:
        status = self._channel.wait(LAST_WORDS_S)
        said = " ".join(self._channel.stderr_tail.split())[-300:]
        tail = f"; it said: {said}" if said else ""
        if not said_hello:
            return EndedBeforeHello(
                f"{self._board_id}: the on-board program did not start (it {_how_it_ended(status)}){tail}"
            )
        kind = OutOfMemory if status == 128 + signal.SIGKILL else ProtocolError
        return kind(f"{self._board_id}: the on-board program {_how_it_ended(status)}{tail}")

    def _ping(self) -> None:
        while not self._closing.wait(PING_S):
            # a long request under way is a sign of life by itself
            if not self._sending.acquire(blocking=False):
                continue
            try:
                self._channel.send(wire.encode({"op": "ping"}), timeout_s=self._silence_s)
            except BoardError as problem:
                self._reader.join(LAST_WORDS_S)
                self._over(problem)
                return
            finally:
                self._sending.release()


def _how_it_ended(status: int) -> str:
    """An exit status as a channel tells it, in words.

    >>> _how_it_ended(1), _how_it_ended(139)
    ('ended with status 1', 'was killed by SIGSEGV')
    """
    if status == SIGNALLED:
        return "was killed by a signal, together with the shell that had started it"
    number = status - 128
    if number in set(signal.Signals):
        return f"was killed by {signal.Signals(number).name}"
    return f"ended with status {status}"


class EndedBeforeHello(ProtocolError):
    """The program ended without a word: most often it is not there yet. Never leaves this package."""
