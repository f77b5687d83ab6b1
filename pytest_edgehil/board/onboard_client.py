"""The on-board program as the host sees it: one method per request, each with a deadline.

`OnboardClient.start` sees to it that this very program (by hash) is on the board, and starts a session under the
lease's fencing token. Errors are those of `trouble.ERRORS`; after a `LinkLost`, `DeadlineExceeded` or `ProtocolError`
the session is over and every further call raises the same again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pytest_edgehil.board import answers, wire
from pytest_edgehil.board.answers import (
    BoardStatus,
    Generation,
    Loaded,
    Measured,
    Piece,
    PlatformFacts,
    Timed,
)
from pytest_edgehil.board.conversation import Conversation, EndedBeforeHello
from pytest_edgehil.board.fields import Fields
from pytest_edgehil.board.gathered import Gathered
from pytest_edgehil.board.intake import Intake, Items
from pytest_edgehil.board.program import put_program
from pytest_edgehil.board.transport import Transport
from pytest_edgehil.board.wire import Message
from pytest_edgehil.board.zipapp import onboard_zipapp
from pytest_edgehil.errors import FlashError, ModelError, ProtocolError
from pytest_edgehil.model.board import Slots
from pytest_edgehil.model.sample import ColdStart, SensorReading

if TYPE_CHECKING:
    import numpy.typing as npt

    from pytest_edgehil.artifacts.delta.known_blocks import KnownBlocks

    Array = npt.NDArray[Any]

PROBE_S = 300.0
"""For importing what the board has; the board itself gives up after 120 s of its own."""


class OnboardClient:
    """A session with the on-board program. Built by `start`.

    Args:
        conversation: with the running program.
        board_id: for messages.
        said: what the board said of itself.
        role: None: of the model under test; ``baseline``: of the one beside it.
    """

    def __init__(self, conversation: Conversation, *, board_id: str, said: Fields, role: str | None = None) -> None:
        self._conversation = conversation
        self._board_id = board_id
        self._said = said
        self.hello = answers.hello(said)
        """What the board says of itself at once."""
        self._platform: PlatformFacts | None = None
        self._role = role
        self._loaded: Loaded | None = None
        self._staged: str | None = None
        self._beside: OnboardClient | None = None

    @classmethod
    def start(
        cls,
        transport: Transport,
        *,
        board_id: str,
        home: str,
        token: int,
        holder: str,
        slots: Slots | None = None,
        timeout_s: float = 60.0,
        silence_s: float | None = None,
    ) -> Self:
        """Start a session; pushes the program first if the board does not have it.

        Args:
            transport: the link.
            board_id: for messages.
            home: our directory on the board, see `Board.home`.
            token: fencing token of the lease.
            holder: who holds the lease.
            slots: that the lab declares; None: the program takes the board for a Pi's.
            timeout_s: for all of it.
            silence_s: a link that is silent for so long is lost; None: what is enough on a board with a clock.

        Raises:
            Fenced: the board has seen a higher token.
            RuntimeMissing: the board has no Python.
            FlashError: the program cannot be put there.
            BoardError: the link, or what answers on it.
        """
        deadline = time.monotonic() + timeout_s
        data, digest = onboard_zipapp()
        name = f"onboard-{digest}.pyz"
        argv: tuple[str, ...] = (
            "python3",
            "-S",
            "-E",
            f"{home}/bin/{name}",
            "serve",
            "--token",
            str(token),
            "--holder",
            holder,
        )
        if slots is not None:
            argv += ("--slots", declared(slots))
        pushed = False
        while True:
            left = max(0.1, deadline - time.monotonic())
            conversation = Conversation(transport.open(argv, timeout_s=left), board_id=board_id, silence_s=silence_s)
            try:
                hello = conversation.hello(max(0.1, deadline - time.monotonic()))
                client = cls(conversation, board_id=board_id, said=hello.part("platform"))
            except (EndedBeforeHello, FlashError) as problem:
                conversation.close()
                if pushed:
                    raise
                put_program(transport, data, name, digest, board_id=board_id, home=home, deadline=deadline)
                pushed = True
                del problem
            except BaseException:
                conversation.close()
                raise
            else:
                return client

    @property
    def platform(self) -> PlatformFacts:
        """What the board says of itself.

        The first to ask since the board booted waits until it has imported its runtimes, which takes seconds.
        """
        if self._platform is None:
            known = self._said.raw("runtimes") is not None
            probed = self._said if known else self._fields(self._conversation.ask("probe", timeout_s=PROBE_S)[0])
            self._platform = answers.platform_facts(self.hello, probed)
        return self._platform

    @property
    def loaded(self) -> Loaded | None:
        """The model that is loaded, if one is."""
        return self._loaded

    @property
    def last_reading(self) -> SensorReading | None:
        """The newest row of the sampler."""
        return self._conversation.last_reading

    @property
    def beside(self) -> OnboardClient:
        """The same session for a baseline beside the model: its `load`, `measure` and `unload`, and nothing else.

        Its process and the model's take turns: whoever is not asked is stopped. It ends with the model's.
        """
        if self._beside is None:
            self._beside = OnboardClient(self._conversation, board_id=self._board_id, said=self._said, role="baseline")
        return self._beside

    def load(self, digest: str, *, threads: int = 1, timeout_s: float = 120.0) -> Loaded:
        """Load a model of the board's store in a fresh process.

        Args:
            digest: of the bundle; the board hashes it itself before it loads it.
            threads: of the runtime within one operator.
            timeout_s: deadline.

        Raises:
            ModelError: the model does not load.
            RuntimeMissing: the board lacks its runtime.
            OutOfMemory: the board's kernel killed it.
            FlashError: the board has no such bundle, or it is altered.
        """
        self._loaded, self._staged, self._beside = None, None, None
        asked = self._about({"digest": digest, "threads": threads})
        message, _ = self._conversation.ask("load", asked, timeout_s=timeout_s)
        loaded = answers.loaded(self._fields(message), board_id=self._board_id)
        if loaded.artifact_digest != digest:
            raise FlashError(f"{self._board_id}: the board loaded {loaded.artifact_digest}, asked for was {digest}")
        self._loaded = loaded
        return loaded

    def restart(self, *, timeout_s: float = 120.0) -> ColdStart:
        """Load the same model again in a fresh process. Raises as `load`."""
        self._staged = None
        message, _ = self._conversation.ask("restart", timeout_s=timeout_s)
        self._loaded = answers.loaded(self._fields(message), board_id=self._board_id)
        return self._loaded.cold

    def unload(self, *, timeout_s: float = 30.0) -> None:
        """End the model's process."""
        self._loaded, self._staged, self._beside = None, None, None
        self._conversation.ask("unload", self._about({}), timeout_s=timeout_s)

    def run(self, feeds: Mapping[str, Array], *, timeout_s: float = 60.0) -> tuple[dict[str, Array], int]:
        """One inference.

        Args:
            feeds: input name → array, as `onnxruntime.InferenceSession.run` takes them.
            timeout_s: deadline.

        Returns:
            Output name → array, and the latency in ns on the board's clock.

        Raises:
            ModelError: the feeds do not fit, or the model fails.
        """
        timed = self.run_timed(feeds, timeout_s=timeout_s)
        return dict(timed.outputs), timed.latency_ns

    def run_timed(self, feeds: Mapping[str, Array], *, timeout_s: float = 60.0) -> Timed:
        """As `run`, with when and under which conditions."""
        arrays = self._intake.one(feeds)
        specs, blob = wire.pack_tensors(arrays, per_item=False)
        message, out = self._conversation.ask("run", {"tensors": specs}, blob=blob, timeout_s=timeout_s)
        tensors = wire.unpack_tensors(message.get("tensors"), out, board_id=self._board_id)
        fields = self._fields(message)
        return Timed(
            outputs={name: array[0] for name, array in tensors.items()},
            start_ns=fields.integer("start_ns"),
            latency_ns=fields.integer("latency_ns"),
            readings=self._conversation.take_readings(),
            peak_rss_bytes=fields.integer_or_none("peak_rss_bytes"),
            steady_peak_rss_bytes=fields.integer_or_none("steady_peak_rss_bytes"),
            cgroup_peak_bytes=fields.integer_or_none("cgroup_peak_bytes"),
            conditions=answers.conditions(fields),
        )

    def generate(
        self,
        prompt_ids: Array,
        *,
        max_new_tokens: int,
        stop: Sequence[int] = (),
        timeout_s: float,
    ) -> Generation:
        """Have a causal language model continue a prompt, greedily.

        Args:
            prompt_ids: shape (1, t) or (t,): token ids.
            max_new_tokens: end after so many.
            stop: end after one of these tokens, which counts.
            timeout_s: deadline.

        Raises:
            ModelError: it is no such model, or it fails.
        """
        prompt = np.asarray(prompt_ids)
        if (
            prompt.dtype.kind not in "iu"
            or prompt.ndim not in {1, 2}
            or prompt.size == 0
            or prompt.size != prompt.shape[-1]
        ):
            raise ModelError(
                f"{self._board_id}: a prompt is {prompt.dtype} {prompt.shape}; expected token ids (1, t) with t ≥ 1"
            )
        prompt = prompt.reshape(1, -1).astype(np.int64)
        specs, blob = wire.pack_tensors({"ids": prompt}, per_item=False)
        asked: Message = {"tensors": specs, "max_new_tokens": max_new_tokens, "stop": [int(one) for one in stop]}
        message, _ = self._conversation.ask("generate", asked, blob=blob, timeout_s=timeout_s)
        fields = self._fields(message)
        tokens = fields.items("tokens")
        if not tokens or not all(type(one) is int for one in tokens):
            raise ProtocolError(f"{self._board_id}: generated tokens are {tokens!r:.80}, expected at least one id")
        return Generation(
            tokens=np.array(tokens, dtype=np.int64),
            prompt_tokens=int(prompt.size),
            start_ns=fields.integer("start_ns"),
            first_token_ns=fields.integer("first_token_ns"),
            total_ns=fields.integer("total_ns"),
            readings=self._conversation.take_readings(),
            peak_rss_bytes=fields.integer_or_none("peak_rss_bytes"),
            steady_peak_rss_bytes=fields.integer_or_none("steady_peak_rss_bytes"),
            cgroup_peak_bytes=fields.integer_or_none("cgroup_peak_bytes"),
            conditions=answers.conditions(fields),
        )

    def measure(
        self,
        feeds: Mapping[str, Array],
        *,
        inferences: int | None,
        seconds: float | None = None,
        warmup: int = 0,
        warmup_s: float = 10.0,
        keep_outputs: bool = False,
        first: int = 0,
        batched: bool = True,
        rate_hz: float | None = None,
        on_progress: Callable[[int, SensorReading | None], None] | None = None,
        timeout_s: float,
    ) -> Measured:
        """Time inferences, cycling over the items.

        Args:
            feeds: input name → items stacked on axis 0, m of them.
            inferences: end after so many; None: only `seconds` counts.
            seconds: end after so long; None: only `inferences` counts. With both, what comes first.
            warmup: inferences before the first timed one.
            warmup_s: but stop warming up after so long.
            keep_outputs: bring back the outputs of the first min(m - first, inferences) items.
            first: number of the item to begin with.
            batched: an item is fed as ``feeds[name][i : i + 1]``; otherwise as ``feeds[name][i]``.
            rate_hz: so many are due in a second, evenly spaced, whether or not the one before has ended; None: each
                begins when the one before has ended. Measuring again at the same rate goes on with the same queue.
            on_progress: told the number of inferences so far and the newest sensor row, about every quarter of a
                second; may raise, which cancels the measurement.
            timeout_s: deadline for all of it.

        Raises:
            ModelError: the feeds do not fit, or the model fails.
            OutOfMemory: the board's kernel killed the model's process.
            Fenced: somebody else holds the board now.
        """
        number = self._stage(feeds, batched=batched, timeout_s=timeout_s)
        keep = 0
        if keep_outputs:
            keep = number - first % number if inferences is None else min(number - first % number, inferences)
        gathered = Gathered(self._board_id)

        def tick() -> None:
            if on_progress is not None:
                on_progress(gathered.inferences, self._conversation.last_reading)

        asked: Message = {
            "inferences": inferences,
            "seconds": seconds,
            "warmup": warmup,
            "warmup_s": warmup_s,
            "first": first,
            "keep": keep,
            "rate_hz": rate_hz,
        }
        message, _ = self._conversation.ask(
            "measure", self._about(asked), timeout_s=timeout_s, on_frame=gathered.add, on_tick=tick
        )
        fields = self._fields(message)
        if fields.integer("inferences") != gathered.inferences:
            raise ProtocolError(f"{self._board_id}: {gathered.inferences} latencies came, not {message['inferences']}")
        return Measured(
            latencies_ns=gathered.latencies_ns(),
            starts_ns=gathered.starts_ns(),
            outputs=gathered.outputs(),
            readings=self._conversation.take_readings(),
            peak_rss_bytes=fields.integer_or_none("peak_rss_bytes"),
            steady_peak_rss_bytes=fields.integer_or_none("steady_peak_rss_bytes"),
            cgroup_peak_bytes=fields.integer_or_none("cgroup_peak_bytes"),
            conditions=answers.conditions(fields),
            duration_s=fields.integer("duration_ns") / 1e9,
            cancelled=fields.flag("cancelled"),
            at_rate=None if rate_hz is None else gathered.at_rate(rate_hz),
        )

    def stage_detached(self, feeds: Mapping[str, Array], *, batched: bool, append: bool, timeout_s: float) -> None:
        """Bring items to the board for the next detached measurement.

        Args:
            feeds, batched: as `measure`.
            append: they come behind those that were staged before.
            timeout_s: deadline.
        """
        items = self._intake.items(feeds, batched=batched)
        self._send(items, "job-stage", append=append, timeout_s=timeout_s)

    def start_detached(self, asked: Message, *, timeout_s: float) -> str:
        """Begin a measurement that needs no link (`onboard/detached.py`); this session's model's process ends.

        Returns:
            By which name the board knows it.
        """
        self._staged = None
        message, _ = self._conversation.ask("job-start", asked, timeout_s=timeout_s)
        return self._fields(message).text("job")

    def read_detached(
        self, name: str, *, offset: int, wait_s: float, least: int, on_tick: Callable[[], None] | None = None
    ) -> Piece:
        """What it has measured, from a byte on; what lies before is forgotten there.

        Args:
            name: from `start_detached`.
            offset: number of the first byte.
            wait_s: wait so long for `least` bytes.
            least: fewer are only given when it is over or the time is.
            on_tick: called about every second; may raise.
        """
        asked: Message = {"job": name, "offset": offset, "wait_s": wait_s, "least": least}
        message, data = self._conversation.ask("job-read", asked, timeout_s=wait_s + 30.0, on_tick=on_tick)
        fields = self._fields(message)
        if fields.integer("offset") != offset:
            raise ProtocolError(f"{self._board_id}: bytes from {message['offset']} came, not from {offset}")
        return Piece(data=data, lives=fields.flag("lives"))

    def end_detached(self, name: str, *, timeout_s: float = 30.0) -> None:
        """Make an end of it."""
        self._conversation.ask("job-cancel", {"job": name}, timeout_s=timeout_s)

    def cancel(self) -> None:
        """End the measurement under way early, from another thread; `measure` returns what there is."""
        self._conversation.cancel()

    def take_readings(self) -> tuple[SensorReading, ...]:
        """The rows of the sampler since the last measurement, which then no longer come with the next one."""
        return self._conversation.take_readings()

    def status(self, *, timeout_s: float = 30.0) -> BoardStatus:
        """What is on the board."""
        message, _ = self._conversation.ask("status", timeout_s=timeout_s)
        return answers.board_status(self._fields(message))

    def attest(self, payload: bytes, *, timeout_s: float = 60.0) -> tuple[bytes, str]:
        """Have the board sign a statement.

        Args:
            payload: an in-toto Statement whose one subject this board has loaded or activated.
            timeout_s: deadline.

        Returns:
            DER signature over DSSE's pre-authentication encoding, and the board's public key as PEM.

        Raises:
            EvidenceError: the board does not vouch for it.
            BoardError: it has no identity key.
        """
        message, signature = self._conversation.ask("attest", blob=payload, timeout_s=timeout_s)
        return signature, self._fields(message).text("public_key")

    def request(
        self,
        operation: str,
        fields: Message,
        *,
        timeout_s: float,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> Fields:
        """Any other request (flashing).

        Args:
            operation: its name.
            fields: what is asked.
            timeout_s: deadline.
            on_progress: told a phase, the bytes done and the bytes in all, where the board tells of progress.
        """

        def told(frame: Message, _blob: bytes) -> None:
            fields = self._fields(frame)
            if on_progress is not None:
                on_progress(fields.text("phase"), fields.integer("done_bytes"), fields.integer("total_bytes"))

        message, _ = self._conversation.ask(operation, fields, timeout_s=timeout_s, on_frame=told)
        return self._fields(message)

    def slot_blocks(self, *, size_bytes: int, timeout_s: float) -> KnownBlocks:
        """Digests of the blocks of the root that runs.

        Args:
            size_bytes: so many bytes of its device at most.
            timeout_s: deadline; the board reads all of them.

        Raises:
            WrongTarget: it has no root that an update could be made from.
            ProtocolError: the answer makes no sense.
        """
        from pytest_edgehil.artifacts.delta.known_blocks import KnownBlocks

        message, digests = self._conversation.ask("slot-blocks", {"size_bytes": size_bytes}, timeout_s=timeout_s)
        fields = self._fields(message)
        block, width = fields.integer("block_bytes"), fields.integer("digest_bytes")
        if block < 512 or not 4 <= width <= 32 or len(digests) % width or len(digests) // width > size_bytes // block:
            raise ProtocolError(f"{self._board_id}: {len(digests)} bytes of digests of {width} for blocks of {block}")
        return KnownBlocks(
            partition=fields.integer("partition"), block_bytes=block, digest_bytes=width, digests=bytes(digests)
        )

    def check(self, feeds: Mapping[str, Array], *, batched: bool) -> None:
        """Would the model take these items, as `measure` feeds them?

        Raises:
            ModelError: it would not; says what it takes.
        """
        self._intake.items(feeds, batched=batched)

    def close(self) -> None:
        """End the session and the model's process on the board. Safe to call twice."""
        self._conversation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside --------------------------------------------------------------------------------------

    def _fields(self, message: Message) -> Fields:
        return Fields(message, board_id=self._board_id)

    def _about(self, asked: Message) -> Message:
        """A request, saying which of the two models it is about."""
        return asked if self._role is None else {**asked, "as": self._role}

    @property
    def _intake(self) -> Intake:
        """What the model that is loaded takes.

        Raises:
            ProtocolError: none is.
        """
        if self._loaded is None:
            raise ProtocolError(f"{self._board_id}: no model is loaded; load one first")
        return Intake(inputs=self._loaded.inputs, whose=self._role or "model", board_id=self._board_id)

    def _stage(self, feeds: Mapping[str, Array], *, batched: bool, timeout_s: float) -> int:
        """Bring the items to the board, unless they are there already; returns their number."""
        items = self._intake.items(feeds, batched=batched)
        if (key := items.key) != self._staged:
            self._staged = None
            self._send(items, "stage", append=False, timeout_s=timeout_s)
            self._staged = key
        return items.number

    def _send(self, items: Items, operation: str, *, append: bool, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        for asked, blob in items.frames():
            asked["append"] = append or asked["append"]
            left = max(0.1, deadline - time.monotonic())
            self._conversation.ask(operation, self._about(asked), blob=blob, timeout_s=left)


def declared(slots: Slots) -> str:
    """What the on-board program is told of the slots (`onboard/slots`)."""
    declared = {"backend": slots.backend, "partitions": slots.partitions, "names": slots.names}
    return json.dumps({**declared, "devices": dict(slots.devices)})
