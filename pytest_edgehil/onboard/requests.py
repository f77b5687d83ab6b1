"""What the host asks for, checked before the model's process hears of it."""

from __future__ import annotations

from . import tensors
from .frames import Blob, Message
from .open_loop import MAX_RATE_HZ
from .problem import Problem

MAX_NEW_TOKENS = 2**16


def measurement(message: Message) -> Message:
    """Check what a measurement is asked for.

    Raises:
        Problem: ``bad-request``.
    """
    inferences, seconds = message.get("inferences"), message.get("seconds")
    first, warmup, keep = message.get("first", 0), message.get("warmup", 0), message.get("keep", 0)
    warmup_s, rate_hz = message.get("warmup_s", 0.0), message.get("rate_hz")
    if inferences is None and seconds is None:
        raise Problem("bad-request", "a measurement needs a number of inferences or of seconds")
    if inferences is not None and (type(inferences) is not int or inferences < 1):
        raise Problem("bad-request", f"inferences is {inferences!r}; expected 1 or more")
    if seconds is not None and (type(seconds) not in {int, float} or not 0 < seconds < 1e7):
        raise Problem("bad-request", f"seconds is {seconds!r}; expected more than 0")
    if any(type(one) is not int or one < 0 for one in (first, warmup, keep)):
        raise Problem("bad-request", "first, warmup and keep are numbers of 0 or more")
    if type(warmup_s) not in {int, float} or not 0 <= warmup_s < 1e5:
        raise Problem("bad-request", f"warmup_s is {warmup_s!r}; expected 0 or more")
    if rate_hz is not None and (type(rate_hz) not in {int, float} or not 0 < rate_hz <= MAX_RATE_HZ):
        raise Problem("bad-request", f"rate_hz is {rate_hz!r}; expected more than 0 and at most {MAX_RATE_HZ:g}")
    if rate_hz is not None and keep:
        raise Problem("bad-request", "outputs are not kept at a given rate: sending them would delay what is due")
    return {
        "inferences": inferences,
        "seconds": seconds,
        "first": first,
        "warmup": warmup,
        "warmup_s": float(warmup_s),
        "keep": keep,
        "rate_hz": None if rate_hz is None else float(rate_hz),
    }


def generation(message: Message, blob: Blob) -> Message:
    """Check what tokens are asked for.

    Raises:
        Problem: ``bad-request``.
    """
    prompts = [(one.dtype, one.shape) for one in tensors.split(message.get("tensors"), blob)]
    if len(prompts) != 1 or prompts[0][0] != "int64" or len(prompts[0][1]) != 3 or prompts[0][1][1] != 1:
        raise Problem("bad-request", "a prompt is one tensor of int64 token ids, shape (1, t)")
    if not prompts[0][1][2]:
        raise Problem("bad-request", "a prompt has at least one token")
    most, stop = message.get("max_new_tokens"), message.get("stop", [])
    if type(most) is not int or not 1 <= most <= MAX_NEW_TOKENS:
        raise Problem("bad-request", f"max_new_tokens is {most!r}; expected 1 … {MAX_NEW_TOKENS}")
    if not isinstance(stop, list) or any(type(one) is not int for one in stop):
        raise Problem("bad-request", f"stop is {stop!r:.80}; expected a list of token ids")
    return {"tensors": message["tensors"], "max_new_tokens": most, "stop": stop}
