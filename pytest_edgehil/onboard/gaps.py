"""Adding a difference to what the board has: the shapes of the host's ``artifacts/delta/coding.py``, read back.

Only the standard library is used. What would be a loop over bytes is done by whole arrays where that is possible:
slices with a step for planes, a table for five digits at once, and one addition of two long integers for all elements.
"""

from __future__ import annotations

import itertools

from .problem import Problem

BYTES, STEPS, TRITS = 0, 1, 2
_SKIP, _EXCEPTION_SKIP = 252, 255
_FORWARD = bytes(126 if one == _SKIP else (one >> 1) + 1 for one in range(_SKIP + 1)) + bytes(3)
"""A byte of ``steps`` → by how many elements it goes on"""
_STEP = bytes(0 if one == _SKIP else 255 if one & 1 else 1 for one in range(_SKIP + 1)) + bytes(3)
"""and what the element there differs by. Behind a skip nothing has been written yet, so that writing 0 is right."""
_DIGITS = tuple(
    bytes(255 if one == 2 else one for one in reversed(digits)) for digits in itertools.product(range(3), repeat=5)
)
"""Five base-3 digits in a byte → five differences, the lowest digit first; 2 stands for −1."""


def bad(message: str) -> Problem:
    """The delta is not what it should be."""
    return Problem("corrupt-artifact", f"the delta {message}")


def from_steps(steps: bytes, gaps: bytes, values: bytes, size: int) -> bytearray:
    """`size` differences of one byte.

    Raises:
        Problem: ``corrupt-artifact``.
    """
    if steps and max(steps) > _SKIP:
        raise bad(f"has steps of {max(steps)}")
    gap = bytearray(size)
    places = itertools.accumulate(steps.translate(_FORWARD), initial=-1)
    next(places)
    try:
        for place, value in zip(places, steps.translate(_STEP), strict=True):
            gap[place] = value
    except IndexError as exc:
        raise bad(f"has steps beyond its {size} elements") from exc
    return _with_exceptions(gap, gaps, values)


def from_trits(packed: bytes, gaps: bytes, values: bytes, size: int) -> bytearray:
    """The same of five digits a byte.

    Raises:
        Problem: ``corrupt-artifact``.
    """
    try:
        gap = bytearray(b"".join(map(_DIGITS.__getitem__, packed)))
    except IndexError as exc:
        raise bad("has digits out of range") from exc
    del gap[size:]
    return _with_exceptions(gap, gaps, values)


def added_planes(old: bytes, planes: list[bytes]) -> bytes:
    """Old elements and their differences, which come byte by byte, the lowest of all elements first."""
    width, count = len(planes), len(planes[0])
    gap = bytearray(width * count)
    for at, plane in enumerate(planes):
        gap[at::width] = plane
    low = sum(0x80 << 8 * at for at in range(width - 1))
    without = (-low % (1 << 8 * width)).to_bytes(width, "little") * count
    return added(added(old, without, width=width), gap, width=width)


def added(old: bytes, gap: bytes | bytearray, *, width: int) -> bytes:
    """Element by element modulo 2^(8·width): one addition of two long integers whose lanes cannot carry over."""
    count = len(old) // width
    low = int.from_bytes((b"\xff" * (width - 1) + b"\x7f") * count, "little")
    one, other = int.from_bytes(old, "little"), int.from_bytes(gap, "little")
    total = ((one & low) + (other & low)) ^ ((one ^ other) & ~low & ((1 << 8 * len(old)) - 1))
    return total.to_bytes(len(old), "little")


def count_of(gaps: bytes) -> int:
    """How many exceptions these gaps lead to."""
    return len(gaps) - gaps.count(_EXCEPTION_SKIP)


def _with_exceptions(gap: bytearray, gaps: bytes, values: bytes) -> bytearray:
    at, left = -1, iter(values)
    try:
        for one in gaps:
            if one == _EXCEPTION_SKIP:
                at += one
            else:
                at += one + 1
                gap[at] = next(left)
    except IndexError as exc:
        raise bad(f"has exceptions beyond its {len(gap)} elements") from exc
    return gap
