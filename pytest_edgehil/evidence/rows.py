"""Values of `model.sample` as JSON and back, checked field by field against their declared types.

A field that is absent takes its default, so that files written before it existed are read; an unknown one is refused.
Floats that are no number are written as null within an array of floats and nowhere else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from pytest_edgehil.errors import EvidenceError
from pytest_edgehil.model.requirement import Timing
from pytest_edgehil.model.sample import ColdStart, Conditions, EarlierRun, Sample, SensorReading
from pytest_edgehil.model.series import BlockPair, Generations, HeldOut, LinkDrop, OpenLoop, Paired, TokenScores

_T = TypeVar("_T")

_ROWS: Mapping[str, type[Any]] = {
    kind.__name__: kind
    for kind in (
        Sample,
        ColdStart,
        Conditions,
        EarlierRun,
        SensorReading,
        BlockPair,
        Generations,
        HeldOut,
        LinkDrop,
        OpenLoop,
        Paired,
        TokenScores,
    )
}
_PLAIN: Mapping[str, tuple[type[Any], ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
}
_SAME_LENGTH: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "Sample": (("latencies_ns", "starts_ns"),),
    "OpenLoop": (("intended_ns", "starts_ns", "latencies_ns"),),
    "TokenScores": (("prompt", "kl", "nll", "baseline_nll"),),
    "Generations": (("starts_ns", "prompt_tokens", "new_tokens", "first_token_ns", "total_ns"),),
}


def to_plain(value: Any) -> Any:
    """A value as plain JSON types; arrays of booleans as 0 and 1."""
    if dataclasses.is_dataclass(value):
        return {one.name: to_plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_plain(one) for one in value]
    if isinstance(value, np.ndarray):
        if value.dtype == np.bool_:
            return value.astype(np.int8).tolist()
        if value.dtype.kind == "f":
            return [one if math.isfinite(one) else None for one in value.tolist()]
        return value.tolist()
    return value


def from_plain(kind: type[_T], value: Any, *, where: str) -> _T:
    """The inverse of `to_plain` for a dataclass of ours.

    Raises:
        EvidenceError: the value has another shape; the message names where.
    """
    names = {one.name: str(one.type) for one in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(value, Mapping) or not set(value) <= set(names):
        raise EvidenceError(f"{where}: expected an object with {', '.join(names)}")
    found = {name: _value(names[name], one, where=f"{where}.{name}") for name, one in value.items()}
    for group in _SAME_LENGTH.get(kind.__name__, ()):
        lengths = {name: found[name].shape[0] for name in group if name in found}
        if len(set(lengths.values())) > 1:
            raise EvidenceError(f"{where}: series of different lengths: {lengths}")
    try:
        return kind(**found)
    except TypeError as problem:
        raise EvidenceError(f"{where}: {problem}") from problem


def _value(annotation: str, value: Any, *, where: str) -> Any:
    if annotation.endswith(" | None"):
        return None if value is None else _value(annotation.removesuffix(" | None"), value, where=where)
    if annotation in _ROWS:
        return from_plain(_ROWS[annotation], value, where=where)
    if annotation.startswith("tuple[") and annotation.endswith(", ...]"):
        inner = annotation.removeprefix("tuple[").removesuffix(", ...]")
        items = _list(value, where)
        return tuple(_value(inner, one, where=f"{where}[{i}]") for i, one in enumerate(items))
    if annotation in _ARRAYS:
        return _ARRAYS[annotation](_list(value, where), where)
    if annotation == "Timing":
        if value not in list(Timing):
            raise EvidenceError(f"{where}: {value!r} is none of {', '.join(Timing)}")
        return Timing(value)
    allowed = _PLAIN[annotation]
    if not isinstance(value, allowed) or (isinstance(value, bool) and annotation != "bool"):
        raise EvidenceError(f"{where}: {value!r} is no {annotation}")
    return float(value) if annotation == "float" else value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise EvidenceError(f"{where}: expected a list")
    return value


def _integers(values: list[Any], where: str) -> Any:
    if not all(type(one) is int for one in values):
        raise EvidenceError(f"{where}: expected integers only")
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError as problem:
        raise EvidenceError(f"{where}: a value does not fit into 64 bits") from problem


def _booleans(values: list[Any], where: str) -> Any:
    if not all(type(one) is int and one in (0, 1) for one in values):
        raise EvidenceError(f"{where}: expected a list of 0 and 1, or null")
    return np.array(values, dtype=np.bool_)


def _floats(values: list[Any], where: str) -> Any:
    if not all(one is None or (isinstance(one, (int, float)) and not isinstance(one, bool)) for one in values):
        raise EvidenceError(f"{where}: expected a list of numbers (null where there is none)")
    return np.array([math.nan if one is None else one for one in values], dtype=np.float64)


_ARRAYS: Mapping[str, Callable[[list[Any], str], Any]] = {
    "Int64Array": _integers,
    "BoolArray": _booleans,
    "Float64Array": _floats,
}
