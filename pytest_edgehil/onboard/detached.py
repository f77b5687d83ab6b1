"""A measurement that goes on without a link: a process of its own, in a session of its own, with its own model.

It is started by a session of the on-board program (`jobs`), and nobody holds its hand: it reads what to do from its
directory, appends what it measures to a spool there, and sees to its own end. It ends

- when its seconds are over (time spent on loading and warming up does not count);
- when it is told to (a file ``cancel``), or a higher fencing token was seen;
- when nobody has read its spool for `unattended_s` (10 min unless the host says otherwise);
- when more than `MOST_UNREAD` bytes wait in the spool;
- when the model cannot be loaded again, or died `BARREN` times in a row before its first inference.

The model's process is watched: when it dies, that is written down, and it is started again if `restarts` says so. When
this process dies, whatever the reason, its model dies with it (see `child`).

The frames in the spool:

``started``
    a process has loaded the model: ``cold``, ``runtime_version``, ``clock_cost_ns``.
``samples``
    ``count`` inferences; the blob is theirs: starts, then latencies, i64 little-endian ns. ``gc_pause_ns`` so far.
``readings``
    ``rows`` of the sampler, with ``peak_rss_bytes``, ``steady_peak_rss_bytes``, ``cgroup_peak_bytes`` of the process.
``crash``
    the model's process died: ``code``, ``message``.
``ended``
    the last frame: ``reason`` is ``done``, ``cancelled``, ``unattended``, ``not-restarted`` or ``problem``; ``code``
    and ``message`` say more.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from . import sensors, spool
from .fence import Fence
from .frames import Blob, FrameReader, Message
from .home import Home
from .model_process import ModelProcess
from .problem import Problem
from .processes import cgroup_peak_bytes, status_bytes

SAMPLE_S = 1.0
WATCH_S = 0.1
MOST_UNREAD = 256 * 2**20
AHEAD = 2 * 2**20
"""A recording is played no further than so many bytes before the reader: it could fill the disk in no time."""
BARREN = 5
STUCK_S = 10.0
"""A model that is told to stop and is still within one inference after so long is killed."""
_MEASURE = 1
_End = tuple[str, "Problem | None"]


class Detached:
    """One detached measurement.

    Args:
        home: our directory on the board.
        directory: of this measurement.
        program: path of this zipapp.
    """

    def __init__(self, home: Home, directory: Path, program: Path) -> None:
        self._directory = directory
        self._program = program
        self._fence = Fence(home)
        self._asked: Message = json.loads((directory / "request.json").read_bytes())
        self._spool = spool.SpoolWriter(directory)
        self._model: ModelProcess | None = None
        self._replayed = self._asked["runtime"] == "replay"
        self._load_peak: int | None = None
        self._stop: _End | None = None
        self._crashes = self._barren = 0
        self._measured_ns = 0
        self._first_ns: int | None = None
        self._last_ns = 0

    def run(self) -> int:
        """Measure to the end; whatever happens, the spool says how it ended, as long as the disk takes it."""
        for loop in (self._watch, self._sample):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        try:
            reason, problem = self._measure()
        except Problem as found:
            reason, problem = "problem", found
        model, self._model = self._model, None
        if model is not None:
            model.kill()
        ended: Message = {"type": "ended", "reason": reason}
        if problem is not None:
            ended |= {"code": problem.code, "message": problem.message[:2000]}
        (self._directory / "items").unlink(missing_ok=True)  # on a full disk its room serves for the last word
        self._spool.write(ended, last=True)
        return 0

    # --- the model -----------------------------------------------------------------------------------

    def _measure(self) -> _End:
        while True:
            ended = self._one_process()
            if ended is not None:
                return ended

    def _one_process(self) -> _End | None:
        """Load the model and measure until it is over, or until its process dies; None: there is to be another one."""
        try:
            model = self._start()
        except Problem as problem:
            return self._stopped() or ("not-restarted" if self._crashes else "problem", problem)
        before, out_of_memory = self._measured_ns, sensors.vmstat("oom_kill")
        try:
            if self._stopped() is None:
                model.request(self._request(), relay=self._relay)
        except Problem as problem:
            died = problem.code in {"child-killed", "child-crashed"} and self._asked["restarts"]
            if self._stopped() is not None or not died:
                return self._stopped() or ("problem", problem)
            self._model = None
            model.kill()
            self._crashes += 1
            self._barren = 0 if self._measured_ns > before else self._barren + 1
            said = problem.message + _killer(out_of_memory)
            self._spool.write({"type": "crash", "code": problem.code, "message": said})
            if self._barren < BARREN:
                return None
            again = f"it died {BARREN} times in a row before its first inference; the last time: {said}"
            return "not-restarted", Problem(problem.code, again)
        return self._stopped() or ("done", None)

    def _stopped(self) -> _End | None:
        return self._stop

    def _start(self) -> ModelProcess:
        model = ModelProcess(self._program)
        try:
            answer = model.load(self._asked)
            self._stage(model)
        except Problem:
            model.kill()
            raise
        self._load_peak = self._asked["load_peak"] if self._asked["peak_apart"] else None
        self._first_ns = None
        facts = {key: answer[key] for key in ("cold", "runtime_version", "clock_cost_ns")}
        self._spool.write({"type": "started", **facts})
        self._model = model
        return model

    def _stage(self, model: ModelProcess) -> None:
        descriptor = os.open(self._directory / "items", os.O_RDONLY | os.O_CLOEXEC)
        try:
            reader = FrameReader(descriptor)
            while (frame := reader.read()) is not None:
                model.request(*frame)
        finally:
            os.close(descriptor)

    def _request(self) -> Message:
        seconds = max(0.001, self._asked["seconds"] - self._measured_ns / 1e9)
        return {
            "op": "measure",
            "id": _MEASURE,
            "inferences": None,
            "seconds": seconds,
            "first": 0,
            "warmup": self._asked["warmup"],
            "warmup_s": self._asked["warmup_s"],
            "keep": 0,
            "rate_hz": None,
        }

    def _relay(self, message: Message, blob: Blob) -> None:
        if message["type"] == "samples":
            times = memoryview(blob).cast("q")
            count = message["count"]
            if self._first_ns is None:
                self._first_ns = self._last_ns = times[0]
            ended = times[count - 1] + times[2 * count - 1]
            self._measured_ns += ended - self._last_ns
            self._last_ns = ended
        message.pop("id", None)
        self._spool.write(message, blob)
        while self._replayed and self._stop is None and self._unread() > AHEAD:
            time.sleep(0.001)

    # --- the threads beside --------------------------------------------------------------------------

    def _sample(self) -> None:
        due = time.monotonic()
        while not self._replayed:
            model = self._model
            row = sensors.reading(None if model is None else model.pid)
            try:
                self._spool.write({"type": "readings", "rows": [row], **self._peaks(model)})
            except Problem as problem:
                self._end("problem", problem)
                return
            due = max(due + SAMPLE_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _peaks(self, model: ModelProcess | None) -> Message:
        peak = None if model is None else status_bytes(model.pid).get("VmHWM")
        if model is None or peak is None:
            return {}
        apart = self._load_peak is not None
        return {
            "peak_rss_bytes": max(peak, self._load_peak or 0),
            "steady_peak_rss_bytes": peak if apart else None,
            "cgroup_peak_bytes": cgroup_peak_bytes(model.pid),
        }

    def _watch(self) -> None:
        stopped_at = None
        while True:
            time.sleep(WATCH_S)
            if self._stop is None:
                self._look()
            elif stopped_at is None:
                stopped_at = time.monotonic()
            elif time.monotonic() - stopped_at > STUCK_S:
                model = self._model
                if model is not None:
                    model.kill()

    def _look(self) -> None:
        try:
            self._fence.check(self._asked["token"])
        except Problem as problem:
            self._end("problem", problem)
            return
        if (self._directory / "cancel").exists():
            self._end("cancelled", None)
            return
        silent_s = time.monotonic() - attended(self._directory)["at_s"]
        if silent_s > self._asked["unattended_s"]:
            said = f"nobody has attended to the measurement for {silent_s:.0f} s"
            self._end("unattended", Problem("silence", said))
        elif self._unread() > MOST_UNREAD:
            self._end("problem", Problem("disk-full", f"{self._unread()} bytes wait to be read by the host"))

    def _unread(self) -> int:
        return self._spool.written - int(attended(self._directory)["offset"])

    def _end(self, reason: str, problem: Problem | None) -> None:
        self._stop = (reason, problem)
        model = self._model
        if model is not None:
            model.cancel(_MEASURE)


def attended(directory: Path) -> dict[str, Any]:
    """When the host was here last (``at_s``, board's monotonic clock), and how far it had read (``offset``)."""
    return dict(json.loads((directory / "attended").read_bytes()))


def _killer(out_of_memory_before: int | None) -> str:
    now = sensors.vmstat("oom_kill")
    if now is None or out_of_memory_before is None or now == out_of_memory_before:
        return ""
    return "; meanwhile the kernel killed for want of memory"
