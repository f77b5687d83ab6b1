"""ONNX Runtime on the CPU."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..frames import Message
from ..problem import Problem
from ..tensors import ITEM_BYTES, Tensor
from . import Block, Generated

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MAX_STAGED_BYTES = 2**30
SPIN_NS = 500_000
"""A sleeping process is woken too late by the timer's slack (50 µs) and by whatever the core is doing just then."""
_DTYPES = {
    "tensor(bool)": "bool", "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16",
    "tensor(uint16)": "uint16", "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64",
    "tensor(uint64)": "uint64", "tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64",
}  # fmt: skip


def module() -> Any:
    """The runtime itself.

    Raises:
        Problem: ``runtime-missing``.
    """
    try:
        import numpy  # noqa: F401, ICN001 - to see whether it is there
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
    except Exception as exc:  # a broken installation may raise anything
        raise Problem("runtime-missing", f"onnxruntime cannot be imported on the board: {_first_line(exc)}") from exc
    return onnxruntime


class OnnxSession:
    """A loaded ONNX model."""

    replayed = False

    def __init__(self, entry: Path, *, threads: int) -> None:
        runtime = module()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = runtime.InferenceSession(str(entry), options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # the runtime's exceptions share no base class
            raise Problem("model-failed", f"the model does not load: {_first_line(exc)}") from exc
        self.version = str(runtime.__version__)
        self.inputs = [_described(one) for one in self._session.get_inputs()]
        self.outputs = [_described(one) for one in self._session.get_outputs()]
        self._names = [str(one["name"]) for one in self.outputs]
        self._infer = functools.partial(self._session.run, self._names)
        self._items: list[dict[str, Array]] = []
        self._staged_bytes = 0

    def stage(self, tensors: list[Tensor], *, append: bool) -> int:
        """See `Session.stage`. The items are cut here, so that cutting is never timed."""
        if not append:
            self._items, self._staged_bytes = [], 0
        self._staged_bytes += sum(one.data.nbytes for one in tensors)
        if self._staged_bytes > MAX_STAGED_BYTES:
            raise Problem("too-large", f"feeds of more than {MAX_STAGED_BYTES} bytes do not fit on the board at once")
        arrays = {one.name: _array(one) for one in tensors}
        count = tensors[0].shape[0] if tensors else 0
        self._items += [{name: array[index] for name, array in arrays.items()} for index in range(count)]
        return len(self._items)

    def block(self, *, first: int, limit: int, until_ns: int, keep: int) -> Block:
        """See `Session.block`."""
        infer, clock, items = self._infer, time.perf_counter_ns, self._items
        number, at, ended = len(items), first % len(items), 0
        starts: list[int] = []
        latencies: list[int] = []
        kept: list[list[Array]] = []
        try:
            while len(starts) < limit and ended < until_ns:
                feeds = items[at]
                began = clock()
                outputs = infer(feeds)
                ended = clock()
                starts.append(began)
                latencies.append(ended - began)
                if len(kept) < keep:
                    kept.append(outputs)
                at += 1
                if at == number:
                    at = 0
        except Exception as exc:  # the runtime's exceptions share no base class
            raise Problem("model-failed", f"the model failed at item {at}: {_first_line(exc)}") from exc
        return Block(starts_ns=starts, latencies_ns=latencies, outputs=[self._tensors(one) for one in kept])

    def run(self, tensors: list[Tensor]) -> tuple[list[Tensor], int, int]:
        """See `Session.run`."""
        feeds = {one.name: _array(one)[0] for one in tensors}
        try:
            began = time.perf_counter_ns()
            outputs = self._infer(feeds)
            ended = time.perf_counter_ns()
        except Exception as exc:  # the runtime's exceptions share no base class
            raise Problem("model-failed", f"the model refuses its feeds or fails: {_first_line(exc)}") from exc
        return self._tensors(outputs), began, ended - began

    def complaint(self, items: Path) -> str | None:
        """See `Session.complaint`."""
        import numpy as np

        try:
            with np.load(items, allow_pickle=False) as found:
                arrays = {name: found[name] for name in found.files}
        except (OSError, ValueError, KeyError) as exc:
            return f"the items of the health check cannot be read: {_first_line(exc)}"
        expected = arrays.pop("expected_class", None)
        count = min((len(array) for array in arrays.values()), default=0)
        if count == 0:
            return "the health check has no items"
        for at in range(count):
            try:
                first = self._infer({name: array[at : at + 1] for name, array in arrays.items()})[0]
            except Exception as exc:  # noqa: BLE001 - the runtime's exceptions share no base class
                return f"item {at} of the health check fails: {_first_line(exc)}"
            if first.dtype.kind == "f" and not np.isfinite(first).all():
                return f"the answer to item {at} of the health check is not a number"
            if expected is not None and int(first.reshape(-1).argmax()) != int(expected[at]):
                return (
                    f"item {at} of the health check is of class {int(first.reshape(-1).argmax())}, not {expected[at]}"
                )
        return None

    def infer(self, number: int) -> tuple[int, int]:
        """See `Session.infer`."""
        at = number % len(self._items)
        feeds, infer = self._items[at], self._infer
        try:
            began = time.perf_counter_ns()
            infer(feeds)
            ended = time.perf_counter_ns()
        except Exception as exc:  # the runtime's exceptions share no base class
            raise Problem("model-failed", f"the model failed at item {at}: {_first_line(exc)}") from exc
        return began, ended - began

    def generate(self, prompt: Tensor, *, most: int, stop: frozenset[int]) -> Generated:
        """See `Session.generate`. Every step runs the whole sequence again: an ONNX graph keeps no state."""
        import numpy as np

        if len(self.inputs) != 1 or self.inputs[0]["dtype"] != "int64":
            raise Problem(
                "model-failed",
                f"the model takes {self.inputs!s:.200}; to generate it must take one tensor of int64 token ids (1, t)",
            )
        name, clock, length = str(self.inputs[0]["name"]), time.perf_counter_ns, prompt.shape[2]
        ids = np.concatenate((_array(prompt)[0], np.zeros((1, most), dtype=np.int64)), axis=1)
        tokens: list[int] = []
        began = first = now = clock()
        while len(tokens) < most and not (tokens and tokens[-1] in stop):
            token = self._likeliest({name: ids[:, :length]}, length)
            now = clock()
            first = first if tokens else now
            tokens.append(token)
            ids[0, length] = token
            length += 1
        return Generated(tokens=tokens, start_ns=began, first_token_ns=first - began, total_ns=now - began)

    def _likeliest(self, feeds: dict[str, Array], length: int) -> int:
        import numpy as np

        try:
            (logits,) = self._session.run(self._names[:1], feeds)
        except Exception as exc:  # the runtime's exceptions share no base class
            raise Problem("model-failed", f"the model fails at token {length}: {_first_line(exc)}") from exc
        if logits.ndim != 3 or logits.shape[:2] != (1, length):
            raise Problem("model-failed", f"the logits have shape {logits.shape}, expected (1, {length}, tokens)")
        token = int(logits[0, -1].argmax())  # of values that are no numbers it is the first
        if not np.isfinite(logits[0, -1, token]):
            raise Problem("model-failed", f"the logits after token {length} are no numbers")
        return token

    def wait_until(self, moment_ns: int) -> None:
        """See `Session.wait_until`. Sleeps most of the time, and asks the clock again and again at the end."""
        clock = time.perf_counter_ns
        while (left_ns := moment_ns - clock()) > 0:
            if left_ns > SPIN_NS:
                time.sleep((left_ns - SPIN_NS) / 1e9)

    def now_ns(self) -> int:
        """See `Session.now_ns`."""
        return time.perf_counter_ns()

    def readings(self) -> list[Message]:
        """See `Session.readings`."""
        return []

    def facts(self) -> Message:
        """See `Session.facts`."""
        return {}

    def _tensors(self, arrays: list[Array]) -> list[Tensor]:
        return [_tensor(name, array) for name, array in zip(self._names, arrays, strict=True)]


def _described(one: Any) -> Message:
    shape = [side if isinstance(side, int) else None for side in one.shape]
    return {"name": str(one.name), "dtype": _DTYPES.get(one.type, str(one.type)), "shape": shape}


def _array(tensor: Tensor) -> Array:
    import numpy as np

    return np.frombuffer(tensor.data, dtype=np.dtype(tensor.dtype)).reshape(tensor.shape)


def _tensor(name: str, value: Any) -> Tensor:
    import numpy as np

    if not isinstance(value, np.ndarray) or value.dtype.name not in ITEM_BYTES:
        kind = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
        raise Problem("model-failed", f"output {name!r} is {kind}; expected a tensor of numbers")
    array = np.ascontiguousarray(value)
    data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
    return Tensor(name=name, dtype=array.dtype.name, shape=tuple(value.shape), data=data)


def _first_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:500] or type(exc).__name__
