"""The parent's end of the model's process: start it, talk to it, tell how it died."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .frames import Blob, CutShort, FrameReader, FrameWriter, Message
from .problem import Problem

STDERR_BYTES = 8192
DEATH_S = 10.0

Relay = Callable[[Message, Blob], object]


def interpreter() -> str:
    """The board's ``python3``, the one that has its site packages; we ourselves run without them."""
    return shutil.which("python3") or sys.executable


class ModelProcess:
    """One fresh process that will load one model.

    Args:
        program: path of the zipapp.
    """

    def __init__(self, program: Path) -> None:
        self.spawned_ns = time.perf_counter_ns()
        self._process = subprocess.Popen(
            [interpreter(), "-E", str(program), "child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # HailoRT tells its utilisation only of processes that ask for it; nothing else reads this
            env={**os.environ, "HAILO_MONITOR": "1"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._writer = FrameWriter(self._process.stdin.fileno())
        self._reader = FrameReader(self._process.stdout.fileno())
        self._stderr: collections.deque[bytes] = collections.deque(maxlen=64)
        self._paused = False
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def load(self, loaded: Message) -> Message:
        """Load a model.

        Args:
            loaded: what to load: ``digest``, ``runtime``, ``entry`` and ``threads``. Told here: what became of it.

        Returns:
            What it says of the model.

        Raises:
            Problem: it does not load.
        """
        asked = {key: loaded[key] for key in ("runtime", "entry", "threads")}
        answer, _ = self.request({"op": "load", "id": 0, **asked, "spawned_ns": self.spawned_ns})
        for key in ("type", "id"):
            answer.pop(key)
        loaded["version"] = answer["runtime_version"]
        loaded["load_peak"] = answer["cold"]["peak_rss_bytes"]
        loaded["peak_apart"] = answer.pop("peak_apart")
        return {**answer, "runtime": loaded["runtime"], "digest": loaded["digest"]}

    def request(self, message: Message, blob: Blob = b"", *, relay: Relay | None = None) -> tuple[Message, Blob]:
        """Ask, hand intermediate frames to `relay`, and return the result.

        Raises:
            Problem: the child's own, or ``child-killed`` or ``child-crashed`` when it died.
        """
        self.resume()
        try:
            self._writer.write(message, blob)
        except BrokenPipeError as exc:
            raise self.obituary() from exc
        while True:
            try:
                frame = self._reader.read()
            except CutShort as exc:  # it died while it wrote
                raise self.obituary() from exc
            except Problem as exc:
                self.kill()
                raise Problem("internal", f"the model process wrote what is no frame: {exc.message}") from exc
            if frame is None:
                raise self.obituary()
            answer, out = frame
            kind = answer.get("type")
            if kind == "result":
                return answer, out
            if kind == "error":
                raise Problem(str(answer.get("code")), str(answer.get("message")))
            if relay is not None:
                relay(answer, out)

    def pause(self) -> None:
        """Stop it until it is asked something: its threads must not disturb what is measured meanwhile.

        Waiting for a request costs nothing, but a runtime's idle threads may go on spinning for a while.
        """
        if not self._paused and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let it go on; harmless when it was not stopped."""
        if self._paused:
            self._paused = False
            self._process.send_signal(signal.SIGCONT)

    def cancel(self, request: object) -> None:
        """End a measurement early; harmless at any time."""
        try:
            self._writer.write({"op": "cancel", "id": request})
        except BrokenPipeError:
            return  # it died; whoever waits for its answer hears that

    def kill(self) -> None:
        """End it at once and reap it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._listener.join(timeout=1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def obituary(self) -> Problem:
        """How it died, as a problem for the host."""
        try:
            status = self._process.wait(timeout=DEATH_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return Problem("child-crashed", "the model's process closed its pipes and had to be killed")
        self._listener.join(timeout=1.0)
        said = b"".join(self._stderr).decode(errors="replace").strip().splitlines()
        tail = f"; it said: {said[-1][:300]}" if said else ""
        if status == -signal.SIGKILL:
            killed = f"the model's process (pid {self.pid}) was killed by SIGKILL, as when memory runs out{tail}"
            return Problem("child-killed", killed)
        if status < 0:
            return Problem("child-crashed", f"the model's process died of {_signal_name(-status)}{tail}")
        return Problem("child-crashed", f"the model's process ended with status {status}{tail}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        descriptor = self._process.stderr.fileno()
        while True:
            try:
                data = os.read(descriptor, STDERR_BYTES)
            except OSError:
                return
            if not data:
                return
            self._stderr.append(data[:256])
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
