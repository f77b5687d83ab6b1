"""From a marker to a gate, and from recorded arguments back to the same gate.

The plugin imports this in every pytest run, so neither numpy nor scipy may be imported from here.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pytest_edgehil.errors import MarkerError, UserError
from pytest_edgehil.gates import (
    accuracy,
    cold_start,
    cosine,
    latency,
    latency_forms,
    memory,
    meters,
    rate,
    size,
    soak,
    thermal,
    tokens,
)
from pytest_edgehil.gates.gate import Gate, GateSettings
from pytest_edgehil.gates.signatures import SIGNATURES, TAKES
from pytest_edgehil.model.quantity import quoted

__all__ = ["SIGNATURES", "Gate", "GateSettings", "from_arguments", "names", "parse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Args: declare: from a marker's arguments. restore: from recorded ones."""

    declare: Callable[..., Gate]
    restore: Callable[..., Gate]


_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        "accuracy": _Kind(
            declare=accuracy.declare,
            restore=accuracy.Accuracy,
        ),
        "cosine_similarity": _Kind(
            declare=cosine.declare,
            restore=cosine.CosineSimilarity,
        ),
        "token_kl": _Kind(
            declare=tokens.declare_kl,
            restore=tokens.TokenKl,
        ),
        "perplexity_ratio": _Kind(
            declare=tokens.declare_perplexity,
            restore=tokens.PerplexityRatio,
        ),
        "p95_latency": _Kind(
            declare=latency_forms.declare_p95,
            restore=functools.partial(latency_forms.restore, "p95_latency"),
        ),
        "quantile_latency": _Kind(
            declare=latency_forms.declare_quantile,
            restore=functools.partial(latency_forms.restore, "quantile_latency"),
        ),
        "peak_rss": _Kind(
            declare=memory.declare,
            restore=memory.PeakRss,
        ),
        "thermal": _Kind(
            declare=thermal.declare,
            restore=thermal.Thermal,
        ),
        "soak": _Kind(
            declare=soak.declare,
            restore=soak.Soak,
        ),
        "size": _Kind(
            declare=size.declare,
            restore=size.Size,
        ),
        "throughput": _Kind(
            declare=rate.declare_throughput,
            restore=rate.MeanRate,
        ),
        "tokens_per_second": _Kind(
            declare=rate.declare_tokens,
            restore=lambda **recorded: rate.MeanRate(name=rate.TOKENS, **recorded),
        ),
        "time_to_first_token": _Kind(
            declare=latency.declare_first_token,
            restore=functools.partial(latency.restore, latency.FIRST_TOKEN),
        ),
        "npu_utilisation": _Kind(
            declare=meters.declare_npu,
            restore=meters.NpuUtilisation,
        ),
        "energy": _Kind(
            declare=meters.declare_energy,
            restore=meters.EnergyPerInference,
        ),
        "cold_start": _Kind(
            declare=cold_start.declare,
            restore=cold_start.ColdStartTime,
        ),
    }
)


def names() -> tuple[str, ...]:
    """Every gate's name."""
    return tuple(_KINDS)


def parse(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, settings: GateSettings) -> Gate:
    """The gate that a marker declares.

    Args:
        name: the marker's name.
        args: its positional arguments.
        kwargs: its keyword arguments.
        settings: what applies where the marker says nothing.

    Raises:
        MarkerError: an argument is unknown, missing, or none that the gate can use; one line that starts with the name.

    >>> parse("p95_latency", ("12 ms",), {}, settings=GateSettings()).budget_ns
    12000000
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise MarkerError(f"{name}: no such gate{_near(name, _KINDS)}; there are {', '.join(_KINDS)}")
    parameters = [one for one in inspect.signature(kind.declare).parameters.values() if one.name not in _OURS]
    known = [one.name for one in parameters]
    for argument in kwargs:
        if argument not in known:
            raise MarkerError(
                f"{name}: unknown argument {quoted(argument)}{_near(argument, known)}; it takes {_listed(known)}"
            )
    try:
        inspect.Signature(parameters).bind(*args, **kwargs)
    except TypeError as exc:
        raise MarkerError(f"{name}: {exc}; write {name}({TAKES[name]})") from exc
    try:
        return kind.declare(*args, **kwargs, settings=settings)
    except UserError as exc:
        raise MarkerError(f"{name}: {exc}") from exc
    except OverflowError as exc:
        raise MarkerError(f"{name}: one of its numbers is larger than any measurement: {exc}") from exc


def from_arguments(name: str, arguments: Mapping[str, Any]) -> Gate:
    """The gate whose `Gate.arguments` these are.

    Raises:
        MarkerError: there is no such gate, or these are not its arguments.

    >>> gate = parse("size", ("2 MiB",), {}, settings=GateSettings())
    >>> from_arguments("size", gate.arguments()) == gate
    True
    """
    kind = _KINDS.get(name)
    if kind is None:
        raise MarkerError(f"{name}: no such gate{_near(name, _KINDS)}; there are {', '.join(_KINDS)}")
    try:
        return kind.restore(**arguments)
    except TypeError as exc:
        raise MarkerError(f"{name}: recorded arguments do not fit this version: {exc}") from exc


_OURS = ("settings", "name")
"""Parameters of a declaring function that a marker does not pass."""


def _near(word: str, words: Mapping[str, object] | list[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _listed(known: list[str]) -> str:
    return ", ".join(known) if known else "no arguments"
