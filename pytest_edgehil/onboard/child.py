"""The model's own process: it loads one model, and infers and times when it is told to.

A fresh process per load makes VmHWM that model's. The parent is the only one who talks to it; when the parent's end
of the pipe closes, whatever the reason, this process ends at once, also in the middle of an inference.
"""

from __future__ import annotations

import array
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import open_loop, runtimes, tensors
from .frames import Blob, FrameReader, FrameWriter, Message, claim_standard_streams, error_message
from .problem import Problem
from .processes import reset_peak, status_bytes
from .sensors import clock_cost_ns

BLOCK_NS = 250_000_000
BLOCK_INFERENCES = 4000
"""Results leave the process between two inferences: every quarter of a second, or when 64 000 B (a pipe's worth) are
there, so that the parent's reading never has to be waited for within a block."""

OUTPUT_BYTES = 4 * 2**20
READINGS_PER_FRAME = 2000
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve requests until the parent is gone."""
    _die_with_parent()
    incoming, outgoing = claim_standard_streams()
    child = Child(FrameWriter(outgoing))
    requests: queue.Queue[tuple[Message, Blob]] = queue.Queue()
    threading.Thread(target=_receive, args=(incoming, requests, child.cancel), daemon=True).start()
    while True:
        message, blob = requests.get()
        child.answer(message, blob)


def probe() -> Message:
    """What this Python can run, found out by importing it."""
    import platform

    found = {"replay": "1"}
    try:
        found["onnxruntime"] = str(runtimes.onnx_version())
    except Problem as problem:
        print(problem.message, file=sys.stderr)
    return {"python": platform.python_version(), "runtimes": found}


def _receive(descriptor: int, requests: queue.Queue[tuple[Message, Blob]], cancel: Callable[[object], None]) -> None:
    reader = FrameReader(descriptor)
    while True:
        try:
            frame = reader.read()
        except Problem:
            frame = None
        if frame is None:
            os._exit(0)  # the parent is gone; an inference under way is nobody's any more
        if frame[0].get("op") == "cancel":
            cancel(frame[0].get("id"))
        else:
            requests.put(frame)


def _die_with_parent() -> None:
    # The pipe's end tells us as well, but not while native code holds the interpreter.
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """Answers one request after the other."""

    def __init__(self, writer: FrameWriter) -> None:
        self._cancelled: object = None
        self._writer = writer
        self._session: runtimes.Session | None = None
        self._schedules: dict[float, open_loop.Schedule] = {}
        self._clock_cost_ns = 0

    def cancel(self, request: object) -> None:
        """End the measurement with this id early; may come before it begins."""
        self._cancelled = request

    def answer(self, message: Message, blob: Blob) -> None:
        """Do what a request says; every outcome is a frame."""
        request = message.get("id")
        try:
            result, out = self._do(message, blob)
            self._writer.write({"type": "result", "id": request, **result}, out)
        except Problem as problem:
            self._writer.write(error_message(problem, request))
        except (OSError, ValueError, TypeError, KeyError, MemoryError, RuntimeError) as exc:
            traceback.print_exc()
            self._writer.write(error_message(Problem("internal", f"the model process failed: {exc!r}"), request))

    def _do(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        match message.get("op"):
            case "load":
                return self._load(message), b""
            case "stage":
                items = message["items"]
                staged = tensors.split(message["tensors"], blob, items=items)
                return {"items": self._loaded().stage(staged, append=bool(message["append"]))}, b""
            case "run":
                return self._run(message, blob)
            case "measure":
                return self._measure(message), b""
            case "health":
                return {"complaint": self._loaded().complaint(Path(message["items"]))}, b""
            case "generate":
                return self._generate(message, blob), b""
            case other:
                raise Problem("unknown-op", f"the model process knows no request {other!r}")

    def _loaded(self) -> runtimes.Session:
        if self._session is None:
            raise Problem("no-model", "no model is loaded")
        return self._session

    def _load(self, message: Message) -> Message:
        runtimes.warm_import(message["runtime"])
        before = status_bytes()
        session = runtimes.open_session(message["runtime"], Path(message["entry"]), threads=message["threads"])
        ready_ns = time.perf_counter_ns()
        after = status_bytes()
        self._session = session
        self._clock_cost_ns = clock_cost_ns()
        apart = reset_peak()  # from here on VmHWM is that of the steady state
        cold = {
            "load_ns": ready_ns - message["spawned_ns"],
            "rss_before_bytes": before["VmRSS"],
            "rss_after_bytes": after["VmRSS"],
            "peak_rss_bytes": after["VmHWM"],
        }
        if recorded := session.facts().get("load"):
            apart = False
            cold = {
                "load_ns": recorded["load_ns"],
                "rss_before_bytes": 0,
                "rss_after_bytes": recorded["rss_bytes"],
                "peak_rss_bytes": session.facts()["peak_rss_bytes"],
            }
        return {
            "cold": cold,
            "inputs": session.inputs,
            "outputs": session.outputs,
            "runtime_version": session.version,
            "replayed": session.replayed,
            "peak_apart": apart,
            "clock_cost_ns": self._clock_cost_ns,
        }

    def _run(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        session = self._loaded()
        outputs, start_ns, latency_ns = session.run(tensors.split(message["tensors"], blob))
        self._send_readings(message.get("id"))
        specs, out = tensors.join(outputs)
        timing = {"start_ns": start_ns, "latency_ns": latency_ns, "clock_cost_ns": self._clock_cost_ns}
        return {"tensors": specs, **timing, **self._recorded()}, out

    def _generate(self, message: Message, blob: Blob) -> Message:
        session = self._loaded()
        (prompt,) = tensors.split(message["tensors"], blob)
        gc.collect()
        gc.freeze()
        made = session.generate(prompt, most=message["max_new_tokens"], stop=frozenset(message["stop"]))
        self._send_readings(message.get("id"))
        return {
            "tokens": made.tokens,
            "start_ns": made.start_ns,
            "first_token_ns": made.first_token_ns,
            "total_ns": made.total_ns,
            "clock_cost_ns": self._clock_cost_ns,
            **self._recorded(),
        }

    def _measure(self, message: Message) -> Message:
        session, request = self._loaded(), message.get("id")
        first, wanted = message["first"], message["inferences"]
        keep = message["keep"]
        one_at_once = 1  # kept outputs of a block wait in memory until it ends; how big one is shows the first
        self._warm_up(session, message)
        gc.collect()
        gc.freeze()
        pauses = _Pauses()
        gc.callbacks.append(pauses)
        schedule = self._schedule(message["rate_hz"], session.now_ns())
        done, ended_ns, began_ns = 0, 0, session.now_ns()
        deadline_ns = began_ns + round(message["seconds"] * 1e9) if message["seconds"] is not None else None
        try:
            while self._cancelled != request:
                now = session.now_ns()
                started = done or schedule is not None
                if started and wanted is not None and done >= wanted:
                    break
                if started and deadline_ns is not None and now >= deadline_ns:
                    ended_ns = max(ended_ns, now)  # it took all of the time asked for, though no inference ended there
                    break
                until = now + BLOCK_NS if deadline_ns is None else min(now + BLOCK_NS, deadline_ns)
                limit = BLOCK_INFERENCES if wanted is None else min(BLOCK_INFERENCES, wanted - done)
                if schedule is not None:
                    limit = min(limit, BLOCK_INFERENCES // 2)
                    due = open_loop.block(session, schedule, first=first + done, limit=limit, until_ns=until)
                    self._send_arrivals(request, due)
                    done, ended_ns = done + len(due.starts_ns), schedule.ended_ns
                    continue
                if done < keep:
                    limit = min(limit, one_at_once)
                block = session.block(first=first + done, limit=limit, until_ns=until, keep=max(0, keep - done))
                if block.outputs:
                    one_at_once = max(1, OUTPUT_BYTES // max(1, sum(one.data.nbytes for one in block.outputs[0])))
                self._send(request, block, first_index=done, gc_pause_ns=pauses.total_ns)
                self._send_readings(request)
                done += len(block.starts_ns)
                ended_ns = block.starts_ns[-1] + block.latencies_ns[-1]
        finally:
            gc.callbacks.remove(pauses)
        self._send_readings(request)
        return {
            "inferences": done,
            "cancelled": self._cancelled == request,
            "duration_ns": max(0, ended_ns - began_ns),
            "gc_pause_ns": pauses.total_ns,
            "clock_cost_ns": self._clock_cost_ns,
            **self._recorded(),
        }

    def _schedule(self, rate_hz: float | None, now_ns: int) -> open_loop.Schedule | None:
        """The one of this rate, going on from now; None in a closed loop."""
        if rate_hz is None:
            return None
        schedule = self._schedules.setdefault(rate_hz, open_loop.Schedule(rate_hz))
        schedule.resume(now_ns)
        return schedule

    def _warm_up(self, session: runtimes.Session, message: Message) -> None:
        left = message["warmup"]
        if session.replayed or not left:
            return  # a recording holds no warm-up
        until = session.now_ns() + round(message["warmup_s"] * 1e9)
        while left > 0 and session.now_ns() < until and self._cancelled != message.get("id"):
            block_until = min(until, session.now_ns() + BLOCK_NS)
            left -= len(session.block(first=message["first"], limit=left, until_ns=block_until, keep=0).starts_ns)

    def _recorded(self) -> Message:
        facts = self._loaded().facts()
        return {"recorded": facts} if facts else {}

    def _send_readings(self, request: Any) -> None:
        rows = self._loaded().readings()
        for at in range(0, len(rows), READINGS_PER_FRAME):
            self._writer.write({"type": "readings", "id": request, "rows": rows[at : at + READINGS_PER_FRAME]})

    def _send_arrivals(self, request: Any, found: open_loop.Arrivals) -> None:
        if not found.starts_ns:
            return
        series = (found.intended_ns, found.starts_ns, found.latencies_ns, found.late_ns)
        blob = b"".join(array.array("q", one).tobytes() for one in series)
        self._writer.write({"type": "arrivals", "id": request, "count": len(found.starts_ns)}, blob)

    def _send(self, request: Any, block: runtimes.Block, *, first_index: int, gc_pause_ns: int) -> None:
        blob = array.array("q", block.starts_ns).tobytes() + array.array("q", block.latencies_ns).tobytes()
        samples = {"type": "samples", "id": request, "count": len(block.starts_ns), "gc_pause_ns": gc_pause_ns}
        self._writer.write(samples, blob)
        run: list[list[tensors.Tensor]] = []
        start = first_index
        for outputs in block.outputs:
            size = sum(one.data.nbytes for one in outputs)
            if run and (_shapes(run[0]) != _shapes(outputs) or size * (len(run) + 1) > OUTPUT_BYTES):
                self._send_outputs(request, run, start)
                start, run = start + len(run), []
            run.append(outputs)
        if run:
            self._send_outputs(request, run, start)

    def _send_outputs(self, request: Any, run: list[list[tensors.Tensor]], start: int) -> None:
        specs, _ = tensors.join(run[0])
        blob = b"".join(outputs[at].data for at in range(len(specs)) for outputs in run)
        self._writer.write(
            {"type": "outputs", "id": request, "first": start, "count": len(run), "tensors": specs}, blob
        )


def _shapes(outputs: list[tensors.Tensor]) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.dtype, one.shape) for one in outputs]


class _Pauses:
    """Adds up how long garbage collections take: production has them too, so they are told and not hidden."""

    def __init__(self) -> None:
        self.total_ns = 0
        self._began_ns = 0

    def __call__(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now
        else:
            self.total_ns += now - self._began_ns
