"""The session: hello, then requests and answers, with a heartbeat, a sampler and two watchdogs beside them.

Threads, and who may wait for what:

- *main* answers one request after the other and may take long;
- *receiver* reads frames: ``ping`` and ``cancel`` take effect at once, a request while another one runs is refused;
- *heart* says every half second that we are alive and what we do;
- *watchdog* never writes to the link, so a stalled link cannot stop it: it ends the program when the host has been
  silent for `silence_s`, or when a higher fencing token has been seen, of which SIGTERM tells it at once;
- *sampler* reads the sensors once a second.

The program ends with the link: end of file on stdin, silence, a broken stream. Its model process ends with it. Only a
detached measurement goes on (see `jobs`), in a program of its own.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import attest, collect, combos, facts, firmware, fits, requests, sensors, tensors
from .beside import ROLE, Beside, WithoutReadings
from .durable import sha256_of
from .fence import Fence
from .frames import Blob, FrameReader, FrameWriter, Message, error_message
from .home import Home
from .jobs import MAY_RUN_BESIDE, Jobs
from .model_process import ModelProcess
from .problem import VERSION, Problem
from .processes import cgroup_peak_bytes, status_bytes
from .slots import Slots
from .unpack import altered, install, read_manifest

HEARTBEAT_S = 0.5
SAMPLE_S = 1.0
STALE_THROTTLED_S = 2.0
MEASURING = ("measure", "generate")
"""Requests during which the board's power is read: nobody asks for it at another time."""

_UNFIT = frozenset({"model-failed", "child-crashed", "child-killed"})
"""What a combo is left for: its model does not load here, dies, or answers wrongly."""

EXIT_TROUBLE = 3
"""Exit status after an error that ended the session."""


class Server:
    """One session with one host.

    Args:
        home: our directory on the board.
        token: fencing token of the lease.
        holder: who holds it.
        program: path of this zipapp.
        incoming, outgoing: file descriptors for frames.
        slots: of this board.
        silence_s: end when the host has sent nothing for so long.
    """

    def __init__(
        self,
        home: Home,
        *,
        token: int,
        holder: str,
        program: Path,
        incoming: int,
        outgoing: int,
        slots: Slots,
        silence_s: float = 15.0,
    ) -> None:
        self._home = home
        self._slots = slots
        self._token = token
        self._holder = holder
        self._program = program
        self._silence_s = silence_s
        self._fence = Fence(home)
        self._heard_at = time.monotonic()
        self._reader = FrameReader(incoming, on_bytes=self._heard)
        self._writer = FrameWriter(outgoing)
        self._requests: queue.Queue[tuple[Message, Blob]] = queue.Queue()
        self._busy: tuple[object, str] | None = None
        self._pending = threading.Lock()  # held while a request is waiting or running
        self._model: ModelProcess | None = None
        self._loaded: Message = {}
        self._platform: Message = {}
        self._beside = Beside(program)
        self._vouched: set[str] = set()
        self._throttled: tuple[float, int | None] | None = None
        self._ending = threading.Lock()
        self._looks_now = threading.Event()
        self._jobs = Jobs(home, token=token, program=program, take_model=self._take_model)
        self._operations: dict[str, Callable[[Message, Blob], tuple[Message, Blob]]] = {
            "status": self._status,
            "probe": self._probe,
            "install": self._install,
            "load": self._load,
            "stage": self._stage,
            "run": self._run,
            "measure": self._measure,
            "generate": self._generate,
            "restart": self._restart,
            "unload": self._unload,
            "activate": self._activate,
            "revert": self._revert,
            "collect": self._collect,
            "slot-blocks": self._slot_blocks,
            "firmware-write": self._firmware_write,
            "firmware-prove": self._firmware_prove,
            "reboot": self._reboot,
            "attest": self._attest,
            **self._jobs.operations,
        }
        self._operations_beside: dict[str, Callable[[Message, Blob], tuple[Message, Blob]]] = {
            "load": self._load_beside,
            "stage": self._stage_beside,
            "measure": self._measure_beside,
            "unload": self._unload_beside,
        }

    @property
    def idle(self) -> bool:
        """Is nothing asked of us, and does no measurement go on without us?"""
        return self._busy is None and not self._jobs.any

    def serve(self) -> int:
        """Run the session to its end; does not return while the host is there."""
        try:
            self._home.prepare()
            self._fence.enter(self._token, self._holder, sweep=True)
            self._jobs.come_in()
            recovered = combos.recover(self._home, self._slots)
            hello = self._platform = facts.platform_facts(self._home, self._program, self._slots)
        except Problem as problem:
            self._writer.write(error_message(problem))
            return EXIT_TROUBLE
        self._heard()
        signal.signal(signal.SIGTERM, lambda *_: self._looks_now.set())
        self._writer.write({"type": "hello", "version": VERSION, "recovered": recovered, "platform": hello})
        for loop in (self._receive, self._beat, self._watch, self._sample):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()
        while True:
            message, blob = self._requests.get()
            self._answer(message, blob)

    # --- the threads beside --------------------------------------------------------------------------

    def _heard(self) -> None:
        self._heard_at = time.monotonic()

    def _receive(self) -> None:
        while True:
            try:
                frame = self._reader.read()
            except Problem as problem:
                self._end(EXIT_TROUBLE, problem)
                return
            if frame is None:
                self._end(0)
                return
            message, blob = frame
            match message.get("op"):
                case "ping":
                    continue
                case "bye":
                    self._jobs.end_all()  # who goes on purpose leaves nothing behind; who is cut off comes back for it
                    self._end(0)
                case "cancel":
                    model = self._model
                    if model is not None:
                        model.cancel(message.get("id"))
                    self._beside.cancel(message.get("id"))
                case _:
                    self._accept(message, blob)

    def _accept(self, message: Message, blob: Blob) -> None:
        request, operation = message.get("id"), message.get("op")
        if type(request) is not int:
            self._end(EXIT_TROUBLE, Problem("bad-frame", "a request has no integer id"))
        elif not self._pending.acquire(blocking=False):
            busy = self._busy
            what = busy[1] if busy is not None else "another request"
            self._writer.write(
                error_message(Problem("busy", f"{operation!a:.40} has to wait: {what} is running"), request)
            )
        else:
            self._requests.put((message, blob))

    def _beat(self) -> None:
        while True:
            busy = self._busy
            self._writer.write({"type": "heartbeat", "busy": None if busy is None else busy[1]})
            time.sleep(HEARTBEAT_S)

    def _watch(self) -> None:
        while True:
            told_to_end = self._looks_now.wait(HEARTBEAT_S)
            if time.monotonic() - self._heard_at > self._silence_s:
                self._end(EXIT_TROUBLE, Problem("silence", f"the host has said nothing for {self._silence_s:g} s"))
            try:
                self._fence.check(self._token)
            except Problem as problem:
                self._end(EXIT_TROUBLE, problem)
            if told_to_end:
                self._end(128 + signal.SIGTERM)

    def _sample(self) -> None:
        meter = sensors.PowerMeter()
        due = time.monotonic()
        while True:
            if not self._loaded.get("replayed") and not self._jobs.any:  # which samples for itself
                model = self._model
                measuring = self._busy is not None and self._busy[1] in MEASURING
                row = sensors.reading(None if model is None else model.pid, meter=meter if measuring else None)
                self._throttled = time.monotonic(), sensors.throttled_of(row)
                self._writer.write({"type": "readings", "rows": [row]})
            due = max(due + SAMPLE_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _end(self, status: int, problem: Problem | None = None) -> None:
        """End the program from any thread, in bounded time, and take the model's process along."""
        if not self._ending.acquire(blocking=False):
            return
        if problem is not None:
            print(f"onboard: {problem.code}: {problem.message}", file=sys.stderr, flush=True)
            teller = threading.Thread(target=self._tell, args=(problem,), daemon=True)
            teller.start()
            teller.join(timeout=3.0)  # less than whoever evicts us waits
        model = self._model
        if model is not None:
            model.kill()
        self._beside.forget()
        os._exit(status)

    def _tell(self, problem: Problem) -> None:
        try:
            self._writer.write(error_message(problem), wait_s=0.5)  # without an id: it ends more than one request
        except OSError:
            return  # nobody is listening any more, which may be the very reason

    # --- requests ------------------------------------------------------------------------------------

    def _answer(self, message: Message, blob: Blob) -> None:
        request, operation = message["id"], str(message.get("op"))[:40]
        self._busy = (request, operation)
        try:
            self._fence.check(self._token)
            if operation not in MAY_RUN_BESIDE:
                self._jobs.end_all()
            result, out = self._operation(operation, message.get("as"))(message, blob)
            answer: Message = {"type": "result", "id": request, **result}
        except Problem as problem:
            if problem.code in {"child-killed", "child-crashed"}:
                if message.get("as") == ROLE:
                    self._beside.forget()
                else:
                    self._forget_model()
            answer, out = error_message(problem, request), b""
        except Exception as exc:  # noqa: BLE001 - the host must hear of our own bugs, and by a frame
            traceback.print_exc()
            answer, out = error_message(Problem("internal", f"{operation} failed: {exc!r}"), request), b""
        self._busy = None
        self._pending.release()  # before the answer: the host may ask again as soon as it has read it
        if self._ending.locked():
            return  # its model was killed because we end, of which the host has been told the reason
        try:
            self._writer.write(answer, out)
        except Problem as problem:
            self._writer.write(error_message(problem, request))
        except BrokenPipeError:
            self._end(0)

    def _operation(self, name: str, role: object) -> Callable[[Message, Blob], tuple[Message, Blob]]:
        """Who answers a request; whichever model it is not about has to be quiet meanwhile."""
        if role is None:
            self._beside.pause()
            return self._operations.get(name, _unknown)
        if role != ROLE:
            raise Problem("bad-request", f"as is {role!a:.40}; expected {ROLE}, or nothing")
        if self._model is not None:
            self._model.pause()
        return self._operations_beside.get(name, _unknown)

    def _status(self, _message: Message, _blob: Blob) -> tuple[Message, Blob]:
        state = self._slots.chooser.state()
        token, holder = self._fence.read()
        store = sorted(path.name for path in self._home.store.iterdir() if not path.name.startswith("."))
        return {
            "combo": combos.current(self._home),
            "last_known_good": combos.last_known_good(self._home),
            "setback": combos.setback(self._home),
            "store": [f"sha256:{name}" for name in store[:8000]],
            "fence": {"token": token, "holder": holder},
            "partition": state.running,
            "default_partition": state.default,
            "tryboot": state.on_trial,
            "firmware": firmware.identity(self._home, state.running, running=True),
        }, b""

    def _probe(self, _message: Message, _blob: Blob) -> tuple[Message, Blob]:
        if self._platform["runtimes"] is None:
            self._platform |= facts.importable(self._home, self._program, self._platform)
        return {"python": self._platform["python"], "runtimes": self._platform["runtimes"]}, b""

    def _runtimes(self) -> Mapping[str, str]:
        answer, _ = self._probe({}, b"")
        return dict(answer["runtimes"])

    def _install(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        path, digest = self._in_store(message.get("digest")), str(message.get("digest"))
        # what a push has just left has been hashed as it came; what lay here may have been damaged since
        found = digest if message.get("just_pushed") is True else sha256_of(path)
        if found != digest:
            raise Problem("digest-mismatch", f"the store's {digest} hashes to {found}")
        manifest = install(self._home, digest)
        return {"name": manifest.name, "version": manifest.version, "track": manifest.track}, b""

    def _load(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._loaded = self._prepared(message)
        found = self._loaded["digest"]
        self._beside.forget()  # it was somebody else's baseline
        active = combos.current(self._home).get("model") == found
        try:
            answer = self._start_model()
            if active:
                self._prove_healthy()
        except Problem as problem:
            if active and problem.code in _UNFIT:
                self._forget_model()
                said = combos.fall_back(self._home, problem.message)
                raise Problem(problem.code, f"{problem.message}; {said}") from problem
            raise
        self._vouched.add(found)
        if active:
            combos.mark_good(self._home)
        return answer, b""

    def _prove_healthy(self) -> None:
        """The check that the model's own bundle asks for.

        Raises:
            Problem: ``model-failed``.
        """
        tree = self._home.tree(str(self._loaded["digest"]))
        health = read_manifest(tree).health
        if health is None:
            return
        model = self._running_model()
        limit = threading.Timer(health.timeout_s, model.kill)
        limit.start()
        try:
            answer, _ = model.request({"op": "health", "id": 0, "items": str(tree / health.path)})
        finally:
            limit.cancel()
        if answer["complaint"] is not None:
            raise Problem("model-failed", str(answer["complaint"]))

    def _load_beside(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        prepared = self._prepared(message)
        self._running_model()
        return self._beside.load(prepared), b""

    def _prepared(self, message: Message) -> Message:
        """What a model's process needs to know, after everything about its bundle was checked."""
        threads = message.get("threads", 1)
        if type(threads) is not int or not 1 <= threads <= 256:
            raise Problem("bad-request", f"threads is {threads!r}; expected 1 … 256")
        digest = message.get("digest")
        found = sha256_of(self._in_store(digest))
        if found != digest:
            raise Problem("digest-mismatch", f"the store's {digest} hashes to {found}")
        manifest = install(self._home, found)
        collect.used(self._home, found)
        tree = self._home.tree(found)
        if manifest.track != "model" or manifest.entry is None or manifest.runtime is None:
            raise Problem(
                "wrong-target", f"{manifest.name} is of track {manifest.track} and cannot be loaded as a model"
            )
        fits.check_alone(manifest, fits.here(self._home, self._platform, runtimes=self._runtimes))
        wrong = altered(manifest, tree)
        if wrong:
            raise Problem("digest-mismatch", f"{manifest.name} is altered on the board: {wrong[0]}")
        return {
            "digest": found,
            "threads": threads,
            "runtime": manifest.runtime,
            "entry": str((tree / manifest.entry).resolve()),
            "replayed": manifest.runtime == "replay",
        }

    def _start_model(self) -> Message:
        self._forget_model(keep_loaded=True)
        self._model = ModelProcess(self._program)
        try:
            return self._model.load(self._loaded)
        except Problem:
            self._forget_model()
            raise

    def _take_model(self) -> Message:
        """What is loaded, for a process of its own that loads it again: here it ends."""
        self._running_model()
        self._forget_model(keep_loaded=True)
        self._beside.forget()
        return self._loaded

    def _restart(self, _message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._running_model()
        return self._start_model(), b""

    def _unload(self, _message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._forget_model()
        self._beside.forget()
        return {}, b""

    def _unload_beside(self, _message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._beside.forget()
        return {}, b""

    def _forget_model(self, *, keep_loaded: bool = False) -> None:
        model, self._model = self._model, None
        if model is not None:
            model.kill()
        if not keep_loaded:
            self._loaded = {}

    def _running_model(self) -> ModelProcess:
        if self._model is None:
            raise Problem("no-model", "no model is loaded; load one first")
        return self._model

    def _stage(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        answer, _ = self._running_model().request(self._to_stage(message, blob), blob)
        return {"items": answer["items"]}, b""

    def _stage_beside(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        answer, _ = self._beside.request(self._to_stage(message, blob), blob)
        return {"items": answer["items"]}, b""

    @staticmethod
    def _to_stage(message: Message, blob: Blob) -> Message:
        items = message.get("items")
        if type(items) is not int or not 1 <= items <= 2**24:
            raise Problem("bad-request", f"items is {items!r}; expected a number of 1 or more")
        tensors.split(message.get("tensors"), blob, items=items)
        asked = {"op": "stage", "tensors": message["tensors"], "items": items, "append": message.get("append") is True}
        return {**asked, "id": message["id"]}

    def _run(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        tensors.split(message.get("tensors"), blob)
        asked = {"op": "run", "id": message["id"], "tensors": message["tensors"]}
        model, before = self._running_model(), self._surroundings()
        answer, out = model.request(asked, blob, relay=self._writer.write)
        # A reading of the bits costs a process start, many times an inference; the sampler's serves for both sides.
        return self._under(before, answer, throttled_after=before["throttled"]), out

    def _measure(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        asked = {"op": "measure", "id": message["id"], **requests.measurement(message)}
        model, before = self._running_model(), self._surroundings()
        answer, _ = model.request(asked, relay=self._writer.write)
        throttled_after = None if self._loaded["replayed"] else sensors.throttled()
        self._throttled = time.monotonic(), throttled_after
        return self._under(before, answer, throttled_after=throttled_after), b""

    def _generate(self, message: Message, blob: Blob) -> tuple[Message, Blob]:
        asked = {"op": "generate", "id": message["id"], **requests.generation(message, blob)}
        model, before = self._running_model(), self._surroundings()
        answer, _ = model.request(asked, blob, relay=self._writer.write)
        throttled_after = None if self._loaded["replayed"] else sensors.throttled()
        self._throttled = time.monotonic(), throttled_after
        return self._under(before, answer, throttled_after=throttled_after), b""

    def _measure_beside(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        asked = {"op": "measure", "id": message["id"], **requests.measurement(message)}
        model, loaded = self._beside.process, self._beside.loaded
        before = self._surroundings(loaded)
        relay = WithoutReadings(self._writer.write)
        answer, _ = self._beside.request(asked, relay=relay)
        if relay.live and "recorded" in answer:
            answer["recorded"]["throttled"] |= relay.live
        throttled_after = None if loaded["replayed"] else self._recent_throttled()
        return self._under(before, answer, throttled_after=throttled_after, of=(model, loaded)), b""

    def _surroundings(self, loaded: Message | None = None) -> Message:
        loaded = self._loaded if loaded is None else loaded
        throttled = None if loaded["replayed"] else self._recent_throttled()
        return {"boot_id": sensors.boot_id(), "throttled": throttled}

    def _under(
        self,
        before: Message,
        answer: Message,
        *,
        throttled_after: int | None,
        of: tuple[ModelProcess, Message] | None = None,
    ) -> Message:
        """An answer of a model's process (of the one under test, unless told), with the conditions it came under."""
        model, loaded = (self._running_model(), self._loaded) if of is None else of
        throttled_before = before["throttled"]
        since_load = peak = status_bytes(model.pid).get("VmHWM")
        if loaded["peak_apart"] and peak is not None:
            peak = max(peak, loaded["load_peak"])
        if recorded := answer.pop("recorded", None):
            throttled_before, throttled_after = recorded["throttled_before"], recorded["throttled"]
            peak = recorded["peak_rss_bytes"]
        return {
            "gc_pause_ns": 0,
            **answer,
            "runtime": loaded["runtime"],
            "runtime_version": loaded["version"],
            "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
            "throttled_before": throttled_before,
            "throttled_after": throttled_after,
            "boot_id_before": before["boot_id"],
            "boot_id_after": sensors.boot_id(),
            "peak_rss_bytes": peak,
            "steady_peak_rss_bytes": since_load if loaded["peak_apart"] else None,
            "cgroup_peak_bytes": None if loaded["replayed"] else cgroup_peak_bytes(model.pid),
            "replayed": loaded["replayed"],
        }

    def _recent_throttled(self) -> int | None:
        # A slightly older reading only widens the window in which a change is noticed, and spares a process start.
        known = self._throttled
        if known is not None and time.monotonic() - known[0] < STALE_THROTTLED_S:
            return known[1]
        return sensors.throttled()

    def _activate(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        partition = None if message.get("partition") is None else self._partition(message, "partition")
        board = fits.here(self._home, self._platform, runtimes=self._runtimes, cls=message.get("board_class"))
        combo = message.get("combo")
        answer = combos.activate(self._home, combo, slots=self._slots, partition=partition, board=board)
        for digest in answer["combo"].values():
            collect.used(self._home, digest)
        return answer, b""

    def _revert(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        reason = message.get("reason")
        return combos.revert(self._home, **({"reason": reason} if isinstance(reason, str) else {})), b""

    def _collect(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        keep_bytes = message.get("keep_bytes")
        if type(keep_bytes) is not int or keep_bytes < 0:
            raise Problem("bad-request", f"keep_bytes is {keep_bytes!r:.40}; expected a number of bytes")
        loaded = self._loaded.get("digest")
        return collect.collect(self._home, keep_bytes=keep_bytes, spare=[str(loaded)] if loaded else []), b""

    def _slot_blocks(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        from .slots import source

        size = message.get("size_bytes")
        if type(size) is not int or size <= 0:
            raise Problem("bad-request", f"size_bytes is {size!a:.40}; expected a number of bytes")
        return source.blocks(self._slots, size_bytes=size)

    def _firmware_write(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        def tell(phase: str, done: int, total: int) -> None:
            told = {"type": "progress", "id": message["id"], "phase": phase, "done_bytes": done, "total_bytes": total}
            self._writer.write(told)

        digest, partition = self._digest(message), self._partition(message, "partition")
        return firmware.write(self._home, self._slots, digest, partition, tell), b""

    def _firmware_prove(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        digest, partition = self._digest(message), self._partition(message, "partition")
        return firmware.prove(self._home, self._slots, digest, partition), b""

    def _reboot(self, message: Message, _blob: Blob) -> tuple[Message, Blob]:
        self._forget_model()
        self._beside.forget()
        trial = None if message.get("trial") is None else self._partition(message, "trial")
        firmware.reboot(self._slots, trial=trial)
        return {}, b""

    def _attest(self, _message: Message, blob: Blob) -> tuple[Message, Blob]:
        payload = bytes(blob)
        attest.check(payload, vouched=self._vouches)
        signature, key = attest.sign(payload)
        self._fence.check(self._token)  # signing takes a moment, and somebody may have come in
        return {"public_key": key}, signature

    def _vouches(self, digest: str) -> bool:
        if digest in self._vouched:
            return True
        for track, active in combos.current(self._home).items():
            if active != digest or sha256_of(self._home.bundle(digest)) != digest:
                continue
            if track == "firmware":
                state = self._slots.chooser.state()
                running = firmware.identity(self._home, state.running, running=True)
                return running is not None and running["digest"] == digest
            return True
        return False

    def _in_store(self, digest: Any) -> Path:
        path = self._home.bundle(digest)
        if not path.is_file():
            raise Problem("not-in-store", f"the board's store has no {digest}: push it first")
        return path

    def _digest(self, message: Message) -> str:
        digest = message.get("digest")
        self._in_store(digest)
        return str(digest)

    @staticmethod
    def _partition(message: Message, key: str) -> int:
        partition = message.get(key)
        if type(partition) is not int or not 1 <= partition <= 64:
            raise Problem("bad-request", f"{key} is {partition!r:.40}; expected the number of a partition")
        return partition


def _unknown(message: Message, _blob: Blob) -> tuple[Message, Blob]:
    raise Problem("unknown-op", f"the on-board program knows no request {str(message.get('op'))[:40]!r}")
